//! The NIFs that show balancers to people.
//!
//! A look at all that is known of one takes the writer's lock and copies many terms, so it runs on a
//! dirty scheduler. `summary` takes no lock, and runs on a normal one.

use std::sync::Arc;

use grpc_lb_core::policy::TableSize;
use grpc_lb_core::{BackendInfo, Info, LayerInfo, State, Summary};
use rustler::{Atom, Encoder, Env, Term};

use crate::clock::Clock;
use crate::control::map;
use crate::error::{kind, ArgumentError};
use crate::events::encode_rule;
use crate::registry::{self, Listed};
use crate::value::Value;
use crate::view::{Look, View};
use crate::vm::library::ask_all;
use crate::vm::owner::pid_of;
use crate::vm::{Answer, Object};
use crate::{atoms, decode};

/// `all() -> [[map]]`: a list for each build.
pub(crate) fn all<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    Ok(ask_all(env, c"listed", &[]))
}

/// `find(number) -> [[map]]`: those of [`all`] that have it.
pub(crate) fn find<'a>(env: Env<'a>, [number]: [Term<'a>; 1]) -> Answer<'a> {
    Ok(ask_all(env, c"listed_as", &[number]))
}

/// `listed() -> [map]`: those of this build.
pub(crate) fn listed<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    let all = registry::all().into_iter();
    let all: Vec<Term> = all.map(|listed| encode_listed(env, listed)).collect();
    Ok(all.encode(env))
}

/// `info(balancer) -> map`
pub(crate) fn info<'a, L: Look>(
    env: Env<'a>,
    looked_at: &Object<L>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    let info = L::info(looked_at, env);
    Ok(encode_info(env, &info, looked_at.listed()))
}

/// `name(balancer) -> term`
pub(crate) fn name<'a, L: Look>(
    env: Env<'a>,
    looked_at: &Object<L>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    Ok(encode_name(env, looked_at.listed()))
}

/// `summary(balancer) -> map`, on a normal scheduler: it takes no lock.
pub(crate) fn summary<'a, L: Look>(
    env: Env<'a>,
    looked_at: &Object<L>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    let (
        Summary {
            policy,
            backends,
            closed,
        },
        hashed,
    ) = looked_at.sum_up();
    let fields = [
        (atoms::number(), looked_at.listed().about.number.encode(env)),
        (atoms::policy(), decode::policy_name(policy).encode(env)),
        (atoms::size(), backends.encode(env)),
        (atoms::closed(), closed.encode(env)),
        (atoms::hashed(), hashed.encode(env)),
        (atoms::interned(), looked_at.listed().interns.encode(env)),
    ];
    Ok(map(env, &fields))
}

/// `listed_as(number) -> [map]`: that of this build which has it.
pub(crate) fn listed_as<'a>(env: Env<'a>, [number]: [Term<'a>; 1]) -> Answer<'a> {
    let number = number.decode().map_err(|_| {
        ArgumentError(format!(
            "argument 1 must be a number from 0, got {}",
            kind(number)
        ))
    })?;
    let found: Vec<Term> = registry::find(number)
        .map(|listed| encode_listed(env, listed))
        .into_iter()
        .collect();
    Ok(found.encode(env))
}

fn encode_listed(env: Env, listed: Arc<Listed>) -> Term {
    let view = View::new(Arc::clone(&listed));
    let (summary, _hashed) = view.sum_up();
    let fields = [
        (atoms::number(), listed.about.number.encode(env)),
        (atoms::name(), encode_name(env, &listed)),
        (atoms::balancer(), view.into_term(env)),
        (
            atoms::policy(),
            decode::policy_name(listed.policy).encode(env),
        ),
        (atoms::owner(), listed.owner.map(pid_of).encode(env)),
        (atoms::size(), summary.backends.encode(env)),
        (atoms::closed(), summary.closed.encode(env)),
    ];
    map(env, &fields)
}

fn encode_name<'a>(env: Env<'a>, listed: &Listed) -> Term<'a> {
    let name = listed.about.name.as_ref();
    name.map(|name| name.to_term(env)).encode(env)
}

fn encode_info<'a>(env: Env<'a>, info: &Info<Value>, listed: &Listed) -> Term<'a> {
    let layers = info.layers.iter().map(|layer| encode_layer(env, layer));
    let layers = layers.collect::<Vec<Term>>();
    let backends = info
        .backends
        .iter()
        .map(|backend| encode_backend(env, backend, &listed.clock))
        .collect::<Vec<Term>>();
    let fields = [
        (atoms::name(), encode_name(env, listed)),
        (
            atoms::policy(),
            decode::policy_name(info.policy).encode(env),
        ),
        (atoms::generation(), info.generation.encode(env)),
        (atoms::closed(), info.closed.encode(env)),
        (
            atoms::malformed_reports(),
            info.malformed_reports.encode(env),
        ),
        (atoms::layers(), layers.encode(env)),
        (
            atoms::table(),
            info.table.map(|table| encode_table(env, table)).encode(env),
        ),
        (atoms::backends(), backends.encode(env)),
    ];
    map(env, &fields)
}

fn encode_layer<'a>(env: Env<'a>, layer: &LayerInfo) -> Term<'a> {
    let fields = [
        (atoms::priority(), layer.priority.encode(env)),
        (atoms::locality(), layer.locality.as_deref().encode(env)),
        (atoms::share(), layer.share.encode(env)),
        (atoms::backends(), layer.backends.encode(env)),
        (atoms::healthy(), layer.healthy.encode(env)),
        (atoms::panics(), layer.panics.encode(env)),
    ];
    map(env, &fields)
}

fn encode_table(env: Env, table: TableSize) -> Term {
    let fields = [
        (atoms::entries(), table.entries),
        (atoms::bytes(), table.bytes),
    ];
    map(env, &fields)
}

fn encode_backend<'a>(env: Env<'a>, backend: &BackendInfo<Value>, clock: &Clock) -> Term<'a> {
    let latency = backend.latency_ns.map(|latency| latency.round() as u64);
    let oldest = backend
        .oldest_in_flight
        .map(|began| clock.now().since(began).as_millis() as u64);
    let ejected_until = backend.ejected_until.map(|time| {
        let left = time.since(clock.now()).as_nanos().div_ceil(1_000_000);
        left as u64
    });
    let fields = [
        (atoms::id(), backend.id.to_term(env)),
        (atoms::value(), backend.value.to_term(env)),
        (atoms::state(), encode_state(backend).encode(env)),
        (atoms::owner(), backend.owner.map(pid_of).encode(env)),
        (atoms::in_subset(), backend.in_subset.encode(env)),
        (atoms::priority(), backend.priority.encode(env)),
        (atoms::locality(), backend.locality.as_deref().encode(env)),
        (atoms::weight(), backend.weight.encode(env)),
        (atoms::current_weight(), backend.current_weight.encode(env)),
        (atoms::table_share(), backend.table_share.encode(env)),
        (atoms::picks(), backend.picks.encode(env)),
        (atoms::in_flight(), backend.in_flight.encode(env)),
        (atoms::oldest_in_flight(), oldest.encode(env)),
        (atoms::latency_ns(), latency.encode(env)),
        (atoms::successes(), backend.successes.encode(env)),
        (atoms::failures(), backend.failures.encode(env)),
        (atoms::ejected_until(), ejected_until.encode(env)),
        (
            atoms::ejected_by(),
            backend.ejected_by.map(encode_rule).encode(env),
        ),
        (atoms::times_ejected(), backend.times_ejected.encode(env)),
    ];
    map(env, &fields)
}

fn encode_state(backend: &BackendInfo<Value>) -> Atom {
    match backend.state {
        _ if backend.owner_dead => atoms::down(),
        State::Ready if backend.ejected_until.is_some() => atoms::ejected(),
        State::Ready => atoms::ready(),
        State::Connecting => atoms::connecting(),
        State::TransientFailure => atoms::transient_failure(),
        State::Draining => atoms::draining(),
    }
}
