//! Configurations that change while a balancer is in use: nothing that is known is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use grpc_lb_core::policy::round_robin::CursorKind;
use grpc_lb_core::policy::{pick_first, random};
use grpc_lb_core::{ConfigureError, Configured, OnOwnerDeath};

use super::*;

impl Fleet {
    fn configure(&self, change: impl FnOnce(&mut Config), now: Time) {
        let configured = self.balancer.configure(change, &Unowned, now);
        assert_eq!(configured, Ok(Configured::Changed));
    }

    fn detect(&self, detection: Option<outlier_detection::Config>, now: Time) {
        self.configure(|it| it.outlier_detection = detection.map(Box::new), now);
    }

    /// Of this backend, however slow it is: calls in flight make the others dearer.
    fn crowd_into(&self, wanted: u32, now: Time) -> Ticket {
        let mut others = Vec::new();
        loop {
            match self.checkout(now) {
                (id, ticket) if id == wanted => return ticket,
                (_, ticket) => others.push(ticket),
            }
        }
    }

    /// Until they are refused. The tickets of those that are not.
    fn checkouts(&self, now: Time) -> Vec<Ticket> {
        let checkout = || self.balancer.checkout(&self.caller, &Unowned, now, |_| ());
        let tickets = std::iter::from_fn(|| checkout().ok().map(|(_, ticket)| ticket));
        tickets.take(100).collect()
    }
}

#[test]
fn what_is_the_same_changes_nothing() {
    for policy in support::policies() {
        let fleet = Fleet::new(detecting(policy, detection()), 3);
        fleet.call(20, seconds(1), failures_of(2));
        let before = fleet.balancer.info(&Unowned);
        let same = fleet.balancer.configure(|_| {}, &Unowned, seconds(2));
        assert_eq!(same, Ok(Configured::Unchanged));
        assert_eq!(fleet.balancer.info(&Unowned), before);
        assert_eq!(
            fleet.balancer.due(),
            Some(seconds(10)).min(fleet.balancer.due())
        );
    }
}

#[test]
fn another_policy_is_refused_and_so_is_all_once_closed() {
    let fleet = Fleet::new(round_robin(), 2);
    let before = fleet.balancer.info(&Unowned);
    let to_random = |config: &mut Config| {
        config.max_requests = Some(0);
        config.policy = Policy::Random(random::Config);
    };
    let refused = fleet.balancer.configure(to_random, &Unowned, seconds(1));
    let other = ConfigureError::OtherPolicy {
        current: "round_robin",
        wanted: "random",
    };
    assert_eq!(refused, Err(other));
    assert_eq!(fleet.balancer.info(&Unowned), before);
    fleet.checkout(seconds(1));

    fleet.balancer.close(&Unowned);
    let refused = fleet.balancer.configure(|_| {}, &Unowned, seconds(2));
    assert_eq!(refused, Err(ConfigureError::Closed));
}

#[test]
fn a_change_keeps_all_that_was_counted() {
    for policy in support::policies() {
        let name = policy.name();
        let fleet = Fleet::new(detecting(policy, detection()), 3);
        fleet.call(30, seconds(1), failures_of(2));
        let ticket = fleet.checkout(seconds(2)).1;
        let before = fleet.balancer.info(&Unowned);
        let change = |config: &mut Config| {
            config.panic_threshold = 50;
            config.max_requests = Some(10);
            config.max_requests_per_backend = Some(9);
            config.on_owner_death = OnOwnerDeath::Remove;
        };
        fleet.configure(change, seconds(3));
        let after = fleet.balancer.info(&Unowned);
        assert_eq!(after.backends, before.backends, "{name}");
        assert_eq!(after.generation, before.generation + 1);
        drop(ticket);
    }
}

#[test]
fn without_detection_the_ejected_are_back_at_once() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(2)), 4);
    fleet.call(8, seconds(1), failures_of(3));
    fleet.tick(seconds(1));
    assert_eq!(fleet.picks(6)[2], 0);
    assert!(fleet.balancer.is_timed());

    fleet.detect(None, seconds(2));
    assert_eq!(fleet.picks(8), [2; 4]);
    assert_eq!(fleet.balancer.due(), None);
    assert!(!fleet.balancer.is_timed());
    let info = fleet.info(3);
    assert_eq!((info.ejected_until, info.times_ejected), (None, 1));
    assert_eq!(fleet.tick(seconds(100)), None);

    // Its next ejection is as long as a first one; it counts as the second.
    fleet.detect(Some(consecutive(2)), seconds(200));
    assert_eq!(fleet.balancer.due(), Some(seconds(210)));
    for _ in 0..2 {
        fleet.call_to(3, seconds(201), Outcome::Failure);
    }
    fleet.tick(seconds(201));
    let info = fleet.info(3);
    assert_eq!(info.ejected_until, Some(seconds(231)));
    assert_eq!(info.times_ejected, 2);
}

#[test]
fn detection_counts_calls_from_when_it_is_switched_on() {
    let fleet = Fleet::new(round_robin(), 4);
    fleet.call(400, seconds(1), failures_of(3));
    fleet.detect(Some(detection()), seconds(5));
    assert_eq!(fleet.tick(seconds(15)), Some(seconds(25)));
    assert_eq!(fleet.info(3).ejected_until, None);
    fleet.call(400, seconds(16), failures_of(3));
    fleet.tick(seconds(25));
    assert_eq!(fleet.info(3).ejected_until, Some(seconds(55)));

    // Also when it was on before, and those between were seen by nobody.
    fleet.detect(None, seconds(26));
    fleet.call(400, seconds(27), failures_of(2));
    fleet.detect(Some(detection()), seconds(28));
    fleet.tick(seconds(38));
    assert_eq!(fleet.info(2).ejected_until, None);
}

#[test]
fn what_was_too_many_before_detection_was_off_counts_no_more() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(2)), 4);
    for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success] {
        fleet.call_to(3, seconds(1), outcome);
    }
    fleet.detect(None, seconds(1));
    fleet.detect(Some(consecutive(2)), seconds(2));
    fleet.tick(seconds(2));
    assert_eq!(fleet.info(3).times_ejected, 0);
}

#[test]
fn what_was_too_many_by_another_limit_is_not_too_many() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(2)), 4);
    for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success] {
        fleet.call_to(3, seconds(1), outcome);
    }
    fleet.detect(Some(consecutive(100)), seconds(1));
    fleet.tick(seconds(1));
    assert_eq!(fleet.info(3).times_ejected, 0);
}

#[test]
fn who_already_fails_too_often_in_a_row_is_ejected_by_the_change() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(5)), 4);
    fleet.call(12, seconds(1), failures_of(3));
    fleet.tick(seconds(1));
    assert_eq!(fleet.info(3).times_ejected, 0);
    fleet.detect(Some(consecutive(3)), seconds(2));
    assert_eq!(fleet.info(3).ejected_until, Some(seconds(32)));
    assert_eq!(fleet.picks(6)[2], 0);

    // And from the next failure on, the new number counts.
    for _ in 0..2 {
        assert!(!fleet.call_to(1, seconds(3), Outcome::Failure).is_urgent());
    }
    assert!(fleet.call_to(1, seconds(3), Outcome::Failure).is_urgent());
}

#[test]
fn another_interval_counts_from_the_last_sweep() {
    let every = |seconds| outlier_detection::Config {
        interval: Duration::from_secs(seconds),
        ..detection()
    };
    let fleet = Fleet::new(detecting(round_robin(), every(10)), 4);
    assert_eq!(fleet.tick(seconds(10)), Some(seconds(20)));
    fleet.detect(Some(every(60)), seconds(12));
    assert_eq!(fleet.balancer.due(), Some(seconds(70)));
    fleet.call(40, seconds(13), failures_of(3));
    // More than that has passed: at once.
    fleet.detect(Some(every(3)), seconds(15));
    assert_eq!(fleet.balancer.due(), Some(seconds(13)));
    assert_eq!(fleet.tick(seconds(15)), Some(seconds(18)));
    assert_eq!(fleet.info(3).times_ejected, 1, "nothing was forgotten");
}

#[test]
fn slow_start_counts_from_when_a_backend_became_ready() {
    for policy in [Policy::Random(random::Config), round_robin()] {
        let fleet = Fleet::new(policy, 2);
        fleet.set(2, State::Connecting, seconds(1));
        fleet.set(2, State::Ready, seconds(96));
        assert_eq!(fleet.balancer.due(), None);
        let slow_start = warming(round_robin()).slow_start;
        fleet.configure(|it| it.slow_start = slow_start, seconds(100));
        assert_eq!(fleet.weights(), [Some(1.0), Some(0.4)]);
        assert!(fleet.balancer.due().unwrap() < seconds(101));
        // As long as one warms up.
        assert!(fleet.tick(seconds(105)).is_some());
        assert_eq!(fleet.weights(), [Some(1.0), Some(0.9)]);

        fleet.configure(|it| it.slow_start = None, seconds(105));
        assert_eq!(fleet.weights(), [Some(1.0); 2]);
        assert_eq!(fleet.balancer.due(), None);
    }
}

#[test]
fn a_panic_begins_and_ends_with_its_threshold() {
    let fleet = Fleet::new(round_robin(), 4);
    for id in 1..=3 {
        fleet.set(id, State::TransientFailure, seconds(1));
    }
    assert_eq!(fleet.picks(8), [0, 0, 0, 8]);
    fleet.configure(|it| it.panic_threshold = 50, seconds(2));
    assert_eq!(fleet.picks(8), [2; 4]);
    fleet.configure(|it| it.panic_threshold = 20, seconds(3));
    assert_eq!(fleet.picks(8), [0, 0, 0, 8]);
}

#[test]
fn a_limit_of_all_calls_counts_those_that_began_under_one() {
    let fleet = Fleet::new(round_robin(), 2);
    let limit = |max| fleet.configure(|it| it.max_requests = max, seconds(1));
    let in_flight = || fleet.info(1).in_flight + fleet.info(2).in_flight;
    let before: Vec<_> = (0..5).map(|_| fleet.checkout(seconds(1)).1).collect();
    limit(Some(3));
    let under = fleet.checkouts(seconds(2));
    assert_eq!((under.len(), in_flight()), (3, 8));
    // Those from before are none of the three, and their end makes no room.
    drop(before);
    assert_eq!((fleet.checkouts(seconds(2)).len(), in_flight()), (0, 3));
    limit(Some(2));
    drop(under);
    assert_eq!(fleet.checkouts(seconds(2)).len(), 2);

    // Calls that were counted before the limit went and came again, are counted still.
    let kept = fleet.checkouts(seconds(3));
    limit(None);
    let between: Vec<_> = (0..5).map(|_| fleet.checkout(seconds(3)).1).collect();
    limit(Some(4));
    assert_eq!(fleet.checkouts(seconds(4)).len(), 2);
    drop(kept);
    assert_eq!(fleet.checkouts(seconds(4)).len(), 4);
    drop(between);
    assert_eq!(fleet.checkouts(seconds(4)).len(), 4);
    assert_eq!(in_flight(), 0);
}

#[test]
fn a_limit_of_each_backend_counts_all_its_calls() {
    let fleet = Fleet::new(round_robin(), 2);
    let tickets: Vec<_> = (0..6).map(|_| fleet.checkout(seconds(1)).1).collect();
    let limit = |max| fleet.configure(|it| it.max_requests_per_backend = max, seconds(1));
    limit(Some(4));
    assert_eq!(fleet.checkouts(seconds(2)).len(), 2);
    limit(Some(3));
    assert_eq!(fleet.checkouts(seconds(2)).len(), 0);
    drop(tickets);
    assert_eq!(fleet.checkouts(seconds(2)).len(), 6);
    limit(None);
    assert_eq!(fleet.checkouts(seconds(2)).len(), 100);
}

fn peak_ewma(decay: u64) -> Policy {
    Policy::PeakEwma(peak_ewma::Config {
        decay: Duration::from_secs(decay),
        ..Default::default()
    })
}

fn near(one: f64, other: f64) -> bool {
    (one / other - 1.0).abs() < 1e-6
}

#[test]
fn another_decay_keeps_what_was_measured() {
    let fleet = Fleet::new(peak_ewma(10), 3);
    let call = |id: u32, took: u64, now: u64| {
        let ticket = fleet.crowd_into(id, seconds(now));
        let end = seconds(now) + Duration::from_millis(took);
        ticket.complete(Outcome::Success, None, end).unwrap();
    };
    call(1, 40, 1);
    call(2, 20, 3);
    let latency = |id| fleet.info(id).latency_ns;
    let before = [latency(1).unwrap(), latency(2).unwrap()];
    // Several in a row, back and forth.
    for decay in [1, 100, 3, 7, 2, 1] {
        fleet.configure(|it| it.policy = peak_ewma(decay), seconds(4));
        assert!(near(latency(1).unwrap(), before[0]), "{decay}");
        assert!(near(latency(2).unwrap(), before[1]), "{decay}");
        assert_eq!(latency(3), None);
    }
    // From now on averages are as fast as that: after ten decays, nothing is left.
    call(2, 1, 13);
    assert!(latency(2).unwrap() < 1.01e6, "{:?}", latency(2));
}

fn rotating(cursor: CursorKind) -> Policy {
    Policy::RoundRobin(round_robin::Config {
        cursor,
        ..Default::default()
    })
}

#[test]
fn another_cursor_goes_on_where_the_last_one_was() {
    let fleet = Fleet::new(rotating(CursorKind::Shared), 3);
    let pick = || {
        fleet
            .balancer
            .pick(&fleet.caller, &Unowned, |id| *id)
            .unwrap()
    };
    let mut expected = (1..=3).cycle();
    for (now, callers) in (1..).zip([None, Some(1_024), Some(1_023), None, Some(1)]) {
        for _ in 0..5 {
            assert_eq!(Some(pick()), expected.next(), "{callers:?}");
        }
        let cursor = callers.map_or(CursorKind::Shared, CursorKind::PerCaller);
        let same =
            fleet
                .balancer
                .configure(|it| it.policy = rotating(cursor), &Unowned, seconds(now));
        assert_eq!(same == Ok(Configured::Unchanged), now == 1);
    }
    let picks: u64 = (1..=3).map(|id| fleet.info(id).picks).sum();
    assert_eq!(picks, 25);
}

#[test]
fn a_shuffle_is_switched_on_and_off() {
    let shuffle = |shuffle| Policy::PickFirst(pick_first::Config { shuffle });
    let fleet = Fleet::new(shuffle(false), 200);
    // The backend that is selected stays so: the order tells which one follows it.
    let selected = || fleet.picks(1).iter().position(|picks| *picks == 1).unwrap() as u32 + 1;
    let next = |now| {
        let last = selected();
        fleet.set(last, State::TransientFailure, seconds(now));
        fleet.set(last, State::Ready, seconds(now));
        selected()
    };
    assert_eq!(selected(), 1);
    fleet.configure(|it| it.policy = shuffle(true), seconds(1));
    assert_eq!(selected(), 1);
    let shuffled = next(1);
    assert_ne!(shuffled, 2, "the chance is small, and the seed is fixed");
    fleet.configure(|it| it.policy = shuffle(false), seconds(2));
    assert_eq!(selected(), shuffled);
    assert_eq!(next(2), 1);
    fleet.configure(|it| it.policy = shuffle(true), seconds(3));
    assert_eq!(next(3), shuffled, "the same order");
}

#[test]
fn weights_come_from_reports_or_from_the_list() {
    let given = || Policy::WeightedRoundRobin(Default::default());
    let fleet = Fleet::new(given(), 3);
    call_with_reports(&fleet, 3, seconds(1));
    assert_eq!(fleet.weights(), [Some(1.0); 3]);
    assert!(!fleet.balancer.is_timed());

    // Reports from before then were not read.
    fleet.configure(|it| it.policy = reported(|_| {}), seconds(2));
    assert_eq!(fleet.weights(), [None; 3]);
    assert_eq!(fleet.balancer.due(), Some(seconds(3)));
    call_with_reports(&fleet, 3, seconds(2));
    fleet.tick(seconds(12));
    let known = [Some(100.0), Some(200.0), Some(300.0)];
    assert_eq!(fleet.weights(), known);

    // Other options read the same reports.
    let patient = |it: &mut reported_weight::Config| it.blackout_period = Duration::from_secs(60);
    fleet.configure(|it| it.policy = reported(patient), seconds(13));
    assert_eq!(fleet.weights(), [None; 3]);
    fleet.configure(|it| it.policy = reported(|_| {}), seconds(14));
    assert_eq!(fleet.weights(), known);
    assert_eq!(fleet.picks(6_000), [1_000, 2_000, 3_000]);

    // What is known stays known while the list's weights count.
    fleet.configure(|it| it.policy = given(), seconds(15));
    assert_eq!(fleet.weights(), [Some(1.0); 3]);
    assert_eq!(fleet.picks(6_000), [2_000; 3]);
    assert_eq!(fleet.balancer.due(), None);
    fleet.configure(|it| it.policy = reported(|_| {}), seconds(16));
    assert_eq!(fleet.weights(), known);
}

#[test]
fn calls_that_end_meanwhile_leave_averages_and_counts_as_they_should_be() {
    const MS: u64 = 1_000_000;
    let fleet = Fleet::new(peak_ewma(10), 3);
    let balancer = &fleet.balancer;
    let stop = AtomicBool::new(false);
    let calls: u64 = thread::scope(|scope| {
        let callers: Vec<_> = (0..3)
            .map(|seed| {
                let stop = &stop;
                scope.spawn(move || {
                    let caller = Caller::new(seed);
                    let mut calls = 0;
                    while !stop.load(Ordering::Relaxed) || calls < 1_000 {
                        let now = Time(calls);
                        let checkout = balancer.checkout(&caller, &Unowned, now, |_| ());
                        if let Ok((_, ticket)) = checkout {
                            let end = Time(now.0 + MS);
                            ticket.complete(Outcome::Success, None, end).unwrap();
                            calls += 1;
                        }
                    }
                    calls
                })
            })
            .collect();
        // Decays that are far apart: an average in terms of the wrong one would be days or nothing.
        for (round, decay) in [1, 1_000].into_iter().cycle().take(3_000).enumerate() {
            let change = |config: &mut Config| {
                config.policy = peak_ewma(decay);
                config.max_requests = [None, Some(2), Some(3)][round % 3];
                config.max_requests_per_backend = [None, Some(1)][round % 2];
                config.outlier_detection =
                    [None, Some(Box::new(consecutive(1)))][round % 2].clone();
            };
            fleet.configure(change, Time(round as u64));
        }
        stop.store(true, Ordering::Relaxed);
        callers.into_iter().map(|it| it.join().unwrap()).sum()
    });
    let backends = fleet.balancer.info(&Unowned).backends;
    for backend in &backends {
        assert_eq!(backend.in_flight, 0);
        let latency = backend.latency_ns.expect("there were calls");
        assert!((latency / MS as f64 - 1.0).abs() < 0.01, "{latency}");
    }
    let ended: u64 = backends.iter().map(|backend| backend.successes).sum();
    assert_eq!(ended, calls);
    fleet.configure(
        |it| (it.max_requests, it.max_requests_per_backend) = (Some(7), None),
        Time(0),
    );
    assert_eq!(fleet.checkouts(Time(0)).len(), 7);
}
