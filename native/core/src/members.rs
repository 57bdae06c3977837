//! The backends that are listed, found by id.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;

use crate::backend::{Backend, Entry, Offer, Owner, State};

/// Names a member for as long as it is listed.
pub(crate) type MemberKey = usize;

pub(crate) struct Members<T> {
    members: Slab<Member<T>>,
    /// Keys, which fit into half of what they are made of.
    by_id: HashTable<u32>,
    hasher: DefaultHashBuilder,
    /// The rank of the next one to be put at the end of the list.
    next_rank: u64,
}

/// A backend that is listed.
pub(crate) struct Member<T> {
    pub(crate) id: T,
    pub(crate) value: T,
    /// Who is watched for it. Nobody, once its owner has died.
    pub(crate) owner: Option<Owner>,
    pub(crate) weight: u32,
    /// Its place in the list: the lower, the earlier.
    pub(crate) rank: u64,
    /// Where it is among the rows that can be picked, if it can be.
    pub(crate) row: Option<u32>,
    pub(crate) entry: Arc<Entry>,
}

impl<T> Member<T> {
    pub(crate) fn state(&self) -> State {
        match self.row {
            Some(_) => State::Ready,
            None => State::Down,
        }
    }
}

impl<T: Clone + Eq + Hash> Members<T> {
    pub(crate) fn new() -> Self {
        Members {
            members: Slab::new(),
            by_id: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            next_rank: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn get(&self, key: MemberKey) -> &Member<T> {
        &self.members[key]
    }

    pub(crate) fn get_mut(&mut self, key: MemberKey) -> &mut Member<T> {
        &mut self.members[key]
    }

    pub(crate) fn find<O: Offer<T>>(&self, id: &O) -> Option<MemberKey> {
        let is_it = |key: &u32| id.equivalent(&self.members[*key as MemberKey].id);
        let key = self.by_id.find(self.hasher.hash_one(id), is_it)?;
        Some(*key as MemberKey)
    }

    /// Makes room for so many more, and no more than that.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.members.reserve_exact(more);
        let (members, hasher) = (&self.members, &self.hasher);
        let hash = |key: &u32| hasher.hash_one(&members[*key as MemberKey].id);
        self.by_id.reserve(more, hash);
    }

    /// Lists a backend whose id is not listed, at the end and without an owner or a row.
    pub(crate) fn insert<O: Offer<T>>(&mut self, offered: &Backend<O>, place: u64) -> MemberKey {
        let (id, value) = O::own(&offered.id, &offered.value);
        let rank = self.end();
        let slot = self.members.vacant_entry();
        let key = slot.key();
        slot.insert(Member {
            id,
            value,
            owner: None,
            weight: offered.weight,
            rank,
            row: None,
            entry: Arc::new(Entry::new(key, place)),
        });
        let (members, hasher) = (&self.members, &self.hasher);
        let hash = |key: &u32| hasher.hash_one(&members[*key as MemberKey].id);
        let short = u32::try_from(key).expect("fewer than 2^32 backends");
        self.by_id.insert_unique(hash(&short), short, hash);
        key
    }

    /// Takes over what is offered for an id that is listed, and returns what it replaces. A value
    /// that is equal to the one held is not taken over.
    pub(crate) fn update<O: Offer<T>>(
        &mut self,
        key: MemberKey,
        offered: &Backend<O>,
    ) -> Option<(T, T)> {
        let member = &mut self.members[key];
        member.weight = offered.weight;
        if offered.value.equivalent(&member.value) {
            return None;
        }
        let (id, value) = O::own(&offered.id, &offered.value);
        Some((
            std::mem::replace(&mut member.id, id),
            std::mem::replace(&mut member.value, value),
        ))
    }

    pub(crate) fn remove(&mut self, key: MemberKey) -> Member<T> {
        let hash = self.hasher.hash_one(&self.members[key].id);
        let indexed = self
            .by_id
            .find_entry(hash, |other| *other as MemberKey == key);
        indexed.expect("every member is indexed").remove();
        self.members.remove(key)
    }

    /// A place in the list behind all that were given before.
    pub(crate) fn end(&mut self) -> u64 {
        self.next_rank += 1;
        self.next_rank
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MemberKey, &Member<T>)> {
        self.members.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (MemberKey, &mut Member<T>)> {
        self.members.iter_mut()
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (MemberKey, Member<T>)> {
        std::mem::replace(self, Members::new()).members.into_iter()
    }

    /// All members, in the order of the list.
    pub(crate) fn in_order(&self) -> Vec<&Member<T>> {
        let mut members: Vec<&Member<T>> = self.members.iter().map(|(_, member)| member).collect();
        members.sort_unstable_by_key(|member| member.rank);
        members
    }
}
