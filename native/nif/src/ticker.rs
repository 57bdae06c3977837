//! The balancers with work that time drives, and the process that has it done: `GrpcLb.Ticker`.
//!
//! Nothing here keeps a balancer: they are known by weak references.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Weak;
use std::time::Duration;

use grpc_lb_core::{Alarm, Owner, Owners, Time};
use parking_lot::Mutex;
use rustler::{Env, Monitor};

use crate::balancer::{Balancer, Core};
use crate::vm::scheduler::notify;
use crate::{atoms, clock};

static BALANCERS: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());

static ALARM: Alarm = Alarm::new();

/// The ticker sleeps so long at least, unless it is woken: of many balancers with work at many
/// times, several are done at once.
const NAP: Duration = Duration::from_millis(10);

/// When a balancer is looked at again whose work has panicked.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Looks after a balancer that has work as long as it lives. The first call for it counts.
pub(crate) fn adopt(balancer: &Balancer) {
    if !balancer.is_timed() {
        return;
    }
    let Some(balancer) = balancer.adopt() else {
        return;
    };
    let mut balancers = BALANCERS.lock();
    // The dead are taken out before the list would grow: so it is at most twice as long as it was
    // when most of them lived.
    if balancers.len() == balancers.capacity() {
        balancers.retain(|balancer| balancer.strong_count() > 0);
    }
    balancers.push(balancer);
}

/// Does what is due in all balancers. In how long there is more; `None` as long as there is nothing.
pub(crate) fn tick() -> Option<Duration> {
    ALARM.begin_look();
    let known = {
        let mut balancers = BALANCERS.lock();
        balancers.retain(|balancer| balancer.strong_count() > 0);
        balancers.clone()
    };
    let balancers = known.iter().filter_map(Weak::upgrade);
    let next = balancers.filter_map(|balancer| tick_one(&balancer)).min()?;
    let now = clock::now();
    let next = next.max(now + NAP);
    ALARM.end_look(next);
    Some(next.since(now))
}

fn tick_one(balancer: &Core) -> Option<Time> {
    let now = clock::now();
    match balancer.due() {
        Some(due) if due <= now => {
            // A panic is that balancer's, and not the others'.
            let next = catch_unwind(AssertUnwindSafe(|| balancer.tick(&Unwatched, now)));
            next.unwrap_or(Some(now + AFTER_PANIC))
        }
        due => due,
    }
}

/// Wakes the ticker for what is not to wait.
#[cold]
pub(crate) fn wake_now(env: Env) {
    wake(env, Some(Time(0)));
}

/// Wakes the ticker when something is due before it would look.
pub(crate) fn wake(env: Env, due: Option<Time>) {
    if due.is_some_and(|due| ALARM.rings(due)) {
        // A ticker that is gone is started again, and looks then.
        notify(env, atoms::ticker(), atoms::tick_due());
    }
}

/// Watches nobody: a balancer may have no resource any more by which the VM would know it. A tick
/// never begins to watch, and whoever is watched on is watched for nothing until the resource goes.
struct Unwatched;

impl Owners for Unwatched {
    type Watch = Monitor;

    fn watch(&self, _owner: Owner) -> Option<Monitor> {
        unreachable!("a tick lists no backend")
    }

    fn unwatch(&self, _monitor: Monitor) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        unreachable!("a tick picks nothing")
    }
}
