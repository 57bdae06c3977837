//! Grace periods: numbered, so that all that is left to run when one is over is to note a number.

use super::reader::pin_writer;
use crate::sync::epoch::Guard;
use crate::sync::{AtomicU64, Ordering};

struct Periods {
    /// How many were begun.
    begun: AtomicU64,
    /// The highest number of one that is over.
    over: AtomicU64,
}

/// The periods of all balancers.
#[cfg(not(loom))]
fn periods() -> &'static Periods {
    static PERIODS: Periods = Periods {
        begun: AtomicU64::new(0),
        over: AtomicU64::new(0),
    };
    &PERIODS
}

// loom's atomics are made anew for every execution of a model, at the end of which deferred functions
// run after its statics have gone.
#[cfg(loom)]
fn periods() -> &'static Periods {
    loom::lazy_static! {
        static ref PERIODS: &'static Periods = Box::leak(Box::new(Periods {
            begun: AtomicU64::new(0),
            over: AtomicU64::new(0),
        }));
    }
    *PERIODS
}

/// A grace period: over when every thread that was pinned when it began has unpinned.
#[derive(Clone, Copy)]
pub(super) struct Grace(u64);

impl Grace {
    /// Begins one, after what it is for was taken out of sight.
    pub(super) fn begin(guard: &Guard) -> Self {
        // AcqRel: who begins a later one has seen, by this one, all that went out of sight before
        // it. So the end of the later one is the end of this one too, and one number says both.
        let periods = periods();
        let number = periods.begun.fetch_add(1, Ordering::AcqRel) + 1;
        // Safe code, that can run at any time on any thread: it owns nothing, and points to a static.
        guard.defer(move || {
            // Release: hands on what crossbeam-epoch hands to who runs this: that the readers are
            // done. A maximum, and so part of the release sequence of every lower number.
            periods.over.fetch_max(number, Ordering::Release);
        });
        // The function must not wait in this thread's bag: the thread may never pin again.
        guard.flush();
        Grace(number)
    }

    /// Moves the epoch on, so that this is over when no read is under way.
    pub(super) fn hasten(self) {
        // Two steps end a grace period. In most cases the first was made when it began.
        for _ in 0..2 {
            if self.is_over() {
                return;
            }
            pin_writer().flush();
        }
    }

    /// Whether all reads that were under way when this began are done.
    pub(super) fn is_over(self) -> bool {
        // Acquire: pairs with the Release in `begin`, so that they happened before what is done on
        // the strength of it.
        periods().over.load(Ordering::Acquire) >= self.0
    }
}
