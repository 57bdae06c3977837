//! How many of our things exist, so that a test can prove that nothing leaks.

use crate::sync::{Tally, TallyOrdering as Ordering};

static BALANCERS: Tally = Tally::new(0);
static SNAPSHOTS: Tally = Tally::new(0);

/// The counts at one moment; see [`live_counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveCounts {
    /// Balancers that were made and not dropped.
    pub balancers: usize,
    /// Snapshots that are current, or retired and not reclaimed yet.
    pub snapshots: usize,
}

/// Counts what exists in this process.
pub fn live_counts() -> LiveCounts {
    LiveCounts {
        // Relaxed: counts order nothing.
        balancers: BALANCERS.load(Ordering::Relaxed),
        snapshots: SNAPSHOTS.load(Ordering::Relaxed),
    }
}

/// Counts one thing for as long as it lives.
pub(crate) struct Counted(&'static Tally);

impl Counted {
    pub(crate) fn balancer() -> Self {
        Self::among(&BALANCERS)
    }

    pub(crate) fn snapshot() -> Self {
        Self::among(&SNAPSHOTS)
    }

    fn among(tally: &'static Tally) -> Self {
        // Relaxed: counts order nothing.
        tally.fetch_add(1, Ordering::Relaxed);
        Counted(tally)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // Relaxed: counts order nothing.
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
