//! The policies, with and without what can be put around them.

use std::num::NonZeroU32;
use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{self, ConsecutiveFailures, FailurePercentage};
use grpc_lb_core::health::slow_start;
use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{random, round_robin, weighted_round_robin, Policy};
use grpc_lb_core::Config;

use crate::scenarios::failover;

/// A policy that takes part.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name in the table.
    pub name: &'static str,
    /// The configuration of its balancers.
    pub config: Config,
    /// Whether the list of backends has weights.
    pub knows_sizes: bool,
    /// Whether the near region goes before the far one.
    pub near_first: bool,
    /// Whether a call that was given up is told as a failure, where it would be a cancelled one.
    pub tells: bool,
}

/// How long a slow start takes.
const WINDOW: Duration = Duration::from_secs(30);

/// All contenders, in the order of the table.
pub(crate) fn all() -> Vec<Contender> {
    vec![
        alone("round_robin", round_robin()),
        guarded("round_robin + outlier detection", round_robin()),
        alone("random", random()),
        Contender {
            knows_sizes: true,
            ..alone("weighted_round_robin, static", weighted(Weights::Static))
        },
        alone("weighted_round_robin, reported", weighted(reported())),
        alone("least_request", least_request()),
        guarded("least_request + outlier detection", least_request()),
        alone("peak_ewma", peak_ewma()),
        guarded("peak_ewma + outlier detection", peak_ewma()),
    ]
}

/// Without weights, and with clients that say what became of their calls.
pub(crate) fn hung() -> Vec<Contender> {
    vec![
        alone("round_robin", round_robin()),
        guarded("round_robin + outlier detection", round_robin()),
        telling("round_robin + outlier detection, told", round_robin()),
        alone("random", random()),
        alone("weighted_round_robin, reported", weighted(reported())),
        alone("least_request", least_request()),
        telling("least_request + outlier detection, told", least_request()),
        alone("peak_ewma", peak_ewma()),
        telling("peak_ewma + outlier detection, told", peak_ewma()),
    ]
}

/// Those that can start a newcomer slowly, both ways.
pub(crate) fn newcomer() -> Vec<Contender> {
    vec![
        alone("round_robin", round_robin()),
        alone("random", random()),
        warming("random + slow start", random()),
        alone("weighted_round_robin, static", weighted(Weights::Static)),
        warming(
            "weighted_round_robin, static + slow start",
            weighted(Weights::Static),
        ),
        alone("weighted_round_robin, reported", weighted(reported())),
        warming(
            "weighted_round_robin, reported + slow start",
            weighted(reported()),
        ),
        alone("least_request", least_request()),
        warming("least_request + slow start", least_request()),
        alone("peak_ewma", peak_ewma()),
        warming("peak_ewma + slow start", peak_ewma()),
    ]
}

/// Those that weigh.
pub(crate) fn canary() -> Vec<Contender> {
    vec![
        alone("random", random()),
        alone("weighted_round_robin, static", weighted(Weights::Static)),
        alone("weighted_round_robin, reported", weighted(reported())),
        alone("least_request", least_request()),
        alone("peak_ewma", peak_ewma()),
    ]
}

/// One list of both regions, and the near one first in several ways.
pub(crate) fn failover() -> Vec<Contender> {
    let near_first = |name, change: fn(&mut Config)| {
        let mut contender = alone(name, least_request());
        contender.near_first = true;
        change(&mut contender.config);
        contender
    };
    vec![
        alone("one list", least_request()),
        near_first("priorities", |_| {}),
        near_first("priorities, at most 2 calls each", |config| {
            config.max_requests_per_backend = Some(2);
        }),
        near_first("priorities, factor 140", |config| {
            config.overprovisioning_factor = failover::FACTOR;
        }),
    ]
}

fn round_robin() -> Policy {
    Policy::RoundRobin(round_robin::Config {
        start: round_robin::Start::Random,
        ..round_robin::Config::default()
    })
}

fn random() -> Policy {
    Policy::Random(random::Config)
}

fn weighted(weights: Weights) -> Policy {
    Policy::WeightedRoundRobin(weighted_round_robin::Config {
        weights,
        ..weighted_round_robin::Config::default()
    })
}

fn reported() -> Weights {
    Weights::Reported(Box::default())
}

fn least_request() -> Policy {
    Policy::LeastRequest(Default::default())
}

fn peak_ewma() -> Policy {
    Policy::PeakEwma(Default::default())
}

fn alone(name: &'static str, policy: Policy) -> Contender {
    Contender {
        name,
        config: Config::from(policy),
        knows_sizes: false,
        near_first: false,
        tells: false,
    }
}

fn guarded(name: &'static str, policy: Policy) -> Contender {
    let mut contender = alone(name, policy);
    contender.config.outlier_detection = Some(Box::new(outlier_detection()));
    contender
}

fn telling(name: &'static str, policy: Policy) -> Contender {
    Contender {
        tells: true,
        ..guarded(name, policy)
    }
}

fn warming(name: &'static str, policy: Policy) -> Contender {
    let mut contender = alone(name, policy);
    contender.config.slow_start = Some(Box::new(slow_start::Config {
        window: WINDOW,
        ..slow_start::Config::default()
    }));
    contender
}

/// As the README of this example says.
fn outlier_detection() -> outlier_detection::Config {
    outlier_detection::Config {
        // 10, the default, ejects one backend of ten, and two are bad.
        max_ejection_percent: 30,
        failure_percentage: Some(FailurePercentage {
            threshold: 20,
            ..FailurePercentage::default()
        }),
        consecutive_failures: NonZeroU32::new(5).map(ConsecutiveFailures::of),
        ..outlier_detection::Config::default()
    }
}
