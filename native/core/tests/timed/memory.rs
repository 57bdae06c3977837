//! What is known of backends that are removed, and listed again.

use super::*;

fn remembering(policy: Policy, detection: outlier_detection::Config) -> Config {
    Config {
        remember: Duration::from_secs(60),
        ..detecting(policy, detection)
    }
}

fn remove(fleet: &Fleet, id: u32, now: Time) {
    let removed = fleet.balancer.remove(&[id], &Unowned, now).unwrap();
    assert_eq!(removed.removed, 1);
}

fn add(fleet: &Fleet, id: u32, now: Time) {
    let added = fleet.balancer.add(&[Backend::new(id, id)], &Unowned, now);
    assert_eq!(added.unwrap().added, 1);
}

#[test]
fn a_backend_that_comes_back_is_what_it_was() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(2)), 10);
    let open = fleet.checkout_of(3, seconds(1));
    fleet.call(20, seconds(1), failures_of(3));
    fleet.tick(seconds(1));
    let before = fleet.info(3);
    assert!(before.ejected_until.is_some());
    for (away, back) in [(2, 2), (3, 62), (63, 120)] {
        remove(&fleet, 3, seconds(away));
        add(&fleet, 3, seconds(back));
        let after = fleet.info(3);
        assert_eq!(after.ejected_until, before.ejected_until);
        assert_eq!(after.failures, before.failures);
        assert_eq!((after.in_flight, after.times_ejected), (1, 1));
        assert_eq!(fleet.picks(20)[2], 0);
    }
    open.complete(Outcome::Success, None, seconds(121)).unwrap();
    assert_eq!((fleet.info(3).in_flight, fleet.info(3).successes), (0, 1));
    // The ejection ends as if it had never been away.
    fleet.tick(seconds(130));
    assert_eq!(fleet.info(3).ejected_until, None);
    assert!(fleet.picks(20)[2] > 0);
}

#[test]
fn it_is_forgotten_after_that_time() {
    for (back, failures) in [(61_999, 2), (62_000, 0)] {
        let fleet = Fleet::new(remembering(round_robin(), consecutive(2)), 10);
        fleet.call(20, seconds(1), failures_of(3));
        fleet.tick(seconds(1));
        remove(&fleet, 3, seconds(2));
        add(&fleet, 3, ms(back));
        let info = fleet.info(3);
        assert_eq!(
            (info.failures, info.times_ejected),
            (failures, failures / 2)
        );
    }
}

#[test]
fn a_reconcile_removes_for_a_while_too() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(9)), 3);
    fleet.call(9, seconds(1), failures_of(3));
    fleet.reconcile(2, seconds(2));
    fleet.reconcile(3, seconds(3));
    assert_eq!(fleet.info(3).failures, 3);
    fleet.reconcile(2, seconds(4));
    fleet.reconcile(3, seconds(64));
    assert_eq!(fleet.info(3).failures, 0);
}

#[test]
fn a_streak_goes_on_across_an_absence() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(3)), 10);
    fleet.call(20, seconds(1), failures_of(3));
    remove(&fleet, 3, seconds(1));
    add(&fleet, 3, seconds(1));
    let last = fleet.call_to(3, seconds(2), Outcome::Failure);
    assert!(last.is_urgent());
    fleet.tick(seconds(2));
    assert_eq!(fleet.info(3).times_ejected, 1);
}

#[test]
fn who_leaves_before_it_is_ejected_is_ejected_when_it_is_back() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(2)), 10);
    fleet.call(20, seconds(1), failures_of(3));
    remove(&fleet, 3, seconds(1));
    fleet.tick(seconds(2));
    add(&fleet, 3, seconds(3));
    assert_eq!(fleet.balancer.due(), Some(Time(0)));
    fleet.tick(seconds(3));
    assert_eq!(fleet.info(3).times_ejected, 1);
}

#[test]
fn an_absent_backend_follows_what_is_configured_meanwhile() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(2)), 10);
    fleet.call(20, seconds(1), failures_of(3));
    fleet.tick(seconds(1));
    remove(&fleet, 3, seconds(2));
    let configure = |change: fn(&mut Config), now| {
        fleet.balancer.configure(change, &Unowned, now).unwrap();
    };
    configure(|config| config.outlier_detection = None, seconds(3));
    add(&fleet, 3, seconds(4));
    assert_eq!(
        (fleet.info(3).ejected_until, fleet.info(3).failures),
        (None, 2)
    );
    assert_eq!(fleet.picks(10), [1; 10]);
    // Nothing is remembered from now on.
    configure(|config| config.remember = Duration::ZERO, seconds(5));
    remove(&fleet, 3, seconds(6));
    add(&fleet, 3, seconds(6));
    assert_eq!(fleet.info(3).failures, 0);
}

#[test]
fn weights_and_latencies_stay_with_the_id() {
    let fleet = Fleet::new(
        Config {
            remember: Duration::from_secs(60),
            ..Config::from(Policy::PeakEwma(peak_ewma::Config::default()))
        },
        2,
    );
    let ticket = fleet.checkout_of(2, seconds(1));
    ticket.complete(Outcome::Success, None, seconds(2)).unwrap();
    let latency = fleet.info(2).latency_ns;
    assert!(latency.is_some());
    remove(&fleet, 2, seconds(2));
    let heavy = Backend {
        weight: 5,
        ..Backend::new(2, 2)
    };
    fleet.balancer.add(&[heavy], &Unowned, seconds(2)).unwrap();
    assert_eq!(fleet.info(2).latency_ns, latency);
    assert_eq!(fleet.info(2).current_weight, Some(5.0));
    remove(&fleet, 2, seconds(3));
    add(&fleet, 2, seconds(3));
    assert_eq!(fleet.info(2).current_weight, Some(1.0));
}

#[test]
fn memory_is_bounded_however_many_come_and_go() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(9)), 1);
    fleet.call(1, seconds(1), failures_of(1));
    let churn = |ids: std::ops::Range<u32>| {
        for id in ids {
            add(&fleet, id, seconds(2));
            remove(&fleet, id, seconds(2));
        }
    };
    remove(&fleet, 1, seconds(2));
    churn(2..1_025);
    add(&fleet, 1, seconds(3));
    assert_eq!(fleet.info(1).failures, 1);
    remove(&fleet, 1, seconds(3));
    churn(2_000..3_024);
    add(&fleet, 1, seconds(3));
    assert_eq!(fleet.info(1).failures, 0);
}

#[test]
fn memory_is_as_long_as_the_list_at_most_also_when_that_shrinks_and_is_forgotten_in_time() {
    let fleet = Fleet::new(remembering(round_robin(), consecutive(9)), 3_000);
    let backends =
        |ids: std::ops::Range<u32>| ids.map(|id| Backend::new(id, id)).collect::<Vec<_>>();
    fleet.call(3_000, seconds(1), |_| Outcome::Failure);
    let others = backends(10_000..13_000);
    fleet
        .balancer
        .reconcile(&others, &Unowned, seconds(2))
        .unwrap();
    add(&fleet, 1, seconds(3));
    assert_eq!(
        fleet.info(1).failures,
        1,
        "as many are remembered as are listed"
    );
    fleet
        .balancer
        .reconcile(&[] as &[Backend<u32>], &Unowned, seconds(3))
        .unwrap();
    add(&fleet, 2, seconds(4));
    assert_eq!(fleet.info(2).failures, 0, "the oldest are beyond the bound");

    let fleet = Fleet::new(
        Config {
            remember: Duration::from_secs(60),
            ..Config::from(round_robin())
        },
        2,
    );
    assert_eq!(fleet.balancer.due(), None);
    remove(&fleet, 1, seconds(1));
    assert_eq!(fleet.balancer.due(), Some(seconds(61)));
    assert_eq!(fleet.tick(seconds(61)), None);
}

#[test]
fn who_is_back_after_its_ejection_is_let_in() {
    let fleet = Fleet::new(remembering(round_robin(), by_transport(1)), 3);
    let open = fleet.checkout_of(2, seconds(1));
    fleet.call_to(2, seconds(1), Outcome::TransportFailure);
    fleet.tick(seconds(1));
    assert_eq!(fleet.info(2).ejected_until, Some(seconds(2)));
    // No failure is left that would have it looked at.
    open.complete(Outcome::Success, None, seconds(1)).unwrap();
    remove(&fleet, 2, seconds(1));
    fleet.tick(seconds(3));
    add(&fleet, 2, seconds(3));
    fleet.tick(seconds(3));
    assert_eq!(fleet.info(2).ejected_until, None);
}

#[test]
fn reported_weights_come_and_go_with_the_id() {
    let fleet = Fleet::new(
        Config {
            remember: Duration::from_secs(60),
            ..Config::from(reported(|_| {}))
        },
        2,
    );
    for now in 1..4 {
        remove(&fleet, 2, seconds(now));
        add(&fleet, 2, seconds(now));
    }
    assert_eq!(fleet.info(2).current_weight, None);
    assert!(fleet.picks(100).iter().all(|picks| *picks == 50));
}
