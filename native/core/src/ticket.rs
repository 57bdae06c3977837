//! Ticket of a call in flight.

use std::fmt;
use std::ops::Deref;

use crate::call::{Begun, LatencySample};
use crate::load::orca::LoadReport;
use crate::load::Outcome;
use crate::sync::{AtomicBool, Ordering};
use crate::time::Clock;

/// A call in flight, from [`Balancer::checkout`](crate::Balancer::checkout) on, that any thread may end.
/// It ends when it is completed; one that is dropped before that was cancelled. It may outlive its
/// balancer.
pub struct Ticket {
    begun: Begun,
    /// Whether the first answer came, with which the latency was measured.
    answered: AtomicBool,
    ended: AtomicBool,
    /// Whether it was the last call for which somebody waits.
    ended_drain: AtomicBool,
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
    /// Notes that the first answer came: the call took until now, however long it goes on, and
    /// however it ends. Only the first of all calls of this does anything, and none after the end.
    #[inline]
    pub fn first_response(&self, clock: impl Clock) {
        // Relaxed: one swap among all finds it false, and nothing is handed over by it; see `end`.
        if self.ended.load(Ordering::Relaxed) || self.answered.swap(true, Ordering::Relaxed) {
            return;
        }
        self.begun.on_answer(clock);
    }

    /// Ends the call: it is no longer in flight, and its outcome, how long it took and what the
    /// backend reported are taken into account. Only the first of all calls of this does anything.
    #[inline]
    pub fn complete(
        &self,
        outcome: Outcome,
        report: Option<LoadReport>,
        clock: impl Clock,
    ) -> Result<(), AlreadyCompleted> {
        self.complete_with(outcome, LatencySample::Measured, report, clock)
    }

    /// As [`Ticket::complete`], where the caller knows better what the latency was.
    #[inline]
    pub fn complete_with(
        &self,
        outcome: Outcome,
        latency: LatencySample,
        report: Option<LoadReport>,
        clock: impl Clock,
    ) -> Result<(), AlreadyCompleted> {
        self.end(outcome, latency, &clock)?;
        self.begun.on_report(report, clock);
        Ok(())
    }

    /// Whether somebody waited for this call as the last one, see
    /// [`Balancer::reconcile_draining`](crate::Balancer::reconcile_draining): to be asked when it has
    /// ended.
    #[inline]
    pub fn has_ended_drain(&self) -> bool {
        // Relaxed: the thread that has ended the call asks.
        self.ended_drain.load(Ordering::Relaxed)
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
        clock: impl Clock,
    ) -> Result<(), AlreadyCompleted> {
        // Relaxed: one swap among all finds it false, whatever their order, and nothing is handed
        // over by it.
        if self.ended.swap(true, Ordering::Relaxed) {
            return Err(AlreadyCompleted);
        }
        // Relaxed: as in `first_response`. Measured once, unless both come at once.
        let answered = self.answered.load(Ordering::Relaxed);
        if self.begun.end(outcome, latency, answered, clock, None) {
            // Relaxed: see `has_ended_drain`.
            self.ended_drain.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl From<Begun> for Ticket {
    #[inline]
    fn from(begun: Begun) -> Self {
        Ticket {
            begun,
            answered: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            ended_drain: AtomicBool::new(false),
        }
    }
}

impl Deref for Ticket {
    type Target = Begun;

    #[inline]
    fn deref(&self) -> &Begun {
        &self.begun
    }
}

impl Drop for Ticket {
    #[inline]
    fn drop(&mut self) {
        // No other thread has the ticket any more, and what made this thread its last owner orders what
        // others did with it.
        if !self.has_ended() {
            self.begun.end_dropped();
        }
    }
}
