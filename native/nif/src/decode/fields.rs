//! Maps, read by name.

use std::ops::RangeBounds;
use std::time::Duration;

use grpc_lb_core::Owner;
use rustler::{Atom, Decoder, LocalPid, Term};

use crate::atoms;
use crate::error::{kind, ArgumentError};
use crate::vm::owner::owner_of;

/// A map whose keys are atoms.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(Term<'a>);

/// What is wrong with a map.
pub(super) enum Malformed<'a> {
    /// It is none, but this.
    NoMap(Term<'a>),
    /// A backend is not `{id, value, options}`, but this.
    NoBackend(Term<'a>),
    /// The id of a backend takes more words than this.
    LargeId(usize),
    /// The value of a backend does.
    LargeValue(usize),
    /// The name of a balancer does.
    LargeName(usize),
    /// A backend and those before it do.
    LargeList(usize),
    /// This field is missing, of another type, or out of range.
    Field(Atom, Term<'a>),
}

impl Malformed<'_> {
    /// The error of an argument, or of a part of it.
    #[cold]
    pub(super) fn of(self, whose: &str) -> ArgumentError {
        let wrong = match self {
            Malformed::NoMap(term) => format!("must be a map, got {}", kind(term)),
            Malformed::NoBackend(term) => {
                format!("must be {{id, value, options}}, got {}", kind(term))
            }
            Malformed::LargeId(words) => {
                format!("has an id of more than {words} words, when nothing in it is shared")
            }
            Malformed::LargeValue(words) => {
                format!("has a value of more than {words} words, when nothing in it is shared")
            }
            Malformed::LargeName(words) => {
                format!("have a name of more than {words} words, when nothing in it is shared")
            }
            Malformed::LargeList(words) => {
                format!("and those before it take more than {words} words, when nothing is shared")
            }
            Malformed::Field(name, map) => {
                let name = name.to_term(map.get_env()).atom_to_string();
                let name = name.expect("it is an atom");
                format!("has no {name}, or one that it cannot have")
            }
        };
        ArgumentError(format!("{whose} {wrong}; see the types of GrpcLb.Native"))
    }
}

impl<'a> Fields<'a> {
    pub(super) fn of(term: Term<'a>) -> Result<Self, Malformed<'a>> {
        match term.is_map() {
            true => Ok(Fields(term)),
            false => Err(Malformed::NoMap(term)),
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.map_size().is_ok_and(|size| size == 0)
    }

    /// The error that names this field.
    pub(super) fn malformed(self, name: Atom) -> Malformed<'a> {
        Malformed::Field(name, self.0)
    }

    /// A field that can be left out.
    pub(super) fn given(self, name: Atom) -> Option<Term<'a>> {
        self.0.map_get(name).ok()
    }

    /// What `read` makes of a field that can be left out.
    pub(super) fn if_given<T>(
        self,
        name: Atom,
        read: impl FnOnce(Self, Atom) -> Result<T, Malformed<'a>>,
    ) -> Result<Option<T>, Malformed<'a>> {
        self.given(name).map(|_| read(self, name)).transpose()
    }

    pub(super) fn get<T: Decoder<'a>>(self, name: Atom) -> Result<T, Malformed<'a>> {
        let field = self.given(name).and_then(|term| term.decode().ok());
        field.ok_or(self.malformed(name))
    }

    /// A number from a range.
    pub(super) fn within<T: Decoder<'a> + PartialOrd>(
        self,
        name: Atom,
        range: impl RangeBounds<T>,
    ) -> Result<T, Malformed<'a>> {
        let number = self.get(name)?;
        match range.contains(&number) {
            true => Ok(number),
            false => Err(self.malformed(name)),
        }
    }

    /// A number of milliseconds from a range.
    pub(super) fn milliseconds(
        self,
        name: Atom,
        range: impl RangeBounds<u32>,
    ) -> Result<Duration, Malformed<'a>> {
        let milliseconds = self.within(name, range)?;
        Ok(Duration::from_millis(milliseconds.into()))
    }

    /// What an atom stands for.
    pub(super) fn one_of<T: Copy>(
        self,
        name: Atom,
        choices: &[(Atom, T)],
    ) -> Result<T, Malformed<'a>> {
        let field = self.given(name);
        let choice = field.and_then(|term| one_of(term, choices));
        choice.ok_or(self.malformed(name))
    }

    /// `nil` or a pid of this node.
    pub(super) fn owner(self, name: Atom) -> Result<Option<Owner>, Malformed<'a>> {
        let pid: Option<LocalPid> = self.get(name)?;
        Ok(pid.map(owner_of))
    }

    /// `nil`, or what `read` makes of a map.
    pub(super) fn optional<T>(
        self,
        name: Atom,
        read: impl FnOnce(Fields<'a>) -> Result<T, Malformed<'a>>,
    ) -> Result<Option<T>, Malformed<'a>> {
        let field: Term = self.get(name)?;
        match atoms::nil() == field {
            true => Ok(None),
            false if field.is_map() => read(Fields(field)).map(Some),
            false => Err(self.malformed(name)),
        }
    }
}

/// What an atom stands for.
pub(super) fn one_of<T: Copy>(term: Term, choices: &[(Atom, T)]) -> Option<T> {
    let choice = choices.iter().find(|(atom, _)| *atom == term);
    choice.map(|(_, stands_for)| *stands_for)
}
