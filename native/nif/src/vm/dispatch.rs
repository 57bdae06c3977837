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
        None => Err(unexpected::<T>(object.to_term(env), 1)),
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

/// Tries the body of such a NIF, if this build made the object.
pub(crate) fn try_on_object<'a, T: Resource, const N: usize>(
    env: Env<'a>,
    object: Word<'a>,
    arguments: [Word<'a>; N],
    body: impl FnOnce(Env<'a>, &'a Object<T>, [Term<'a>; N]) -> Option<Answer<'a>>,
) -> Option<Answer<'a>> {
    let found = own_object::<T>(object.to_term(env))?;
    body(env, found, arguments.map(|argument| argument.to_term(env)))
}

/// Whether a term refers to such an object, whichever build made it.
pub(crate) fn expect_object<T: Resource>(term: Term) -> Result<(), ArgumentError> {
    match find::<T>(term) {
        Some(_) => Ok(()),
        None => Err(unexpected::<T>(term, 1)),
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

/// The object that an argument beside the first refers to. `None` if another build made it.
#[inline]
pub(crate) fn argument<T: Resource>(
    term: Term<'_>,
    argument: usize,
) -> Result<Option<&Object<T>>, ArgumentError> {
    match find::<T>(term) {
        Some(Found::Ours(found)) => Ok(Some(found)),
        Some(Found::Foreign(_)) => Ok(None),
        None => Err(unexpected::<T>(term, argument)),
    }
}

#[cold]
fn unexpected<T: Resource>(term: Term, argument: usize) -> ArgumentError {
    let (expected, got) = (T::EXPECTED, T::kind(term));
    ArgumentError(format!("argument {argument} is not {expected}, got {got}"))
}
