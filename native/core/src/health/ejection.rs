//! Ejects backends that fail more often than the others, and lets them back in (gRFC A50).
//!
//! A [`sweep`] is what A50 does at every tick of its timer. Between sweeps, [`eject_failing`] does
//! what A50 leaves out of Envoy's: it ejects backends that fail many times in a row, and those that
//! cannot be reached, for a time of their own.

use std::time::Duration;

use super::outlier_detection::{Config, Recovery};
use crate::time::Time;

/// Which detection has ejected a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It succeeded much less often than the others.
    SuccessRate,
    /// It failed too often.
    FailurePercentage,
    /// It failed too many times in a row.
    ConsecutiveFailures,
    /// It could not be reached too many times in a row.
    ConsecutiveTransportFailures,
}

/// Why a backend was ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cause {
    /// By which detection.
    pub rule: Rule,
    /// The calls that the detection looked at: those of an interval, or those in a row.
    pub successes: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// What was not to be passed: the success rate, from 0 to 1; the percentage of failures; how many
    /// failures in a row.
    pub limit: f64,
}

/// What is remembered of a backend from sweep to sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// Since when it is ejected, for how its calls end.
    pub ejected_at: Option<Time>,
    /// By which rule it was, the last time.
    pub by: Option<Rule>,
    /// How many times as long as the first the last such ejection is; falls with every sweep that
    /// finds the backend not ejected, or with those that see calls succeed.
    pub multiplier: u32,
    /// The ejection for calls that do not reach it. Each of the two begins and ends by itself.
    pub unreachable: Unreachable,
    /// How often it was ejected, for the one or the other.
    pub times_ejected: u64,
}

impl Ejection {
    /// Whether it is not to be picked.
    pub fn is_ejected(&self) -> bool {
        self.ejected_at.is_some() || self.unreachable.until.is_some()
    }

    /// By which rule it is ejected; for how its calls end, where it is for both.
    pub fn ejected_by(&self) -> Option<Rule> {
        match self.ejected_at {
            Some(_) => self.by,
            None => {
                let unreachable = self.unreachable.until;
                unreachable.map(|_| Rule::ConsecutiveTransportFailures)
            }
        }
    }

    /// When the later of both ejections is over. That for how calls end goes on up to the first sweep
    /// later than that.
    pub fn ejected_until(&self, config: &Config) -> Option<Time> {
        self.outlier_until(config).max(self.unreachable.until)
    }

    /// When the ejection by this rule is over.
    pub(crate) fn lasts_until(&self, rule: Rule, config: &Config) -> Option<Time> {
        match rule {
            Rule::ConsecutiveTransportFailures => self.unreachable.until,
            _ => self.outlier_until(config),
        }
    }

    /// Since when it has been ejected, for the one or the other.
    pub(crate) fn since(&self) -> Time {
        let unreachable = self.unreachable.until.map(|_| self.unreachable.since);
        let times = self.ejected_at.into_iter().chain(unreachable);
        times.min().unwrap_or_default()
    }

    fn outlier_until(&self, config: &Config) -> Option<Time> {
        let longest = config.base_ejection_time.max(config.max_ejection_time);
        let ejected_for = config.base_ejection_time.saturating_mul(self.multiplier);
        Some(self.ejected_at? + ejected_for.min(longest))
    }

    fn eject(&mut self, rule: Rule, now: Time) {
        self.ejected_at = Some(now);
        self.by = Some(rule);
        self.multiplier = self.multiplier.saturating_add(1);
        self.times_ejected += 1;
    }

    /// Lets it back in at once, and forgets how long its next ejection would be: detection is
    /// switched off (A50).
    pub(crate) fn clear(&mut self) {
        *self = Ejection {
            times_ejected: self.times_ejected,
            ..Ejection::default()
        };
    }

    /// The last step of A50's tick. `ok` calls have succeeded since the one before.
    fn age(&mut self, config: &Config, ok: u64, now: Time) {
        match self.outlier_until(config) {
            None if config.backoff_recovery == Recovery::Success && ok == 0 => {}
            None => self.multiplier = self.multiplier.saturating_sub(1),
            Some(until) if now > until => self.ejected_at = None,
            Some(_) => {}
        }
    }
}

/// The ejection of a backend to which calls fail on the way. How long it lasts follows gRPC's
/// connection backoff, without its jitter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unreachable {
    /// When it is over.
    pub until: Option<Time>,
    /// When it began.
    since: Time,
    /// How many there were since a call has succeeded.
    times: u32,
    /// How many calls had succeeded when the last one ended.
    ok: u64,
}

impl Unreachable {
    const FIRST: Duration = Duration::from_secs(1);
    const GROWTH: f64 = 1.6;
    const LONGEST: Duration = Duration::from_secs(120);

    /// `ok` calls have ever succeeded.
    fn eject(&mut self, ok: u64, now: Time) {
        if ok > self.ok {
            self.times = 0;
        }
        // 1.6^11 seconds are more than the longest.
        let grown = Self::FIRST.mul_f64(Self::GROWTH.powi(self.times.min(11) as i32));
        self.until = Some(now + grown.min(Self::LONGEST));
        self.since = now;
        self.times = self.times.saturating_add(1);
    }

    /// Ends it if it is over, and says whether it was.
    fn end(&mut self, ok: u64, now: Time) -> bool {
        let ends = self.until.is_some_and(|until| until <= now);
        if ends {
            self.until = None;
            self.ok = ok;
        }
        ends
    }
}

/// A backend as a sweep sees it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Calls since the last sweep that succeeded.
    pub ok: u64,
    /// Calls since the last sweep that failed.
    pub failed: u64,
    /// Whether it could be picked, were it not for an ejection.
    pub ready: bool,
    /// What is remembered of it.
    pub ejection: &'a mut Ejection,
}

impl Subject<'_> {
    /// Whether it counts, and so many of its calls; one at least, since of none there is no rate.
    fn is_counted(&self, config: &Config, request_volume: u32) -> bool {
        counts(config, self.ready) && self.calls() >= u128::from(request_volume.max(1))
    }

    fn calls(&self) -> u128 {
        u128::from(self.ok) + u128::from(self.failed)
    }

    fn success_rate(&self) -> f64 {
        self.ok as f64 / self.calls() as f64
    }

    fn fails_more_than(&self, percent: u32, strict: bool) -> bool {
        match percent {
            100.. if strict => self.ok == 0,
            _ => 100 * u128::from(self.failed) > u128::from(percent) * self.calls(),
        }
    }
}

/// Whether a backend counts, and may be ejected.
fn counts(config: &Config, ready: bool) -> bool {
    ready || !config.strict
}

/// One tick of A50's timer, for all backends of a balancer: ejects, and ends what has lasted long
/// enough.
///
/// `draw` gives random numbers from 0 to 99, one for each outlier. Says which of the subjects it has
/// ejected, by their indices, and why.
///
/// ```
/// use grpc_lb_core::health::outlier_detection::{Config, SuccessRate};
/// use grpc_lb_core::testing::{sweep, Ejection, Subject};
/// use grpc_lb_core::Time;
///
/// let config = Config { success_rate: Some(SuccessRate::default()), ..Config::default() };
/// let mut ejections = [Ejection::default(); 5];
/// let mut subjects: Vec<_> = ejections
///     .iter_mut()
///     .zip([100, 98, 97, 99, 40])
///     .map(|(ejection, ok)| Subject { ok, failed: 100 - ok, ready: true, ejection })
///     .collect();
/// sweep(&config, &mut subjects, Time(0), || 0);
///
/// assert_eq!(ejections.map(|it| it.is_ejected()), [false, false, false, false, true]);
/// assert_eq!(ejections[4].ejected_until(&config), Some(Time(30_000_000_000)));
/// ```
pub fn sweep(
    config: &Config,
    subjects: &mut [Subject],
    now: Time,
    mut draw: impl FnMut() -> u32,
) -> Vec<(usize, Cause)> {
    let mut ejected = Vec::new();
    let all = subjects.iter().map(|it| (it.ready, &*it.ejection));
    let mut quota = Quota::of(config, all);

    if let Some(rule) = &config.success_rate {
        let counted = |subject: &Subject| subject.is_counted(config, rule.request_volume);
        if subjects.iter().filter(|it| counted(it)).count() >= rule.minimum_hosts as usize {
            let rates = subjects.iter().filter(|it| counted(it));
            let (mean, stdev) = mean_and_stdev(rates.map(Subject::success_rate));
            let threshold = success_rate_threshold(mean, stdev, rule.stdev_factor);
            let outlier =
                |subject: &Subject| counted(subject) && subject.success_rate() < threshold;
            let enforced = || draw() < rule.enforcement_percentage;
            let by = (Rule::SuccessRate, threshold);
            ejected.extend(eject_outliers(
                subjects, &mut quota, now, by, outlier, enforced,
            ));
        }
    }

    if let Some(rule) = &config.failure_percentage {
        let counted = |subject: &Subject| subject.is_counted(config, rule.request_volume);
        if subjects.iter().filter(|it| counted(it)).count() >= rule.minimum_hosts as usize {
            let outlier = |subject: &Subject| {
                counted(subject) && subject.fails_more_than(rule.threshold, config.strict)
            };
            let enforced = || draw() < rule.enforcement_percentage;
            let by = (Rule::FailurePercentage, f64::from(rule.threshold));
            ejected.extend(eject_outliers(
                subjects, &mut quota, now, by, outlier, enforced,
            ));
        }
    }

    for subject in subjects {
        subject.ejection.age(config, subject.ok, now);
    }
    ejected
}

/// The loop of both of A50's algorithms. A backend that is ejected already stays so.
fn eject_outliers(
    subjects: &mut [Subject],
    quota: &mut Quota,
    now: Time,
    (rule, limit): (Rule, f64),
    outlier: impl Fn(&Subject) -> bool,
    mut enforced: impl FnMut() -> bool,
) -> Vec<(usize, Cause)> {
    let mut ejected = Vec::new();
    for (index, subject) in subjects.iter_mut().enumerate() {
        if quota.is_used_up() {
            break;
        }
        if subject.ejection.ejected_at.is_none() && outlier(subject) && enforced() {
            quota.take(subject.ejection);
            subject.ejection.eject(rule, now);
            let cause = Cause {
                rule,
                successes: subject.ok,
                failures: subject.failed,
                limit,
            };
            ejected.push((index, cause));
        }
    }
    ejected
}

/// A backend with what it has failed in a row.
#[derive(Debug)]
pub struct Streak<'a> {
    /// Calls that failed since the last one that succeeded, or since the last ejection ended; more, if
    /// there were too many since the last look.
    pub failures: u32,
    /// Those of them that failed on the way.
    pub transport_failures: u32,
    /// Calls that ever succeeded.
    pub ok: u64,
    /// Whether it could be picked, were it not for an ejection.
    pub ready: bool,
    /// What is remembered of it.
    pub ejection: &'a mut Ejection,
}

impl Streak<'_> {
    /// Whether it fails so often that it would be ejected if more others could be picked.
    pub fn is_held_back(&self, config: &Config) -> bool {
        let failures = config.consecutive_failures.map(|rule| rule.failures);
        let transport_failures = config.consecutive_transport_failures;
        let fails = failures.is_some_and(|limit| self.failures >= limit.get())
            || transport_failures.is_some_and(|limit| self.transport_failures >= limit.get());
        fails && self.ready && !self.ejection.is_ejected()
    }
}

/// Ejects backends that failed `consecutive_failures` times in a row, without waiting for the sweep,
/// as Envoy does; `max_ejection_percent` holds as in a sweep. So it does with
/// `consecutive_transport_failures`, and ends such ejections that are over. All backends are to be
/// given. Says which of them it has ejected, by their indices, and why.
///
/// ```
/// use std::num::NonZeroU32;
/// use grpc_lb_core::health::outlier_detection::{Config, ConsecutiveFailures};
/// use grpc_lb_core::testing::{eject_failing, Ejection, Streak};
/// use grpc_lb_core::Time;
///
/// let config = Config {
///     consecutive_failures: NonZeroU32::new(5).map(ConsecutiveFailures::of),
///     consecutive_transport_failures: NonZeroU32::new(1),
///     max_ejection_percent: 70,
///     ..Config::default()
/// };
/// let mut ejections = [Ejection::default(); 3];
/// let mut streaks: Vec<_> = ejections
///     .iter_mut()
///     .zip([(4, 0), (5, 0), (1, 1)])
///     .map(|(ejection, (failures, transport_failures))| Streak {
///         failures, transport_failures, ok: 0, ready: true, ejection,
///     })
///     .collect();
/// eject_failing(&config, &mut streaks, Time(0));
///
/// let until = ejections.map(|it| it.ejected_until(&config));
/// assert_eq!(until, [None, Some(Time(30_000_000_000)), Some(Time(1_000_000_000))]);
/// ```
pub fn eject_failing(config: &Config, streaks: &mut [Streak], now: Time) -> Vec<(usize, Cause)> {
    let mut ejected = Vec::new();
    for streak in streaks.iter_mut() {
        if streak.ejection.unreachable.end(streak.ok, now) {
            // Those that have failed meanwhile were under way before.
            streak.transport_failures = 0;
        }
    }
    let all = streaks.iter().map(|it| (it.ready, &*it.ejection));
    let mut quota = Quota::of(config, all);
    if let Some(too_many) = config.consecutive_transport_failures {
        for (index, streak) in streaks.iter_mut().enumerate() {
            let fails = streak.transport_failures >= too_many.get();
            let is_ejected = streak.ejection.unreachable.until.is_some();
            if fails && !is_ejected && counts(config, streak.ready) && !quota.is_used_up() {
                quota.take(streak.ejection);
                streak.ejection.unreachable.eject(streak.ok, now);
                streak.ejection.times_ejected += 1;
                let cause = Cause {
                    rule: Rule::ConsecutiveTransportFailures,
                    successes: 0,
                    failures: streak.transport_failures.into(),
                    limit: too_many.get().into(),
                };
                ejected.push((index, cause));
            }
        }
    }
    if let Some(rule) = config.consecutive_failures {
        if quota.all < rule.minimum_hosts as usize {
            return ejected;
        }
        for (index, streak) in streaks.iter_mut().enumerate() {
            let fails = streak.failures >= rule.failures.get();
            let is_ejected = streak.ejection.ejected_at.is_some();
            if fails && !is_ejected && counts(config, streak.ready) && !quota.is_used_up() {
                quota.take(streak.ejection);
                streak.ejection.eject(Rule::ConsecutiveFailures, now);
                let cause = Cause {
                    rule: Rule::ConsecutiveFailures,
                    successes: 0,
                    failures: streak.failures.into(),
                    limit: rule.failures.get().into(),
                };
                ejected.push((index, cause));
            }
        }
    }
    ejected
}

/// How many may be ejected.
struct Quota {
    ejected: usize,
    all: usize,
    max_percent: u32,
    strict: bool,
}

impl Quota {
    /// Of backends that are ready or not.
    fn of<'a>(config: &Config, backends: impl Iterator<Item = (bool, &'a Ejection)>) -> Self {
        let mut quota = Quota {
            all: 0,
            ejected: 0,
            max_percent: config.max_ejection_percent,
            strict: config.strict,
        };
        for (_, ejection) in backends.filter(|(ready, _)| counts(config, *ready)) {
            quota.all += 1;
            quota.ejected += usize::from(ejection.is_ejected());
        }
        quota
    }

    /// A50's text, and not the comment at its field: a maximum of 0 ejects nobody. Strictly, what
    /// A50 asks before an ejection holds after it, but for the first, as Envoy has it; and the last
    /// that is not ejected stays.
    fn is_used_up(&self) -> bool {
        let max = u128::from(self.max_percent) * self.all as u128;
        if !self.strict {
            return 100 * self.ejected as u128 >= max;
        }
        let next = self.ejected + 1;
        next >= self.all || max == 0 || next > 1 && 100 * next as u128 > max
    }

    /// To be asked for before the backend is ejected.
    fn take(&mut self, ejection: &Ejection) {
        self.ejected += usize::from(!ejection.is_ejected());
    }
}

/// The mean and the standard deviation of a whole population, as A50 takes them; 0 of none.
///
/// ```
/// use grpc_lb_core::testing::mean_and_stdev;
///
/// assert_eq!(mean_and_stdev([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0].into_iter()), (5.0, 2.0));
/// ```
pub fn mean_and_stdev(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let n = values.clone().count().max(1) as f64;
    // From the first on: so the mean of equal values is exactly that, and none is below it.
    let first = values.clone().next().unwrap_or(0.0);
    let mean = first + values.clone().map(|value| value - first).sum::<f64>() / n;
    let variance = values.map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// The success rate below which a backend is an outlier; `stdev_factor` is in thousandths.
pub fn success_rate_threshold(mean: f64, stdev: f64, stdev_factor: u32) -> f64 {
    mean - stdev * (f64::from(stdev_factor) / 1_000.0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::health::outlier_detection::{ConsecutiveFailures, FailurePercentage, SuccessRate};

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Time {
        Time(seconds * SECOND)
    }

    fn ejected(ejections: &[Ejection]) -> Vec<usize> {
        let all = ejections.iter().enumerate();
        all.filter(|(_, it)| it.is_ejected())
            .map(|(i, _)| i)
            .collect()
    }

    fn sweep_with(
        config: &Config,
        ejections: &mut [Ejection],
        calls: &[(u64, u64)],
        now: Time,
        draw: impl FnMut() -> u32,
    ) -> Vec<usize> {
        let pairs = ejections.iter_mut().zip(calls);
        let mut subjects: Vec<_> = pairs
            .map(|(ejection, &(ok, failed))| Subject {
                ok,
                failed,
                ready: true,
                ejection,
            })
            .collect();
        sweep(config, &mut subjects, now, draw);
        ejected(ejections)
    }

    /// Sweeps over backends that were never ejected.
    fn fresh(config: &Config, calls: &[(u64, u64)]) -> Vec<usize> {
        let mut ejections = vec![Ejection::default(); calls.len()];
        sweep_with(config, &mut ejections, calls, at(1), || 0)
    }

    fn failure_percentage(rule: FailurePercentage) -> Config {
        Config {
            max_ejection_percent: 100,
            failure_percentage: Some(rule),
            ..Config::default()
        }
    }

    #[test]
    fn without_an_algorithm_nobody_is_ejected() {
        assert_eq!(fresh(&Config::default(), &[(0, 1_000); 10]), []);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn equal_rates_have_no_outlier_whatever_the_rounding() {
        for stdev_factor in [0, 1, 999] {
            let config = Config {
                success_rate: Some(SuccessRate {
                    stdev_factor,
                    ..SuccessRate::default()
                }),
                ..Config::default()
            };
            for failed in 0..=1_000 {
                for n in 5..9 {
                    assert_eq!(fresh(&config, &vec![(1_000 - failed, failed); n]), []);
                }
            }
        }
    }

    #[test]
    fn the_threshold_itself_is_no_outlier() {
        let config = failure_percentage(FailurePercentage::default());
        let calls = [(15, 85), (14, 86), (100, 0), (100, 0), (0, 49), (100, 0)];
        assert_eq!(fresh(&config, &calls), [1]);

        // mean 0.5, standard deviation 0.5
        let config = Config {
            success_rate: Some(SuccessRate {
                stdev_factor: 1_000,
                minimum_hosts: 2,
                ..SuccessRate::default()
            }),
            ..Config::default()
        };
        assert_eq!(fresh(&config, &[(100, 0), (0, 100)]), []);
    }

    #[test]
    fn without_calls_there_is_no_rate() {
        let config = Config {
            success_rate: Some(SuccessRate {
                request_volume: 0,
                ..SuccessRate::default()
            }),
            ..failure_percentage(FailurePercentage {
                request_volume: 0,
                minimum_hosts: 0,
                threshold: 0,
                ..FailurePercentage::default()
            })
        };
        assert_eq!(fresh(&config, &[(0, 0); 6]), []);
        assert_eq!(fresh(&config, &[]), []);

        // Nor does who has none spoil the mean of the others.
        let config = Config {
            failure_percentage: None,
            ..config
        };
        let calls = [(0, 0), (9, 0), (9, 0), (9, 0), (9, 0), (0, 9)];
        assert_eq!(fresh(&config, &calls), [5]);
    }

    #[test]
    fn counts_do_not_overflow() {
        let config = failure_percentage(FailurePercentage {
            minimum_hosts: 0,
            ..FailurePercentage::default()
        });
        assert_eq!(fresh(&config, &[(u64::MAX, 0), (0, u64::MAX), (0, 0)]), [1]);
    }

    #[test]
    fn a_draw_below_the_enforcement_ejects() {
        let config = failure_percentage(FailurePercentage {
            enforcement_percentage: 30,
            ..FailurePercentage::default()
        });
        let mut draws = [29, 30, 99, 0, 31].into_iter();
        let mut ejections = [Ejection::default(); 6];
        let calls = [(0, 50), (0, 50), (50, 0), (0, 50), (0, 50), (0, 50)];
        let draw = || draws.next().expect("one for each outlier");
        assert_eq!(
            sweep_with(&config, &mut ejections, &calls, at(1), draw),
            [0, 4]
        );
    }

    #[test]
    fn one_more_than_the_maximum_may_be_ejected_to_the_letter_and_the_first_strictly() {
        let all_fail = |strict, max_ejection_percent, n| {
            let config = Config {
                max_ejection_percent,
                strict,
                ..failure_percentage(FailurePercentage {
                    minimum_hosts: 1,
                    ..FailurePercentage::default()
                })
            };
            fresh(&config, &vec![(0, 50); n]).len()
        };
        let cases = [
            // percent, of, to the letter, strictly
            (0, 10, 0, 0),
            (1, 10, 1, 1),
            (10, 10, 1, 1),
            (11, 10, 2, 1),
            (20, 10, 2, 2),
            (50, 5, 3, 2),
            (67, 3, 3, 2),
            (95, 10, 10, 9),
            (100, 5, 5, 4),
            (100, 2, 2, 1),
            (100, 1, 1, 0),
        ];
        for (percent, n, letter, strict) in cases {
            assert_eq!(all_fail(false, percent, n), letter, "{percent} % of {n}");
            assert_eq!(
                all_fail(true, percent, n),
                strict,
                "{percent} % of {n}, strict"
            );
        }
    }

    #[test]
    fn who_cannot_be_picked_does_not_count_and_is_not_ejected() {
        let eject = |strict, ready: [bool; 6]| {
            let config = Config {
                max_ejection_percent: 34,
                strict,
                ..failure_percentage(FailurePercentage {
                    minimum_hosts: 3,
                    ..FailurePercentage::default()
                })
            };
            let mut ejections = [Ejection::default(); 6];
            let pairs = ejections.iter_mut().zip(ready);
            let mut subjects: Vec<_> = pairs
                .map(|(ejection, ready)| Subject {
                    ok: 0,
                    failed: 50,
                    ready,
                    ejection,
                })
                .collect();
            sweep(&config, &mut subjects, at(1), || 0);
            ejected(&ejections)
        };
        assert_eq!(eject(true, [true; 6]), [0, 1]);
        assert_eq!(eject(true, [false, true, true, false, false, true]), [1]);
        assert_eq!(eject(true, [false, true, true, false, false, false]), []);
        assert_eq!(eject(false, [false; 6]), [0, 1, 2]);
    }

    #[test]
    fn a_threshold_of_100_means_all() {
        let eject = |strict| {
            let config = Config {
                strict,
                ..failure_percentage(FailurePercentage {
                    threshold: 100,
                    ..FailurePercentage::default()
                })
            };
            fresh(&config, &[(0, 50), (1, 99), (50, 0), (50, 0), (50, 0)])
        };
        assert_eq!(eject(true), [0]);
        assert_eq!(eject(false), []);
    }

    #[test]
    fn the_next_ejection_is_shorter_by_time_or_by_success() {
        let multipliers = |backoff_recovery| {
            let config = Config {
                backoff_recovery,
                ..Config::default()
            };
            let mut ejections = [Ejection {
                multiplier: 3,
                ..Ejection::default()
            }];
            [(0, 0), (0, 9), (1, 9), (0, 0), (5, 0)].map(|calls| {
                sweep_with(&config, &mut ejections, &[calls], at(1), || 0);
                ejections[0].multiplier
            })
        };
        assert_eq!(multipliers(Recovery::Time), [2, 1, 0, 0, 0]);
        assert_eq!(multipliers(Recovery::Success), [3, 3, 2, 2, 1]);
    }

    /// What has failed in a row, and on the way; and what ever succeeded.
    fn eject_with(
        config: &Config,
        ejections: &mut [Ejection],
        streaks: &[(u32, u32, u64)],
        now: Time,
    ) -> Vec<usize> {
        let pairs = ejections.iter_mut().zip(streaks);
        let mut streaks: Vec<_> = pairs
            .map(|(ejection, &(failures, transport_failures, ok))| Streak {
                failures,
                transport_failures,
                ok,
                ready: true,
                ejection,
            })
            .collect();
        eject_failing(config, &mut streaks, now);
        ejected(ejections)
    }

    #[test]
    fn with_few_backends_none_is_ejected_for_failures_in_a_row() {
        let ejected_of = |n, minimum_hosts| {
            let config = Config {
                consecutive_failures: Some(ConsecutiveFailures {
                    failures: NonZeroU32::MIN,
                    minimum_hosts,
                }),
                ..Config::default()
            };
            let mut ejections = vec![Ejection::default(); n];
            eject_with(&config, &mut ejections, &vec![(1, 0, 0); n], at(1)).len()
        };
        assert_eq!(
            [(1, 0), (2, 2), (2, 3), (3, 3)].map(|(n, hosts)| ejected_of(n, hosts)),
            [0, 1, 0, 1]
        );
    }

    #[test]
    fn the_unreachable_are_out_for_ever_longer_until_a_call_succeeds() {
        let config = Config {
            consecutive_transport_failures: NonZeroU32::new(1),
            ..Config::default()
        };
        let mut ejections = [Ejection::default(); 2];
        let mut now = Time(0);
        let mut lengths = |ejections: &mut [Ejection], ok, n| -> Vec<f64> {
            (0..n)
                .map(|_| {
                    let fails = [(1, 1, ok), (0, 0, 9)];
                    eject_with(&config, ejections, &fails, now);
                    let until = ejections[0].unreachable.until.expect("it is out");
                    let length = until.since(now);
                    // Those that come late do not count, and it ends at its time.
                    eject_with(&config, ejections, &fails, Time(until.0 - 1));
                    assert_eq!(ejections[0].unreachable.until, Some(until));
                    eject_with(&config, ejections, &fails, until);
                    assert!(!ejections[0].is_ejected());
                    now = until;
                    length.as_secs_f64()
                })
                .collect()
        };
        let first = lengths(&mut ejections, 4, 13);
        for (n, length) in first.iter().enumerate() {
            let expected = 1.6_f64.powi(n as i32).min(120.0);
            assert!((length - expected).abs() < 1e-6, "{n}: {length}");
        }
        assert_eq!(lengths(&mut ejections, 5, 2), [1.0, 1.6]);
        assert_eq!(
            (ejections[0].times_ejected, ejections[0].multiplier),
            (15, 0)
        );
    }

    #[test]
    fn the_two_ejections_begin_and_end_by_themselves() {
        let config = Config {
            max_ejection_percent: 100,
            consecutive_failures: NonZeroU32::new(3).map(ConsecutiveFailures::of),
            consecutive_transport_failures: NonZeroU32::new(1),
            ..Config::default()
        };
        let mut ejections = [Ejection::default(); 3];
        let streaks = [(2, 1, 0), (3, 0, 0), (0, 0, 0)];
        assert_eq!(eject_with(&config, &mut ejections, &streaks, at(1)), [0, 1]);
        assert_eq!(
            ejections.map(|it| it.ejected_until(&config)),
            [Some(at(2)), Some(at(31)), None]
        );
        // The last that can be picked stays, whatever it fails.
        let streaks = [(3, 1, 0), (3, 1, 0), (9, 9, 0)];
        assert_eq!(
            eject_with(&config, &mut ejections, &streaks, Time(at(1).0 + 1)),
            [0, 1]
        );
        let streaks = [(3, 1, 0), (0, 0, 0), (0, 0, 0)];
        assert_eq!(eject_with(&config, &mut ejections, &streaks, at(2)), [0, 1]);
        assert_eq!(ejections[0].ejected_until(&config), Some(at(32)));
        assert_eq!(ejections[0].times_ejected, 2);
        ejections[0].clear();
        assert_eq!(
            (
                ejections[0].ejected_until(&config),
                ejections[0].times_ejected
            ),
            (None, 2)
        );
    }

    #[test]
    fn ejected_is_ejected_once_however_many_rules_say_so() {
        let config = Config {
            success_rate: Some(SuccessRate::default()),
            ..failure_percentage(FailurePercentage::default())
        };
        let calls = [(0, 100), (100, 0), (100, 0), (100, 0), (100, 0)];
        let mut ejections = [Ejection::default(); 5];
        for now in [10, 20, 30] {
            assert_eq!(
                sweep_with(&config, &mut ejections, &calls, at(now), || 0),
                [0]
            );
            let expected = Ejection {
                ejected_at: Some(at(10)),
                by: Some(Rule::SuccessRate),
                multiplier: 1,
                times_ejected: 1,
                ..Ejection::default()
            };
            assert_eq!(ejections[0], expected);
        }
    }

    #[test]
    fn an_ejection_ends_strictly_later_and_the_next_is_longer() {
        let config = failure_percentage(FailurePercentage::default());
        let (bad, idle) = ([(0, 50), (50, 0), (50, 0), (50, 0), (50, 0)], [(0, 0); 5]);
        let mut ejections = [Ejection::default(); 5];
        let mut sweep = |calls: &[_], now| {
            sweep_with(&config, &mut ejections, calls, now, || 0);
            ejections[0]
        };

        let first = sweep(&bad, at(10));
        assert_eq!(first.ejected_until(&config), Some(at(40)));
        assert!(sweep(&idle, at(40)).is_ejected());
        assert!(!sweep(&idle, Time(at(40).0 + 1)).is_ejected());

        let second = sweep(&bad, at(50));
        assert_eq!(second.ejected_until(&config), Some(at(110)));
        assert_eq!((second.multiplier, second.times_ejected), (2, 2));
        assert!(!sweep(&idle, at(120)).is_ejected());

        assert_eq!(sweep(&idle, at(130)).multiplier, 1);
        assert_eq!(sweep(&idle, at(140)).multiplier, 0);
        assert_eq!(sweep(&idle, at(150)).multiplier, 0);
        assert_eq!(sweep(&bad, at(160)).ejected_until(&config), Some(at(190)));
    }

    #[test]
    fn no_ejection_is_longer_than_the_maximum_or_the_base() {
        let until = |base, max, multiplier| {
            let config = Config {
                base_ejection_time: Duration::from_secs(base),
                max_ejection_time: Duration::from_secs(max),
                ..Config::default()
            };
            let ejection = Ejection {
                ejected_at: Some(at(1)),
                multiplier,
                times_ejected: 1,
                ..Ejection::default()
            };
            ejection.ejected_until(&config)
        };
        assert_eq!(until(30, 300, 9), Some(at(271)));
        assert_eq!(until(30, 300, 11), Some(at(301)));
        assert_eq!(until(400, 300, 2), Some(at(401)));
        assert_eq!(until(u64::MAX, u64::MAX, u32::MAX), Some(Time(u64::MAX)));
    }

    #[test]
    fn many_failures_in_a_row_eject_up_to_the_maximum() {
        let config = Config {
            max_ejection_percent: 40,
            consecutive_failures: NonZeroU32::new(3).map(ConsecutiveFailures::of),
            ..Config::default()
        };
        let mut ejections = [Ejection::default(); 5];
        let mut eject = |config: &Config, consecutive: [u32; 5], now| {
            let streaks = consecutive.map(|failures| (failures, failures, 0));
            let all = eject_with(config, &mut ejections, &streaks, now);
            (all, ejections[0])
        };
        let off = Config::default();
        assert_eq!(eject(&off, [9; 5], at(1)).0, []);
        assert_eq!(eject(&config, [3, 2, 0, 2, 2], at(2)).0, [0]);
        let (all, first) = eject(&config, [4, 4, 4, 4, 4], at(3));
        assert_eq!(all, [0, 1]);
        assert_eq!((first.ejected_at, first.times_ejected), (Some(at(2)), 1));
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "too many steps")]
        fn no_sweep_goes_beyond_the_maximum_by_more_than_one(
            max_ejection_percent in 0..=100u32,
            strict in any::<bool>(),
            threshold in 0..=100u32,
            stdev_factor in 0..3_000u32,
            enforcement_percentage in 0..=100u32,
            seed in any::<u64>(),
            sweeps in prop::collection::vec(
                prop::collection::vec((0..40u64, 0..40u64), 12), 1..12),
        ) {
            let config = Config {
                max_ejection_percent,
                strict,
                success_rate: Some(SuccessRate {
                    stdev_factor, enforcement_percentage, minimum_hosts: 3, request_volume: 10,
                }),
                failure_percentage: Some(FailurePercentage {
                    threshold, enforcement_percentage, minimum_hosts: 3, request_volume: 10,
                }),
                ..Config::default()
            };
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ejections = [Ejection::default(); 12];
            for (tick, calls) in sweeps.iter().enumerate() {
                let now = at(10 * tick as u64);
                let before = ejections;
                let after =
                    sweep_with(&config, &mut ejections, calls, now, || random.u32(0..100));

                // The last of them was ejected while there were fewer than the maximum.
                if let Some(but_one) = after.len().checked_sub(1) {
                    let newly = after.iter().any(|i| !before[*i].is_ejected());
                    let max = max_ejection_percent as usize * 12;
                    prop_assert!(!newly || 100 * but_one < max);
                    let strictly = but_one == 0 || 100 * after.len() <= max;
                    prop_assert!(!newly || !strict || strictly && after.len() < 12);
                }
                for (i, (was, is)) in before.iter().zip(&ejections).enumerate() {
                    let (ok, failed) = calls[i];
                    match (was.ejected_at, is.ejected_at) {
                        (None, Some(when)) => {
                            prop_assert!(ok + failed >= 10 && failed > 0 && when == now);
                            prop_assert_eq!(is.multiplier, was.multiplier + 1);
                        }
                        (None, None) => {
                            prop_assert_eq!(is.multiplier, was.multiplier.saturating_sub(1));
                        }
                        (Some(_), None) => {
                            prop_assert!(was.ejected_until(&config).unwrap() < now);
                        }
                        (Some(_), Some(_)) => {
                            prop_assert!(was == is && was.ejected_until(&config).unwrap() >= now);
                        }
                    }
                }
            }
        }

        #[test]
        fn mean_and_deviation_stay_within_the_values(
            values in prop::collection::vec(0.0..=1.0, 1..50)
        ) {
            let (mean, stdev) = mean_and_stdev(values.iter().copied());
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            prop_assert!(least - 1e-12 <= mean && mean <= most + 1e-12);
            prop_assert!(0.0 <= stdev && stdev <= (most - least) / 2.0 + 1e-12);
        }
    }
}
