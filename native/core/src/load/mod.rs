//! Measures backends, apart from `policy`, which chooses by what is measured.
//!
//! | module | what is measured |
//! | --- | --- |
//! | `latency` | a moving average of how long calls take |
//! | [`orca`] | what backends report of themselves |
//! | [`reported_weight`], `weight` | the weight that follows from it |

pub(crate) mod latency;
pub mod orca;
pub mod reported_weight;
pub(crate) mod weight;

use std::time::Duration;

use once_cell::race::OnceBox;

use self::latency::{Decay, Latency, Rule};
use self::weight::ReportedWeight;
use crate::limit::InFlight;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::time::Time;

/// How latencies are averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measuring {
    pub(crate) rule: Rule,
    pub(crate) decay: Decay,
    /// What is taken for the latency before the first call was answered, in nanoseconds. Infinite:
    /// nothing is.
    pub(crate) initial: f64,
    /// What a failed call took at least, in nanoseconds. Infinite: how long it took is of no
    /// interest, since what is infinite is no sample.
    pub(crate) failure: f64,
}

impl Measuring {
    /// For policies that do not choose by latencies: users see them.
    pub(crate) fn plain() -> Self {
        Measuring {
            rule: Rule::Plain,
            decay: Duration::from_secs(10).into(),
            initial: f64::INFINITY,
            failure: f64::INFINITY,
        }
    }

    /// This, as what replaces `last`: see [`Decay::after`].
    pub(crate) fn after(self, last: &Measuring) -> Self {
        Measuring {
            decay: self.decay.after(last.decay),
            ..self
        }
    }
}

/// How latencies are averaged, where that can change while calls end.
///
/// All orderings are Relaxed: each number is right by itself, and a decay says by its tag which
/// averages it goes with.
pub(crate) struct LiveMeasuring {
    rule: Rule,
    decay: AtomicU64,
    initial: AtomicU64,
    failure: AtomicU64,
}

impl LiveMeasuring {
    pub(crate) fn new(measuring: Measuring) -> Self {
        LiveMeasuring {
            rule: measuring.rule,
            decay: AtomicU64::new(measuring.decay.to_bits()),
            initial: AtomicU64::new(measuring.initial.to_bits()),
            failure: AtomicU64::new(measuring.failure.to_bits()),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Measuring {
        Measuring {
            rule: self.rule,
            decay: Decay::from_bits(self.decay.load(Ordering::Relaxed)),
            initial: f64::from_bits(self.initial.load(Ordering::Relaxed)),
            failure: f64::from_bits(self.failure.load(Ordering::Relaxed)),
        }
    }

    /// The rule stays, as the policy does.
    pub(crate) fn set(&self, next: &Measuring) {
        self.decay.store(next.decay.to_bits(), Ordering::Relaxed);
        self.initial
            .store(next.initial.to_bits(), Ordering::Relaxed);
        self.failure
            .store(next.failure.to_bits(), Ordering::Relaxed);
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Success,
    /// It failed, as far as the backend is concerned.
    Failure,
    /// It failed on the way to the backend: no connection, or one that was lost.
    TransportFailure,
    /// It was given up: this says nothing of the backend.
    Cancelled,
}

/// What is measured of one backend. Written by calls on all threads, with no lock.
///
/// All orderings here are Relaxed: each number stands for itself and publishes nothing.
pub(crate) struct Load {
    pub(crate) in_flight: InFlight,
    consecutive_failures: AtomicU32,
    consecutive_transport_failures: AtomicU32,
    successes: AtomicU64,
    failures: AtomicU64,
    latency: Latency,
    /// The bits of its share beside the others as it is now, an `f64`.
    weight: AtomicU64,
    /// Made when the policy first takes weights from load reports.
    pub(crate) reported: OnceBox<ReportedWeight>,
}

/// Calls that have failed since the last one that succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InARow {
    /// However they failed.
    pub(crate) failures: u32,
    pub(crate) transport_failures: u32,
}

/// Calls that have ended with an outcome, by which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
}

impl Load {
    pub(crate) fn new(measuring: &Measuring, reports: bool, now: Time) -> Self {
        let load = Load {
            in_flight: InFlight::new(),
            consecutive_failures: AtomicU32::new(0),
            consecutive_transport_failures: AtomicU32::new(0),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency: Latency::new(measuring.initial, now, measuring.decay),
            weight: AtomicU64::new(1.0_f64.to_bits()),
            reported: OnceBox::new(),
        };
        if reports {
            load.expect_reports();
        }
        load
    }

    /// Makes room for what load reports say.
    pub(crate) fn expect_reports(&self) {
        let new = || Box::new(ReportedWeight::new());
        self.reported.get_or_init(new);
    }

    /// Goes over to another way to average; what was measured stays. Under the writer's lock.
    pub(crate) fn change_measuring(&self, last: &Measuring, next: &Measuring) {
        // No call was answered: the estimate is the initial value.
        let untried = || (self.ended() == Ended::default()).then_some(next.initial);
        self.latency.convert(last.decay, next.decay, untried);
    }

    /// Counts the end of a call that took so long. How many have failed in a row now.
    #[inline]
    pub(crate) fn end(
        &self,
        outcome: Outcome,
        took: Option<Duration>,
        now: Time,
        measuring: &Measuring,
    ) -> InARow {
        self.in_flight.leave();
        let sample = |took| {
            let Measuring { decay, rule, .. } = *measuring;
            self.latency.sample(took, now, decay, rule);
        };
        let took = took.map(nanoseconds);
        match outcome {
            Outcome::Success => {
                self.successes.fetch_add(1, Ordering::Relaxed);
                // Looked at first: they are 0 nearly always, and a load is cheaper than a store.
                if self.in_a_row() != InARow::default() {
                    self.reset_failures();
                    self.reset_transport_failures();
                }
                took.map(sample);
                InARow::default()
            }
            Outcome::Failure | Outcome::TransportFailure => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                sample(took.unwrap_or(0.0).max(measuring.failure));
                let one_more =
                    |count: &AtomicU32| count.fetch_add(1, Ordering::Relaxed).saturating_add(1);
                InARow {
                    failures: one_more(&self.consecutive_failures),
                    transport_failures: match outcome {
                        Outcome::TransportFailure => one_more(&self.consecutive_transport_failures),
                        _ => 0,
                    },
                }
            }
            Outcome::Cancelled => InARow::default(),
        }
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.count()
    }

    pub(crate) fn ended(&self) -> Ended {
        Ended {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn in_a_row(&self) -> InARow {
        InARow {
            failures: self.consecutive_failures.load(Ordering::Relaxed),
            transport_failures: self.consecutive_transport_failures.load(Ordering::Relaxed),
        }
    }

    /// Begins to count failures in a row anew.
    pub(crate) fn reset_failures(&self) {
        self.consecutive_failures.store(0, Ordering::Relaxed);
    }

    /// Begins to count failures of the transport in a row anew.
    pub(crate) fn reset_transport_failures(&self) {
        self.consecutive_transport_failures
            .store(0, Ordering::Relaxed);
    }

    /// The average latency in nanoseconds. `None` before the first sample.
    pub(crate) fn latency(&self, measuring: &Measuring) -> Option<f64> {
        let Ended {
            successes,
            failures,
            ..
        } = self.ended();
        let estimate = self.latency.estimate(measuring.decay);
        // Without an initial value it is infinite as long as there is none; with one, that is not
        // to be taken for an answer.
        (successes + failures > 0 && estimate.is_finite()).then_some(estimate)
    }

    /// See [`Latency::score`].
    #[inline]
    pub(crate) fn score(&self) -> i64 {
        self.latency.score()
    }

    /// Its share beside the others as it is now. 0 is not known.
    #[inline]
    pub(crate) fn weight(&self) -> f64 {
        f64::from_bits(self.weight.load(Ordering::Relaxed))
    }

    pub(crate) fn set_weight(&self, weight: f64) {
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
    }
}

pub(crate) fn nanoseconds(duration: Duration) -> f64 {
    // Of 64 bits, where `as_nanos` has 128, which take a function to convert. What is longer than 584
    // years is not.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) as f64
}
