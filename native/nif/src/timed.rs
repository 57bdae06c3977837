//! Lists of balancers with work that time drives, and the doing of it.
//!
//! References are weak: nothing here keeps a balancer.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Weak};
use std::thread;

use grpc_lb_core::{Busy, Owner, Owners, Time};
use parking_lot::Mutex;
use rustler::Monitor;

use crate::line::tell_of_event;
use crate::value::Core;

/// The balancers that one clock drives.
pub(crate) struct Timed(Mutex<Vec<Weak<Core>>>);

impl Timed {
    pub(crate) const fn new() -> Self {
        Timed(Mutex::new(Vec::new()))
    }

    pub(crate) fn add(&self, balancer: Weak<Core>) {
        let mut balancers = self.0.lock();
        // Removes the dead before the list would grow: it is at most twice as long as it was when
        // most of them lived.
        if balancers.len() == balancers.capacity() {
            balancers.retain(|balancer| balancer.strong_count() > 0);
        }
        balancers.push(balancer);
    }

    /// Those that live now, in the order in which they were added.
    pub(crate) fn known(&self) -> Vec<Weak<Core>> {
        let mut balancers = self.0.lock();
        balancers.retain(|balancer| balancer.strong_count() > 0);
        balancers.clone()
    }
}

/// Does what is due in a balancer, and says when there is more. A panic in one balancer must not
/// keep the others from their work.
pub(crate) fn tick(balancer: &Arc<Core>, now: Time) -> thread::Result<Option<Time>> {
    guarded(balancer, || balancer.tick(&Unwatched, now))
}

/// The same if nobody else is changing the balancer.
pub(crate) fn try_tick(
    balancer: &Arc<Core>,
    now: Time,
) -> thread::Result<Result<Option<Time>, Busy>> {
    guarded(balancer, || balancer.try_tick(&Unwatched, now))
}

fn guarded<T>(balancer: &Arc<Core>, tick: impl FnOnce() -> T) -> thread::Result<T> {
    let next = catch_unwind(AssertUnwindSafe(tick));
    tell_of_event(balancer);
    next
}

/// Watches nobody: the resource by which the VM would know the balancer may be gone. A tick or a look
/// begins no watch, and one that it does not end is without effect, and ends with the resource.
pub(crate) struct Unwatched;

impl Owners for Unwatched {
    type Watch = Monitor;

    fn watch(&self, _owner: Owner) -> Option<Monitor> {
        unreachable!("neither a tick nor a look lists a backend")
    }

    fn unwatch(&self, _monitor: Monitor) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        unreachable!("neither a tick nor a look picks anything")
    }
}
