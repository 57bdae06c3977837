//! The clocks that are given to the core: the one of the system, and those that tests move.
//!
//! The system's is not the VM's: to ask for that costs five times as much, because it takes a lock
//! and smooths leaps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use grpc_lb_core::Time;
use parking_lot::Mutex;

use crate::timed::{self, Driven, Live, Timed};
use crate::vm::monotonic;
use crate::vm::{Resource, ResourceType};

/// What tells a balancer and its calls the time.
#[derive(Clone)]
pub(crate) enum Clock {
    System,
    Manual(Arc<ManualClock>),
}

impl grpc_lb_core::Clock for Clock {
    #[inline]
    fn now(&self) -> Time {
        Clock::now(self)
    }

    #[inline]
    fn last_tick(&self) -> Option<Time> {
        match self {
            Clock::System => monotonic::last_tick().map(Time),
            Clock::Manual(_) => None,
        }
    }
}

impl Clock {
    #[inline]
    pub(crate) fn now(&self) -> Time {
        match self {
            Clock::System => now(),
            Clock::Manual(clock) => clock.now(),
        }
    }
}

/// The system's time.
#[inline]
pub(crate) fn now() -> Time {
    Time(monotonic::now())
}

/// A clock that stands still until it is told to go on, and then has the work done that falls due.
pub(crate) struct ManualClock {
    now: AtomicU64,
    balancers: Timed,
    /// Held by the one who moves it.
    moving: Mutex<()>,
}

impl ManualClock {
    pub(crate) fn new() -> Self {
        ManualClock {
            now: AtomicU64::new(0),
            balancers: Timed::new(),
            moving: Mutex::new(()),
        }
    }

    #[inline]
    fn now(&self) -> Time {
        // Relaxed: a time orders nothing.
        Time(self.now.load(Ordering::Relaxed))
    }

    /// Has this balancer's work done from now on.
    pub(crate) fn drive(&self, balancer: Driven) {
        self.balancers.add(balancer);
    }

    /// Goes on by so long. Work is done in the order in which it falls due, each at its time, and all of it
    /// before the clock shows a later one. When it has worked for a turn, and not come to the end, it returns by
    /// how much it has to go on.
    pub(crate) fn advance(&self, by: Duration, turn: Duration) -> Option<Duration> {
        let _moving = self.moving.lock();
        let target = self.now() + by;
        let known = self.balancers.known().into_iter();
        let mut balancers: Vec<Live> = known.filter_map(|known| known.upgrade()).collect();
        let end = now() + turn;
        loop {
            let dues = balancers.iter().map(|balancer| balancer.core.due());
            let due = dues.enumerate().filter_map(|(at, due)| Some((due?, at)));
            let Some((due, at)) = due.min().filter(|(due, _)| *due <= target) else {
                break;
            };
            // What was due before is done now: it was requested meanwhile.
            self.set(due.max(self.now()));
            match timed::tick(&balancers[at], self.now()) {
                // No more of this one in this turn, which goes on: in the next it is the first to be due again.
                Err(_panic) => drop(balancers.remove(at)),
                Ok(()) if now() >= end => return Some(target.since(self.now())),
                Ok(()) => {}
            }
        }
        self.set(target);
        None
    }

    fn set(&self, time: Time) {
        // Relaxed: a time orders nothing.
        self.now.store(time.0, Ordering::Relaxed);
    }
}

/// A manual clock as a reference. Counted, so that balancers and calls in flight have it, too.
pub(crate) struct ClockReference(Arc<ManualClock>);

impl ClockReference {
    pub(crate) fn new() -> Self {
        ClockReference(Arc::new(ManualClock::new()))
    }

    /// One more reference to the clock.
    pub(crate) fn of(clock: &Arc<ManualClock>) -> Self {
        ClockReference(Arc::clone(clock))
    }

    pub(crate) fn clock(&self) -> &Arc<ManualClock> {
        &self.0
    }
}

static TYPE: ResourceType<ClockReference> = ResourceType::new(c"grpc_lb_clock");

impl Resource for ClockReference {
    const EXPECTED: &'static str =
        "a clock: expected the reference that GrpcLb.Clock.manual/0 returned on this node";

    #[inline]
    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }
}
