//! The NIFs around each call: checkout before it, first_response during it, end_call after it.

use std::time::Duration;

use grpc_lb_core::load::orca::{LoadReport, Report};
use grpc_lb_core::{AlreadyCompleted, LatencySample, Outcome, Search, Ticket as Call, Unavailable};
use hashbrown::Equivalent;
use rustler::{Encoder, Env, Term};

use crate::balancer::Balancer;
use crate::clock::Clock;
use crate::error::{kind, ArgumentError};
use crate::line::tell_of_change;
use crate::pick::{as_caller, reason, with_key};
use crate::ticket::{tell_of_end, Ticket};
use crate::value::{Offered, Value};
use crate::vm::dispatch::on_object;
use crate::vm::function::{nif, Function};
use crate::vm::go_on::go_on;
use crate::vm::owner::{owner_of, Monitors};
use crate::vm::scheduler::consume_timeslice;
use crate::vm::term::{bytes, tuple, Word};
use crate::vm::{Answer, Handle, Object};
use crate::waiter::Waiter;
use crate::{atoms, decode, ticker};

/// `checkout(balancer) -> {:ok, value, ticket} | {:error, :no_backends | :closed | :overloaded}`
#[inline]
pub(crate) fn checkout<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    Ok(match balancer.draws().is_some() {
        false => checkout_by::<false>(env, balancer, None),
        true => checkout_apart(env, balancer, None).to_term(env),
    })
}

/// A checkout that repeats, or is for a key. Apart, so that the plain one is compiled in one piece.
#[cold]
#[inline(never)]
pub(crate) fn checkout_apart<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    key: Option<u64>,
) -> Word<'a> {
    checkout_by::<true>(env, balancer, key).into()
}

#[inline]
fn checkout_by<'a, const APART: bool>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    key: Option<u64>,
) -> Term<'a> {
    let monitors = Monitors::new(env, balancer);
    let begun = as_caller::<APART, _>(balancer, |caller| {
        let _keyed = with_key(caller, key.filter(|_| APART));
        let now = balancer.clock().now();
        balancer.checkout(caller, &monitors, now, |value| value.to_term(env))
    });
    match begun {
        Err(Unavailable::Unfinished) => checkout_on(env, balancer, key).to_term(env),
        begun => checked_out(env, balancer, begun),
    }
}

/// Goes on where most of a long list are full, or dead and have not been taken out yet.
#[cold]
#[inline(never)]
fn checkout_on<'a>(env: Env<'a>, balancer: &Object<Balancer>, key: Option<u64>) -> Word<'a> {
    go_on(env, &CHECKOUT_THOROUGHLY, balancer, &[key.encode(env)])
}

const CHECKOUT_THOROUGHLY: Function = nif!(DirtyCpu, checkout, 2, |env, [balancer, key]| {
    on_object::<Balancer, 1>(env, Self::NAME, balancer, [key], checkout_thoroughly)
});

fn checkout_thoroughly<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [key]: [Term<'a>; 1],
) -> Answer<'a> {
    let key = decode::key(key, 2)?;
    let monitors = Monitors::new(env, balancer);
    let begun = as_caller::<true, _>(balancer, |caller| {
        let _keyed = with_key(caller, key);
        let now = balancer.clock().now();
        balancer.checkout_thoroughly(caller, &monitors, now, |value| value.to_term(env))
    });
    Ok(checked_out(env, balancer, begun))
}

#[inline]
fn checked_out<'a>(
    env: Env<'a>,
    balancer: &Balancer,
    begun: Result<(Term<'a>, Call), Unavailable>,
) -> Term<'a> {
    match begun {
        Ok((value, call)) => {
            let ticket = Handle::new(Ticket::new(call, balancer.clock().clone())).to_term(env);
            tuple(env, [atoms::ok().to_term(env), value, ticket])
        }
        Err(unavailable) => not_checked_out(env, balancer, unavailable).to_term(env),
    }
}

/// The answer to a checkout that found nobody. Who tried to get in meanwhile found its place taken.
#[cold]
#[inline(never)]
fn not_checked_out<'a>(env: Env<'a>, balancer: &Balancer, unavailable: Unavailable) -> Word<'a> {
    if balancer.has_room() {
        tell_of_change(env, balancer);
    }
    reason(env, unavailable).into()
}

/// `checkout_except(balancer, values) -> as checkout`, and never one of these values; or
/// `{:error, :unfinished}`, where most of a long list are full or dead.
pub(crate) fn checkout_except<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [values]: [Term<'a>; 1],
) -> Answer<'a> {
    except_with_key(env, balancer, values, None)
}

/// The same, of the backends to which a key leads.
pub(crate) fn except_with_key<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    values: Term<'a>,
    key: Option<u64>,
) -> Answer<'a> {
    let values = decode::values(values, 2)?;
    Ok(
        match begin_except(env, balancer, &values, key, Search::Brief) {
            Err(Unavailable::Unfinished) => {
                let answer = [atoms::error(), atoms::unfinished()];
                tuple(env, answer.map(|atom| atom.to_term(env)))
            }
            begun => checked_out(env, balancer, begun),
        },
    )
}

/// `checkout_except_thoroughly(balancer, values) -> as checkout_except`, and always finished
pub(crate) fn checkout_except_thoroughly<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [values]: [Term<'a>; 1],
) -> Answer<'a> {
    except_with_key_thoroughly(env, balancer, values, None)
}

/// The same, of the backends to which a key leads.
pub(crate) fn except_with_key_thoroughly<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    values: Term<'a>,
    key: Option<u64>,
) -> Answer<'a> {
    let values = decode::values(values, 2)?;
    let begun = begin_except(env, balancer, &values, key, Search::Thorough);
    Ok(checked_out(env, balancer, begun))
}

fn begin_except<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    values: &[Offered],
    key: Option<u64>,
    search: Search,
) -> Result<(Term<'a>, Call), Unavailable> {
    let wanted = |value: &Value| !is_one_of(values, value);
    let monitors = Monitors::new(env, balancer);
    let now = balancer.clock().now();
    as_caller::<true, _>(balancer, |caller| {
        let _keyed = with_key(caller, key);
        let to_term = |value: &Value| value.to_term(env);
        balancer.checkout_where(caller, &monitors, search, now, wanted, to_term)
    })
}

/// `line_up(balancer) -> {:ok, waiter, place, milliseconds} | {:error, :overloaded}`
pub(crate) fn line_up<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    let Some((place, wait)) = balancer.line_up(owner_of(env.pid())) else {
        return Ok(reason(env, Unavailable::Overloaded));
    };
    let balancer = Handle::keep(balancer);
    let waiter = Handle::new(Waiter { balancer, place }).to_term(env);
    Ok((atoms::ok(), waiter, place, wait.as_millis() as u64).encode(env))
}

/// `checkout_in_turn(waiter, values) -> as checkout_except`
pub(crate) fn checkout_in_turn<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    [values]: [Term<'a>; 1],
) -> Answer<'a> {
    in_turn_with_key(env, waiter, values, None)
}

/// The same, of the backends to which a key leads.
pub(crate) fn in_turn_with_key<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    values: Term<'a>,
    key: Option<u64>,
) -> Answer<'a> {
    let values = decode::values(values, 2)?;
    let wanted = |value: &Value| !is_one_of(&values, value);
    let Waiter { balancer, place } = &**waiter;
    let monitors = Monitors::new(env, balancer);
    let now = balancer.clock().now();
    let begun = as_caller::<true, _>(balancer, |caller| {
        let _keyed = with_key(caller, key);
        balancer.checkout_in_turn(*place, caller, &monitors, now, wanted, |value| {
            value.to_term(env)
        })
    });
    Ok(match begun {
        // It stays the first, and is told of room by others.
        Err(Unavailable::Overloaded) => reason(env, Unavailable::Overloaded),
        begun => {
            waiter.leave(env);
            checked_out(env, balancer, begun)
        }
    })
}

/// `leave_line(waiter) -> :ok`
pub(crate) fn leave_line<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    waiter.leave(env);
    Ok(atoms::ok().to_term(env))
}

fn is_one_of(values: &[Offered], value: &Value) -> bool {
    values.iter().any(|other| other.equivalent(value))
}

/// `first_response(ticket) -> :ok`
#[inline]
pub(crate) fn first_response<'a>(
    env: Env<'a>,
    ticket: &Object<Ticket>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    ticket.first_response(ticket.clock().now());
    Ok(atoms::ok().to_term(env))
}

/// `end_call(ticket, :ok | :error | :transport_error | :cancelled, report, latency) -> :ok | {:error, :already_completed}`
#[inline]
pub(crate) fn end_call<'a>(
    env: Env<'a>,
    ticket: &Object<Ticket>,
    [outcome, report, latency]: [Term<'a>; 3],
) -> Answer<'a> {
    let outcome = if atoms::ok() == outcome {
        Outcome::Success
    } else if atoms::error() == outcome {
        Outcome::Failure
    } else if atoms::transport_error() == outcome {
        Outcome::TransportFailure
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
        pay_for(env, decoded.map_bytes());
        Some(LoadReport::Decoded(&decoded))
    };
    let latency = decode_latency(latency)?;
    let completed = ticket.complete_with(outcome, latency, report, ticket.clock().now());
    tell_of_end(env, ticket);
    let failed = [Outcome::Failure, Outcome::TransportFailure].contains(&outcome);
    if completed.is_ok() && failed && ticket.is_urgent() {
        match ticket.clock() {
            Clock::System => ticker::wake_now(env),
            Clock::Manual(_) => return Ok(go_on(env, &SETTLE, ticket, &[]).to_term(env)),
        }
    }
    Ok(match completed {
        Ok(()) => atoms::ok().to_term(env),
        Err(AlreadyCompleted) => {
            let answer = [atoms::error(), atoms::already_completed()];
            tuple(env, answer.map(|atom| atom.to_term(env)))
        }
    })
}

/// `nil | :none | nanoseconds`
#[inline]
fn decode_latency(latency: Term) -> Result<LatencySample, ArgumentError> {
    if atoms::nil() == latency {
        Ok(LatencySample::Measured)
    } else if atoms::none() == latency {
        Ok(LatencySample::None)
    } else if let Ok(nanoseconds) = latency.decode() {
        Ok(LatencySample::Given(Duration::from_nanos(nanoseconds)))
    } else {
        Err(not_a_latency(latency))
    }
}

const SETTLE: Function = nif!(DirtyCpu, settle, 1, |env, [ticket]| {
    on_object::<Ticket, 0>(env, Self::NAME, ticket, [], settle)
});

/// Does what a call on a manual clock has made urgent, and ends the call's completion.
fn settle<'a>(env: Env<'a>, ticket: &Object<Ticket>, []: [Term<'a>; 0]) -> Answer<'a> {
    if let Clock::Manual(clock) = ticket.clock() {
        clock.advance(Duration::ZERO);
    }
    Ok(atoms::ok().to_term(env))
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
        "argument 2, the outcome, must be :ok, :error, :transport_error or :cancelled, got {}",
        kind(term)
    ))
}

#[cold]
fn not_a_latency(term: Term) -> ArgumentError {
    ArgumentError(format!(
        "argument 4, the latency, must be nil, :none or a number of nanoseconds from 0 to {}, got {}",
        u64::MAX,
        kind(term)
    ))
}
