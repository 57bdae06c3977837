//! The policy.

use std::time::Duration;

use grpc_lb_core::load::reported_weight::{self, Metric, Source};
use grpc_lb_core::policy::round_robin::CursorKind;
use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{
    least_request, peak_ewma, pick_first, random, round_robin, weighted_round_robin, Policy,
};
use rustler::{Atom, Term};

use super::{all, is};
use crate::atoms;
use crate::error::ArgumentError;
use crate::library::schedulers;

/// See `t:GrpcLb.Native.policy/0`.
pub(crate) fn policy(term: Term) -> Result<Policy, ArgumentError> {
    if is(term, atoms::random()) {
        return Ok(Policy::Random(random::Config));
    }
    if let Ok((name, shuffle)) = term.decode::<(Term, bool)>() {
        if is(name, atoms::pick_first()) {
            return Ok(Policy::PickFirst(pick_first::Config { shuffle }));
        }
    }
    if let Ok((name, choices, bias)) = term.decode::<(Term, usize, f64)>() {
        if is(name, atoms::least_request()) {
            return least_request(choices, bias);
        }
    }
    if let Ok((name, cursor, weights)) = term.decode::<(Term, Atom, Term)>() {
        if is(name, atoms::weighted_round_robin()) {
            let cursor = cursor_kind(cursor)?;
            let weights = weights_from(weights)?;
            let config = weighted_round_robin::Config { cursor, weights };
            return Ok(Policy::WeightedRoundRobin(config));
        }
    }
    if let Ok((name, decay, default_rtt, penalty)) = term.decode::<(Term, u64, u64, u64)>() {
        if is(name, atoms::peak_ewma()) {
            return peak_ewma(decay, default_rtt, penalty);
        }
    }
    if let Ok((name, cursor, start, on_reconcile)) = term.decode::<(Term, Atom, Atom, Atom)>() {
        if is(name, atoms::round_robin()) {
            return round_robin(cursor, start, on_reconcile);
        }
    }
    Err(ArgumentError(
        "argument 1 is not a policy: expected :random, {:pick_first, shuffle}, {:round_robin, \
         cursor, start, on_reconcile}, {:weighted_round_robin, cursor, weights}, {:least_request, \
         choices, bias} or {:peak_ewma, decay, default_rtt, penalty}"
            .into(),
    ))
}

fn cursor_kind(cursor: Atom) -> Result<CursorKind, ArgumentError> {
    if cursor == atoms::shared() {
        Ok(CursorKind::Shared)
    } else if cursor == atoms::per_scheduler() {
        Ok(CursorKind::PerCaller(schedulers()))
    } else {
        Err(ArgumentError(
            "the cursor of a rotating policy must be :shared or :per_scheduler".into(),
        ))
    }
}

fn round_robin(cursor: Atom, start: Atom, on_reconcile: Atom) -> Result<Policy, ArgumentError> {
    use round_robin::{Config, OnReconcile, Start};

    let cursor = cursor_kind(cursor)?;
    let start = if start == atoms::first() {
        Start::First
    } else if start == atoms::random() {
        Start::Random
    } else {
        return Err(ArgumentError(
            "the start of round_robin must be :first or :random".into(),
        ));
    };
    let on_reconcile = if on_reconcile == atoms::keep() {
        OnReconcile::Keep
    } else if on_reconcile == atoms::reset() {
        OnReconcile::Reset
    } else {
        return Err(ArgumentError(
            "on_reconcile of round_robin must be :keep or :reset".into(),
        ));
    };
    Ok(Policy::RoundRobin(Config {
        cursor,
        start,
        on_reconcile,
    }))
}

fn least_request(choices: usize, bias: f64) -> Result<Policy, ArgumentError> {
    if choices < 2 || bias.is_sign_negative() {
        return Err(ArgumentError(
            "least_request takes 2 choices at least, and a bias of 0.0 at least".into(),
        ));
    }
    Ok(Policy::LeastRequest(least_request::Config {
        choices,
        bias,
    }))
}

fn peak_ewma(decay: u64, default_rtt: u64, penalty: u64) -> Result<Policy, ArgumentError> {
    if decay == 0 || default_rtt == 0 {
        return Err(ArgumentError(
            "the decay and the default_rtt of peak_ewma must be 1 millisecond at least".into(),
        ));
    }
    Ok(Policy::PeakEwma(peak_ewma::Config {
        decay: Duration::from_millis(decay),
        default_rtt: Duration::from_millis(default_rtt),
        penalty: Duration::from_millis(penalty),
    }))
}

/// `:static | {blackout, expiration, update, penalty, metric_names, source}`
fn weights_from(term: Term) -> Result<Weights, ArgumentError> {
    if is(term, atoms::static_weights()) {
        return Ok(Weights::Static);
    }
    let malformed = || {
        ArgumentError(
            "the weights of weighted_round_robin must be :static or {blackout, expiration, \
             update, penalty, metric_names, source}"
                .into(),
        )
    };
    let (blackout, expiration, update, penalty, names, source) = term
        .decode::<(u64, u64, u64, f64, Term, Term)>()
        .map_err(|_| malformed())?;
    let names: Vec<String> = all(names).map_err(|_| malformed())?;
    let source = if is(source, atoms::per_call()) {
        Source::PerCall
    } else if is(source, atoms::out_of_band()) {
        Source::OutOfBand
    } else {
        return Err(ArgumentError(
            "reports of weighted_round_robin must come :per_call or :out_of_band".into(),
        ));
    };
    if penalty.is_sign_negative() {
        return Err(ArgumentError(
            "the penalty of weighted_round_robin must be 0.0 at least".into(),
        ));
    }
    let config = reported_weight::Config {
        blackout_period: Duration::from_millis(blackout),
        weight_expiration_period: Duration::from_millis(expiration),
        weight_update_period: Duration::from_millis(update),
        error_utilization_penalty: penalty,
        metrics: names
            .iter()
            .filter_map(|name| Metric::parse(name))
            .collect(),
        source,
    };
    Ok(Weights::Reported(Box::new(config.clamped())))
}
