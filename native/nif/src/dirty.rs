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
use std::sync::OnceLock;

use rustler::codegen_runtime::inventory;
use rustler::sys::{enif_make_copy, enif_schedule_nif, ErlNifEnv, ErlNifFunc, ErlNifTerm};
use rustler::Nif;

use crate::library::Functions;

type Function = unsafe extern "C" fn(*mut ErlNifEnv, c_int, *const ErlNifTerm) -> ErlNifTerm;

/// The first release of OTP that was seen to do without: what crashes 25 in a second does not harm
/// this one. 26 was not tried.
pub(crate) const SAFE_SINCE: u32 = 27;

/// One for each dirty NIF: a C function has nothing but itself to know by which one it is.
const ENTRANCES: [Function; 9] = [
    enter::<0>, enter::<1>, enter::<2>, enter::<3>, enter::<4>, enter::<5>, enter::<6>, enter::<7>,
    enter::<8>,
];

static DIRTY: OnceLock<Functions> = OnceLock::new();

/// The dirty NIFs themselves.
pub(crate) fn functions() -> &'static [ErlNifFunc] {
    let Functions(functions) = DIRTY.get_or_init(|| {
        let all = inventory::iter::<Nif>().map(Nif::get_def);
        Functions(all.filter(|function| function.flags != 0).collect())
    });
    functions
}

/// The same by name, to be called on normal schedulers.
pub(crate) fn entrances() -> impl Iterator<Item = ErlNifFunc> {
    let functions = functions();
    assert!(functions.len() <= ENTRANCES.len(), "an entrance for each");
    functions
        .iter()
        .zip(ENTRANCES)
        .map(|(function, entrance)| ErlNifFunc {
            name: function.name,
            arity: function.arity,
            function: entrance,
            flags: 0,
        })
}

/// Goes on to the dirty NIF of this number, with copies of the arguments.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn enter<const NUMBER: usize>(
    env: *mut ErlNifEnv,
    argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    let function = &functions()[NUMBER];
    // In their place, which is where the VM keeps them: the originals must not go along.
    // SAFETY: the VM passes `argc` arguments in registers of the process, which are not read again
    // after a NIF has returned, and which nobody else can see meanwhile.
    let arguments = unsafe { slice::from_raw_parts_mut(argv.cast_mut(), argc as usize) };
    for argument in arguments {
        // SAFETY: the argument belongs to the environment of the call that is under way.
        *argument = unsafe { enif_make_copy(env, *argument) };
    }
    // SAFETY: the name is a C string, the arguments belong to `env`, and there are as many as the
    // function takes, since its entrance has the same arity.
    unsafe {
        enif_schedule_nif(
            env,
            function.name,
            function.flags as c_int,
            function.function,
            argc,
            argv,
        )
    }
}
