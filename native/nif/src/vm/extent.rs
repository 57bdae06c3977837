//! How much memory a term takes once nothing in it is shared: what a copy of it would take.
//!
//! A term that refers twice to the same part, and so does that part, and so on forty times, is small
//! until somebody copies it, compares it or takes its hash. The VM does such things in one go. So what
//! comes from outside is measured first, and measuring stops at a limit.

use rustler::sys::ErlNifTerm;
use rustler::{Env, MapIterator, Term};

use super::term::{bytes, elements, Immediate};

/// What a term may take, in words.
pub(crate) struct Extent {
    allowed: usize,
    left: usize,
    bytes: Bytes,
    /// The words of binaries that do not count.
    beside: usize,
}

/// What of a binary counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// What a copy copies: the bytes of short ones. Those of long ones are shared whatever happens.
    Copied,
    /// All of them, as they are all read.
    Read,
}

/// The bytes up to which a binary lies on the heap.
const SHORT: usize = 64;

/// The words of what cannot be looked into: a number, a fun, a reference, a pid of another node.
const OPAQUE: usize = 8;

/// The parts of a term that have not been measured yet.
enum Parts<'a> {
    Tuple(&'a [ErlNifTerm], Env<'a>),
    List(Term<'a>),
    Map(Box<MapIterator<'a>>),
}

impl Extent {
    pub(crate) const fn new(words: usize, bytes: Bytes) -> Self {
        Extent {
            allowed: words,
            left: words,
            bytes,
            beside: 0,
        }
    }

    /// How many words it has taken.
    pub(crate) fn taken(&self) -> usize {
        self.allowed - self.left
    }

    /// How many words of it there are to read, binaries and all.
    pub(crate) fn read(&self) -> usize {
        self.taken() + self.beside
    }

    /// Takes what a term takes. `false` when there is not so much left.
    pub(crate) fn take(&mut self, term: Term) -> bool {
        let mut open = Vec::new();
        self.measure(term, &mut open).is_some() && self.take_all(open).is_some()
    }

    fn take_all<'a>(&mut self, mut open: Vec<Parts<'a>>) -> Option<()> {
        while let Some(parts) = open.pop() {
            // What is left of it goes below the next part: a term that is deep is no deeper here, as
            // long as it is so in its last parts.
            match parts {
                Parts::Tuple(elements, env) => {
                    let Some((element, rest)) = elements.split_first() else {
                        continue;
                    };
                    if !rest.is_empty() {
                        open.push(Parts::Tuple(rest, env));
                    }
                    // SAFETY: an element belongs to the environment of its tuple.
                    let element = unsafe { Term::new(env, *element) };
                    self.measure(element, &mut open)?;
                }
                Parts::List(list) => {
                    let Ok((head, tail)) = list.list_get_cell() else {
                        // What an improper list ends with.
                        self.measure(list, &mut open)?;
                        continue;
                    };
                    self.spend(2)?;
                    if !tail.is_empty_list() {
                        open.push(Parts::List(tail));
                    }
                    self.measure(head, &mut open)?;
                }
                Parts::Map(mut rest) => {
                    if let Some((key, value)) = rest.next() {
                        open.push(Parts::Map(rest));
                        self.measure(key, &mut open)?;
                        self.measure(value, &mut open)?;
                    }
                }
            }
        }
        Some(())
    }

    /// Takes what the term itself takes, and leaves its parts to be measured.
    fn measure<'a>(&mut self, term: Term<'a>, open: &mut Vec<Parts<'a>>) -> Option<()> {
        if Immediate::of(term).is_some() {
            return Some(());
        }
        if let Some(bytes) = bytes(term) {
            let words = bytes.len() / 8;
            if bytes.len() <= SHORT || self.bytes == Bytes::Read {
                return self.spend(OPAQUE + words);
            }
            self.beside = self.beside.saturating_add(words);
            return self.spend(OPAQUE);
        }
        if term.is_list() {
            open.push(Parts::List(term));
            return Some(());
        }
        if let Some(elements) = elements(term) {
            self.spend(elements.len() + 1)?;
            open.push(Parts::Tuple(elements, term.get_env()));
            return Some(());
        }
        if let Ok(size) = term.map_size() {
            self.spend(OPAQUE + 2 * size)?;
            open.push(Parts::Map(Box::new(MapIterator::new(term)?)));
            return Some(());
        }
        self.spend(OPAQUE)
    }

    fn spend(&mut self, words: usize) -> Option<()> {
        self.left = self.left.checked_sub(words)?;
        Some(())
    }
}
