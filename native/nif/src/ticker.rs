//! The balancers with work that time drives, and the process that has it done: `GrpcLb.Ticker`.
//!
//! Nothing here keeps a balancer: they are known by weak references.

use std::mem::MaybeUninit;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use grpc_lb_core::{Alarm, Balancer, Owner, Owners, Time};
use rustler::sys::{enif_send, enif_whereis_pid, ErlNifEnv, ErlNifPid};
use rustler::Monitor;

use crate::value::Value;
use crate::{atoms, clock};

type Timed = Balancer<Value, Monitor>;

static BALANCERS: Mutex<Vec<Weak<Timed>>> = Mutex::new(Vec::new());

static ALARM: Alarm = Alarm::new();

/// The ticker sleeps so long at least, unless it is woken: of many balancers with work at many
/// times, several are done at once.
const NAP: Duration = Duration::from_millis(10);

/// When a balancer is looked at again whose work has panicked.
const AFTER_PANIC: Duration = Duration::from_secs(1);

fn balancers() -> MutexGuard<'static, Vec<Weak<Timed>>> {
    // A panic in between leaves the list as it was.
    BALANCERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a balancer looked after as long as it lives.
pub(crate) fn adopt(balancer: &Arc<Timed>) {
    let mut balancers = balancers();
    // The dead are taken out before the list would grow: so it is at most twice as long as it was
    // when most of them lived.
    if balancers.len() == balancers.capacity() {
        balancers.retain(|balancer| balancer.strong_count() > 0);
    }
    balancers.push(Arc::downgrade(balancer));
}

/// Does what is due in all balancers. When there is more; `None` as long as there is nothing.
pub(crate) fn tick() -> Option<Time> {
    ALARM.begin_look();
    let known = {
        let mut balancers = balancers();
        balancers.retain(|balancer| balancer.strong_count() > 0);
        balancers.clone()
    };
    let balancers = known.iter().filter_map(Weak::upgrade);
    let next = balancers.filter_map(|balancer| tick_one(&balancer)).min()?;
    let next = next.max(clock::now() + NAP);
    ALARM.end_look(next);
    Some(next)
}

fn tick_one(balancer: &Timed) -> Option<Time> {
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
pub(crate) fn wake_now(env: *mut ErlNifEnv) {
    wake(env, Some(Time(0)));
}

/// Wakes the ticker when something is due before it would look.
pub(crate) fn wake(env: *mut ErlNifEnv, due: Option<Time>) {
    if !due.is_some_and(|due| ALARM.rings(due)) {
        return;
    }
    let (name, message) = (atoms::ticker().as_c_arg(), atoms::tick_due().as_c_arg());
    let mut ticker = MaybeUninit::<ErlNifPid>::uninit();
    // A ticker that is gone is started again, and looks then.
    // SAFETY: `env` is that of the call that is under way, and there is room for the answer.
    if unsafe { enif_whereis_pid(env, name, ticker.as_mut_ptr()) } != 0 {
        // SAFETY: as above, and the call has written the pid; the message is an atom and belongs to
        // no environment.
        unsafe { enif_send(env, ticker.as_ptr(), ptr::null_mut(), message) };
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
