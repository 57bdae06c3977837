//! The NIFs around each call: checkout before it, first_response during it, end_call after it.

use std::time::Duration;

use grpc_lb_core::load::orca::{LoadReport, Report};
use grpc_lb_core::{
    AlreadyCompleted, Begun, LatencySample, Outcome, Search, Ticket as Call, Unavailable,
};
use hashbrown::Equivalent;
use rustler::{Encoder, Env, Term};

use crate::advance::settle;
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
        balancer.checkout(caller, &monitors, balancer.clock(), |value| value.lend(env))
    });
    match begun {
        Err(Unavailable::Unfinished) => checkout_on(env, balancer, key).to_term(env),
        begun => checked_out(env, balancer, begun),
    }
}

/// Goes on where most of a long list are full, or dead and have not been taken out yet.
#[cold]
#[inline(never)]
pub(crate) fn checkout_on<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    key: Option<u64>,
) -> Word<'a> {
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
        balancer.checkout_thoroughly(caller, &monitors, balancer.clock(), |value| {
            value.to_term(env)
        })
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
pub(crate) fn not_checked_out<'a>(
    env: Env<'a>,
    balancer: &Balancer,
    unavailable: Unavailable,
) -> Word<'a> {
    if balancer.has_room() {
        tell_of_change(env, balancer);
    }
    if unavailable == Unavailable::Overloaded && balancer.count_refusal() {
        ticker::wake(env, balancer);
    }
    reason(env, unavailable).into()
}

/// `checkout_except(balancer, values) -> as checkout`, and never one of these values; or
/// `{:error, :unfinished}`, where most of a long list are full or dead, or the values are many.
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
    let Some(values) = decode::few_values(values, 2)? else {
        return Ok(unfinished(env, balancer, key).to_term(env));
    };
    Ok(
        match begin_except(env, balancer, &values, key, Search::Brief) {
            Err(Unavailable::Unfinished) => unfinished(env, balancer, key).to_term(env),
            begun => checked_out(env, balancer, begun),
        },
    )
}

/// `{:error, :unfinished}`: who called goes on.
#[cold]
#[inline(never)]
pub(crate) fn unfinished<'a>(env: Env<'a>, _: &Object<Balancer>, _: Option<u64>) -> Word<'a> {
    let answer = [atoms::error(), atoms::unfinished()];
    tuple(env, answer.map(|atom| atom.to_term(env))).into()
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
    as_caller::<true, _>(balancer, |caller| {
        let _keyed = with_key(caller, key);
        let to_term = |value: &Value| value.to_term(env);
        balancer.checkout_where(caller, &monitors, search, balancer.clock(), wanted, to_term)
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

/// `checkout_in_turn(waiter, values) -> as checkout_except`, and always finished
pub(crate) fn checkout_in_turn<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    [values]: [Term<'a>; 1],
) -> Answer<'a> {
    in_turn_thoroughly(env, waiter, values, None)
}

/// The same, of the backends to which a key leads.
pub(crate) fn in_turn_thoroughly<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    values: Term<'a>,
    key: Option<u64>,
) -> Answer<'a> {
    let answer = in_turn(env, waiter, values, key, Search::Thorough)?;
    Ok(answer.expect("a thorough search ends"))
}

/// `checkout_in_turn` on a normal scheduler. `None`, where most of a long list are full or dead, or the values are
/// many.
pub(crate) fn try_checkout_in_turn<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    [values]: [Term<'a>; 1],
) -> Option<Answer<'a>> {
    in_turn(env, waiter, values, None, Search::Brief).transpose()
}

/// `None`, if a brief search was not enough.
pub(crate) fn in_turn<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    values: Term<'a>,
    key: Option<u64>,
    search: Search,
) -> Result<Option<Term<'a>>, ArgumentError> {
    let values = match search {
        Search::Brief => decode::few_values(values, 2)?,
        Search::Thorough => Some(decode::values(values, 2)?),
    };
    let Some(values) = values else {
        return Ok(None);
    };
    let wanted = |value: &Value| !is_one_of(&values, value);
    let Waiter { balancer, place } = &**waiter;
    let monitors = Monitors::new(env, balancer);
    let begun = as_caller::<true, _>(balancer, |caller| {
        let _keyed = with_key(caller, key);
        let (clock, to_term) = (balancer.clock(), |value: &Value| value.to_term(env));
        let turn = balancer.turn(*place).ok_or(Unavailable::Overloaded)?;
        turn.checkout_where(caller, &monitors, search, clock, wanted, to_term)
    });
    Ok(match begun {
        // It stays the first, and is told of room by others.
        Err(Unavailable::Overloaded) => Some(reason(env, Unavailable::Overloaded)),
        Err(Unavailable::Unfinished) => None,
        begun => {
            waiter.leave(env);
            Some(checked_out(env, balancer, begun))
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

pub(crate) fn is_one_of(values: &[Offered], value: &Value) -> bool {
    values.iter().any(|other| other.equivalent(value))
}

/// `first_response(ticket) -> :ok`
#[inline]
pub(crate) fn first_response<'a>(
    env: Env<'a>,
    ticket: &Object<Ticket>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    ticket.first_response(ticket.clock());
    Ok(atoms::ok().to_term(env))
}

/// `end_call(ticket, :ok | :error | :transport_error | :cancelled, report, latency) -> :ok | {:error, :already_completed}`
#[inline]
pub(crate) fn end_call<'a>(
    env: Env<'a>,
    ticket: &Object<Ticket>,
    arguments: [Term<'a>; 3],
) -> Answer<'a> {
    let ending = Ending::decode(env, arguments, 2)?;
    let (outcome, latency) = (ending.outcome, ending.latency);
    let completed = ticket.complete_with(outcome, latency, ending.report(), ticket.clock());
    tell_of_end(env, ticket, ticket.has_ended_drain());
    Ok(match completed {
        Ok(()) => after_end(env, ticket, outcome, ticket.clock()),
        Err(AlreadyCompleted) => already_completed(env).to_term(env),
    })
}

/// What is said of a call that ends.
pub(crate) struct Ending<'a> {
    pub(crate) outcome: Outcome,
    pub(crate) latency: LatencySample,
    report: Option<Said<'a>>,
}

enum Said<'a> {
    Encoded(&'a [u8]),
    Decoded(Box<Report>),
}

impl<'a> Ending<'a> {
    /// Of the arguments from this one on.
    #[inline(always)]
    pub(crate) fn decode(
        env: Env<'a>,
        [outcome, report, latency]: [Term<'a>; 3],
        first: usize,
    ) -> Result<Self, ArgumentError> {
        Ok(Ending {
            outcome: decode_outcome(outcome, first)?,
            report: match atoms::nil() == report {
                true => None,
                false => Some(decode_report(env, report, first + 1)?),
            },
            latency: match atoms::nil() == latency {
                true => LatencySample::Measured,
                false => decode_latency(latency, first + 2)?,
            },
        })
    }

    #[inline]
    pub(crate) fn report(&self) -> Option<LoadReport<'_>> {
        self.report.as_ref().map(|report| match report {
            Said::Encoded(bytes) => LoadReport::Bytes(bytes),
            Said::Decoded(report) => LoadReport::Decoded(report),
        })
    }
}

#[inline]
fn decode_outcome(outcome: Term, argument: usize) -> Result<Outcome, ArgumentError> {
    if atoms::ok() == outcome {
        Ok(Outcome::Success)
    } else if atoms::error() == outcome {
        Ok(Outcome::Failure)
    } else if atoms::transport_error() == outcome {
        Ok(Outcome::TransportFailure)
    } else if atoms::cancelled() == outcome {
        Ok(Outcome::Cancelled)
    } else {
        Err(not_an_outcome(outcome, argument))
    }
}

#[cold]
fn decode_report<'a>(
    env: Env<'a>,
    report: Term<'a>,
    argument: usize,
) -> Result<Said<'a>, ArgumentError> {
    if let Some(bytes) = bytes(report) {
        pay_for(env, bytes.len());
        return Ok(Said::Encoded(bytes));
    }
    let decoded = decode::report(report, argument)?;
    pay_for(env, decoded.map_bytes());
    Ok(Said::Decoded(Box::new(decoded)))
}

/// The answer to who has ended a call.
#[inline]
pub(crate) fn after_end<'a>(
    env: Env<'a>,
    call: &Begun,
    outcome: Outcome,
    clock: &Clock,
) -> Term<'a> {
    let failed = [Outcome::Failure, Outcome::TransportFailure].contains(&outcome);
    match failed && call.is_urgent() {
        false => atoms::ok().to_term(env),
        true => settle(env, clock).to_term(env),
    }
}

/// `{:error, :already_completed}`
#[cold]
#[inline(never)]
pub(crate) fn already_completed(env: Env) -> Word {
    let answer = [atoms::error(), atoms::already_completed()];
    tuple(env, answer.map(|atom| atom.to_term(env))).into()
}

/// `:none | nanoseconds`
#[cold]
fn decode_latency(latency: Term, argument: usize) -> Result<LatencySample, ArgumentError> {
    if atoms::none() == latency {
        Ok(LatencySample::None)
    } else if let Ok(nanoseconds) = latency.decode() {
        Ok(LatencySample::Given(Duration::from_nanos(nanoseconds)))
    } else {
        Err(not_a_latency(latency, argument))
    }
}

/// Tells the VM how much of the caller's turn the decoding of so many bytes takes: the longest
/// report about half a millisecond at worst, of a turn of one.
fn pay_for(env: Env, bytes: usize) {
    let percent = bytes.min(Report::MAX_BYTES) * 50 / Report::MAX_BYTES;
    consume_timeslice(env, percent as u8);
}

#[cold]
fn not_an_outcome(term: Term, argument: usize) -> ArgumentError {
    ArgumentError(format!(
        "argument {argument}, the outcome, must be :ok, :error, :transport_error or :cancelled, got {}",
        kind(term)
    ))
}

#[cold]
fn not_a_latency(term: Term, argument: usize) -> ArgumentError {
    ArgumentError(format!(
        "argument {argument}, the latency, must be nil, :none or a number of nanoseconds from 0 to {}, got {}",
        u64::MAX,
        kind(term)
    ))
}
