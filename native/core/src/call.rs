//! Calls in flight.

use std::ops::Deref;
use std::time::Duration;

use triomphe::Arc;

use crate::backend::Owner;
use crate::caller::Caller;
use crate::entry::{Entry, Start};
use crate::live;
use crate::load::orca::LoadReport;
use crate::load::reported_weight::Source;
use crate::load::Outcome;
use crate::time::Clock;

/// What a call that ends tells of its backend's latency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LatencySample {
    /// What was measured: to its first answer, or to its end.
    #[default]
    Measured,
    /// Nothing: how long it took was up to its caller.
    None,
    /// What the caller has measured.
    Given(Duration),
}

/// What the end of a call needs to know of its beginning.
pub struct Begun {
    entry: Arc<Entry>,
    call: Start,
}

impl Begun {
    /// `entry` has counted the call as in flight. `caller` is the caller's number.
    #[inline]
    pub(crate) fn new(entry: Arc<Entry>, call: Start, caller: usize) -> Self {
        live::begin_call(caller);
        Begun { entry, call }
    }

    /// Takes into account that the first answer came.
    #[inline]
    pub(crate) fn on_answer(&self, clock: impl Clock) {
        if self.call.is_timed() {
            let now = clock.now();
            self.entry.on_answer(now.since(self.call.at), now);
        }
    }

    /// Counts the end of the call, which is to be done once. Whether it was the last for which somebody
    /// waits. `answered` is whether its latency was measured before; `caller` the number of the thread that
    /// ends it, if it has one.
    #[inline]
    pub(crate) fn end(
        &self,
        outcome: Outcome,
        latency: LatencySample,
        answered: bool,
        clock: impl Clock,
        caller: Option<usize>,
    ) -> bool {
        live::end_call(caller);
        let (at, timed) = (self.call.at, self.call.is_timed());
        let is_given = matches!(latency, LatencySample::Given(_));
        // Where it is not known when the call began nobody asks when it ended.
        let now = if timed || is_given { clock.now() } else { at };
        let took = match latency {
            LatencySample::Measured if answered || !timed => None,
            LatencySample::Measured => Some(now.since(at)),
            LatencySample::None => None,
            LatencySample::Given(took) => Some(took),
        };
        self.entry.end(self.call, outcome, took, now)
    }

    /// Counts the end of a call that was dropped: here is no clock, so how long it went on is not known.
    #[cold]
    pub(crate) fn end_dropped(&self) -> bool {
        let (outcome, latency) = (Outcome::Cancelled, LatencySample::None);
        self.end(outcome, latency, false, self.call.at, None)
    }

    /// Takes the load report into account that came with it.
    #[inline]
    pub(crate) fn on_report(&self, report: Option<LoadReport>, clock: impl Clock) {
        if let Some(report) = report {
            self.entry.on_report(report, Source::PerCall, clock.now());
        }
    }

    /// Whether the balancer has work that is not to wait until it is due: this call may have been
    /// one failure too many.
    pub fn is_urgent(&self) -> bool {
        self.entry.shared.is_urgent()
    }

    /// Whether somebody waits for the room that this call has left: to be asked when it has ended.
    #[inline]
    pub fn is_awaited(&self) -> bool {
        self.entry.shared.line.awaits_room()
    }

    /// Tells the first who waits, see [`Balancer::tell_first`](crate::Balancer::tell_first).
    pub fn tell_first(&self, tell: impl FnOnce(Owner, u64)) {
        self.entry.shared.line.tell_first(tell);
    }

    /// Tells those who waited for this call. `tell` runs under a lock, and must not use the balancer.
    pub fn tell_drained(&self, tell: impl FnMut(Owner, u64)) {
        self.entry.drains.tell(tell);
    }
}

/// A call in flight, from [`Balancer::begin_call`](crate::Balancer::begin_call) on, in the hands of one
/// who ends it. Two who may do so need a [`Ticket`](crate::Ticket). It may outlive its balancer; one that
/// is dropped before it was ended was cancelled.
///
/// ```
/// use grpc_lb_core::policy::{round_robin, Policy};
/// use grpc_lb_core::{Backend, Balancer, Caller, LatencySample, Outcome, Recent, Time, Unowned};
///
/// let balancer = Balancer::new(Policy::RoundRobin(round_robin::Config::default()), 0, Time(0));
/// balancer.reconcile(&[Backend::new("a", "10.0.0.1")], &Unowned, Time(0))?;
/// let (caller, mut recent) = (Caller::new(0), Recent::new());
/// for _ in 0..2 {
///     let begun = balancer.begin_call(&caller, &mut recent, &Unowned, Time(5), |_, call| call);
///     let (outcome, latency) = (Outcome::Success, LatencySample::Measured);
///     let ended = begun.unwrap().end(&caller, outcome, latency, None, Time(9));
///     assert!(!ended.has_ended_drain());
///     recent.keep(ended);
/// }
/// assert_eq!(balancer.info(&Unowned).backends[0].successes, 2);
/// # Ok::<(), grpc_lb_core::ChangeError>(())
/// ```
pub struct Call(Option<Begun>);

impl Call {
    /// Ends the call, see [`Ticket::complete_with`](crate::Ticket::complete_with). `caller` is whichever
    /// thread ends it.
    #[inline]
    pub fn end(
        mut self,
        caller: &Caller,
        outcome: Outcome,
        latency: LatencySample,
        report: Option<LoadReport>,
        clock: impl Clock,
    ) -> Ended {
        let begun = self.0.take().expect("only its end takes it");
        let ended_drain = begun.end(outcome, latency, false, &clock, Some(caller.number()));
        begun.on_report(report, clock);
        Ended { begun, ended_drain }
    }
}

impl From<Begun> for Call {
    #[inline]
    fn from(begun: Begun) -> Self {
        Call(Some(begun))
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        if let Some(begun) = &self.0 {
            begun.end_dropped();
        }
    }
}

/// A call that has ended.
pub struct Ended {
    begun: Begun,
    ended_drain: bool,
}

impl Ended {
    /// Whether somebody waited for the call as the last one, see
    /// [`Balancer::reconcile_draining`](crate::Balancer::reconcile_draining), and is to be
    /// [told](Begun::tell_drained).
    #[inline]
    pub fn has_ended_drain(&self) -> bool {
        self.ended_drain
    }
}

impl Deref for Ended {
    type Target = Begun;

    #[inline]
    fn deref(&self) -> &Begun {
        &self.begun
    }
}

/// The records of backends that one has called lately.
///
/// To count how many use a record, up when a call begins and down when it has ended, takes as long as to
/// count the call in it. Who has called a backend once stays counted instead. What is kept of a backend that
/// has gone is some hundred bytes and what its balancer's calls share, such as the configuration; none of
/// its values.
#[derive(Default)]
pub struct Recent([Option<Arc<Entry>>; PLACES]);

/// As many records as one keeps.
const PLACES: usize = 16;

/// Where a record is kept. The heap has one every nine times 16 bytes, so that of 16 side by side no two have
/// the same place.
#[inline]
fn place_of(entry: &Arc<Entry>) -> usize {
    Arc::as_ptr(entry).addr() / 16 % PLACES
}

impl Recent {
    /// None.
    pub fn new() -> Self {
        Recent::default()
    }

    /// The record of a backend, for a call that begins.
    #[inline]
    pub(crate) fn take(&mut self, entry: &Arc<Entry>) -> Arc<Entry> {
        let place = &mut self.0[place_of(entry)];
        match place.take_if(|kept| Arc::ptr_eq(kept, entry)) {
            Some(kept) => kept,
            None => Arc::clone(entry),
        }
    }

    /// Keeps the record of a call that has ended, in the place of the one before.
    #[inline]
    pub fn keep(&mut self, ended: Ended) {
        let entry = ended.begun.entry;
        let place = place_of(&entry);
        self.0[place] = Some(entry);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::policy::{random, Policy};
    use crate::shared::Shared;
    use crate::time::Time;

    #[test]
    fn a_backend_that_is_called_again_is_used_by_one_more_until_another_is_kept_in_its_place() {
        let config = Config::from(Policy::Random(random::Config));
        let shared = Arc::new(Shared::new(config.into()));
        let new = || Arc::new(Entry::new(&shared, Time(0)));
        let (caller, mut recent, one) = (Caller::new(0), Recent::new(), new());
        let mut call = |entry: &Arc<Entry>, while_in_flight: usize| {
            let begun = entry.begin(&Time(0), None).unwrap();
            let call = Call::from(Begun::new(recent.take(entry), begun, caller.number()));
            assert_eq!(Arc::strong_count(entry), while_in_flight);
            let (outcome, latency) = (Outcome::Success, LatencySample::Measured);
            recent.keep(call.end(&caller, outcome, latency, None, Time(0)));
            assert_eq!(Arc::strong_count(entry), 2);
        };
        (0..3).for_each(|_| call(&one, 2));

        let others: Vec<_> = (0..64).map(|_| new()).collect();
        let mut others = others.iter();
        let next = others.find(|entry| place_of(entry) != place_of(&one));
        call(next.unwrap(), 2);
        assert_eq!(Arc::strong_count(&one), 2);

        let same_place = others.find(|entry| place_of(entry) == place_of(&one));
        call(same_place.unwrap(), 2);
        assert_eq!(Arc::strong_count(&one), 1);
        assert_eq!((one.load.in_flight(), one.load.ended().successes), (0, 3));
    }

    #[test]
    fn calls_of_one_backend_at_the_same_time_use_it_each_and_one_record_is_kept() {
        let config = Config::from(Policy::Random(random::Config));
        let shared = Arc::new(Shared::new(config.into()));
        let entry = Arc::new(Entry::new(&shared, Time(0)));
        let (caller, mut recent) = (Caller::new(0), Recent::new());
        for _ in 0..2 {
            let mut begin = || {
                let begun = entry.begin(&Time(0), None).unwrap();
                Call::from(Begun::new(recent.take(&entry), begun, caller.number()))
            };
            let calls = [begin(), begin(), begin()];
            assert_eq!(Arc::strong_count(&entry), 4);
            for call in calls {
                let (outcome, latency) = (Outcome::Success, LatencySample::Measured);
                recent.keep(call.end(&caller, outcome, latency, None, Time(0)));
            }
            assert_eq!(Arc::strong_count(&entry), 2);
        }
        drop(recent);
        assert_eq!(Arc::strong_count(&entry), 1);
    }
}
