//! The balancers with work that time drives. `GrpcLb.Ticker` calls for it, and is woken when some
//! falls due early.
//!
//! References are weak: nothing here keeps a balancer.

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

/// The shortest sleep of the ticker, unless it is woken: it does the work of several balancers at
/// once.
const NAP: Duration = Duration::from_millis(10);

/// The time until a balancer whose work has panicked gets another tick.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Adds a balancer to those that are ticked, once, if it has such work.
pub(crate) fn adopt(balancer: &Balancer) {
    if !balancer.is_timed() {
        return;
    }
    let Some(balancer) = balancer.adopt() else {
        return;
    };
    let mut balancers = BALANCERS.lock();
    // Removes the dead before the list would grow: it is at most twice as long as it was when most
    // of them lived.
    if balancers.len() == balancers.capacity() {
        balancers.retain(|balancer| balancer.strong_count() > 0);
    }
    balancers.push(balancer);
}

/// Does what is due in all balancers. Returns in how long there is more; `None` as long as there is
/// nothing.
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
            // A panic in one balancer must not keep the others from their work.
            let next = catch_unwind(AssertUnwindSafe(|| balancer.tick(&Unwatched, now)));
            next.unwrap_or(Some(now + AFTER_PANIC))
        }
        due => due,
    }
}

/// Wakes the ticker for what cannot wait.
#[cold]
pub(crate) fn wake_now(env: Env) {
    wake(env, Some(Time(0)));
}

/// Wakes the ticker when something is due before it would look.
pub(crate) fn wake(env: Env, due: Option<Time>) {
    if due.is_some_and(|due| ALARM.rings(due)) {
        // Where there is none, its supervisor starts one, which ticks first of all.
        notify(env, atoms::ticker(), atoms::tick_due());
    }
}

/// Watches nobody: the resource by which the VM would know the balancer may be gone. A tick begins
/// no watch, and one that it does not end is without effect, and ends with the resource.
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
