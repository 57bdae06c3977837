//! The NIFs around each call: checkout before it, first_response during it, complete after it.

use grpc_lb_core::load::orca::{LoadReport, Report};
use grpc_lb_core::{AlreadyCompleted, Outcome};
use rustler::{Env, Term};

use crate::balancer::Balancer;
use crate::error::{kind, ArgumentError};
use crate::pick::{as_caller, reason};
use crate::ticket::Ticket;
use crate::vm::owner::Monitors;
use crate::vm::scheduler::consume_timeslice;
use crate::vm::term::{bytes, tuple};
use crate::vm::{Answer, Handle, Object};
use crate::{atoms, clock, decode, ticker};

/// `checkout(balancer) -> {:ok, value, ticket} | {:error, :no_backends | :closed | :overloaded}`
#[inline]
pub(crate) fn checkout<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    let monitors = Monitors::new(env, balancer);
    let begun = as_caller(|caller| {
        balancer.checkout(caller, &monitors, clock::now(), |value| value.to_term(env))
    });
    Ok(match begun {
        Ok((value, ticket)) => {
            let ticket = Handle::new(ticket).to_term(env);
            tuple(env, [atoms::ok().to_term(env), value, ticket])
        }
        Err(unavailable) => reason(env, unavailable),
    })
}

/// `first_response(ticket) -> :ok`
#[inline]
pub(crate) fn first_response<'a>(
    env: Env<'a>,
    ticket: &Object<Ticket>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    ticket.first_response(clock::now());
    Ok(atoms::ok().to_term(env))
}

/// `complete(ticket, :ok | :error | :cancelled, report) -> :ok | {:error, :already_completed}`
#[inline]
pub(crate) fn complete<'a>(
    env: Env<'a>,
    ticket: &Object<Ticket>,
    [outcome, report]: [Term<'a>; 2],
) -> Answer<'a> {
    let outcome = if atoms::ok() == outcome {
        Outcome::Success
    } else if atoms::error() == outcome {
        Outcome::Failure
    } else if atoms::cancelled() == outcome {
        Outcome::Cancelled
    } else {
        return Err(not_an_outcome(outcome));
    };
    let decoded;
    let report = if atoms::nil() == report {
        None
    } else if let Some(bytes) = bytes(report) {
        pay_for(env, bytes.len());
        Some(LoadReport::Bytes(bytes))
    } else {
        decoded = decode::report(report, 3)?;
        Some(LoadReport::Decoded(&decoded))
    };
    let completed = ticket.complete(outcome, report, clock::now());
    if outcome == Outcome::Failure && ticket.is_urgent() {
        ticker::wake_now(env);
    }
    Ok(match completed {
        Ok(()) => atoms::ok().to_term(env),
        Err(AlreadyCompleted) => {
            let answer = [atoms::error(), atoms::already_completed()];
            tuple(env, answer.map(|atom| atom.to_term(env)))
        }
    })
}

/// Tells the VM how much of the caller's turn the decoding of so many bytes takes: the longest
/// report about half a millisecond at worst, of a turn of one.
fn pay_for(env: Env, bytes: usize) {
    let percent = bytes.min(Report::MAX_BYTES) * 50 / Report::MAX_BYTES;
    consume_timeslice(env, percent as u8);
}

#[cold]
fn not_an_outcome(term: Term) -> ArgumentError {
    ArgumentError(format!(
        "argument 2, the outcome, must be :ok, :error or :cancelled, got {}",
        kind(term)
    ))
}
