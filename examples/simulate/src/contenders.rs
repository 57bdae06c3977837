//! The policies, with and without outlier detection.

use std::num::NonZeroU32;

use grpc_lb_core::health::outlier_detection::{self, FailurePercentage};
use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{random, round_robin, weighted_round_robin, Policy};
use grpc_lb_core::Config;

use crate::server::Kind;

/// A policy that takes part.
#[derive(Clone, Debug)]
pub struct Contender {
    /// Its name in the table.
    pub name: &'static str,
    /// The configuration of its balancers.
    pub config: Config,
    /// Whether the list of backends has weights.
    pub knows_sizes: bool,
}

impl Contender {
    /// The weight of a backend in the list.
    pub(crate) fn weight(&self, kind: Kind) -> u32 {
        match kind {
            _ if !self.knows_sizes => 1,
            Kind::Slow => 1,
            Kind::Healthy | Kind::Flaky => 10,
        }
    }
}

/// All contenders, in the order of the table.
pub fn all() -> Vec<Contender> {
    let round_robin = Policy::RoundRobin(round_robin::Config {
        start: round_robin::Start::Random,
        ..round_robin::Config::default()
    });
    let weighted = Policy::WeightedRoundRobin(weighted_round_robin::Config::default());
    let reported = Policy::WeightedRoundRobin(weighted_round_robin::Config {
        weights: Weights::Reported(Box::default()),
        ..weighted_round_robin::Config::default()
    });
    let least_request = Policy::LeastRequest(Default::default());
    let peak_ewma = Policy::PeakEwma(Default::default());

    vec![
        alone("round_robin", round_robin.clone()),
        guarded("round_robin + outlier detection", round_robin),
        alone("random", Policy::Random(random::Config)),
        Contender {
            knows_sizes: true,
            ..alone("weighted_round_robin, static", weighted)
        },
        alone("weighted_round_robin, reported", reported),
        alone("least_request", least_request.clone()),
        guarded("least_request + outlier detection", least_request),
        alone("peak_ewma", peak_ewma.clone()),
        guarded("peak_ewma + outlier detection", peak_ewma),
    ]
}

fn alone(name: &'static str, policy: Policy) -> Contender {
    Contender {
        name,
        config: Config::from(policy),
        knows_sizes: false,
    }
}

fn guarded(name: &'static str, policy: Policy) -> Contender {
    let mut contender = alone(name, policy);
    contender.config.outlier_detection = Some(Box::new(outlier_detection()));
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
        consecutive_failures: NonZeroU32::new(5),
        ..outlier_detection::Config::default()
    }
}
