//! The hot NIF, registered raw.

use std::ffi::{c_int, CStr};

use rustler::sys::{ErlNifEnv, ErlNifFunc, ErlNifTerm};

use crate::raw::{as_caller, guard, known, raise, refuse, tuple, unavailable};
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
    guard(env, || answer(env, argument))
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
        None => return refuse(env, argument, not_a_balancer),
    };
    let monitors = Monitors::in_call(env, object);
    let picked = as_caller(|caller| {
        let balancer = &object.balancer;
        balancer.pick(caller, &monitors, |value| value.to_raw(env))
    });
    match picked {
        Ok(value) => tuple(env, &[known().ok, value]),
        Err(reason) => unavailable(env, reason),
    }
}
