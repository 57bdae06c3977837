//! A pick, and a call from its checkout to its end, of every policy and with lists of every length.
//! One thread; nothing changes meanwhile.

use std::hint::black_box;
use std::time::Duration;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use grpc_lb_core::{Caller, Outcome, Time, Unowned};

use self::support::{balancer, policies};

mod support;

const LENGTHS: [u64; 5] = [1, 10, 100, 1_000, 10_000];

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
