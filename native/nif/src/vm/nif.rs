//! How the VM calls a NIF, and where errors and panics end.
//!
//! rustler's own wrapper would collect the arguments in a `Vec` and look the resource type up in a
//! map, which costs more than a pick.

use std::array;
use std::ffi::{c_int, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};

use rustler::sys::{enif_raise_exception, ErlNifEnv, ErlNifTerm};
use rustler::{Encoder, Env, Term};

use super::term::Word;
use crate::atoms;
use crate::error::ArgumentError;

/// What a NIF returns or raises.
pub(crate) type Answer<'a> = Result<Term<'a>, ArgumentError>;

/// The body of a NIF.
pub(crate) trait Nif<const ARITY: usize>: 'static {
    const NAME: &'static CStr;
    const SCHEDULER: Scheduler;

    /// Whether the first argument can be right, without a look at what it has inside.
    fn expects(_first: Term) -> Result<(), ArgumentError> {
        Ok(())
    }

    /// Whether it is tried on a normal scheduler before it goes to the one that it is for.
    const ATTEMPTS: bool = false;

    /// Tries to do it on a normal scheduler. `None`: nothing has been done.
    fn attempt<'a>(_env: Env<'a>, _arguments: [Word<'a>; ARITY]) -> Option<Answer<'a>> {
        None
    }

    /// Arguments are words: terms, which are larger, would go through memory.
    fn call<'a>(env: Env<'a>, arguments: [Word<'a>; ARITY]) -> Answer<'a>;
}

/// On which kind of scheduler a NIF runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheduler {
    Normal,
    DirtyCpu,
}

impl Scheduler {
    /// As the VM has them.
    pub(super) const fn flags(self) -> u32 {
        match self {
            Scheduler::Normal => 0,
            Scheduler::DirtyCpu => rustler::schedule::SchedulerFlags::DirtyCpu as u32,
        }
    }
}

/// A NIF as the VM calls it.
pub(super) type Run = unsafe extern "C" fn(*mut ErlNifEnv, c_int, *const ErlNifTerm) -> ErlNifTerm;

/// Runs a NIF.
///
/// # Safety
///
/// To be called by the VM alone, with as many arguments as the NIF has.
pub(super) unsafe extern "C" fn run<N: Nif<ARITY>, const ARITY: usize>(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    let lifetime = ();
    // SAFETY: `env` is that of the call that is under way, and this one its only name.
    let env = unsafe { Env::new(&lifetime, env) };
    let arguments = array::from_fn(|index| {
        // SAFETY: the VM passes so many.
        let argument = unsafe { argv.add(index) };
        // SAFETY: as above.
        let argument = unsafe { *argument };
        // SAFETY: an argument belongs to the environment of its call.
        unsafe { Term::new(env, argument) }.into()
    });
    // One word leaves the guard: a whole answer would go through memory, which costs a tenth of a
    // call.
    let answer = || match N::call(env, arguments) {
        Ok(answer) => answer.as_c_arg(),
        Err(error) => raise(env, &error),
    };
    // A panic must not unwind into the VM.
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| raise(env, &atoms::nif_panicked()))
}

/// Tries a NIF on a normal scheduler: what it returns then, if it is done.
pub(super) fn attempt<'a, N: Nif<ARITY>, const ARITY: usize>(
    env: Env<'a>,
    arguments: [Term<'a>; ARITY],
) -> Option<ErlNifTerm> {
    let answer = || {
        Some(match N::attempt(env, arguments.map(Word::from))? {
            Ok(answer) => answer.as_c_arg(),
            Err(error) => raise(env, &error),
        })
    };
    // As in `run`.
    let answer = catch_unwind(AssertUnwindSafe(answer));
    answer.unwrap_or_else(|_| Some(raise(env, &atoms::nif_panicked())))
}

#[cold]
pub(super) fn raise(env: Env, error: &dyn Encoder) -> ErlNifTerm {
    let reason = error.encode(env).as_c_arg();
    // SAFETY: the reason was made in this environment.
    unsafe { enif_raise_exception(env.as_c_arg(), reason) }
}
