//! The backends that are listed, found by id.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use triomphe::Arc;

use crate::backend::{Backend, Condition, Entry, Offer, Owner, State};
use crate::health::{Health, Standing};

/// Names a member for as long as it is listed.
pub(crate) type MemberKey = u32;

pub(crate) struct Members<T> {
    members: Slab<Member<T>>,
    /// Keys, which fit into half of what they are made of.
    by_id: HashTable<MemberKey>,
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
    /// What its user says of it.
    pub(crate) condition: Condition,
    /// Whether its owner is dead.
    pub(crate) orphaned: bool,
    /// What follows from these and from its health, as far as it is counted.
    pub(crate) standing: Standing,
    /// Its place in the list: the lower, the earlier.
    pub(crate) rank: u64,
    /// Where it is among the rows that can be picked, if it can be.
    pub(crate) row: Option<u32>,
    pub(crate) entry: Arc<Entry>,
    /// Where time drives it.
    pub(crate) health: Option<Box<Health>>,
}

impl<T> Member<T> {
    pub(crate) fn state(&self) -> State {
        match self.orphaned {
            true => State::Down,
            false => State::Told(self.condition),
        }
    }

    pub(crate) fn is_ejected(&self) -> bool {
        let health = self.health.as_ref();
        health.is_some_and(|health| health.ejection.is_ejected())
    }

    /// How it stands now.
    pub(crate) fn standing_now(&self) -> Standing {
        match self.condition {
            _ if self.orphaned => Standing::Excluded,
            // Envoy leaves out of its percentages what was never ready, or drains.
            Condition::Connecting | Condition::Draining => Standing::Excluded,
            Condition::TransientFailure => Standing::Unhealthy,
            // A50: an ejected backend is as one in TRANSIENT_FAILURE.
            Condition::Ready if self.is_ejected() => Standing::Unhealthy,
            Condition::Ready => Standing::Healthy,
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
        &self.members[key as usize]
    }

    pub(crate) fn get_mut(&mut self, key: MemberKey) -> &mut Member<T> {
        &mut self.members[key as usize]
    }

    pub(crate) fn find<O: Offer<T>>(&self, id: &O) -> Option<MemberKey> {
        let is_it = |key: &MemberKey| id.equivalent(&self.members[*key as usize].id);
        self.by_id.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// Makes room for so many more, and no more than that.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.members.reserve_exact(more);
        let (members, hasher) = (&self.members, &self.hasher);
        let hash = |key: &MemberKey| hasher.hash_one(&members[*key as usize].id);
        self.by_id.reserve(more, hash);
    }

    /// Lists a backend whose id is not listed, at the end and without an owner or a row.
    pub(crate) fn insert<O: Offer<T>>(
        &mut self,
        offered: &Backend<O>,
        entry: impl FnOnce(MemberKey) -> Entry,
        health: Option<Box<Health>>,
    ) -> MemberKey {
        let (id, value) = O::own(&offered.id, &offered.value);
        let rank = self.end();
        let slot = self.members.vacant_entry();
        let key = MemberKey::try_from(slot.key()).expect("fewer than 2^32 backends");
        slot.insert(Member {
            id,
            value,
            owner: None,
            weight: offered.weight,
            condition: Condition::default(),
            orphaned: false,
            standing: Standing::default(),
            rank,
            row: None,
            entry: Arc::new(entry(key)),
            health,
        });
        let (members, hasher) = (&self.members, &self.hasher);
        let hash = |key: &MemberKey| hasher.hash_one(&members[*key as usize].id);
        self.by_id.insert_unique(hash(&key), key, hash);
        key
    }

    /// Takes over what is offered for an id that is listed, and returns what it replaces. A value
    /// that is equal to the one held is not taken over.
    pub(crate) fn update<O: Offer<T>>(
        &mut self,
        key: MemberKey,
        offered: &Backend<O>,
    ) -> Option<(T, T)> {
        let member = self.get_mut(key);
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
        let hash = self.hasher.hash_one(&self.get(key).id);
        let indexed = self.by_id.find_entry(hash, |other| *other == key);
        indexed.expect("every member is indexed").remove();
        self.members.remove(key as usize)
    }

    /// A place in the list behind all that were given before.
    pub(crate) fn end(&mut self) -> u64 {
        self.next_rank += 1;
        self.next_rank
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (MemberKey, &Member<T>)> {
        let members = self.members.iter();
        members.map(|(key, member)| (key as MemberKey, member))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (MemberKey, &mut Member<T>)> {
        let members = self.members.iter_mut();
        members.map(|(key, member)| (key as MemberKey, member))
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (MemberKey, Member<T>)> {
        let members = std::mem::replace(self, Members::new()).members.into_iter();
        members.map(|(key, member)| (key as MemberKey, member))
    }

    /// All members, in the order of the list.
    pub(crate) fn in_order(&self) -> Vec<&Member<T>> {
        let mut members: Vec<&Member<T>> = self.members.iter().map(|(_, member)| member).collect();
        members.sort_unstable_by_key(|member| member.rank);
        members
    }
}
