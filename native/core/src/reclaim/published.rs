//! A value that many threads read while one replaces it. All `unsafe` of reading and freeing
//! snapshots is in this file.

use std::mem;

use super::grace::Grace;
use super::reader::{pin_writer, Reader};
use crate::sync::epoch::{unprotected, Atomic, Owned};
use crate::sync::{Mutex, Ordering, Patience};

/// A published value and those before it that a reader may still hold.
///
/// The invariant on which every SAFETY comment here rests: a pointer is in exactly one place,
/// either `current`, where it is never null, or `retired`; it came from an `Owned` that nobody else
/// has; and it is freed only by [`Published::reclaim`], after the grace period that began when it
/// had left `current`, or by `drop`, when there is no reader because a reader borrows the
/// `Published`.
pub(crate) struct Published<S> {
    current: Atomic<S>,
    retired: Mutex<Vec<Retired<S>>>,
}

struct Retired<S> {
    /// Raw, since readers may still hold references into it.
    pointer: *mut S,
    grace: Grace,
}

// SAFETY: a `Retired` is an `Owned` that waits to be freed; see the invariant above.
unsafe impl<S: Send> Send for Retired<S> {}

impl<S: Send + Sync> Published<S> {
    pub(crate) fn new(first: S) -> Self {
        Published {
            current: Atomic::new(first),
            retired: Mutex::new(Vec::new()),
        }
    }

    /// Shows the current value to `look`. Never blocks, and neither drops nor frees a value.
    #[inline]
    pub(crate) fn read<R>(&self, reader: &Reader, look: impl FnOnce(&S) -> R) -> R {
        let guard = reader.pin();
        // Acquire: pairs with the Release half of the swap in `publish`, so that the contents are
        // visible.
        let current = self.current.load(Ordering::Acquire, &guard);
        // SAFETY: the guard was pinned before the load. By the invariant the value is freed after
        // a grace period that began after it had left `current`, and so ends after the guard, which
        // is dropped after `look` returns or unwinds.
        look(unsafe { current.deref() })
    }

    /// Shows the current value to `look` without a reader: for writers, which may block.
    ///
    /// The lock keeps the value from being retired and reclaimed meanwhile. A pin would, too, and
    /// would hold back what other balancers retire for as long as `look` takes.
    pub(crate) fn inspect<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        let _retired = self.retired.lock();
        // SAFETY: only `publish` takes a pointer out of `current`, under the lock that is held.
        let guard = unsafe { unprotected() };
        // Acquire: as in `read`.
        let current = self.current.load(Ordering::Acquire, guard);
        // SAFETY: as above.
        look(unsafe { current.deref() })
    }

    /// Folds over the values that were replaced and are not freed yet.
    pub(crate) fn inspect_retired(&self, mut look: impl FnMut(&S)) {
        for Retired { pointer, .. } in self.retired.lock().iter() {
            // SAFETY: only `reclaim` takes a pointer out of `retired`, under the lock that is
            // held.
            look(unsafe { &**pointer });
        }
    }

    /// Whether all values that were replaced are freed.
    pub(crate) fn has_no_retired(&self) -> bool {
        self.retired.lock().is_empty()
    }

    /// Makes `next` the current value for every read that starts after this returns. The one
    /// before it is retired, not freed: call [`Published::reclaim`].
    pub(crate) fn publish(&self, next: S) {
        let mut retired = self.retired.lock();
        let guard = pin_writer();
        // AcqRel: the Release half pairs with the Acquire in `read` and publishes the contents; the
        // Acquire half makes the old value's contents visible to its later drop.
        let last = self
            .current
            .swap(Owned::new(next), Ordering::AcqRel, &guard);
        retired.push(Retired {
            pointer: last.as_raw().cast_mut(),
            grace: Grace::begin(&guard),
        });
    }

    /// Gives back the retired values that no reader can hold any more. Waits so long for reads
    /// that are under way; what is still held after that stays for the next call.
    pub(crate) fn reclaim(&self, mut patience: Patience) -> Vec<S> {
        let mut free = Vec::new();
        loop {
            let mut retired = self.retired.lock();
            // Grace periods that begin later end later.
            let Some(Retired { grace: last, .. }) = retired.last() else {
                return free;
            };
            last.hasten();
            let over = retired.partition_point(|retired| retired.grace.is_over());
            free.extend(retired.drain(..over).map(|Retired { pointer, .. }| {
                // SAFETY: by the invariant the pointer came from an `Owned`, the grace period that
                // began after it had left `current` is over, and `drain` takes it out.
                let owned = unsafe { Owned::from_raw(pointer) };
                *owned.into_box()
            }));
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
        for Retired { pointer, .. } in self.retired.get_mut().drain(..) {
            // SAFETY: `&mut self`: no reader borrows this, and the invariant gives us the value.
            drop(unsafe { Owned::from_raw(pointer) });
        }
        // SAFETY: as above.
        drop(unsafe { mem::take(&mut self.current).into_owned() });
    }
}
