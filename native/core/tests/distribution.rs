//! Whether picks are spread as the policies promise: exactly where they are deterministic, by a
//! chi-square test of fixed seed where they are drawn.
#![cfg(not(loom))]

use grpc_lb_core::policy::round_robin::CursorKind;
use grpc_lb_core::policy::{least_request, peak_ewma, random, weighted_round_robin, Policy};
use grpc_lb_core::testing::Stride;
use grpc_lb_core::{Backend, Balancer, Caller, Config, Outcome, Time, Unavailable, Unowned};

#[path = "support/mod.rs"]
mod support;

/// So many that of five backends one that gets 1 % too few or too many is noticed.
const PICKS: usize = 2_000_000;

/// What chi-square exceeds once in a thousand times, by degrees of freedom from 1. The seeds are
/// fixed, so that a policy that holds it once always does.
const CRITICAL: [f64; 4] = [10.83, 13.82, 16.27, 18.47];

fn chi_square(counts: &[usize], shares: &[f64]) -> f64 {
    let picks: usize = counts.iter().sum();
    let total: f64 = shares.iter().sum();
    let pairs = counts.iter().zip(shares);
    pairs
        .filter(|(_, share)| **share > 0.0)
        .map(|(count, share)| {
            let expected = picks as f64 * share / total;
            (*count as f64 - expected).powi(2) / expected
        })
        .sum()
}

/// Whether so many picks of each may well come from these shares.
fn fits(counts: &[usize], shares: &[f64]) -> bool {
    let possible = shares.iter().filter(|share| **share > 0.0).count();
    let impossible = counts
        .iter()
        .zip(shares)
        .any(|(count, share)| *share == 0.0 && *count > 0);
    !impossible && (possible < 2 || chi_square(counts, shares) < CRITICAL[possible - 2])
}

fn assert_fits(name: &str, counts: &[usize], shares: &[f64]) {
    assert!(
        fits(counts, shares),
        "{name}: {counts:?} for {shares:?}, chi-square {}",
        chi_square(counts, shares)
    );
}

fn balancer(policy: Policy, weights: &[u32]) -> Balancer<usize> {
    let balancer = Balancer::new(policy, 11, Time(0));
    let weighted = weights.iter().enumerate();
    let list: Vec<_> = weighted
        .map(|(id, weight)| Backend {
            weight: *weight,
            ..Backend::new(id, id)
        })
        .collect();
    balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    balancer
}

fn counts(balancer: &Balancer<usize>, picks: usize) -> Vec<usize> {
    let caller = Caller::new(13);
    let mut counts = vec![0; balancer.summary().backends];
    for _ in 0..picks {
        counts[balancer.pick(&caller, &Unowned, |id| *id).unwrap()] += 1;
    }
    counts
}

fn least_request(choices: usize, bias: f64) -> Policy {
    Policy::LeastRequest(least_request::Config { choices, bias })
}

#[test]
fn the_test_notices_a_bias_of_one_percent() {
    for n in [2, 3, 5] {
        let mut random = fastrand::Rng::with_seed(17);
        let mut fair = vec![0; n];
        (0..PICKS).for_each(|_| fair[random.usize(..n)] += 1);
        assert_fits("fair", &fair, &vec![1.0; n]);
        // One of a hundred picks of the last goes to the first.
        let mut biased = vec![0; n];
        for _ in 0..PICKS {
            let index = random.usize(..n);
            let moved = index == n - 1 && random.u32(..100) == 0;
            biased[if moved { 0 } else { index }] += 1;
        }
        assert!(!fits(&biased, &vec![1.0; n]), "{biased:?}");
    }
}

#[test]
fn random_takes_all_alike() {
    for n in [2, 3, 5] {
        let counts = counts(
            &balancer(Policy::Random(random::Config), &vec![1; n]),
            PICKS,
        );
        assert_fits("random", &counts, &vec![1.0; n]);
    }
}

#[test]
fn random_takes_each_by_its_weight() {
    for weights in [&[1, 3][..], &[1, 2, 3, 4], &[5, 5, 1, 5, 4], &[2, 2, 2]] {
        let counts = counts(&balancer(Policy::Random(random::Config), weights), PICKS);
        let shares: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        assert_fits("random, by weight", &counts, &shares);
    }
}

#[test]
fn least_request_takes_those_of_equal_load_alike() {
    for choices in [2, 3] {
        let balancer = balancer(least_request(choices, 1.0), &[1; 5]);
        assert_fits("least_request", &counts(&balancer, PICKS), &[1.0; 5]);
    }
}

#[test]
fn least_request_takes_the_loaded_one_when_it_draws_no_other() {
    for choices in [2_u32, 3] {
        let balancer = balancer(least_request(choices as usize, 1.0), &[1; 4]);
        let caller = Caller::new(1);
        // Each has a call, and one has two.
        let mut calls: Vec<_> = Vec::new();
        let mut open = [0; 4];
        while open.iter().sum::<usize>() < 5 || open.contains(&0) {
            let checkout = balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
            let (id, ticket) = checkout.unwrap();
            let wanted = if id == 2 { 2 } else { 1 };
            if open[id] < wanted {
                open[id] += 1;
                calls.push(ticket);
            }
        }
        let loaded = 0.25_f64.powi(choices as i32);
        let other = (1.0 - loaded) / 3.0;
        let shares = [other, other, loaded, other];
        assert_fits("least_request, loaded", &counts(&balancer, PICKS), &shares);
        for ticket in calls {
            ticket.complete(Outcome::Success, None, Time(0)).unwrap();
        }
        assert_fits("least_request", &counts(&balancer, PICKS), &[1.0; 4]);
    }
}

#[test]
fn least_request_takes_the_heaviest_of_those_drawn() {
    let weights = [3, 1, 4, 2];
    let balancer = balancer(least_request(2, 1.0), &weights);
    // The one of weight w is taken if none that is heavier is drawn, and not only lighter ones.
    let share = |weight: &u32| f64::from(weight * weight - (weight - 1) * (weight - 1)) / 16.0;
    let shares: Vec<f64> = weights.iter().map(share).collect();
    assert_fits(
        "least_request, by weight",
        &counts(&balancer, PICKS),
        &shares,
    );
}

#[test]
fn least_request_weighs_calls_as_its_bias_says() {
    // Two calls and the one to come: 3 for a weight of 2 is more than 1 for 1; with a bias of 0.5
    // it is 1.73 for 2, and with none 1 for 2.
    for (bias, shares) in [(1.0, [3.0, 1.0]), (0.5, [1.0, 3.0]), (0.0, [1.0, 3.0])] {
        let balancer = balancer(least_request(2, bias), &[1, 2]);
        let caller = Caller::new(1);
        let mut calls = Vec::new();
        while calls.len() < 2 {
            let checkout = balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
            let (id, ticket) = checkout.unwrap();
            if id == 1 {
                calls.push(ticket);
            }
        }
        assert_fits("least_request, by bias", &counts(&balancer, PICKS), &shares);
    }
}

#[test]
fn peak_ewma_takes_those_of_equal_estimates_alike() {
    for n in [1, 2, 5] {
        let balancer = balancer(Policy::PeakEwma(peak_ewma::Config::default()), &vec![1; n]);
        assert_fits("peak_ewma", &counts(&balancer, PICKS), &vec![1.0; n]);
    }
}

#[test]
fn peak_ewma_takes_the_heavier_of_two_different_ones() {
    let weights = [3, 1, 4, 2];
    let balancer = balancer(Policy::PeakEwma(peak_ewma::Config::default()), &weights);
    // The one of weight w is the heavier one in w - 1 of 6 pairs.
    let shares = weights.map(|weight| f64::from(weight - 1));
    assert_fits("peak_ewma, by weight", &counts(&balancer, PICKS), &shares);
}

#[test]
fn weighted_round_robin_is_exact() {
    for cursor in [CursorKind::Shared, CursorKind::PerCaller(4)] {
        let policy = Policy::WeightedRoundRobin(weighted_round_robin::Config {
            cursor,
            ..Default::default()
        });
        let exact = |weights: &[u32], times: usize| {
            let total = weights.iter().sum::<u32>() as usize;
            let expected: Vec<_> = weights
                .iter()
                .map(|weight| *weight as usize * times)
                .collect();
            let balancer = balancer(policy.clone(), weights);
            assert_eq!(counts(&balancer, total * times), expected);
            // From wherever it begins.
            counts(&balancer, 5);
            assert_eq!(counts(&balancer, total * times), expected);
        };
        // 65,535 is to be divided by the heaviest for this.
        exact(&[1, 2, 3], 10_000);
        exact(&[1; 7], 1_000);
        exact(&[5, 1, 1, 3], 65_535 / 5);
        exact(&[15, 3, 5, 1, 15], 65_535 / 15);
        // With others, exactly what is left of them in 16 bits.
        let scaled = Stride::new(&[7.0, 4.0, 6.0]).unwrap();
        let expected: Vec<_> = scaled.scaled().iter().copied().map(usize::from).collect();
        let balancer = balancer(policy.clone(), &[7, 4, 6]);
        assert_eq!(counts(&balancer, expected.iter().sum()), expected);
    }
}

/// Checkouts that are completed at once, with some backends that have no room.
fn calls_beside_full_ones(policy: Policy, weights: &[u32], full: &[usize]) -> Vec<usize> {
    let config = Config {
        max_requests_per_backend: Some(1),
        ..Config::from(policy)
    };
    let balancer = Balancer::new(config, 11, Time(0));
    let caller = Caller::new(5);
    let owned = |id: usize| Backend {
        weight: weights[id],
        ..Backend::new(id, id)
    };
    let list: Vec<_> = full.iter().map(|id| owned(*id)).collect();
    balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    let checkout = || balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
    let _held: Vec<_> = full.iter().map(|_| checkout().unwrap()).collect();
    let list: Vec<_> = (0..weights.len()).map(owned).collect();
    balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    let mut counts = vec![0; weights.len()];
    for _ in 0..100_000 {
        counts[checkout().unwrap().0] += 1;
    }
    let info = balancer.info(&Unowned).backends;
    for backend in info {
        let held = usize::from(full.contains(&backend.id));
        assert_eq!(backend.picks as usize, counts[backend.id] + held);
    }
    counts
}

#[test]
fn the_calls_of_full_backends_are_spread_over_all_others() {
    let counts = calls_beside_full_ones(Policy::RoundRobin(Default::default()), &[1; 6], &[0, 1]);
    assert_eq!(counts, [0, 0, 25_000, 25_000, 25_000, 25_000]);
    let counts = calls_beside_full_ones(Policy::Random(random::Config), &[1; 5], &[1, 2]);
    assert_fits("random", &counts, &[1.0, 0.0, 0.0, 1.0, 1.0]);
    let counts = calls_beside_full_ones(Policy::Random(random::Config), &[5, 1, 3, 2], &[0]);
    assert_fits("random", &counts, &[0.0, 1.0, 3.0, 2.0]);
    let weighted = Policy::WeightedRoundRobin(weighted_round_robin::Config::default());
    let counts = calls_beside_full_ones(weighted, &[5, 1, 3, 2], &[0]);
    assert_fits("weighted_round_robin", &counts, &[0.0, 1.0, 3.0, 2.0]);
}

#[test]
fn no_call_is_refused_while_one_backend_has_room() {
    for policy in support::policies() {
        let name = policy.name();
        let config = Config {
            max_requests_per_backend: Some(1),
            ..Config::from(policy)
        };
        let balancer = Balancer::new(config, 11, Time(0));
        let caller = Caller::new(5);
        let list: Vec<_> = (0..200).map(|id| Backend::new(id, id)).collect();
        balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
        let checkout = || balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
        let held: Vec<_> = (0..200).map(|_| checkout().expect(name)).collect();
        let full = checkout().map(|(id, _)| id);
        assert_eq!(full, Err(Unavailable::Overloaded), "{name}");
        let picks = balancer.info(&Unowned).backends;
        assert!(picks.iter().all(|backend| backend.picks == 1), "{name}");
        drop(held);
    }
}

#[test]
fn a_brief_search_has_an_end_and_a_thorough_one_finds_what_there_is() {
    for policy in support::policies() {
        let name = policy.name();
        let config = Config {
            max_requests_per_backend: Some(1),
            ..Config::from(policy)
        };
        let balancer = Balancer::new(config, 11, Time(0));
        let caller = Caller::new(5);
        let list: Vec<_> = (0..1_000).map(|id| Backend::new(id, id)).collect();
        balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
        let brief = || balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
        let thorough = || balancer.checkout_thoroughly(&caller, &Unowned, Time(0), |id| *id);
        let mut held: Vec<_> = (0..1_000).map(|_| thorough().expect(name)).collect();
        let full = thorough().map(|(id, _)| id);
        assert_eq!(full, Err(Unavailable::Overloaded), "{name}");
        let full = brief().map(|(id, _)| id);
        assert_eq!(full, Err(Unavailable::Unfinished), "{name}");
        let picks = balancer.info(&Unowned).backends;
        assert!(picks.iter().all(|backend| backend.picks == 1), "{name}");

        let (id, ticket) = held.swap_remove(500);
        drop(ticket);
        assert_eq!(thorough().expect(name).0, id, "{name}");
    }
}
