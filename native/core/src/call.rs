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
/// use grpc_lb_core::{Backend, Balancer, Caller, LatencySample, Outcome, Time, Unowned};
///
/// let balancer = Balancer::new(Policy::RoundRobin(round_robin::Config::default()), 0, Time(0));
/// balancer.reconcile(&[Backend::new("a", "10.0.0.1")], &Unowned, Time(0))?;
/// let caller = Caller::new(0);
/// let mut call = balancer.begin_call(&caller, &Unowned, Time(5), |_, call| call).unwrap();
/// let (outcome, latency) = (Outcome::Success, LatencySample::Measured);
/// assert!(!call.end(&caller, outcome, latency, None, Time(9)));
/// assert_eq!(balancer.info(&Unowned).backends[0].successes, 1);
/// # Ok::<(), grpc_lb_core::ChangeError>(())
/// ```
pub struct Call(Begun);

impl Call {
    /// Ends the call, see [`Ticket::complete_with`](crate::Ticket::complete_with). To be done once.
    /// `caller` is whichever thread ends it.
    ///
    /// Whether somebody waited for it as the last one, see
    /// [`Balancer::reconcile_draining`](crate::Balancer::reconcile_draining), and is to be
    /// [told](Begun::tell_drained).
    #[inline]
    pub fn end(
        &mut self,
        caller: &Caller,
        outcome: Outcome,
        latency: LatencySample,
        report: Option<LoadReport>,
        clock: impl Clock,
    ) -> bool {
        let Call(begun) = self;
        assert!(!begun.call.has_ended(), "a call ends once");
        let ended_drain = begun.end(outcome, latency, false, &clock, Some(caller.number()));
        begun.call = begun.call.ended();
        begun.on_report(report, clock);
        ended_drain
    }
}

impl From<Begun> for Call {
    #[inline]
    fn from(begun: Begun) -> Self {
        Call(begun)
    }
}

impl Deref for Call {
    type Target = Begun;

    #[inline]
    fn deref(&self) -> &Begun {
        &self.0
    }
}

impl Drop for Call {
    #[inline]
    fn drop(&mut self) {
        let Call(begun) = self;
        if !begun.call.has_ended() {
            begun.end_dropped();
        }
    }
}
