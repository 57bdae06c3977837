//! Ejects backends that fail more often than the others, and lets them back in (gRFC A50).
//!
//! A [`sweep`] is what A50 does at every tick of its timer. Between sweeps, [`eject_failing`] does
//! what A50 leaves out of Envoy's: it ejects backends that fail many times in a row.

use super::outlier_detection::Config;
use crate::time::Time;

/// What is remembered of a backend from sweep to sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ejection {
    /// Since when it is ejected.
    pub ejected_at: Option<Time>,
    /// How many times as long as the first the last ejection is; falls with every sweep that finds
    /// the backend not ejected.
    pub multiplier: u32,
    /// How often it was ejected.
    pub times_ejected: u64,
}

impl Ejection {
    /// Whether it is not to be picked.
    pub fn is_ejected(&self) -> bool {
        self.ejected_at.is_some()
    }

    /// When the ejection is over. The first sweep later than that ends it.
    pub fn ejected_until(&self, config: &Config) -> Option<Time> {
        let longest = config.base_ejection_time.max(config.max_ejection_time);
        let ejected_for = config.base_ejection_time.saturating_mul(self.multiplier);
        Some(self.ejected_at? + ejected_for.min(longest))
    }

    fn eject(&mut self, now: Time) {
        self.ejected_at = Some(now);
        self.multiplier = self.multiplier.saturating_add(1);
        self.times_ejected += 1;
    }

    /// Lets it back in at once, and forgets how long its next ejection would be: detection is
    /// switched off (A50).
    pub(crate) fn clear(&mut self) {
        self.ejected_at = None;
        self.multiplier = 0;
    }

    /// The last step of A50's tick.
    fn age(&mut self, config: &Config, now: Time) {
        match self.ejected_until(config) {
            None => self.multiplier = self.multiplier.saturating_sub(1),
            Some(until) if now > until => self.ejected_at = None,
            Some(_) => {}
        }
    }
}

/// A backend as a sweep sees it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// Calls since the last sweep that succeeded.
    pub ok: u64,
    /// Calls since the last sweep that failed.
    pub failed: u64,
    /// What is remembered of it.
    pub ejection: &'a mut Ejection,
}

impl Subject<'_> {
    /// Whether so many calls were counted; one at least, since of none there is no rate.
    fn has_volume(&self, request_volume: u32) -> bool {
        self.calls() >= u128::from(request_volume.max(1))
    }

    fn calls(&self) -> u128 {
        u128::from(self.ok) + u128::from(self.failed)
    }

    fn success_rate(&self) -> f64 {
        self.ok as f64 / self.calls() as f64
    }

    fn fails_more_than(&self, percent: u32) -> bool {
        100 * u128::from(self.failed) > u128::from(percent) * self.calls()
    }
}

/// One tick of A50's timer, for all backends of a balancer: ejects, and ends what has lasted long
/// enough.
///
/// `draw` gives random numbers from 0 to 99, one for each outlier.
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
///     .map(|(ejection, ok)| Subject { ok, failed: 100 - ok, ejection })
///     .collect();
/// sweep(&config, &mut subjects, Time(0), || 0);
///
/// assert_eq!(ejections.map(|it| it.is_ejected()), [false, false, false, false, true]);
/// assert_eq!(ejections[4].ejected_until(&config), Some(Time(30_000_000_000)));
/// ```
pub fn sweep(config: &Config, subjects: &mut [Subject], now: Time, mut draw: impl FnMut() -> u32) {
    let mut quota = Quota::of(config, subjects.iter().map(|subject| &*subject.ejection));

    if let Some(rule) = &config.success_rate {
        let counted = |subject: &Subject| subject.has_volume(rule.request_volume);
        if subjects.iter().filter(|it| counted(it)).count() >= rule.minimum_hosts as usize {
            let rates = subjects.iter().filter(|it| counted(it));
            let (mean, stdev) = mean_and_stdev(rates.map(Subject::success_rate));
            let threshold = success_rate_threshold(mean, stdev, rule.stdev_factor);
            let outlier =
                |subject: &Subject| counted(subject) && subject.success_rate() < threshold;
            let enforced = || draw() < rule.enforcement_percentage;
            eject_outliers(subjects, &mut quota, now, outlier, enforced);
        }
    }

    if let Some(rule) = &config.failure_percentage {
        let counted = |subject: &Subject| subject.has_volume(rule.request_volume);
        if subjects.iter().filter(|it| counted(it)).count() >= rule.minimum_hosts as usize {
            let outlier =
                |subject: &Subject| counted(subject) && subject.fails_more_than(rule.threshold);
            let enforced = || draw() < rule.enforcement_percentage;
            eject_outliers(subjects, &mut quota, now, outlier, enforced);
        }
    }

    for subject in subjects {
        subject.ejection.age(config, now);
    }
}

/// The loop of both of A50's algorithms. A backend that is ejected already stays so.
fn eject_outliers(
    subjects: &mut [Subject],
    quota: &mut Quota,
    now: Time,
    outlier: impl Fn(&Subject) -> bool,
    mut enforced: impl FnMut() -> bool,
) {
    for subject in subjects {
        if quota.is_used_up() {
            break;
        }
        if !subject.ejection.is_ejected() && outlier(subject) && enforced() {
            quota.eject(subject.ejection, now);
        }
    }
}

/// A backend with what it has failed in a row.
#[derive(Debug)]
pub struct Streak<'a> {
    /// Calls that failed since the last one that succeeded, or since the last ejection ended.
    pub consecutive: u32,
    /// What is remembered of it.
    pub ejection: &'a mut Ejection,
}

/// Ejects backends that failed `consecutive_failures` times in a row, without waiting for the sweep,
/// as Envoy does; `max_ejection_percent` holds as in A50. All backends are to be given.
///
/// ```
/// use std::num::NonZeroU32;
/// use grpc_lb_core::health::outlier_detection::Config;
/// use grpc_lb_core::testing::{eject_failing, Ejection, Streak};
/// use grpc_lb_core::Time;
///
/// let config = Config { consecutive_failures: NonZeroU32::new(5), ..Config::default() };
/// let mut ejections = [Ejection::default(); 2];
/// let mut streaks: Vec<_> = ejections
///     .iter_mut()
///     .zip([4, 5])
///     .map(|(ejection, consecutive)| Streak { consecutive, ejection })
///     .collect();
/// eject_failing(&config, &mut streaks, Time(0));
///
/// assert_eq!(ejections.map(|it| it.is_ejected()), [false, true]);
/// ```
pub fn eject_failing(config: &Config, streaks: &mut [Streak], now: Time) {
    let Some(too_many) = config.consecutive_failures else {
        return;
    };
    let mut quota = Quota::of(config, streaks.iter().map(|streak| &*streak.ejection));
    for streak in streaks {
        if quota.is_used_up() {
            break;
        }
        if !streak.ejection.is_ejected() && streak.consecutive >= too_many.get() {
            quota.eject(streak.ejection, now);
        }
    }
}

/// How many may be ejected.
struct Quota {
    ejected: usize,
    all: usize,
    max_percent: u32,
}

impl Quota {
    fn of<'a>(config: &Config, ejections: impl ExactSizeIterator<Item = &'a Ejection>) -> Self {
        Quota {
            all: ejections.len(),
            ejected: ejections.filter(|ejection| ejection.is_ejected()).count(),
            max_percent: config.max_ejection_percent,
        }
    }

    /// A50's text, and not the comment at its field: a maximum of 0 ejects nobody.
    fn is_used_up(&self) -> bool {
        100 * self.ejected as u128 >= u128::from(self.max_percent) * self.all as u128
    }

    fn eject(&mut self, ejection: &mut Ejection, now: Time) {
        ejection.eject(now);
        self.ejected += 1;
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
    use crate::health::outlier_detection::{FailurePercentage, SuccessRate};

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
    fn one_more_than_the_maximum_may_be_ejected() {
        let all_fail = |max_ejection_percent, n| {
            let config = Config {
                max_ejection_percent,
                ..failure_percentage(FailurePercentage::default())
            };
            fresh(&config, &vec![(0, 50); n]).len()
        };
        assert_eq!(all_fail(0, 10), 0);
        assert_eq!(all_fail(10, 10), 1);
        assert_eq!(all_fail(11, 10), 2);
        assert_eq!(all_fail(50, 5), 3);
        assert_eq!(all_fail(100, 5), 5);
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
                multiplier: 1,
                times_ejected: 1,
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
            consecutive_failures: NonZeroU32::new(3),
            ..Config::default()
        };
        let mut ejections = [Ejection::default(); 5];
        let mut eject = |config: &Config, consecutive: [u32; 5], now| {
            let pairs = ejections.iter_mut().zip(consecutive);
            let mut streaks: Vec<_> = pairs
                .map(|(ejection, consecutive)| Streak {
                    consecutive,
                    ejection,
                })
                .collect();
            eject_failing(config, &mut streaks, now);
            (ejected(&ejections), ejections[0])
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
            threshold in 0..=100u32,
            stdev_factor in 0..3_000u32,
            enforcement_percentage in 0..=100u32,
            seed in any::<u64>(),
            sweeps in prop::collection::vec(
                prop::collection::vec((0..40u64, 0..40u64), 12), 1..12),
        ) {
            let config = Config {
                max_ejection_percent,
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
                    prop_assert!(!newly || 100 * but_one < max_ejection_percent as usize * 12);
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
