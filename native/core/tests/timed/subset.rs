//! A subset: the others are listed, and as if they were not there.

use super::*;
use std::collections::BTreeSet;
use std::num::NonZeroU32;

use grpc_lb_core::subset::{self, subset};
use grpc_lb_core::OnOwnerDeath;

fn with_subset(size: u32, seed: u64) -> Config {
    Config {
        subset: Some(subset::Config {
            size: NonZeroU32::new(size).unwrap(),
            seed,
        }),
        ..detecting(round_robin(), consecutive(3))
    }
}

fn text(id: u32) -> String {
    format!("10.0.0.{id}:443")
}

fn backend(id: u32) -> Backend<u32> {
    Backend::new(id, id).keyed(text(id))
}

fn fleet(config: Config, ids: &[u32]) -> Fleet {
    let fleet = Fleet {
        balancer: Balancer::new(config, 3, Time(0)),
        caller: Caller::new(5),
    };
    let list: Vec<_> = ids.iter().map(|id| backend(*id)).collect();
    fleet.balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    fleet
}

/// What the function with the known answers says.
fn expected(ids: &[u32], size: usize, seed: u64) -> BTreeSet<u32> {
    let texts: Vec<String> = ids.iter().map(|id| text(*id)).collect();
    let chosen = subset(&texts, seed, size);
    chosen.iter().map(|index| ids[*index]).collect()
}

fn used(fleet: &Fleet) -> BTreeSet<u32> {
    let backends = fleet.balancer.info(&Unowned).backends.into_iter();
    let used = backends.filter(|it| it.in_subset).map(|it| it.id).collect();
    let picked: BTreeSet<u32> = (0..60)
        .map(|_| {
            fleet
                .balancer
                .pick(&fleet.caller, &Unowned, |id| *id)
                .unwrap()
        })
        .collect();
    assert_eq!(picked, used);
    used
}

#[test]
fn the_lowest_hashes_are_used_whatever_comes_and_goes() {
    for seed in 0..20 {
        let mut ids: Vec<u32> = (1..=20).collect();
        let fleet = fleet(with_subset(5, seed), &ids);
        assert_eq!(used(&fleet), expected(&ids, 5, seed));
        for id in [3, 7, 11, 1, 20, 15] {
            fleet.balancer.remove(&[id], &Unowned, seconds(1)).unwrap();
            ids.retain(|it| *it != id);
            assert_eq!(used(&fleet), expected(&ids, 5, seed));
        }
        for id in [21, 3, 22] {
            fleet
                .balancer
                .add(&[backend(id)], &Unowned, seconds(2))
                .unwrap();
            ids.push(id);
            assert_eq!(used(&fleet), expected(&ids, 5, seed));
        }
        let list: Vec<_> = (10..=13).map(backend).collect();
        fleet
            .balancer
            .reconcile(&list, &Unowned, seconds(3))
            .unwrap();
        assert_eq!(used(&fleet), (10..=13).collect());
    }
}

#[test]
fn who_is_down_or_ejected_keeps_its_place_and_those_outside_do_not_count() {
    let ids: Vec<u32> = (1..=10).collect();
    let config = Config {
        panic_threshold: 50,
        ..with_subset(3, 7)
    };
    let fleet = fleet(config, &ids);
    let chosen: Vec<u32> = expected(&ids, 3, 7).into_iter().collect();
    fleet.set(chosen[0], State::TransientFailure, seconds(1));
    assert_eq!(fleet.picks(8).iter().filter(|it| **it > 0).count(), 2);
    // Two of three are down: a panic, whatever the others are.
    fleet.set(chosen[1], State::TransientFailure, seconds(1));
    let layers = fleet.balancer.info(&Unowned).layers;
    assert!(layers[0].panics);
    assert_eq!((layers[0].backends, layers[0].healthy), (3, 1));
    assert_eq!(fleet.picks(9).iter().filter(|it| **it == 3).count(), 3);
    let outside = ids.iter().find(|id| !chosen.contains(id)).unwrap();
    fleet.set(*outside, State::TransientFailure, seconds(1));
    assert_eq!(fleet.balancer.info(&Unowned).layers, layers);
}

#[test]
fn each_priority_has_a_subset() {
    let list: Vec<_> = (1..=20)
        .map(|id| Backend {
            priority: u32::from(id > 10),
            ..backend(id)
        })
        .collect();
    let fleet = fleet(with_subset(2, 1), &[]);
    fleet
        .balancer
        .reconcile(&list, &Unowned, seconds(1))
        .unwrap();
    let near = expected(&(1..=10).collect::<Vec<_>>(), 2, 1);
    assert_eq!(
        used_of(&fleet),
        near.union(&expected(&(11..=20).collect::<Vec<_>>(), 2, 1))
            .copied()
            .collect()
    );
    let picks = fleet.picks(20);
    near.iter()
        .for_each(|id| assert_eq!(picks[*id as usize - 1], 10));
}

fn used_of(fleet: &Fleet) -> BTreeSet<u32> {
    let backends = fleet.balancer.info(&Unowned).backends.into_iter();
    backends.filter(|it| it.in_subset).map(|it| it.id).collect()
}

#[test]
fn of_one_whose_owner_dies_another_takes_the_place() {
    let owner = |id: u32| Owner(NonZeroU64::new(u64::from(id)).unwrap());
    let config = Config {
        on_owner_death: OnOwnerDeath::Remove,
        ..with_subset(3, 2)
    };
    let fleet = fleet(config, &[]);
    let mut ids: Vec<u32> = (1..=10).collect();
    let owned = |id: u32| Backend {
        owner: Some(owner(id)),
        ..backend(id)
    };
    let list: Vec<_> = ids.iter().map(|id| owned(*id)).collect();
    fleet
        .balancer
        .reconcile(&list, &Unowned, seconds(1))
        .unwrap();
    for _ in 0..7 {
        let dies = *used(&fleet).first().unwrap();
        assert!(fleet.balancer.note_death(owner(dies)));
        fleet.balancer.remove_dead(&Unowned);
        ids.retain(|id| *id != dies);
        assert_eq!(used(&fleet), expected(&ids, 3, 2));
    }
}

#[test]
fn outliers_are_judged_among_those_that_are_used() {
    let ids: Vec<u32> = (1..=10).collect();
    let fleet = fleet(with_subset(3, 9), &ids);
    let bad = *expected(&ids, 3, 9).first().unwrap();
    fleet.call(9, seconds(1), failures_of(bad));
    fleet.tick(seconds(1));
    assert!(fleet.info(bad).ejected_until.is_some());
    // It is used still: no other takes the place.
    assert_eq!(used_of(&fleet), expected(&ids, 3, 9));
    assert_eq!(fleet.picks(8).iter().filter(|it| **it == 4).count(), 2);
}
