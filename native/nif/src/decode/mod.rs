//! Policies, settings, backends and reports out of terms, as `GrpcLb.Native` documents them.
//!
//! `GrpcLb` has validated what users write. What is refused here came from a direct call, and would
//! break the core.

mod backends;
mod fields;
mod lists;
mod policy;
mod report;
mod settings;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::State;
use rustler::Term;

use self::backends::{states, VALUE, WORDS};
pub(crate) use self::backends::{Backends, Refused, LIST, TURN};
use self::fields::one_of;
use self::lists::{is_longer, proper_list, ID};
pub(crate) use self::policy::{policy, policy_name};
pub(crate) use self::report::report;
pub(crate) use self::settings::{changes, settings, Settings};
use crate::atoms;
use crate::error::{kind, ArgumentError};
use crate::value::Offered;
use crate::vm::extent::{Bytes, Extent};
use crate::vm::term::{bytes, untuple};

/// As many values as a brief search passes over: it compares some hundred backends with each of them.
const FEW: usize = 128;

/// The words that they may take together: where a backend's value is the same it is compared to its end.
const FEW_WORDS: usize = 1 << 12;

/// The bytes that a key may have: they are hashed on a normal scheduler.
const KEY: usize = 1 << 20;

/// A list of ids.
pub(crate) fn ids<'a>(term: Term<'a>, argument: usize) -> Result<Vec<Offered<'a>>, ArgumentError> {
    let (_, ids) = proper_list(term, argument, "ids")?;
    let mut left = LIST;
    ids.enumerate()
        .map(|(position, term)| {
            let (id, words) = measured_id(term, || format!("id {position}"))?;
            left = left.checked_sub(words).ok_or_else(|| {
                ArgumentError(format!(
                    "the ids take more than {LIST} words when nothing in them is shared"
                ))
            })?;
            Ok(id)
        })
        .collect()
}

/// An id, which has a name in the list or among the arguments.
pub(crate) fn id(term: Term, name: impl FnOnce() -> String) -> Result<Offered, ArgumentError> {
    let (id, _words) = measured_id(term, name)?;
    Ok(id)
}

/// And the words that it takes.
fn measured_id(
    term: Term,
    name: impl FnOnce() -> String,
) -> Result<(Offered, usize), ArgumentError> {
    let mut extent = Extent::new(ID, Bytes::Read);
    match extent.take(term) {
        true => Ok((Offered::new(term), extent.taken())),
        false => Err(ArgumentError(format!(
            "{} takes more than {ID} words when nothing in it is shared",
            name()
        ))),
    }
}

/// The ids and values of a list of `{id, value}`, or `{id, value, options}`; see [`pairs_of`].
pub(crate) fn pairs<'a>(
    term: Term<'a>,
    argument: usize,
) -> Result<Vec<(Offered<'a>, Offered<'a>)>, ArgumentError> {
    let (_, list) = proper_list(term, argument, "backends")?;
    pairs_of(list.enumerate())
}

/// The ids and values of backends at these positions; of the first, whose ids take as much as a list may, if
/// they take more.
pub(crate) fn pairs_of<'a>(
    backends: impl Iterator<Item = (usize, Term<'a>)>,
) -> Result<Vec<(Offered<'a>, Offered<'a>)>, ArgumentError> {
    let mut left = LIST;
    let mut pairs = Vec::new();
    for (position, term) in backends {
        let (id, value, words) = pair(term, position)?;
        let Some(less) = left.checked_sub(words) else {
            break;
        };
        left = less;
        pairs.push((id, value));
    }
    Ok(pairs)
}

/// The id and the value of a backend, and the words that the id takes.
fn pair<'a>(
    term: Term<'a>,
    position: usize,
) -> Result<(Offered<'a>, Offered<'a>, usize), ArgumentError> {
    let pair = untuple(term).or_else(|| untuple(term).map(|[id, value, _]| [id, value]));
    let [id, value] = pair.ok_or_else(|| {
        ArgumentError(format!(
            "backend {position} must be a tuple of an id and a value"
        ))
    })?;
    let (id, words) = measured_id(id, || format!("the id of backend {position}"))?;
    Ok((id, Offered::new(value), words))
}

/// The words that a value takes, binaries and all, when nothing in it is shared. `Some(None)` when it is too
/// large for a value, and `None` when no more is left than was looked at, of the words of all.
pub(crate) fn extent(value: &Offered, left: &mut usize) -> Option<Option<usize>> {
    let mut extent = Extent::new(VALUE, Bytes::Copied);
    let fits = extent.take(value.term);
    *left = left.checked_sub(extent.taken())?;
    Some(fits.then(|| extent.read()))
}

/// Whether these backends take no more words, binaries and all, than are let in in one turn on a normal
/// scheduler.
pub(crate) fn are_brief<'a>(mut backends: impl Iterator<Item = Term<'a>>) -> bool {
    let mut extent = Extent::new(WORDS.0, Bytes::Read);
    backends.all(|backend| extent.take(backend))
}

/// The hash that is picked by: a binary is hashed, as gRPC and Envoy do, and an integer is the hash.
/// `None` when the term is neither.
#[inline(never)]
pub(crate) fn hash(term: Term) -> Option<u64> {
    match bytes(term) {
        Some(bytes) => (bytes.len() <= KEY).then(|| xxh64(bytes, 0)),
        None => {
            let negative = || term.decode::<i64>().map(|hash| hash as u64);
            term.decode::<u64>().or_else(|_| negative()).ok()
        }
    }
}

/// The hash of a key; `nil` is no key.
#[inline(never)]
pub(crate) fn key(term: Term, argument: usize) -> Result<Option<u64>, ArgumentError> {
    match hash(term) {
        None => no_key(term, argument).map(|()| None),
        hash => Ok(hash),
    }
}

/// An error unless the term is the key that is none.
#[cold]
#[inline(never)]
pub(crate) fn no_key(term: Term, argument: usize) -> Result<(), ArgumentError> {
    if atoms::nil() == term {
        return Ok(());
    }
    Err(ArgumentError(format!(
        "argument {argument}, the key, must be a binary of {KEY} bytes at most, an integer from {} to \
         {}, or nil, got {}",
        i64::MIN,
        u64::MAX,
        kind(term)
    )))
}

/// A list of texts.
pub(crate) fn texts<'a>(term: Term<'a>, argument: usize) -> Result<Vec<&'a [u8]>, ArgumentError> {
    let refused = |term| {
        let given = kind(term);
        ArgumentError(format!(
            "argument {argument} must be a list of binaries, got {given} in it"
        ))
    };
    let (_, texts) = proper_list(term, argument, "binaries")?;
    texts
        .map(|text| bytes(text).ok_or_else(|| refused(text)))
        .collect()
}

/// A list of values.
pub(crate) fn values<'a>(
    term: Term<'a>,
    argument: usize,
) -> Result<Vec<Offered<'a>>, ArgumentError> {
    let (_, values) = proper_list(term, argument, "values")?;
    Ok(values.map(Offered::new).collect())
}

/// The same, of so few and so small ones that they are looked through on a normal scheduler. `None` if there is more,
/// which takes no longer to find out.
pub(crate) fn few_values<'a>(
    term: Term<'a>,
    argument: usize,
) -> Result<Option<Vec<Offered<'a>>>, ArgumentError> {
    if is_longer(term, FEW) {
        return Ok(None);
    }
    let values = values(term, argument)?;
    let mut extent = Extent::new(FEW_WORDS, Bytes::Read);
    Ok(values
        .iter()
        .all(|value| extent.take(value.term))
        .then_some(values))
}

/// `:ready | :connecting | :transient_failure | :draining`
pub(crate) fn state(term: Term) -> Result<State, ArgumentError> {
    one_of(term, &states()).ok_or_else(|| {
        ArgumentError(format!(
            "argument 3, the state, must be :ready, :connecting, :transient_failure or :draining, \
             got {}",
            kind(term)
        ))
    })
}
