//! Priorities and localities: one health, one panic and one limit over all of them.

use super::*;
use std::num::NonZeroU32;

fn fleet(config: Config, list: &[Backend<u32>]) -> Fleet {
    let fleet = Fleet {
        balancer: Balancer::new(config, 3, Time(0)),
        caller: Caller::new(5),
    };
    fleet.balancer.reconcile(list, &Unowned, Time(0)).unwrap();
    fleet
}

/// Backends 1 to 4, of which 1 is of the first priority.
fn reserve(config: Config) -> Fleet {
    let list: Vec<_> = (1..=4)
        .map(|id| of_priority(u32::from(id > 1), id))
        .collect();
    fleet(config, &list)
}

fn of_priority(priority: u32, id: u32) -> Backend<u32> {
    Backend {
        priority,
        ..Backend::new(id, id)
    }
}

fn in_locality(locality: &str, id: u32) -> Backend<u32> {
    Backend {
        locality: Some(locality.into()),
        ..Backend::new(id, id)
    }
}

fn config() -> Config {
    detecting(round_robin(), consecutive(3))
}

fn spilling(panic_threshold: u32) -> Config {
    Config {
        overprovisioning_factor: NonZeroU32::new(140),
        panic_threshold,
        ..config()
    }
}

fn weighted(weights: &[(&str, f64)]) -> Config {
    let weights = weights
        .iter()
        .map(|(name, weight)| ((*name).into(), *weight));
    Config {
        locality_weights: weights.collect(),
        ..config()
    }
}

/// Of each layer: its part of the picks, how many are healthy, and whether it panics.
fn layers(fleet: &Fleet) -> Vec<(f64, u32, bool)> {
    let layers = fleet.balancer.info(&Unowned).layers;
    layers
        .iter()
        .map(|it| (it.share, it.healthy, it.panics))
        .collect()
}

#[test]
fn a_priority_is_picked_while_none_of_those_before_it_is_healthy() {
    let fleet = reserve(config());
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
    assert_eq!(layers(&fleet), [(1.0, 1, false), (0.0, 3, false)]);
    fleet.set(1, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(9), [0, 3, 3, 3]);
    assert_eq!(layers(&fleet), [(0.0, 0, false), (1.0, 3, false)]);
    fleet.set(1, State::Ready, seconds(2));
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
    fleet.balancer.remove(&[1], &Unowned, seconds(3)).unwrap();
    let picked = fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
    assert!(picked.unwrap() > 1);
    assert_eq!(layers(&fleet), [(1.0, 3, false)]);
    let first = of_priority(0, 1);
    fleet.balancer.add(&[first], &Unowned, seconds(4)).unwrap();
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
}

#[test]
fn priorities_are_any_numbers_in_any_order() {
    let list = [(9, 1), (4, 2), (u32::MAX, 3), (4, 4)];
    let fleet = fleet(
        config(),
        &list.map(|(priority, id)| of_priority(priority, id)),
    );
    let fails = |id| fleet.set(id, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(8), [0, 4, 0, 4]);
    fails(2);
    assert_eq!(fleet.picks(8), [0, 0, 0, 8]);
    fails(4);
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
    fails(1);
    assert_eq!(fleet.picks(8), [0, 0, 8, 0]);
    fails(3);
    let picked = fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
    assert_eq!(picked, Err(Unavailable::NoBackends));
}

#[test]
fn outliers_of_all_priorities_are_ejected_and_the_next_takes_over() {
    let fleet = reserve(config());
    fleet.call(3, seconds(1), |_| Outcome::Failure);
    fleet.tick(seconds(1));
    assert_eq!(fleet.picks(9), [0, 3, 3, 3]);
    fleet.tick(seconds(11));
    fleet.tick(seconds(41));
    assert_eq!(fleet.picks(9), [9, 0, 0, 0]);
}

#[test]
fn panic_is_judged_over_all_and_a_group_without_a_healthy_one_stands_back_in_it() {
    let fleet = reserve(Config {
        panic_threshold: 50,
        ..config()
    });
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
fn the_next_priority_helps_out_where_one_is_full() {
    let fleet = reserve(Config {
        max_requests_per_backend: Some(1),
        max_requests: Some(3),
        ..config()
    });
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
fn a_backend_goes_from_one_priority_to_another() {
    let fleet = reserve(config());
    let add = |backend, now| {
        fleet
            .balancer
            .add(&[backend], &Unowned, seconds(now))
            .unwrap()
    };
    add(of_priority(0, 2), 1);
    assert_eq!(fleet.picks(8), [4, 4, 0, 0]);
    add(of_priority(1, 2), 1);
    assert_eq!(fleet.picks(8), [8, 0, 0, 0]);
    // Where its last layer is gone with it, and another takes the place.
    add(of_priority(7, 1), 1);
    assert_eq!(fleet.picks(9), [0, 3, 3, 3]);
    add(of_priority(0, 3), 1);
    assert_eq!(fleet.picks(9), [0, 0, 9, 0]);
    assert_eq!(fleet.info(1).priority, 7);
    fleet.balancer.close(&Unowned);
    let picked = fleet.balancer.pick(&fleet.caller, &Unowned, |id| *id);
    assert_eq!(picked, Err(Unavailable::Closed));
}

#[test]
fn with_a_factor_the_next_priority_takes_over_step_by_step() {
    let list: Vec<_> = (1..=8)
        .map(|id| of_priority(u32::from(id > 4), id))
        .collect();
    let fleet = fleet(spilling(0), &list);
    let served = |fleet: &Fleet| fleet.picks(1_000)[..4].iter().sum::<usize>();
    assert_eq!(served(&fleet), 1_000);
    for (down, percent) in [(1, 100), (2, 70), (3, 35), (4, 0)] {
        fleet.set(down, State::TransientFailure, seconds(1));
        assert_eq!(served(&fleet), percent * 10, "{down} are down");
    }
    assert_eq!(fleet.picks(400), [0, 0, 0, 0, 100, 100, 100, 100]);
    fleet.set(1, State::Ready, seconds(2));
    assert_eq!(fleet.picks(1_000)[0], 350);
    // Without it the first has all again, as long as one of it is there.
    let strict = |config: &mut Config| config.overprovisioning_factor = None;
    fleet
        .balancer
        .configure(strict, &Unowned, seconds(2))
        .unwrap();
    assert_eq!(fleet.picks(1_000)[0], 1_000);
}

#[test]
fn with_a_factor_each_priority_panics_for_itself_when_all_have_too_little() {
    let list: Vec<_> = (1..=6)
        .map(|id| of_priority(u32::from(id > 4), id))
        .collect();
    let fleet = fleet(spilling(50), &list);
    let fails = |id| fleet.set(id, State::TransientFailure, seconds(1));
    (1..=3).for_each(fails);
    // 35 and 100: the second has what is missing.
    assert_eq!(layers(&fleet), [(0.35, 1, false), (0.65, 2, false)]);
    fails(5);
    // 35 and 70.
    assert_eq!(layers(&fleet), [(0.35, 1, false), (0.65, 1, false)]);
    fails(4);
    // 0 and 70: the first panics, and has nothing.
    assert_eq!(layers(&fleet), [(0.0, 0, true), (1.0, 1, false)]);
    fails(6);
    // Both panic: by how many there are.
    assert_eq!(layers(&fleet), [(0.67, 0, true), (0.33, 0, true)]);
    let picks = fleet.picks(1_200);
    assert!(picks.iter().all(|it| (197..=202).contains(it)), "{picks:?}");
}

#[test]
fn localities_share_the_picks_by_weight_and_each_goes_round() {
    let list = [("a", 1), ("b", 2), ("b", 3), ("c", 4)].map(|(name, id)| in_locality(name, id));
    let fleet = fleet(weighted(&[("a", 1.0), ("b", 2.0), ("c", 5.0)]), &list);
    assert_eq!(fleet.picks(800), [100, 100, 100, 500]);
    fleet.set(4, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(300), [100, 100, 100, 0]);
    fleet.set(2, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(300), [100, 0, 200, 0]);
    fleet.set(1, State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(300), [0, 0, 300, 0]);
}

#[test]
fn a_share_of_a_quarter_is_exact() {
    let list = [1, 2, 3, 4].map(|id| in_locality(if id == 1 { "here" } else { "there" }, id));
    let shares = |here| weighted(&[("here", here), ("there", 1.0 - here)]);
    assert_eq!(fleet(shares(0.25), &list).picks(400), [100, 100, 100, 100]);
    let none = fleet(shares(0.0), &list);
    assert_eq!(none.picks(9), [0, 3, 3, 3]);
    (2..=4).for_each(|id| none.set(id, State::TransientFailure, seconds(1)));
    assert_eq!(none.picks(9), [9, 0, 0, 0]);
}

#[test]
fn localities_of_weight_0_serve_while_there_are_only_such() {
    let list = [1, 2, 3].map(|id| in_locality(if id == 1 { "a" } else { "b" }, id));
    let fleet = fleet(weighted(&[("a", 0.0), ("b", 0.0)]), &list);
    assert_eq!(fleet.picks(400), [200, 100, 100]);
}

#[test]
fn localities_that_are_not_named_and_backends_without_one_weigh_1() {
    let mut list = [("a", 1), ("b", 2), ("c", 3)]
        .map(|(name, id)| in_locality(name, id))
        .to_vec();
    list.push(Backend::new(4, 4));
    let near = |config, expected: [usize; 4]| {
        let picks = fleet(config, &list).picks(1_000);
        let off = picks.iter().zip(expected).map(|(it, due)| it.abs_diff(due));
        assert!(off.max() <= Some(1), "{picks:?}");
    };
    near(config(), [250; 4]);
    near(weighted(&[("", 2.0)]), [200, 200, 200, 400]);
}

#[test]
fn with_a_factor_a_locality_loses_picks_as_it_loses_backends() {
    let list: Vec<_> = (1..=8)
        .map(|id| in_locality(if id > 4 { "b" } else { "a" }, id))
        .collect();
    let config = Config {
        locality_weights: [("a".into(), 1.0), ("b".into(), 1.0)].into(),
        ..spilling(0)
    };
    let fleet = fleet(config, &list);
    let of_a = || {
        let info = fleet.balancer.info(&Unowned);
        info.layers[0].share
    };
    assert_eq!(of_a(), 0.5);
    fleet.set(1, State::TransientFailure, seconds(1));
    assert_eq!(of_a(), 0.5, "1.4 times 3 of 4 is enough");
    fleet.set(2, State::TransientFailure, seconds(1));
    assert!((of_a() - 0.7 / 1.7).abs() < 1e-12);
    fleet.set(3, State::TransientFailure, seconds(1));
    assert!((of_a() - 0.35 / 1.35).abs() < 1e-12);
    let picks = fleet.picks(13_500);
    assert!(picks[3].abs_diff(3_500) <= 2, "{picks:?}");
}

#[test]
fn localities_are_those_of_one_priority() {
    let list =
        [("a", 0, 1), ("b", 0, 2), ("a", 1, 3), ("b", 1, 4)].map(|(name, priority, id)| Backend {
            priority,
            ..in_locality(name, id)
        });
    let fleet = fleet(weighted(&[("a", 3.0)]), &list);
    assert_eq!(fleet.picks(400), [300, 100, 0, 0]);
    fleet.set(1, State::Connecting, seconds(1));
    assert_eq!(fleet.picks(400), [0, 400, 0, 0]);
    fleet.set(2, State::Connecting, seconds(1));
    assert_eq!(fleet.picks(400), [0, 0, 300, 100]);
}

#[test]
fn a_new_backend_warms_up_within_its_priority() {
    let config = Config {
        slow_start: Some(Box::new(slow_start::Config {
            window: Duration::from_secs(10),
            ..Default::default()
        })),
        ..Config::from(Policy::Random(random::Config))
    };
    let fleet = fleet(config, &[of_priority(0, 1), of_priority(1, 2)]);
    fleet.tick(seconds(10));
    let cold = of_priority(0, 3);
    fleet.balancer.add(&[cold], &Unowned, seconds(20)).unwrap();
    let picks = fleet.picks(11_000);
    assert_eq!(picks[1], 0);
    // A tenth of the weight of the other: 1,000 expected, with a standard deviation of 30.
    assert!((880..1_120).contains(&picks[2]), "{picks:?}");
}

#[test]
fn a_full_layer_among_many_is_passed_over() {
    let list: Vec<_> = (1..=20).map(|id| of_priority(id, id)).collect();
    let fleet = fleet(
        Config {
            max_requests_per_backend: Some(1),
            ..config()
        },
        &list,
    );
    let mut calls = Vec::new();
    for id in 1..=20 {
        let checkout = fleet
            .balancer
            .checkout(&fleet.caller, &Unowned, seconds(1), |id| *id);
        // A brief search says so where it has not looked at all.
        let checkout = match checkout {
            Err(Unavailable::Unfinished) => {
                fleet
                    .balancer
                    .checkout_thoroughly(&fleet.caller, &Unowned, seconds(1), |id| *id)
            }
            found => found,
        };
        let (found, ticket) = checkout.unwrap();
        assert_eq!(found, id);
        calls.push(ticket);
    }
    let thorough = fleet
        .balancer
        .checkout_thoroughly(&fleet.caller, &Unowned, seconds(1), |id| *id);
    assert!(matches!(thorough, Err(Unavailable::Overloaded)));
}

/// Everybody lives but one.
struct AllBut(Owner);

impl Owners for AllBut {
    type Watch = ();

    fn watch(&self, _owner: Owner) -> Option<()> {
        Some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, owner: Owner) -> bool {
        owner != self.0
    }
}

#[test]
fn a_death_that_nobody_has_acted_on_yet_leaves_the_next_layer_and_its_limits() {
    let dead = Owner(NonZeroU64::new(7).unwrap());
    let world = AllBut(dead);
    let config = Config {
        max_requests_per_backend: Some(1),
        ..config()
    };
    let balancer = Balancer::new(config, 3, Time(0));
    let caller = Caller::new(5);
    let owned = Backend {
        owner: Some(dead),
        ..of_priority(0, 1)
    };
    balancer
        .reconcile(&[owned, of_priority(1, 2)], &world, Time(0))
        .unwrap();
    assert!(balancer.note_death(dead));
    assert_eq!(balancer.pick(&caller, &world, |id| *id), Ok(2));
    let checkout = || balancer.checkout(&caller, &world, Time(0), |id| *id);
    let (id, _ticket) = checkout().unwrap();
    assert_eq!(id, 2);
    // The dead one has no backend to offer, and the other no room.
    assert!(matches!(checkout(), Err(Unavailable::Overloaded)));
}
