//! The NIFs around each call, registered raw: checkout before it, complete after it.

use std::ffi::{c_int, CStr};
use std::mem::MaybeUninit;
use std::slice;

use grpc_lb_core::load::orca::{LoadReport, Report};
use grpc_lb_core::{AlreadyCompleted, Outcome};
use rustler::sys::{
    enif_consume_timeslice, enif_inspect_binary, ErlNifBinary, ErlNifEnv, ErlNifFunc, ErlNifTerm,
};
use rustler::Term;

use crate::error::{kind, ArgumentError};
use crate::raw::{as_caller, guard, known, raise, refuse, tuple, unavailable, with_env};
use crate::resource::{find, not_a_balancer, Found, Monitors};
use crate::ticket::{find_ticket, not_a_ticket, FoundTicket, TicketHandle};
use crate::{clock, decode, ticker};

const CHECKOUT: &CStr = c"checkout";
const COMPLETE: &CStr = c"complete";

/// The raw NIFs, for the library's entry.
pub(crate) fn functions() -> [ErlNifFunc; 2] {
    [
        ErlNifFunc {
            name: CHECKOUT.as_ptr(),
            arity: 1,
            function: checkout,
            flags: 0,
        },
        ErlNifFunc {
            name: COMPLETE.as_ptr(),
            arity: 3,
            function: complete,
            flags: 0,
        },
    ]
}

/// `checkout(balancer) -> {:ok, value, ticket} | {:error, :no_backends | :closed | :overloaded}`
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn checkout(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    // SAFETY: the VM calls with as many arguments as the entry says, which is one.
    let argument = unsafe { *argv };
    guard(env, || begin(env, argument))
}

#[inline]
fn begin(env: *mut ErlNifEnv, argument: ErlNifTerm) -> ErlNifTerm {
    // SAFETY: the argument belongs to the call's environment, and what is found is not kept.
    let object = match unsafe { find(env, argument) } {
        Some(Found::Ours(object)) => object,
        Some(Found::Foreign(library)) => {
            // SAFETY: this call is passed on as it is.
            return unsafe { library.serve_raw(env, CHECKOUT, &[argument]) }
                .unwrap_or_else(|error| raise(env, &error));
        }
        None => return refuse(env, argument, not_a_balancer),
    };
    let monitors = Monitors::in_call(env, object);
    let begun = as_caller(|caller| {
        let (balancer, now) = (&object.balancer, clock::now());
        balancer.checkout(caller, &monitors, now, |value| value.to_raw(env))
    });
    match begun {
        Ok((value, ticket)) => {
            let ticket = TicketHandle::new(ticket).into_raw_term(env);
            tuple(env, &[known().ok, value, ticket])
        }
        Err(reason) => unavailable(env, reason),
    }
}

/// `complete(ticket, :ok | :error | :cancelled, report) -> :ok | {:error, :already_completed}`
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn complete(
    env: *mut ErlNifEnv,
    _argc: c_int,
    argv: *const ErlNifTerm,
) -> ErlNifTerm {
    // SAFETY: the VM calls with as many arguments as the entry says, which is three.
    let arguments = unsafe { slice::from_raw_parts(argv, 3) };
    guard(env, || end(env, [arguments[0], arguments[1], arguments[2]]))
}

#[inline]
fn end(env: *mut ErlNifEnv, arguments: [ErlNifTerm; 3]) -> ErlNifTerm {
    let [ticket, outcome, report] = arguments;
    // SAFETY: the argument belongs to the call's environment, and what is found is not kept.
    let ticket = match unsafe { find_ticket(env, ticket) } {
        Some(FoundTicket::Ours(ticket)) => ticket,
        Some(FoundTicket::Foreign(library)) => {
            // SAFETY: this call is passed on as it is.
            return unsafe { library.serve_raw(env, COMPLETE, &arguments) }
                .unwrap_or_else(|error| raise(env, &error));
        }
        None => return refuse(env, ticket, not_a_ticket),
    };
    let known = known();
    let outcome = if outcome == known.ok {
        Outcome::Success
    } else if outcome == known.error {
        Outcome::Failure
    } else if outcome == known.cancelled {
        Outcome::Cancelled
    } else {
        return refuse(env, outcome, not_an_outcome);
    };
    let decoded;
    let report = if report == known.nil {
        None
    } else if let Some(bytes) = inspect_binary(env, &report) {
        pay_for(env, bytes.len());
        Some(LoadReport::Bytes(bytes))
    } else {
        match decode_report(env, report) {
            Ok(report) => {
                decoded = report;
                Some(LoadReport::Decoded(&decoded))
            }
            Err(error) => return raise(env, &error),
        }
    };
    let completed = ticket.complete(outcome, report, clock::now());
    if outcome == Outcome::Failure && ticket.is_urgent() {
        ticker::wake_now(env);
    }
    match completed {
        Ok(()) => known.ok,
        Err(AlreadyCompleted) => tuple(env, &[known.error, known.already_completed]),
    }
}

/// The bytes of a binary. `None` when it is none.
fn inspect_binary(env: *mut ErlNifEnv, term: &ErlNifTerm) -> Option<&[u8]> {
    let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
    // SAFETY: the term belongs to the environment of the call, and `binary` has room for the
    // answer.
    if unsafe { enif_inspect_binary(env, *term, binary.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call above said that it wrote it.
    let binary = unsafe { binary.assume_init() };
    if binary.size == 0 {
        return Some(&[]);
    }
    // SAFETY: the VM keeps the bytes as they are during the call, which the borrow of the argument
    // does not outlive.
    Some(unsafe { slice::from_raw_parts(binary.data, binary.size) })
}

/// Tells the VM how much of the caller's turn the decoding of so many bytes takes: the longest
/// report about half a millisecond at worst, of a turn of one.
fn pay_for(env: *mut ErlNifEnv, bytes: usize) {
    let percent = (bytes.min(Report::MAX_BYTES) * 50 / Report::MAX_BYTES).max(1);
    // SAFETY: `env` is that of the call that is under way, on a scheduler; the percentage is one.
    unsafe { enif_consume_timeslice(env, percent as c_int) };
}

#[cold]
fn decode_report(env: *mut ErlNifEnv, report: ErlNifTerm) -> Result<Report, ArgumentError> {
    with_env(env, |env| {
        // SAFETY: the argument belongs to the call's environment.
        decode::decoded_report(unsafe { Term::new(env, report) }, 3)
    })
}

fn not_an_outcome(term: Term) -> ArgumentError {
    ArgumentError(format!(
        "argument 2, the outcome, must be :ok, :error or :cancelled, got {}",
        kind(term)
    ))
}
