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

/// What kind of term this is, for messages. Never the term itself: it may be of any size.
///
/// Asks one kind after the other, and not `enif_term_type`: that ends the VM at a term of a kind
/// that the VM's own answer has no name for, as OTP 29 does at a native record.
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
