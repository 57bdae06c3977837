//! The policy.

use grpc_lb_core::load::reported_weight::{self, Metric, Source};
use grpc_lb_core::policy::least_request::Choices;
use grpc_lb_core::policy::peak_ewma::Penalty;
use grpc_lb_core::policy::round_robin::{CursorKind, OnReconcile, Start};
use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{
    least_request, maglev, peak_ewma, pick_first, random, ring_hash, round_robin,
    weighted_round_robin, BalanceFactor, Policy,
};
use rustler::{Atom, Term};

use super::fields::{one_of, Fields, Malformed};
use crate::atoms;
use crate::error::{kind, ArgumentError};
use crate::vm::scheduler::schedulers;

type Read = for<'a> fn(Fields<'a>) -> Result<Policy, Malformed<'a>>;

/// The name that the core has for a policy, the atom of it, and how its options are read.
type Known = (&'static str, fn() -> Atom, Read);

const POLICIES: [Known; 8] = [
    ("pick_first", atoms::pick_first, pick_first),
    ("round_robin", atoms::round_robin, round_robin),
    ("random", atoms::random, random),
    (
        "weighted_round_robin",
        atoms::weighted_round_robin,
        weighted_round_robin,
    ),
    ("least_request", atoms::least_request, least_request),
    ("peak_ewma", atoms::peak_ewma, peak_ewma),
    ("ring_hash", atoms::ring_hash, ring_hash),
    ("maglev", atoms::maglev, maglev),
];

/// The atom of a policy's name, which exists already: to look it up by its text would take a lock.
pub(crate) fn policy_name(name: &str) -> Atom {
    let known = POLICIES.iter().find(|(known, ..)| *known == name);
    let (_, atom, _) = known.expect("what was decoded is in the list");
    atom()
}

/// `{name, options}`, see `t:GrpcLb.Native.policy/0`.
pub(crate) fn policy(term: Term) -> Result<Policy, ArgumentError> {
    let known = POLICIES.map(|(_, atom, read)| (atom(), read));
    let decoded = term.decode::<(Term, Term)>().ok();
    let Some((read, options)) =
        decoded.and_then(|(name, options)| Some((one_of(name, &known)?, options)))
    else {
        return Err(ArgumentError(format!(
            "the policy must be {{name, options}} with the name of one, got {}",
            kind(term)
        )));
    };
    let policy = Fields::of(options).and_then(read);
    policy.map_err(|malformed| malformed.of("the policy"))
}

fn random(_no_options: Fields) -> Result<Policy, Malformed> {
    Ok(Policy::Random(random::Config))
}

fn pick_first<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    let shuffle = options.get(atoms::shuffle())?;
    Ok(Policy::PickFirst(pick_first::Config { shuffle }))
}

fn round_robin<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    let starts = [
        (atoms::first(), Start::First),
        (atoms::random(), Start::Random),
    ];
    let on_reconcile = [
        (atoms::keep(), OnReconcile::Keep),
        (atoms::reset(), OnReconcile::Reset),
    ];
    Ok(Policy::RoundRobin(round_robin::Config {
        cursor: cursor(options)?,
        start: options.one_of(atoms::start(), &starts)?,
        on_reconcile: options.one_of(atoms::on_reconcile(), &on_reconcile)?,
    }))
}

fn cursor<'a>(options: Fields<'a>) -> Result<CursorKind, Malformed<'a>> {
    let kinds = [
        (atoms::shared(), CursorKind::Shared),
        (atoms::per_scheduler(), CursorKind::PerCaller(schedulers())),
    ];
    options.one_of(atoms::cursor(), &kinds)
}

fn weighted_round_robin<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    let kinds = [(atoms::static_weights(), false), (atoms::reported(), true)];
    let weights = match options.one_of(atoms::weights(), &kinds)? {
        false => Weights::Static,
        true => Weights::Reported(Box::new(reported_weights(options)?.clamped())),
    };
    let cursor = cursor(options)?;
    Ok(Policy::WeightedRoundRobin(weighted_round_robin::Config {
        cursor,
        weights,
    }))
}

/// How many metrics can be asked for, and how many bytes the name of each can have.
const MAX_METRICS: usize = 64;
const MAX_METRIC_NAME: usize = 255;

fn reported_weights<'a>(options: Fields<'a>) -> Result<reported_weight::Config, Malformed<'a>> {
    let sources = [
        (atoms::per_call(), Source::PerCall),
        (atoms::out_of_band(), Source::OutOfBand),
    ];
    let names: Term = options.get(atoms::metric_names())?;
    // The length is asked first because rustler panics at an improper tail. Each call that ends with a
    // report looks for each of them, on a normal scheduler.
    let few = names.list_length().is_ok_and(|names| names <= MAX_METRICS);
    let names: Option<Vec<&str>> = few.then(|| names.decode().ok()).flatten();
    let short = |names: &Vec<&str>| names.iter().all(|name| name.len() <= MAX_METRIC_NAME);
    let names = names.filter(short);
    let names = names.ok_or(options.malformed(atoms::metric_names()))?;
    let metrics = names.iter().filter_map(|name| Metric::parse(name));
    Ok(reported_weight::Config {
        blackout_period: options.milliseconds(atoms::blackout_period(), ..)?,
        weight_expiration_period: options.milliseconds(atoms::weight_expiration_period(), ..)?,
        weight_update_period: options.milliseconds(atoms::weight_update_period(), ..)?,
        error_utilization_penalty: options.within(atoms::error_utilization_penalty(), 0.0..)?,
        metrics: metrics.collect(),
        source: options.one_of(atoms::reports(), &sources)?,
    })
}

fn least_request<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    let choices = match options.given(atoms::choices()) {
        Some(all) if atoms::all() == all => Choices::All,
        _ => Choices::Some(options.get(atoms::choices())?),
    };
    Ok(Policy::LeastRequest(least_request::Config {
        choices,
        bias: options.within(atoms::bias(), 0.0..)?,
    }))
}

fn peak_ewma<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    // Of no effect: what is not known is tried.
    options.milliseconds(atoms::default_rtt(), 1..)?;
    Ok(Policy::PeakEwma(peak_ewma::Config {
        decay: options.milliseconds(atoms::decay(), 1..)?,
        penalty: penalty(options)?,
    }))
}

fn ring_hash<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    let min = options.get(atoms::min_ring_size())?;
    let max = options.get(atoms::max_ring_size())?;
    let config = ring_hash::Config::new(min, max);
    let mut config = config.map_err(|_| options.malformed(atoms::min_ring_size()))?;
    config.hash_balance_factor = balance_factor(options)?;
    Ok(Policy::RingHash(config))
}

fn maglev<'a>(options: Fields<'a>) -> Result<Policy, Malformed<'a>> {
    let config = maglev::Config::new(options.get(atoms::table_size())?);
    let mut config = config.map_err(|_| options.malformed(atoms::table_size()))?;
    config.hash_balance_factor = balance_factor(options)?;
    Ok(Policy::Maglev(config))
}

fn balance_factor<'a>(options: Fields<'a>) -> Result<Option<BalanceFactor>, Malformed<'a>> {
    let name = atoms::hash_balance_factor();
    let percent: Option<u32> = options.get(name)?;
    percent
        .map(|percent| BalanceFactor::new(percent).ok_or(options.malformed(name)))
        .transpose()
}

/// `{:times, factor}`, or milliseconds.
fn penalty<'a>(options: Fields<'a>) -> Result<Penalty, Malformed<'a>> {
    let name = atoms::penalty();
    match options.get::<Term>(name)?.decode::<(Atom, f64)>() {
        Ok((kind, factor)) if kind == atoms::times() && factor >= 0.0 => Ok(Penalty::Times(factor)),
        Ok(_) => Err(options.malformed(name)),
        Err(_) => options.milliseconds(name, ..).map(Penalty::Fixed),
    }
}
