//! What is picked from.

use grpc_lb_core::policy::round_robin::CursorKind;
use grpc_lb_core::policy::{
    least_request, pick_first, random, round_robin, weighted_round_robin, Policy,
};
use grpc_lb_core::{Backend, Balancer, Time, Unowned};

/// Every policy; those that rotate with either cursor.
pub fn policies() -> Vec<(&'static str, Policy)> {
    let own = CursorKind::PerCaller(1);
    vec![
        (
            "pick_first",
            Policy::PickFirst(pick_first::Config::default()),
        ),
        ("round_robin", Policy::RoundRobin(Default::default())),
        (
            "round_robin, own cursor",
            Policy::RoundRobin(round_robin::Config {
                cursor: own,
                ..Default::default()
            }),
        ),
        ("random", Policy::Random(random::Config)),
        (
            "weighted_round_robin",
            Policy::WeightedRoundRobin(Default::default()),
        ),
        (
            "weighted_round_robin, own cursor",
            Policy::WeightedRoundRobin(weighted_round_robin::Config {
                cursor: own,
                ..Default::default()
            }),
        ),
        (
            "least_request",
            Policy::LeastRequest(least_request::Config::default()),
        ),
        ("peak_ewma", Policy::PeakEwma(Default::default())),
        ("ring_hash", Policy::RingHash(Default::default())),
        ("maglev", Policy::Maglev(Default::default())),
    ]
}

/// Weights are unequal, for the policies that weigh.
pub fn balancer(policy: Policy, length: u64) -> Balancer<u64> {
    let balancer = Balancer::new(policy, 0, Time(0));
    let list: Vec<_> = (0..length)
        .map(|id| Backend {
            weight: 1 + (id % 3) as u32,
            ..Backend::new(id, id).keyed(id.to_string())
        })
        .collect();
    let listed = balancer.reconcile(&list, &Unowned, Time(0));
    listed.expect("an open balancer and distinct ids");
    balancer
}
