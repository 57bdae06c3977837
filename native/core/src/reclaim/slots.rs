//! One slot a reading thread, all in one static table: nothing is allocated for a reader.

use std::marker::PhantomData;
use std::ptr;

use crossbeam_utils::CachePadded;

use super::barrier;
use crate::sync::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// How many threads can read at once. The BEAM has at most 1,024 schedulers. Under loom a model
/// has three threads.
pub(super) const CAPACITY: usize = if cfg!(loom) { 3 } else { 1024 };

struct Slot {
    /// What the owner of the slot may be reading; null when it reads nothing.
    protected: AtomicPtr<()>,
    claimed: AtomicBool,
}

struct Table {
    // Padded: a slot is written at every pick of its thread and must share no cache line.
    slots: [CachePadded<Slot>; CAPACITY],
    /// One past the highest slot that was ever claimed, so that a scan need not look at all.
    used: AtomicUsize,
}

#[cfg(not(loom))]
static TABLE: Table = Table {
    slots: [const {
        CachePadded::new(Slot {
            protected: AtomicPtr::new(ptr::null_mut()),
            claimed: AtomicBool::new(false),
        })
    }; CAPACITY],
    used: AtomicUsize::new(0),
};

// loom's atomics are made anew for every execution of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref TABLE: Table = Table {
        slots: std::array::from_fn(|_| {
            CachePadded::new(Slot {
                protected: AtomicPtr::new(ptr::null_mut()),
                claimed: AtomicBool::new(false),
            })
        }),
        used: AtomicUsize::new(0),
    };
}

/// A thread's claim on a slot. Cannot be shared between threads; dropping it frees the slot.
pub(crate) struct Reader {
    index: usize,
    not_sync: PhantomData<*mut ()>,
}

impl Reader {
    /// Takes the lowest free slot. `None` when all are taken.
    pub(crate) fn claim() -> Option<Reader> {
        let index = TABLE.slots.iter().position(|slot| {
            // Acquire: pairs with the Release in `drop`, so that what the last owner left is
            // visible to this one. Relaxed on failure: nothing is taken.
            slot.claimed
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        })?;
        // Relaxed: the barrier between the first protection and the look at the current pointer
        // makes this visible to a writer exactly when it makes the protection visible.
        TABLE.used.fetch_max(index + 1, Ordering::Relaxed);
        Some(Reader {
            index,
            not_sync: PhantomData,
        })
    }

    /// The number of the slot: unique among the readers alive, and small when they are few.
    #[inline]
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Protects what `current` points to until the [`Protected`] is dropped.
    ///
    /// # Panics
    ///
    /// When this reader already protects something: the slot has room for one pointer.
    #[inline]
    pub(super) fn protect<'r, S>(&'r self, current: &AtomicPtr<S>) -> Protected<'r, S> {
        let slot = self.slot();
        // Relaxed: only this thread writes the slot.
        if !slot.protected.load(Ordering::Relaxed).is_null() {
            nested_read();
        }
        // Relaxed: only a candidate; nothing is read through it before it was seen again.
        let mut candidate = current.load(Ordering::Relaxed);
        loop {
            // Release: pairs with the Acquire in `Protections::collect`. A scan that finds this
            // pointer, and no longer an earlier one, must see all reads through the earlier one
            // as done.
            slot.protected.store(candidate.cast(), Ordering::Release);
            // Either the writer's scan sees the protection, or the next load sees the writer's
            // new pointer.
            barrier::light();
            // Acquire: pairs with the Release half of the swap in `Published::publish`, so that
            // the snapshot's contents are visible.
            let now = current.load(Ordering::Acquire);
            if ptr::eq(now, candidate) {
                return Protected {
                    reader: self,
                    pointer: candidate,
                };
            }
            candidate = now;
        }
    }

    #[inline]
    fn slot(&self) -> &Slot {
        // Cannot be out of range: `claim` made the index. Indexing costs one compare, and saves
        // an `unsafe`.
        &TABLE.slots[self.index]
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `claim`.
        self.slot().claimed.store(false, Ordering::Release);
    }
}

#[cold]
#[inline(never)]
fn nested_read() -> ! {
    panic!("a pick inside a pick, by the same caller");
}

/// A pointer that no writer frees while this lives.
pub(super) struct Protected<'r, S> {
    reader: &'r Reader,
    pub(super) pointer: *mut S,
}

impl<S> Drop for Protected<'_, S> {
    #[inline]
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `Protections::collect`: all reads through the
        // pointer come before the free.
        self.reader
            .slot()
            .protected
            .store(ptr::null_mut(), Ordering::Release);
    }
}

/// What all readers protected at one moment after the barrier.
pub(super) struct Protections(Vec<*mut ()>);

impl Protections {
    /// Reads all slots. A pointer that was unpublished before this call, and is not in the
    /// result, is held by nobody and never will be again. `None` when the barrier failed: then
    /// nothing is known.
    pub(super) fn collect() -> Option<Protections> {
        if !barrier::heavy() {
            return None;
        }
        // Relaxed: see `Reader::claim`.
        let used = TABLE.used.load(Ordering::Relaxed);
        let held = TABLE.slots[..used]
            .iter()
            // Acquire: pairs with the Release stores of the readers.
            .map(|slot| slot.protected.load(Ordering::Acquire))
            .filter(|pointer| !pointer.is_null())
            .collect();
        Some(Protections(held))
    }

    pub(super) fn covers<S>(&self, pointer: *mut S) -> bool {
        self.0.contains(&pointer.cast())
    }
}
