//! Wrong arguments, raised as Elixir's ArgumentError with a message that names what is wrong.

use rustler::sys::ErlNifTermType;
use rustler::{Encoder, Env, Error, Term};

use crate::atoms;

/// An ArgumentError with this message.
pub(crate) struct ArgumentError(pub(crate) String);

impl From<ArgumentError> for Error {
    fn from(error: ArgumentError) -> Self {
        Error::RaiseTerm(Box::new(error))
    }
}

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
pub(crate) fn kind(term: Term) -> &'static str {
    match term.get_erl_type() {
        ErlNifTermType::ERL_NIF_TERM_TYPE_ATOM => "an atom",
        ErlNifTermType::ERL_NIF_TERM_TYPE_BITSTRING => "a binary",
        ErlNifTermType::ERL_NIF_TERM_TYPE_FLOAT => "a float",
        ErlNifTermType::ERL_NIF_TERM_TYPE_FUN => "a function",
        ErlNifTermType::ERL_NIF_TERM_TYPE_INTEGER => "an integer",
        ErlNifTermType::ERL_NIF_TERM_TYPE_LIST => "a list",
        ErlNifTermType::ERL_NIF_TERM_TYPE_MAP => "a map",
        ErlNifTermType::ERL_NIF_TERM_TYPE_PID => "a pid",
        ErlNifTermType::ERL_NIF_TERM_TYPE_PORT => "a port",
        ErlNifTermType::ERL_NIF_TERM_TYPE_REFERENCE => "another reference",
        ErlNifTermType::ERL_NIF_TERM_TYPE_TUPLE => "a tuple",
        _ => "another term",
    }
}
