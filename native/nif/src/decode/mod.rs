//! Policies, settings, backends and reports out of terms, as `GrpcLb.Native` documents them.
//!
//! `GrpcLb` validates what users write and never sends anything else; what is refused here came
//! from a direct call.

mod policy;
mod report;
mod settings;

use grpc_lb_core::{Backend, Owner, State};
use rustler::{Atom, Decoder, ListIterator, LocalPid, NifResult, Term};

pub(crate) use self::policy::policy;
pub(crate) use self::report::decoded_report;
pub(crate) use self::settings::{settings, Settings};
use crate::atoms;
use crate::error::{kind, ArgumentError};
use crate::resource::owner_of;
use crate::value::Offered;

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
    // The length is asked first because the iterator panics at an improper tail.
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
        state: None,
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

/// `:ready | :connecting | :transient_failure | :draining`
pub(crate) fn state(term: Term) -> Result<State, ArgumentError> {
    let known = [
        (atoms::ready(), State::Ready),
        (atoms::connecting(), State::Connecting),
        (atoms::transient_failure(), State::TransientFailure),
        (atoms::draining(), State::Draining),
    ];
    known
        .into_iter()
        .find(|(atom, _)| is(term, *atom))
        .map(|(_, state)| state)
        .ok_or_else(|| {
            ArgumentError(format!(
                "argument 3, the state, must be :ready, :connecting, :transient_failure or \
                 :draining, got {}",
                kind(term)
            ))
        })
}

/// A proper list, all of one type.
fn all<'a, R: Decoder<'a>>(term: Term<'a>) -> NifResult<Vec<R>> {
    // As in `proper_list`.
    term.list_length()?;
    term.decode()
}

fn is(term: Term, atom: Atom) -> bool {
    term.decode::<Atom>().is_ok_and(|other| other == atom)
}

/// `nil` or what `decode` makes of another term.
fn optional<'a, R>(
    term: Term<'a>,
    decode: impl FnOnce(Term<'a>) -> Result<R, ArgumentError>,
) -> Result<Option<R>, ArgumentError> {
    match is(term, atoms::nil()) {
        true => Ok(None),
        false => decode(term).map(Some),
    }
}
