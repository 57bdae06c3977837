//! The way into the dirty NIFs where the VM needs it: by a normal scheduler, which copies their
//! arguments.
//!
//! An argument can be a literal, a term outside of all heaps: what `:persistent_term` holds, or a
//! constant of a module. Before the VM frees literals, it has every process copy those to which it
//! refers. The VM of OTP 25 does not look at the arguments that a process takes along to a dirty
//! scheduler: the NIF would work with terms, and with a balancer, that are freed already, and so
//! would a later garbage collection of the process. Copies on the heap of the process are safe.

use std::ffi::c_int;
use std::slice;

use rustler::sys::{enif_make_copy, enif_schedule_nif, ErlNifEnv, ErlNifTerm};

use super::nif::{run, Nif};

/// The first release of OTP that was seen to do without: what crashes 25 in a second does not harm
/// this one. 26 was not tried.
pub(super) const SAFE_SINCE: u32 = 27;

/// Goes on to a dirty NIF with copies of its arguments.
///
/// # Safety
///
/// To be called by the VM alone, with as many arguments as the NIF has.
pub(super) unsafe extern "C" fn enter<N: Nif<ARITY>, const ARITY: usize>(
    env: *mut ErlNifEnv,
    argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    // In their place, which is where the VM keeps them: the originals must not go along.
    // SAFETY: the VM passes so many arguments in registers of the process, which are not read again
    // after a NIF has returned, and which nobody else can see meanwhile.
    let arguments = unsafe { slice::from_raw_parts_mut(argv.cast_mut(), ARITY) };
    for argument in arguments {
        // SAFETY: the argument belongs to the environment of the call that is under way.
        *argument = unsafe { enif_make_copy(env, *argument) };
    }
    let flags = N::SCHEDULER.flags() as c_int;
    // SAFETY: the name is a C string, the arguments belong to `env`, and there are as many as the
    // NIF takes.
    unsafe { enif_schedule_nif(env, N::NAME.as_ptr(), flags, run::<N, ARITY>, argc, argv) }
}
