//! Balancer: picks and calls, and the lock under which everything else is done.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `results` | answers to changes |
//! | `schedule` | when there is work that time drives |
//! | `layers` | the backends of each priority and locality, and which of them serve |
//! | `writer` | the state under the lock |
//! | `compare` | what of a list that is offered is not as it is listed |
//! | `change` | a change while it is made, up to the new snapshot |
//! | `list`, `timed`, `configure` | the changes: by users and deaths, by time, of the configuration |
//! | `garbage` | what a change leaves behind |
//! | `info` | a balancer at one moment |

mod change;
mod compare;
mod configure;
mod garbage;
mod info;
mod layers;
mod list;
mod results;
mod schedule;
mod timed;
mod writer;

use std::hash::Hash;
use std::sync;
use std::time::Duration;

use triomphe::Arc;

use self::change::{Gone, Scope};
pub use self::compare::{Offers, Seen};
pub use self::garbage::Garbage;
pub use self::info::{BackendInfo, Info, LayerInfo, Summary};
use self::list::Draining;
pub use self::results::{
    Busy, ChangeError, Changes, ConfigureError, Configured, Drained, MemberError,
};
use self::writer::Writer;
use crate::backend::{Backend, Offer, Owner, Owners, State};
use crate::call::{Begun, Call, Recent};
use crate::caller::Caller;
use crate::config::Config;
use crate::entry::{Row, Start};
use crate::events::Events;
use crate::live::{Balancers, Counted};
use crate::load::orca::LoadReport;
use crate::load::reported_weight::Source;
use crate::reclaim::Published;
use crate::shared::Shared;
use crate::snapshot::{Search, Snapshot, Unavailable};
use crate::sync::{AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, Patience};
use crate::ticket::Ticket;
use crate::time::{Clock, Time};

/// A list of backends and the policy that chooses among them.
///
/// Picks run at any time, on any number of threads, and never wait. Everything else takes the
/// writer's lock. `W` is what it takes to stop watching an owner, see [`Owners`].
pub struct Balancer<T, W = ()> {
    published: Published<Snapshot<T>>,
    /// How many deaths were noted whose backends picks may still see. While there are any, picks
    /// check whether the owner of what they chose is alive.
    unhandled_deaths: AtomicUsize,
    shared: Arc<Shared>,
    writer: Mutex<Writer<T, W>>,
    /// Owners whose backends are still to be taken out; see [`Balancer::note_death`].
    dead: Mutex<Vec<Owner>>,
    /// Whether [`Balancer::remove_dead`] was asked for and has not begun yet.
    removal_requested: AtomicBool,
    /// How many backends are listed, or [`CLOSED`]: to be known without the lock.
    size: AtomicUsize,
    _counted: Counted<Balancers>,
}

impl<T, W> Drop for Balancer<T, W> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

/// The size of a balancer that is closed.
const CLOSED: usize = usize::MAX;

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Balancer<T, W> {
    /// An open balancer without backends. `seed` is where its random choices come from.
    pub fn new(config: impl Into<Config>, seed: u64, now: Time) -> Self {
        let config = sync::Arc::new(config.into());
        let shared = Arc::new(Shared::new(sync::Arc::clone(&config)));
        let empty = Snapshot::unstarted(config.limits());
        let writer = Writer::new(Arc::clone(&shared), config, seed, now);
        Balancer {
            published: Published::new(empty),
            unhandled_deaths: AtomicUsize::new(0),
            shared,
            writer: Mutex::new(writer),
            dead: Mutex::new(Vec::new()),
            removal_requested: AtomicBool::new(false),
            size: AtomicUsize::new(0),
            _counted: Counted::new(),
        }
    }

    /// Chooses a backend and shows its value to `take`. Its owner, if it has one, was not noted as
    /// dead when this was called.
    ///
    /// Never waits, and allocates and frees nothing but what crossbeam-epoch keeps its own books in,
    /// see `reclaim`. `take` may pick, with the same caller too, and change the list.
    ///
    /// While some are dead, and not taken out yet, the policy chooses again where it has chosen one
    /// of them. If it goes on to do so, some hundreds of backends are looked at one by one; then this
    /// says [`Unavailable::Unfinished`].
    #[inline]
    pub fn pick<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        take: impl FnOnce(&T) -> R,
    ) -> Result<R, Unavailable> {
        self.pick_by(caller, owners, Search::Brief, take)
    }

    /// As [`Balancer::pick`], and looks at every backend before it says that none can be picked:
    /// some milliseconds for 100,000 of them.
    pub fn pick_thoroughly<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        take: impl FnOnce(&T) -> R,
    ) -> Result<R, Unavailable> {
        self.pick_by(caller, owners, Search::Thorough, take)
    }

    #[inline]
    fn pick_by<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        search: Search,
        take: impl FnOnce(&T) -> R,
    ) -> Result<R, Unavailable> {
        let check_owners = self.has_unhandled_deaths();
        self.published.read(caller.reader(), |snapshot| {
            let found = (!check_owners).then(|| snapshot.pick_in_one(caller));
            if let Some(row) = found.flatten() {
                return Ok(take(&row.value));
            }
            let row = pick_apart(snapshot, caller, owners, search, check_owners);
            row.map(|row| take(&row.value))
        })
    }

    /// As [`Balancer::pick`], and counts a call as in flight: until its ticket is completed or
    /// dropped.
    ///
    /// With [`Config::max_requests_per_backend`] a backend that has so many calls is passed over as
    /// one that is dead, and [`Unavailable::Overloaded`] means that all of them are full.
    ///
    /// While somebody [waits](Balancer::line_up) for room, all who come later are
    /// [`Unavailable::Overloaded`].
    #[inline]
    pub fn checkout<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        clock: impl Clock,
        take: impl FnOnce(&T) -> R,
    ) -> Result<(R, Ticket), Unavailable> {
        self.checkout_where(caller, owners, Search::Brief, clock, |_| true, take)
    }

    /// As [`Balancer::checkout`], and looks at every backend before it says that none has room; see
    /// [`Balancer::pick_thoroughly`].
    pub fn checkout_thoroughly<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        clock: impl Clock,
        take: impl FnOnce(&T) -> R,
    ) -> Result<(R, Ticket), Unavailable> {
        self.checkout_where(caller, owners, Search::Thorough, clock, |_| true, take)
    }

    /// As [`Balancer::checkout`], of backends whose value is `wanted`: another is passed over like one
    /// that is dead.
    #[inline]
    pub fn checkout_where<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        search: Search,
        clock: impl Clock,
        wanted: impl Fn(&T) -> bool,
        take: impl FnOnce(&T) -> R,
    ) -> Result<(R, Ticket), Unavailable> {
        let take = |row: &_, call| take_with_ticket(row, call, caller, take);
        self.begin_in_line(caller, owners, search, clock, wanted, take)
    }

    /// As [`Balancer::checkout`], for one who begins and ends the call, and is given it with the value.
    #[inline]
    pub fn begin_call<R>(
        &self,
        caller: &Caller,
        recent: &mut Recent,
        owners: &impl Owners<Watch = W>,
        clock: impl Clock,
        take: impl FnOnce(&T, Call) -> R,
    ) -> Result<R, Unavailable> {
        self.begin_call_where(caller, recent, owners, clock, |_| true, take)
    }

    /// As [`Balancer::begin_call`], of backends whose value is `wanted`.
    #[inline]
    pub fn begin_call_where<R>(
        &self,
        caller: &Caller,
        recent: &mut Recent,
        owners: &impl Owners<Watch = W>,
        clock: impl Clock,
        wanted: impl Fn(&T) -> bool,
        take: impl FnOnce(&T, Call) -> R,
    ) -> Result<R, Unavailable> {
        self.begin_in_line(caller, owners, Search::Brief, clock, wanted, |row, call| {
            let begun = Begun::new(recent.take(&row.entry), call, caller.number());
            take(&row.value, Call::from(begun))
        })
    }

    /// Begins a call, if nobody waits in line for one.
    #[inline]
    fn begin_in_line<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        search: Search,
        clock: impl Clock,
        wanted: impl Fn(&T) -> bool,
        take: impl FnOnce(&Row<T>, Start) -> R,
    ) -> Result<R, Unavailable> {
        if !self.shared.line.is_empty() {
            let full = |snapshot: &Snapshot<T>| Err(snapshot.overloaded());
            return self.published.read(caller.reader(), full);
        }
        self.begin(caller, owners, search, clock, wanted, take)
    }

    /// Takes a place in the line of those who wait for room, and says how long the configuration lets
    /// them. `None` when it lets nobody wait.
    ///
    /// Whether it is its [turn](Balancer::turn) is to be asked at once, and whenever `who` is told that there
    /// may be room. The [place is to be left](Balancer::leave_line) when a checkout in turn has another
    /// answer than [`Unavailable::Overloaded`], or `who` gives up.
    pub fn line_up(&self, who: Owner) -> Option<(u64, Duration)> {
        let wait = self.shared.config().checkout_wait;
        (!wait.is_zero()).then(|| (self.shared.line.join(who), wait))
    }

    /// The turn of who has this place in line. `None` while others are before it: they are told first.
    pub fn turn(&self, place: u64) -> Option<Turn<'_, T, W>> {
        let is_first = self.shared.line.begin_try(place);
        is_first.then_some(Turn { balancer: self })
    }

    /// Gives up a place in line; to do so again changes nothing. If it was the first one, `tell` is
    /// told who is the first now. It runs under a lock, and must not use the balancer.
    pub fn leave_line(&self, place: u64, tell: impl FnOnce(Owner, u64)) {
        self.shared.line.leave(place, tell);
    }

    /// Whether somebody waits for room, which a change or a tick that is done may have made.
    pub fn is_awaited(&self) -> bool {
        self.shared.line.awaits_change()
    }

    /// Whether a call more may be in flight, as far as all are limited together. A checkout that finds
    /// nobody holds its place among them for a moment: who waits and tries then is to be told again.
    pub fn has_room(&self) -> bool {
        let max = self.shared.config().max_requests;
        max.is_some_and(|max| self.shared.in_flight.count() < max)
    }

    /// Tells the first who waits that there may be room. `tell` is as in [`Balancer::leave_line`].
    pub fn tell_first(&self, tell: impl FnOnce(Owner, u64)) {
        self.shared.line.tell_first(tell);
    }

    #[inline]
    fn begin<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        search: Search,
        clock: impl Clock,
        wanted: impl Fn(&T) -> bool,
        take: impl FnOnce(&Row<T>, Start) -> R,
    ) -> Result<R, Unavailable> {
        let check_owners = self.has_unhandled_deaths();
        self.published.read(caller.reader(), |snapshot| {
            let limits = snapshot.limits();
            // A32: before the pick, which is not asked when there are too many.
            if limits.counts_all && !self.shared.in_flight.try_enter(limits.max_requests) {
                return Err(snapshot.overloaded());
            }
            let row = match check_owners {
                false => snapshot.begin(caller, search, &clock, |row| wanted(&row.value)),
                true => begin_alive(snapshot, caller, owners, search, &clock, &wanted),
            };
            match row {
                Ok((row, call)) => {
                    let call = row.entry.begun(call, row.generation);
                    Ok(take(row, call.counted_in_total(limits.counts_all)))
                }
                Err(unavailable) => {
                    // A32: a pick that fails holds nothing.
                    if limits.counts_all {
                        self.shared.in_flight.leave();
                    }
                    Err(unavailable)
                }
            }
        })
    }

    /// Replaces the list of backends. Every pick that starts after this returns sees the new one.
    ///
    /// An id that was listed before keeps what was counted for it; its value, weight and owner, and
    /// its state if it is said, become those offered. A value that is equal to the one held is not taken
    /// over, so nothing is copied for a backend that stays as it is; and where all stay as they are, in
    /// their order, nothing is published. On an error nothing has changed.
    pub fn reconcile<O: Offer<T>>(
        &self,
        offered: &[Backend<O>],
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Changes, ChangeError> {
        self.reconcile_from(offered.iter(), owners, now)
    }

    /// As [`Balancer::reconcile`], of backends that are looked at one by one.
    pub fn reconcile_from<L: Offers<T>>(
        &self,
        offered: L,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Changes, L::Refusal> {
        self.change_list(owners, |scope| {
            let difference = scope.writer.compare(offered, None)?;
            Ok(scope.open()?.reconcile(difference, &[], now))
        })
    }

    /// As [`Balancer::reconcile_from`], but never waits, and is done in some tenths of a millisecond:
    /// [`Busy`] while somebody else is changing the balancer, and where there is more to do. What is not
    /// needed any more is left to be dropped, and so is the removal of owners that have died: `died` is told
    /// when [`Balancer::remove_dead`] is to be called.
    ///
    /// What was [seen](Balancer::try_look) of the list before is not compared again. [`Busy`], when it has
    /// changed since.
    pub fn try_reconcile_from<L: Offers<T>>(
        &self,
        offered: L,
        seen: Option<&Seen>,
        owners: &impl Owners<Watch = W>,
        now: Time,
        died: impl FnOnce(),
    ) -> Result<(Changes, Garbage<T>), L::Refusal>
    where
        L::Refusal: From<Busy>,
    {
        self.attempt(died, |writer| {
            if seen.is_some_and(|seen| seen.version != writer.version) {
                return Err(Busy.into());
            }
            let difference = writer.compare(offered, seen)?;
            if !writer.is_brief(&difference) {
                return Err(Busy.into());
            }
            let scope = self.scope(writer, owners).open()?;
            let (changes, values) = scope.reconcile(difference, &[], now);
            let snapshots = self.finish(writer, Patience::short());
            Ok((changes, Garbage { values, snapshots }))
        })
    }

    /// Compares a part of a list that is offered with what is listed, after the parts before it, for a list
    /// that would take too long in one go. Never waits. [`Busy`] while somebody else is changing the
    /// balancer, when it has changed since the first part, and where so much differs that this is of no use.
    /// `died` is as in [`Balancer::try_reconcile_from`].
    pub fn try_look<L: Offers<T>>(
        &self,
        part: &mut L,
        seen: &mut Seen,
        died: impl FnOnce(),
    ) -> Result<(), L::Refusal>
    where
        L::Refusal: From<Busy>,
    {
        self.attempt(died, |writer| writer.look(part, seen))
    }

    /// As [`Balancer::reconcile`], where the values of the backends with the ids in `leaving` go: they
    /// are offered with other ones, or are not offered. What became of the calls that these values
    /// were given, in the order of `leaving`; `None` for an id that was not listed. Later calls are
    /// told from these, also where the id stays.
    ///
    /// A value waits for the calls of those before it under the same id, too, as long as these have
    /// not ended.
    ///
    /// Waits for picks that are under way. Where one has not come to its end after some seconds, the drains are
    /// never over: it may begin a call yet.
    ///
    /// ```
    /// use std::num::NonZeroU64;
    /// use grpc_lb_core::policy::{round_robin, Policy};
    /// use grpc_lb_core::{Backend, Balancer, Caller, Drained, Outcome, Owner, Time, Unowned};
    ///
    /// let policy = Policy::RoundRobin(round_robin::Config::default());
    /// let balancer = Balancer::new(policy, 0, Time(0));
    /// balancer.reconcile(&[Backend::new("a", "first")], &Unowned, Time(0))?;
    /// let (_, call) = balancer.checkout(&Caller::new(0), &Unowned, Time(0), |_| ()).unwrap();
    ///
    /// let (list, me) = ([Backend::new("a", "second")], Owner(NonZeroU64::MIN));
    /// let (_, drained) = balancer.reconcile_draining(&list, &["a"], me, &Unowned, Time(0))?;
    /// assert_eq!(drained, [Some(Drained::Later(1))]);
    /// call.complete(Outcome::Success, None, Time(1)).unwrap();
    /// assert!(call.has_ended_drain());
    /// call.tell_drained(|who, number| assert_eq!((who, number), (me, 1)));
    /// # Ok::<(), grpc_lb_core::ChangeError>(())
    /// ```
    pub fn reconcile_draining<O: Offer<T>>(
        &self,
        offered: &[Backend<O>],
        leaving: &[O],
        who: Owner,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<(Changes, Vec<Option<Drained>>), ChangeError> {
        self.reconcile_draining_from(offered.iter(), leaving, who, owners, now)
    }

    /// As [`Balancer::reconcile_draining`], of backends that are looked at one by one.
    pub fn reconcile_draining_from<O: Offer<T>, L: Offers<T>>(
        &self,
        offered: L,
        leaving: &[O],
        who: Owner,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<(Changes, Vec<Option<Drained>>), L::Refusal> {
        let mut draining = Vec::new();
        let changes = self.change_list::<_, L::Refusal>(owners, |scope| {
            let difference = scope.writer.compare(offered, None)?;
            let mut scope = scope.open()?;
            draining = scope.drain(leaving, who);
            Ok(scope.reconcile(difference, &draining, now))
        })?;
        let end = match self.wait_for_last_picks(owners) {
            true => Draining::release,
            false => Draining::hold,
        };
        let drained = draining.into_iter().map(|draining| draining.map(end));
        Ok((changes, drained.collect()))
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
        self.add_from(offered.iter(), owners, now)
    }

    /// As [`Balancer::add`], of backends that are looked at one by one.
    pub fn add_from<L: Offers<T>>(
        &self,
        offered: L,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Changes, L::Refusal> {
        self.change_list(owners, |scope| {
            let difference = scope.writer.compare(offered, None)?;
            Ok(scope.open()?.add(difference, now))
        })
    }

    /// Removes the backends with these ids; ids that are not listed are passed over. The cost is
    /// that of the backends removed, and of the table of a policy that has one.
    pub fn remove<O: Offer<T>>(
        &self,
        ids: &[O],
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Changes, ChangeError> {
        self.change_list(owners, |scope| Ok(scope.open()?.remove(ids, now)))
    }

    /// Sets the state of a backend, which stays with its id. Every pick that starts after this
    /// returns sees it.
    pub fn set_state<O: Offer<T>>(
        &self,
        id: &O,
        state: State,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<(), MemberError> {
        self.write(owners, |scope| scope.set_state(id, state, now))
    }

    /// Changes the configuration. What is known of backends stays: counts, latencies, ejections,
    /// reported weights and where a rotation is. Calls that start after this returns are under the
    /// new limits; [`Config::max_requests`] counts those that began while there was such a limit.
    ///
    /// - Without outlier detection ejected backends are let back in at once. With it, calls count
    ///   from now on, and backends that already fail too many times in a row are ejected now.
    /// - With slow start, a backend warms up as if it had been configured when it became ready.
    /// - The configuration may become [timed](Balancer::is_timed): then the balancer is to be
    ///   [ticked](Balancer::tick) from now on.
    ///
    /// `change` runs under the writer's lock, and must not use the balancer. On an error nothing has
    /// changed.
    ///
    /// ```
    /// use grpc_lb_core::policy::{round_robin, Policy};
    /// use grpc_lb_core::{Balancer, Configured, Time, Unowned};
    ///
    /// let policy = Policy::RoundRobin(round_robin::Config::default());
    /// let balancer = Balancer::<&str>::new(policy, 0, Time(0));
    /// let limit = || balancer.configure(|it| it.max_requests = Some(100), &Unowned, Time(1));
    /// assert_eq!(limit(), Ok(Configured::Changed));
    /// assert_eq!(limit(), Ok(Configured::Unchanged));
    /// ```
    pub fn configure(
        &self,
        change: impl FnOnce(&mut Config),
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Configured, ConfigureError> {
        self.write(owners, |scope| scope.configure(change, now))
    }

    /// Takes a load report into account that a backend gave outside of any call (gRFC A51).
    pub fn report<O: Offer<T>>(
        &self,
        id: &O,
        report: LoadReport,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<(), MemberError> {
        let entry = self.write(owners, |scope| {
            let key = scope.writer.find(id)?;
            Ok(scope.writer.entry(key))
        })?;
        entry.on_report(report, Source::OutOfBand, now);
        Ok(())
    }

    /// Does the work that time drives, as far as it is due: sweeps for outliers and ends their
    /// ejection, updates weights. When there is more to do; `None` as long as there is nothing.
    pub fn tick(&self, owners: &impl Owners<Watch = W>, now: Time) -> Option<Time> {
        let gone = self.write(owners, |scope| scope.tick(now));
        drop(gone);
        self.due()
    }

    /// As [`Balancer::tick`], but never waits: `Err` while somebody else is changing the balancer, and
    /// then what is due stays so.
    pub fn try_tick(
        &self,
        owners: &impl Owners<Watch = W>,
        now: Time,
    ) -> Result<Option<Time>, Busy> {
        let writer = self.writer.try_lock().ok_or(Busy)?;
        let (gone, garbage) = self.write_with(writer, owners, |scope| scope.tick(now));
        drop((gone, garbage));
        Ok(self.due())
    }

    /// Whether somebody wants to know of [events](Event). At first nobody does, and none is kept.
    pub fn listen(&self, listens: bool) {
        self.shared.listen(listens);
    }

    /// A checkout was [`Unavailable::Overloaded`], and that is to be told: a tick makes one event of
    /// all that were since the last one, once a second at most. `true` if that is due since this call.
    pub fn count_refusal(&self) -> bool {
        self.shared.count_refusal()
    }

    /// Takes what was decided since this was asked for before. As long as there is something the
    /// balancer is [due](Balancer::due). Never waits: nothing, while somebody is changing the balancer.
    pub fn take_events(&self, owners: &impl Owners<Watch = W>) -> Events<T> {
        if !self.shared.is_eventful() {
            return Events::default();
        }
        let Some(writer) = self.writer.try_lock() else {
            return Events::default();
        };
        let take = |scope: Scope<'_, T, _>| std::mem::take(&mut scope.writer.events);
        let (events, _garbage) = self.write_with(writer, owners, take);
        events
    }

    /// Whether there can be [events](Event) although nothing is timed. Takes no lock.
    pub fn is_eventful(&self) -> bool {
        self.shared.config().is_eventful()
    }

    /// When there is work that time drives: as [`Balancer::tick`] said, or earlier, because of what
    /// has happened since. `None` as long as there is none.
    pub fn due(&self) -> Option<Time> {
        self.shared.due()
    }

    /// Ties the balancer to an owner: when it dies, the balancer closes. An owner that is dead
    /// already closes it now.
    pub fn set_owner(&self, owner: Owner, owners: &impl Owners<Watch = W>) {
        let gone = self.write(owners, |scope| scope.set_owner(owner));
        drop(gone);
    }

    /// Notes that an owner died: picks that start after this returns pass its backends over. `true`
    /// if [`Balancer::remove_dead`] has to be called for it, on any thread; `false` if a call that
    /// was asked for before has not begun yet, and will see this death too.
    #[must_use]
    pub fn note_death(&self, owner: Owner) -> bool {
        // Relaxed: it publishes nothing, and a thread that the caller tells of the death sees it.
        // Before the push, so that it is not subtracted first.
        self.unhandled_deaths.fetch_add(1, Ordering::Relaxed);
        self.dead.lock().push(owner);
        // AcqRel: the Release half hands the death that was noted to the one whose swap in
        // `remove_dead` reads this one; the Acquire half pairs with that swap.
        !self.removal_requested.swap(true, Ordering::AcqRel)
    }

    /// Takes the backends of owners that died out of the rotation, and closes the balancer if the
    /// balancer's own owner is among them.
    ///
    /// Never waits: if another thread is changing the balancer, that thread does this as soon as
    /// its change is through.
    pub fn remove_dead(&self, owners: &impl Owners<Watch = W>) {
        // Before the look: a death that is noted after this requests another removal. AcqRel: see
        // `note_death`.
        self.removal_requested.swap(false, Ordering::AcqRel);
        self.handle_deaths(owners);
    }

    /// Empties the balancer for good: every pick that starts after this returns says
    /// [`Unavailable::Closed`]. Closing again changes nothing. Calls in flight can end after it.
    pub fn close(&self, owners: &impl Owners<Watch = W>) {
        let gone = self.write(owners, |scope| scope.close());
        drop(gone);
        // No later change will come by to free what a pick is holding just now.
        self.wait_for_picks(owners);
    }

    /// As [`Balancer::close`]. The number of the drain that is over when the last call in flight has
    /// ended, see [`Drained::Later`]; `None`: there is none.
    pub fn close_draining(&self, who: Owner, owners: &impl Owners<Watch = W>) -> Option<u64> {
        let (drain, gone) = self.write(owners, |mut scope| (scope.drain_all(who), scope.close()));
        drop(gone);
        match self.wait_for_last_picks(owners) {
            true => drain.release(),
            false => Some(drain.number()),
        }
    }

    /// Waits until no pick holds a snapshot that was replaced: some microseconds nearly always, and a tenth of
    /// a second at most. Whether none does then.
    fn wait_for_picks(&self, owners: &impl Owners<Watch = W>) -> bool {
        let (free, all_free) = self.write(owners, |scope| {
            let free = reclaim(scope.published, Patience::long());
            (free, scope.published.has_no_retired())
        });
        drop(free);
        all_free
    }

    /// As `wait_for_picks`, some seconds at most, so that no call more can begin on such a snapshot. A pick may
    /// hold one for long whose thread has not got its processor back. Others may change the balancer
    /// meanwhile.
    fn wait_for_last_picks(&self, owners: &impl Owners<Watch = W>) -> bool {
        const TIMES: u32 = 50;
        (0..TIMES).any(|_| self.wait_for_picks(owners))
    }

    /// Whether there is ever work that time drives, see [`Config::is_timed`]. Takes no lock.
    pub fn is_timed(&self) -> bool {
        self.shared.config().is_timed()
    }

    /// What can be said without the lock, and without a look at the backends: as the last change
    /// that has returned left it, or a later one.
    ///
    /// ```
    /// use grpc_lb_core::policy::{round_robin, Policy};
    /// use grpc_lb_core::{Backend, Balancer, Time, Unowned};
    ///
    /// let policy = Policy::RoundRobin(round_robin::Config::default());
    /// let balancer = Balancer::new(policy, 0, Time(0));
    /// balancer.add(&[Backend::new("a", "10.0.0.1")], &Unowned, Time(0))?;
    /// let summary = balancer.summary();
    /// assert_eq!((summary.policy, summary.backends, summary.closed), ("round_robin", 1, false));
    /// # Ok::<(), grpc_lb_core::ChangeError>(())
    /// ```
    pub fn summary(&self) -> Summary {
        // Relaxed: whatever told this thread that a change has returned orders what it stored.
        let size = self.size.load(Ordering::Relaxed);
        let closed = size == CLOSED;
        Summary {
            policy: self.shared.config().policy.name(),
            backends: if closed { 0 } else { size },
            closed,
        }
    }

    /// How many calls to a backend have ended well, as [`info`](Balancer::info) says of all; but for those
    /// that a [drain](Balancer::reconcile_draining) has waited for, which were given what its value was
    /// before.
    pub fn successes<O: Offer<T>>(
        &self,
        id: &O,
        owners: &impl Owners<Watch = W>,
    ) -> Result<u64, MemberError> {
        let entry = self.write(owners, |scope| {
            let key = scope.writer.find(id)?;
            Ok(scope.writer.entry(key))
        })?;
        Ok(entry.successes_of_value())
    }

    /// Whether each of these ids is listed with this value.
    pub fn lists<O: Offer<T>>(
        &self,
        offered: &[(O, O)],
        owners: &impl Owners<Watch = W>,
    ) -> Vec<bool> {
        self.write(owners, |scope| scope.writer.lists(offered))
    }

    /// As [`Balancer::lists`], but never waits: [`Busy`] while somebody else is changing the balancer.
    /// `died` is as in [`Balancer::try_reconcile_from`].
    pub fn try_lists<O: Offer<T>>(
        &self,
        offered: &[(O, O)],
        died: impl FnOnce(),
    ) -> Result<Vec<bool>, Busy> {
        self.attempt(died, |writer| Ok(writer.lists(offered)))
    }

    /// The balancer as it is now.
    pub fn info(&self, owners: &impl Owners<Watch = W>) -> Info<T> {
        self.write(owners, |scope| scope.writer.info(scope.published))
    }

    /// Has something brief done under the writer's lock, if nobody else has it and no death is left to act
    /// on. Acts on none itself, which may take long: `died` is told of those that were left meanwhile to who
    /// had the lock.
    fn attempt<R, E: From<Busy>>(
        &self,
        died: impl FnOnce(),
        work: impl FnOnce(&mut Writer<T, W>) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut writer = self.writer.try_lock().ok_or(Busy)?;
        let done = match self.has_unhandled_deaths() {
            true => Err(Busy.into()),
            false => work(&mut writer),
        };
        drop(writer);
        // As in `handle_deaths`: who found the lock taken relies on this look.
        if !self.dead.lock().is_empty() {
            died();
        }
        done
    }

    /// Whether picks have to check if the owner of what they chose is alive.
    #[inline]
    fn has_unhandled_deaths(&self) -> bool {
        // Acquire: pairs with the Release in `remove_dead_owners`. A pick that reads that no death is
        // left to act on, reads a snapshot without the dead.
        self.unhandled_deaths.load(Ordering::Acquire) > 0
    }

    /// Whether each backend needs a text that can be hashed, see [`Config::hashes`]. That never changes.
    /// Takes no lock.
    pub fn hashes(&self) -> bool {
        self.shared.config().hashes()
    }

    /// Changes the list.
    fn change_list<O: Owners<Watch = W>, E>(
        &self,
        owners: &O,
        change: impl FnOnce(Scope<'_, T, O>) -> Result<(Changes, Gone<T>), E>,
    ) -> Result<Changes, E> {
        // What is gone is dropped here, after the lock.
        let changed = self.write(owners, change);
        changed.map(|(changes, _gone)| changes)
    }

    /// Runs `change` under the writer's lock, after the removal of owners that died, and then frees
    /// what can be freed and removes those that died meanwhile.
    fn write<R, O: Owners<Watch = W>>(
        &self,
        owners: &O,
        change: impl FnOnce(Scope<'_, T, O>) -> R,
    ) -> R {
        let (result, _garbage) = self.write_with(self.writer.lock(), owners, change);
        result
    }

    /// As `write`, by who has the lock, and who drops what is not needed any more.
    fn write_with<R, O: Owners<Watch = W>>(
        &self,
        mut writer: MutexGuard<'_, Writer<T, W>>,
        owners: &O,
        change: impl FnOnce(Scope<'_, T, O>) -> R,
    ) -> (R, Garbage<T>) {
        let values = self.remove_dead_owners(&mut writer, owners);
        let result = change(self.scope(&mut writer, owners));
        let snapshots = self.finish(&writer, Patience::short());
        drop(writer);
        self.handle_deaths(owners);
        (result, Garbage { values, snapshots })
    }

    fn scope<'a, O: Owners<Watch = W>>(
        &'a self,
        writer: &'a mut Writer<T, W>,
        owners: &'a O,
    ) -> Scope<'a, T, O> {
        Scope {
            writer,
            published: &self.published,
            owners,
        }
    }

    fn handle_deaths(&self, owners: &impl Owners<Watch = W>) {
        while !self.dead.lock().is_empty() {
            // If this fails, the holder of the lock has yet to look at `dead` again.
            let Some(mut writer) = self.writer.try_lock() else {
                return;
            };
            let gone = self.remove_dead_owners(&mut writer, owners);
            let free = self.finish(&writer, Patience::none());
            drop(writer);
            drop((gone, free));
        }
    }

    /// Takes out what belonged to owners whose death was noted.
    fn remove_dead_owners(
        &self,
        writer: &mut Writer<T, W>,
        owners: &impl Owners<Watch = W>,
    ) -> Gone<T> {
        let dead = std::mem::take(&mut *self.dead.lock());
        if dead.is_empty() {
            return Gone::new();
        }
        let gone = self.scope(writer, owners).remove_owners(&dead);
        // Release: see `has_unhandled_deaths`.
        self.unhandled_deaths
            .fetch_sub(dead.len(), Ordering::Release);
        gone
    }

    /// What every writer does last under its lock. Takes back the snapshots that no pick can
    /// hold, with their picks counted: under the lock, so that no pick is counted twice or missed.
    /// To be dropped after it.
    fn finish(&self, writer: &Writer<T, W>, patience: Patience) -> Vec<Snapshot<T>> {
        let size = match writer.closed {
            true => CLOSED,
            false => writer.members.len(),
        };
        // Relaxed: see `summary`.
        self.size.store(size, Ordering::Relaxed);
        self.shared.set_eventful(!writer.events.is_empty());
        reclaim(&self.published, patience)
    }
}

/// The turn of who is the first in line, see [`Balancer::turn`]. It may check out while all who come
/// later may not.
pub struct Turn<'a, T, W> {
    balancer: &'a Balancer<T, W>,
}

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Turn<'_, T, W> {
    /// As [`Balancer::checkout_where`].
    pub fn checkout_where<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        search: Search,
        clock: impl Clock,
        wanted: impl Fn(&T) -> bool,
        take: impl FnOnce(&T) -> R,
    ) -> Result<(R, Ticket), Unavailable> {
        let take = |row: &_, call| take_with_ticket(row, call, caller, take);
        self.balancer
            .begin(caller, owners, search, clock, wanted, take)
    }
}

/// Under the writer's lock, see [`Balancer::finish`].
fn reclaim<T>(published: &Published<Snapshot<T>>, patience: Patience) -> Vec<Snapshot<T>>
where
    T: Send + Sync,
{
    let free = published.reclaim(patience);
    for snapshot in &free {
        snapshot.add_picks();
    }
    free
}

/// What there is to pick where more has to be looked at than one group, and where nothing is found.
#[inline(never)]
fn pick_apart<'a, T>(
    snapshot: &'a Snapshot<T>,
    caller: &Caller,
    owners: &impl Owners,
    search: Search,
    check_owners: bool,
) -> Result<&'a Row<T>, Unavailable> {
    match check_owners {
        false => snapshot.pick(caller),
        true => snapshot.pick_where(caller, search, |row| is_alive(row.owner, owners)),
    }
}

/// Begins a call while there are dead owners. Apart, so that all others are compiled in one piece.
#[cold]
#[inline(never)]
fn begin_alive<'a, T>(
    snapshot: &'a Snapshot<T>,
    caller: &Caller,
    owners: &impl Owners,
    search: Search,
    clock: &impl Clock,
    wanted: impl Fn(&T) -> bool,
) -> Result<(&'a Row<T>, Start), Unavailable> {
    snapshot.begin(caller, search, clock, |row| {
        wanted(&row.value) && is_alive(row.owner, owners)
    })
}

/// Takes the value of a row to which a call has begun, and makes the call's ticket.
#[inline]
fn take_with_ticket<T, R>(
    row: &Row<T>,
    call: Start,
    caller: &Caller,
    take: impl FnOnce(&T) -> R,
) -> (R, Ticket) {
    let begun = Begun::new(Arc::clone(&row.entry), call, caller.number());
    // Before the value is taken: if that panics, the call ends.
    let ticket = Ticket::from(begun);
    (take(&row.value), ticket)
}

fn is_alive(owner: Option<Owner>, owners: &impl Owners) -> bool {
    owner.is_none_or(|owner| owners.is_alive(owner))
}
