//! Wrong arguments, raised as Elixir's ArgumentError with a message that names what is wrong.

use rustler::{Encoder, Env, Term};

use crate::atoms;

/// An ArgumentError with this message.
pub(crate) struct ArgumentError(pub(crate) String);

impl Encoder for ArgumentError {
    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let fields = [
            (atoms::struct_mark(), atoms::argument_error().encode(env)),
            (atoms::exception_mark(), true.encode(env)),
            (atoms::message(), self.0.encode(env)),
        ];
        Term::map_from_pairs(env, &fields).expect("the keys differ")
    }
}

/// Names the kind of a term, for messages. Never shows the term, which may be of any size.
///
/// Asks for one kind after another: `enif_term_type` ends the VM at a term that it has no name for,
/// as that of OTP 29 at a native record.
pub(crate) fn kind(term: Term) -> &'static str {
    if term.is_atom() {
        "an atom"
    } else if term.is_binary() {
        "a binary"
    } else if term.is_float() {
        "a float"
    } else if term.is_number() {
        "an integer"
    } else if term.is_fun() {
        "a function"
    } else if term.is_list() {
        "a list"
    } else if term.is_map() {
        "a map"
    } else if term.is_pid() {
        "a pid"
    } else if term.is_port() {
        "a port"
    } else if term.is_ref() {
        "another reference"
    } else if term.is_tuple() {
        "a tuple"
    } else {
        "another term"
    }
}
