//! The hot NIF, registered raw: rustler's wrapper would collect the arguments in a Vec and look
//! the resource type up in a map.

use std::ffi::{c_int, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::OnceLock;

use grpc_lb_core::{Caller, Unavailable};
use rustler::sys::{
    enif_make_tuple_from_array, enif_raise_exception, ErlNifEnv, ErlNifFunc, ErlNifTerm,
};
use rustler::{Encoder, Env, Term};

use crate::atoms;
use crate::resource::{find, not_a_balancer, Found, Monitors};

const NAME: &CStr = c"pick";

/// The raw NIF, for the library's entry.
pub(crate) fn function() -> ErlNifFunc {
    ErlNifFunc {
        name: NAME.as_ptr(),
        arity: 1,
        function: pick,
        flags: 0,
    }
}

/// The atoms of the answers, looked up once.
struct Answers {
    ok: ErlNifTerm,
    error: ErlNifTerm,
    no_backends: ErlNifTerm,
    closed: ErlNifTerm,
}

static ANSWERS: OnceLock<Answers> = OnceLock::new();

/// Looks the atoms up, when the library is loaded.
pub(crate) fn prepare() {
    ANSWERS.get_or_init(|| Answers {
        ok: atoms::ok().as_c_arg(),
        error: atoms::error().as_c_arg(),
        no_backends: atoms::no_backends().as_c_arg(),
        closed: atoms::closed().as_c_arg(),
    });
}

thread_local! {
    /// Picks come from schedulers, of which the VM has at most as many as there are places.
    static CALLER: Option<Caller> = Caller::claim(fastrand::u64(..));
}

/// `pick(balancer) -> {:ok, value} | {:error, :no_backends | :closed}`
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn pick(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    // SAFETY: the VM calls with as many arguments as the entry says, which is one.
    let argument = unsafe { *argv };
    let answer = catch_unwind(AssertUnwindSafe(|| answer(env, argument)));
    answer.unwrap_or_else(|_| raise(env, &atoms::nif_panicked()))
}

#[inline]
fn answer(env: *mut ErlNifEnv, argument: ErlNifTerm) -> ErlNifTerm {
    // SAFETY: the argument belongs to the call's environment, and what is found is not kept.
    let object = match unsafe { find(env, argument) } {
        Some(Found::Ours(object)) => object,
        Some(Found::Foreign(library)) => {
            // SAFETY: this call is passed on as it is.
            return unsafe { library.serve_raw(env, NAME, &[argument]) }
                .unwrap_or_else(|error| raise(env, &error));
        }
        None => return refuse(env, argument),
    };
    let answers = ANSWERS.get().expect("the library is loaded");
    let picked = CALLER.with(|caller| match caller {
        Some(caller) => {
            let monitors = Monitors::in_call(env, object);
            object
                .balancer
                .pick(caller, &monitors, |value| value.to_raw(env))
        }
        None => panic!("more threads pick than there are places for"),
    });
    let pair = match picked {
        Ok(value) => [answers.ok, value],
        Err(Unavailable::NoBackends) => [answers.error, answers.no_backends],
        Err(Unavailable::Closed) => [answers.error, answers.closed],
    };
    // SAFETY: both terms belong to the call's environment, or to none.
    unsafe { enif_make_tuple_from_array(env, pair.as_ptr(), 2) }
}

#[cold]
fn refuse(env: *mut ErlNifEnv, argument: ErlNifTerm) -> ErlNifTerm {
    with_env(env, |env| {
        // SAFETY: the argument belongs to the call's environment.
        let term = unsafe { Term::new(env, argument) };
        raise_in(env, &not_a_balancer(term))
    })
}

#[cold]
fn raise(env: *mut ErlNifEnv, error: &dyn Encoder) -> ErlNifTerm {
    with_env(env, |env| raise_in(env, error))
}

fn raise_in(env: Env, error: &dyn Encoder) -> ErlNifTerm {
    let reason = error.encode(env).as_c_arg();
    // SAFETY: the reason was made in this environment.
    unsafe { enif_raise_exception(env.as_c_arg(), reason) }
}

fn with_env<R>(env: *mut ErlNifEnv, run: impl FnOnce(Env) -> R) -> R {
    let lifetime = ();
    // SAFETY: `env` is that of the call that is under way, and `run` cannot keep it.
    run(unsafe { Env::new(&lifetime, env) })
}
