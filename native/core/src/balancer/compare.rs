//! Comparison of a list that is offered with the one that is listed. It comes before the change, so that
//! a list that is refused changes nothing, and so that what stays as it is costs little more than a look.

use std::borrow::Borrow;
use std::hash::Hash;

use hashbrown::hash_table::Entry as Slot;
use hashbrown::HashTable;

use super::results::{Busy, ChangeError};
use super::writer::Writer;
use crate::backend::{Backend, Offer};
use crate::members::{MemberKey, Members, GONE};

/// A list of backends that is offered. It is read once, under the writer's lock.
pub trait Offers<T> {
    /// An id or a value.
    type Offer: Offer<T>;
    /// What it is made of.
    type Item: Borrow<Backend<Self::Offer>>;
    /// Why it is refused.
    type Refusal: From<ChangeError>;

    /// How many there are.
    fn total(&self) -> usize;

    /// The next backend. Its id and its value are compared with those that are listed, with no more
    /// effort than these take, and nothing else is done with them unless they are let in.
    fn take_next(&mut self) -> Option<Result<Self::Item, Self::Refusal>>;

    /// Lets in a backend that is not the same as the one that is listed in its place: it is hashed from
    /// now on, compared with any, and kept.
    fn let_in(&mut self, position: usize, offered: &Self::Item) -> Result<(), Self::Refusal>;
}

/// As they are.
impl<'a, T, O: Offer<T>> Offers<T> for std::slice::Iter<'a, Backend<O>> {
    type Offer = O;
    type Item = &'a Backend<O>;
    type Refusal = ChangeError;

    fn total(&self) -> usize {
        self.len()
    }

    fn take_next(&mut self) -> Option<Result<Self::Item, ChangeError>> {
        self.next().map(Ok)
    }

    fn let_in(&mut self, _position: usize, _offered: &Self::Item) -> Result<(), ChangeError> {
        Ok(())
    }
}

/// What is to be done for a list that is offered.
pub(super) enum Compared<B> {
    /// Nothing: it is listed so, in this order.
    Same,
    Different(Difference<B>),
}

impl<B> Compared<B> {
    /// What there is to do for each backend, where there is more to do than for them.
    pub(super) fn difference<T: Clone + Eq + Hash>(self, members: &Members<T>) -> Difference<B> {
        match self {
            Compared::Same => Difference::of_first(members.len(), members.len(), members),
            Compared::Different(difference) => difference,
        }
    }
}

/// How a list that is offered differs from the one that is listed.
pub(super) struct Difference<B> {
    /// In its order, the keys of those that are listed, and [`GONE`] for those that are not.
    pub(super) order: Vec<MemberKey>,
    /// Those that are not as they are listed.
    pub(super) changed: Vec<Changed<B>>,
    kept: Keys,
}

/// A backend that is not as it is listed.
pub(super) struct Changed<B> {
    pub(super) position: u32,
    pub(super) who: Who,
    pub(super) offered: B,
}

#[derive(Clone, Copy)]
pub(super) enum Who {
    Listed(MemberKey),
    /// Its id has this hash.
    New(u64),
}

/// A set of keys.
struct Keys {
    words: Vec<u64>,
    len: usize,
}

impl Keys {
    fn below(limit: usize) -> Self {
        Keys {
            words: vec![0; limit.div_ceil(64)],
            len: 0,
        }
    }

    fn contains(&self, key: MemberKey) -> bool {
        self.words[key as usize / 64] & (1 << (key % 64)) != 0
    }

    /// `false` if it is in there already.
    fn insert(&mut self, key: MemberKey) -> bool {
        let is_new = !self.contains(key);
        self.words[key as usize / 64] |= 1 << (key % 64);
        self.len += usize::from(is_new);
        is_new
    }
}

impl<B> Difference<B> {
    /// Of so many that are offered, of which the first are the first members, as they are listed.
    fn of_first<T: Clone + Eq + Hash>(same: usize, total: usize, members: &Members<T>) -> Self {
        let mut order = Vec::with_capacity(total);
        let mut kept = Keys::below(members.key_limit());
        for key in members.keys_in_order().take(same) {
            order.push(key);
            kept.insert(key);
        }
        Difference {
            order,
            changed: Vec::new(),
            kept,
        }
    }

    /// Whether this member is not offered.
    pub(super) fn lacks(&self, key: MemberKey) -> bool {
        !self.kept.contains(key)
    }

    /// How many that are listed are offered.
    pub(super) fn kept(&self) -> usize {
        self.kept.len
    }
}

/// So many backends that change, some of which are copied and some freed, take a tenth of a millisecond. So
/// do so many priorities and localities, each of which is judged, and has its share.
const FEW: usize = 64;

/// So does a table of weights of so many.
const SHORT: usize = 2_048;

/// And to look through a list of so many takes twice as long.
const LONG: usize = 16_384;

/// How far a list was compared that is offered in parts, and what of it is not as it is listed.
///
/// It holds for as long as nothing changes: who goes on with it later is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of the list that it was compared with.
    pub version: u64,
    /// How many were looked at.
    pub position: u32,
    /// The rank of the member that is expected next.
    pub next: u32,
    /// The positions of those that differ.
    pub differ: Vec<u32>,
}

impl Seen {
    /// How many a list may have, listed or offered, that is changed by who never waits.
    pub const LONGEST: usize = LONG;

    /// How many may differ.
    pub const FEW: usize = FEW;
}

impl<T: Clone + Eq + Hash, W> Writer<T, W> {
    /// Whether to change the list so takes some tenths of a millisecond at most.
    pub(super) fn is_brief<B>(&self, compared: &Compared<B>) -> bool {
        if self.layers.len() > FEW {
            return false;
        }
        let listed = self.members.len();
        let (changed, longest) = match compared {
            Compared::Same if !self.scattered => return true,
            Compared::Same => (0, listed),
            Compared::Different(difference) => (
                difference.changed.len() + listed - difference.kept(),
                listed.max(difference.order.len()),
            ),
        };
        let config = &self.config;
        // What looks at all backends to make a table of weights, or a subset.
        let tabulates = self.weighted > 0 || config.slow_start.is_some() || config.subset.is_some();
        let most = if tabulates { SHORT } else { LONG };
        // To build a table by hashes takes milliseconds.
        changed <= FEW && longest <= most && !config.hashes()
    }

    /// Compares a part of what is offered with what is listed, after the parts before it.
    pub(super) fn look<L: Offers<T>>(
        &self,
        offered: &mut L,
        seen: &mut Seen,
    ) -> Result<(), L::Refusal>
    where
        L::Refusal: From<Busy>,
    {
        if seen.position == 0 {
            seen.version = self.version;
        }
        if seen.version != self.version {
            return Err(Busy.into());
        }
        loop {
            let (same, other) = self.pass_same(offered, &mut seen.next)?;
            seen.position += same as u32;
            let Some(item) = other else {
                return Ok(());
            };
            if seen.differ.len() == FEW {
                return Err(Busy.into());
            }
            let position = seen.position;
            seen.position += 1;
            seen.differ.push(position);
            offered.let_in(position as usize, &item)?;
            let backend = item.borrow();
            let expected = self.expect(backend, seen.next);
            let found = expected.or_else(|| self.members.find(&backend.id));
            if let Some(key) = found {
                seen.next = self.members.get(key).rank + 1;
            }
        }
    }

    /// Whether each of these ids is listed with this value. One that was there before is not: so no more
    /// is compared than is listed.
    pub(super) fn lists<O: Offer<T>>(&self, offered: &[(O, O)]) -> Vec<bool> {
        let mut before = Keys::below(self.members.key_limit());
        let is_listed = |(id, value): &(O, O)| {
            let key = self.members.find(id);
            key.is_some_and(|key| {
                before.insert(key) && value.equivalent(&self.members.get(key).value)
            })
        };
        offered.iter().map(is_listed).collect()
    }

    /// The first member from a rank on, if this is offered for it.
    fn expect<O: Offer<T>>(&self, backend: &Backend<O>, next: u32) -> Option<MemberKey> {
        let (_, key) = self.members.at_or_after(next)?;
        let is_it = backend.id.equivalent(&self.members.get(key).id);
        is_it.then_some(key)
    }

    fn is_same<O: Offer<T>>(&self, key: MemberKey, backend: &Backend<O>) -> bool {
        let member = self.members.get(key);
        self.layers.get(member.layer).is_of(backend) && member.is_as_offered(backend)
    }

    /// Compares what is offered with what is listed. Most lists are the last one with a few changes: so
    /// each backend is compared first with the one that comes after the one before it, and only what is
    /// not found there is looked up. What was seen of this version to be the same there is not compared again.
    pub(super) fn compare<L: Offers<T>>(
        &self,
        mut offered: L,
        seen: Option<&Seen>,
    ) -> Result<Compared<L::Item>, L::Refusal> {
        let members = &self.members;
        let total = offered.total();
        let mut next = 0;
        // Nothing is put down as long as all are the same.
        let (same, mut first) = match seen {
            Some(seen) if seen.differ.is_empty() && total == members.len() => {
                return Ok(Compared::Same);
            }
            Some(_) => (0, None),
            None => match self.pass_same(&mut offered, &mut next)? {
                (same, None) if same == members.len() => return Ok(Compared::Same),
                (same, first) => (same, Some(first)),
            },
        };
        let mut difference = Difference::<L::Item>::of_first(same, total, members);
        let mut new = HashTable::<(u64, u32)>::new();
        let mut differ = seen.map(|seen| seen.differ.iter().copied().peekable());
        while let Some(item) = match first.take() {
            Some(first) => first,
            None => offered.take_next().transpose()?,
        } {
            let position = difference.order.len();
            let backend: &Backend<L::Offer> = item.borrow();
            let is_known = differ
                .as_mut()
                .is_some_and(|differ| differ.next_if_eq(&(position as u32)).is_none());
            let expected = match is_known {
                true => members.at_or_after(next).map(|(_, key)| key),
                false => self.expect(backend, next),
            };
            let who = match expected {
                Some(key) => Who::Listed(key),
                None => {
                    offered.let_in(position, &item)?;
                    let hash = members.hash(&backend.id);
                    let found = members.find_hashed(hash, &backend.id);
                    found.map_or(Who::New(hash), Who::Listed)
                }
            };
            match who {
                Who::Listed(key) => {
                    next = members.get(key).rank + 1;
                    if !difference.kept.insert(key) {
                        let first = difference.order.iter().position(|other| *other == key);
                        return Err(duplicate(first, position).into());
                    }
                    difference.order.push(key);
                    if is_known || self.is_same(key, backend) {
                        continue;
                    }
                    if expected.is_some() {
                        offered.let_in(position, &item)?;
                    }
                }
                Who::New(hash) => {
                    let changed = &difference.changed;
                    let same = |(_, index): &(u64, u32)| {
                        have_same_id(changed[*index as usize].offered.borrow(), backend)
                    };
                    match new.entry(hash, same, |(hash, _)| *hash) {
                        Slot::Occupied(first) => {
                            let first = changed[first.get().1 as usize].position;
                            return Err(duplicate(Some(first as usize), position).into());
                        }
                        Slot::Vacant(slot) => slot.insert((hash, changed.len() as u32)),
                    };
                    difference.order.push(GONE);
                }
            }
            if self.config.hashes() && backend.hash_key.is_none() {
                let policy = self.config.policy.name();
                return Err(ChangeError::NoHashKey { position, policy }.into());
            }
            difference.changed.push(Changed {
                position: position as u32,
                who,
                offered: item,
            });
        }
        Ok(Compared::Different(difference))
    }

    /// Passes those that are listed as they are offered, from the member on that is expected next: how many,
    /// and the one after them. Looks at each where it is: to move it takes as long as to compare it.
    fn pass_same<L: Offers<T>>(
        &self,
        offered: &mut L,
        next: &mut u32,
    ) -> Result<(usize, Option<L::Item>), L::Refusal> {
        let mut same = 0;
        let other = loop {
            let taken = offered.take_next();
            let Some(Ok(item)) = &taken else {
                break taken;
            };
            let backend = item.borrow();
            let expected = self.expect(backend, *next);
            let Some(key) = expected.filter(|key| self.is_same(*key, backend)) else {
                break taken;
            };
            *next = self.members.get(key).rank + 1;
            same += 1;
        };
        Ok((same, other.transpose()?))
    }
}

fn have_same_id<O: Eq>(one: &Backend<O>, other: &Backend<O>) -> bool {
    one.id == other.id
}

#[cold]
fn duplicate(first: Option<usize>, second: usize) -> ChangeError {
    ChangeError::DuplicateId {
        first: first.expect("it was there before"),
        second,
    }
}
