//! Changes of the list, with lists of every length: a reconcile that keeps all, one that replaces
//! all, and the addition and removal of one backend. What a change frees is part of it.

use std::hint::black_box;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use grpc_lb_core::policy::{random, Policy};
use grpc_lb_core::{Backend, Balancer, Time, Unowned};

const LENGTHS: [u64; 5] = [1, 10, 100, 1_000, 10_000];

type Change = fn(&mut Criterion, &str, Policy);

/// Policies that prepare no table, a schedule, and a table.
fn changes(criterion: &mut Criterion) {
    let changes: [Change; 3] = [reconcile_same, reconcile_other, add_and_remove];
    for change in changes {
        change(
            criterion,
            "round_robin",
            Policy::RoundRobin(Default::default()),
        );
        change(
            criterion,
            "weighted_round_robin",
            Policy::WeightedRoundRobin(Default::default()),
        );
        change(criterion, "random", Policy::Random(random::Config));
    }
}

/// Weights are unequal, for the policies that weigh.
fn list(first: u64, length: u64) -> Vec<Backend<u64>> {
    (first..first + length)
        .map(|id| Backend {
            weight: 1 + (id % 3) as u32,
            ..Backend::new(id, id)
        })
        .collect()
}

fn reconcile(balancer: &Balancer<u64>, list: &[Backend<u64>]) {
    let changed = black_box(balancer).reconcile(list, &Unowned, Time(0));
    changed.expect("an open balancer and distinct ids");
}

fn reconcile_same(criterion: &mut Criterion, name: &str, policy: Policy) {
    let mut group = criterion.benchmark_group(format!("reconcile, all kept/{name}"));
    for length in LENGTHS {
        let balancer = Balancer::new(policy.clone(), 0, Time(0));
        let list = list(0, length);
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| reconcile(&balancer, &list));
        });
    }
}

fn reconcile_other(criterion: &mut Criterion, name: &str, policy: Policy) {
    let mut group = criterion.benchmark_group(format!("reconcile, all replaced/{name}"));
    for length in LENGTHS {
        let balancer = Balancer::new(policy.clone(), 0, Time(0));
        let lists = [list(0, length), list(length, length)];
        let mut turns = lists.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| reconcile(&balancer, turns.next().expect("it goes on for ever")));
        });
    }
}

fn add_and_remove(criterion: &mut Criterion, name: &str, policy: Policy) {
    let mut group = criterion.benchmark_group(format!("add one and remove it/{name}"));
    for length in LENGTHS {
        let balancer = Balancer::new(policy.clone(), 0, Time(0));
        reconcile(&balancer, &list(0, length));
        let one = list(length, 1);
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| {
                let added = black_box(&balancer).add(&one, &Unowned, Time(0));
                added.expect("an open balancer");
                let removed = balancer.remove(&[length], &Unowned, Time(0));
                removed.expect("an open balancer")
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(20);
    targets = changes
}
criterion_main!(benches);
