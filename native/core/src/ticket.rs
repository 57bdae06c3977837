//! Ticket of a call in flight.

use std::fmt;
use std::time::Duration;

use triomphe::Arc;

use crate::backend::Owner;
use crate::entry::{EndedCall, Entry};
use crate::live::CountedCall;
use crate::load::cohorts::Cohort;
use crate::load::orca::LoadReport;
use crate::load::reported_weight::Source;
use crate::load::Outcome;
use crate::sync::{AtomicBool, Ordering};
use crate::time::Time;

/// A call in flight, from [`Balancer::checkout`](crate::Balancer::checkout) on. It ends when it is
/// completed; one that is dropped before that was cancelled. It may outlive its balancer.
pub struct Ticket {
    entry: Arc<Entry>,
    started: Time,
    cohort: Cohort,
    /// Whether the first answer came, with which the latency was measured.
    answered: AtomicBool,
    /// Whether it counts among all calls in flight: not if it began while those were not limited.
    counted_in_total: bool,
    ended: AtomicBool,
    /// Whether it was the last call for which somebody waits.
    ended_drain: AtomicBool,
    counted: CountedCall,
}

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

/// The call has ended already, and nothing was counted for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyCompleted;

impl fmt::Display for AlreadyCompleted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the call has been completed before")
    }
}

impl std::error::Error for AlreadyCompleted {}

impl Ticket {
    /// `entry` has counted the call as in flight, in this cohort, and so have all calls if `counted_in_total`.
    /// `caller` is the caller's number.
    #[inline]
    pub(crate) fn new(
        entry: Arc<Entry>,
        cohort: Cohort,
        now: Time,
        counted_in_total: bool,
        caller: usize,
    ) -> Self {
        Ticket {
            cohort,
            entry,
            started: now,
            answered: AtomicBool::new(false),
            counted_in_total,
            ended: AtomicBool::new(false),
            ended_drain: AtomicBool::new(false),
            counted: CountedCall::begin(caller),
        }
    }

    /// Notes that the first answer came: the call took until now, however long it goes on, and
    /// however it ends. Only the first of all calls of this does anything, and none after the end.
    #[inline]
    pub fn first_response(&self, now: Time) {
        // Relaxed: one swap among all finds it false, and nothing is handed over by it; see `end`.
        if self.ended.load(Ordering::Relaxed) || self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        self.entry.on_answer(now.since(self.started), now);
    }

    /// Ends the call: it is no longer in flight, and its outcome, how long it took and what the
    /// backend reported are taken into account. Only the first of all calls of this does anything.
    #[inline]
    pub fn complete(
        &self,
        outcome: Outcome,
        report: Option<LoadReport>,
        now: Time,
    ) -> Result<(), AlreadyCompleted> {
        self.complete_with(outcome, LatencySample::Measured, report, now)
    }

    /// As [`Ticket::complete`], where the caller knows better what the latency was.
    #[inline]
    pub fn complete_with(
        &self,
        outcome: Outcome,
        latency: LatencySample,
        report: Option<LoadReport>,
        now: Time,
    ) -> Result<(), AlreadyCompleted> {
        self.end(outcome, latency, now)?;
        if let Some(report) = report {
            self.entry.on_report(report, Source::PerCall, now);
        }
        Ok(())
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

    /// Whether somebody waited for this call as the last one, see
    /// [`Balancer::reconcile_draining`](crate::Balancer::reconcile_draining): to be asked when it has
    /// ended.
    #[inline]
    pub fn has_ended_drain(&self) -> bool {
        // Relaxed: the thread that has ended the call asks.
        self.ended_drain.load(Ordering::Relaxed)
    }

    /// Tells those who waited for this call. `tell` runs under a lock, and must not use the balancer.
    pub fn tell_drained(&self, tell: impl FnMut(Owner, u64)) {
        self.entry.drains.tell(tell);
    }

    /// Whether the call was completed.
    #[inline]
    pub fn has_ended(&self) -> bool {
        // Relaxed: it is asked for no more than a hint, or by the last owner, see `drop`.
        self.ended.load(Ordering::Relaxed)
    }

    #[inline]
    fn end(
        &self,
        outcome: Outcome,
        latency: LatencySample,
        now: Time,
    ) -> Result<(), AlreadyCompleted> {
        // Relaxed: one swap among all finds it false, whatever their order, and nothing is handed
        // over by it.
        if self.ended.swap(true, Ordering::Relaxed) {
            return Err(AlreadyCompleted);
        }
        let took = match latency {
            // Relaxed: as in `first_response`. Measured once, unless both come at once.
            LatencySample::Measured if self.answered.load(Ordering::Relaxed) => None,
            LatencySample::Measured => Some(now.since(self.started)),
            LatencySample::None => None,
            LatencySample::Given(took) => Some(took),
        };
        let ended_drain = self.entry.end(EndedCall {
            outcome,
            took,
            cohort: self.cohort,
            now,
            counted_in_total: self.counted_in_total,
        });
        if ended_drain {
            // Relaxed: see `has_ended_drain`.
            self.ended_drain.store(true, Ordering::Relaxed);
        }
        self.counted.end();
        Ok(())
    }
}

impl Drop for Ticket {
    #[inline]
    fn drop(&mut self) {
        // No other thread has the ticket any more, and what made this thread its last owner orders what
        // others did with it.
        if !self.has_ended() {
            // Here is no clock, so how long it went on is not known.
            let _ = self.end(Outcome::Cancelled, LatencySample::None, self.started);
        }
    }
}
