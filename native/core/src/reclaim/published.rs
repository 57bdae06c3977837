//! A value that many threads read while one replaces it. All `unsafe` of reading and freeing
//! snapshots is in this file.

use super::slots::{Protections, Reader};
use crate::sync::{AtomicPtr, Mutex, Ordering, Patience};

/// A published value and those before it that a reader may still hold.
///
/// The invariant on which every SAFETY comment here rests: a pointer is in exactly one place,
/// either `current` or `retired`; it came from a `Box` that nobody else has; and it is freed only
/// by [`Published::reclaim`], after [`Protections::collect`] has shown that no reader holds it, or
/// by `drop`, when there is no reader because a reader borrows the `Published`.
pub(crate) struct Published<S> {
    current: AtomicPtr<S>,
    retired: Mutex<Vec<Retired<S>>>,
}

struct Retired<S>(*mut S);

// SAFETY: a `Retired` is a `Box` that waits to be freed; see the invariant above.
unsafe impl<S: Send> Send for Retired<S> {}

impl<S: Send + Sync> Published<S> {
    pub(crate) fn new(first: S) -> Self {
        Published {
            current: AtomicPtr::new(Box::into_raw(Box::new(first))),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// Shows the current value to `look`. Never blocks, allocates or frees.
    ///
    /// # Panics
    ///
    /// When `look` reads through the same reader.
    #[inline]
    pub(crate) fn read<R>(&self, reader: &Reader, look: impl FnOnce(&S) -> R) -> R {
        let protected = reader.protect(&self.current);
        // SAFETY: `protect` saw the pointer in `current` after announcing it, so by the invariant
        // it is not freed before `protected` is dropped, which is after `look` returns or unwinds.
        look(unsafe { &*protected.pointer })
    }

    /// Shows the current value to `look` without a reader: for writers, which may block.
    ///
    /// The lock keeps the value from being retired and reclaimed meanwhile.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        let _retired = self.retired.lock();
        // Acquire: pairs with the Release half of the swap in `publish`.
        let pointer = self.current.load(Ordering::Acquire);
        // SAFETY: only `publish` takes a pointer out of `current`, under the lock that is held.
        look(unsafe { &*pointer })
    }

    /// Folds over the values that were replaced and are not freed yet.
    pub(crate) fn inspect_retired(&self, mut look: impl FnMut(&S)) {
        for Retired(pointer) in self.retired.lock().iter() {
            // SAFETY: only `reclaim` takes a pointer out of `retired`, under the lock that is
            // held.
            look(unsafe { &**pointer });
        }
    }

    /// Makes `next` the current value for every read that starts after this returns. The one
    /// before it is retired, not freed: call [`Published::reclaim`].
    pub(crate) fn publish(&self, next: S) {
        let next = Box::into_raw(Box::new(next));
        let mut retired = self.retired.lock();
        // AcqRel: the Release half pairs with the Acquire in `Reader::protect` and publishes the
        // contents; the Acquire half makes the old value's contents visible to its later drop.
        let last = self.current.swap(next, Ordering::AcqRel);
        retired.push(Retired(last));
    }

    /// Gives back the retired values that no reader can hold any more. Waits so long for reads
    /// that are under way; what is still held after that stays for the next call.
    pub(crate) fn reclaim(&self, mut patience: Patience) -> Vec<S> {
        let mut free = Vec::new();
        loop {
            let mut retired = self.retired.lock();
            if retired.is_empty() {
                return free;
            }
            let Some(held) = Protections::collect() else {
                return free;
            };
            retired.retain(|Retired(pointer)| {
                if held.covers(*pointer) {
                    return true;
                }
                // SAFETY: by the invariant the pointer came from a `Box`, was unpublished before
                // it got into `retired`, and no reader holds it; `retain` takes it out.
                let boxed = unsafe { Box::from_raw(*pointer) };
                free.push(*boxed);
                false
            });
            if retired.is_empty() {
                // It is empty nearly always, and its room is as large as a backend.
                *retired = Vec::new();
            }
            drop(retired);
            if !patience.wait() {
                return free;
            }
        }
    }
}

impl<S> Drop for Published<S> {
    fn drop(&mut self) {
        for Retired(pointer) in self.retired.get_mut().drain(..) {
            // SAFETY: `&mut self`: no reader borrows this, and the invariant gives us the box.
            drop(unsafe { Box::from_raw(pointer) });
        }
        // Relaxed: `&mut self` came with whatever made this thread the last owner.
        let pointer = self.current.load(Ordering::Relaxed);
        // SAFETY: as above.
        drop(unsafe { Box::from_raw(pointer) });
    }
}
