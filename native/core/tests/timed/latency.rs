//! peak EWMA where news is bad or absent: hung, slow, failing and new backends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use grpc_lb_core::policy::{peak_ewma, Policy};
use grpc_lb_core::{Backend, Config, Outcome, Ticket, Time, Unowned};

use crate::{ms, seconds, warming, Fleet};

/// Calls at regular times, each of which ends when the world says.
struct World {
    fleet: Fleet,
    /// Those in flight, by when they end.
    ends: BinaryHeap<Reverse<(Time, usize)>>,
    calls: Vec<Option<(Ticket, Outcome)>>,
    now: Time,
}

/// How a call to a backend goes: how long it lasts, if it ends, and how it ends.
type Fate = (Option<Duration>, Outcome);

fn takes(ms: u64) -> Fate {
    (Some(Duration::from_millis(ms)), Outcome::Success)
}

/// A backend that hangs, and a caller that gives up.
fn given_up(ms: u64) -> Fate {
    (Some(Duration::from_millis(ms)), Outcome::Cancelled)
}

fn peak_ewma_with(decay: u64) -> Policy {
    Policy::PeakEwma(peak_ewma::Config {
        decay: Duration::from_millis(decay),
        ..Default::default()
    })
}

impl World {
    fn new(decay: u64, backends: u32, seed: u64) -> World {
        World::of(peak_ewma_with(decay), backends, seed)
    }

    fn of(config: impl Into<Config>, backends: u32, seed: u64) -> World {
        World {
            fleet: Fleet::seeded(config, backends, seed),
            ends: BinaryHeap::new(),
            calls: Vec::new(),
            now: seconds(1),
        }
    }

    /// Has so many calls a second begin for so many milliseconds. How many each backend got.
    fn run(&mut self, rate: u64, ms: u64, mut fate: impl FnMut(u32) -> Fate) -> Vec<usize> {
        let end = self.now + Duration::from_millis(ms);
        let mut counts = vec![0; self.fleet.balancer.summary().backends];
        while self.now < end {
            self.end_calls();
            let (id, ticket) = self.fleet.checkout(self.now);
            counts[id as usize - 1] += 1;
            let (lasts, outcome) = fate(id);
            if let Some(lasts) = lasts {
                self.ends
                    .push(Reverse((self.now + lasts, self.calls.len())));
            }
            self.calls.push(Some((ticket, outcome)));
            self.now = self.now + Duration::from_nanos(1_000_000_000 / rate);
        }
        counts
    }

    fn end_calls(&mut self) {
        while let Some(Reverse((end, call))) = self.ends.peek().copied() {
            if end > self.now {
                break;
            }
            self.ends.pop();
            let (ticket, outcome) = self.calls[call].take().expect("it ends once");
            ticket.complete(outcome, None, end).unwrap();
        }
    }
}

fn fails(ms: u64) -> Fate {
    (Some(Duration::from_millis(ms)), Outcome::Failure)
}

const FOR_EVER: Fate = (None, Outcome::Success);

#[test]
fn who_hangs_is_left_alone_and_is_back_when_it_answers() {
    for decay in [500, 10_000] {
        for rate in [20, 100, 1_000] {
            for hung in [given_up(100), given_up(1_000), fails(100), FOR_EVER] {
                for seed in 0..3 {
                    let mut world = World::new(decay, 3, seed);
                    let fate = |id| if id == 3 { hung } else { takes(2) };
                    world.run(rate, 1_000, fate);
                    let calls = world.run(rate, 8_000, fate);
                    let what = format!("{hung:?} {decay} {rate}: {calls:?}");
                    assert!(calls[2] * 100 <= 3 * rate as usize * 8, "{what}");
                    if hung.1 == Outcome::Cancelled {
                        world.run(rate, 5_000, |_| takes(2));
                        let calls = world.run(rate, 5_000, |_| takes(2));
                        assert!(calls[2] * 100 >= 18 * rate as usize * 5, "{what} {calls:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn who_hangs_is_left_alone_also_where_shares_go_by_weight() {
    for backends in [2, 3] {
        for hung in [given_up(100), fails(100), FOR_EVER] {
            let mut world = World::of(warming(peak_ewma_with(10_000)), backends, 1);
            let fate = |id| if id == backends { hung } else { takes(2) };
            world.run(100, 1_000, fate);
            let calls = world.run(100, 8_000, fate);
            assert!(calls.last().unwrap() * 100 <= 3 * 800, "{hung:?} {calls:?}");
        }
    }
}

#[test]
fn equal_ones_have_equal_shares_whatever_goes_wrong_once_in_a_hundred_calls() {
    for bad in [takes(1_000), fails(1), fails(1_000), given_up(1_000)] {
        for seed in 0..10 {
            let mut world = World::new(10_000, 5, seed);
            let mut random = fastrand::Rng::with_seed(seed + 1_000);
            let is_bad = |random: &mut fastrand::Rng| random.u32(..100) == 0;
            let fate = |_| if is_bad(&mut random) { bad } else { takes(1) };
            let calls = world.run(20, 30_000, fate);
            // 12 to 28 % of 600.
            assert!(
                calls.iter().all(|calls| (72..=168).contains(calls)),
                "{bad:?} {seed}: {calls:?}"
            );
        }
    }
}

#[test]
fn who_is_always_slow_is_known_to_be() {
    for rate in [20, 100, 1_000] {
        let mut world = World::new(10_000, 4, 1);
        let slow = |id| if id == 3 { takes(100) } else { takes(10) };
        world.run(rate, 10_000, slow);
        let calls = world.run(rate, 20_000, slow);
        assert!(calls[2] * 100 <= 2 * rate as usize * 20, "{calls:?}");
    }
}

#[test]
fn a_newcomer_is_tried_at_once_and_with_one_call_at_a_time() {
    let mut world = World::new(10_000, 3, 1);
    world.run(100, 5_000, |_| takes(1));
    world.fleet.reconcile(4, world.now);
    // It hangs at first.
    let calls = world.run(100, 1_000, |id| if id == 4 { FOR_EVER } else { takes(1) });
    assert_eq!(calls[3], 1, "{calls:?}");
    world.fleet.reconcile(5, world.now);
    let calls = world.run(100, 5_000, |_| takes(1));
    assert!(calls[4] > 60, "{calls:?}");
}

#[test]
fn the_first_answer_to_a_stream_is_its_latency_at_once_and_however_it_ends() {
    let fleet = World::new(10_000, 1, 1).fleet;
    let (_, stream) = fleet.checkout(ms(1_000));
    stream.first_response(ms(1_020));
    let latency = fleet.info(1).latency_ns.expect("there was an answer");
    assert!((latency / 20e6 - 1.0).abs() < 1e-6, "{latency}");
    stream
        .complete(Outcome::Cancelled, None, ms(60_000))
        .unwrap();
    let unchanged = fleet.info(1).latency_ns;
    assert_eq!(unchanged, Some(latency));
}

#[test]
fn shares_ramp_with_weights_idle_and_under_load() {
    for (rate, takes) in [
        (20, takes(1)),
        (100, takes(1)),
        (500, takes(10)),
        (1_000, takes(10)),
    ] {
        for weight in [10, 30, 60, 100] {
            let mut world = World::new(10_000, 2, 1);
            let list = [(1, 100), (2, weight)].map(|(id, weight)| Backend {
                weight,
                ..Backend::new(id, id)
            });
            let listed = world.fleet.balancer.reconcile(&list, &Unowned, world.now);
            listed.unwrap();
            world.run(rate, 2_000, |_| takes);
            let calls = world.run(rate, 10_000_000 / rate, |_| takes);
            let share = 100.0 * calls[1] as f64 / (calls[0] + calls[1]) as f64;
            let due = 100.0 * f64::from(weight) / f64::from(100 + weight);
            assert!(
                (share - due).abs() < 5.0,
                "{rate} {weight}: {share} of {due}"
            );
        }
    }
}

/// Latencies as of a server with a queue: about ten milliseconds, at times three times as long.
fn varied(random: &mut fastrand::Rng) -> Fate {
    takes(if random.u32(..10) == 0 {
        30
    } else {
        random.u64(8..13)
    })
}

#[test]
fn a_canary_that_is_seldom_asked_gets_what_is_due_to_it() {
    for others in [1, 2, 10] {
        for rate in [10, 1_000] {
            let mut world = World::new(10_000, others + 1, 1);
            let list: Vec<_> = (1..=others + 1)
                .map(|id| Backend {
                    weight: if id == 1 { others } else { 999 },
                    ..Backend::new(id, id)
                })
                .collect();
            let listed = world.fleet.balancer.reconcile(&list, &Unowned, world.now);
            listed.unwrap();
            let mut random = fastrand::Rng::with_seed(7);
            let calls = world.run(rate, 50_000_000 / rate, |_| varied(&mut random));
            // 50 of 50,000 are due; the rest while one of the others was slow.
            assert!((25..=130).contains(&calls[0]), "{others} {rate}: {calls:?}");
        }
    }
}

#[test]
fn slow_start_ramps_as_envoys_curve_idle_and_under_load() {
    // Calls a second for each backend, and how long they take.
    for (rate, lasts) in [(200, 1), (1_000, 10)] {
        for backends in [2, 10, 132] {
            let mut world = World::of(warming(peak_ewma_with(10_000)), backends - 1, 1);
            world.now = seconds(20);
            world.fleet.tick(world.now);
            let rate = rate * u64::from(backends);
            world.run(rate, 1_000, |_| takes(lasts));
            world.fleet.reconcile(backends, world.now);
            for half in [0, 1] {
                let (mut got, mut due, mut calls) = (0, 0.0, 0);
                for tenth in 0..50 {
                    world.fleet.tick(world.now);
                    let all = world.run(rate, 100, |_| takes(lasts));
                    got += all.last().unwrap();
                    let weight = (f64::from(50 * half + tenth) / 100.0).max(0.1);
                    due += weight / (f64::from(backends - 1) + weight) / 50.0;
                    calls += all.iter().sum::<usize>();
                }
                let of_share = |part: f64| 100.0 * part * f64::from(backends);
                let (got, due) = (of_share(got as f64 / calls as f64), of_share(due));
                assert!(
                    (got - due).abs() < 5.0,
                    "{backends} backends, {rate} a second, half {half}: {got} of {due}"
                );
            }
        }
    }
}

#[test]
fn the_age_of_the_oldest_call_in_flight_is_shown() {
    let fleet = World::new(10_000, 1, 1).fleet;
    assert_eq!(fleet.info(1).oldest_in_flight, None);
    let (_, lost) = fleet.checkout(ms(1_000));
    for now in 1_001..5_000 {
        let (_, call) = fleet.checkout(ms(now));
        call.complete(Outcome::Success, None, ms(now + 1)).unwrap();
    }
    assert_eq!(fleet.info(1).oldest_in_flight, Some(ms(1_000)));
    drop(lost);
    assert_eq!(fleet.info(1).oldest_in_flight, None);
}
