//! The one importer of atomics and locks, so that loom can see every one of them.
//!
//! Everything here is the standard library's or parking_lot's type, or loom's twin of it when the
//! crate is built with `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    fence, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering,
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    fence, AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering,
};

#[cfg(not(loom))]
pub(crate) use parking_lot::Mutex;

#[cfg(loom)]
pub(crate) use self::modelled::Mutex;

/// How long a writer waits for readers: some microseconds. It never gives up its processor, which
/// could take milliseconds to get back: a reader that takes longer was itself preempted.
#[cfg(not(loom))]
pub(crate) struct Patience(u32);

#[cfg(not(loom))]
impl Patience {
    pub(crate) fn new() -> Self {
        Patience(0)
    }

    /// Waits a moment, or says that it has waited long enough.
    pub(crate) fn wait(&mut self) -> bool {
        const LONG_ENOUGH: u32 = 6;
        for _ in 0..1 << self.0 {
            std::hint::spin_loop();
        }
        self.0 += 1;
        self.0 <= LONG_ENOUGH
    }
}

#[cfg(loom)]
pub(crate) use self::modelled::Patience;

/// Counts for [`crate::live_counts`]. Never loom's: a count orders nothing and would only make the
/// models larger.
pub(crate) type Tally = std::sync::atomic::AtomicUsize;
pub(crate) type TallyOrdering = std::sync::atomic::Ordering;

#[cfg(loom)]
mod modelled {
    use loom::sync::{Mutex as Inner, MutexGuard};

    /// None: in a model, waiting is one more interleaving of what not waiting shows.
    pub(crate) struct Patience;

    impl Patience {
        pub(crate) fn new() -> Self {
            Patience
        }

        pub(crate) fn wait(&mut self) -> bool {
            false
        }
    }

    /// loom's mutex with parking_lot's face: no poisoning.
    pub(crate) struct Mutex<T>(Inner<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Mutex(Inner::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap()
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut().unwrap()
        }
    }
}
