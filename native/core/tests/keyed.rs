//! Where keys lead, through the policies that hash: also while backends come, go, fail and are busy.
#![cfg(not(loom))]

use std::collections::HashSet;
use std::num::NonZeroU64;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::health::outlier_detection;
use grpc_lb_core::policy::ring_hash::Ring;
use grpc_lb_core::policy::{maglev, ring_hash, BalanceFactor, Policy};
use grpc_lb_core::{
    Backend, Balancer, Caller, ChangeError, Config, OnOwnerDeath, Outcome, Owner, Owners, State,
    Ticket, Time, Unavailable, Unowned,
};
use proptest::prelude::*;

const KEYS: u64 = 20_000;

fn ring() -> Policy {
    Policy::RingHash(ring_hash::Config::default())
}

fn table(size: u32) -> Policy {
    Policy::Maglev(maglev::Config::new(size).expect("it is prime"))
}

fn both() -> [Policy; 2] {
    [ring(), table(65_537)]
}

fn bounded(policy: Policy, percent: u32) -> Policy {
    let hash_balance_factor = BalanceFactor::new(percent);
    match policy {
        Policy::RingHash(mut config) => {
            config.hash_balance_factor = hash_balance_factor;
            Policy::RingHash(config)
        }
        Policy::Maglev(mut config) => {
            config.hash_balance_factor = hash_balance_factor;
            Policy::Maglev(config)
        }
        _ => unreachable!("it does not hash"),
    }
}

fn backend(id: u32) -> Backend<u32> {
    Backend::new(id, id).keyed(format!("10.0.{}.{}:443", id / 250, id % 250))
}

fn list(ids: impl IntoIterator<Item = u32>) -> Vec<Backend<u32>> {
    ids.into_iter().map(backend).collect()
}

fn balancer(config: impl Into<Config>, list: &[Backend<u32>]) -> Balancer<u32> {
    let balancer = Balancer::new(config, 1, Time(0));
    balancer.reconcile(list, &Unowned, Time(0)).unwrap();
    balancer
}

fn hash(key: u64) -> u64 {
    xxh64(&key.to_le_bytes(), 0)
}

fn pick(balancer: &Balancer<u32>, caller: &Caller, key: u64) -> Result<u32, Unavailable> {
    let _keyed = caller.with_key(hash(key));
    balancer.pick(caller, &Unowned, |id| *id)
}

fn checkout(
    balancer: &Balancer<u32>,
    caller: &Caller,
    key: u64,
) -> Result<(u32, Ticket), Unavailable> {
    let _keyed = caller.with_key(hash(key));
    balancer.checkout(caller, &Unowned, Time(0), |id| *id)
}

/// Where the keys lead.
fn led(balancer: &Balancer<u32>) -> Vec<u32> {
    let caller = Caller::new(7);
    (0..KEYS)
        .map(|key| pick(balancer, &caller, key).unwrap())
        .collect()
}

fn moved(before: &[u32], after: &[u32], of: impl Fn(u32) -> bool) -> usize {
    let pairs = before.iter().zip(after);
    pairs
        .filter(|(before, after)| of(**before) && before != after)
        .count()
}

#[test]
fn the_table_tells_which_part_of_the_keys_leads_to_each() {
    for policy in both() {
        let name = policy.name();
        let balancer = balancer(policy, &list(0..10));
        let shares = |balancer: &Balancer<u32>| -> Vec<f64> {
            let info = balancer.info(&Unowned);
            let shares = info.backends.iter().map(|it| it.table_share.unwrap());
            shares.collect()
        };
        let told = shares(&balancer);
        assert!((told.iter().sum::<f64>() - 1.0).abs() < 1e-9, "{name}");
        let led = led(&balancer);
        // Pearson's statistic; 27.9 is passed once in a thousand times with 9 degrees of freedom.
        let misfit = (0..10).map(|id| {
            let had = led.iter().filter(|one| **one == id).count() as f64;
            let expected = told[id as usize] * led.len() as f64;
            (had - expected).powi(2) / expected
        });
        assert!(misfit.sum::<f64>() < 27.9, "{name}");

        // One that cannot be picked has no entries; those of the others are as they were.
        set(&balancer, 3, State::Draining);
        let without = shares(&balancer);
        assert_eq!(without[3], 0.0, "{name}");
        assert_eq!(without[4], told[4], "{name}");
    }
}

fn set(balancer: &Balancer<u32>, id: u32, state: State) {
    balancer.set_state(&id, state, &Unowned, Time(0)).unwrap();
}

#[test]
fn a_backend_without_a_text_is_named() {
    let balancer = Balancer::<u32>::new(ring(), 1, Time(0));
    let list = [backend(1), Backend::new(2, 2)];
    let refused = balancer.add(&list, &Unowned, Time(0));
    let policy = "ring_hash";
    assert_eq!(
        refused,
        Err(ChangeError::NoHashKey {
            position: 1,
            policy
        })
    );
    let said = "backend 1 has no hash_key, by which ring_hash finds its place";
    assert_eq!(refused.unwrap_err().to_string(), said);
    assert_eq!(balancer.summary().backends, 0);
}

#[test]
fn calls_without_a_key_go_anywhere() {
    let caller = Caller::new(3);
    for policy in both() {
        let balancer = balancer(policy, &list(0..5));
        let pick = |_| balancer.pick(&caller, &Unowned, |id| *id).unwrap();
        let mut counts = [0; 5];
        (0..10_000)
            .map(pick)
            .for_each(|id| counts[id as usize] += 1);
        // A ring's shares differ by some percent.
        assert!(
            counts.iter().all(|count| (1_500..2_500).contains(count)),
            "{counts:?}"
        );
    }
}

#[test]
fn the_keys_of_who_is_down_go_on_alone_and_come_back() {
    for policy in [ring(), table(65_537), table(1_021)] {
        let name = policy.name();
        let balancer = balancer(policy, &list(0..10));
        let before = led(&balancer);
        for state in [State::TransientFailure, State::Connecting, State::Draining] {
            set(&balancer, 3, state);
            let without = led(&balancer);
            assert!(!without.contains(&3), "{name}");
            assert_eq!(moved(&before, &without, |id| id != 3), 0, "{name}");
            // All the others take some of them.
            let heirs = before.iter().zip(&without).filter(|(id, _)| **id == 3);
            assert_eq!(
                heirs.map(|(_, heir)| heir).collect::<HashSet<_>>().len(),
                9,
                "{name}"
            );
            set(&balancer, 3, State::Ready);
            assert_eq!(led(&balancer), before, "{name}");
        }
    }
}

#[test]
fn the_keys_of_who_is_down_go_to_the_next_on_the_ring() {
    let balancer = balancer(ring(), &list(0..20));
    let texts: Vec<_> = (0..20)
        .map(|id| (backend(id).hash_key.unwrap(), 1))
        .collect();
    let texts: Vec<_> = texts
        .iter()
        .map(|(text, weight)| (&text.slice, *weight))
        .collect();
    let ring = Ring::build(&ring_hash::Config::default(), &texts);
    // The last ones are few: then picks look them up in another way.
    for down in [1, 5, 10, 18, 19] {
        (0..down).for_each(|id| set(&balancer, id, State::TransientFailure));
        let next = (0..KEYS).map(|key| {
            let mut walk = ring.walk(hash(key));
            walk.find(|id| *id >= down as usize).unwrap() as u32
        });
        assert_eq!(led(&balancer), next.collect::<Vec<_>>(), "{down} are down");
    }
}

#[test]
fn who_leaves_moves_few_keys_but_its_own() {
    let percent = |of| KEYS as usize * of / 100;
    // With 101 or 100 backends each has 11 entries on a ring; with 10 it has 103, and with 9, 114: those that
    // are new take keys from others.
    let cases = [
        (ring(), 101, 0),
        (ring(), 10, percent(8)),
        (table(65_537), 100, percent(1)),
        (table(65_537), 10, percent(1)),
    ];
    for (policy, all, most) in cases {
        let name = policy.name();
        let balancer = balancer(policy, &list(0..all));
        let before = led(&balancer);
        balancer.remove(&[3], &Unowned, Time(0)).unwrap();
        let after = led(&balancer);
        let others = moved(&before, &after, |id| id != 3);
        assert!(others <= most, "{name} of {all}: {others}");
        balancer
            .reconcile(&list(0..all), &Unowned, Time(0))
            .unwrap();
        assert_eq!(led(&balancer), before, "{name}");
    }
}

#[test]
fn a_ring_of_a_size_that_stays_moves_only_the_keys_of_who_leaves() {
    // 100 entries each, before and after.
    let sized = |size| Policy::RingHash(ring_hash::Config::new(size, size).unwrap());
    let balancer = balancer(sized(1_000), &list(0..10));
    let before = led(&balancer);
    balancer.remove(&[3], &Unowned, Time(0)).unwrap();
    let smaller = |config: &mut Config| config.policy = sized(900);
    balancer.configure(smaller, &Unowned, Time(0)).unwrap();
    let after = led(&balancer);
    assert_eq!(moved(&before, &after, |id| id != 3), 0);
    assert!(!after.contains(&3));
}

#[test]
fn the_order_of_the_list_does_not_matter() {
    let weighted = |id: u32| Backend {
        weight: 1 + id % 3,
        ..backend(id)
    };
    let forth: Vec<_> = (0..50).map(weighted).collect();
    let back: Vec<_> = (0..50).rev().map(weighted).collect();
    // Cut to a size at which entries are no whole numbers, and so a matter of order.
    let cut = Policy::RingHash(ring_hash::Config::new(64, 64).unwrap());
    for policy in [cut, ring(), table(1_021)] {
        let one = balancer(policy.clone(), &forth);
        assert_eq!(led(&one), led(&balancer(policy, &back)));
        let table = one.info(&Unowned).table;
        one.reconcile(&back, &Unowned, Time(0)).unwrap();
        assert_eq!(one.info(&Unowned).table, table);
    }
}

#[test]
fn an_ejection_moves_the_keys_of_one_and_they_come_back() {
    for policy in both() {
        let name = policy.name();
        let detection = outlier_detection::Config {
            consecutive_transport_failures: std::num::NonZeroU32::new(1),
            ..Default::default()
        };
        let config = Config {
            outlier_detection: Some(Box::new(detection)),
            ..Config::from(policy)
        };
        let balancer = balancer(config, &list(0..10));
        let (before, caller) = (led(&balancer), Caller::new(0));
        let table = balancer.info(&Unowned).table;
        let (out, ticket) = checkout(&balancer, &caller, 5).unwrap();
        ticket
            .complete(Outcome::TransportFailure, None, Time(1))
            .unwrap();
        balancer.tick(&Unowned, Time(1));
        let without = led(&balancer);
        assert!(!without.contains(&out), "{name}");
        assert_eq!(moved(&before, &without, |id| id != out), 0, "{name}");
        assert_eq!(balancer.info(&Unowned).table, table, "{name}");
        let mut due = balancer.due();
        while let Some(now) = due.filter(|_| led(&balancer) != before) {
            due = balancer.tick(&Unowned, now);
        }
        assert_eq!(led(&balancer), before, "{name}");
    }
}

struct Dead;

impl Owners for Dead {
    type Watch = ();

    fn watch(&self, _owner: Owner) -> Option<()> {
        Some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        false
    }
}

#[test]
fn the_keys_of_who_has_just_died_go_where_they_go_when_it_is_out() {
    for policy in both() {
        let config = Config {
            on_owner_death: OnOwnerDeath::Keep,
            ..Config::from(policy)
        };
        let balancer = Balancer::new(config, 1, Time(0));
        let owner = NonZeroU64::new(9).map(Owner);
        let mut list = list(0..5);
        list[2].owner = owner;
        balancer.reconcile(&list, &Dead, Time(0)).unwrap();
        assert!(balancer.note_death(owner.unwrap()));
        let caller = Caller::new(0);
        let pick = |key| {
            let _keyed = caller.with_key(hash(key));
            balancer.pick(&caller, &Dead, |id| *id).unwrap()
        };
        let noted: Vec<_> = (0..KEYS).map(pick).collect();
        balancer.remove_dead(&Dead);
        assert_eq!((0..KEYS).map(pick).collect::<Vec<_>>(), noted);
        assert!(!noted.contains(&2));
    }
}

#[test]
fn the_calls_of_a_full_backend_go_where_its_keys_go_when_it_is_down() {
    for policy in both() {
        let config = Config {
            max_requests_per_backend: Some(1),
            ..Config::from(policy)
        };
        let balancer = balancer(config, &list(0..5));
        let caller = Caller::new(0);
        let (full, held) = checkout(&balancer, &caller, 5).unwrap();
        let passed = checkout(&balancer, &caller, 5).unwrap().0;
        set(&balancer, full, State::TransientFailure);
        assert_eq!(pick(&balancer, &caller, 5), Ok(passed));
        set(&balancer, full, State::Ready);
        drop(held);
        assert_eq!(checkout(&balancer, &caller, 5).unwrap().0, full);
    }
}

#[test]
fn a_hot_key_is_passed_on_when_its_backend_has_more_than_its_share() {
    for policy in both() {
        let balancer = balancer(bounded(policy.clone(), 125), &list(0..4));
        let caller = Caller::new(0);
        let hot = pick(&balancer, &caller, 5).unwrap();
        let mut held = Vec::new();
        for calls in 1..=400_u64 {
            let (id, ticket) = checkout(&balancer, &caller, 5).unwrap();
            held.push((id, ticket));
            // Envoy: one that has as many as it may takes another.
            let slots = (calls * 125).div_ceil(100).div_ceil(4);
            let most = (0..4).map(|id| held.iter().filter(|(of, _)| *of == id).count() as u64);
            assert!(most.max() <= Some(slots + 1), "{calls}");
        }
        let of = |id: u32| held.iter().filter(|(of, _)| *of == id).count();
        assert!(of(hot) >= 120, "{}", of(hot));
        // What a backend that is down would have passed on goes to the same heir, up to its share.
        held.clear();
        assert_eq!(pick(&balancer, &caller, 5), Ok(hot));
        let without = self::balancer(policy, &list(0..4));
        let caller = Caller::new(0);
        let all = (0..400).map(|_| checkout(&without, &caller, 5).unwrap());
        assert!(all.collect::<Vec<_>>().iter().all(|(id, _)| *id == hot));
    }
}

#[test]
fn shares_go_by_weight_among_those_that_can_be_picked() {
    let weighted = [1, 1, 6].iter().zip(0..).map(|(weight, id)| Backend {
        weight: *weight,
        ..backend(id)
    });
    let balancer = balancer(bounded(ring(), 100), &weighted.collect::<Vec<_>>());
    let caller = Caller::new(0);
    let counts = |down: Option<u32>| {
        down.iter()
            .for_each(|id| set(&balancer, *id, State::TransientFailure));
        // One key: all that it does not get comes of the bound.
        let held: Vec<_> = (0..800)
            .map(|_| checkout(&balancer, &caller, 5).unwrap())
            .collect();
        down.iter().for_each(|id| set(&balancer, *id, State::Ready));
        [0, 1, 2].map(|id| held.iter().filter(|(of, _)| *of == id).count())
    };
    let all = counts(None);
    let expected = [100, 100, 600];
    assert!(
        all.iter()
            .zip(expected)
            .all(|(got, due)| got.abs_diff(due) <= 2),
        "{all:?}"
    );
    let two = counts(Some(2));
    assert!(
        two.iter()
            .zip([400, 400, 0])
            .all(|(got, due)| got.abs_diff(due) <= 2),
        "{two:?}"
    );
}

#[test]
fn a_bound_on_mere_picks_changes_nothing() {
    for policy in both() {
        let plain = balancer(policy.clone(), &list(0..10));
        assert_eq!(
            led(&balancer(bounded(policy, 100), &list(0..10))),
            led(&plain)
        );
    }
}

#[test]
fn only_what_a_table_is_of_has_it_built_anew() {
    for policy in [ring(), table(65_537)] {
        let name = policy.name();
        let balancer = balancer(policy.clone(), &list(0..100));
        let built = || balancer.info(&Unowned).table.expect("it has a table");
        let table = built();
        let least = if name == "ring_hash" {
            1_000 * 12
        } else {
            65_537 * 4
        };
        assert!(
            table.bytes >= least && table.bytes < least + 100 * 40,
            "{table:?}"
        );
        assert!(table.entries >= 1_000, "{table:?}");
        set(&balancer, 3, State::TransientFailure);
        balancer
            .reconcile(&list(0..100), &Unowned, Time(0))
            .unwrap();
        assert_eq!(built(), table);
        balancer
            .reconcile(&list(0..1_000), &Unowned, Time(0))
            .unwrap();
        assert_ne!(built(), table);
        balancer.close(&Unowned);
    }
    let without = Balancer::<u32>::new(Policy::RoundRobin(Default::default()), 1, Time(0));
    assert_eq!(without.info(&Unowned).table, None);
}

proptest! {
    /// Against the rule, walked plainly: whatever has become of the list, a key goes to the first entry
    /// from its hash on whose backend can be picked.
    #[test]
    fn a_key_goes_to_the_next_on_the_ring_whatever_happened(
        steps in prop::collection::vec((0..12_u32, 0..5_u8, 1..4_u32), 0..40),
        sizes in (1..40_u32, 0..200_u32),
        keys in prop::collection::vec(any::<u64>(), 20),
    ) {
        let config = ring_hash::Config::new(sizes.0, sizes.0 + sizes.1).unwrap();
        let balancer = Balancer::new(Policy::RingHash(config), 1, Time(0));
        // In the order of the list: id, weight, whether it can be picked.
        let mut listed: Vec<(u32, u32, bool)> = Vec::new();
        for (id, step, weight) in steps {
            let place = listed.iter().position(|(other, ..)| *other == id);
            let offered = Backend { weight, ..backend(id) };
            match (step, place) {
                (0 | 1, None) => {
                    balancer.add(&[offered], &Unowned, Time(0)).unwrap();
                    listed.push((id, weight, true));
                }
                (0, Some(place)) => {
                    balancer.add(&[offered], &Unowned, Time(0)).unwrap();
                    listed[place].1 = weight;
                }
                (1, Some(place)) => {
                    balancer.remove(&[id], &Unowned, Time(0)).unwrap();
                    listed.remove(place);
                }
                (2 | 3, Some(place)) => {
                    let ready = step == 2;
                    set(&balancer, id, if ready { State::Ready } else { State::Connecting });
                    listed[place].2 = ready;
                }
                _ => {
                    listed.reverse();
                    let offered = listed.iter().map(|(id, weight, _)| Backend {
                        weight: *weight,
                        ..backend(*id)
                    });
                    balancer.reconcile(&offered.collect::<Vec<_>>(), &Unowned, Time(0)).unwrap();
                }
            }
        }
        listed.sort_by_key(|(id, ..)| backend(*id).hash_key.unwrap().slice.to_vec());
        let texts: Vec<_> = listed
            .iter()
            .map(|(id, weight, _)| (backend(*id).hash_key.unwrap(), *weight))
            .collect();
        let texts: Vec<_> = texts.iter().map(|(text, weight)| (&text.slice, *weight)).collect();
        let ring = Ring::build(&config, &texts);
        let caller = Caller::new(7);
        for hash in keys {
            let _keyed = caller.with_key(hash);
            let picked = balancer.pick(&caller, &Unowned, |id| *id);
            let next = ring.walk(hash).find(|index| listed[*index].2).map(|index| listed[index].0);
            match next {
                Some(next) => prop_assert_eq!(picked, Ok(next)),
                // A ring smaller than the list may have no entry of those that can be picked.
                None => prop_assert_eq!(picked.is_ok(), listed.iter().any(|(.., ready)| *ready)),
            }
        }
    }
}
