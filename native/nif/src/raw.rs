//! What raw NIFs have in common: they are hot, and rustler's wrapper would collect the arguments in
//! a Vec and look the resource type up in a map.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::OnceLock;

use grpc_lb_core::{Caller, Unavailable};
use rustler::sys::{enif_make_tuple_from_array, enif_raise_exception, ErlNifEnv, ErlNifTerm};
use rustler::{Encoder, Env, Term};

use crate::atoms;
use crate::error::ArgumentError;

/// The atoms of arguments and answers, looked up once.
pub(crate) struct Atoms {
    pub(crate) ok: ErlNifTerm,
    pub(crate) error: ErlNifTerm,
    pub(crate) cancelled: ErlNifTerm,
    pub(crate) nil: ErlNifTerm,
    pub(crate) already_completed: ErlNifTerm,
    no_backends: ErlNifTerm,
    closed: ErlNifTerm,
    overloaded: ErlNifTerm,
}

static ATOMS: OnceLock<Atoms> = OnceLock::new();

/// Looks the atoms up, when the library is loaded.
pub(crate) fn prepare() {
    ATOMS.get_or_init(|| Atoms {
        ok: atoms::ok().as_c_arg(),
        error: atoms::error().as_c_arg(),
        cancelled: atoms::cancelled().as_c_arg(),
        nil: atoms::nil().as_c_arg(),
        already_completed: atoms::already_completed().as_c_arg(),
        no_backends: atoms::no_backends().as_c_arg(),
        closed: atoms::closed().as_c_arg(),
        overloaded: atoms::overloaded().as_c_arg(),
    });
}

#[inline]
pub(crate) fn known() -> &'static Atoms {
    ATOMS.get().expect("the library is loaded")
}

thread_local! {
    /// Picks come from schedulers, of which the VM has at most as many as there are places.
    static CALLER: Option<Caller> = Caller::claim(fastrand::u64(..));
}

/// Runs something that picks, as the thread's caller.
#[inline]
pub(crate) fn as_caller<R>(pick: impl FnOnce(&Caller) -> R) -> R {
    CALLER.with(|caller| match caller {
        Some(caller) => pick(caller),
        None => panic!("more threads pick than there are places for"),
    })
}

/// Runs a NIF. A panic must not unwind into the VM.
#[inline]
pub(crate) fn guard(env: *mut ErlNifEnv, answer: impl FnOnce() -> ErlNifTerm) -> ErlNifTerm {
    let answer = catch_unwind(AssertUnwindSafe(answer));
    answer.unwrap_or_else(|_| raise(env, &atoms::nif_panicked()))
}

/// `{:error, reason}`
#[inline]
pub(crate) fn unavailable(env: *mut ErlNifEnv, unavailable: Unavailable) -> ErlNifTerm {
    let known = known();
    let reason = match unavailable {
        Unavailable::NoBackends => known.no_backends,
        Unavailable::Closed => known.closed,
        Unavailable::Overloaded => known.overloaded,
    };
    tuple(env, &[known.error, reason])
}

/// A tuple of terms of the call's environment, or of none.
#[inline]
pub(crate) fn tuple(env: *mut ErlNifEnv, elements: &[ErlNifTerm]) -> ErlNifTerm {
    // SAFETY: `env` is that of the call that is under way, to which the elements belong, if to any;
    // the length is theirs.
    unsafe { enif_make_tuple_from_array(env, elements.as_ptr(), elements.len() as u32) }
}

#[cold]
pub(crate) fn refuse(
    env: *mut ErlNifEnv,
    argument: ErlNifTerm,
    why: fn(Term) -> ArgumentError,
) -> ErlNifTerm {
    with_env(env, |env| {
        // SAFETY: the argument belongs to the call's environment.
        let term = unsafe { Term::new(env, argument) };
        raise_in(env, &why(term))
    })
}

#[cold]
pub(crate) fn raise(env: *mut ErlNifEnv, error: &dyn Encoder) -> ErlNifTerm {
    with_env(env, |env| raise_in(env, error))
}

fn raise_in(env: Env, error: &dyn Encoder) -> ErlNifTerm {
    let reason = error.encode(env).as_c_arg();
    // SAFETY: the reason was made in this environment.
    unsafe { enif_raise_exception(env.as_c_arg(), reason) }
}

pub(crate) fn with_env<R>(env: *mut ErlNifEnv, run: impl FnOnce(Env) -> R) -> R {
    let lifetime = ();
    // SAFETY: `env` is that of the call that is under way, and `run` cannot keep it.
    run(unsafe { Env::new(&lifetime, env) })
}
