//! A term that is kept: an id or a value of a backend.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use grpc_lb_core::Offer;
use hashbrown::Equivalent;
use rustler::{Env, Monitor, Term};
use triomphe::ThinArc;

use crate::atoms;
use crate::vm::literal::Slot;
use crate::vm::term::{self, tuple, Copied, Immediate};

/// The core's balancer, of terms.
pub(crate) type Core = grpc_lb_core::Balancer<Value, Monitor>;

/// With more backends than this, or calls, what the VM has done on a normal scheduler, which is to hear of
/// deaths and to run destructors, is done by the library's own thread: freeing a thousand copied
/// terms, or building their list anew, takes some tenths of a millisecond. With a policy that hashes
/// deaths are always its thread's: to build a table takes milliseconds.
pub(crate) const LARGE: usize = 1_000;

/// A term that is kept.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A term that needs no environment.
    Immediate(Immediate),
    /// A short binary, as most ids are. An environment would take 2.5 KB for it.
    Short(ThinArc<(), u8>),
    /// Any other.
    Copied(Arc<Copied>),
    /// A value of a balancer that interns.
    Interned(triomphe::Arc<Slot>),
}

/// The VM copies binaries of up to so many bytes wherever they go, too.
const SHORT: usize = 63;

fn short_binary(term: Term<'_>) -> Option<&[u8]> {
    term::bytes(term).filter(|bytes| bytes.len() <= SHORT)
}

impl Value {
    /// Keeps a term that needs no environment.
    fn without_environment(term: Term) -> Option<Self> {
        if let Some(immediate) = Immediate::of(term) {
            return Some(Value::Immediate(immediate));
        }
        let bytes = short_binary(term)?;
        Some(Value::Short(ThinArc::from_header_and_slice((), bytes)))
    }

    /// Keeps a term.
    pub(crate) fn keep(term: Term) -> Self {
        Value::without_environment(term).unwrap_or_else(|| {
            let [copied] = Copied::together([term]);
            Value::Copied(Arc::new(copied))
        })
    }

    /// `{:ok, value}`, on a normal scheduler.
    #[inline]
    pub(crate) fn to_answer<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Value::Interned(slot) => slot.answer(env),
            copied => tuple(env, [atoms::ok().to_term(env), copied.to_term(env)]),
        }
    }

    /// The term, in `env`, on a normal scheduler.
    #[inline]
    pub(crate) fn lend<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Value::Interned(slot) => slot.value(env),
            copied => copied.to_term(env),
        }
    }

    /// The term, in `env`, on whichever scheduler: it refers to nothing that is kept here.
    #[inline]
    pub(crate) fn to_term<'a>(&self, env: Env<'a>) -> Term<'a> {
        match self {
            Value::Immediate(immediate) => immediate.to_term(env),
            Value::Short(binary) => term::binary(env, &binary.slice),
            Value::Copied(copied) => copied.to_term(env),
            Value::Interned(slot) => slot.copy(env),
        }
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Value::Immediate(immediate) => immediate.hash(state),
            Value::Short(binary) => binary.slice.hash(state),
            Value::Copied(copied) => copied.hash(state),
            Value::Interned(slot) => slot.hash(state),
        }
    }
}

/// A term of the call that is under way, offered to be kept.
#[derive(Clone)]
pub(crate) struct Offered<'a> {
    pub(crate) term: Term<'a>,
    /// Where it was interned for this.
    slot: Option<triomphe::Arc<Slot>>,
}

impl<'a> Offered<'a> {
    /// To be copied, if it is new.
    pub(crate) fn new(term: Term<'a>) -> Self {
        Offered { term, slot: None }
    }

    /// The value in a slot.
    pub(crate) fn interned(env: Env<'a>, slot: Slot) -> Self {
        Offered {
            term: slot.value(env),
            slot: Some(triomphe::Arc::new(slot)),
        }
    }
}

impl PartialEq for Offered<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.term == other.term
    }
}

impl Eq for Offered<'_> {}

impl Hash for Offered<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As the `Value` that it would become.
        match short_binary(self.term) {
            Some(bytes) => bytes.hash(state),
            None => term::hash_term(self.term, state),
        }
    }
}

impl Equivalent<Value> for Offered<'_> {
    fn equivalent(&self, value: &Value) -> bool {
        match value {
            Value::Immediate(immediate) => immediate.is(self.term),
            Value::Short(binary) => short_binary(self.term) == Some(&binary.slice),
            Value::Copied(copied) => copied.is(self.term),
            Value::Interned(slot) => slot.is(self.term),
        }
    }
}

impl Offer<Value> for Offered<'_> {
    fn own(id: &Self, value: &Self) -> (Value, Value) {
        let copied = |copied| Value::Copied(Arc::new(copied));
        let kept = |offered: &Self| match &offered.slot {
            Some(slot) => Some(Value::Interned(triomphe::Arc::clone(slot))),
            None => Value::without_environment(offered.term),
        };
        match [kept(id), kept(value)] {
            [Some(id), Some(value)] => (id, value),
            [Some(id), None] => {
                let [value] = Copied::together([value.term]);
                (id, copied(value))
            }
            [None, Some(value)] => {
                let [id] = Copied::together([id.term]);
                (copied(id), value)
            }
            // A bare value is its own id: one copy serves both.
            [None, None] if id == value => {
                let [both] = Copied::together([id.term]);
                let both = copied(both);
                (both.clone(), both)
            }
            [None, None] => {
                let [id, value] = Copied::together([id.term, value.term]);
                (copied(id), copied(value))
            }
        }
    }
}
