//! A pick, and a call from its checkout to its end, of every policy and with lists of every length.
//! One thread; nothing changes meanwhile.

use std::hint::black_box;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use grpc_lb_core::policy::round_robin::CursorKind;
use grpc_lb_core::policy::{
    least_request, pick_first, random, round_robin, weighted_round_robin, Policy,
};
use grpc_lb_core::{Backend, Balancer, Caller, Outcome, Time, Unowned};

const LENGTHS: [u64; 5] = [1, 10, 100, 1_000, 10_000];

/// Every policy; those that rotate with either cursor.
fn policies() -> Vec<(&'static str, Policy)> {
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
    ]
}

/// Weights are unequal, for the policies that weigh.
fn balancer(policy: Policy, length: u64) -> Balancer<u64> {
    let balancer = Balancer::new(policy, 0, Time(0));
    let list: Vec<_> = (0..length)
        .map(|id| Backend {
            weight: 1 + (id % 3) as u32,
            ..Backend::new(id, id)
        })
        .collect();
    let listed = balancer.reconcile(&list, &Unowned, Time(0));
    listed.expect("an open balancer and distinct ids");
    balancer
}

fn picks(criterion: &mut Criterion) {
    let caller = Caller::new(0);
    for (name, policy) in policies() {
        let mut group = criterion.benchmark_group(format!("pick/{name}"));
        for length in LENGTHS {
            let balancer = balancer(policy.clone(), length);
            group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
                bencher.iter(|| black_box(&balancer).pick(&caller, &Unowned, |id| *id));
            });
        }
    }
}

fn calls(criterion: &mut Criterion) {
    let caller = Caller::new(0);
    for (name, policy) in policies() {
        let mut group = criterion.benchmark_group(format!("checkout and complete/{name}"));
        for length in LENGTHS {
            let balancer = balancer(policy.clone(), length);
            group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
                let mut now = Time(0);
                bencher.iter(|| {
                    now = now + Duration::from_micros(1);
                    let checkout = black_box(&balancer).checkout(&caller, &Unowned, now, |id| *id);
                    let (id, ticket) = checkout.expect("backends without limits");
                    let ended = ticket.complete(Outcome::Success, None, now);
                    ended.expect("the first end of it");
                    id
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(20);
    targets = picks, calls
}
criterion_main!(benches);
