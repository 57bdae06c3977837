//! Processes that own an object or something in it, and the monitors of the VM that watch them.

use std::mem::{transmute, MaybeUninit};
use std::num::NonZeroU64;
use std::ptr;

use grpc_lb_core::{Owner, Owners};
use rustler::sys::{
    enif_demonitor_process, enif_is_process_alive, enif_monitor_process, ErlNifEnv, ErlNifPid,
};
use rustler::{Atom, Env, LocalPid, Monitor};

use super::object::Object;
use super::scheduler::notify_from;

/// Watches processes for an object.
pub(crate) struct Monitors<'a, T> {
    /// That of the call or callback that is under way. Null on a thread that is none of the VM's.
    env: *mut ErlNifEnv,
    object: &'a Object<T>,
}

impl<'a, T> Monitors<'a, T> {
    #[inline]
    pub(crate) fn new<'call: 'a>(env: Env<'call>, object: &'a Object<T>) -> Self {
        Monitors {
            env: env.as_c_arg(),
            object,
        }
    }

    /// Sends an atom to the process of this name, if there is one.
    pub(crate) fn notify(&self, name: Atom, message: Atom) {
        // SAFETY: `env` is what the field says.
        unsafe { notify_from(self.env, name, message) };
    }

    /// For a thread that is none of the VM's.
    pub(super) fn off_scheduler(object: &'a Object<T>) -> Self {
        Monitors {
            env: ptr::null_mut(),
            object,
        }
    }
}

impl<T> Owners for Monitors<'_, T> {
    type Watch = Monitor;

    fn watch(&self, owner: Owner) -> Option<Monitor> {
        let pid = pid_of(owner);
        let mut monitor = MaybeUninit::uninit();
        let object: *const Object<T> = self.object;
        // SAFETY: `env` is what the field says, the object is one of our resources, and `monitor`
        // has room for the answer.
        let failed = unsafe {
            enif_monitor_process(
                self.env,
                object.cast(),
                pid.as_c_arg(),
                monitor.as_mut_ptr(),
            )
        };
        if failed != 0 {
            return None;
        }
        // SAFETY: the call said that it wrote it.
        Some(Monitor::from_c_arg(unsafe { monitor.assume_init() }))
    }

    fn unwatch(&self, monitor: Monitor) {
        let object: *const Object<T> = self.object;
        // A monitor that has fired meanwhile is gone already, which is as good.
        // SAFETY: as in `watch`.
        unsafe { enif_demonitor_process(self.env, object.cast(), monitor.as_c_arg()) };
    }

    fn is_alive(&self, owner: Owner) -> bool {
        // SAFETY: `env` is what the field says, and asking writes nothing.
        unsafe { enif_is_process_alive(self.env, pid_of(owner).as_c_arg()) != 0 }
    }
}

/// A local pid is one word that means the same everywhere on the node.
pub(crate) fn owner_of(pid: LocalPid) -> Owner {
    // SAFETY: an `ErlNifPid` is a C struct of one term, which is one word.
    let word = unsafe { transmute::<ErlNifPid, u64>(*pid.as_c_arg()) };
    Owner(NonZeroU64::new(word).expect("no term is all zeroes"))
}

/// The pid of an owner, which `owner_of` made: nobody else makes one in this crate.
pub(crate) fn pid_of(owner: Owner) -> LocalPid {
    // SAFETY: as above, and `owner_of` had the word from a pid.
    LocalPid::from_c_arg(unsafe { transmute::<u64, ErlNifPid>(owner.0.get()) })
}
