//! Change of a balancer while it is made: its members, its rotation, and the snapshot that follows.

use std::borrow::Borrow;
use std::hash::Hash;

use super::compare::{Changed, Difference, Who};
use super::layers::Layers;
use super::results::{ChangeError, Changes};
use super::writer::Writer;
use crate::backend::{Backend, Offer, OnOwnerDeath, Owner, Owners};
use crate::events::Event;
use crate::group::Group;
use crate::hash::xxh64;
use crate::health::Standing;
use crate::load::Load;
use crate::members::{Member, MemberKey, Members, GONE};
use crate::memory::Known;
use crate::policy::{Build, CandidateList, Candidates, Cause, Listed};
use crate::reclaim::Published;
use crate::rows::{Draft, Rows};
use crate::snapshot::{Groups, Snapshot};
use crate::subset::lowest;
use crate::time::Time;

/// Of so many backends that were removed something is remembered, or of as many as are listed.
const REMEMBERED: usize = 1_024;

/// What every change works with, under the writer's lock.
pub(super) struct Scope<'a, T, O: Owners> {
    pub(super) writer: &'a mut Writer<T, O::Watch>,
    pub(super) published: &'a Published<Snapshot<T>>,
    pub(super) owners: &'a O,
}

impl<T, O: Owners> Scope<'_, T, O> {
    /// Itself, unless the balancer is closed.
    pub(super) fn open(self) -> Result<Self, ChangeError> {
        match self.writer.closed {
            true => Err(ChangeError::Closed),
            false => Ok(self),
        }
    }
}

pub(super) struct Change<'a, T, O: Owners> {
    pub(super) writer: &'a mut Writer<T, O::Watch>,
    published: &'a Published<Snapshot<T>>,
    pub(super) owners: &'a O,
    /// Of each layer.
    rows: Vec<Draft<T>>,
    /// Whether the rows are to be in the order of the list.
    whole: bool,
    /// Whether there is something new to publish.
    touched: bool,
    added: usize,
    /// How many were listed before.
    before: usize,
    /// Owners that lost a member.
    released: Vec<Owner>,
    /// Ids and values that are not needed any more, to be dropped after the lock.
    gone: Gone<T>,
}

/// Ids and values.
pub(super) type Gone<T> = Vec<T>;

impl<'a, T: Clone + Eq + Hash + Send + Sync, O: Owners> Change<'a, T, O> {
    pub(super) fn begin(scope: Scope<'a, T, O>) -> Self {
        let edit = |group: &Group<T>| group.rows().edit();
        let rows = |last: &Snapshot<T>| last.groups().iter().map(edit).collect();
        scope.writer.version += 1;
        Change {
            rows: scope.published.inspect(rows),
            before: scope.writer.members.len(),
            writer: scope.writer,
            published: scope.published,
            owners: scope.owners,
            whole: false,
            touched: false,
            added: 0,
            released: Vec::new(),
            gone: Gone::new(),
        }
    }

    /// Something other than the rotation changed that a snapshot holds.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    /// Has all that is offered listed as it is offered. The keys of the list that is offered, in its order.
    pub(super) fn upsert_all<I: Offer<T>, B: Borrow<Backend<I>>>(
        &mut self,
        difference: Difference<B>,
        now: Time,
    ) -> Vec<MemberKey> {
        let Difference {
            mut order, changed, ..
        } = difference;
        let is_new = |changed: &&Changed<B>| matches!(changed.who, Who::New(_));
        let new = changed.iter().filter(is_new).count();
        self.writer.members.reserve(new);
        for Changed {
            position,
            who,
            offered,
        } in changed
        {
            let key = self.upsert(who, offered.borrow(), now);
            order[position as usize] = key.unwrap_or(GONE);
        }
        order
    }

    /// Brings up to date what follows from a list that has changed.
    pub(super) fn follow_list(&mut self, now: Time) {
        if self.touched {
            self.update_subset(Some(now));
            self.read_reports(now);
        }
    }

    /// Lists a backend as it is offered, or makes the one with its id so. `None` if it is not listed
    /// then.
    pub(super) fn upsert<B: Offer<T>>(
        &mut self,
        who: Who,
        offered: &Backend<B>,
        now: Time,
    ) -> Option<MemberKey> {
        self.touched = true;
        let key = match who {
            Who::Listed(key) => {
                self.place(key, offered);
                let counted = self.writer.members.get(key).weighs_in_rotation();
                let replaced = self.writer.members.update(key, offered);
                self.gone.extend(replaced.into_iter().flatten());
                let counts = self.writer.members.get(key).weighs_in_rotation();
                self.writer.weighing += u32::from(counts);
                self.writer.weighing -= u32::from(counted);
                key
            }
            Who::New(hash) => {
                let (key, recalled) = self.writer.insert(hash, offered, now);
                self.gone.extend(recalled);
                // Until the subset is chosen.
                let begins_outside = self.writer.config.subset.is_some();
                self.writer.members.get_mut(key).outside = begins_outside;
                self.added += 1;
                key
            }
        };
        let alive = self.set_owner(key, offered.owner);
        if !alive && self.writer.config.on_owner_death == OnOwnerDeath::Remove {
            self.remove(key);
            self.added -= usize::from(matches!(who, Who::New(_)));
            return None;
        }
        let member = self.writer.members.get_mut(key);
        member.owner_dead = !alive;
        let was_in = member.row.is_some();
        self.update_standing(key, now);
        self.writer.update_weight(key, now);
        if was_in {
            self.renew_row(key);
        }
        Some(key)
    }

    /// Has a member's row, if it has one, be as the member is.
    pub(super) fn renew_row(&mut self, key: MemberKey) {
        if self.writer.members.get(key).row.is_some() {
            self.add_to_rotation(key);
        }
    }

    /// Has the list in this order, and the rows, too, when they are finished.
    pub(super) fn arrange(&mut self, order: Vec<MemberKey>) {
        self.whole = true;
        let moved = self.writer.members.arrange(order);
        self.writer.scattered |= moved;
        self.touched |= moved;
    }

    /// Brings the rows of each layer into the order of the list. Those that are in their places stay, and
    /// the chunks of such rows are shared with the last snapshot.
    fn sort_rows(&mut self) {
        let members = &mut self.writer.members;
        let mut lens = vec![0; self.rows.len()];
        let mut next = 0;
        while let Some((rank, key)) = members.at_or_after(next) {
            next = rank + 1;
            let member = members.get_mut(key);
            let Some(row) = &mut member.row else {
                continue;
            };
            let layer = member.layer as usize;
            let place = &mut lens[layer];
            if *row != *place {
                *row = *place;
                self.rows[layer].replace(*place as usize, member.to_row(key));
                self.touched = true;
            }
            *place += 1;
        }
        self.writer.scattered = false;
    }

    /// Has a listed member in the layer that is offered.
    fn place<B>(&mut self, key: MemberKey, offered: &Backend<B>) {
        let (before, after) = (
            self.writer.members.get(key).layer,
            self.writer.layers.find_or_add(offered),
        );
        if before != after {
            self.exclude(key);
            self.writer.layers.count(before, false);
            self.writer.layers.count(after, true);
            self.writer.members.get_mut(key).layer = after;
        }
    }

    /// Takes a member off the list, and forgets what is known of it.
    pub(super) fn remove(&mut self, key: MemberKey) {
        let member = self.delist(key);
        self.gone.extend([member.id, member.value]);
    }

    /// Takes a member off the list, and keeps for a while what is known of it.
    pub(super) fn remove_for_now(&mut self, key: MemberKey, now: Time) {
        let remember = self.writer.config.remember;
        if remember.is_zero() {
            return self.remove(key);
        }
        let member = self.delist(key);
        let known = Known {
            entry: member.entry,
            shuffle_place: member.shuffle_place,
            health: member.health,
        };
        let memory = &mut self.writer.memory;
        memory.remember(member.id, known, now + remember);
        self.gone.push(member.value);
    }

    /// Forgets what was known for long enough of backends that were removed.
    pub(super) fn forget_old(&mut self, now: Time) {
        self.gone.extend(self.writer.memory.forget_old(now));
    }

    fn delist(&mut self, key: MemberKey) -> Member<T> {
        self.touched = true;
        self.exclude(key);
        let member = self.writer.members.remove(key);
        self.writer.on_delisted(&member.entry);
        self.writer.layers.count(member.layer, false);
        self.writer.weighted -= u32::from(member.entry.load.known_weight() != Some(1.0));
        if let Some(owner) = member.owner {
            self.writer.watched.release(owner, key);
            self.released.push(owner);
        }
        member
    }

    /// Takes a member out of the rotation whose owner is dead.
    pub(super) fn lose_owner(&mut self, key: MemberKey) {
        let standing = self.writer.members.get(key).current_standing();
        self.set_standing(key, standing);
        self.remove_from_rotation(key);
    }

    /// Has a member no longer counted, and takes it out of the rotation.
    fn exclude(&mut self, key: MemberKey) {
        self.set_standing(key, Standing::Excluded);
        self.remove_from_rotation(key);
    }

    /// Gives a member an owner, or none. `false` if the owner is dead.
    fn set_owner(&mut self, key: MemberKey, owner: Option<Owner>) -> bool {
        let Writer {
            members, watched, ..
        } = &mut *self.writer;
        let member = members.get_mut(key);
        if member.owner == owner {
            return true;
        }
        if let Some(last) = member.owner.take() {
            watched.release(last, key);
            self.released.push(last);
        }
        if let Some(owner) = owner {
            let Some(owned) = watched.watch(owner, self.owners) else {
                return false;
            };
            owned.push(key);
        }
        member.owner = owner;
        true
    }

    /// Counts a member by its current standing, and has it in the rotation accordingly.
    pub(super) fn update_standing(&mut self, key: MemberKey, now: Time) {
        let member = self.writer.members.get_mut(key);
        member.note_ready();
        let standing = member.current_standing();
        if self.set_standing(key, standing) && standing == Standing::Healthy {
            self.on_healthy(key, now);
        }
        self.update_rotation(key);
    }

    /// Counts a member by this standing, and says whether it had another.
    fn set_standing(&mut self, key: MemberKey, standing: Standing) -> bool {
        let Writer {
            members, layers, ..
        } = &mut *self.writer;
        let member = members.get_mut(key);
        let before = std::mem::replace(&mut member.standing, standing);
        if before == standing {
            return false;
        }
        layers.shift(member.layer, before, standing);
        // Where no row changes, which layers serve can.
        self.touched |= layers.len() > 1;
        true
    }

    /// A member has become healthy: it warms up, and its load reports count from now on.
    fn on_healthy(&mut self, key: MemberKey, now: Time) {
        let member = self.writer.members.get_mut(key);
        member.healthy_since = now;
        // Whoever is connected anew has been reached.
        member.entry.load.consecutive.reset_transport_failures();
        if let Some(reported) = member.entry.load.reported.get() {
            reported.on_ready();
        }
        if let Some(config) = &self.writer.config.slow_start {
            let lasts = config.window;
            self.writer.schedule.on_warm_up(config, now);
            self.writer.tell(|writer| Event::SlowStart {
                id: writer.id(key),
                lasts,
            });
        }
        if self.writer.update_weight(key, now) {
            // In a panic its row is there already, with a table of what it weighed before.
            self.touched |= self.writer.config.policy.tabulates_weights();
        }
    }

    /// Has a member in the rotation, or not, as its standing asks for.
    fn update_rotation(&mut self, key: MemberKey) {
        let member = self.writer.members.get(key);
        let relief = self.writer.layers.get(member.layer).relief;
        let wanted = relief.picks(member.standing) && (member.weight > 0 || self.writer.weightless);
        match (member.row, wanted) {
            (None, true) => self.add_to_rotation(key),
            (Some(_), false) => self.remove_from_rotation(key),
            _ => {}
        }
    }

    /// Adds a member to the rotation, or replaces its row there.
    fn add_to_rotation(&mut self, key: MemberKey) {
        self.touched = true;
        let member = self.writer.members.get_mut(key);
        let layer = member.layer as usize;
        if layer >= self.rows.len() {
            self.rows.resize_with(layer + 1, Draft::new);
        }
        let rows = &mut self.rows[layer];
        let row = member.to_row(key);
        match member.row {
            Some(index) => rows.replace(index as usize, row),
            None => {
                member.row = Some(rows.push(row) as u32);
                self.writer.weighing += u32::from(member.weighs_in_rotation());
                let member = self.writer.members.get(key);
                self.writer.scattered |= !self.writer.members.is_last(member);
            }
        }
    }

    /// Removes a member from the rotation, if it is in it.
    fn remove_from_rotation(&mut self, key: MemberKey) {
        let Writer {
            members,
            weighing,
            scattered,
            ..
        } = &mut *self.writer;
        let member = members.get_mut(key);
        *weighing -= u32::from(member.weighs_in_rotation());
        if let Some(index) = member.row.take() {
            self.touched = true;
            let rows = &mut self.rows[member.layer as usize];
            if let Some(moved) = rows.swap_remove(index as usize) {
                members.get_mut(moved.key).row = Some(index);
                *scattered = true;
            }
        }
    }

    /// A58: a new picker takes weights as they are, those of backends that did not change, too.
    pub(super) fn read_reports(&mut self, now: Time) {
        if self.writer.config.policy.reported_weights().is_some() {
            self.writer.update_weights(now);
        }
    }

    /// Has those members used that are in the subset of their priority, and no others (gRFC A68). A
    /// death comes without a time: who takes the place of the dead warms up from when it was listed.
    pub(super) fn update_subset(&mut self, now: Option<Time>) {
        let Some(subset) = self.writer.config.subset else {
            return;
        };
        let layers = &self.writer.layers;
        let members = self.writer.members.iter().map(|(key, member)| {
            let text = member.hash_key.as_ref().expect("there is a subset");
            let hash = xxh64(&text.slice, subset.seed);
            ((layers.get(member.layer).priority, member.rank), hash, key)
        });
        let mut listed: Vec<((u32, u32), u64, MemberKey)> = members.collect();
        listed.sort_unstable();
        let priorities = listed.chunk_by(|one, other| one.0 .0 == other.0 .0);
        let changed = priorities.flat_map(|of_one| {
            let hashes: Vec<u64> = of_one.iter().map(|(_, hash, _)| *hash).collect();
            let mut outside = vec![true; of_one.len()];
            for index in lowest(&hashes, subset.size.get() as usize) {
                outside[index] = false;
            }
            of_one.iter().map(|(_, _, key)| *key).zip(outside)
        });
        let members = &self.writer.members;
        let changed = changed.filter(|(key, outside)| members.get(*key).outside != *outside);
        let changed: Vec<(MemberKey, bool)> = changed.collect();
        for (key, outside) in changed {
            let member = self.writer.members.get_mut(key);
            member.outside = outside;
            if let Some(health) = &mut member.health {
                // What ended while it was not used is no concern of the next look.
                health.seen = member.entry.load.ended();
                member.entry.load.consecutive.forget_too_many();
            }
            let now = now.unwrap_or(member.healthy_since);
            self.update_standing(key, now);
        }
    }

    /// Brings up to date what follows from all members together.
    fn settle(&mut self) {
        self.update_relief();
        self.writer.tell_panics();
        self.update_weightless();
        let healthy = self.writer.layers.census().healthy();
        if self.writer.held_back.is_some_and(|then| healthy > then) {
            // With one more to pick, another may be let go.
            self.writer.held_back = None;
            self.writer.shared.request_look();
        }
        let Writer {
            members,
            memory,
            schedule,
            ..
        } = &mut *self.writer;
        self.gone.extend(memory.keep(members.len().max(REMEMBERED)));
        schedule.plan_forgetting(memory.oldest_until());
    }

    /// Publishes a list that a user changed, if it was touched.
    pub(super) fn finish(mut self) -> (Changes, Gone<T>) {
        self.settle();
        if self.whole && self.writer.scattered {
            self.sort_rows();
        }
        self.publish_if_touched(Cause::Reconcile);
        for owner in std::mem::take(&mut self.released) {
            self.unwatch_idle(owner);
        }
        let kept = self.writer.members.len() - self.added;
        let changes = Changes {
            added: self.added,
            removed: self.before - kept,
            kept,
        };
        (changes, self.gone)
    }

    /// Publishes what has become of the backends without a word of the user on the list, if it was
    /// touched.
    pub(super) fn finish_state_change(mut self) -> Gone<T> {
        self.settle();
        self.publish_if_touched(Cause::StateChange);
        self.gone
    }

    /// Publishes an empty list for good.
    pub(super) fn close(mut self) -> Gone<T> {
        self.writer.closed = true;
        self.rows = Vec::new();
        self.touched = true;
        self.publish_if_touched(Cause::StateChange);
        let mut released: Vec<Owner> = self.writer.owner.take().into_iter().collect();
        let members: Vec<_> = self.writer.members.drain().collect();
        for (key, member) in members {
            self.writer.on_delisted(&member.entry);
            if let Some(owner) = member.owner {
                self.writer.watched.release(owner, key);
                released.push(owner);
            }
            self.gone.extend([member.id, member.value]);
        }
        self.writer.layers = Layers::new();
        self.gone.extend(self.writer.memory.forget_all());
        for owner in released {
            self.unwatch_idle(owner);
        }
        self.gone
    }

    /// Has others picked beside the healthy ones, or not, as the census says.
    fn update_relief(&mut self) {
        let Writer { layers, config, .. } = &mut *self.writer;
        let changed = layers.update_relief(config);
        if changed.is_empty() {
            return;
        }
        let members = self.writer.members.iter();
        let others = members.filter(|(_, member)| {
            changed.contains(&member.layer)
                && [Standing::Ejected, Standing::Unhealthy].contains(&member.standing)
        });
        let keys: Vec<MemberKey> = others.map(|(key, _)| key).collect();
        for key in keys {
            self.update_rotation(key);
        }
    }

    /// Has backends of weight 0 in the rotation as long as no other one is in it.
    fn update_weightless(&mut self) {
        let weightless = self.writer.weighing == 0;
        if weightless == self.writer.weightless {
            return;
        }
        self.writer.weightless = weightless;
        let members = self.writer.members.iter();
        let without = members.filter(|(_, member)| member.weight == 0);
        let mut keys: Vec<MemberKey> = without.map(|(key, _)| key).collect();
        // In the order of the list, as all rows are at first.
        keys.sort_unstable_by_key(|key| self.writer.members.get(*key).rank);
        for key in keys {
            self.update_rotation(key);
        }
    }

    /// Stops watching an owner that owns nothing any more.
    fn unwatch_idle(&mut self, owner: Owner) {
        if self.writer.owner != Some(owner) {
            self.writer.watched.unwatch_idle(owner, self.owners);
        }
    }

    fn publish_if_touched(&mut self, cause: Cause) {
        if self.touched {
            self.publish(cause);
        }
        self.writer.publish_due();
    }

    /// Builds the snapshot of the rows, and publishes it.
    fn publish(&mut self, cause: Cause) {
        let Writer { layers, config, .. } = &mut *self.writer;
        layers.trim();
        let mut rows = std::mem::take(&mut self.rows);
        rows.resize_with(layers.len().max(1), Draft::new);
        let pickable: Vec<usize> = rows.iter().map(Draft::len).collect();
        let order = layers.order(config, &pickable);
        let published = self.published;
        let next = published.inspect(|last| {
            let groups = (0..).zip(rows).map(|(layer, rows)| {
                let last = last.groups().get(layer as usize);
                self.group(layer, rows.finish(), last, cause)
            });
            let groups = Groups::new(groups.collect(), order);
            let limits = self.writer.config.limits();
            Snapshot::new(groups, limits, self.writer.closed)
        });
        self.writer.generation += 1;
        self.published.publish(next);
    }

    /// A group of these rows, with a picker that takes over from the last one.
    fn group(
        &mut self,
        layer: u32,
        rows: Rows<T>,
        last: Option<&Group<T>>,
        cause: Cause,
    ) -> Group<T> {
        let Writer {
            config,
            members,
            weighted,
            random,
            ..
        } = &mut *self.writer;
        let none = Draft::new().finish();
        let list = List {
            rows: &rows,
            last: last.map_or(&none, Group::rows),
            layer,
            members,
        };
        let with = Build {
            last: last.map(Group::picker),
            cause,
            weighted: *weighted > 0 || config.slow_start.is_some(),
            random,
        };
        let picker = config.policy.build(&list, with);
        Group::new(rows, picker)
    }
}

/// The rows of a snapshot, with what is known of their backends.
struct List<'a, T> {
    rows: &'a Rows<T>,
    /// Of the snapshot before it.
    last: &'a Rows<T>,
    layer: u32,
    members: &'a Members<T>,
}

impl<T> Candidates for List<'_, T> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn load(&self, index: usize) -> &Load {
        &self.rows.get(index).entry.load
    }

    fn calls_in_flight(&self) -> u32 {
        self.rows.calls_in_flight()
    }
}

impl<T: Clone + Eq + Hash> CandidateList for List<'_, T> {
    fn rank(&self, index: usize) -> u32 {
        self.members.get(self.rows.get(index).key).rank
    }

    fn shuffle_place(&self, index: usize) -> u32 {
        self.members.get(self.rows.get(index).key).shuffle_place
    }

    fn follower(&self, last_index: usize) -> usize {
        // Where so many are gone at once, it does not matter who is next.
        const FAR: usize = 256;
        let indices = (last_index..self.last.len()).chain(0..last_index);
        let rows = indices.take(FAR).map(|index| self.last.get(index));
        let mut followers = rows.filter_map(|row| self.members.row_of(row, self.layer));
        followers.next().unwrap_or(0)
    }

    fn listed(&self) -> Vec<Listed<'_>> {
        let members = self.members.in_order();
        let members = members.filter(|member| member.layer == self.layer && !member.outside);
        let listed = members.map(|member| Listed {
            hash_key: member.hash_key.as_ref().expect("the policy hashes"),
            weight: member.weight,
            index: member.row,
        });
        listed.collect()
    }
}
