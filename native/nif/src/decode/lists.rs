//! Lists, and what they may have in them.

use rustler::{ListIterator, Term};

use crate::error::{kind, ArgumentError};

/// The words that an id may take: it is hashed and compared under the writer's lock.
pub(super) const ID: usize = 1 << 21;

/// Whether it is a list of more than so many. Looks at one more than so many at most.
pub(super) fn is_longer(term: Term, most: usize) -> bool {
    let mut rest = term;
    for _ in 0..=most {
        match rest.list_get_cell() {
            Ok((_, next)) => rest = next,
            Err(_) => return false,
        }
    }
    true
}

/// A list and its length.
pub(super) fn proper_list<'a>(
    term: Term<'a>,
    argument: usize,
    of: &str,
) -> Result<(usize, ListIterator<'a>), ArgumentError> {
    // The length is asked first because the iterator panics at an improper tail.
    let Ok(len) = term.list_length() else {
        let given = if term.is_list() {
            "an improper list"
        } else {
            kind(term)
        };
        return Err(ArgumentError(format!(
            "argument {argument} must be a proper list of {of}, got {given}"
        )));
    };
    Ok((len, term.into_list_iterator().expect("it is a list")))
}
