//! The balancer: picks and calls on one side, everything that changes its list on the other, which is
//! in `writer`, `timed` and `info`.

mod info;
mod timed;
mod writer;

use std::fmt;
use std::hash::Hash;

use hashbrown::hash_map::Entry as Slot;
use hashbrown::HashMap;
use triomphe::Arc;

pub use self::info::{BackendInfo, Info};
use self::writer::{Gone, Writer};
use crate::backend::{Backend, Condition, Offer, Owner, Owners};
use crate::caller::Caller;
use crate::config::Config;
use crate::live::{Balancers, Counted};
use crate::load::orca::LoadReport;
use crate::load::reported_weight::Source;
use crate::reclaim::Published;
use crate::shared::Shared;
use crate::snapshot::{Snapshot, Unavailable};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, Patience};
use crate::ticket::Ticket;
use crate::time::Time;

/// A list of backends and the policy that chooses among them.
///
/// Picks run at any time, on any number of threads, and never wait. Everything else takes the
/// writer's lock. `W` is what it takes to stop watching an owner, see [`Owners`].
pub struct Balancer<T, W = ()> {
    published: Published<Snapshot<T>>,
    /// How many deaths were noted whose backends picks may still see; while there are any, picks
    /// look whether what they chose is alive.
    dying: AtomicUsize,
    shared: Arc<Shared>,
    writer: Mutex<Writer<T, W>>,
    /// Owners whose death nobody has acted on yet; see [`Balancer::note_death`].
    departed: Mutex<Vec<Owner>>,
    /// Whether somebody was asked to settle and has not begun yet.
    settling: AtomicBool,
    /// How many backends are listed, to be known without the lock.
    listed: AtomicUsize,
    _counted: Counted<Balancers>,
}

impl<T, W> Drop for Balancer<T, W> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

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

/// Why nothing could be said of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberError {
    /// The balancer is closed.
    Closed,
    /// No backend with this id is listed.
    NotFound,
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemberError::Closed => write!(f, "the balancer is closed"),
            MemberError::NotFound => write!(f, "no backend with this id is listed"),
        }
    }
}

impl std::error::Error for MemberError {}

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Balancer<T, W> {
    /// An open balancer without backends. `seed` is where its random choices come from.
    pub fn new(config: impl Into<Config>, seed: u64, now: Time) -> Self {
        let shared = Arc::new(Shared::new(config.into()));
        let (writer, empty) = Writer::new(Arc::clone(&shared), seed, now);
        Balancer {
            published: Published::new(empty),
            dying: AtomicUsize::new(0),
            shared,
            writer: Mutex::new(writer),
            departed: Mutex::new(Vec::new()),
            settling: AtomicBool::new(false),
            listed: AtomicUsize::new(0),
            _counted: Counted::new(),
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
        let dying = self.dying();
        self.published.read(caller.reader(), |snapshot| {
            let row = match dying {
                false => snapshot.pick(caller),
                true => snapshot.pick_where(caller, |row| is_alive(row.owner, owners)),
            };
            row.map(|row| take(&row.value))
        })
    }

    /// As [`Balancer::pick`], and counts a call as in flight: until its ticket is completed or
    /// dropped.
    ///
    /// With [`Config::max_requests_per_backend`] a backend that has so many calls is passed over for
    /// one of those that come next in the rotation, of which it looks at a few.
    #[inline]
    pub fn checkout<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        now: Time,
        take: impl FnOnce(&T) -> R,
    ) -> Result<(R, Ticket), Unavailable> {
        let dying = self.dying();
        self.published.read(caller.reader(), |snapshot| {
            let total = self.shared.config.max_requests;
            // A32: before the pick, which is not asked when there are too many.
            if total.is_some() && !self.shared.in_flight.try_enter(total) {
                return Err(snapshot.overloaded());
            }
            let row = match dying {
                false => snapshot.begin(caller, |_| true),
                true => snapshot.begin(caller, |row| is_alive(row.owner, owners)),
            };
            match row {
                Ok(row) => {
                    let entry = Arc::clone(&row.entry);
                    // Before `take`: if that panics, the ticket ends what has begun.
                    let ticket = Ticket::new(entry, now, caller.reader().index());
                    Ok((take(&row.value), ticket))
                }
                Err(unavailable) => {
                    // A32: a pick that fails holds nothing.
                    if total.is_some() {
                        self.shared.in_flight.leave();
                    }
                    Err(unavailable)
                }
            }
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
        now: Time,
    ) -> Result<Changes, ChangeError> {
        reject_duplicates(offered)?;
        self.change(owners, |writer, published| {
            writer.reconcile(offered, published, owners, now)
        })
    }

    /// Adds backends at the end of the list, without a look at those that are listed and are not
    /// offered: the cost is that of what is offered, and of the table of a policy that has one. An
    /// id that is listed stays where it is and becomes as offered, as in a reconcile.
    pub fn add<O: Offer<T>>(
        &self,
        offered: &[Backend<O>],
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Changes, ChangeError> {
        reject_duplicates(offered)?;
        self.change(owners, |writer, published| {
            writer.add(offered, published, owners, now)
        })
    }

    /// Removes the backends with these ids; ids that are not listed are passed over. The cost is
    /// that of the backends removed, and of the table of a policy that has one.
    pub fn remove<O: Offer<T>>(
        &self,
        ids: &[O],
        owners: &impl Owners<Watch = W>,
    ) -> Result<Changes, ChangeError> {
        self.change(owners, |writer, published| {
            writer.remove(ids, published, owners)
        })
    }

    /// Says how a backend is; what is said stays with its id. Every pick that starts after this
    /// returns sees it.
    pub fn set_condition<O: Offer<T>>(
        &self,
        id: &O,
        condition: Condition,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<(), MemberError> {
        self.write(owners, |writer, published| {
            let key = writer.find(id)?;
            writer.set_condition(key, condition, published, now);
            Ok(())
        })
    }

    /// Takes a load report into account that a backend gave outside of any call (gRFC A51).
    pub fn report<O: Offer<T>>(
        &self,
        id: &O,
        report: LoadReport,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<(), MemberError> {
        let entry = self.write(owners, |writer, _| {
            let key = writer.find(id)?;
            Ok(writer.entry(key))
        })?;
        entry.on_report(report, Source::OutOfBand, now);
        Ok(())
    }

    /// Does the work that time drives, as far as it is due: sweeps for outliers and ends their
    /// ejection, updates weights. When there is more to do; `None` as long as there is nothing.
    pub fn tick(&self, owners: &impl Owners<Watch = W>, now: Time) -> Option<Time> {
        self.write(owners, |writer, published| writer.tick(published, now));
        self.due()
    }

    /// When there is work that time drives: as [`Balancer::tick`] said, or earlier, because of what
    /// has happened since. `None` as long as there is none.
    pub fn due(&self) -> Option<Time> {
        self.shared.due()
    }

    /// Ties the balancer to an owner: when it dies, the balancer closes. An owner that is dead
    /// already closes it now.
    pub fn set_owner(&self, owner: Owner, owners: &impl Owners<Watch = W>) {
        let last = self.write(owners, |writer, published| {
            writer.set_owner(owner, published, owners)
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
    /// [`Unavailable::Closed`]. Closing again changes nothing. Calls in flight can end after it.
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
        self.write(owners, |writer, published| writer.info(published))
    }

    /// Whether picks have to look if what they chose is alive.
    #[inline]
    fn dying(&self) -> bool {
        // Acquire: pairs with the Release in `bury`. Who reads that no death is left to act on,
        // reads a snapshot without the dead.
        self.dying.load(Ordering::Acquire) > 0
    }

    /// Changes the list, unless the balancer is closed.
    fn change(
        &self,
        owners: &impl Owners<Watch = W>,
        change: impl FnOnce(&mut Writer<T, W>, &Published<Snapshot<T>>) -> (Changes, Gone<T>),
    ) -> Result<Changes, ChangeError> {
        let changed = self.write(owners, |writer, published| match writer.is_closed() {
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
        let free = self.reclaim(&writer, Patience::short());
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
            let free = self.reclaim(&writer, Patience::none());
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
        // Release: see `dying`.
        self.dying.fetch_sub(departed.len(), Ordering::Release);
        gone
    }

    /// What every writer does last under its lock. Takes back the snapshots that no pick can
    /// hold, with their picks counted: under the lock, so that no pick is counted twice or missed.
    /// To be dropped after it.
    fn reclaim(&self, writer: &Writer<T, W>, patience: Patience) -> Vec<Snapshot<T>> {
        // Relaxed: a hint.
        self.listed.store(writer.listed(), Ordering::Relaxed);
        let free = self.published.reclaim(patience);
        for snapshot in &free {
            snapshot.settle();
        }
        free
    }
}

fn is_alive(owner: Option<Owner>, owners: &impl Owners) -> bool {
    owner.is_none_or(|owner| owners.is_alive(owner))
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
