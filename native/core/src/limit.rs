//! Bounds on calls in flight: circuit breaking (gRFC A32).

use crate::sync::{AtomicU32, Ordering};

/// How many calls may be in flight. `None` is any number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Of the balancer.
    pub(crate) max_requests: Option<u32>,
    /// Of each backend.
    pub(crate) max_requests_per_backend: Option<u32>,
    /// Whether the balancer's calls are counted: they are limited, or the policy asks how many there are.
    pub(crate) counts_all: bool,
}

/// A count of a balancer's calls in flight; those of a backend are in its
/// [`Cohorts`](crate::load::cohorts::Cohorts).
///
/// The bound is an argument, so that it may change at any time; the count stays, as A32 has it.
///
/// ```
/// use grpc_lb_core::testing::InFlight;
///
/// let calls = InFlight::new();
/// assert!(calls.try_enter(Some(1)));
/// assert!(!calls.try_enter(Some(1)));
/// assert!(calls.try_enter(Some(2)));
/// calls.leave();
/// assert_eq!(calls.count(), 1);
/// ```
#[derive(Debug, Default)]
pub struct InFlight(AtomicU32);

impl InFlight {
    /// No call.
    pub fn new() -> Self {
        InFlight(AtomicU32::new(0))
    }

    /// Counts one call more, unless `max` are in flight; `None` is no bound, and 0 lets none in.
    ///
    /// A32 would let a few too many in, because it checks first and counts later. This is exact.
    #[inline]
    pub fn try_enter(&self, max: Option<u32>) -> bool {
        let Some(max) = max else {
            // Relaxed: with no bound, no call enters because another has left.
            self.0.fetch_add(1, Ordering::Relaxed);
            return true;
        };
        // Acquire: a call that enters because another has left comes after all that the other did.
        let enter = |count| (count < max).then(|| count + 1);
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, enter)
            .is_ok()
    }

    /// Counts one call less: once for each that entered.
    #[inline]
    pub fn leave(&self) {
        // SeqCst: Release, see try_enter, and what `Line::awaits_room` asks for.
        let count = self.0.fetch_sub(1, Ordering::SeqCst);
        debug_assert!(count > 0, "only a call that entered leaves");
    }

    /// How many are in flight at the moment.
    pub fn count(&self) -> u32 {
        // Relaxed: it may be outdated before it is looked at.
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::InFlight;

    #[test]
    fn none_is_no_bound_and_nobody_enters_at_zero() {
        let calls = InFlight::new();
        assert!((0..2_000).all(|_| calls.try_enter(None)));
        assert!(!calls.try_enter(Some(0)));
        assert!(!calls.try_enter(Some(2_000)));
        assert_eq!(calls.count(), 2_000);
    }

    #[test]
    fn a_lower_bound_keeps_the_count() {
        let calls = InFlight::new();
        assert!((0..3).all(|_| calls.try_enter(Some(3))));
        assert!(!calls.try_enter(Some(2)));
        calls.leave();
        assert!(!calls.try_enter(Some(2)));
        calls.leave();
        assert!(calls.try_enter(Some(2)));
        assert_eq!(calls.count(), 2);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn threads_never_exceed_the_bound() {
        const MAX: u32 = 3;
        let (calls, inside) = (InFlight::new(), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let mut entered = 0;
                    while entered < 5_000 {
                        if calls.try_enter(Some(MAX)) {
                            entered += 1;
                            assert!(inside.fetch_add(1, Ordering::Relaxed) < MAX);
                            inside.fetch_sub(1, Ordering::Relaxed);
                            calls.leave();
                        }
                    }
                });
            }
        });
        assert_eq!(calls.count(), 0);
    }
}
