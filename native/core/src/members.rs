//! Member table, indexed by id.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use triomphe::Arc;

use crate::backend::{Backend, HashKey, Offer, Owner, State};
use crate::entry::{Entry, Row};
use crate::health::ejection::Ejection;
use crate::health::{Health, Standing};
use crate::memory::Known;
use crate::time::Time;

/// Names a member for as long as it is listed.
pub(crate) type MemberKey = u32;

pub(crate) struct Members<T> {
    members: Slab<Member<T>>,
    /// Keys, which fit into half of what they are made of.
    by_id: HashTable<MemberKey>,
    hasher: DefaultHashBuilder,
    /// Keys in the order of the list, with [`GONE`] in the place of each that was removed since it was
    /// made.
    order: Vec<MemberKey>,
}

/// No member has this key.
pub(crate) const GONE: MemberKey = MemberKey::MAX;

/// A backend that is listed.
pub(crate) struct Member<T> {
    pub(crate) id: T,
    pub(crate) value: T,
    /// The process that is watched for it. `None` once it has died.
    pub(crate) owner: Option<Owner>,
    pub(crate) weight: u32,
    /// The index of its [layer](crate::Backend::priority).
    pub(crate) layer: u32,
    /// Given with a policy that hashes, which needs it.
    pub(crate) hash_key: Option<HashKey>,
    /// Whether it is listed only, since the subset that is used is of others.
    pub(crate) outside: bool,
    /// Whether it has been ready since it was listed.
    pub(crate) was_ready: bool,
    /// As its user says.
    pub(crate) state: State,
    pub(crate) owner_dead: bool,
    /// What follows from these and from its health, as it is counted.
    pub(crate) standing: Standing,
    /// Slow start counts from there.
    pub(crate) healthy_since: Time,
    /// Its place in the list: the lower, the earlier. Those that were removed have one, too.
    pub(crate) rank: u32,
    /// Its index among the rows, if it can be picked.
    pub(crate) row: Option<u32>,
    pub(crate) entry: Arc<Entry>,
    /// See [`Known`].
    pub(crate) shuffle_place: u32,
    /// Made when outliers are first looked for.
    pub(crate) health: Option<Box<Health>>,
}

impl<T> Member<T> {
    /// What outlier detection has found.
    pub(crate) fn ejection(&self) -> Option<&Ejection> {
        self.health.as_ref().map(|health| &health.ejection)
    }

    fn is_ejected(&self) -> bool {
        self.ejection().is_some_and(Ejection::is_ejected)
    }

    /// Whether it could be picked, were it not for an ejection.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_up() && !self.outside
    }

    /// What a snapshot has of it.
    pub(crate) fn to_row(&self, key: MemberKey) -> Row<T>
    where
        T: Clone,
    {
        Row {
            value: self.value.clone(),
            owner: self.owner,
            key,
            generation: self.entry.load.generation(),
            entry: Arc::clone(&self.entry),
        }
    }

    /// Whether it would stay as it is if this were offered for it, in the layer that it is in. A value is
    /// compared with no more effort than the one held takes, whatever is offered.
    pub(crate) fn is_as_offered<O: Offer<T>>(&self, offered: &Backend<O>) -> bool {
        self.weight == offered.weight
            && self.owner == offered.owner
            && !self.owner_dead
            && offered.state.is_none_or(|state| state == self.state)
            && self.hash_key == offered.hash_key
            && offered.value.equivalent(&self.value)
    }

    /// Whether it keeps backends of weight 0 out of the rotation.
    pub(crate) fn weighs_in_rotation(&self) -> bool {
        self.weight > 0 && self.row.is_some()
    }

    /// Whether it is ready, in the subset or not.
    fn is_up(&self) -> bool {
        self.state == State::Ready && !self.owner_dead
    }

    /// Has it known that it has been ready, if it is.
    pub(crate) fn note_ready(&mut self) {
        self.was_ready |= self.is_up();
    }

    /// The standing that follows from its state, its owner and its health.
    pub(crate) fn current_standing(&self) -> Standing {
        match self.state {
            _ if self.outside => Standing::Outside,
            // Envoy leaves out of its percentages what was never ready, or drains.
            State::Draining => Standing::Excluded,
            _ if self.owner_dead && self.was_ready => Standing::Lost,
            _ if self.owner_dead => Standing::Excluded,
            State::Connecting if self.was_ready => Standing::Lost,
            State::Connecting => Standing::Excluded,
            State::TransientFailure => Standing::Unhealthy,
            State::Ready if self.is_ejected() => Standing::Ejected,
            State::Ready => Standing::Healthy,
        }
    }
}

impl<T: Clone + Eq + Hash> Members<T> {
    pub(crate) fn new() -> Self {
        Members {
            members: Slab::new(),
            by_id: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            order: Vec::new(),
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

    /// The index of a backend's row in this layer, if it is listed and has one there.
    pub(crate) fn row_of(&self, row: &Row<T>, layer: u32) -> Option<usize> {
        // Its key may be another's by now.
        let member = self.members.get(row.key as usize);
        let is_it =
            |member: &&Member<T>| member.layer == layer && Arc::ptr_eq(&member.entry, &row.entry);
        let member = member.filter(is_it);
        member?.row.map(|row| row as usize)
    }

    /// The hash of an id, which [`find_hashed`](Self::find_hashed) finds it by.
    pub(crate) fn hash<O: Offer<T>>(&self, id: &O) -> u64 {
        self.hasher.hash_one(id)
    }

    pub(crate) fn find<O: Offer<T>>(&self, id: &O) -> Option<MemberKey> {
        self.find_hashed(self.hash(id), id)
    }

    pub(crate) fn find_hashed<O: Offer<T>>(&self, hash: u64, id: &O) -> Option<MemberKey> {
        let is_it = |key: &MemberKey| id.equivalent(&self.members[*key as usize].id);
        self.by_id.find(hash, is_it).copied()
    }

    /// The first member at this rank or after it, and its rank.
    pub(crate) fn at_or_after(&self, rank: u32) -> Option<(u32, MemberKey)> {
        let order = self.order.get(rank as usize..)?;
        let mut ranked = (rank..).zip(order.iter().copied());
        ranked.find(|(_, key)| *key != GONE)
    }

    /// All keys are below this.
    pub(crate) fn key_limit(&self) -> usize {
        self.members.capacity()
    }

    /// Makes room for so many more, and no more than that, if they are many beside those that are listed.
    pub(crate) fn reserve(&mut self, more: usize) {
        if more < self.len() / 2 {
            return;
        }
        self.members.reserve_exact(more);
        self.order.reserve_exact(more);
        let (members, hasher) = (&self.members, &self.hasher);
        let hash = |key: &MemberKey| hasher.hash_one(&members[*key as usize].id);
        self.by_id.reserve(more, hash);
    }

    /// Lists a backend whose id, of this hash, is not listed: at the end, and without an owner or a row.
    pub(crate) fn insert<O: Offer<T>>(
        &mut self,
        hash: u64,
        offered: &Backend<O>,
        layer: u32,
        known: Known,
        now: Time,
    ) -> MemberKey {
        let (id, value) = O::own(&offered.id, &offered.value);
        let rank = self.order.len() as u32;
        let slot = self.members.vacant_entry();
        let key = MemberKey::try_from(slot.key()).expect("fewer than 2^32 backends");
        slot.insert(Member {
            id,
            value,
            owner: None,
            weight: offered.weight,
            layer,
            hash_key: offered.hash_key.clone(),
            outside: false,
            was_ready: false,
            state: offered.state.unwrap_or_default(),
            owner_dead: false,
            standing: Standing::default(),
            healthy_since: now,
            rank,
            row: None,
            entry: known.entry,
            shuffle_place: known.shuffle_place,
            health: known.health,
        });
        self.order.push(key);
        let (members, hasher) = (&self.members, &self.hasher);
        let rehash = |key: &MemberKey| hasher.hash_one(&members[*key as usize].id);
        self.by_id.insert_unique(hash, key, rehash);
        key
    }

    /// Has the list in this order, of all its members' keys and perhaps [`GONE`]. Whether it was in
    /// another.
    pub(crate) fn arrange(&mut self, order: Vec<MemberKey>) -> bool {
        let moved = !self.is_in_order(&order);
        if moved || self.order.len() > self.members.len() {
            self.order = order;
            self.rank();
        }
        moved
    }

    /// Whether the list is in this order, of keys and perhaps [`GONE`].
    pub(crate) fn is_in_order(&self, order: &[MemberKey]) -> bool {
        let order = order.iter().copied().filter(|key| *key != GONE);
        self.keys_in_order().eq(order)
    }

    /// Has each member know its place in the list.
    fn rank(&mut self) {
        self.order.retain(|key| *key != GONE);
        for (rank, key) in (0..).zip(&self.order) {
            self.members[*key as usize].rank = rank;
        }
    }

    /// Whether it is the last of the list.
    pub(crate) fn is_last(&self, member: &Member<T>) -> bool {
        member.rank as usize + 1 == self.order.len()
    }

    /// Takes over what is offered for an id that is listed, and returns the id and the value that
    /// it replaces. A value that is equal to the one held is not taken over.
    pub(crate) fn update<O: Offer<T>>(
        &mut self,
        key: MemberKey,
        offered: &Backend<O>,
    ) -> Option<[T; 2]> {
        let member = self.get_mut(key);
        member.weight = offered.weight;
        member.hash_key.clone_from(&offered.hash_key);
        member.state = offered.state.unwrap_or(member.state);
        if offered.value.equivalent(&member.value) {
            return None;
        }
        let (id, value) = O::own(&offered.id, &offered.value);
        Some([
            std::mem::replace(&mut member.id, id),
            std::mem::replace(&mut member.value, value),
        ])
    }

    pub(crate) fn remove(&mut self, key: MemberKey) -> Member<T> {
        let hash = self.hasher.hash_one(&self.get(key).id);
        let indexed = self.by_id.find_entry(hash, |other| *other == key);
        indexed.expect("every member is indexed").remove();
        let member = self.members.remove(key as usize);
        self.order[member.rank as usize] = GONE;
        // Rarely enough for each removal to pay for a few steps of it.
        if self.order.len() > 2 * self.members.len() {
            self.rank();
        }
        member
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

    /// The keys of all members, in the order of the list.
    pub(crate) fn keys_in_order(&self) -> impl Iterator<Item = MemberKey> + '_ {
        self.order.iter().copied().filter(|key| *key != GONE)
    }

    /// All members, in the order of the list.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Member<T>> {
        self.keys_in_order().map(|key| self.get(key))
    }
}
