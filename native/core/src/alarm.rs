//! Wakes the ticker when work falls due early.
//!
//! The ticker sleeps as long as its last look told it to. Meanwhile other threads make work due. Its
//! look sees that work, or the thread that made it due is told to wake it.

use crate::sync::{fence, AtomicU64, Ordering};
use crate::time::Time;

/// When the ticker looks next.
pub struct Alarm(AtomicU64);

impl Alarm {
    /// For a ticker that has not looked yet.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Alarm(AtomicU64::new(u64::MAX))
    }

    /// As above; loom's atomics are no constants.
    #[cfg(loom)]
    pub fn new() -> Self {
        Alarm(AtomicU64::new(u64::MAX))
    }

    /// The sleeper begins to look: whatever becomes due and is not seen by this look rings.
    pub fn begin_look(&self) {
        // Relaxed: the fence orders it before the look.
        self.0.store(u64::MAX, Ordering::Relaxed);
        // SeqCst: pairs with the fence in `rings`. Of this store and the one that made something
        // due, at least one is seen by the other side.
        fence(Ordering::SeqCst);
    }

    /// The sleeper has looked and would look again then. Returns when it has to: earlier, if others
    /// have made something due meanwhile, of which it may not hear otherwise.
    pub fn end_look(&self, next: Time) -> Time {
        // Relaxed: what has rung before is in the value that this reads, and what rings later wakes.
        Time(self.0.fetch_min(next.0, Ordering::Relaxed)).min(next)
    }

    /// Whether the sleeper has to be woken for what has become due then. Of all that ask for one
    /// time, one is told so.
    pub fn rings(&self, due: Time) -> bool {
        // SeqCst: see `begin_look`.
        fence(Ordering::SeqCst);
        // Relaxed, both: the thread that lowers it wakes the ticker, and waking orders what it is
        // about. A load first: mostly there is nothing to lower.
        due.0 < self.0.load(Ordering::Relaxed) && due.0 < self.0.fetch_min(due.0, Ordering::Relaxed)
    }
}

impl Default for Alarm {
    fn default() -> Self {
        Alarm::new()
    }
}
