//! Atomics and locks, imported here alone, so that loom sees every one of them.
//!
//! Everything here is the standard library's or parking_lot's type, or loom's twin of it when the
//! crate is built with `--cfg loom`.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{
    fence, AtomicBool, AtomicU32, AtomicU64, AtomicU8, AtomicUsize, Ordering,
};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{
    fence, AtomicBool, AtomicU32, AtomicU64, AtomicU8, AtomicUsize, Ordering,
};

/// Stands between a SeqCst read-modify-write and a SeqCst load that follows it, of which all threads
/// see one order. The language has that by itself; loom takes such accesses for weaker ones, and
/// knows fences alone.
#[inline]
pub(crate) fn seq_cst_access() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// How snapshots are reclaimed.
pub(crate) use crossbeam_epoch as epoch;

#[cfg(not(loom))]
pub(crate) use std::thread_local;

#[cfg(loom)]
pub(crate) use loom::thread_local;

#[cfg(not(loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};

#[cfg(loom)]
pub(crate) use self::modelled::{Mutex, MutexGuard};

/// Holds what changes rarely and is read off the hot path.
#[cfg(not(loom))]
pub(crate) use arc_swap::ArcSwap;

#[cfg(loom)]
pub(crate) use self::modelled::ArcSwap;

/// How long a writer waits for readers.
#[cfg(not(loom))]
pub(crate) struct Patience {
    spins: u32,
    naps: u32,
}

#[cfg(not(loom))]
impl Patience {
    /// Looks once.
    pub(crate) fn none() -> Self {
        Patience { spins: 0, naps: 0 }
    }

    /// Some microseconds, without giving up the processor, which could take milliseconds to get
    /// back: a reader that takes longer was itself preempted, or copies something large.
    pub(crate) fn short() -> Self {
        Patience { spins: 6, naps: 0 }
    }

    /// A tenth of a second, most of it asleep.
    pub(crate) fn long() -> Self {
        Patience {
            spins: 6,
            naps: 1_000,
        }
    }

    /// Waits a moment, or says that it has waited long enough.
    pub(crate) fn wait(&mut self) -> bool {
        const SPIN: u32 = 20;
        const NAP: std::time::Duration = std::time::Duration::from_micros(100);

        if self.spins > 0 {
            self.spins -= 1;
            (0..SPIN).for_each(|_| std::hint::spin_loop());
            true
        } else if self.naps > 0 {
            self.naps -= 1;
            std::thread::sleep(NAP);
            true
        } else {
            false
        }
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
    use std::sync::Arc;

    use loom::sync::Mutex as Inner;
    pub(crate) use loom::sync::MutexGuard;

    /// None: in a model, waiting is one more interleaving of what not waiting shows.
    pub(crate) struct Patience;

    impl Patience {
        pub(crate) fn none() -> Self {
            Patience
        }

        pub(crate) fn short() -> Self {
            Patience
        }

        pub(crate) fn long() -> Self {
            Patience
        }

        pub(crate) fn wait(&mut self) -> bool {
            false
        }
    }

    /// arc-swap's face over a lock: which value a load returns is modelled, not how.
    pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

    impl<T> ArcSwap<T> {
        pub(crate) fn new(value: Arc<T>) -> Self {
            ArcSwap(Mutex::new(value))
        }

        pub(crate) fn load(&self) -> Box<Arc<T>> {
            Box::new(Arc::clone(&self.0.lock()))
        }

        pub(crate) fn store(&self, value: Arc<T>) {
            *self.0.lock() = value;
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
