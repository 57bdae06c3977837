//! The NIFs that make and change balancers.
//!
//! They take the writer's lock and may copy many terms, so they run on dirty schedulers: a normal
//! scheduler never waits for a reconcile. A small change of the list is tried on a normal one first, where
//! it is done if it is one, and the lock is free; and what takes no lock, `live_counts` and `manual_clock`, runs
//! there.

use grpc_lb_core::load::orca::LoadReport;
use grpc_lb_core::{
    Busy, ChangeError, Changes, ConfigureError, Configured, Drained, Draws, Garbage, MemberError,
    Offers, Seen,
};
use rustler::{Atom, Encoder, Env, Term};

use crate::balancer::{remove_dead, Balancer};
use crate::clock::ClockReference;
use crate::decode::{Backends, Refused, Settings, TURN};
use crate::error::ArgumentError;
use crate::line::tell_of_change;
use crate::turns::{charge, look, look_on, Purpose};
use crate::value::{Core, Value};
use crate::vm::dispatch::on_object;
use crate::vm::function::{nif, Function};
use crate::vm::go_on::go_on_copied;
use crate::vm::library::tick_all;
use crate::vm::literal::live_slots;
use crate::vm::owner::{owner_of, Monitors};
use crate::vm::term::{bytes, live_environments};
use crate::vm::worker::hand_over;
use crate::vm::{self, Answer, Handle, Object};
use crate::{atoms, decode, events, ticker};

/// `new(policy, backends, settings) -> {:ok, balancer}`
pub(crate) fn new<'a>(env: Env<'a>, [policy, backends, settings]: [Term<'a>; 3]) -> Answer<'a> {
    let policy = decode::policy(policy)?;
    let Settings {
        config,
        owner,
        seed,
        clock,
        name,
        interns,
    } = decode::settings(policy, settings)?;
    let now = clock.now();
    let core = Core::new(config, seed.unwrap_or_else(|| fastrand::u64(..)), now);
    core.listen(events::are_listened_to());
    let draws = seed.map(Draws::new);
    let balancer = Handle::new(Balancer::new(core, clock, name, owner, draws, interns));
    let monitors = Monitors::new(env, &balancer);
    let backends = Backends::new(&balancer, backends, 2)?;
    balancer
        .reconcile_from(backends, &monitors, now)
        .map_err(refused)?;
    if let Some(owner) = owner {
        balancer.set_owner(owner, &monitors);
    }
    balancer.show();
    ticker::adopt(env, &balancer);
    ticker::wake(env, &balancer);
    Ok((atoms::ok(), balancer.to_term(env)).encode(env))
}

/// `reconcile(balancer, backends) -> {:ok, changes} | {:error, :closed}`
pub(crate) fn reconcile<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Answer<'a> {
    let changed = balancer.reconcile_from(
        Backends::new(balancer, backends, 2)?,
        &Monitors::new(env, balancer),
        balancer.clock().now(),
    );
    follow_up(env, balancer);
    encode_changes(env, changed)
}

/// `reconcile` on a normal scheduler, in turns of some tenths of a millisecond at most, if nobody else is
/// changing the balancer meanwhile.
pub(crate) fn try_reconcile<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Option<Answer<'a>> {
    let offered = match Backends::of_at_most(Seen::LONGEST, balancer, backends, 2)? {
        Ok(offered) => offered,
        Err(error) => return Some(Err(error)),
    };
    match offered.total() {
        ..=TURN => try_at_once(env, balancer, offered.brief(), None),
        total => Some(look::<Reconcile>(env, balancer, backends, total)),
    }
}

/// `reconcile` of a long list.
enum Reconcile {}

impl Purpose for Reconcile {
    const LOOK_ON: Function = nif!(
        Normal,
        reconcile,
        4,
        |env, [balancer, list, rest, state]| {
            let go_on = look_on::<Reconcile>;
            on_object::<Balancer, 3>(env, Self::NAME, balancer, [list, rest, state], go_on)
        }
    );
    const LISTED: bool = false;

    fn finish<'a>(
        env: Env<'a>,
        balancer: &Object<Balancer>,
        list: Term<'a>,
        seen: &Seen,
    ) -> Option<Answer<'a>> {
        let offered = Backends::rest(balancer, list, 0, seen.position as usize);
        try_at_once(env, balancer, offered.known(), Some(seen))
    }

    fn give_up<'a>(env: Env<'a>, balancer: &Object<Balancer>, list: Term<'a>) -> Answer<'a> {
        const RECONCILE: Function = nif!(DirtyCpu, reconcile, 2, |env, [balancer, backends]| {
            on_object::<Balancer, 1>(env, Self::NAME, balancer, [backends], reconcile)
        });
        Ok(go_on_copied(env, &RECONCILE, balancer, &[list]).to_term(env))
    }
}

/// `reconcile_listed(balancer, backends) -> {:ok, changes} | {:error, :closed} | :unfinished`: `reconcile`, if
/// each backend is listed as it is offered, and if it is done on a normal scheduler.
pub(crate) fn reconcile_listed<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Answer<'a> {
    let offered = Backends::of_at_most(Seen::LONGEST, balancer, backends, 2).transpose()?;
    let done = offered.and_then(|offered| match offered.total() {
        ..=TURN => try_at_once(env, balancer, offered.listed(), None),
        total => Some(look::<ReconcileListed>(env, balancer, backends, total)),
    });
    done.unwrap_or_else(|| ReconcileListed::give_up(env, balancer, backends))
}

/// `reconcile_listed` of a long list.
enum ReconcileListed {}

impl Purpose for ReconcileListed {
    const LOOK_ON: Function = nif!(
        Normal,
        reconcile_listed,
        4,
        |env, [balancer, list, rest, state]| {
            let go_on = look_on::<ReconcileListed>;
            on_object::<Balancer, 3>(env, Self::NAME, balancer, [list, rest, state], go_on)
        }
    );
    const LISTED: bool = true;

    fn finish<'a>(
        env: Env<'a>,
        balancer: &Object<Balancer>,
        list: Term<'a>,
        seen: &Seen,
    ) -> Option<Answer<'a>> {
        Reconcile::finish(env, balancer, list, seen)
    }

    fn give_up<'a>(env: Env<'a>, _balancer: &Object<Balancer>, _list: Term<'a>) -> Answer<'a> {
        Ok(atoms::unfinished().encode(env))
    }
}

/// Changes the list on a normal scheduler. `None` where that is not to be done there.
fn try_at_once<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    offered: Backends<'a, '_>,
    seen: Option<&Seen>,
) -> Option<Answer<'a>> {
    charge(env, offered.total());
    let monitors = Monitors::new(env, balancer);
    let now = balancer.clock().now();
    let died = || remove_dead(balancer, &monitors);
    let changed = match balancer.try_reconcile_from(offered, seen, &monitors, now, died) {
        Err(Refused::Busy) => return None,
        Ok((changes, garbage)) => {
            drop_in_time(balancer, garbage);
            Ok(changes)
        }
        Err(refused) => Err(refused),
    };
    follow_up(env, balancer);
    Some(encode_changes(env, changed))
}

/// Drops what a change on a normal scheduler leaves behind.
fn drop_in_time(balancer: &Balancer, garbage: Garbage<Value>) {
    if balancer.is_much(garbage.len()) {
        hand_over(move || drop(garbage));
    }
}

/// `reconcile_draining(balancer, backends, leaving) -> {:ok, changes, [number | :drained | :uncounted | nil]} | {:error, :closed}`
pub(crate) fn reconcile_draining<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends, leaving]: [Term<'a>; 2],
) -> Answer<'a> {
    let leaving = decode::ids(leaving, 3)?;
    let changed = balancer.reconcile_draining_from(
        Backends::new(balancer, backends, 2)?,
        &leaving,
        owner_of(env.pid()),
        &Monitors::new(env, balancer),
        balancer.clock().now(),
    );
    follow_up(env, balancer);
    let (changes, drained) = match changed {
        Ok(changed) => changed,
        Err(error) => return not_changed(env, error),
    };
    let drained = drained.into_iter().map(|drained| match drained {
        Some(Drained::Later(number)) => number.encode(env),
        Some(Drained::Now) => atoms::drained().encode(env),
        Some(Drained::Unknown) => atoms::uncounted().encode(env),
        None => atoms::nil().encode(env),
    });
    let drained: Vec<Term> = drained.collect();
    Ok((atoms::ok(), changes_map(env, changes), drained).encode(env))
}

/// `add(balancer, backends) -> {:ok, changes} | {:error, :closed}`
pub(crate) fn add<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Answer<'a> {
    let changed = balancer.add_from(
        Backends::new(balancer, backends, 2)?,
        &Monitors::new(env, balancer),
        balancer.clock().now(),
    );
    follow_up(env, balancer);
    encode_changes(env, changed)
}

/// `remove(balancer, ids) -> {:ok, changes} | {:error, :closed}`
pub(crate) fn remove<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [ids]: [Term<'a>; 1],
) -> Answer<'a> {
    let ids = decode::ids(ids, 2)?;
    let now = balancer.clock().now();
    let changed = balancer.remove(&ids, &Monitors::new(env, balancer), now);
    follow_up(env, balancer);
    encode_changes(env, changed.map_err(Refused::Change))
}

/// `set_state(balancer, id, state) -> :ok | {:error, :not_found | :closed}`
pub(crate) fn set_state<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [id, state]: [Term<'a>; 2],
) -> Answer<'a> {
    let (id, state) = (
        decode::id(id, || "argument 2, the id,".into())?,
        decode::state(state)?,
    );
    let monitors = Monitors::new(env, balancer);
    let set = balancer.set_state(&id, state, &monitors, balancer.clock().now());
    follow_up(env, balancer);
    Ok(encode_said(env, set))
}

/// `configure(balancer, changes) -> {:ok, :changed | :unchanged} | {:error, :closed}`
pub(crate) fn configure<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [changes]: [Term<'a>; 1],
) -> Answer<'a> {
    let changes = decode::changes(changes)?;
    let monitors = Monitors::new(env, balancer);
    let configured = balancer.configure(
        |config| changes.apply(config),
        &monitors,
        balancer.clock().now(),
    );
    ticker::adopt(env, balancer);
    follow_up(env, balancer);
    let configured = match configured {
        Ok(Configured::Changed) => (atoms::ok(), atoms::changed()),
        Ok(Configured::Unchanged) => (atoms::ok(), atoms::unchanged()),
        Err(ConfigureError::Closed) => (atoms::error(), atoms::closed()),
        Err(error) => return Err(ArgumentError(error.to_string())),
    };
    Ok(configured.encode(env))
}

/// `report(balancer, id, report) -> :ok | {:error, :not_found | :closed}`
pub(crate) fn report<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [id, report]: [Term<'a>; 2],
) -> Answer<'a> {
    let id = decode::id(id, || "argument 2, the id,".into())?;
    let decoded;
    let report = match bytes(report) {
        Some(bytes) => LoadReport::Bytes(bytes),
        None => {
            decoded = decode::report(report, 3)?;
            LoadReport::Decoded(&decoded)
        }
    };
    let monitors = Monitors::new(env, balancer);
    let said = balancer.report(&id, report, &monitors, balancer.clock().now());
    Ok(encode_said(env, said))
}

/// `tick() -> milliseconds | :infinity`
pub(crate) fn tick<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    let left = tick_all(env);
    events::ring_all(env);
    Ok(match left {
        None => atoms::infinity().encode(env),
        // A process cannot wait longer; to look early does no harm.
        Some(left) => {
            let milliseconds = left.as_nanos().div_ceil(1_000_000);
            milliseconds.try_into().unwrap_or(u32::MAX).encode(env)
        }
    })
}

/// `successes(balancer, id) -> count`
pub(crate) fn successes<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [id]: [Term<'a>; 1],
) -> Answer<'a> {
    let id = decode::id(id, || "argument 2, the id,".into())?;
    let successes = balancer.successes(&id, &Monitors::new(env, balancer));
    Ok(successes.unwrap_or(0).encode(env))
}

/// `close(balancer) -> :ok`
pub(crate) fn close<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    balancer.close(&Monitors::new(env, balancer));
    follow_up(env, balancer);
    Ok(atoms::ok().encode(env))
}

/// `close_draining(balancer) -> {:ok, number | nil}`
pub(crate) fn close_draining<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    let who = owner_of(env.pid());
    let number = balancer.close_draining(who, &Monitors::new(env, balancer));
    follow_up(env, balancer);
    let number = match number {
        Some(number) => number.encode(env),
        None => atoms::nil().encode(env),
    };
    Ok((atoms::ok(), number).encode(env))
}

/// `manual_clock() -> clock`
pub(crate) fn manual_clock<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    Ok(Handle::new(ClockReference::new()).to_term(env))
}

/// `subset(texts, size, seed) -> indices`
pub(crate) fn subset<'a>(env: Env<'a>, [texts, size, seed]: [Term<'a>; 3]) -> Answer<'a> {
    let texts = decode::texts(texts, 1)?;
    let number = |term: Term, argument| -> Result<u64, ArgumentError> {
        let refused = |_| ArgumentError(format!("argument {argument} must be an integer from 0"));
        term.decode().map_err(refused)
    };
    let size = usize::try_from(number(size, 2)?).unwrap_or(usize::MAX);
    Ok(grpc_lb_core::subset::subset(&texts, number(seed, 3)?, size).encode(env))
}

/// `library() -> {version, abi}`
pub(crate) fn library<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    Ok((env!("CARGO_PKG_VERSION"), vm::ABI).encode(env))
}

/// `live_counts() -> map`
pub(crate) fn live_counts<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    let live = grpc_lb_core::live_counts();
    let counts = [
        (atoms::balancers(), live.balancers),
        (atoms::snapshots(), live.snapshots),
        (atoms::values(), live_environments()),
        (atoms::slots(), live_slots()),
        (atoms::tickets(), live.tickets),
    ];
    Ok(map(env, &counts))
}

/// Has others do what a change calls for.
fn follow_up(env: Env, balancer: &Balancer) {
    ticker::wake(env, balancer);
    tell_of_change(env, balancer);
}

fn encode_said(env: Env, said: Result<(), MemberError>) -> Term {
    match said {
        Ok(()) => atoms::ok().encode(env),
        Err(MemberError::NotFound) => (atoms::error(), atoms::not_found()).encode(env),
        Err(MemberError::Closed) => (atoms::error(), atoms::closed()).encode(env),
    }
}

/// The error of an argument. `Busy` is asked for nowhere else than on a normal scheduler.
fn refused(refused: Refused) -> ArgumentError {
    match refused {
        Refused::Argument(error) => error,
        Refused::Change(error) => ArgumentError(error.to_string()),
        Refused::Busy => ArgumentError(Busy.to_string()),
    }
}

fn encode_changes(env: Env, changed: Result<Changes, Refused>) -> Answer {
    match changed {
        Ok(changes) => Ok((atoms::ok(), changes_map(env, changes)).encode(env)),
        Err(error) => not_changed(env, error),
    }
}

fn not_changed(env: Env, error: Refused) -> Answer {
    match error {
        Refused::Change(ChangeError::Closed) => Ok((atoms::error(), atoms::closed()).encode(env)),
        error => Err(refused(error)),
    }
}

fn changes_map(env: Env, changes: Changes) -> Term {
    let changes = [
        (atoms::added(), changes.added),
        (atoms::removed(), changes.removed),
        (atoms::kept(), changes.kept),
    ];
    map(env, &changes)
}

pub(crate) fn map<'a>(env: Env<'a>, fields: &[(Atom, impl Encoder)]) -> Term<'a> {
    Term::map_from_pairs(env, fields).expect("the keys differ")
}
