//! Records of a backend: one for a snapshot, one for as long as it is listed or has calls in flight.

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
use crate::time::Time;

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
    /// Its place in a shuffled list. Drawn once, so that a reconcile does not move a backend that
    /// stays.
    pub(crate) shuffle_place: u32,
    /// Picks that nothing else counts. With a policy that has a cursor: those through snapshots
    /// that are freed, corrected for picks that passed a backend over. With others: calls that were
    /// cancelled.
    pub(crate) picks: AtomicU64,
    pub(crate) load: Load,
    pub(crate) drains: Drains,
    pub(crate) shared: Arc<Shared>,
}

/// A call that ends.
pub(crate) struct EndedCall {
    pub(crate) outcome: Outcome,
    /// `None`: that is of no interest.
    pub(crate) took: Option<Duration>,
    pub(crate) cohort: Cohort,
    pub(crate) now: Time,
    /// Whether it is one of [`Shared::in_flight`].
    pub(crate) counted_in_total: bool,
}

impl Entry {
    pub(crate) fn new(shuffle_place: u32, shared: &Arc<Shared>, now: Time) -> Self {
        let reports = shared.config().policy.reported_weights().is_some();
        Entry {
            shuffle_place,
            picks: AtomicU64::new(0),
            load: Load::new(&shared.measuring(), reports, now),
            drains: Drains::default(),
            shared: Arc::clone(shared),
        }
    }

    /// Counts a call as in flight, unless there are `max` of them.
    #[inline]
    pub(crate) fn begin(&self, now: Time, max: Option<u32>) -> Option<Cohort> {
        let shared = &*self.shared;
        self.load
            .begin(now, max, || (shared.measuring(), shared.fleet.usual()))
    }

    /// Has a call that has begun be one of a row of that generation.
    #[inline]
    pub(crate) fn begun(&self, call: Cohort, of: Generation) -> Cohort {
        if call.generation() == of {
            return call;
        }
        self.on_late_begin(call, of)
    }

    #[cold]
    #[inline(never)]
    fn on_late_begin(&self, call: Cohort, of: Generation) -> Cohort {
        self.drains.on_late_begin(of, call.generation());
        call.of_generation(of)
    }

    /// Has `drain` wait for the calls in flight, and for those that rows of before are still given.
    pub(crate) fn drain(&self, drain: &Arc<Drain>) {
        self.drains.begin(drain, || self.load.begin_generation());
    }

    /// Takes the first answer to a call into account.
    pub(crate) fn on_answer(&self, took: Duration, now: Time) {
        let shared = &*self.shared;
        self.load
            .answer(took, now, &shared.measuring(), &shared.fleet);
    }

    /// Counts the end of such a call. Whether somebody waited for it as the last one.
    #[inline]
    pub(crate) fn end(&self, call: EndedCall) -> bool {
        let shared = &*self.shared;
        if call.counted_in_total {
            shared.in_flight.leave();
        }
        let EndedCall {
            outcome,
            took,
            cohort,
            now,
            ..
        } = call;
        let latest = self.load.leave(cohort);
        let failed = self
            .load
            .end(outcome, took, now, &shared.measuring(), &shared.fleet);
        match outcome {
            Outcome::Success => {}
            Outcome::Failure | Outcome::TransportFailure => self.on_failure(failed),
            Outcome::Cancelled => self.on_cancel(),
        }
        latest != cohort.generation() && self.on_late_end(cohort.generation(), latest)
    }

    #[cold]
    #[inline(never)]
    fn on_late_end(&self, of: Generation, latest: Generation) -> bool {
        self.drains.on_late_end(of, latest)
    }

    /// So many calls in a row have failed now.
    fn on_failure(&self, failed: InARow) {
        let config = self.shared.config();
        let Some(detection) = config.outlier_detection.as_ref() else {
            return;
        };
        let failures = detection.consecutive_failures.map(|rule| rule.failures);
        let transport_failures = detection.consecutive_transport_failures;
        // Equal, not at least: one request a streak. A change of the limit that comes between the
        // count and this look leaves the backend to the next sweep.
        if failures.is_some_and(|limit| failed.failures == limit.get())
            || transport_failures.is_some_and(|limit| failed.transport_failures == limit.get())
        {
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
