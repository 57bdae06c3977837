//! The writer's side of a balancer: its list of backends and everything that changes it.

use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use hashbrown::hash_map::Entry as Slot;
use hashbrown::{HashMap, HashSet};

use crate::backend::{Backend, Entry, Offer, Owner, Owners, Row, State};
use crate::caller::Caller;
use crate::live::Counted;
use crate::policy::{Cause, Policy};
use crate::reclaim::Published;
use crate::snapshot::{Snapshot, Unavailable};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, Patience};

/// A list of backends and the policy that chooses among them.
///
/// Picks run at any time, on any number of threads, and never wait. Everything else takes the
/// writer's lock. `W` is what it takes to stop watching an owner, see [`Owners`].
pub struct Balancer<T, W = ()> {
    published: Published<Snapshot<T>>,
    writer: Mutex<Writer<T, W>>,
    /// Owners whose death nobody has acted on yet; see [`Balancer::note_death`].
    departed: Mutex<Vec<Owner>>,
    /// Whether somebody was asked to settle and has not begun yet.
    settling: AtomicBool,
    /// How many backends are listed, to be known without the lock.
    listed: AtomicUsize,
    _counted: Counted,
}

struct Writer<T, W> {
    policy: Policy,
    members: Vec<Member<T>>,
    /// Whose death closes the balancer.
    owner: Option<Owner>,
    /// The owners that are being watched: alive as far as is known, and of a member or of the
    /// balancer.
    watched: HashMap<Owner, W>,
    generation: u64,
    closed: bool,
    random: fastrand::Rng,
}

/// A backend that is listed.
struct Member<T> {
    id: T,
    value: T,
    owner: Option<Owner>,
    weight: u32,
    state: State,
    entry: Arc<Entry>,
}

/// How many backends a reconcile added, removed and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids that were not listed before.
    pub added: usize,
    /// Ids that were listed and are no longer.
    pub removed: usize,
    /// Ids that were listed and still are, whatever else about them changed.
    pub kept: usize,
}

/// Why a reconcile changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileError {
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

impl fmt::Display for ReconcileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReconcileError::Closed => write!(f, "the balancer is closed"),
            ReconcileError::DuplicateId { first, second } => {
                write!(f, "backends {first} and {second} have the same id")
            }
        }
    }
}

impl std::error::Error for ReconcileError {}

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
    /// Its share beside the others, for the policies that weigh.
    pub weight: u32,
    /// How often it was picked since its id was first listed. `None` with a policy that does not
    /// count.
    pub picks: Option<u64>,
}

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Balancer<T, W> {
    /// An open balancer without backends. `seed` is where its random choices come from.
    pub fn new(policy: Policy, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let picker = policy.build::<T>(&mut [], None, Cause::Reconcile, &mut random);
        Balancer {
            published: Published::new(Snapshot::new(Vec::new(), picker, Unavailable::NoBackends)),
            writer: Mutex::new(Writer {
                policy,
                members: Vec::new(),
                owner: None,
                watched: HashMap::new(),
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

    /// Chooses a backend and shows its value to `take`.
    ///
    /// Never waits, allocates or frees.
    ///
    /// # Panics
    ///
    /// When `take` picks with the same caller.
    #[inline]
    pub fn pick<R>(&self, caller: &Caller, take: impl FnOnce(&T) -> R) -> Result<R, Unavailable> {
        self.published
            .read(caller.reader(), |snapshot| snapshot.pick(caller).map(take))
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
    ) -> Result<Changes, ReconcileError> {
        reject_duplicates(offered)?;
        self.write(owners, |writer, published| {
            if writer.closed {
                return Err(ReconcileError::Closed);
            }
            let (members, changes) = writer.merge(offered);
            let last = std::mem::replace(&mut writer.members, members);
            writer.watch_members(owners);
            writer.publish(published, Cause::Reconcile);
            writer.unwatch_strangers(owners);
            Ok((changes, last))
        })
        // What is no longer listed is dropped here, after the lock.
        .map(|(changes, _last)| changes)
    }

    /// Ties the balancer to an owner: when it dies, the balancer closes. An owner that is dead
    /// already closes it now.
    pub fn set_owner(&self, owner: Owner, owners: &impl Owners<Watch = W>) {
        let last = self.write(owners, |writer, published| {
            writer.owner = Some(owner);
            if writer.watch(owner, owners) {
                return Vec::new();
            }
            writer.close(published, owners)
        });
        drop(last);
    }

    /// Notes that an owner died. `true` if [`Balancer::settle`] has to be called for it, on any
    /// thread; `false` if somebody who was told so has not begun yet, and will see this death too.
    #[must_use]
    pub fn note_death(&self, owner: Owner) -> bool {
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
                for (entry, picks) in snapshot.picks() {
                    *unsettled.entry(Arc::as_ptr(entry)).or_default() += picks;
                }
            };
            published.inspect(&mut add);
            published.inspect_retired(&mut add);
            let picks = |member: &Member<T>| {
                // Relaxed: written under the writer's lock, which is held.
                let settled = member.entry.picks.load(Ordering::Relaxed);
                settled + unsettled.get(&Arc::as_ptr(&member.entry)).unwrap_or(&0)
            };
            Info {
                policy: writer.policy.name(),
                generation: writer.generation,
                closed: writer.closed,
                backends: writer
                    .members
                    .iter()
                    .map(|member| BackendInfo {
                        id: member.id.clone(),
                        value: member.value.clone(),
                        state: member.state,
                        weight: member.weight,
                        picks: writer.policy.counts_picks().then(|| picks(member)),
                    })
                    .collect(),
            }
        })
    }

    /// Runs `change` under the writer's lock, then frees what can be freed and acts on owners
    /// that died meanwhile.
    fn write<R>(
        &self,
        owners: &impl Owners<Watch = W>,
        change: impl FnOnce(&mut Writer<T, W>, &Published<Snapshot<T>>) -> R,
    ) -> R {
        let mut writer = self.writer.lock();
        let result = change(&mut writer, &self.published);
        let free = self.leave(&writer, Patience::short());
        drop(writer);
        drop(free);
        self.act_on_deaths(owners);
        result
    }

    fn act_on_deaths(&self, owners: &impl Owners<Watch = W>) {
        loop {
            if self.departed.lock().is_empty() {
                return;
            }
            // If this fails, the holder of the lock has yet to look at `departed` again.
            let Some(mut writer) = self.writer.try_lock() else {
                return;
            };
            let departed = std::mem::take(&mut *self.departed.lock());
            let last = writer.bury(&departed, &self.published, owners);
            let free = self.leave(&writer, Patience::none());
            drop(writer);
            drop((last, free));
        }
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
    /// The members that the offered list makes of the present ones. Changes nothing.
    fn merge<O: Offer<T>>(&mut self, offered: &[Backend<O>]) -> (Vec<Member<T>>, Changes) {
        let listed: HashMap<&T, &Member<T>> = self
            .members
            .iter()
            .map(|member| (&member.id, member))
            .collect();
        let mut kept = 0;
        let members = offered
            .iter()
            .map(|backend| {
                let last = listed.get(&Key(&backend.id)).copied();
                kept += usize::from(last.is_some());
                let entry = match last {
                    Some(last) => Arc::clone(&last.entry),
                    None => Arc::new(Entry::new(self.random.u64(..))),
                };
                let (id, value) = match last {
                    Some(last) if backend.value.equivalent(&last.value) => {
                        (last.id.clone(), last.value.clone())
                    }
                    _ => O::own(&backend.id, &backend.value),
                };
                Member {
                    id,
                    value,
                    owner: backend.owner,
                    weight: backend.weight,
                    state: State::Ready,
                    entry,
                }
            })
            .collect();
        let changes = Changes {
            added: offered.len() - kept,
            removed: self.members.len() - kept,
            kept,
        };
        (members, changes)
    }

    /// Watches an owner that may be watched already. `false` when it is dead.
    fn watch(&mut self, owner: Owner, owners: &impl Owners<Watch = W>) -> bool {
        match self.watched.entry(owner) {
            Slot::Occupied(_) => true,
            Slot::Vacant(slot) => match owners.watch(owner) {
                Some(watch) => {
                    slot.insert(watch);
                    true
                }
                None => false,
            },
        }
    }

    /// Watches the members' owners; the members of dead ones are down.
    fn watch_members(&mut self, owners: &impl Owners<Watch = W>) {
        let mut members = std::mem::take(&mut self.members);
        for member in &mut members {
            if let Some(owner) = member.owner {
                if !self.watch(owner, owners) {
                    member.state = State::Down;
                }
            }
        }
        self.members = members;
    }

    /// Stops watching owners that own nothing any more.
    fn unwatch_strangers(&mut self, owners: &impl Owners<Watch = W>) {
        let known: HashSet<Owner> = self
            .members
            .iter()
            .filter_map(|member| member.owner)
            .chain(self.owner)
            .collect();
        let strangers = self.watched.extract_if(|owner, _| !known.contains(owner));
        strangers.for_each(|(_, watch)| owners.unwatch(watch));
    }

    /// Takes the members of dead owners out of the rotation.
    fn bury(
        &mut self,
        departed: &[Owner],
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> Vec<Member<T>> {
        // An owner that is not watched any more has nothing here: its name may be another's now.
        let departed: HashSet<Owner> = departed
            .iter()
            .copied()
            .filter(|owner| self.watched.remove(owner).is_some())
            .collect();
        if self.owner.is_some_and(|owner| departed.contains(&owner)) {
            return self.close(published, owners);
        }
        let mut changed = false;
        for member in &mut self.members {
            if member.owner.is_some_and(|owner| departed.contains(&owner)) {
                member.state = State::Down;
                changed = true;
            }
        }
        if changed {
            self.publish(published, Cause::StateChange);
        }
        Vec::new()
    }

    fn close(
        &mut self,
        published: &Published<Snapshot<T>>,
        owners: &impl Owners<Watch = W>,
    ) -> Vec<Member<T>> {
        if self.closed {
            return Vec::new();
        }
        self.closed = true;
        self.owner = None;
        let last = std::mem::take(&mut self.members);
        self.publish(published, Cause::StateChange);
        self.unwatch_strangers(owners);
        last
    }

    /// Builds the snapshot of the members that can be picked, and publishes it.
    fn publish(&mut self, published: &Published<Snapshot<T>>, cause: Cause) {
        let mut rows: Vec<Row<T>> = self
            .members
            .iter()
            .filter(|member| member.state == State::Ready)
            .map(|member| Row {
                value: member.value.clone(),
                entry: Arc::clone(&member.entry),
            })
            .collect();
        let picker = published.inspect(|last| {
            let last = Some(last.picker());
            self.policy.build(&mut rows, last, cause, &mut self.random)
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

fn reject_duplicates<O: Offer<T>, T>(offered: &[Backend<O>]) -> Result<(), ReconcileError> {
    let mut positions = HashMap::with_capacity(offered.len());
    for (second, backend) in offered.iter().enumerate() {
        match positions.entry(&backend.id) {
            Slot::Vacant(slot) => {
                slot.insert(second);
            }
            Slot::Occupied(slot) => {
                let first = *slot.get();
                return Err(ReconcileError::DuplicateId { first, second });
            }
        }
    }
    Ok(())
}

/// Looks an offered id up among ids that are held.
#[derive(Hash)]
struct Key<'a, O>(&'a O);

impl<O: Offer<T>, T> hashbrown::Equivalent<&T> for Key<'_, O> {
    fn equivalent(&self, held: &&T) -> bool {
        self.0.equivalent(held)
    }
}
