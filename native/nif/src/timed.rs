//! Lists of balancers with work that time drives, and the doing of it.
//!
//! References are weak: nothing here keeps a balancer.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Weak};
use std::thread;

use grpc_lb_core::{Busy, Owner, Owners, Time};
use parking_lot::Mutex;
use rustler::Monitor;

use crate::events::{self, About};
use crate::line::tell_of_event;
use crate::value::Core;

/// A balancer, as long as it lives.
#[derive(Clone)]
pub(crate) struct Driven {
    pub(crate) core: Weak<Core>,
    pub(crate) about: Weak<About>,
}

impl Driven {
    fn lives(&self) -> bool {
        self.core.strong_count() > 0
    }

    /// The balancer, if it lives, to be ticked.
    pub(crate) fn upgrade(&self) -> Option<Live> {
        Some(Live {
            core: self.core.upgrade()?,
            about: self.about.upgrade()?,
        })
    }
}

/// A balancer that is being driven.
pub(crate) struct Live {
    pub(crate) core: Arc<Core>,
    about: Arc<About>,
}

/// The balancers that one clock drives.
pub(crate) struct Timed(Mutex<Vec<Driven>>);

impl Timed {
    pub(crate) const fn new() -> Self {
        Timed(Mutex::new(Vec::new()))
    }

    pub(crate) fn add(&self, balancer: Driven) {
        let mut balancers = self.0.lock();
        // Removes the dead before the list would grow: it is at most twice as long as it was when
        // most of them lived.
        if balancers.len() == balancers.capacity() {
            balancers.retain(Driven::lives);
        }
        balancers.push(balancer);
    }

    /// Those that live now, in the order in which they were added.
    pub(crate) fn known(&self) -> Vec<Driven> {
        let mut balancers = self.0.lock();
        balancers.retain(Driven::lives);
        balancers.clone()
    }
}

/// Does what is due in a balancer, and has what it decides told. A panic in one balancer must not
/// keep the others from their work.
pub(crate) fn tick(balancer: &Live, now: Time) -> thread::Result<()> {
    guarded(balancer, || {
        balancer.core.tick(&Unwatched, now);
    })
}

/// The same if nobody else is changing the balancer. When there is more to do.
pub(crate) fn try_tick(balancer: &Live, now: Time) -> thread::Result<Result<Option<Time>, Busy>> {
    let ticked = guarded(balancer, || balancer.core.try_tick(&Unwatched, now))?;
    // What it has decided is due no more.
    Ok(ticked.map(|_with_that| balancer.core.due()))
}

fn guarded<T>(balancer: &Live, tick: impl FnOnce() -> T) -> thread::Result<T> {
    let done = catch_unwind(AssertUnwindSafe(|| {
        let done = tick();
        events::keep(&balancer.about, balancer.core.take_events(&Unwatched));
        done
    }));
    tell_of_event(&balancer.core);
    done
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
