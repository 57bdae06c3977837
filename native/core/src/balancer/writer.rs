//! The writer's side: the list, and everything that changes it. Under the writer's lock.

use std::hash::Hash;

use triomphe::Arc;

use super::timed::Schedule;
use super::{Changes, MemberError};
use crate::backend::{Backend, Condition, Entry, Offer, OnOwnerDeath, Owner, Owners, Row};
use crate::health::{Census, Health, Standing};
use crate::members::{Member, MemberKey, Members};
use crate::policy::{Cause, Picker};
use crate::reclaim::Published;
use crate::rows::Draft;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Unavailable};
use crate::time::Time;
use crate::watched::Watched;

pub(super) struct Writer<T, W> {
    pub(super) shared: Arc<Shared>,
    pub(super) members: Members<T>,
    pub(super) census: Census,
    /// Whether so few members are healthy that the others are picked, too.
    pub(super) panicking: bool,
    /// How many members weigh something else than 1.
    pub(super) weighted: u32,
    /// Whose death closes the balancer.
    pub(super) owner: Option<Owner>,
    /// The owners of members and of the balancer.
    pub(super) watched: Watched<W>,
    pub(super) schedule: Schedule,
    pub(super) generation: u64,
    pub(super) closed: bool,
    pub(super) random: fastrand::Rng,
}

/// A change of the list while it is being made.
pub(super) struct Change<T> {
    pub(super) rows: Draft<T>,
    /// Whether what is offered is the whole list, or is added to the one there is.
    pub(super) whole: bool,
    /// Whether there is something new to publish.
    pub(super) touched: bool,
    pub(super) added: usize,
    /// How many were listed before.
    pub(super) before: usize,
    /// Owners that lost a member.
    pub(super) bereft: Vec<Owner>,
    /// What is not needed any more, to be dropped after the lock.
    pub(super) gone: Gone<T>,
}

/// Ids and values.
pub(super) type Gone<T> = Vec<(T, T)>;

impl<T: Clone + Eq + Hash + Send + Sync, W> Writer<T, W> {
    /// Without members, and the snapshot for that.
    pub(super) fn new(shared: Arc<Shared>, seed: u64, now: Time) -> (Self, Snapshot<T>) {
        let rows = Draft::new().finish();
        let config = &shared.config;
        let detection = config.outlier_detection.as_ref();
        let reports = config.policy.reported_weights();
        let schedule = Schedule {
            sweep: detection.map_or(Time::NEVER, |config| now + config.interval),
            weights: reports.map_or(Time::NEVER, |config| now + config.weight_update_period),
            warm: now,
        };
        let writer = Writer {
            shared,
            members: Members::new(),
            census: Census::default(),
            panicking: false,
            weighted: 0,
            owner: None,
            watched: Watched::new(),
            schedule,
            generation: 0,
            closed: false,
            random: fastrand::Rng::with_seed(seed),
        };
        writer.announce();
        let first = Snapshot::new(rows, Picker::unstarted(), Unavailable::NoBackends);
        (writer, first)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    pub(super) fn listed(&self) -> usize {
        self.members.len()
    }

    pub(super) fn find<O: Offer<T>>(&self, id: &O) -> Result<MemberKey, MemberError> {
        match self.closed {
            true => Err(MemberError::Closed),
            false => self.members.find(id).ok_or(MemberError::NotFound),
        }
    }

    pub(super) fn entry(&self, key: MemberKey) -> Arc<Entry> {
        Arc::clone(&self.members.get(key).entry)
    }

    pub(super) fn reconcile<O: Offer<T>>(
        &mut self,
        offered: &[Backend<O>],
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> (Changes, Gone<T>) {
        let mut change = self.begin_anew(offered.len());
        let last_rank = self.members.end();
        for backend in offered {
            self.offer(backend, &mut change, owners, now);
        }
        let unlisted = |(_, member): &(MemberKey, &Member<T>)| member.rank < last_rank;
        let members = self.members.iter().filter(unlisted);
        let keys: Vec<MemberKey> = members.map(|(key, _)| key).collect();
        for key in keys {
            self.drop_member(key, &mut change);
        }
        self.end(change, published, owners)
    }

    pub(super) fn add<O: Offer<T>>(
        &mut self,
        offered: &[Backend<O>],
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> (Changes, Gone<T>) {
        let mut change = self.begin(published);
        for backend in offered {
            self.offer(backend, &mut change, owners, now);
        }
        self.read_reports(now);
        self.end(change, published, owners)
    }

    pub(super) fn remove<O: Offer<T>>(
        &mut self,
        ids: &[O],
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> (Changes, Gone<T>) {
        let mut change = self.begin(published);
        for id in ids {
            if let Some(key) = self.members.find(id) {
                self.drop_member(key, &mut change);
            }
        }
        self.end(change, published, owners)
    }

    pub(super) fn set_condition(
        &mut self,
        key: MemberKey,
        condition: Condition,
        published: &Published<Snapshot<T>>,
        now: Time,
    ) {
        let mut change = self.begin(published);
        self.members.get_mut(key).condition = condition;
        self.judge(key, &mut change, now);
        self.read_reports(now);
        self.end_state_change(change, published);
    }

    pub(super) fn set_owner(
        &mut self,
        owner: Owner,
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> Gone<T> {
        self.owner = Some(owner);
        match self.watched.watch(owner, owners) {
            Some(_) => Gone::new(),
            None => self.close(published, owners),
        }
    }

    /// A change of some backends of the list.
    pub(super) fn begin(&self, published: &Published<Snapshot<T>>) -> Change<T> {
        Change {
            rows: published.inspect(|last| last.rows().edit()),
            whole: false,
            touched: false,
            added: 0,
            before: self.members.len(),
            bereft: Vec::new(),
            gone: Gone::new(),
        }
    }

    /// A change that builds the list anew, for so many backends.
    fn begin_anew(&mut self, backends: usize) -> Change<T> {
        let before = self.members.len();
        self.members.reserve(backends.saturating_sub(before));
        for (_, member) in self.members.iter_mut() {
            member.row = None;
        }
        Change {
            rows: Draft::new(),
            whole: true,
            touched: true,
            added: 0,
            before,
            bereft: Vec::new(),
            gone: Gone::new(),
        }
    }

    /// Lists a backend as it is offered, or makes the one with its id so.
    fn offer<O: Offer<T>>(
        &mut self,
        offered: &Backend<O>,
        change: &mut Change<T>,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) {
        change.touched = true;
        let listed = self.members.find(&offered.id);
        let key = match listed {
            Some(key) => {
                change.gone.extend(self.members.update(key, offered));
                key
            }
            None => self.insert(offered, now),
        };
        if change.whole {
            self.members.get_mut(key).rank = self.members.end();
        }
        change.added += usize::from(listed.is_none());
        let alive = self.set_member_owner(key, offered.owner, change, owners);
        if !alive && self.shared.config.on_owner_death == OnOwnerDeath::Remove {
            self.drop_member(key, change);
            change.added -= usize::from(listed.is_none());
            return;
        }
        let member = self.members.get_mut(key);
        member.orphaned = !alive;
        let was_up = member.row.is_some();
        self.judge(key, change, now);
        self.weigh(key, now);
        if was_up && self.members.get(key).row.is_some() {
            self.put_up(key, change);
        }
    }

    fn insert<O: Offer<T>>(&mut self, offered: &Backend<O>, now: Time) -> MemberKey {
        let Writer {
            shared,
            members,
            random,
            ..
        } = self;
        let config = &shared.config;
        let timed = config.outlier_detection.is_some() || config.slow_start.is_some();
        let health = timed.then(|| Box::new(Health::new(now)));
        let place = random.u32(..);
        let entry = |key| Entry::new(key, place, shared, now);
        members.insert(offered, entry, health)
    }

    /// `false` if the owner is dead.
    fn set_member_owner(
        &mut self,
        key: MemberKey,
        owner: Option<Owner>,
        change: &mut Change<T>,
        owners: &impl Owners<Watch = W>,
    ) -> bool {
        let member = self.members.get_mut(key);
        if member.owner == owner {
            return true;
        }
        if let Some(last) = member.owner.take() {
            self.watched.disown(last, key);
            change.bereft.push(last);
        }
        if let Some(owner) = owner {
            let Some(members) = self.watched.watch(owner, owners) else {
                return false;
            };
            members.push(key);
        }
        self.members.get_mut(key).owner = owner;
        true
    }

    /// Has a member in the rotation, or not, as it stands now.
    pub(super) fn judge(&mut self, key: MemberKey, change: &mut Change<T>, now: Time) {
        let member = self.members.get_mut(key);
        let before = member.standing;
        let standing = member.standing_now();
        if standing != before {
            member.standing = standing;
            self.census.shift(before, standing);
            if standing == Standing::Healthy && self.warm_up(key, now) {
                // In a panic its row is there already, with a table of what it weighed before.
                change.touched |= self.shared.config.policy.tabulates_weights();
            }
        }
        self.seat(key, change);
    }

    /// Puts a member into the rotation, or takes it out.
    fn seat(&mut self, key: MemberKey, change: &mut Change<T>) {
        let member = self.members.get(key);
        let wanted = match member.standing {
            Standing::Healthy => true,
            Standing::Unhealthy => self.panicking,
            Standing::Excluded => false,
        };
        match (member.row, wanted) {
            (None, true) => self.put_up(key, change),
            (Some(_), false) => self.take_down(key, change),
            _ => {}
        }
    }

    /// Puts a member into the rotation, or what it has become in its place.
    fn put_up(&mut self, key: MemberKey, change: &mut Change<T>) {
        change.touched = true;
        let member = self.members.get_mut(key);
        let row = Row {
            value: member.value.clone(),
            owner: member.owner,
            entry: Arc::clone(&member.entry),
        };
        match member.row {
            Some(index) => change.rows.replace(index as usize, row),
            None => member.row = Some(change.rows.push(row) as u32),
        }
    }

    /// Takes a member out of the rotation, if it is in it.
    fn take_down(&mut self, key: MemberKey, change: &mut Change<T>) {
        if let Some(index) = self.members.get_mut(key).row.take() {
            change.touched = true;
            if let Some(moved) = change.rows.swap_remove(index as usize) {
                self.members.get_mut(moved.entry.key).row = Some(index);
            }
        }
    }

    /// Counts a member out and takes it out of the rotation.
    fn exclude(&mut self, key: MemberKey, change: &mut Change<T>) {
        let member = self.members.get_mut(key);
        let before = std::mem::take(&mut member.standing);
        self.census.shift(before, Standing::Excluded);
        self.take_down(key, change);
    }

    fn drop_member(&mut self, key: MemberKey, change: &mut Change<T>) {
        change.touched = true;
        self.exclude(key, change);
        let member = self.members.remove(key);
        self.weighted -= u32::from(member.entry.load.weight() != 1.0);
        if let Some(owner) = member.owner {
            self.watched.disown(owner, key);
            change.bereft.push(owner);
        }
        change.gone.push((member.id, member.value));
    }

    /// Publishes a list that a user changed, if it was touched.
    fn end(
        &mut self,
        mut change: Change<T>,
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> (Changes, Gone<T>) {
        self.check_panic(&mut change);
        if change.touched {
            self.publish(change.rows, published, Cause::Reconcile);
        }
        self.announce();
        for owner in change.bereft {
            self.unwatch_idle(owner, owners);
        }
        let kept = self.members.len() - change.added;
        let changes = Changes {
            added: change.added,
            removed: change.before - kept,
            kept,
        };
        (changes, change.gone)
    }

    /// Publishes what backends that stay listed have become, if it was touched.
    pub(super) fn end_state_change(
        &mut self,
        mut change: Change<T>,
        published: &Published<Snapshot<T>>,
    ) {
        self.check_panic(&mut change);
        if change.touched {
            self.publish(change.rows, published, Cause::StateChange);
        }
        self.announce();
    }

    /// Begins or ends a panic, as the census says.
    fn check_panic(&mut self, change: &mut Change<T>) {
        let panicking = self.census.panics(self.shared.config.panic_threshold);
        if panicking == self.panicking {
            return;
        }
        self.panicking = panicking;
        let members = self.members.iter();
        let unhealthy = members.filter(|(_, member)| member.standing == Standing::Unhealthy);
        let keys: Vec<MemberKey> = unhealthy.map(|(key, _)| key).collect();
        for key in keys {
            self.seat(key, change);
        }
    }

    /// Stops watching an owner that owns nothing any more.
    fn unwatch_idle(&mut self, owner: Owner, owners: &impl Owners<Watch = W>) {
        if self.owner != Some(owner) {
            self.watched.unwatch_idle(owner, owners);
        }
    }

    /// Takes the members of dead owners out of the rotation.
    pub(super) fn bury(
        &mut self,
        departed: &[Owner],
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> Gone<T> {
        // An owner that is not watched any more has nothing here: its name may be another's now.
        let mut keys = Vec::new();
        for owner in departed {
            if let Some(members) = self.watched.bury(*owner) {
                if self.owner == Some(*owner) {
                    return self.close(published, owners);
                }
                keys.extend(members);
            }
        }
        if keys.is_empty() {
            return Gone::new();
        }
        // From the last row to the first, so that none that is to go takes another's place.
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(self.members.get(*key).row));
        let mut change = self.begin(published);
        for key in keys {
            match self.shared.config.on_owner_death {
                OnOwnerDeath::Keep => {
                    let member = self.members.get_mut(key);
                    member.owner = None;
                    member.orphaned = true;
                    self.exclude(key, &mut change);
                }
                OnOwnerDeath::Remove => self.drop_member(key, &mut change),
            }
        }
        let gone = std::mem::take(&mut change.gone);
        self.end_state_change(change, published);
        gone
    }

    pub(super) fn close(
        &mut self,
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> Gone<T> {
        if self.closed {
            return Gone::new();
        }
        self.closed = true;
        self.announce();
        self.publish(Draft::new(), published, Cause::StateChange);
        let mut bereft: Vec<Owner> = self.owner.take().into_iter().collect();
        let gone = self.members.drain().map(|(key, member)| {
            if let Some(owner) = member.owner {
                self.watched.disown(owner, key);
                bereft.push(owner);
            }
            (member.id, member.value)
        });
        let gone = gone.collect();
        for owner in bereft {
            self.unwatch_idle(owner, owners);
        }
        gone
    }

    /// Builds the snapshot of the rows, and publishes it.
    fn publish(&mut self, rows: Draft<T>, published: &Published<Snapshot<T>>, cause: Cause) {
        let rows = rows.finish();
        let weighted = self.weighted > 0 || self.shared.config.slow_start.is_some();
        let picker = published.inspect(|last| {
            let policy = &self.shared.config.policy;
            let rank = |row: &Row<T>| self.members.get(row.entry.key).rank;
            policy.build(
                &rows,
                rank,
                weighted,
                last.picker(),
                cause,
                &mut self.random,
            )
        });
        let empty = if self.closed {
            Unavailable::Closed
        } else {
            Unavailable::NoBackends
        };
        self.generation += 1;
        published.publish(Snapshot::new(rows, picker, empty));
    }
}
