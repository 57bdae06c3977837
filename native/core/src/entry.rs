//! Records of a backend: one for a snapshot, one for as long as it is listed or has calls in flight.

use std::num::NonZeroU64;
use std::time::Duration;

use triomphe::Arc;

use crate::backend::Owner;
use crate::drain::{Drain, Drains};
use crate::load::cohorts::{Cohort, Generation};
use crate::load::orca::{LoadReport, Report};
use crate::load::reported_weight::Source;
use crate::load::{InARow, Load, Outcome};
use crate::shared::Shared;
use crate::sync::{AtomicU64, Ordering};
use crate::time::{Clock, Time};

/// A backend in a snapshot.
#[derive(Clone)]
pub(crate) struct Row<T> {
    pub(crate) value: T,
    pub(crate) owner: Option<Owner>,
    /// Which member it is.
    pub(crate) key: u32,
    /// Of which its calls are: the latest when it was made.
    pub(crate) generation: Generation,
    pub(crate) entry: Arc<Entry>,
}

/// What outlives snapshots: shared by all of them that list the backend, and by the calls that it
/// has in flight.
pub(crate) struct Entry {
    /// Picks that nothing else counts. With a policy that has a cursor: those through snapshots
    /// that are freed, corrected for picks that passed a backend over. With others: calls that were
    /// cancelled.
    pub(crate) picks: AtomicU64,
    pub(crate) load: Load,
    pub(crate) drains: Drains,
    pub(crate) shared: Arc<Shared>,
}

/// With its count of references it fills a chunk of the heap, as glibc rounds: a word more takes two.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Entry>() + size_of::<usize>() <= 136);

/// What is known of a call that has begun. In whole words: a call is moved about, and a processor is slow
/// to read what was written in smaller parts. And in two of them, also where there may be none: so it is
/// returned in registers.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// When, or some milliseconds before.
    pub(crate) at: Time,
    /// Its cohort, 8 bits, and the marks, of which one is always there.
    bits: NonZeroU64,
}

const _: () = assert!(size_of::<Option<Start>>() == size_of::<[u64; 2]>());

/// It is known when it began, so that its end tells a latency.
const TIMED: u64 = 1 << 8;

/// It is one of [`Shared::in_flight`].
const COUNTED_IN_TOTAL: u64 = 1 << 9;

/// It has begun.
const BEGUN: NonZeroU64 = NonZeroU64::new(1 << 10).unwrap();

impl Start {
    #[inline]
    fn new(cohort: Cohort, at: Time, timed: bool) -> Self {
        let bits = BEGUN | u64::from(cohort.to_bits()) | if timed { TIMED } else { 0 };
        Start { at, bits }
    }

    /// As that of a call which counts among all calls in flight, or not.
    #[inline]
    pub(crate) fn counted_in_total(self, counted: bool) -> Self {
        let bits = self.bits | if counted { COUNTED_IN_TOTAL } else { 0 };
        Start { bits, ..self }
    }

    #[inline]
    fn cohort(self) -> Cohort {
        Cohort::from_bits(self.bits.get() as u8)
    }

    #[inline]
    pub(crate) fn is_timed(self) -> bool {
        self.bits.get() & TIMED != 0
    }

    #[inline]
    fn is_counted_in_total(self) -> bool {
        self.bits.get() & COUNTED_IN_TOTAL != 0
    }
}

impl Entry {
    pub(crate) fn new(shared: &Arc<Shared>, now: Time) -> Self {
        let reports = shared.config().policy.reported_weights().is_some();
        Entry {
            picks: AtomicU64::new(0),
            load: Load::new(&shared.measuring(), reports, now),
            drains: Drains::default(),
            shared: Arc::clone(shared),
        }
    }

    /// Counts a call as in flight, unless there are `max` of them.
    #[inline]
    pub(crate) fn begin(&self, clock: &impl Clock, max: Option<u32>) -> Option<Start> {
        let shared = &*self.shared;
        let (at, timed) = self.time_of_begin(clock);
        let usual = || (shared.measuring(), shared.fleet.usual());
        let cohort = self.load.begin(at, max, usual)?;
        Some(Start::new(cohort, at, timed))
    }

    /// The time, and whether it is exact. To read a clock costs as much as all else that a call does, so
    /// where only people look at latencies one call a tick is timed: the first; and all until one is known.
    #[inline]
    fn time_of_begin(&self, clock: &impl Clock) -> (Time, bool) {
        if !self.shared.times_calls() && self.load.is_measured() {
            let last = self.load.last_begun();
            if clock.last_tick().is_some_and(|tick| tick <= last) {
                return (last, false);
            }
        }
        (clock.now(), true)
    }

    /// Has a call that has begun be one of a row of that generation.
    #[inline]
    pub(crate) fn begun(&self, call: Start, of: Generation) -> Start {
        match call.cohort().generation() == of {
            true => call,
            false => self.on_late_begin(call, of),
        }
    }

    #[cold]
    #[inline(never)]
    fn on_late_begin(&self, call: Start, of: Generation) -> Start {
        self.drains.on_late_begin(of, call.cohort().generation());
        Start::new(call.cohort().of_generation(of), call.at, call.is_timed())
    }

    /// Has `drain` wait for the calls in flight, and for those that rows of before are still given.
    pub(crate) fn drain(&self, drain: &Arc<Drain>) {
        self.drains.begin(drain, || self.load.begin_generation());
    }

    /// How many calls have ended well, but for those that a drain waited for.
    pub(crate) fn successes_of_value(&self) -> u64 {
        let late = self.drains.late_successes();
        // One that ends meanwhile may be seen in one of both.
        self.load.ended().successes.saturating_sub(late)
    }

    /// Takes the first answer to a call into account.
    pub(crate) fn on_answer(&self, took: Duration, now: Time) {
        let shared = &*self.shared;
        self.load
            .answer(took, now, &shared.measuring(), &shared.fleet);
    }

    /// Counts the end of such a call. How long it took is `None` where that is of no interest. Whether
    /// somebody waited for it as the last one.
    #[inline]
    pub(crate) fn end(
        &self,
        call: Start,
        outcome: Outcome,
        took: Option<Duration>,
        now: Time,
    ) -> bool {
        let shared = &*self.shared;
        if call.is_counted_in_total() {
            shared.in_flight.leave();
        }
        let cohort = call.cohort();
        let latest = self.load.leave(cohort);
        let failed = self
            .load
            .end(outcome, took, now, || shared.measuring(), &shared.fleet);
        match outcome {
            Outcome::Success => {}
            Outcome::Failure | Outcome::TransportFailure => self.on_failure(failed),
            Outcome::Cancelled => self.on_cancel(),
        }
        latest != cohort.generation() && self.on_late_end(cohort.generation(), latest, outcome)
    }

    #[cold]
    #[inline(never)]
    fn on_late_end(&self, of: Generation, latest: Generation, outcome: Outcome) -> bool {
        if outcome == Outcome::Success {
            self.drains.on_late_success();
        }
        self.drains.on_late_end(of, latest)
    }

    /// So many calls in a row have failed now.
    fn on_failure(&self, failed: InARow) {
        let config = self.shared.config();
        let Some(detection) = config.outlier_detection.as_ref() else {
            return;
        };
        // A change of the limit that comes between the count and this leaves the backend to the next sweep.
        let limits = detection.limits_in_a_row();
        if self.load.consecutive.note_if_too_many(failed, limits) {
            self.shared.request_look();
        }
    }

    fn on_cancel(&self) {
        if !self.shared.config().policy.counts_picks() {
            // Relaxed: a count.
            self.picks.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a load report into account, if the policy wants it.
    pub(crate) fn on_report(&self, report: LoadReport, source: Source, now: Time) {
        let decoded;
        let report = match report {
            LoadReport::Decoded(report) => report,
            LoadReport::Bytes(bytes) => match Report::decode(bytes) {
                Some(report) => {
                    decoded = report;
                    &decoded
                }
                None => return self.shared.count_malformed_report(),
            },
        };
        let config = self.shared.config();
        let reported = self.load.reported.get();
        if let (Some(config), Some(reported)) = (config.policy.reported_weights(), reported) {
            // A58: where reports come out of band, those of calls are ignored.
            if source == Source::OutOfBand || config.source == Source::PerCall {
                reported.on_report(report, now, config);
            }
        }
    }
}
