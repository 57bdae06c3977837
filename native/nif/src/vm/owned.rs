//! Values that one process alone may use, with no lock.

use std::cell::{Cell, UnsafeCell};

use grpc_lb_core::Owner;
use rustler::Env;

use super::owner::owner_of;
use super::scheduler::on_normal_scheduler;

/// A value in an object, for the process that has made it: others may hold the reference, and cannot get
/// at the value.
///
/// The VM runs one NIF of a process at a time, and orders what it runs after each other, on whichever
/// schedulers. So the process that calls has the value for itself.
pub(crate) struct Owned<T> {
    owner: Owner,
    /// Whether a call is using it.
    used: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: threads that share it read `owner`, which never changes. `with` lets one thread at a time at the
// rest, see there; so the value goes from thread to thread, which `Send` allows.
unsafe impl<T: Send> Sync for Owned<T> {}

/// Who has called is not the process that may.
pub(crate) struct NotOwner;

impl<T> Owned<T> {
    /// A value of the process whose call is under way.
    pub(crate) fn new(env: Env, value: T) -> Self {
        Owned {
            owner: owner_of(env.pid()),
            used: Cell::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Uses the value, if the call that is under way is the owner's. Panics within itself, and on a dirty
    /// scheduler.
    #[inline]
    pub(crate) fn with<R>(&self, env: Env, using: impl FnOnce(&mut T) -> R) -> Result<R, NotOwner> {
        // The environment of a callback, or one without a process, has no pid: this panics.
        if owner_of(env.pid()) != self.owner {
            return Err(NotOwner);
        }
        assert!(on_normal_scheduler(), "it is not for dirty NIFs");
        let used = Used::begin(&self.used);
        // SAFETY: nobody else has a reference to the value:
        //
        // - The environment is that of a NIF that the owner is running, on this thread: environments do
        //   not outlive their calls, nor leave their threads. A process runs one NIF at a time, and only
        //   its own, whoever's function calls it.
        // - No other process has had this pid meanwhile. A pid comes round when its process has exited,
        //   and a process does not exit while a normal scheduler runs its NIF. It may while a dirty one
        //   does, so those are kept out.
        // - A process that has the pid now, but not when the value was made, is the only one that has:
        //   the one before it has exited, after its last NIF.
        // - The NIF itself is not using the value already: `used` says so. A panic in `using` ends its use.
        // - `into_inner` has the whole object.
        //
        // What the process did before, also on another scheduler, is ordered before this by the VM, which
        // hands the whole process from scheduler to scheduler that way.
        let result = using(unsafe { &mut *self.value.get() });
        drop(used);
        Ok(result)
    }

    /// The value, when nothing refers to it any more.
    pub(crate) fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

/// Says that the value is being used, until it is dropped.
struct Used<'a>(&'a Cell<bool>);

impl<'a> Used<'a> {
    #[inline]
    fn begin(used: &'a Cell<bool>) -> Self {
        assert!(!used.replace(true), "it is being used");
        Used(used)
    }
}

impl Drop for Used<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.set(false);
    }
}
