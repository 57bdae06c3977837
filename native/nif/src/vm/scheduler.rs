//! What a NIF asks of the VM beside terms: messages, its turn, and schedulers.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;

use rustler::sys::{
    enif_consume_timeslice, enif_send, enif_system_info, enif_thread_type, enif_whereis_pid,
    ErlNifEnv, ErlNifPid, ErlNifSysInfo,
};
use rustler::{Atom, Env};

use super::worker::hand_over;

/// Tells the VM how much of the caller's turn the call takes, in percent.
pub(crate) fn consume_timeslice(env: Env, percent: u8) {
    let percent = percent.clamp(1, 100);
    // SAFETY: the percentage is one.
    unsafe { enif_consume_timeslice(env.as_c_arg(), percent.into()) };
}

/// Sends an atom to the process of this name, if there is one.
pub(crate) fn notify(env: Env, name: Atom, message: Atom) {
    // SAFETY: `env` is that of the call that is under way.
    unsafe { notify_from(env.as_c_arg(), name, message) };
}

/// The same for who has no [`Env`].
///
/// # Safety
///
/// `env` must be that of the call or callback that is under way, or null on a thread that is none of
/// the VM's.
pub(super) unsafe fn notify_from(env: *mut ErlNifEnv, name: Atom, message: Atom) {
    let mut process = MaybeUninit::<ErlNifPid>::uninit();
    // SAFETY: there is room for the answer.
    let found = unsafe { enif_whereis_pid(env, name.as_c_arg(), process.as_mut_ptr()) != 0 };
    // SAFETY: the call has written the pid; an atom belongs to no environment.
    let send = || unsafe { enif_send(env, process.as_ptr(), ptr::null_mut(), message.as_c_arg()) };
    let sent = found && send() != 0;
    if !sent && !env.is_null() && !on_normal_scheduler() {
        // The VM finds nobody for a process that is killed while its dirty NIF runs, and sends nothing of it.
        // SAFETY: the worker is none of the VM's threads.
        hand_over(move || unsafe { notify_from(ptr::null_mut(), name, message) });
    }
}

/// Whether this thread is a scheduler, and no dirty one.
#[inline]
pub(crate) fn on_normal_scheduler() -> bool {
    thread_local! {
        // A thread stays what it is. `None`: the VM was not asked yet.
        static IS_NORMAL: Cell<Option<bool>> = const { Cell::new(None) };
    }
    IS_NORMAL.with(|is_normal| match is_normal.get() {
        Some(known) => known,
        None => {
            let asked = ask_whether_normal();
            is_normal.set(Some(asked));
            asked
        }
    })
}

#[cold]
fn ask_whether_normal() -> bool {
    /// `ERL_NIF_THR_NORMAL_SCHEDULER`
    const NORMAL: i32 = 1;

    // SAFETY: may be called on any thread.
    unsafe { enif_thread_type() == NORMAL }
}

/// How many schedulers the VM was started with.
pub(crate) fn schedulers() -> u32 {
    u32::try_from(system_info().scheduler_threads).expect("a VM has schedulers")
}

pub(super) fn system_info() -> ErlNifSysInfo {
    let mut info = MaybeUninit::<ErlNifSysInfo>::zeroed();
    // SAFETY: the struct has the size that we tell.
    unsafe { enif_system_info(info.as_mut_ptr(), size_of::<ErlNifSysInfo>()) };
    // SAFETY: every field is an integer or a pointer, for which zeroes are valid, and the VM
    // filled it in.
    unsafe { info.assume_init() }
}
