//! Measures backends, apart from `policy`, which chooses by what is measured.
//!
//! | module | what is measured |
//! | --- | --- |
//! | `latency` | a moving average of how long calls take |
//! | `fleet` | how long they usually take, whichever backend has them |
//! | `streak` | slow and failed calls in a row |
//! | `consecutive` | failed calls in a row, and whether there were too many |
//! | `cohorts` | how old the oldest call in flight is |
//! | [`orca`] | what backends report of themselves |
//! | [`reported_weight`], `weight` | the weight that follows from it |

pub(crate) mod cohorts;
mod consecutive;
pub(crate) mod fleet;
pub(crate) mod latency;
pub mod orca;
pub mod reported_weight;
mod streak;
pub(crate) mod weight;

use std::time::Duration;

use once_cell::race::OnceBox;

use self::cohorts::{Cohort, Cohorts, Generation};
use self::consecutive::Consecutive;
pub(crate) use self::consecutive::InARow;
use self::fleet::Fleet;
use self::latency::{Bound, Decay, Latency, Rule, UNKNOWN};
use self::streak::{Says, Streak};
use self::weight::ReportedWeight;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::time::Time;

/// How latencies are averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measuring {
    pub(crate) rule: Rule,
    pub(crate) decay: Decay,
    pub(crate) failure: Penalty,
}

/// What a failed call took at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Penalty {
    /// In nanoseconds. Infinite: how long it took is of no interest, since what is infinite is no
    /// sample.
    pub(crate) nanoseconds: f64,
    /// In what calls of the fleet usually take, as far as that is known.
    pub(crate) usual: f64,
}

impl Measuring {
    /// For policies that do not choose by latencies: users see them.
    pub(crate) fn plain() -> Self {
        Measuring {
            rule: Rule::Plain,
            decay: Duration::from_secs(10).into(),
            failure: Penalty {
                nanoseconds: f64::INFINITY,
                usual: 0.0,
            },
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
    /// Those of the [`Penalty`].
    nanoseconds: AtomicU64,
    usual: AtomicU64,
}

impl LiveMeasuring {
    pub(crate) fn new(measuring: Measuring) -> Self {
        LiveMeasuring {
            rule: measuring.rule,
            decay: AtomicU64::new(measuring.decay.to_bits()),
            nanoseconds: AtomicU64::new(measuring.failure.nanoseconds.to_bits()),
            usual: AtomicU64::new(measuring.failure.usual.to_bits()),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> Measuring {
        Measuring {
            rule: self.rule,
            decay: Decay::from_bits(self.decay.load(Ordering::Relaxed)),
            failure: Penalty {
                nanoseconds: f64::from_bits(self.nanoseconds.load(Ordering::Relaxed)),
                usual: f64::from_bits(self.usual.load(Ordering::Relaxed)),
            },
        }
    }

    /// The rule stays, as the policy does.
    pub(crate) fn set(&self, next: &Measuring) {
        self.decay.store(next.decay.to_bits(), Ordering::Relaxed);
        let Penalty { nanoseconds, usual } = next.failure;
        self.nanoseconds
            .store(nanoseconds.to_bits(), Ordering::Relaxed);
        self.usual.store(usual.to_bits(), Ordering::Relaxed);
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
    pub(crate) consecutive: Consecutive,
    successes: AtomicU64,
    failures: AtomicU64,
    latency: Latency,
    /// Whether any of its calls has told a latency.
    measured: AtomicBool,
    streak: Streak,
    cohorts: Cohorts,
    /// The bits of its share beside the others once it is warm, an `f64`; NaN: it is not known.
    weight: AtomicU64,
    /// The bits of the part of it that slow start leaves, an `f64`.
    warmth: AtomicU64,
    /// Made when the policy first takes weights from load reports.
    pub(crate) reported: OnceBox<ReportedWeight>,
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
            consecutive: Consecutive::default(),
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency: Latency::new(f64::INFINITY, now, measuring.decay),
            measured: AtomicBool::new(false),
            streak: Streak::default(),
            cohorts: Cohorts::new(),
            weight: AtomicU64::new(1.0_f64.to_bits()),
            warmth: AtomicU64::new(1.0_f64.to_bits()),
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
        self.latency.convert(last.decay, next.decay);
    }

    /// Counts a call as in flight, unless there are `max` of them, and notes when it begins. With peak
    /// EWMA, calls in flight that go without an answer raise the estimate.
    #[inline]
    pub(crate) fn begin(
        &self,
        now: Time,
        max: Option<u32>,
        measuring: impl FnOnce() -> (Measuring, Option<f64>),
    ) -> Option<Cohort> {
        let (cohort, oldest) = self.cohorts.join(now, max)?;
        if let Some(oldest) = oldest {
            let (measuring, usual) = measuring();
            if let (Rule::Peak, Some(usual)) = (measuring.rule, usual) {
                self.on_waiting(nanoseconds(now.since(oldest)), usual, now, &measuring);
            }
        }
        Some(cohort)
    }

    /// Nothing was heard of a call since it began. Calls that ended since tell more than it does: a
    /// stream lasts, and a ticket may be lost.
    #[inline]
    fn on_waiting(&self, oldest: f64, usual: f64, now: Time, measuring: &Measuring) {
        if !is_bad(oldest, usual) {
            return;
        }
        let waited = oldest.min(nanoseconds(self.latency.silence(now)));
        let shunned =
            !self.streak.is_empty() && !self.latency.is_within(usual, now, measuring.decay);
        if is_bad(waited, usual) && !shunned {
            self.learn(Says::AtLeast, waited, now, now, Some(usual), measuring);
        }
    }

    /// Whether any of its calls has told a latency.
    #[inline]
    pub(crate) fn is_measured(&self) -> bool {
        self.measured.load(Ordering::Relaxed)
    }

    /// See [`Cohorts::last_joined`].
    #[inline]
    pub(crate) fn last_begun(&self) -> Time {
        self.cohorts.last_joined()
    }

    /// Counts a call as no longer in flight. See [`Cohorts::leave`].
    #[inline]
    pub(crate) fn leave(&self, cohort: Cohort) -> Generation {
        self.cohorts.leave(cohort)
    }

    /// See [`Cohorts::begin_generation`].
    pub(crate) fn begin_generation(&self) -> (Generation, u32) {
        self.cohorts.begin_generation()
    }

    /// See [`Cohorts::generation`].
    pub(crate) fn generation(&self) -> Generation {
        self.cohorts.generation()
    }

    /// Counts the outcome of a call that took so long, if that says anything. How many have
    /// failed in a row now.
    #[inline]
    pub(crate) fn end(
        &self,
        outcome: Outcome,
        took: Option<Duration>,
        now: Time,
        measuring: impl FnOnce() -> Measuring,
        fleet: &Fleet,
    ) -> InARow {
        match outcome {
            Outcome::Success => {
                self.successes.fetch_add(1, Ordering::Relaxed);
                self.consecutive.interrupt();
                if let Some(took) = took {
                    self.answer(took, now, &measuring(), fleet);
                }
                InARow::default()
            }
            Outcome::Failure | Outcome::TransportFailure => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let (measuring, usual) = (measuring(), fleet.usual());
                let Penalty {
                    nanoseconds: least,
                    usual: times,
                } = measuring.failure;
                let penalty = least.max(usual.unwrap_or(0.0) * times);
                let lasted = took.map_or(0.0, nanoseconds);
                if took.is_some() || penalty > 0.0 {
                    let began = Time(now.0.saturating_sub(lasted as u64));
                    self.learn(
                        Says::Exactly,
                        lasted.max(penalty),
                        began,
                        now,
                        usual,
                        &measuring,
                    );
                }
                InARow {
                    failures: self.consecutive.count_failure(),
                    transport_failures: match outcome {
                        Outcome::TransportFailure => self.consecutive.count_transport_failure(),
                        _ => 0,
                    },
                }
            }
            Outcome::Cancelled => {
                let measuring = measuring();
                if let (Some(took), Rule::Peak) = (took, measuring.rule) {
                    let took = nanoseconds(took);
                    let began = Time(now.0.saturating_sub(took as u64));
                    self.learn(Says::AtLeast, took, began, now, fleet.usual(), &measuring);
                }
                InARow::default()
            }
        }
    }

    /// Takes into account that a call was answered after so long.
    #[inline]
    pub(crate) fn answer(&self, took: Duration, now: Time, measuring: &Measuring, fleet: &Fleet) {
        let took = nanoseconds(took);
        let usual = fleet.usual();
        if measuring.rule == Rule::Peak {
            fleet.observe(took, now);
        }
        let began = Time(now.0.saturating_sub(took as u64));
        self.learn(Says::Exactly, took, began, now, usual, measuring);
    }

    /// Takes a sample into account, of a call that began then.
    #[inline]
    fn learn(
        &self,
        says: Says,
        sample: f64,
        began: Time,
        now: Time,
        usual: Option<f64>,
        measuring: &Measuring,
    ) {
        let Measuring { decay, rule, .. } = *measuring;
        let bound = match (rule, usual) {
            (Rule::Peak, Some(usual)) => {
                let shunned = if is_bad(sample, usual) {
                    self.streak.extend(began, now, says)
                } else {
                    if says == Says::Exactly {
                        self.streak.on_good();
                    }
                    streak::SHUNNED
                };
                Some(Bound { usual, shunned })
            }
            _ => None,
        };
        match says {
            Says::Exactly => {
                if !self.measured.load(Ordering::Relaxed) && sample.is_finite() {
                    self.measured.store(true, Ordering::Relaxed);
                }
                match bound {
                    Some(bound) => self.latency.sample_within(bound, sample, now, decay),
                    None => self.latency.sample(sample, now, decay, rule),
                }
            }
            Says::AtLeast => self.latency.raise(sample, now, decay, bound),
        }
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.cohorts.count()
    }

    pub(crate) fn ended(&self) -> Ended {
        Ended {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
        }
    }

    /// See [`Cohorts::oldest`].
    pub(crate) fn oldest_in_flight(&self) -> Option<Time> {
        self.cohorts.oldest()
    }

    /// The average latency in nanoseconds. `None` before the first sample.
    pub(crate) fn latency(&self, measuring: &Measuring) -> Option<f64> {
        let estimate = self.latency.estimate(measuring.decay);
        // It may have been raised by what is no answer.
        (self.measured.load(Ordering::Relaxed) && estimate.is_finite()).then_some(estimate)
    }

    /// Whether what was heard of it last was bad.
    #[inline]
    pub(crate) fn is_suspect(&self) -> bool {
        self.streak.was_bad()
    }

    /// Whether it may be on probation: nothing is known of its latency.
    #[inline]
    pub(crate) fn is_unknown(&self) -> bool {
        self.latency.score() == UNKNOWN
    }

    /// See [`Latency::score`].
    #[inline]
    pub(crate) fn score(&self) -> i64 {
        self.latency.score()
    }

    /// See [`Latency::last_score`].
    #[inline]
    pub(crate) fn last_score(&self) -> i64 {
        self.latency.last_score()
    }

    /// Its share beside the others as it is now. 1 where it is not known, which is so with load
    /// reports alone.
    #[inline]
    pub(crate) fn weight(&self) -> f64 {
        self.known_weight().unwrap_or(1.0)
    }

    /// The same. `None` where it is not known.
    #[inline]
    pub(crate) fn known_weight(&self) -> Option<f64> {
        let weight = f64::from_bits(self.weight.load(Ordering::Relaxed));
        (!weight.is_nan()).then(|| weight * self.warmth())
    }

    /// The part of its share that slow start leaves it.
    #[inline]
    pub(crate) fn warmth(&self) -> f64 {
        f64::from_bits(self.warmth.load(Ordering::Relaxed))
    }

    pub(crate) fn set_weight(&self, weight: Option<f64>, warmth: f64) {
        let weight = weight.unwrap_or(f64::NAN);
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
        self.warmth.store(warmth.to_bits(), Ordering::Relaxed);
    }
}

/// Whether a latency is so far from what is usual that it is news of the backend.
#[inline]
fn is_bad(nanoseconds: f64, usual: f64) -> bool {
    nanoseconds > 2.0 * usual
}

pub(crate) fn nanoseconds(duration: Duration) -> f64 {
    // Of 64 bits, where `as_nanos` has 128, which take a function to convert. What is longer than 584
    // years is not.
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) as f64
}
