//! A reserve, which stands back for the preferred backends: one health, one panic and one limit.

use super::*;

/// Backend 1 is preferred, and all others are a reserve.
fn fleet(config: Config, backends: u32) -> Fleet {
    let fleet = Fleet {
        balancer: Balancer::new(config, 3, Time(0)),
        caller: Caller::new(5),
    };
    let list: Vec<_> = (1..=backends).map(backend).collect();
    fleet.balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    fleet
}

fn backend(id: u32) -> Backend<u32> {
    Backend {
        reserve: id > 1,
        ..Backend::new(id, id)
    }
}

fn config(preferred_share: f64) -> Config {
    Config {
        preferred_share,
        ..detecting(round_robin(), consecutive(3))
    }
}

#[test]
fn the_reserve_is_picked_while_no_preferred_backend_is_healthy() {
    let fleet = fleet(config(1.0), 4);
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
    fleet.set(1, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(9), [0, 3, 3, 3]);
    fleet.set(1, State::Ready, seconds(2));
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
    fleet.balancer.remove(&[1], &Unowned, seconds(3)).unwrap();
    let picked = fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
    assert!(picked.unwrap() > 1);
    fleet
        .balancer
        .add(&[backend(1)], &Unowned, seconds(4))
        .unwrap();
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
}

#[test]
fn a_share_is_exact_and_each_group_goes_round() {
    let fleet = fleet(config(0.25), 4);
    assert_eq!(fleet.picks(400), [100, 100, 100, 100]);
    assert_eq!(fleet.info(1).picks + fleet.info(2).picks, 200);
    let none = self::fleet(config(0.0), 4);
    assert_eq!(none.picks(9), [0, 3, 3, 3]);
}

#[test]
fn panic_is_judged_over_all_and_a_group_without_a_healthy_one_stands_back_in_it() {
    let config = Config {
        panic_threshold: 50,
        ..config(1.0)
    };
    let fleet = fleet(config, 4);
    fleet.set(1, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(9), [0, 3, 3, 3], "3 of 4 are healthy");
    fleet.set(2, State::TransientFailure, seconds(1));
    fleet.set(3, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(9), [0, 3, 3, 3], "a panic in the reserve");
    fleet.set(4, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(9), [9, 0, 0, 0], "none is healthy");
    fleet.set(4, State::Ready, seconds(1));
    assert_eq!(fleet.picks(9), [0, 3, 3, 3]);
    fleet.set(1, State::Ready, seconds(1));
    assert_eq!(fleet.picks(9), [9, 0, 0, 0]);
}

#[test]
fn the_reserve_helps_out_where_the_preferred_are_full() {
    let config = Config {
        max_requests_per_backend: Some(1),
        max_requests: Some(3),
        ..config(1.0)
    };
    let fleet = fleet(config, 4);
    let calls: Vec<_> = (0..3).map(|_| fleet.checkout(seconds(1))).collect();
    let mut ids: Vec<u32> = calls.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids[0], 1);
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    // One limit for both.
    let refused = fleet
        .balancer
        .checkout(&fleet.caller, &Unowned, seconds(1), |id| *id);
    assert!(matches!(refused, Err(Unavailable::Overloaded)));
}

#[test]
fn a_backend_goes_from_one_group_to_the_other() {
    let fleet = fleet(config(1.0), 3);
    let preferred = Backend {
        reserve: false,
        ..backend(2)
    };
    fleet
        .balancer
        .add(&[preferred], &Unowned, seconds(1))
        .unwrap();
    assert_eq!(fleet.picks(8), [4, 4, 0]);
    fleet
        .balancer
        .add(&[backend(2)], &Unowned, seconds(1))
        .unwrap();
    assert_eq!(fleet.picks(8), [8, 0, 0]);
    fleet.balancer.close(&Unowned);
    let picked = fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
    assert_eq!(picked, Err(Unavailable::Closed));
}
