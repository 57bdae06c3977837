//! Time, as callers give it: the core reads no clock.

use std::ops::Add;
use std::time::Duration;

/// Nanoseconds since a moment that the caller chooses, and that is the same for all it tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// Later than any time that comes.
    pub const NEVER: Time = Time(u64::MAX);

    /// How long after `earlier` this is; nothing, if it is not.
    ///
    /// ```
    /// use std::time::Duration;
    /// use grpc_lb_core::Time;
    ///
    /// assert_eq!(Time(1_500).since(Time(500)), Duration::from_nanos(1_000));
    /// assert_eq!(Time(500).since(Time(1_500)), Duration::ZERO);
    /// ```
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What tells the time to calls.
///
/// A [`Time`] is a clock that stands still.
pub trait Clock {
    /// The time.
    fn now(&self) -> Time;

    /// The time of the last tick, if this is a clock that costs much less to read so: no later than now,
    /// and no more than some milliseconds before. Where nothing but [info](crate::BackendInfo) depends on
    /// the time, calls go by it, but for the first to each backend after each tick.
    #[inline]
    fn last_tick(&self) -> Option<Time> {
        None
    }
}

impl Clock for Time {
    #[inline]
    fn now(&self) -> Time {
        *self
    }
}

impl<C: Clock> Clock for &C {
    #[inline]
    fn now(&self) -> Time {
        (**self).now()
    }

    #[inline]
    fn last_tick(&self) -> Option<Time> {
        (**self).last_tick()
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Some 584 years at most: what is later than that never comes.
    fn add(self, duration: Duration) -> Time {
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanoseconds))
    }
}
