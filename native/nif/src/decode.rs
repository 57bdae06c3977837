//! Policies and backends out of terms, as `GrpcLb.Native` documents them.
//!
//! `GrpcLb` validates what users write and never sends anything else; what is refused here came
//! from a direct call.

use grpc_lb_core::policy::{pick_first, round_robin, Policy};
use grpc_lb_core::{Backend, OnOwnerDeath, Owner};
use rustler::{Atom, ListIterator, LocalPid, Term};

use crate::atoms;
use crate::error::{kind, ArgumentError};
use crate::library::schedulers;
use crate::resource::owner_of;
use crate::value::Offered;

/// `:random | {:pick_first, shuffle} | {:round_robin, cursor, start, on_reconcile}`
pub(crate) fn policy(term: Term) -> Result<Policy, ArgumentError> {
    let is = |term: Term, atom: Atom| term.decode::<Atom>().is_ok_and(|other| other == atom);
    if is(term, atoms::random()) {
        return Ok(Policy::Random);
    }
    if let Ok((name, shuffle)) = term.decode::<(Term, bool)>() {
        if is(name, atoms::pick_first()) {
            return Ok(Policy::PickFirst(pick_first::Config { shuffle }));
        }
    }
    if let Ok((name, cursor, start, on_reconcile)) = term.decode::<(Term, Atom, Atom, Atom)>() {
        if is(name, atoms::round_robin()) {
            return round_robin(cursor, start, on_reconcile);
        }
    }
    Err(ArgumentError(
        "argument 1 is not a policy: expected :random, {:pick_first, shuffle} or {:round_robin, \
         cursor, start, on_reconcile}"
            .into(),
    ))
}

fn round_robin(cursor: Atom, start: Atom, on_reconcile: Atom) -> Result<Policy, ArgumentError> {
    use round_robin::{Config, CursorKind, OnReconcile, Start};

    let cursor = if cursor == atoms::shared() {
        CursorKind::Shared
    } else if cursor == atoms::per_scheduler() {
        CursorKind::PerCaller(schedulers())
    } else {
        return Err(ArgumentError(
            "the cursor of round_robin must be :shared or :per_scheduler".into(),
        ));
    };
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

/// `:keep | :remove`
pub(crate) fn on_owner_death(term: Term) -> Result<OnOwnerDeath, ArgumentError> {
    match term.decode::<Atom>() {
        Ok(atom) if atom == atoms::keep() => Ok(OnOwnerDeath::Keep),
        Ok(atom) if atom == atoms::remove() => Ok(OnOwnerDeath::Remove),
        _ => Err(ArgumentError(
            "argument 4, what to do on the death of an owner, must be :keep or :remove".into(),
        )),
    }
}

/// A list of `{id, value, owner, weight}`; `argument` is its number among the arguments.
pub(crate) fn backends<'a>(
    term: Term<'a>,
    argument: usize,
) -> Result<Vec<Backend<Offered<'a>>>, ArgumentError> {
    let backends = proper_list(term, argument, "backends")?.enumerate();
    backends
        .map(|(position, term)| backend(position, term))
        .collect()
}

/// A list of ids.
pub(crate) fn ids<'a>(term: Term<'a>, argument: usize) -> Result<Vec<Offered<'a>>, ArgumentError> {
    let ids = proper_list(term, argument, "ids")?;
    Ok(ids.map(Offered).collect())
}

fn proper_list<'a>(
    term: Term<'a>,
    argument: usize,
    of: &str,
) -> Result<ListIterator<'a>, ArgumentError> {
    // The length is asked first because the iterator stops at an improper tail without a word.
    if term.list_length().is_err() {
        let given = if term.is_list() {
            "an improper list"
        } else {
            kind(term)
        };
        return Err(ArgumentError(format!(
            "argument {argument} must be a proper list of {of}, got {given}"
        )));
    }
    Ok(term.into_list_iterator().expect("it is a list"))
}

fn backend(position: usize, term: Term) -> Result<Backend<Offered>, ArgumentError> {
    let Ok((id, value, owner, weight)) = term.decode::<(Term, Term, Term, Term)>() else {
        return Err(ArgumentError(format!(
            "backend {position} must be {{id, value, owner, weight}}, got {}",
            kind(term)
        )));
    };
    let Some(owner) = optional_owner(owner) else {
        return Err(ArgumentError(format!(
            "the owner of backend {position} must be nil or a pid of this node, got {}",
            kind(owner)
        )));
    };
    let weight = match weight.decode::<u32>() {
        Ok(weight) if weight > 0 => weight,
        _ => {
            return Err(ArgumentError(format!(
                "the weight of backend {position} must be an integer from 1 to 4294967295"
            )))
        }
    };
    Ok(Backend {
        id: Offered(id),
        value: Offered(value),
        owner,
        weight,
    })
}

/// `nil` or a pid of this node.
pub(crate) fn optional_owner(term: Term) -> Option<Option<Owner>> {
    if term.decode::<Atom>().is_ok_and(|atom| atom == atoms::nil()) {
        return Some(None);
    }
    term.decode::<LocalPid>()
        .ok()
        .map(|pid| Some(owner_of(pid)))
}
