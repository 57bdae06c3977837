//! Where a call finds its object, or the build that made it: the one place where calls are passed on.

use std::ffi::CStr;

use rustler::{Env, Term};

use super::nif::Answer;
use super::object::Object;
use super::resource::{find, Found, Resource};
use super::term::Word;
use crate::error::ArgumentError;

/// Calls the body of a NIF whose first argument has to be an object: here if this build made it,
/// and else in the build that did.
#[inline]
pub(crate) fn on_object<'a, T: Resource, const N: usize>(
    env: Env<'a>,
    nif: &CStr,
    object: Word<'a>,
    arguments: [Word<'a>; N],
    body: impl FnOnce(Env<'a>, &'a Object<T>, [Term<'a>; N]) -> Answer<'a>,
) -> Answer<'a> {
    match find::<T>(object.to_term(env)) {
        Some(Found::Ours(found)) => {
            let arguments = arguments.map(|argument| argument.to_term(env));
            body(env, found, arguments)
        }
        Some(Found::Foreign(library)) => library.serve(env, nif, object, &arguments),
        None => Err(unexpected::<T>(object.to_term(env))),
    }
}

/// The same of a NIF for objects of two types.
#[inline]
pub(crate) fn on_either<'a, T: Resource, U: Resource, const N: usize>(
    env: Env<'a>,
    nif: &CStr,
    object: Word<'a>,
    arguments: [Word<'a>; N],
    body: impl FnOnce(Env<'a>, &'a Object<T>, [Term<'a>; N]) -> Answer<'a>,
    other_body: impl FnOnce(Env<'a>, &'a Object<U>, [Term<'a>; N]) -> Answer<'a>,
) -> Answer<'a> {
    match find::<U>(object.to_term(env)) {
        Some(_) => on_object(env, nif, object, arguments, other_body),
        None => on_object(env, nif, object, arguments, body),
    }
}

/// Whether a term refers to such an object, whichever build made it.
pub(crate) fn expect_object<T: Resource>(term: Term) -> Result<(), ArgumentError> {
    match find::<T>(term) {
        Some(_) => Ok(()),
        None => Err(unexpected::<T>(term)),
    }
}

/// Whether a term refers to an object of one of two types.
pub(crate) fn expect_either<T: Resource, U: Resource>(term: Term) -> Result<(), ArgumentError> {
    expect_object::<U>(term).or_else(|_| expect_object::<T>(term))
}

/// The object that a term refers to, if this build made it.
pub(crate) fn own_object<T: Resource>(object: Term<'_>) -> Option<&Object<T>> {
    match find::<T>(object)? {
        Found::Ours(found) => Some(found),
        Found::Foreign(_) => None,
    }
}

#[cold]
fn unexpected<T: Resource>(term: Term) -> ArgumentError {
    let (expected, got) = (T::EXPECTED, T::kind(term));
    ArgumentError(format!("argument 1 is not {expected}, got {got}"))
}
