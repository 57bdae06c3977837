//! The whole balancer over time, with a clock that is driven by hand.
#![cfg(not(loom))]

use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{self, ConsecutiveFailures, FailurePercentage};
use grpc_lb_core::health::slow_start;
use grpc_lb_core::load::orca::{LoadReport, Report};
use grpc_lb_core::load::reported_weight::{self, Source};
use grpc_lb_core::policy::peak_ewma::Penalty;
use grpc_lb_core::policy::weighted_round_robin::{self, Weights};
use grpc_lb_core::policy::{least_request, peak_ewma, random, round_robin, Policy};
use grpc_lb_core::{
    Backend, BackendInfo, Balancer, Busy, Caller, Config, LatencySample, MemberError, Outcome,
    Owner, Owners, Search, State, Ticket, Time, Unavailable, Unowned,
};

mod clocks;
mod configure;
mod events;
mod latency;
mod layers;
mod memory;
mod subset;

#[path = "../support/mod.rs"]
mod support;

fn ms(milliseconds: u64) -> Time {
    Time(milliseconds * 1_000_000)
}

fn seconds(seconds: u64) -> Time {
    ms(seconds * 1_000)
}

/// Whether picks are as a schedule of 16 bits has them.
fn assert_near(picks: &[usize], expected: &[usize]) {
    let near = |(got, expected): (&usize, &usize)| got.abs_diff(*expected) <= 4;
    assert!(
        picks.iter().zip(expected).all(near),
        "{picks:?} for {expected:?}"
    );
}

fn round_robin() -> Policy {
    Policy::RoundRobin(round_robin::Config::default())
}

/// A balancer, and who calls.
struct Fleet {
    balancer: Balancer<u32>,
    caller: Caller,
}

impl Fleet {
    /// Backends that are numbered from 1.
    fn new(config: impl Into<Config>, backends: u32) -> Fleet {
        Fleet::seeded(config, backends, 5)
    }

    fn seeded(config: impl Into<Config>, backends: u32, seed: u64) -> Fleet {
        let fleet = Fleet {
            balancer: Balancer::new(config, 3, Time(0)),
            caller: Caller::new(seed),
        };
        fleet.reconcile(backends, Time(0));
        fleet
    }

    fn reconcile(&self, backends: u32, now: Time) {
        let list = (1..=backends).map(|id| support::keyed(Backend::new(id, id)));
        let list: Vec<_> = list.collect();
        self.balancer.reconcile(&list, &Unowned, now).unwrap();
    }

    fn tick(&self, now: Time) -> Option<Time> {
        self.balancer.tick(&Unowned, now)
    }

    fn set(&self, id: u32, state: State, now: Time) {
        let set = self.balancer.set_state(&id, state, &Unowned, now);
        set.unwrap();
    }

    fn checkout(&self, now: Time) -> (u32, Ticket) {
        let balancer = &self.balancer;
        let checkout = balancer.checkout(&self.caller, &Unowned, now, |id| *id);
        checkout.expect("there is a backend")
    }

    /// So many calls, one after the other, that take no time.
    fn call(&self, calls: usize, now: Time, outcome: impl Fn(u32) -> Outcome) {
        for _ in 0..calls {
            let (id, ticket) = self.checkout(now);
            ticket.complete(outcome(id), None, now).unwrap();
        }
    }

    /// Of this backend, which the policy comes to sooner or later.
    fn checkout_of(&self, wanted: u32, now: Time) -> Ticket {
        let mut checkouts = std::iter::repeat_with(|| self.checkout(now));
        let found = checkouts.find(|(id, _)| *id == wanted);
        found.expect("it goes on for ever").1
    }

    fn call_to(&self, id: u32, now: Time, outcome: Outcome) -> Ticket {
        let ticket = self.checkout_of(id, now);
        ticket.complete(outcome, None, now).unwrap();
        ticket
    }

    /// A report outside of any call.
    fn report(&self, id: u32, weight: f64, now: Time) {
        let report = weighing(weight);
        let report = LoadReport::Decoded(&report);
        self.balancer.report(&id, report, &Unowned, now).unwrap();
    }

    /// A call, with a report at its end.
    fn call_with_report(&self, id: u32, weight: f64, now: Time) {
        let report = weighing(weight);
        let report = Some(LoadReport::Decoded(&report));
        let ticket = self.checkout_of(id, now);
        ticket.complete(Outcome::Success, report, now).unwrap();
    }

    /// How often each backend is picked, from the first on.
    fn picks(&self, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; self.balancer.summary().backends];
        for _ in 0..picks {
            let picked = self.balancer.pick(&self.caller, &Unowned, |id| *id);
            counts[picked.expect("there is a backend") as usize - 1] += 1;
        }
        counts
    }

    fn info(&self, id: u32) -> BackendInfo<u32> {
        let backends = self.balancer.info(&Unowned).backends;
        let found = backends.into_iter().find(|backend| backend.id == id);
        found.expect("it is listed")
    }

    /// `None` is not known.
    fn weights(&self) -> Vec<Option<f64>> {
        let backends = self.balancer.info(&Unowned).backends.into_iter();
        backends.map(|backend| backend.current_weight).collect()
    }
}

fn failures_of(id: u32) -> impl Fn(u32) -> Outcome {
    move |other| match other == id {
        true => Outcome::Failure,
        false => Outcome::Success,
    }
}

/// Sweeps every ten seconds for backends of which more than half of ten calls or more fail.
fn detection() -> outlier_detection::Config {
    outlier_detection::Config {
        max_ejection_percent: 50,
        failure_percentage: Some(FailurePercentage {
            threshold: 50,
            minimum_hosts: 3,
            request_volume: 10,
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn consecutive(failures: u32) -> outlier_detection::Config {
    outlier_detection::Config {
        max_ejection_percent: 50,
        consecutive_failures: NonZeroU32::new(failures).map(ConsecutiveFailures::of),
        ..Default::default()
    }
}

fn detecting(policy: Policy, detection: outlier_detection::Config) -> Config {
    Config {
        outlier_detection: Some(Box::new(detection)),
        ..Config::from(policy)
    }
}

#[test]
fn without_work_that_time_drives_nothing_is_ever_due() {
    for policy in support::policies() {
        if policy.name() == "weighted_round_robin" {
            continue;
        }
        let fleet = Fleet::new(policy, 3);
        fleet.call(50, seconds(1), |_| Outcome::Failure);
        fleet.set(1, State::TransientFailure, seconds(2));
        fleet.set(1, State::Ready, seconds(3));
        let generation = fleet.balancer.info(&Unowned).generation;
        assert_eq!(fleet.balancer.due(), None);
        assert_eq!(fleet.tick(seconds(1_000)), None);
        assert_eq!(fleet.balancer.info(&Unowned).generation, generation);
    }
}

#[test]
fn a_sweep_ejects_and_a_later_one_lets_back_in() {
    for policy in support::policies() {
        if policy.name() == "pick_first" {
            continue;
        }
        let name = policy.name();
        let fleet = Fleet::new(detecting(policy, detection()), 4);
        // At the same time, or peak_ewma would soon call the third no more.
        let calls: Vec<_> = (0..400).map(|_| fleet.checkout(seconds(1))).collect();
        for (id, ticket) in calls {
            ticket
                .complete(failures_of(3)(id), None, seconds(2))
                .unwrap();
        }
        fleet.tick(ms(9_999));
        assert_eq!(fleet.info(3).ejected_until, None, "{name}");

        let due = fleet.tick(seconds(10)).unwrap();
        assert!(seconds(10) < due && due <= seconds(20), "{name} {due:?}");
        let ejected = fleet.info(3);
        assert_eq!(ejected.ejected_until, Some(seconds(40)), "{name}");
        assert_eq!(ejected.times_ejected, 1);
        assert_eq!(ejected.state, State::Ready);
        let picks = fleet.picks(300);
        assert_eq!(picks[2], 0, "{name} {picks:?}");
        assert!(picks.iter().filter(|picks| **picks > 0).count() >= 2);

        // It ends at the first sweep later than that.
        for sweep in [20, 30, 40] {
            fleet.tick(seconds(sweep));
            assert_eq!(fleet.info(3).ejected_until, Some(seconds(40)), "{name}");
        }
        fleet.tick(seconds(50));
        assert_eq!(fleet.info(3).ejected_until, None, "{name}");

        // The second ejection is twice as long.
        if name == "round_robin" {
            fleet.call(400, seconds(51), failures_of(3));
            fleet.tick(seconds(60));
            let ejected = fleet.info(3);
            assert_eq!(ejected.ejected_until, Some(seconds(120)));
            assert_eq!(ejected.times_ejected, 2);
        }
    }
}

#[test]
fn who_was_let_back_in_is_picked_again() {
    let fleet = Fleet::new(detecting(round_robin(), detection()), 4);
    fleet.call(400, seconds(1), failures_of(3));
    fleet.tick(seconds(10));
    assert_eq!(fleet.picks(300), [100, 100, 0, 100]);
    fleet.tick(seconds(50));
    assert_eq!(fleet.picks(400), [100; 4]);
}

#[test]
fn a_sweep_sees_the_calls_since_the_last_one_only() {
    let fleet = Fleet::new(detecting(round_robin(), detection()), 3);
    for sweep in 1..10 {
        // Nine calls each: one too few.
        fleet.call(27, ms(sweep * 10_000 - 1), failures_of(2));
        assert_eq!(
            fleet.tick(seconds(sweep * 10)),
            Some(seconds(sweep * 10 + 10))
        );
        assert_eq!(fleet.info(2).times_ejected, 0, "sweep {sweep}");
    }
    // Those that were cancelled say nothing.
    fleet.call(300, seconds(95), |_| Outcome::Cancelled);
    fleet.call(27, seconds(95), failures_of(2));
    fleet.tick(seconds(100));
    assert_eq!(fleet.info(2).times_ejected, 0);
    fleet.call(30, seconds(105), failures_of(2));
    fleet.tick(seconds(110));
    assert_eq!(fleet.info(2).times_ejected, 1);
}

#[test]
fn calls_of_ejected_and_removed_backends_end_as_all_others() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(2)), 3);
    let tickets: Vec<_> = (0..3).map(|_| fleet.checkout(seconds(1))).collect();
    fleet.call(6, seconds(1), failures_of(2));
    fleet.tick(seconds(2));
    assert!(fleet.info(2).ejected_until.is_some());
    assert_eq!(fleet.info(2).in_flight, 1);
    for (id, ticket) in &tickets {
        if *id == 2 {
            ticket.complete(Outcome::Success, None, seconds(3)).unwrap();
        }
    }
    assert_eq!((fleet.info(2).in_flight, fleet.info(2).successes), (0, 1));

    // Removed while a call is in flight: that is nothing to one that has its id later.
    let removed = fleet.balancer.remove(&[1], &Unowned, Time(0)).unwrap();
    assert_eq!(removed.removed, 1);
    fleet.reconcile(3, seconds(4));
    for (id, ticket) in &tickets {
        if *id == 1 {
            ticket.complete(Outcome::Failure, None, seconds(5)).unwrap();
        }
    }
    let again = fleet.info(1);
    assert_eq!((again.in_flight, again.failures, again.picks), (0, 0, 0));
    assert_eq!(fleet.info(3).in_flight, 1);
}

#[test]
fn failures_in_a_row_are_urgent_and_the_next_tick_ejects() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(3)), 4);
    fleet.call_to(2, seconds(1), Outcome::Failure);
    fleet.call_to(2, seconds(1), Outcome::Failure);
    fleet.call_to(2, seconds(1), Outcome::Success);
    fleet.call_to(2, seconds(1), Outcome::Failure);
    let second = fleet.call_to(2, seconds(1), Outcome::Failure);
    assert!(!second.is_urgent(), "not in a row");
    assert_eq!(fleet.tick(seconds(2)), Some(seconds(10)));
    assert_eq!(fleet.info(2).times_ejected, 0);

    let third = fleet.call_to(2, seconds(3), Outcome::Failure);
    assert!(third.is_urgent());
    assert_eq!(fleet.balancer.due(), Some(Time(0)));
    // Not a sweep: the next one stays where it is.
    assert_eq!(fleet.tick(seconds(4)), Some(seconds(10)));
    assert_eq!(fleet.info(2).ejected_until, Some(seconds(34)));
    assert_eq!(fleet.picks(300), [100, 0, 100, 100]);
    assert!(!third.is_urgent());
}

#[test]
fn a_success_before_the_tick_does_not_undo_that_there_were_too_many() {
    let detection = outlier_detection::Config {
        consecutive_transport_failures: NonZeroU32::new(2),
        ..consecutive(3)
    };
    let fleet = Fleet::new(detecting(round_robin(), detection), 6);
    for (id, outcome, failures) in [(2, Outcome::Failure, 3), (3, Outcome::TransportFailure, 2)] {
        for _ in 0..failures {
            fleet.call_to(id, seconds(1), outcome);
        }
        fleet.call_to(id, seconds(1), Outcome::Success);
        fleet.tick(seconds(1));
        assert_eq!(fleet.info(id).times_ejected, 1, "{outcome:?}");
    }
    assert_eq!(fleet.info(2).ejected_until, Some(seconds(31)));
    assert_eq!(fleet.info(3).ejected_until, Some(seconds(2)));
}

#[test]
fn what_was_too_many_counts_at_the_next_tick_alone() {
    let detection = outlier_detection::Config {
        max_ejection_percent: 1,
        ..consecutive(2)
    };
    let fleet = Fleet::new(detecting(round_robin(), detection), 3);
    let fail_and_succeed = |id, now| {
        for _ in 0..2 {
            fleet.call_to(id, now, Outcome::Failure);
        }
        fleet.call_to(id, now, Outcome::Success);
        fleet.tick(now);
    };
    fail_and_succeed(1, seconds(1));
    // There is no room for it, and it works when there is some.
    fail_and_succeed(2, seconds(2));
    for now in [40, 50, 60] {
        fleet.tick(seconds(now));
    }
    assert_eq!([1, 2].map(|id| fleet.info(id).times_ejected), [1, 0]);
    fail_and_succeed(2, seconds(61));
    assert_eq!(fleet.info(2).ejected_until, Some(seconds(91)));
}

#[test]
fn nothing_is_urgent_when_the_balancer_is_gone() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(1)), 1);
    let [one, other] = [(), ()].map(|()| fleet.checkout(seconds(1)).1);
    one.complete(Outcome::Failure, None, seconds(1)).unwrap();
    assert!(one.is_urgent());
    drop(fleet);
    assert!(!one.is_urgent());
    other.complete(Outcome::Failure, None, seconds(1)).unwrap();
    assert!(!other.is_urgent());
}

#[test]
fn failures_from_before_an_ejection_or_during_it_count_for_nothing_after_it() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(3)), 4);
    let late: Vec<_> = (0..40).map(|_| fleet.checkout(seconds(1))).collect();
    for _ in 0..3 {
        fleet.call_to(2, seconds(1), Outcome::Failure);
    }
    fleet.tick(seconds(2));
    for (id, ticket) in &late {
        ticket
            .complete(failures_of(2)(*id), None, seconds(3))
            .unwrap();
    }
    fleet.tick(seconds(4));
    assert_eq!(fleet.info(2).times_ejected, 1, "it is out already");
    fleet.tick(seconds(40));
    assert_eq!(fleet.info(2).ejected_until, None);
    for _ in 0..2 {
        fleet.call_to(2, seconds(41), Outcome::Failure);
    }
    assert_eq!(fleet.tick(seconds(50)), Some(seconds(60)));
    assert_eq!(fleet.info(2).times_ejected, 1);
    fleet.call_to(2, seconds(51), Outcome::Failure);
    fleet.tick(seconds(52));
    assert_eq!(fleet.info(2).times_ejected, 2);
}

fn by_transport(failures: u32) -> outlier_detection::Config {
    outlier_detection::Config {
        max_ejection_percent: 100,
        consecutive_transport_failures: NonZeroU32::new(failures),
        ..Default::default()
    }
}

#[test]
fn who_cannot_be_reached_is_out_at_once_for_a_second_and_then_for_longer() {
    let fleet = Fleet::new(detecting(round_robin(), by_transport(1)), 3);
    let (one, other) = (
        fleet.checkout_of(2, seconds(1)),
        fleet.checkout_of(2, seconds(1)),
    );
    one.complete(Outcome::TransportFailure, None, seconds(1))
        .unwrap();
    assert!(one.is_urgent());
    // Its end does not wait for a sweep.
    assert_eq!(fleet.tick(seconds(1)), Some(seconds(2)));
    let out = fleet.info(2);
    assert_eq!(
        (out.ejected_until, out.times_ejected),
        (Some(seconds(2)), 1)
    );
    assert_eq!((out.state, out.failures), (State::Ready, 1));
    assert_eq!(fleet.picks(200), [100, 0, 100]);
    // What was under way has failed for the same reason.
    other
        .complete(Outcome::TransportFailure, None, seconds(1))
        .unwrap();
    assert_eq!(fleet.tick(ms(1_999)), Some(seconds(2)));
    assert_eq!(fleet.tick(seconds(2)), Some(seconds(10)));
    assert_eq!(fleet.info(2).ejected_until, None);
    assert_eq!(fleet.picks(300), [100; 3]);

    fleet.call_to(2, seconds(2), Outcome::TransportFailure);
    assert_eq!(fleet.tick(seconds(2)), Some(ms(3_600)));
    fleet.tick(ms(3_600));
    fleet.call_to(2, seconds(4), Outcome::Success);
    fleet.call_to(2, seconds(4), Outcome::TransportFailure);
    assert_eq!(fleet.tick(seconds(4)), Some(seconds(5)), "a success resets");
    assert_eq!(fleet.info(2).times_ejected, 3);
}

#[test]
fn other_failures_are_none_of_the_transport_and_those_of_it_are_failures() {
    let detection = outlier_detection::Config {
        consecutive_transport_failures: NonZeroU32::new(2),
        ..consecutive(3)
    };
    let fleet = Fleet::new(detecting(round_robin(), detection), 4);
    fleet.call_to(2, seconds(1), Outcome::TransportFailure);
    fleet.call_to(2, seconds(1), Outcome::Failure);
    fleet.tick(seconds(1));
    assert_eq!(fleet.info(2).times_ejected, 0);
    fleet.call_to(2, seconds(1), Outcome::TransportFailure);
    fleet.tick(seconds(1));
    // Of both there are too many now, and the later end is shown.
    let out = fleet.info(2);
    assert_eq!(
        (out.ejected_until, out.times_ejected),
        (Some(seconds(31)), 2)
    );
    assert_eq!(fleet.tick(seconds(2)), Some(seconds(10)));
    assert_eq!(fleet.picks(300)[1], 0);
    fleet.tick(seconds(32));
    assert_eq!(fleet.info(2).ejected_until, None);
}

#[test]
fn who_is_connected_anew_has_been_reached() {
    let fleet = Fleet::new(detecting(round_robin(), by_transport(2)), 3);
    let late = fleet.checkout_of(2, seconds(1));
    late.complete(Outcome::TransportFailure, None, seconds(1))
        .unwrap();
    fleet.set(2, State::Connecting, seconds(1));
    fleet.set(2, State::Ready, seconds(2));
    fleet.call_to(2, seconds(2), Outcome::TransportFailure);
    fleet.tick(seconds(10));
    assert_eq!(fleet.info(2).times_ejected, 0);
}

#[test]
fn the_last_that_can_be_picked_is_not_ejected() {
    for outcome in [Outcome::Failure, Outcome::TransportFailure] {
        let detection = outlier_detection::Config {
            max_ejection_percent: 100,
            ..outlier_detection::Config {
                consecutive_transport_failures: NonZeroU32::new(1),
                ..consecutive(5)
            }
        };
        for backends in [1, 3] {
            let fleet = Fleet::new(detecting(round_robin(), detection.clone()), backends);
            for _ in 0..30 {
                fleet.call(1, seconds(1), |_| outcome);
                fleet.tick(seconds(1));
            }
            let ejected = |id: &u32| fleet.info(*id).ejected_until.is_some();
            assert_eq!(
                (1..=backends).filter(ejected).count(),
                backends as usize - 1
            );
            fleet.call(1, seconds(1), |_| Outcome::Success);
        }
    }
}

#[test]
fn those_that_drain_do_not_count() {
    let detection = outlier_detection::Config {
        max_ejection_percent: 30,
        ..consecutive(1)
    };
    let fleet = Fleet::new(detecting(round_robin(), detection), 10);
    for id in 4..=10 {
        fleet.set(id, State::Draining, seconds(1));
    }
    fleet.call(30, seconds(1), |_| Outcome::Failure);
    fleet.tick(seconds(1));
    let ejected = |id: &u32| fleet.info(*id).ejected_until.is_some();
    assert_eq!((1..=10).filter(ejected).collect::<Vec<_>>(), [1]);
}

#[test]
fn the_ejected_are_picked_when_no_other_can_be() {
    for strict in [true, false] {
        let detection = outlier_detection::Config {
            strict,
            ..consecutive(1)
        };
        let fleet = Fleet::new(detecting(round_robin(), detection), 3);
        fleet.call_to(2, seconds(1), Outcome::Failure);
        fleet.tick(seconds(1));
        fleet.set(1, State::Draining, seconds(2));
        assert_eq!(fleet.picks(10), [0, 0, 10]);
        fleet.set(3, State::TransientFailure, seconds(2));
        let pick = || fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
        if !strict {
            assert_eq!(pick(), Err(Unavailable::NoBackends));
            continue;
        }
        assert_eq!(pick(), Ok(2));
        let still = fleet.info(2);
        assert_eq!(
            (still.ejected_until, still.times_ejected),
            (Some(seconds(31)), 1)
        );
        // Nor does its ejection end for that.
        fleet.set(3, State::Ready, seconds(3));
        assert_eq!(fleet.picks(10), [0, 0, 10]);
        fleet.balancer.remove(&[3], &Unowned, Time(0)).unwrap();
        assert_eq!(pick(), Ok(2));
        let letter = |config: &mut Config| {
            config.outlier_detection.as_mut().unwrap().strict = false;
        };
        fleet
            .balancer
            .configure(letter, &Unowned, seconds(4))
            .unwrap();
        assert_eq!(pick(), Err(Unavailable::NoBackends));
    }
}

#[test]
fn no_more_are_ejected_than_may_be() {
    let config = outlier_detection::Config {
        max_ejection_percent: 50,
        ..consecutive(2)
    };
    let fleet = Fleet::new(detecting(round_robin(), config), 4);
    fleet.call(8, seconds(1), |_| Outcome::Failure);
    fleet.tick(seconds(2));
    let ejected = |id| fleet.info(id).ejected_until.is_some();
    assert_eq!((1..=4).filter(|id| ejected(*id)).count(), 2);
    // The others are, as soon as there is room: when those are back.
    fleet.tick(seconds(40));
    assert_eq!((1..=4).filter(|id| ejected(*id)).count(), 0);
    fleet.tick(seconds(50));
    let times: Vec<_> = (1..=4).map(|id| fleet.info(id).times_ejected).collect();
    assert_eq!(times, [1; 4]);
}

fn warming(policy: Policy) -> Config {
    Config {
        slow_start: Some(Box::new(slow_start::Config {
            window: Duration::from_secs(10),
            ..Default::default()
        })),
        ..Config::from(policy)
    }
}

#[test]
fn slow_start_gives_weight_step_by_step_and_then_has_nothing_to_do() {
    let fleet = Fleet::new(warming(Policy::Random(random::Config)), 2);
    assert_eq!(fleet.weights(), [Some(0.1), Some(0.1)]);
    assert!(fleet.balancer.due().unwrap() <= ms(200));
    assert_eq!(fleet.tick(seconds(10)), None);
    assert_eq!(fleet.weights(), [Some(1.0), Some(1.0)]);

    fleet.reconcile(3, seconds(20));
    assert_eq!(fleet.weights(), [Some(1.0), Some(1.0), Some(0.1)]);
    let mut due = fleet.balancer.due();
    assert_eq!(due, Some(Time(seconds(20).0 + 156_250_000)), "a 64th of it");
    // As somebody would who does what is due.
    let mut last = Some(0.0);
    while let Some(now) = due {
        assert!(now < seconds(31));
        due = fleet.tick(now);
        let weight = fleet.weights()[2];
        let warm = ((now.0 - seconds(20).0) / 1_000_000) as f64 / 10_000.0;
        assert_eq!(weight, Some(warm.clamp(0.1, 1.0)));
        assert!(weight >= last);
        last = weight;
    }
    assert_eq!(fleet.weights(), [Some(1.0); 3]);

    // Whoever becomes ready again begins again.
    fleet.set(1, State::Draining, seconds(40));
    assert_eq!(fleet.balancer.due(), None);
    fleet.set(1, State::Ready, seconds(50));
    assert_eq!(fleet.weights(), [Some(0.1), Some(1.0), Some(1.0)]);
    assert!(fleet.balancer.due().is_some());
    // A reconcile that leaves it as it is does not.
    fleet.tick(seconds(55));
    fleet.reconcile(3, seconds(56));
    assert_eq!(fleet.weights(), [Some(0.5), Some(1.0), Some(1.0)]);
}

#[test]
fn picks_follow_the_weights_of_slow_start() {
    let share_of_the_third = |policy: Policy, now: u64| {
        let fleet = Fleet::new(warming(policy), 2);
        fleet.tick(seconds(10));
        fleet.reconcile(3, seconds(20));
        fleet.tick(seconds(now));
        fleet.picks(60_000)[2]
    };
    let wrr = || Policy::WeightedRoundRobin(weighted_round_robin::Config::default());
    // 5 of 25, exactly: the schedule is fixed.
    assert!(share_of_the_third(wrr(), 25).abs_diff(12_000) <= 2);
    assert!(share_of_the_third(wrr(), 30).abs_diff(20_000) <= 2);
    // Five standard deviations.
    assert!(share_of_the_third(Policy::Random(random::Config), 20).abs_diff(60_000 / 21) < 260);
    assert!(share_of_the_third(Policy::Random(random::Config), 25).abs_diff(12_000) < 490);
    assert!(share_of_the_third(Policy::Random(random::Config), 30).abs_diff(20_000) < 580);
    let least_request = || Policy::LeastRequest(least_request::Config::default());
    assert!(share_of_the_third(least_request(), 20).abs_diff(60_000 / 21) < 260);
    assert!(share_of_the_third(least_request(), 25).abs_diff(12_000) < 490);
    assert!(share_of_the_third(least_request(), 30).abs_diff(20_000) < 580);
}

/// The share of the last one of so many backends in percent of a whole share, so long after it came,
/// where so many calls are in flight at once, of which any ends next.
fn share_of_a_new_one(policy: Policy, backends: u32, at_once: usize, after: u64) -> f64 {
    let fleet = Fleet::new(warming(policy), backends - 1);
    fleet.tick(seconds(10));
    fleet.reconcile(backends, seconds(20));
    let now = seconds(20 + after);
    fleet.tick(now);
    let mut random = fastrand::Rng::with_seed(41);
    let mut open: Vec<Ticket> = Vec::new();
    let calls = 3_000 * backends as usize;
    let mut of_new = 0;
    for call in 0..calls {
        let (id, ticket) = fleet.checkout(now);
        of_new += usize::from(call >= calls / 3 && id == backends);
        open.push(ticket);
        if open.len() > at_once {
            open.swap_remove(random.usize(..open.len()));
        }
    }
    100.0 * of_new as f64 * f64::from(backends) / (calls - calls / 3) as f64
}

#[test]
fn slow_start_ramps_the_share_of_every_policy_that_weighs() {
    let policies = [
        Policy::Random(random::Config),
        Policy::WeightedRoundRobin(weighted_round_robin::Config::default()),
        Policy::LeastRequest(least_request::Config::default()),
    ];
    for policy in policies {
        for backends in [2, 132] {
            // Of a few calls in flight half of one would be more than is looked for.
            for at_once in [0, 32 * backends as usize] {
                for after in [0, 3, 5, 8] {
                    let weight = (after as f64 / 10.0).max(0.1);
                    let whole = f64::from(backends);
                    let expected = 100.0 * whole * weight / (whole - 1.0 + weight);
                    let got = share_of_a_new_one(policy.clone(), backends, at_once, after);
                    assert!(
                        (got - expected).abs() < 5.0,
                        "{}, {backends} backends, {at_once} at once, after {after} s: \
                         {got} for {expected}",
                        policy.name()
                    );
                }
            }
        }
    }
}

#[test]
fn a_newcomer_whose_weight_is_not_known_warms_up_from_the_mean() {
    let config = warming(reported(|_| {}));
    let fleet = Fleet::new(config, 3);
    call_with_reports(&fleet, 3, seconds(1));
    fleet.tick(seconds(11));
    fleet.reconcile(4, seconds(12));
    assert_eq!(fleet.weights()[3], None);
    // A tenth of the mean, which is a third of the others.
    assert_near(&fleet.picks(6_200)[3..], &[200]);
    fleet.tick(seconds(17));
    assert_near(&fleet.picks(7_000)[3..], &[1_000]);
}

#[test]
fn slow_start_begins_anew_after_an_ejection() {
    let config = Config {
        outlier_detection: Some(Box::new(consecutive(2))),
        ..warming(Policy::Random(random::Config))
    };
    let fleet = Fleet::new(config, 3);
    fleet.tick(seconds(10));
    fleet.call_to(2, seconds(11), Outcome::Failure);
    fleet.call_to(2, seconds(11), Outcome::Failure);
    fleet.tick(seconds(12));
    assert_eq!(
        fleet.tick(seconds(20)),
        Some(seconds(30)),
        "nobody warms up"
    );
    let due = fleet.tick(seconds(50)).unwrap();
    assert_eq!(fleet.weights(), [Some(1.0), Some(0.1), Some(1.0)]);
    assert!(due < ms(50_200));
    fleet.tick(seconds(55));
    assert_eq!(fleet.weights(), [Some(1.0), Some(0.5), Some(1.0)]);
}

#[test]
fn panic_begins_below_the_threshold_and_ends_at_it() {
    let config = Config {
        panic_threshold: 50,
        ..Config::from(round_robin())
    };
    let fleet = Fleet::new(config, 4);
    fleet.set(1, State::TransientFailure, seconds(1));
    fleet.set(2, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(100), [0, 0, 50, 50], "half of them is enough");
    fleet.set(3, State::TransientFailure, seconds(2));
    assert_eq!(fleet.picks(100), [25; 4]);
    fleet.set(3, State::Ready, seconds(3));
    assert_eq!(fleet.picks(100), [0, 0, 50, 50]);

    // Who drains, or connects, is not picked in a panic and does not bring one about.
    fleet.set(1, State::Draining, seconds(4));
    fleet.set(2, State::Connecting, seconds(4));
    fleet.set(3, State::Draining, seconds(4));
    assert_eq!(fleet.picks(100), [0, 0, 0, 100]);
    fleet.set(4, State::TransientFailure, seconds(5));
    assert_eq!(fleet.picks(100), [0, 0, 0, 100], "in a panic");
    fleet.set(4, State::Draining, seconds(6));
    let picked = fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
    assert_eq!(picked, Err(Unavailable::NoBackends));

    // A list, too, can begin and end one: three have failed, then of ten.
    for id in [1, 2, 3] {
        fleet.set(id, State::TransientFailure, seconds(7));
    }
    fleet.set(4, State::Ready, seconds(7));
    assert_eq!(fleet.picks(100), [25; 4]);
    fleet.reconcile(10, seconds(8));
    assert_eq!(fleet.picks(70)[..4], [0, 0, 0, 10]);
    fleet.reconcile(4, seconds(9));
    assert_eq!(fleet.picks(100), [25; 4]);
}

#[test]
fn when_too_many_are_ejected_all_are_picked() {
    let detection = outlier_detection::Config {
        max_ejection_percent: 100,
        ..consecutive(2)
    };
    let config = Config {
        panic_threshold: 50,
        ..detecting(round_robin(), detection)
    };
    let fleet = Fleet::new(config, 4);
    fleet.call(8, seconds(1), |id| match id {
        4 => Outcome::Success,
        _ => Outcome::Failure,
    });
    fleet.tick(seconds(2));
    let ejected: Vec<_> = (1..=4).map(|id| fleet.info(id).ejected_until).collect();
    let until = Some(seconds(32));
    assert_eq!(ejected, [until, until, until, None]);
    assert_eq!(fleet.picks(100), [25; 4], "in a panic");
    fleet.tick(seconds(40));
    assert_eq!(fleet.picks(100), [25; 4], "and after it");
}

/// Backends that report weights, and what is chosen of that.
fn reported(change: impl FnOnce(&mut reported_weight::Config)) -> Policy {
    let mut config = reported_weight::Config::default();
    change(&mut config);
    Policy::WeightedRoundRobin(weighted_round_robin::Config {
        weights: Weights::Reported(Box::new(config)),
        ..Default::default()
    })
}

/// A report that makes this weight.
fn weighing(weight: f64) -> Report {
    Report {
        rps_fractional: weight / 2.0,
        application_utilization: 0.5,
        ..Report::default()
    }
}

/// Calls after each of which a backend reports, 100 times its number.
fn call_with_reports(fleet: &Fleet, calls: usize, now: Time) {
    for _ in 0..calls {
        let (id, ticket) = fleet.checkout(now);
        let report = weighing(100.0 * f64::from(id));
        let report = Some(LoadReport::Decoded(&report));
        ticket.complete(Outcome::Success, report, now).unwrap();
    }
}

#[test]
fn reported_weights_count_after_the_blackout_and_until_they_expire() {
    let fleet = Fleet::new(reported(|_| {}), 3);
    assert_eq!(fleet.balancer.due(), Some(seconds(1)));
    call_with_reports(&fleet, 3, seconds(1));
    assert_eq!(fleet.tick(seconds(1)), Some(seconds(2)));
    // A list that says nothing new does not begin the blackout anew.
    for second in 2..11 {
        fleet.reconcile(3, seconds(second));
        fleet.tick(seconds(second));
        assert_eq!(fleet.weights(), [None; 3], "after {second} s");
    }
    assert_eq!(
        fleet.picks(6_000),
        [2_000; 3],
        "as long as nothing is known"
    );
    assert_eq!(fleet.tick(seconds(11)), Some(seconds(12)));
    assert_eq!(fleet.weights(), [Some(100.0), Some(200.0), Some(300.0)]);
    assert_eq!(fleet.picks(6_000), [1_000, 2_000, 3_000]);
    // Nor does it forget what is known.
    fleet.reconcile(3, seconds(12));
    assert_eq!(fleet.weights(), [Some(100.0), Some(200.0), Some(300.0)]);
    assert_eq!(fleet.picks(6_000), [1_000, 2_000, 3_000]);

    fleet.tick(seconds(180));
    assert_eq!(fleet.weights(), [Some(100.0), Some(200.0), Some(300.0)]);
    fleet.tick(seconds(181));
    assert_eq!(fleet.weights(), [None; 3]);
    assert_eq!(fleet.picks(6_000), [2_000; 3]);
    // Now a blackout begins with the next report.
    call_with_reports(&fleet, 3, seconds(200));
    fleet.tick(seconds(209));
    assert_eq!(fleet.weights(), [None; 3]);
    fleet.tick(seconds(210));
    assert_eq!(fleet.weights(), [Some(100.0), Some(200.0), Some(300.0)]);
}

#[test]
fn who_is_ready_again_has_a_blackout_and_the_others_keep_their_weights() {
    let fleet = Fleet::new(reported(|_| {}), 3);
    call_with_reports(&fleet, 3, seconds(1));
    fleet.tick(seconds(11));
    fleet.set(1, State::TransientFailure, seconds(12));
    // Between the two that are left; the schedule is of 16 bits.
    let picks = fleet.picks(5_000);
    assert!(picks[0] == 0 && picks[1].abs_diff(2_000) <= 1, "{picks:?}");
    fleet.set(1, State::Ready, seconds(13));
    assert_eq!(fleet.weights(), [None, Some(200.0), Some(300.0)]);
    // The mean of the others.
    assert_near(&fleet.picks(7_500), &[2_500, 2_000, 3_000]);
    fleet.call_with_report(1, 100.0, seconds(14));
    fleet.tick(seconds(23));
    assert_eq!(fleet.weights()[0], None);
    fleet.tick(seconds(24));
    assert_eq!(fleet.weights(), [Some(100.0), Some(200.0), Some(300.0)]);
}

#[test]
fn in_a_panic_too_a_schedule_is_of_the_weights_as_they_are() {
    let config = Config {
        panic_threshold: 100,
        ..Config::from(reported(|_| {}))
    };
    let fleet = Fleet::new(config, 3);
    call_with_reports(&fleet, 3, seconds(1));
    fleet.tick(seconds(11));
    fleet.set(1, State::TransientFailure, seconds(12));
    fleet.set(2, State::TransientFailure, seconds(12));
    assert_eq!(fleet.picks(6_000), [1_000, 2_000, 3_000]);
    // It stays in the rotation, and becomes of unknown weight in it.
    fleet.set(1, State::Ready, seconds(13));
    assert_eq!(fleet.weights(), [None, Some(200.0), Some(300.0)]);
    assert_near(&fleet.picks(7_500), &[2_500, 2_000, 3_000]);
}

#[test]
fn reports_count_from_where_they_are_wanted_and_nowhere_else() {
    let at_once = |source| {
        move |config: &mut reported_weight::Config| {
            config.blackout_period = Duration::ZERO;
            config.source = source;
        }
    };
    // A58 takes those of calls; the ones that come apart from them are welcome, too.
    let fleet = Fleet::new(reported(at_once(Source::PerCall)), 2);
    fleet.report(1, 100.0, seconds(1));
    fleet.call_with_report(2, 200.0, seconds(1));
    fleet.tick(seconds(2));
    assert_eq!(fleet.weights(), [Some(100.0), Some(200.0)]);

    let fleet = Fleet::new(reported(at_once(Source::OutOfBand)), 2);
    fleet.report(1, 100.0, seconds(1));
    fleet.call_with_report(2, 200.0, seconds(1));
    fleet.call_with_report(1, 700.0, seconds(1));
    fleet.tick(seconds(2));
    assert_eq!(fleet.weights(), [Some(100.0), None]);
}

#[test]
fn reports_that_are_none_are_counted_and_end_their_call_all_the_same() {
    let fleet = Fleet::new(
        reported(|config| config.blackout_period = Duration::ZERO),
        1,
    );
    let malformed = LoadReport::Bytes(b"not a report");
    let (_, ticket) = fleet.checkout(seconds(1));
    ticket
        .complete(Outcome::Success, Some(malformed), seconds(2))
        .unwrap();
    assert!(ticket
        .complete(Outcome::Success, Some(malformed), seconds(2))
        .is_err());
    let report = |id| fleet.balancer.report(&id, malformed, &Unowned, seconds(2));
    assert_eq!(report(1), Ok(()));
    assert_eq!(report(2), Err(MemberError::NotFound));
    let info = fleet.balancer.info(&Unowned);
    assert_eq!(info.malformed_reports, 2);
    assert_eq!(info.backends[0].successes, 1);
    fleet.balancer.close(&Unowned);
    assert_eq!(report(1), Err(MemberError::Closed));
}

#[test]
fn a_new_backend_has_the_others_weights_brought_up_to_date() {
    let fleet = Fleet::new(
        reported(|config| config.blackout_period = Duration::ZERO),
        2,
    );
    fleet.report(1, 100.0, ms(10));
    assert_eq!(fleet.weights(), [None, None]);
    fleet
        .balancer
        .add(&[Backend::new(3, 3)], &Unowned, ms(20))
        .unwrap();
    assert_eq!(fleet.weights(), [Some(100.0), None, None]);

    fleet.report(2, 50.0, ms(30));
    fleet.set(3, State::Connecting, ms(40));
    assert_eq!(fleet.weights(), [Some(100.0), Some(50.0), None]);
}

#[test]
fn a_weight_too_small_for_a_schedule_is_small_and_not_unknown() {
    let policy = Policy::WeightedRoundRobin(weighted_round_robin::Config::default());
    let config = Config {
        slow_start: Some(Box::new(slow_start::Config {
            window: Duration::from_secs(3_600),
            aggression: 0.1,
            min_weight_percent: 0.0,
        })),
        ..Config::from(policy)
    };
    let fleet = Fleet::new(config, 3);
    fleet.tick(seconds(3_600));
    fleet
        .balancer
        .add(&[Backend::new(4, 4)], &Unowned, seconds(3_600))
        .unwrap();
    // C-core takes a weight for a hundredth of the mean at least.
    let picks = fleet.picks(100_000);
    assert!(picks[3] < 500, "{picks:?}");
}

#[test]
fn due_is_the_earliest_of_what_there_is_to_do() {
    let policy = reported(|config| config.weight_update_period = Duration::from_secs(4));
    let config = Config {
        outlier_detection: Some(Box::new(detection())),
        ..Config::from(policy)
    };
    let fleet = Fleet::new(config, 3);
    assert_eq!(fleet.balancer.due(), Some(seconds(4)));
    assert_eq!(fleet.tick(seconds(3)), Some(seconds(4)), "nothing is due");
    assert_eq!(fleet.tick(seconds(4)), Some(seconds(8)));
    assert_eq!(fleet.tick(seconds(8)), Some(seconds(10)));
    assert_eq!(fleet.tick(seconds(10)), Some(seconds(12)));
    // Late: the next of each is counted from then.
    assert_eq!(fleet.tick(seconds(23)), Some(seconds(27)));
    assert_eq!(fleet.tick(seconds(27)), Some(seconds(31)));
    assert_eq!(fleet.tick(seconds(31)), Some(seconds(33)));
}

#[test]
fn weights_that_warm_up_and_are_reported_are_updated_as_often_as_either_needs() {
    let config = Config {
        slow_start: warming(Policy::Random(random::Config)).slow_start,
        ..Config::from(reported(|config| config.blackout_period = Duration::ZERO))
    };
    let fleet = Fleet::new(config, 1);
    let step = Duration::from_micros(156_250);
    assert_eq!(fleet.balancer.due(), Some(Time(0) + step));
    fleet.call_with_report(1, 100.0, seconds(4));
    assert_eq!(fleet.tick(seconds(5)), Some(seconds(5) + step));
    assert_eq!(fleet.weights(), [Some(50.0)]);
    assert_eq!(fleet.tick(seconds(10)), Some(seconds(11)));
    assert_eq!(fleet.weights(), [Some(100.0)]);
}

#[test]
fn a_closed_balancer_has_nothing_to_do_and_its_calls_end() {
    let config = Config {
        max_requests: Some(4),
        slow_start: warming(Policy::Random(random::Config)).slow_start,
        ..detecting(Policy::Random(random::Config), consecutive(1))
    };
    let fleet = Fleet::new(config, 3);
    let tickets: Vec<_> = (0..4).map(|_| fleet.checkout(seconds(1)).1).collect();
    assert!(fleet.balancer.due().is_some());
    fleet.balancer.close(&Unowned);
    assert_eq!(fleet.balancer.due(), None);
    // That it is closed, and not that it has too much to do.
    let checkout = fleet
        .balancer
        .checkout(&fleet.caller, &Unowned, seconds(2), |_| ());
    assert!(matches!(checkout, Err(Unavailable::Closed)));
    for ticket in &tickets {
        ticket.complete(Outcome::Failure, None, seconds(2)).unwrap();
    }
    assert_eq!(fleet.tick(seconds(3)), None);
    assert!(!tickets[0].is_urgent());
    drop(fleet);
    assert!(!tickets[0].is_urgent());
    assert!(tickets[0]
        .complete(Outcome::Success, None, Time(0))
        .is_err());
}

/// How many of 3,000 calls each of four backends gets, one call after the other. `call` says how
/// many milliseconds a call to a backend takes, and how it ends.
fn shares(policy: Policy, call: impl Fn(u32) -> (u64, Outcome)) -> Vec<u64> {
    let fleet = Fleet::new(policy, 4);
    let mut now = seconds(1);
    for _ in 0..3_000 {
        let (id, ticket) = fleet.checkout(now);
        let (took, outcome) = call(id);
        now = now + Duration::from_millis(took);
        ticket.complete(outcome, None, now).unwrap();
    }
    let backends = fleet.balancer.info(&Unowned).backends;
    backends.iter().map(|backend| backend.picks).collect()
}

#[test]
fn peak_ewma_goes_round_who_is_slow_and_who_fails() {
    let peak_ewma = |penalty| {
        Policy::PeakEwma(peak_ewma::Config {
            penalty: Penalty::Fixed(Duration::from_secs(penalty)),
            ..Default::default()
        })
    };
    let slow = |id| (if id == 3 { 100 } else { 10 }, Outcome::Success);
    let picks = shares(peak_ewma(5), slow);
    assert!(picks[2] < 60, "{picks:?}");
    assert!(
        [0, 1, 3].iter().all(|other| picks[*other] > 500),
        "{picks:?}"
    );

    // Fails at once, which must not pay.
    let failing = |id| match id {
        3 => (1, Outcome::Failure),
        _ => (10, Outcome::Success),
    };
    let picks = shares(peak_ewma(5), failing);
    assert!(picks[2] < 60, "{picks:?}");
    let picks = shares(peak_ewma(0), failing);
    assert!(picks[2] > 1_000, "without a penalty it does: {picks:?}");
    // A call that is given up went on for so long at least.
    let picks = shares(peak_ewma(5), |id| match id {
        3 => (1_000, Outcome::Cancelled),
        _ => (30, Outcome::Success),
    });
    assert!((10..60).contains(&picks[2]), "{picks:?}");
}

#[test]
fn peak_ewma_goes_back_to_who_was_slow() {
    let policy = Policy::PeakEwma(peak_ewma::Config {
        decay: Duration::from_secs(1),
        ..Default::default()
    });
    let fleet = Fleet::new(policy, 2);
    let mut now = seconds(1);
    let mut share = |slow: u64| {
        let before = fleet.info(2).picks;
        for _ in 0..1_000 {
            let (id, ticket) = fleet.checkout(now);
            now = now + Duration::from_millis(if id == 2 { slow } else { 10 });
            ticket.complete(Outcome::Success, None, now).unwrap();
        }
        fleet.info(2).picks - before
    };
    assert!(share(500) < 10);
    // It takes ln(50) decays to come back, which are 391 calls of the other one. All that follow are its.
    assert!((580..=609).contains(&share(1)));
    assert!(share(1) > 990);
}

#[test]
fn a_call_that_goes_on_after_its_first_answer_took_until_that() {
    for policy in support::policies() {
        let name = policy.name();
        let fleet = Fleet::new(policy, 1);
        let (_, ticket) = fleet.checkout(seconds(1));
        ticket.first_response(seconds(2));
        ticket.first_response(seconds(3));
        assert_eq!(fleet.info(1).in_flight, 1, "{name}");
        ticket
            .complete(Outcome::Success, None, seconds(60))
            .unwrap();
        ticket.first_response(seconds(61));
        let latency = fleet.info(1).latency_ns.expect("there was an answer");
        assert!((latency / 1e9 - 1.0).abs() < 1e-6, "{name} {latency}");
        assert_eq!(fleet.info(1).in_flight, 0, "{name}");
    }
}

#[test]
fn a_latency_is_known_after_the_first_answer_and_not_before() {
    for policy in support::policies() {
        let name = policy.name();
        let fleet = Fleet::new(policy, 1);
        assert_eq!(fleet.info(1).latency_ns, None, "{name}");
        let (_, ticket) = fleet.checkout(seconds(1));
        ticket
            .complete(Outcome::Cancelled, None, seconds(2))
            .unwrap();
        assert_eq!(fleet.info(1).latency_ns, None, "{name}");
        let (_, ticket) = fleet.checkout(seconds(3));
        ticket.complete(Outcome::Success, None, seconds(4)).unwrap();
        let latency = fleet.info(1).latency_ns.expect("there was an answer");
        assert!((latency / 1e9 - 1.0).abs() < 1e-6, "{name} {latency}");
    }
}

#[test]
fn the_latency_of_a_call_is_what_its_caller_says() {
    for policy in support::policies() {
        let name = policy.name();
        let fleet = Fleet::new(policy, 1);
        let end = |latency, now| {
            let (_, ticket) = fleet.checkout(seconds(1));
            let ended = ticket.complete_with(Outcome::Success, latency, None, now);
            ended.unwrap();
            fleet.info(1).latency_ns
        };
        assert_eq!(end(LatencySample::None, seconds(60)), None, "{name}");
        let given = LatencySample::Given(Duration::from_millis(20));
        let latency = end(given, seconds(120)).expect("it was given");
        assert!((latency / 20e6 - 1.0).abs() < 1e-6, "{name} {latency}");
        let unchanged = end(LatencySample::None, seconds(121));
        assert_eq!(unchanged, Some(latency), "{name}");
        assert_eq!(fleet.info(1).successes, 3, "{name}");
    }
}

#[test]
fn a_call_whose_taker_panics_is_not_in_flight() {
    let config = Config {
        max_requests: Some(1),
        max_requests_per_backend: Some(1),
        ..Config::from(round_robin())
    };
    let fleet = Fleet::new(config, 1);
    let Fleet { balancer, caller } = &fleet;
    let checkout = || {
        balancer.checkout(caller, &Unowned, Time(0), |_| {
            panic!("in the caller's code")
        })
    };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<((), Ticket), Unavailable> = checkout();
    }));
    assert!(panicked.is_err());
    assert_eq!(fleet.info(1).in_flight, 0);
    // One inside a pick is a call like any other.
    let inside = balancer.pick(caller, &Unowned, |_| fleet.checkout(Time(0)));
    assert_eq!(fleet.info(1).in_flight, 1);
    drop(inside);
    assert_eq!(fleet.info(1).in_flight, 0);
}

#[test]
fn who_was_held_back_as_the_last_one_is_out_when_another_is_ready() {
    let fleet = Fleet::new(detecting(round_robin(), by_transport(1)), 2);
    fleet.set(1, State::Draining, seconds(1));
    fleet.call_to(2, seconds(1), Outcome::TransportFailure);
    fleet.tick(seconds(1));
    assert_eq!(fleet.info(2).ejected_until, None);
    fleet.set(1, State::Ready, seconds(2));
    assert_eq!(fleet.balancer.due(), Some(Time(0)));
    fleet.tick(seconds(2));
    assert_eq!(fleet.info(2).ejected_until, Some(seconds(3)));
    assert_eq!(fleet.picks(100), [100, 0]);
}

#[test]
fn a_window_that_is_shortened_has_less_to_do() {
    let fleet = Fleet::new(warming(Policy::Random(random::Config)), 2);
    let shorten = |config: &mut Config| {
        config.slow_start.as_mut().unwrap().window = Duration::from_secs(1);
    };
    fleet
        .balancer
        .configure(shorten, &Unowned, seconds(0))
        .unwrap();
    fleet.tick(seconds(2));
    assert_eq!(fleet.balancer.due(), None);
}

#[test]
fn who_tried_while_a_search_in_vain_held_the_last_place_is_told_again() {
    let fleet = Fleet::new(
        Config {
            max_requests: Some(1),
            checkout_wait: Duration::from_secs(1),
            ..Config::from(round_robin())
        },
        1,
    );
    let Fleet { balancer, caller } = &fleet;
    let who = Owner(NonZeroU64::new(7).unwrap());
    let try_in_turn = |place| {
        let turn = balancer.turn(place).expect("it is the first");
        let (search, now) = (Search::Thorough, seconds(1));
        turn.checkout_where(caller, &Unowned, search, now, |_| true, |id| *id)
    };
    let waiting = Cell::new(None);
    let wanted = |_: &u32| {
        if waiting.get().is_none() {
            let (place, _) = balancer.line_up(who).unwrap();
            waiting.set(Some(place));
            assert_eq!(try_in_turn(place).err(), Some(Unavailable::Overloaded));
        }
        false
    };
    let (search, now) = (Search::Brief, seconds(1));
    let begun = balancer.checkout_where(caller, &Unowned, search, now, wanted, |id| *id);
    assert_eq!(begun.err(), Some(Unavailable::NoBackends));

    assert!(balancer.has_room() && balancer.is_awaited());
    let mut told = None;
    balancer.tell_first(|who, place| told = Some((who, place)));
    let place = waiting.get().unwrap();
    assert_eq!(told, Some((who, place)));
    let _call = try_in_turn(place).unwrap();
    assert!(!balancer.has_room());
}

/// Whoever ticks many balancers cannot wait for one.
#[test]
fn a_tick_can_be_tried() {
    /// Ticks while its owners are watched, which is in the middle of a change.
    struct Ticking<'a>(&'a Balancer<u32>, Cell<usize>);

    impl Owners for Ticking<'_> {
        type Watch = ();

        fn watch(&self, _owner: Owner) -> Option<()> {
            assert_eq!(self.0.try_tick(&Unowned, seconds(10)), Err(Busy));
            self.1.set(self.1.get() + 1);
            Some(())
        }

        fn unwatch(&self, (): ()) {}

        fn is_alive(&self, _owner: Owner) -> bool {
            true
        }
    }

    let config = Config {
        outlier_detection: Some(Box::new(outlier_detection::Config::default())),
        ..Config::from(round_robin())
    };
    let balancer = Balancer::<u32>::new(config, 5, ms(0));
    let owned = Backend {
        owner: Some(Owner(NonZeroU64::MIN)),
        ..Backend::new(1, 1)
    };
    let ticking = Ticking(&balancer, Cell::new(0));
    balancer.reconcile(&[owned], &ticking, ms(0)).unwrap();
    assert_eq!(ticking.1.get(), 1);
    // What was due is due still, and is done now.
    let due = balancer.due().unwrap();
    assert!(due <= seconds(10));
    assert_eq!(
        balancer.try_tick(&Unowned, seconds(10)),
        Ok(Some(seconds(20)))
    );
}
