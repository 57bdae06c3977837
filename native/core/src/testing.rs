//! Parts that tests of known answers need: public with the feature `testing` alone.
//!
//! Specifications say what these compute, and a balancer shows only what follows from it.

pub use crate::health::ejection::{
    eject_failing, mean_and_stdev, success_rate_threshold, sweep, Ejection, Streak, Subject,
};
pub use crate::health::panic::panics;
pub use crate::health::priority::{loads as priority_loads, Level};
pub use crate::limit::InFlight;
pub use crate::load::cohorts::{Cohort, Cohorts};
pub use crate::load::latency::{gain, Decay, Latency, Rule};
pub use crate::load::weight::{utilization, ReportedWeight};
pub use crate::policy::alias::Alias;
pub use crate::policy::scale::{scaled, Weight};

use std::time::Duration;

use crate::health::slow_start;
use crate::policy::{least_request, pick_first};

/// least_request's choice among those that are drawn, of which there is one at least: the first, or
/// the first that is preferred to it, and so on.
pub fn preferred(
    drawn: impl Iterator<Item = usize>,
    prefers_next: impl Fn(usize, usize) -> bool,
) -> usize {
    least_request::preferred(drawn, prefers_next)
}

/// pick_first's shuffle: a backend's place by its weight and a random number between 0 and 1.
pub fn weighted_place(weight: f64, random: f64) -> f64 {
    pick_first::weighted_place(weight, random)
}

/// Slow start's factor to the weight of a backend that has been ready for that long.
pub fn slow_start_factor(config: &slow_start::Config, ready_for: Duration) -> f64 {
    slow_start::factor(config, ready_for)
}
