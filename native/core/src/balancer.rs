//! The writer's side of a balancer: its list of backends and everything that changes it.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::hash_map::Entry as Slot;
use hashbrown::HashMap;

use crate::backend::{Backend, Entry, Offer, OnOwnerDeath, Owner, Owners, Row, State};
use crate::caller::Caller;
use crate::live::Counted;
use crate::members::{Member, MemberKey, Members};
use crate::policy::{Cause, Policy};
use crate::reclaim::Published;
use crate::rows::Draft;
use crate::snapshot::{Snapshot, Unavailable};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, Patience};
use crate::watched::Watched;

/// A list of backends and the policy that chooses among them.
///
/// Picks run at any time, on any number of threads, and never wait. Everything else takes the
/// writer's lock. `W` is what it takes to stop watching an owner, see [`Owners`].
pub struct Balancer<T, W = ()> {
    published: Published<Snapshot<T>>,
    /// How many deaths were noted whose backends picks may still see; while there are any, picks
    /// look whether what they chose is alive.
    dying: AtomicUsize,
    writer: Mutex<Writer<T, W>>,
    /// Owners whose death nobody has acted on yet; see [`Balancer::note_death`].
    departed: Mutex<Vec<Owner>>,
    /// Whether somebody was asked to settle and has not begun yet.
    settling: AtomicBool,
    /// How many backends are listed, to be known without the lock.
    listed: AtomicUsize,
    _counted: Counted,
}

/// What a balancer is made of, beside its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The rule that chooses.
    pub policy: Policy,
    /// What becomes of a backend whose owner dies.
    pub on_owner_death: OnOwnerDeath,
}

impl From<Policy> for Config {
    fn from(policy: Policy) -> Self {
        Config {
            policy,
            on_owner_death: OnOwnerDeath::default(),
        }
    }
}

struct Writer<T, W> {
    config: Config,
    members: Members<T>,
    /// Whose death closes the balancer.
    owner: Option<Owner>,
    /// The owners of members and of the balancer.
    watched: Watched<W>,
    generation: u64,
    closed: bool,
    random: fastrand::Rng,
}

/// A change of the list while it is being made.
struct Change<T> {
    rows: Draft<T>,
    /// Whether what is offered is the whole list, or is added to the one there is.
    whole: bool,
    /// Whether anything was offered or removed.
    touched: bool,
    added: usize,
    /// How many were listed before.
    before: usize,
    /// Owners that lost a member.
    bereft: Vec<Owner>,
    /// What is not needed any more, to be dropped after the lock.
    gone: Gone<T>,
}

/// Ids and values.
type Gone<T> = Vec<(T, T)>;

/// How many backends a change of the list added, removed and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids that were not listed before.
    pub added: usize,
    /// Ids that were listed and are no longer.
    pub removed: usize,
    /// Ids that were listed and still are, whatever else about them changed.
    pub kept: usize,
}

/// Why a change of the list was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The balancer is closed.
    Closed,
    /// Two backends of the list have the same id; these are their positions.
    DuplicateId {
        /// The position of the first of them, from 0.
        first: usize,
        /// The position of the second.
        second: usize,
    },
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Closed => write!(f, "the balancer is closed"),
            ChangeError::DuplicateId { first, second } => {
                write!(f, "backends {first} and {second} have the same id")
            }
        }
    }
}

impl std::error::Error for ChangeError {}

/// A balancer as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info<T> {
    /// See [`Policy::name`].
    pub policy: &'static str,
    /// How many snapshots were published: the first reconcile makes it 1.
    pub generation: u64,
    /// Whether it was closed.
    pub closed: bool,
    /// All that are listed, in the order of the list.
    pub backends: Vec<BackendInfo<T>>,
}

/// A backend as it is at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendInfo<T> {
    /// Who it is.
    pub id: T,
    /// What a pick hands out.
    pub value: T,
    /// Whether it can be picked.
    pub state: State,
    /// Whose death takes it out of the rotation.
    pub owner: Option<Owner>,
    /// Its share beside the others, for the policies that weigh.
    pub weight: u32,
    /// How often it was picked since its id was first listed. `None` with a policy that does not
    /// count.
    pub picks: Option<u64>,
}

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Balancer<T, W> {
    /// An open balancer without backends. `seed` is where its random choices come from.
    pub fn new(config: impl Into<Config>, seed: u64) -> Self {
        let config = config.into();
        let mut random = fastrand::Rng::with_seed(seed);
        let rows = Draft::new().finish();
        let picker = config
            .policy
            .build::<T>(&rows, None, Cause::Reconcile, &mut random);
        Balancer {
            published: Published::new(Snapshot::new(rows, picker, Unavailable::NoBackends)),
            dying: AtomicUsize::new(0),
            writer: Mutex::new(Writer {
                config,
                members: Members::new(),
                owner: None,
                watched: Watched::new(),
                generation: 0,
                closed: false,
                random,
            }),
            departed: Mutex::new(Vec::new()),
            settling: AtomicBool::new(false),
            listed: AtomicUsize::new(0),
            _counted: Counted::balancer(),
        }
    }

    /// Chooses a backend and shows its value to `take`. Its owner, if it has one, was not noted as
    /// dead when this was called.
    ///
    /// Never waits, allocates or frees.
    ///
    /// # Panics
    ///
    /// When `take` picks with the same caller.
    #[inline]
    pub fn pick<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        take: impl FnOnce(&T) -> R,
    ) -> Result<R, Unavailable> {
        // Acquire: pairs with the Release in `act_on_deaths`. Who reads that no death is left to
        // act on, reads a snapshot without the dead.
        let dying = self.dying.load(Ordering::Acquire) > 0;
        self.published.read(caller.reader(), |snapshot| {
            let value = match dying {
                false => snapshot.pick(caller),
                true => snapshot.pick_living(caller, |owner| owners.is_alive(owner)),
            };
            value.map(take)
        })
    }

    /// Replaces the list of backends. Every pick that starts after this returns sees the new one.
    ///
    /// An id that was listed before keeps what was counted for it; its value, weight and owner
    /// become those offered. A value that is equal to the one held is not taken over, so nothing
    /// is copied for a backend that stays as it is. On an error nothing has changed.
    pub fn reconcile<O: Offer<T>>(
        &self,
        offered: &[Backend<O>],
        owners: &impl Owners<Watch = W>,
    ) -> Result<Changes, ChangeError> {
        reject_duplicates(offered)?;
        self.change(owners, |writer, published| {
            let mut change = writer.begin_anew(offered.len());
            let last_rank = writer.members.end();
            for backend in offered {
                writer.offer(backend, &mut change, owners);
            }
            let unlisted = |(_, member): &(MemberKey, &Member<T>)| member.rank < last_rank;
            let members = writer.members.iter().filter(unlisted);
            let keys: Vec<MemberKey> = members.map(|(key, _)| key).collect();
            for key in keys {
                writer.remove(key, &mut change);
            }
            writer.end(change, published, owners)
        })
    }

    /// Adds backends at the end of the list, without a look at those that are listed and are not
    /// offered: the cost is that of what is offered. An id that is listed stays where it is and
    /// becomes as offered, as in a reconcile.
    pub fn add<O: Offer<T>>(
        &self,
        offered: &[Backend<O>],
        owners: &impl Owners<Watch = W>,
    ) -> Result<Changes, ChangeError> {
        reject_duplicates(offered)?;
        self.change(owners, |writer, published| {
            let mut change = writer.begin(published);
            for backend in offered {
                writer.offer(backend, &mut change, owners);
            }
            writer.end(change, published, owners)
        })
    }

    /// Removes the backends with these ids; ids that are not listed are passed over. The cost is
    /// that of the backends removed.
    pub fn remove<O: Offer<T>>(
        &self,
        ids: &[O],
        owners: &impl Owners<Watch = W>,
    ) -> Result<Changes, ChangeError> {
        self.change(owners, |writer, published| {
            let mut change = writer.begin(published);
            for id in ids {
                if let Some(key) = writer.members.find(id) {
                    writer.remove(key, &mut change);
                }
            }
            writer.end(change, published, owners)
        })
    }

    /// Ties the balancer to an owner: when it dies, the balancer closes. An owner that is dead
    /// already closes it now.
    pub fn set_owner(&self, owner: Owner, owners: &impl Owners<Watch = W>) {
        let last = self.write(owners, |writer, published| {
            writer.owner = Some(owner);
            match writer.watched.watch(owner, owners) {
                Some(_) => Gone::new(),
                None => writer.close(published, owners),
            }
        });
        drop(last);
    }

    /// Notes that an owner died: picks that start after this returns pass its backends over, and
    /// somebody has to take them out of the list. `true` if [`Balancer::settle`] has to be called
    /// for it, on any thread; `false` if somebody who was told so has not begun yet, and will see
    /// this death too.
    #[must_use]
    pub fn note_death(&self, owner: Owner) -> bool {
        // Relaxed: whoever heard of the death from who calls this sees it, and it publishes
        // nothing. Before the push, so that nobody subtracts it first.
        self.dying.fetch_add(1, Ordering::Relaxed);
        self.departed.lock().push(owner);
        // AcqRel: the Release half hands the death that was noted to the one whose swap in
        // `settle` reads this one; the Acquire half pairs with that swap.
        !self.settling.swap(true, Ordering::AcqRel)
    }

    /// Takes the backends of owners that died out of the rotation, and closes the balancer if the
    /// balancer's own owner is among them.
    ///
    /// Never waits: if another thread is changing the balancer, that thread does this as soon as
    /// its change is through.
    pub fn settle(&self, owners: &impl Owners<Watch = W>) {
        // Before it looks: a death that is noted after this asks for another one. AcqRel: see
        // `note_death`.
        self.settling.swap(false, Ordering::AcqRel);
        self.act_on_deaths(owners);
    }

    /// Empties the balancer for good: every pick that starts after this returns says
    /// [`Unavailable::Closed`]. Closing again changes nothing.
    pub fn close(&self, owners: &impl Owners<Watch = W>) {
        let last = self.write(owners, |writer, published| writer.close(published, owners));
        drop(last);
        // No later change will come by to free what a pick is holding just now.
        let free = self.published.reclaim(Patience::long());
        drop(free);
    }

    /// About how many backends are listed: as many as there were after some recent change.
    pub fn listed(&self) -> usize {
        // Relaxed: a hint.
        self.listed.load(Ordering::Relaxed)
    }

    /// The balancer as it is now.
    pub fn info(&self, owners: &impl Owners<Watch = W>) -> Info<T> {
        self.write(owners, |writer, published| {
            let mut unsettled: HashMap<*const Entry, u64> = HashMap::new();
            let mut add = |snapshot: &Snapshot<T>| {
                snapshot.for_each_picked(|entry, picks| {
                    *unsettled.entry(Arc::as_ptr(entry)).or_default() += picks;
                });
            };
            published.inspect(&mut add);
            published.inspect_retired(&mut add);
            let picks = |member: &Member<T>| {
                // Relaxed: written under the writer's lock, which is held, or by a pick that is under
                // way and may or may not be counted.
                let settled = member.entry.picks.load(Ordering::Relaxed);
                let unsettled = unsettled.get(&Arc::as_ptr(&member.entry)).unwrap_or(&0);
                settled.wrapping_add(*unsettled)
            };
            Info {
                policy: writer.config.policy.name(),
                generation: writer.generation,
                closed: writer.closed,
                backends: writer
                    .members
                    .in_order()
                    .into_iter()
                    .map(|member| BackendInfo {
                        id: member.id.clone(),
                        value: member.value.clone(),
                        state: member.state(),
                        owner: member.owner,
                        weight: member.weight,
                        picks: writer.config.policy.counts_picks().then(|| picks(member)),
                    })
                    .collect(),
            }
        })
    }

    /// Changes the list, unless the balancer is closed.
    fn change(
        &self,
        owners: &impl Owners<Watch = W>,
        change: impl FnOnce(&mut Writer<T, W>, &Published<Snapshot<T>>) -> (Changes, Gone<T>),
    ) -> Result<Changes, ChangeError> {
        let changed = self.write(owners, |writer, published| match writer.closed {
            true => Err(ChangeError::Closed),
            false => Ok(change(writer, published)),
        });
        // What is gone is dropped here, after the lock.
        changed.map(|(changes, _gone)| changes)
    }

    /// Runs `change` under the writer's lock, after what is known of owners that died, and then
    /// frees what can be freed and acts on those that died meanwhile.
    fn write<R>(
        &self,
        owners: &impl Owners<Watch = W>,
        change: impl FnOnce(&mut Writer<T, W>, &Published<Snapshot<T>>) -> R,
    ) -> R {
        let mut writer = self.writer.lock();
        let gone = self.bury(&mut writer, owners);
        let result = change(&mut writer, &self.published);
        let free = self.leave(&writer, Patience::short());
        drop(writer);
        drop((gone, free));
        self.act_on_deaths(owners);
        result
    }

    fn act_on_deaths(&self, owners: &impl Owners<Watch = W>) {
        while !self.departed.lock().is_empty() {
            // If this fails, the holder of the lock has yet to look at `departed` again.
            let Some(mut writer) = self.writer.try_lock() else {
                return;
            };
            let gone = self.bury(&mut writer, owners);
            let free = self.leave(&writer, Patience::none());
            drop(writer);
            drop((gone, free));
        }
    }

    /// Takes out what belonged to owners whose death was noted.
    fn bury(&self, writer: &mut Writer<T, W>, owners: &impl Owners<Watch = W>) -> Gone<T> {
        let departed = std::mem::take(&mut *self.departed.lock());
        if departed.is_empty() {
            return Gone::new();
        }
        let gone = writer.bury(&departed, &self.published, owners);
        // Release: see `pick`.
        self.dying.fetch_sub(departed.len(), Ordering::Release);
        gone
    }

    /// What every writer does last under its lock. Takes back the snapshots that no pick can
    /// hold, with their picks counted: under the lock, so that no pick is counted twice or missed.
    /// To be dropped after it.
    fn leave(&self, writer: &Writer<T, W>, patience: Patience) -> Vec<Snapshot<T>> {
        // Relaxed: a hint.
        self.listed.store(writer.members.len(), Ordering::Relaxed);
        let free = self.published.reclaim(patience);
        for snapshot in &free {
            snapshot.settle();
        }
        free
    }
}

impl<T: Clone + Eq + Hash + Send + Sync, W> Writer<T, W> {
    /// A change of some backends of the list.
    fn begin(&self, published: &Published<Snapshot<T>>) -> Change<T> {
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
    ) {
        change.touched = true;
        let listed = self.members.find(&offered.id);
        let key = match listed {
            Some(key) => {
                change.gone.extend(self.members.update(key, offered));
                key
            }
            None => self.members.insert(offered, self.random.u64(..)),
        };
        if change.whole {
            self.members.get_mut(key).rank = self.members.end();
        }
        change.added += usize::from(listed.is_none());
        if self.set_member_owner(key, offered.owner, change, owners) {
            self.put_up(key, change);
        } else {
            match self.config.on_owner_death {
                OnOwnerDeath::Keep => self.take_down(key, change),
                OnOwnerDeath::Remove => {
                    self.remove(key, change);
                    change.added -= usize::from(listed.is_none());
                }
            }
        }
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

    /// Puts a member into the rotation, or what it has become in its place.
    fn put_up(&mut self, key: MemberKey, change: &mut Change<T>) {
        let member = self.members.get_mut(key);
        let row = Row {
            value: member.value.clone(),
            owner: member.owner,
            rank: member.rank,
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
            if let Some(moved) = change.rows.swap_remove(index as usize) {
                self.members.get_mut(moved.entry.key).row = Some(index);
            }
        }
    }

    fn remove(&mut self, key: MemberKey, change: &mut Change<T>) {
        change.touched = true;
        self.take_down(key, change);
        let member = self.members.remove(key);
        if let Some(owner) = member.owner {
            self.watched.disown(owner, key);
            change.bereft.push(owner);
        }
        change.gone.push((member.id, member.value));
    }

    /// Publishes the list as it is now, if it was touched.
    fn end(
        &mut self,
        change: Change<T>,
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> (Changes, Gone<T>) {
        if change.touched {
            self.publish(change.rows, published, Cause::Reconcile);
        }
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

    /// Stops watching an owner that owns nothing any more.
    fn unwatch_idle(&mut self, owner: Owner, owners: &impl Owners<Watch = W>) {
        if self.owner != Some(owner) {
            self.watched.unwatch_idle(owner, owners);
        }
    }

    /// Takes the members of dead owners out of the rotation.
    fn bury(
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
            match self.config.on_owner_death {
                OnOwnerDeath::Keep => {
                    self.members.get_mut(key).owner = None;
                    self.take_down(key, &mut change);
                }
                OnOwnerDeath::Remove => self.remove(key, &mut change),
            }
        }
        self.publish(change.rows, published, Cause::StateChange);
        change.gone
    }

    fn close(
        &mut self,
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> Gone<T> {
        if self.closed {
            return Gone::new();
        }
        self.closed = true;
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
        let picker = published.inspect(|last| {
            let last = Some(last.picker());
            self.config
                .policy
                .build(&rows, last, cause, &mut self.random)
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

fn reject_duplicates<O: Offer<T>, T>(offered: &[Backend<O>]) -> Result<(), ChangeError> {
    let mut positions = HashMap::with_capacity(offered.len());
    for (second, backend) in offered.iter().enumerate() {
        match positions.entry(&backend.id) {
            Slot::Vacant(slot) => {
                slot.insert(second);
            }
            Slot::Occupied(slot) => {
                let first = *slot.get();
                return Err(ChangeError::DuplicateId { first, second });
            }
        }
    }
    Ok(())
}
