//! Policies, settings, backends and reports out of terms, as `GrpcLb.Native` documents them.
//!
//! `GrpcLb` has validated what users write. What is refused here came from a direct call, and would
//! break the core.

mod fields;
mod policy;
mod report;
mod settings;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::{Backend, State};
use rustler::{Atom, ListIterator, Term};

use self::fields::{one_of, Fields, Malformed};
pub(crate) use self::policy::{policy, policy_name};
pub(crate) use self::report::report;
pub(crate) use self::settings::{changes, settings, Settings};
use crate::atoms;
use crate::error::{kind, ArgumentError};
use crate::value::Offered;
use crate::vm::extent::{Bytes, Extent};
use crate::vm::term::bytes;

/// The words that an id may take: it is hashed and compared under the writer's lock.
const ID: usize = 1 << 21;

/// The words that a value may take: each pick copies it.
const VALUE: usize = 1 << 21;

/// The bytes of a text for policies that hash: each entry of a ring is a hash of it.
const TEXT: usize = 1 << 16;

/// The bytes of the name of a locality.
const LOCALITY: usize = 255;

/// The bytes that a key may have: they are hashed on a normal scheduler.
const KEY: usize = 1 << 20;

/// The words that the ids and values of a list may take.
const LIST: usize = 1 << 27;

/// A list of backends; `argument` is its number among the arguments. Where the policy `hashes`, with
/// their texts for it.
pub(crate) fn backends<'a>(
    term: Term<'a>,
    argument: usize,
    hashes: bool,
) -> Result<Vec<Backend<Offered<'a>>>, ArgumentError> {
    let backends = proper_list(term, argument, "backends")?.enumerate();
    let mut left = LIST;
    backends
        .map(|(position, term)| {
            backend(term, hashes, &mut left)
                .map_err(|malformed| malformed.of(&format!("backend {position}")))
        })
        .collect()
}

/// A list of ids.
pub(crate) fn ids<'a>(term: Term<'a>, argument: usize) -> Result<Vec<Offered<'a>>, ArgumentError> {
    let ids = proper_list(term, argument, "ids")?.enumerate();
    ids.map(|(position, term)| id(term, || format!("id {position}")))
        .collect()
}

/// An id, which has a name in the list or among the arguments.
pub(crate) fn id(term: Term, name: impl FnOnce() -> String) -> Result<Offered, ArgumentError> {
    match Extent::new(ID, Bytes::Read).take(term) {
        true => Ok(Offered(term)),
        false => Err(ArgumentError(format!(
            "{} takes more than {ID} words when nothing in it is shared",
            name()
        ))),
    }
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
    let texts = proper_list(term, argument, "binaries")?;
    texts
        .map(|text| bytes(text).ok_or_else(|| refused(text)))
        .collect()
}

/// A list of values.
pub(crate) fn values<'a>(
    term: Term<'a>,
    argument: usize,
) -> Result<Vec<Offered<'a>>, ArgumentError> {
    let values = proper_list(term, argument, "values")?;
    Ok(values.map(Offered).collect())
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

/// `{id, value, options}`
fn backend<'a>(
    term: Term<'a>,
    hashes: bool,
    left: &mut usize,
) -> Result<Backend<Offered<'a>>, Malformed<'a>> {
    let (id, value, options) = term
        .decode::<(Term, Term, Term)>()
        .map_err(|_| Malformed::NoBackend(term))?;
    take(id, ID, Bytes::Read, left).map_err(|()| Malformed::LargeId(ID))?;
    if value != id {
        take(value, VALUE, Bytes::Copied, left).map_err(|()| Malformed::LargeValue(VALUE))?;
    }
    if *left == 0 {
        return Err(Malformed::LargeList(LIST));
    }
    let mut backend = Backend::new(Offered(id), Offered(value));
    let options = Fields::of(options)?;
    let hash_key = options.given(atoms::hash_key());
    let hash_key = hash_key.filter(|text| atoms::nil() != *text);
    let text = bytes(hash_key.unwrap_or(id)).filter(|text| text.len() <= TEXT);
    if hash_key.is_some() && text.is_none() {
        return Err(options.malformed(atoms::hash_key()));
    }
    if let Some(text) = text.filter(|_| hashes) {
        backend = backend.keyed(text);
    }
    if options.is_empty() {
        return Ok(backend);
    }
    if options.given(atoms::owner()).is_some() {
        backend.owner = options.owner(atoms::owner())?;
    }
    if options.given(atoms::priority()).is_some() {
        backend.priority = options.get(atoms::priority())?;
    }
    if options.given(atoms::locality()).is_some() {
        let locality: Option<&str> = options.get(atoms::locality())?;
        if locality.is_some_and(|name| name.len() > LOCALITY) {
            return Err(options.malformed(atoms::locality()));
        }
        backend.locality = locality.map(Box::from);
    }
    if options.given(atoms::weight()).is_some() {
        backend.weight = options.get(atoms::weight())?;
    }
    if options
        .given(atoms::state())
        .is_some_and(|state| atoms::nil() != state)
    {
        backend.state = Some(options.one_of(atoms::state(), &states())?);
    }
    Ok(backend)
}

/// Takes what a term takes off what is left for all.
fn take(term: Term, allowed: usize, bytes: Bytes, left: &mut usize) -> Result<(), ()> {
    let mut extent = Extent::new(allowed, bytes);
    if !extent.take(term) {
        return Err(());
    }
    *left = left.saturating_sub(allowed - extent.left());
    Ok(())
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

fn states() -> [(Atom, State); 4] {
    [
        (atoms::ready(), State::Ready),
        (atoms::connecting(), State::Connecting),
        (atoms::transient_failure(), State::TransientFailure),
        (atoms::draining(), State::Draining),
    ]
}
