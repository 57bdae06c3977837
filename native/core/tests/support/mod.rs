//! What several of the tests need.

use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{
    least_request, maglev, peak_ewma, pick_first, random, ring_hash, round_robin,
    weighted_round_robin, BalanceFactor, Policy,
};
use grpc_lb_core::Backend;

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
    for hash_balance_factor in [None, BalanceFactor::new(125)] {
        let mut config = ring_hash::Config::default();
        config.hash_balance_factor = hash_balance_factor;
        policies.push(Policy::RingHash(config));
        // Built anew at every change of a list, in one of these tests or another.
        let mut config = maglev::Config::new(1_021).expect("it is prime");
        config.hash_balance_factor = hash_balance_factor;
        policies.push(Policy::Maglev(config));
    }
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

/// A backend as any policy takes it: with a text that follows from its id, for those that hash.
pub fn keyed<O: std::fmt::Display>(backend: Backend<O>) -> Backend<O> {
    let text = backend.id.to_string();
    backend.keyed(text)
}
