//! Weight of a backend as its load reports give it (gRFC A58, with A114's metric names).

use std::time::Duration;

use super::orca::Report;
use super::reported_weight::{Config, Metric};
use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// How much a backend is used (A114): the largest of these metrics if any is positive, else what
/// the application says if that is, else the share of the processors.
///
/// ```
/// use grpc_lb_core::load::orca::Report;
/// use grpc_lb_core::load::reported_weight::Metric;
/// use grpc_lb_core::testing::utilization;
///
/// let report = Report { cpu_utilization: 0.6, mem_utilization: 0.2, ..Report::default() };
/// assert_eq!(utilization(&report, &[]), 0.6);
/// assert_eq!(utilization(&report, &[Metric::Memory]), 0.2);
/// ```
pub fn utilization(report: &Report, metrics: &[Metric]) -> f64 {
    // `f64::max` passes NaN over.
    let largest = metrics
        .iter()
        .filter_map(|metric| metric.of(report))
        .fold(0.0, f64::max);
    if largest > 0.0 {
        largest
    } else if report.application_utilization > 0.0 {
        report.application_utilization
    } else {
        report.cpu_utilization
    }
}

/// A58's weight of what a report says. `None`: the report is ignored.
fn weight(report: &Report, config: &Config) -> Option<f64> {
    let qps = report.rps_fractional;
    let utilization = utilization(report, &config.metrics);
    // False for NaN, too.
    if !(qps > 0.0 && utilization > 0.0) {
        return None;
    }
    // As in C-core: a rate of failures that is no positive number costs nothing.
    let penalty = if report.eps > 0.0 {
        report.eps / qps * config.error_utilization_penalty
    } else {
        0.0
    };
    let weight = qps / (utilization + penalty);
    (weight > 0.0 && weight.is_finite()).then_some(weight)
}

/// The weight that a backend's reports give it, and since when. 24 bytes, shared by those that
/// report and the one that reads.
///
/// ```
/// use std::time::Duration;
/// use grpc_lb_core::load::orca::Report;
/// use grpc_lb_core::load::reported_weight::Config;
/// use grpc_lb_core::testing::ReportedWeight;
/// use grpc_lb_core::Time;
///
/// let config = Config { blackout_period: Duration::from_secs(1), ..Config::default() };
/// let weight = ReportedWeight::new();
/// let start = Time(0);
/// let report = Report { rps_fractional: 100.0, cpu_utilization: 0.5, ..Report::default() };
/// weight.on_report(&report, start, &config);
/// assert_eq!(weight.get(start, &config), None);
/// assert_eq!(weight.get(start + Duration::from_secs(1), &config), Some(200.0));
/// ```
#[derive(Debug)]
pub struct ReportedWeight {
    /// The bits of an f64.
    weight: AtomicU64,
    last_updated: AtomicU64,
    non_empty_since: AtomicU64,
}

/// No time.
const UNSET: u64 = u64::MAX;

impl Default for ReportedWeight {
    fn default() -> Self {
        ReportedWeight::new()
    }
}

impl ReportedWeight {
    /// Of a backend that never reported.
    pub fn new() -> Self {
        ReportedWeight {
            weight: AtomicU64::new(0),
            last_updated: AtomicU64::new(UNSET),
            non_empty_since: AtomicU64::new(UNSET),
        }
    }

    /// Takes a report in. One without load or calls is ignored and does not even count as a sign
    /// of life.
    pub fn on_report(&self, report: &Report, now: Time, config: &Config) {
        let Some(weight) = weight(report, config) else {
            return;
        };
        self.weight.store(weight.to_bits(), Ordering::Relaxed);
        // Reports are many and this changes once in a blackout: no write where it is set.
        if self.non_empty_since.load(Ordering::Relaxed) == UNSET {
            // Of two first reports either will do.
            self.non_empty_since.store(now.0, Ordering::Relaxed);
        }
        // Release: a thread that sees the time sees the weight that came with it, or a later one.
        self.last_updated.store(now.0, Ordering::Release);
    }

    /// The backend became ready: its blackout begins with its next report.
    pub fn on_ready(&self) {
        self.non_empty_since.store(UNSET, Ordering::Relaxed);
    }

    /// The weight that counts at `now`, above 0 and finite. `None` when it is not known.
    ///
    /// A weight that has expired begins a new blackout with the next report. If that report comes
    /// in at this very moment, the blackout begins with the one after it.
    pub fn get(&self, now: Time, config: &Config) -> Option<f64> {
        // Acquire: pairs with the store of `on_report`.
        let last_updated = self.last_updated.load(Ordering::Acquire);
        if last_updated == UNSET {
            return None;
        }
        if now.since(Time(last_updated)) >= config.weight_expiration_period {
            self.non_empty_since.store(UNSET, Ordering::Relaxed);
            return None;
        }
        if self.blacked_out(now, config.blackout_period) {
            return None;
        }
        Some(f64::from_bits(self.weight.load(Ordering::Relaxed)))
    }

    fn blacked_out(&self, now: Time, period: Duration) -> bool {
        if period.is_zero() {
            return false;
        }
        let since = self.non_empty_since.load(Ordering::Relaxed);
        since == UNSET || now.since(Time(since)) < period
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn report(qps: f64, utilization: f64, eps: f64) -> Report {
        Report {
            rps_fractional: qps,
            application_utilization: utilization,
            eps,
            ..Report::default()
        }
    }

    fn at_once() -> Config {
        Config {
            blackout_period: Duration::ZERO,
            ..Config::default()
        }
    }

    fn after(report: &Report, config: &Config) -> Option<f64> {
        let weight = ReportedWeight::new();
        weight.on_report(report, Time(0), config);
        weight.get(Time(0), config)
    }

    #[test]
    fn a_backend_that_never_reported_has_no_weight() {
        assert_eq!(ReportedWeight::new().get(Time(5), &at_once()), None);
    }

    #[test]
    fn is_small() {
        assert_eq!(std::mem::size_of::<ReportedWeight>(), 24);
    }

    #[test]
    fn reports_that_say_nothing_are_ignored() {
        for bad in [0.0, -1.0, f64::NAN, f64::NEG_INFINITY, f64::INFINITY] {
            assert_eq!(after(&report(bad, 0.5, 0.0), &at_once()), None, "qps {bad}");
            assert_eq!(
                after(&report(1.0, bad, 0.0), &at_once()),
                None,
                "load {bad}"
            );
        }
        // Beyond what a float can hold.
        assert_eq!(after(&report(1e300, 1e-300, 0.0), &at_once()), None);
    }

    #[test]
    fn a_rate_of_failures_that_is_none_costs_nothing() {
        for eps in [0.0, -5.0, f64::NAN] {
            assert_eq!(
                after(&report(10.0, 0.5, eps), &at_once()),
                Some(20.0),
                "{eps}"
            );
        }
        assert_eq!(after(&report(10.0, 0.5, 5.0), &at_once()), Some(10.0));
    }

    #[test]
    fn an_ignored_report_leaves_the_times_alone() {
        let config = at_once();
        let end = Time(0) + config.weight_expiration_period;
        let weight = ReportedWeight::new();
        weight.on_report(&report(10.0, 0.5, 0.0), Time(0), &config);
        weight.on_report(&report(0.0, 0.5, 0.0), Time(end.0 - 1), &config);
        assert_eq!(weight.get(Time(end.0 - 1), &config), Some(20.0));
        assert_eq!(weight.get(end, &config), None);
    }

    #[test]
    fn the_blackout_begins_again_when_ready_again() {
        let config = Config::default();
        let later = |time: Time| time + config.blackout_period;
        let weight = ReportedWeight::new();
        weight.on_report(&report(10.0, 0.5, 0.0), Time(0), &config);
        assert_eq!(weight.get(later(Time(0)), &config), Some(20.0));

        weight.on_ready();
        assert_eq!(weight.get(later(Time(0)), &config), None);
        let again = later(later(Time(0)));
        weight.on_report(&report(10.0, 0.5, 0.0), again, &config);
        assert_eq!(weight.get(Time(later(again).0 - 1), &config), None);
        assert_eq!(weight.get(later(again), &config), Some(20.0));
    }

    #[test]
    fn a_time_before_the_last_report_is_no_time_since_it() {
        let config = at_once();
        let weight = ReportedWeight::new();
        weight.on_report(&report(10.0, 0.5, 0.0), Time(1_000), &config);
        assert_eq!(weight.get(Time(1), &config), Some(20.0));
    }

    #[test]
    fn the_largest_metric_counts_and_none_that_is_no_positive_number() {
        let report = Report {
            application_utilization: 0.5,
            cpu_utilization: 0.6,
            mem_utilization: f64::NAN,
            utilization: HashMap::from([("disk".to_string(), 0.2)]),
            named_metrics: HashMap::from([("a.b".to_string(), 0.3), ("minus".to_string(), -1.0)]),
            ..Report::default()
        };
        let utilization = |names: &[&str]| {
            let metrics: Vec<_> = names
                .iter()
                .filter_map(|name| Metric::parse(name))
                .collect();
            super::utilization(&report, &metrics)
        };
        assert_eq!(utilization(&["utilization.disk", "named_metrics.a.b"]), 0.3);
        assert_eq!(utilization(&["mem_utilization", "utilization.disk"]), 0.2);
        assert_eq!(utilization(&["utilization.disk", "mem_utilization"]), 0.2);
        assert_eq!(utilization(&["cpu_utilization"]), 0.6);
        let without_value = [
            "mem_utilization",
            "named_metrics.minus",
            "named_metrics.a",
            "disk",
        ];
        assert_eq!(utilization(&without_value), 0.5);
        assert_eq!(utilization(&["application_utilization.x", ""]), 0.5);
    }

    proptest! {
        #[test]
        fn a_weight_is_always_a_number(
            qps in any::<f64>(),
            load in any::<f64>(),
            eps in any::<f64>(),
            penalty in 0.0..1e300,
        ) {
            let config = Config { error_utilization_penalty: penalty, ..at_once() };
            let weight = after(&report(qps, load, eps), &config);
            prop_assert!(weight.is_none_or(|weight| weight.is_finite() && weight > 0.0));
        }
    }
}
