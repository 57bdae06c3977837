//! The NIFs that make, change and describe balancers.
//!
//! They take the writer's lock and may copy many terms, so they run on dirty schedulers, however
//! small their arguments: a normal scheduler never waits for a reconcile.

use grpc_lb_core::{BackendInfo, Balancer, ChangeError, Changes, Config, Info, State};
use rustler::{Atom, Encoder, Env, NifResult, Term};

use crate::error::{kind, ArgumentError};
use crate::resource::{get, pid_of, Found, Handle, Monitors};
use crate::value::{live_environments, Value};
use crate::{atoms, decode};

/// `new(policy, backends, owner, on_owner_death) -> {:ok, balancer}`
#[rustler::nif(schedule = "DirtyCpu")]
fn new<'a>(
    env: Env<'a>,
    policy: Term<'a>,
    backends: Term<'a>,
    owner: Term<'a>,
    on_owner_death: Term<'a>,
) -> NifResult<Term<'a>> {
    let policy = decode::policy(policy)?;
    let backends = decode::backends(backends, 2)?;
    let Some(owner) = decode::optional_owner(owner) else {
        return Err(ArgumentError(format!(
            "argument 3, the owner, must be nil or a pid of this node, got {}",
            kind(owner)
        ))
        .into());
    };
    let on_owner_death = decode::on_owner_death(on_owner_death)?;
    let config = Config {
        policy,
        on_owner_death,
    };
    let handle = Handle::new(Balancer::new(config, fastrand::u64(..)));
    let object = handle.object();
    let monitors = Monitors::new(env, object);
    object
        .balancer
        .reconcile(&backends, &monitors)
        .map_err(refused)?;
    if let Some(owner) = owner {
        object.balancer.set_owner(owner, &monitors);
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
    encode_changes(env, object.balancer.reconcile(&backends, &monitors))
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
    encode_changes(env, object.balancer.add(&backends, &monitors))
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
    ];
    Term::map_from_pairs(env, &counts)
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
        (atoms::backends(), backends.encode(env)),
    ];
    Term::map_from_pairs(env, &fields)
}

fn encode_backend<'a>(env: Env<'a>, backend: &BackendInfo<Value>) -> NifResult<Term<'a>> {
    let state = match backend.state {
        State::Ready => atoms::ready(),
        State::Down => atoms::down(),
    };
    let fields = [
        (atoms::id(), backend.id.to_term(env)),
        (atoms::value(), backend.value.to_term(env)),
        (atoms::state(), state.encode(env)),
        (atoms::owner(), backend.owner.map(pid_of).encode(env)),
        (atoms::weight(), backend.weight.encode(env)),
        (atoms::picks(), backend.picks.encode(env)),
    ];
    Term::map_from_pairs(env, &fields)
}
