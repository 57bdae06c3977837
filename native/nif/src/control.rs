//! The NIFs that make, change and describe balancers.
//!
//! They take the writer's lock and may copy many terms, so they run on dirty schedulers, however
//! small their arguments: a normal scheduler never waits for a reconcile.

use grpc_lb_core::load::orca::LoadReport;
use grpc_lb_core::{BackendInfo, Balancer, ChangeError, Changes, Info, MemberError, State};
use rustler::{Atom, Binary, Encoder, Env, NifResult, Term};

use crate::decode::Settings;
use crate::error::ArgumentError;
use crate::resource::{get, pid_of, Found, Handle, Monitors, Object};
use crate::value::{live_environments, Offered, Value};
use crate::{atoms, clock, decode, library, ticker};

/// `new(policy, backends, settings) -> {:ok, balancer}`
#[rustler::nif(schedule = "DirtyCpu")]
fn new<'a>(
    env: Env<'a>,
    policy: Term<'a>,
    backends: Term<'a>,
    settings: Term<'a>,
) -> NifResult<Term<'a>> {
    let policy = decode::policy(policy)?;
    let backends = decode::backends(backends, 2)?;
    let Settings { config, owner } = decode::settings(policy, settings)?;
    let is_timed = config.is_timed();
    let now = clock::now();
    let handle = Handle::new(Balancer::new(config, fastrand::u64(..), now));
    let object = handle.object();
    let monitors = Monitors::new(env, object);
    object
        .balancer
        .reconcile(&backends, &monitors, now)
        .map_err(refused)?;
    if let Some(owner) = owner {
        object.balancer.set_owner(owner, &monitors);
    }
    if is_timed {
        ticker::adopt(&object.balancer);
        wake_ticker(env, object);
    }
    Ok((atoms::ok(), handle.to_term(env)).encode(env))
}

/// `reconcile(balancer, backends) -> {:ok, changes} | {:error, :closed}`
#[rustler::nif(schedule = "DirtyCpu")]
fn reconcile<'a>(env: Env<'a>, balancer: Term<'a>, backends: Term<'a>) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => {
            return Ok(library.serve(env, c"reconcile", &[balancer, backends])?);
        }
    };
    let backends = decode::backends(backends, 2)?;
    let monitors = Monitors::new(env, object);
    let changed = object
        .balancer
        .reconcile(&backends, &monitors, clock::now());
    wake_ticker(env, object);
    encode_changes(env, changed)
}

/// `add(balancer, backends) -> {:ok, changes} | {:error, :closed}`
#[rustler::nif(schedule = "DirtyCpu")]
fn add<'a>(env: Env<'a>, balancer: Term<'a>, backends: Term<'a>) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => {
            return Ok(library.serve(env, c"add", &[balancer, backends])?);
        }
    };
    let backends = decode::backends(backends, 2)?;
    let monitors = Monitors::new(env, object);
    let changed = object.balancer.add(&backends, &monitors, clock::now());
    wake_ticker(env, object);
    encode_changes(env, changed)
}

/// `remove(balancer, ids) -> {:ok, changes} | {:error, :closed}`
#[rustler::nif(schedule = "DirtyCpu")]
fn remove<'a>(env: Env<'a>, balancer: Term<'a>, ids: Term<'a>) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => {
            return Ok(library.serve(env, c"remove", &[balancer, ids])?);
        }
    };
    let ids = decode::ids(ids, 2)?;
    let monitors = Monitors::new(env, object);
    encode_changes(env, object.balancer.remove(&ids, &monitors))
}

/// `set_state(balancer, id, state) -> :ok | {:error, :not_found | :closed}`
#[rustler::nif(schedule = "DirtyCpu")]
fn set_state<'a>(
    env: Env<'a>,
    balancer: Term<'a>,
    id: Term<'a>,
    state: Term<'a>,
) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => {
            return Ok(library.serve(env, c"set_state", &[balancer, id, state])?);
        }
    };
    let state = decode::state(state)?;
    let monitors = Monitors::new(env, object);
    let set = object
        .balancer
        .set_state(&Offered(id), state, &monitors, clock::now());
    wake_ticker(env, object);
    Ok(encode_said(env, set))
}

/// `report(balancer, id, report) -> :ok | {:error, :not_found | :closed}`
#[rustler::nif(schedule = "DirtyCpu")]
fn report<'a>(
    env: Env<'a>,
    balancer: Term<'a>,
    id: Term<'a>,
    load: Term<'a>,
) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => {
            return Ok(library.serve(env, c"report", &[balancer, id, load])?);
        }
    };
    let binary = load.decode::<Binary>();
    let decoded;
    let load_report = match &binary {
        Ok(bytes) => LoadReport::Bytes(bytes.as_slice()),
        Err(_) => {
            decoded = decode::decoded_report(load, 3)?;
            LoadReport::Decoded(&decoded)
        }
    };
    let monitors = Monitors::new(env, object);
    let said = object
        .balancer
        .report(&Offered(id), load_report, &monitors, clock::now());
    Ok(encode_said(env, said))
}

/// `tick() -> milliseconds | :infinity`
#[rustler::nif(schedule = "DirtyCpu")]
fn tick(env: Env) -> Term {
    match library::tick(env) {
        None => atoms::infinity().encode(env),
        // A process cannot wait longer; to look early does no harm.
        Some(nanoseconds) => {
            let milliseconds = nanoseconds.div_ceil(1_000_000);
            milliseconds.min(u64::from(u32::MAX)).encode(env)
        }
    }
}

/// `info(balancer) -> map`
#[rustler::nif(schedule = "DirtyCpu")]
fn info<'a>(env: Env<'a>, balancer: Term<'a>) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => return Ok(library.serve(env, c"info", &[balancer])?),
    };
    let info = object.balancer.info(&Monitors::new(env, object));
    encode_info(env, &info)
}

/// `close(balancer) -> :ok`
#[rustler::nif(schedule = "DirtyCpu")]
fn close<'a>(env: Env<'a>, balancer: Term<'a>) -> NifResult<Term<'a>> {
    let object = match get(env, balancer)? {
        Found::Ours(object) => object,
        Found::Foreign(library) => return Ok(library.serve(env, c"close", &[balancer])?),
    };
    object.balancer.close(&Monitors::new(env, object));
    Ok(atoms::ok().encode(env))
}

/// `live_counts() -> map`
#[rustler::nif]
fn live_counts(env: Env) -> NifResult<Term> {
    let live = grpc_lb_core::live_counts();
    let counts = [
        (atoms::balancers(), live.balancers),
        (atoms::snapshots(), live.snapshots),
        (atoms::values(), live_environments()),
        (atoms::tickets(), live.tickets),
    ];
    Term::map_from_pairs(env, &counts)
}

/// Has the process woken that looks after what time drives, if a change made it due earlier.
fn wake_ticker(env: Env, object: &Object) {
    ticker::wake(env.as_c_arg(), object.balancer.due());
}

fn encode_said(env: Env, said: Result<(), MemberError>) -> Term {
    match said {
        Ok(()) => atoms::ok().encode(env),
        Err(MemberError::NotFound) => (atoms::error(), atoms::not_found()).encode(env),
        Err(MemberError::Closed) => (atoms::error(), atoms::closed()).encode(env),
    }
}

fn refused(error: ChangeError) -> ArgumentError {
    ArgumentError(error.to_string())
}

fn encode_changes(env: Env, changed: Result<Changes, ChangeError>) -> NifResult<Term> {
    let changes = match changed {
        Ok(changes) => changes,
        Err(ChangeError::Closed) => return Ok((atoms::error(), atoms::closed()).encode(env)),
        Err(error) => return Err(refused(error).into()),
    };
    let changes = [
        (atoms::added(), changes.added),
        (atoms::removed(), changes.removed),
        (atoms::kept(), changes.kept),
    ];
    Ok((atoms::ok(), Term::map_from_pairs(env, &changes)?).encode(env))
}

fn encode_info<'a>(env: Env<'a>, info: &Info<Value>) -> NifResult<Term<'a>> {
    let backends = info
        .backends
        .iter()
        .map(|backend| encode_backend(env, backend))
        .collect::<NifResult<Vec<Term>>>()?;
    let fields = [
        (
            atoms::policy(),
            Atom::from_str(env, info.policy)?.encode(env),
        ),
        (atoms::generation(), info.generation.encode(env)),
        (atoms::closed(), info.closed.encode(env)),
        (
            atoms::malformed_reports(),
            info.malformed_reports.encode(env),
        ),
        (atoms::backends(), backends.encode(env)),
    ];
    Term::map_from_pairs(env, &fields)
}

fn encode_backend<'a>(env: Env<'a>, backend: &BackendInfo<Value>) -> NifResult<Term<'a>> {
    let weight = match backend.current_weight {
        Some(weight) if weight == f64::from(backend.weight) => backend.weight.encode(env),
        weight => weight.unwrap_or_default().encode(env),
    };
    let latency = backend.latency_ns.map(|latency| latency.round() as u64);
    let fields = [
        (atoms::id(), backend.id.to_term(env)),
        (atoms::value(), backend.value.to_term(env)),
        (atoms::state(), encode_state(backend).encode(env)),
        (atoms::owner(), backend.owner.map(pid_of).encode(env)),
        (atoms::weight(), weight),
        (atoms::picks(), backend.picks.encode(env)),
        (atoms::in_flight(), backend.in_flight.encode(env)),
        (atoms::latency_ns(), latency.encode(env)),
        (atoms::successes(), backend.successes.encode(env)),
        (atoms::failures(), backend.failures.encode(env)),
        (
            atoms::ejected_until(),
            backend.ejected_until.map(clock::milliseconds).encode(env),
        ),
        (atoms::times_ejected(), backend.times_ejected.encode(env)),
    ];
    Term::map_from_pairs(env, &fields)
}

fn encode_state(backend: &BackendInfo<Value>) -> Atom {
    match backend.state {
        _ if backend.owner_dead => atoms::down(),
        State::Ready => atoms::ready(),
        State::Connecting => atoms::connecting(),
        State::TransientFailure => atoms::transient_failure(),
        State::Draining => atoms::draining(),
    }
}
