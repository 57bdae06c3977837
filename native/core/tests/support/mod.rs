//! What several of the tests need.

use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{
    least_request, peak_ewma, pick_first, random, round_robin, weighted_round_robin, Policy,
};

/// Every policy, in every variant that picks in another way.
pub fn policies() -> Vec<Policy> {
    let mut policies = vec![
        Policy::PickFirst(pick_first::Config { shuffle: false }),
        Policy::PickFirst(pick_first::Config { shuffle: true }),
        Policy::Random(random::Config),
        Policy::LeastRequest(least_request::Config::default()),
        Policy::PeakEwma(peak_ewma::Config::default()),
        Policy::WeightedRoundRobin(weighted_round_robin::Config {
            weights: Weights::Reported(Box::default()),
            ..Default::default()
        }),
    ];
    use round_robin::CursorKind::{PerCaller, Shared};
    for cursor in [Shared, PerCaller(2)] {
        let config = round_robin::Config {
            cursor,
            ..Default::default()
        };
        policies.push(Policy::RoundRobin(config));
        let config = weighted_round_robin::Config {
            cursor,
            ..Default::default()
        };
        policies.push(Policy::WeightedRoundRobin(config));
    }
    policies
}
