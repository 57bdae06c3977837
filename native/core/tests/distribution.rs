//! Whether picks are spread as the policies promise: exactly where they are deterministic, by a
//! chi-square test of fixed seed where they are drawn.
#![cfg(not(loom))]

mod support;

use grpc_lb_core::policy::least_request::Choices;
use grpc_lb_core::policy::round_robin::CursorKind;
use grpc_lb_core::policy::weighted_round_robin::Weights;
use grpc_lb_core::policy::{
    least_request, peak_ewma, pick_first, random, round_robin, weighted_round_robin, Policy,
};
use grpc_lb_core::{Backend, Balancer, Caller, Config, State, Ticket, Time, Unavailable, Unowned};

/// So many that of five backends one that gets 1 % too few or too many is noticed.
const PICKS: usize = 2_000_000;

/// What chi-square exceeds once in a thousand times, by degrees of freedom from 1. The seeds are
/// fixed, so that a policy that holds it once always does.
const CRITICAL: [f64; 5] = [10.83, 13.82, 16.27, 18.47, 20.52];

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
        .map(support::keyed)
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
    let choices = Choices::Some(choices);
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

/// Has each backend have so many calls in flight.
fn load(balancer: &Balancer<usize>, calls: &[usize]) -> Vec<Ticket> {
    let caller = Caller::new(1);
    let set = |id: usize, state| {
        let set = balancer.set_state(&id, state, &Unowned, Time(0));
        set.unwrap();
    };
    let ids = || 0..calls.len();
    let mut tickets = Vec::new();
    for id in ids() {
        let others = || ids().filter(|other| *other != id);
        others().for_each(|other| set(other, State::Draining));
        tickets.extend((0..calls[id]).map(|_| {
            let checkout = balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
            checkout.unwrap().1
        }));
        others().for_each(|other| set(other, State::Ready));
    }
    tickets
}

#[test]
fn least_request_never_takes_the_one_that_has_more_calls_than_all_others() {
    for (choices, calls) in [(2, &[1, 1, 2, 1][..]), (3, &[1, 1, 2, 1]), (2, &[3, 2])] {
        let balancer = balancer(least_request(choices, 1.0), &vec![1; calls.len()]);
        let tickets = load(&balancer, calls);
        let most = calls.iter().max().unwrap();
        let shares: Vec<f64> = calls
            .iter()
            .map(|it| f64::from(u8::from(it < most)))
            .collect();
        assert_fits("least_request, loaded", &counts(&balancer, PICKS), &shares);
        drop(tickets);
        let shares = vec![1.0; calls.len()];
        assert_fits("least_request", &counts(&balancer, PICKS), &shares);
    }
}

#[test]
fn least_request_takes_idle_ones_by_weight() {
    for weights in [
        &[1, 1_000][..],
        &[100, 101],
        &[3, 1, 4, 2],
        &[1, 2, 7],
        &[1, 1, 1, 1, 10],
    ] {
        let shares: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        for choices in [Choices::Some(2), Choices::Some(10), Choices::All] {
            for bias in [0.0, 0.5, 1.0, 2.0] {
                let policy = Policy::LeastRequest(least_request::Config { choices, bias });
                let counts = counts(&balancer(policy, weights), PICKS / 20);
                assert_fits("least_request, by weight", &counts, &shares);
            }
        }
    }
}

#[test]
fn least_request_weighs_calls_as_its_bias_says() {
    // One that has two calls, of weight 2, and one that has none, of weight 1: 0.5 is less than half
    // of 2. As soon as it has a call, 1.5 is more.
    for (bias, calls, shares) in [
        (1.0, [0, 2], [1.0, 0.0]),
        (1.0, [1, 2], [1.0, 2.0]),
        (0.5, [0, 2], [1.0, 0.0]),
        (0.4, [0, 2], [1.0, 2.0]),
        (0.0, [0, 200], [1.0, 2.0]),
        // 1.5 squared is more than half of 2 squared, and less than half of 3 squared.
        (2.0, [1, 2], [1.0, 2.0]),
        (2.0, [1, 3], [1.0, 0.0]),
        (1.0, [1, 3], [1.0, 0.0]),
        (0.5, [1, 3], [1.0, 2.0]),
    ] {
        let balancer = balancer(least_request(2, bias), &[1, 2]);
        let _tickets = load(&balancer, &calls);
        assert_fits(
            "least_request, by bias",
            &counts(&balancer, PICKS / 20),
            &shares,
        );
    }
}

#[test]
fn least_request_looks_through_a_short_list() {
    let all = least_request::Config {
        choices: Choices::All,
        bias: 1.0,
    };
    // None of those with the fewest calls is preferred to another.
    let balancer = balancer(Policy::LeastRequest(all), &[1; 20]);
    let calls: Vec<usize> = (0..20).map(|id| usize::from(id % 5 != 0)).collect();
    let _tickets = load(&balancer, &calls);
    let counts = counts(&balancer, PICKS / 20);
    let (idle, busy): (Vec<_>, Vec<_>) = counts.iter().zip(calls).partition(|it| it.1 == 0);
    assert!(busy.iter().all(|(count, _)| **count == 0));
    let idle: Vec<usize> = idle.iter().map(|(count, _)| **count).collect();
    assert_fits("least_request, all", &idle, &[1.0; 4]);
}

/// Envoy's schedule: who is due first goes on by `(in flight + 1) ^ bias / weight`.
struct Edf<'a> {
    weights: &'a [u32],
    bias: f64,
    due: Vec<f64>,
}

impl Edf<'_> {
    fn pick(&mut self, in_flight: &[u32]) -> usize {
        let earlier = |a: &usize, b: &usize| self.due[*a].total_cmp(&self.due[*b]);
        let first = (0..self.due.len()).min_by(earlier).unwrap();
        let calls = f64::from(in_flight[first] + 1).powf(self.bias);
        self.due[first] += calls / f64::from(self.weights[first]);
        first
    }
}

/// The shares, in percent, of calls of which so many are in flight, and any of them ends next.
fn shares_of_calls(n: usize, at_once: usize, mut pick: impl FnMut(&[u32]) -> usize) -> Vec<f64> {
    const CALLS: usize = 60_000;
    let mut random = fastrand::Rng::with_seed(23);
    let mut in_flight = vec![0; n];
    let mut open = Vec::new();
    let mut counts = vec![0; n];
    for call in 0..CALLS {
        if open.len() == at_once {
            let ended: usize = open.swap_remove(random.usize(..at_once));
            in_flight[ended] -= 1;
        }
        let picked = pick(&in_flight);
        in_flight[picked] += 1;
        open.push(picked);
        counts[picked] += usize::from(call >= CALLS / 10);
    }
    let percent = |count| 100.0 * count as f64 / (CALLS - CALLS / 10) as f64;
    counts.into_iter().map(percent).collect()
}

#[test]
fn least_request_has_the_shares_of_envoys_schedule_and_under_load_calls_in_flight_by_weight() {
    for weights in [&[1, 1_000][..], &[100, 101], &[1, 3], &[1, 2, 7]] {
        for (bias, at_once) in [(1.0, 1), (0.0, 1), (0.0, 4), (0.0, 32), (1.0, 4), (1.0, 32)] {
            let balancer = balancer(least_request(2, bias), weights);
            let caller = Caller::new(29);
            let n = weights.len();
            let mut tickets: Vec<Vec<Ticket>> = weights.iter().map(|_| Vec::new()).collect();
            let got = shares_of_calls(n, at_once, |in_flight| {
                for (tickets, in_flight) in tickets.iter_mut().zip(in_flight) {
                    tickets.truncate(*in_flight as usize);
                }
                let checkout = balancer.checkout(&caller, &Unowned, Time(0), |id| *id);
                let (id, ticket) = checkout.unwrap();
                tickets[id].push(ticket);
                id
            });
            let total: u32 = weights.iter().sum();
            let by_weight = weights
                .iter()
                .map(|it| 100.0 * f64::from(*it) / f64::from(total));
            let due = weights.iter().map(|weight| 1.0 / f64::from(*weight));
            let due = due.collect();
            let mut edf = Edf { weights, bias, due };
            let expected = match bias * (at_once - 1) as f64 {
                0.0 => shares_of_calls(n, at_once, |in_flight| edf.pick(in_flight)),
                _ => by_weight.collect(),
            };
            for (got, expected) in got.iter().zip(&expected) {
                let tolerance = if at_once == 1 { 1.0 } else { 2.5 };
                assert!(
                    (got - expected).abs() < tolerance,
                    "{weights:?}, bias {bias}, {at_once} at once: {got} for {expected}"
                );
            }
        }
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
fn peak_ewma_takes_those_of_equal_estimates_by_weight() {
    let weights = [3, 1, 4, 0, 2];
    let balancer = balancer(Policy::PeakEwma(peak_ewma::Config::default()), &weights);
    let counts = counts(&balancer, PICKS);
    assert_eq!(
        counts[3], 0,
        "one of no weight is not picked while others can be"
    );
    let others = |all: &[usize]| [all[0], all[1], all[2], all[4]];
    assert_fits(
        "peak_ewma, by weight",
        &others(&counts),
        &[3.0, 1.0, 4.0, 2.0],
    );
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
        exact(&[1, 2, 3], 10_000);
        exact(&[3, 1], 100);
        exact(&[1; 7], 1_000);
        exact(&[7, 4, 6], 1_000);
        exact(&[15, 3, 5, 1, 15], 1_000);
        // A canary.
        exact(&[999, 1], 100);
        exact(&[1_000_000, 1], 1);
    }
}

fn weighted_round_robin(weights: Weights) -> Policy {
    Policy::WeightedRoundRobin(weighted_round_robin::Config {
        weights,
        ..Default::default()
    })
}

fn listed(weights: &[u32]) -> Vec<Backend<usize>> {
    let weighted = weights.iter().enumerate();
    let backend = |(id, weight): (usize, &u32)| Backend {
        weight: *weight,
        ..Backend::new(id, id)
    };
    weighted.map(backend).map(support::keyed).collect()
}

#[test]
fn the_turns_of_weighted_round_robin_go_on_across_changes() {
    let weights = [10, 1, 1, 1, 1, 1, 1, 1, 1, 10];
    let shares: Vec<f64> = weights.iter().copied().map(f64::from).collect();
    let caller = Caller::new(13);
    let another = |balancer: &Balancer<usize>, present: bool| match present {
        true => balancer.add(&[Backend::new(10, 10)], &Unowned, Time(0)),
        false => balancer.remove(&[10], &Unowned, Time(0)),
    };
    let list = listed(&weights);
    let mut swapped = list.clone();
    swapped.swap(0, 5);
    let mut random = fastrand::Rng::with_seed(31);
    for change in 0..5 {
        let balancer = balancer(weighted_round_robin(Weights::Static), &weights);
        let mut counts = [0; 11];
        for pick in 0..28_000 {
            match change {
                0 => {
                    let _ = balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
                }
                1 => {
                    let _ = another(&balancer, pick % 2 == 0).unwrap();
                }
                2 => {
                    let _ = another(&balancer, random.bool()).unwrap();
                }
                3 => {
                    let list = if pick % 2 == 0 { &list } else { &swapped };
                    let _ = balancer.reconcile(list, &Unowned, Time(0)).unwrap();
                }
                _ => {
                    let state = [State::Ready, State::Draining][pick % 2];
                    balancer.set_state(&5, state, &Unowned, Time(0)).unwrap();
                }
            }
            counts[balancer.pick(&caller, &Unowned, |id| *id).unwrap()] += 1;
        }
        let mut shares = shares.clone();
        if change == 4 {
            (counts[5], shares[5]) = (0, 0.0);
        }
        let statistic = chi_square(&counts[..10], &shares);
        assert!(statistic < 27.88, "{change}: {counts:?}, {statistic}");
    }
}

/// The most by which picks of 0 and 1 differ in any run, while a third comes and goes as `change` says.
fn skew(config: round_robin::Config, change: impl Fn(&Balancer<usize>, bool, usize)) -> i64 {
    let mut random = fastrand::Rng::with_seed(37);
    let mut most = 0;
    for pattern in 0..4 {
        let balancer = balancer(Policy::RoundRobin(config), &[1; 3]);
        let caller = Caller::new(13);
        let (mut lead, mut low, mut high) = (0_i64, 0, 0);
        let mut there = true;
        for pick in 0..3_000 {
            let flips = match pattern {
                0 => true,
                1 => pick % 2 == 0,
                2 => pick % 3 == 0,
                _ => random.bool(),
            };
            if flips {
                there = !there;
                change(&balancer, there, 2);
            }
            lead += match balancer.pick(&caller, &Unowned, |id| *id).unwrap() {
                0 => 1,
                1 => -1,
                _ => 0,
            };
            (low, high) = (lead.min(low), lead.max(high));
        }
        most = most.max(high - low);
    }
    most
}

#[test]
fn one_that_comes_and_goes_takes_no_turn_from_the_others() {
    let now = Time(0);
    let set_state = |balancer: &Balancer<usize>, there, id| {
        let state = if there {
            State::Ready
        } else {
            State::TransientFailure
        };
        balancer.set_state(&id, state, &Unowned, now).unwrap();
    };
    let add_or_remove = |balancer: &Balancer<usize>, there, id| {
        match there {
            true => balancer.add(&[Backend::new(id, id)], &Unowned, now),
            false => balancer.remove(&[id], &Unowned, Time(0)),
        }
        .unwrap();
    };
    let anywhere = |place: usize| {
        move |balancer: &Balancer<usize>, there, id| {
            let mut list = listed(&[1; 2]);
            if there {
                list.insert(place, Backend::new(id, id));
            }
            balancer.reconcile(&list, &Unowned, now).unwrap();
        }
    };
    for cursor in [CursorKind::Shared, CursorKind::PerCaller(4)] {
        let config = round_robin::Config {
            cursor,
            ..Default::default()
        };
        assert_eq!(skew(config, set_state), 1);
        assert_eq!(skew(config, add_or_remove), 1);
        for place in 0..3 {
            assert_eq!(skew(config, anywhere(place)), 1);
        }
    }
}

#[test]
fn weight_0_is_picked_where_nothing_else_can_be() {
    for policy in support::policies() {
        let alone = matches!(policy, Policy::PickFirst(_));
        // The ways between the entries of a ring differ, and so do the shares.
        let far = if policy.hashes() { 6_000 } else { 800 };
        let balancer = balancer(policy, &[0, 1, 2, 0, 0]);
        let counts = |of| counts(&balancer, of);
        let unused = |counts: &[usize]| [0, 3, 4].iter().all(|id| counts[*id] == 0);
        assert!(unused(&counts(5_000)));
        let set = |id: usize, state| {
            let set = balancer.set_state(&id, state, &Unowned, Time(0));
            set.unwrap();
        };
        set(1, State::TransientFailure);
        let left = counts(5_000);
        assert!(unused(&left) && left[2] == 5_000);
        set(2, State::TransientFailure);
        if !alone {
            let left = counts(60_000);
            assert!(
                [0, 3, 4].iter().all(|id| left[*id].abs_diff(20_000) < far),
                "{left:?}"
            );
        }
        set(2, State::Ready);
        assert!(unused(&counts(5_000)));
        // By another weight, and back.
        balancer
            .reconcile(&listed(&[4, 0, 0, 0, 0]), &Unowned, Time(0))
            .unwrap();
        assert_eq!(counts(5_000), [5_000, 0, 0, 0, 0]);
        let heavier = Backend {
            weight: 0,
            ..Backend::new(0, 0)
        };
        balancer
            .add(&[support::keyed(heavier)], &Unowned, Time(0))
            .unwrap();
        assert_eq!(
            balancer.info(&Unowned).backends[0].current_weight,
            Some(0.0)
        );
        let left = counts(5_000);
        assert!(
            alone || [2, 3, 4].iter().all(|id| left[*id] > 0),
            "{left:?}"
        );
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
        let list = (0..200).map(|id| support::keyed(Backend::new(id, id)));
        let list: Vec<_> = list.collect();
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
        let list = (0..1_000).map(|id| support::keyed(Backend::new(id, id)));
        let list: Vec<_> = list.collect();
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

#[test]
fn a_shuffle_goes_by_weight_also_for_who_comes_after_the_first() {
    let weights = [1, 2, 5];
    let caller = Caller::new(0);
    let mut counts = [0; 6];
    let pairs = [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)];
    for seed in 0..20_000 {
        let policy = Policy::PickFirst(pick_first::Config { shuffle: true });
        let balancer = Balancer::new(policy, seed, Time(0));
        let reconciled = balancer.reconcile(&listed(&weights), &Unowned, Time(0));
        reconciled.unwrap();
        let pick = || balancer.pick(&caller, &Unowned, |id| *id).unwrap();
        let first = pick();
        let gone = balancer.set_state(&first, State::TransientFailure, &Unowned, Time(0));
        gone.unwrap();
        let pair = (first, pick());
        counts[pairs.iter().position(|it| *it == pair).unwrap()] += 1;
    }
    // A113: as if drawn by weight, without replacement.
    let shares = pairs.map(|(first, next)| {
        let [first, next] = [first, next].map(|id: usize| f64::from(weights[id]));
        first / 8.0 * next / (8.0 - first)
    });
    assert_fits("pick_first", &counts, &shares);
}
