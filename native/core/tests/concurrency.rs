//! Real threads: what picks see while the list changes, and that everything is freed once.
#![cfg(not(loom))]

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use grpc_lb_core::policy::{pick_first, round_robin, Policy};
use grpc_lb_core::{
    Backend, Balancer, Caller, Config, Offer, OnOwnerDeath, Owner, Owners, State, Unavailable,
    Unowned,
};

/// A number that counts how many of its kind exist, and that can be seen to be dead.
struct Tracked {
    number: usize,
    alive: Box<usize>,
    count: Arc<AtomicIsize>,
}

const ALIVE: usize = 0xA11CE;

impl Tracked {
    fn new(number: usize, count: &Arc<AtomicIsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Tracked {
            number,
            alive: Box::new(ALIVE),
            count: count.clone(),
        }
    }
}

impl Clone for Tracked {
    fn clone(&self) -> Self {
        Tracked::new(self.number, &self.count)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        assert_eq!(*self.alive, ALIVE, "dropped twice");
        *self.alive = 0;
        self.count.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PartialEq for Tracked {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Tracked {}

impl Hash for Tracked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.number.hash(state);
    }
}

fn list(
    numbers: impl IntoIterator<Item = usize>,
    count: &Arc<AtomicIsize>,
) -> Vec<Backend<Tracked>> {
    numbers
        .into_iter()
        .map(|number| Backend::new(Tracked::new(number, count), Tracked::new(number, count)))
        .collect()
}

fn round_robin() -> Policy {
    Policy::RoundRobin(round_robin::Config::default())
}

fn per_caller(callers: usize) -> Policy {
    Policy::RoundRobin(round_robin::Config {
        cursor: round_robin::CursorKind::PerCaller(callers),
        ..Default::default()
    })
}

#[test]
fn every_value_is_freed_once_and_none_is_seen_dead() {
    for policy in [round_robin(), per_caller(4), Policy::Random] {
        let count = Arc::new(AtomicIsize::new(0));
        let balancer = Balancer::new(policy, 7);
        let stop = AtomicBool::new(false);
        balancer.reconcile(&list(0..8, &count), &Unowned).unwrap();
        thread::scope(|scope| {
            for seed in 0..6 {
                let (balancer, stop) = (&balancer, &stop);
                scope.spawn(move || {
                    let caller = Caller::claim(seed).unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        balancer
                            .pick(&caller, &Unowned, |value| assert_eq!(*value.alive, ALIVE))
                            .unwrap();
                    }
                });
            }
            for round in 0..3_000 {
                let offered = list(round..round + 1 + round % 9, &count);
                balancer.reconcile(&offered, &Unowned).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        balancer.close(&Unowned);
        assert_eq!(count.load(Ordering::SeqCst), 0, "closed, nothing is listed");
        drop(balancer);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn dropping_a_balancer_frees_what_it_lists() {
    let count = Arc::new(AtomicIsize::new(0));
    let balancer = Balancer::new(round_robin(), 7);
    balancer.reconcile(&list(0..100, &count), &Unowned).unwrap();
    assert!(count.load(Ordering::SeqCst) > 0);
    drop(balancer);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_rejected_reconcile_keeps_nothing() {
    let count = Arc::new(AtomicIsize::new(0));
    let balancer = Balancer::new(round_robin(), 7);
    assert!(balancer
        .reconcile(&list([1, 2, 1], &count), &Unowned)
        .is_err());
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(balancer.info(&Unowned).generation, 0);
}

/// Offers a number, and must never have to become a `Tracked`.
#[derive(PartialEq, Eq, Hash)]
struct Listed(usize);

impl hashbrown::Equivalent<Tracked> for Listed {
    fn equivalent(&self, held: &Tracked) -> bool {
        self.0 == held.number
    }
}

impl Offer<Tracked> for Listed {
    fn own(id: &Self, _value: &Self) -> (Tracked, Tracked) {
        panic!("{} is held already", id.0)
    }
}

#[test]
fn a_backend_that_stays_is_not_copied() {
    let count = Arc::new(AtomicIsize::new(0));
    let balancer = Balancer::new(round_robin(), 7);
    balancer.reconcile(&list(0..10, &count), &Unowned).unwrap();
    let again: Vec<_> = (2..10)
        .map(|number| Backend::new(Listed(number), Listed(number)))
        .collect();
    let changes = balancer.reconcile(&again, &Unowned).unwrap();
    assert_eq!((changes.kept, changes.removed), (8, 2));
}

#[test]
fn a_shared_rotation_is_exact_under_contention() {
    let balancer = Balancer::new(round_robin(), 0);
    let backends: Vec<_> = (0..7).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned).unwrap();
    let counts = pick_from_threads(&balancer, 16, 1_000);
    let total: u64 = counts.values().sum();
    assert_eq!(total, 16_000);
    assert!(spread(&counts) <= 1, "{counts:?}");
    for backend in balancer.info(&Unowned).backends {
        assert_eq!(backend.picks, Some(counts[&backend.id]), "{}", backend.id);
    }
}

#[test]
fn rotations_of_callers_differ_by_at_most_their_number() {
    const THREADS: u64 = 8;
    // Fewer lanes than threads: some threads share the last one.
    let balancer = Balancer::new(per_caller(3), 0);
    let backends: Vec<_> = (0..7).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned).unwrap();
    let counts = pick_from_threads(&balancer, THREADS, 1_003);
    assert!(spread(&counts) <= THREADS, "{counts:?}");
    for backend in balancer.info(&Unowned).backends {
        assert_eq!(backend.picks, Some(counts[&backend.id]), "{}", backend.id);
    }
}

fn pick_from_threads(balancer: &Balancer<u32>, threads: u64, picks: usize) -> HashMap<u32, u64> {
    let start = Barrier::new(threads as usize);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|seed| {
                let start = &start;
                scope.spawn(move || {
                    let caller = Caller::claim(seed).unwrap();
                    let mut counts = HashMap::new();
                    start.wait();
                    for _ in 0..picks {
                        let value = balancer.pick(&caller, &Unowned, |value| *value).unwrap();
                        *counts.entry(value).or_insert(0) += 1;
                    }
                    counts
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect::<Vec<_>>()
    });
    let mut sum = HashMap::new();
    for (value, count) in counts.into_iter().flatten() {
        *sum.entry(value).or_insert(0) += count;
    }
    sum
}

fn spread(counts: &HashMap<u32, u64>) -> u64 {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

#[test]
fn picks_are_counted_across_snapshots() {
    let balancer = Balancer::new(round_robin(), 0);
    let stop = AtomicBool::new(false);
    let backends: Vec<_> = (0..3).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned).unwrap();
    let picked: u64 = thread::scope(|scope| {
        let pickers: Vec<_> = (0..4)
            .map(|seed| {
                let (balancer, stop) = (&balancer, &stop);
                scope.spawn(move || {
                    let caller = Caller::claim(seed).unwrap();
                    let mut picked = 0;
                    while !stop.load(Ordering::Relaxed) {
                        balancer.pick(&caller, &Unowned, |_| ()).unwrap();
                        picked += 1;
                    }
                    picked
                })
            })
            .collect();
        for _ in 0..2_000 {
            balancer.reconcile(&backends, &Unowned).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        pickers
            .into_iter()
            .map(|picker| picker.join().unwrap())
            .sum()
    });
    let counted: u64 = balancer
        .info(&Unowned)
        .backends
        .iter()
        .map(|backend| backend.picks.unwrap())
        .sum();
    assert_eq!(counted, picked);
}

#[test]
fn a_shrinking_list_is_seen_by_every_pick_after_it() {
    let balancer = Balancer::new(round_robin(), 0);
    for _ in 0..200 {
        let all: Vec<_> = (0..8u32).map(|id| Backend::new(id, id)).collect();
        balancer.reconcile(&all, &Unowned).unwrap();
        let shrunk = AtomicBool::new(false);
        thread::scope(|scope| {
            for seed in 0..4 {
                let (balancer, shrunk) = (&balancer, &shrunk);
                scope.spawn(move || {
                    let caller = Caller::claim(seed).unwrap();
                    for _ in 0..200 {
                        let survivors_only = shrunk.load(Ordering::SeqCst);
                        let id = balancer.pick(&caller, &Unowned, |id| *id).unwrap();
                        assert!(!survivors_only || id < 2);
                    }
                });
            }
            balancer.reconcile(&all[..2], &Unowned).unwrap();
            shrunk.store(true, Ordering::SeqCst);
        });
    }
}

/// Owners of which some are dead.
struct Dead(Vec<Owner>);

impl Owners for Dead {
    type Watch = ();

    fn watch(&self, owner: Owner) -> Option<()> {
        (!self.0.contains(&owner)).then_some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, owner: Owner) -> bool {
        !self.0.contains(&owner)
    }
}

fn owner(name: u64) -> Owner {
    Owner(NonZeroU64::new(name).unwrap())
}

fn die(balancer: &Balancer<u64>, owner: Owner) {
    if balancer.note_death(owner) {
        balancer.settle(&Unowned);
    }
}

#[test]
fn deaths_and_reconciles_at_the_same_time_lose_nobody() {
    const OWNERS: u64 = 64;
    let balancer = Balancer::new(round_robin(), 0);
    let owned: Vec<_> = (1..=OWNERS)
        .map(|id| Backend {
            owner: Some(owner(id)),
            ..Backend::new(id, id)
        })
        .collect();
    balancer.reconcile(&owned, &Unowned).unwrap();
    thread::scope(|scope| {
        for half in 0..2 {
            let balancer = &balancer;
            scope.spawn(move || {
                for name in (1 + half..=OWNERS).step_by(2) {
                    die(balancer, owner(name));
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..200 {
                balancer.info(&Unowned);
            }
        });
    });
    let states: Vec<_> = balancer
        .info(&Unowned)
        .backends
        .iter()
        .map(|backend| backend.state)
        .collect();
    assert!(
        states.iter().all(|state| *state == State::Down),
        "{states:?}"
    );
    let caller = Caller::claim(0).unwrap();
    assert_eq!(
        balancer.pick(&caller, &Unowned, |_| ()),
        Err(Unavailable::NoBackends)
    );
}

#[test]
fn a_dead_owner_is_the_same_before_and_after_it_is_listed() {
    let owned = Backend {
        owner: Some(owner(1)),
        ..Backend::new(1, 1)
    };
    let balancer = Balancer::new(round_robin(), 0);
    let dead = Dead(vec![owner(1)]);
    balancer
        .reconcile(std::slice::from_ref(&owned), &dead)
        .unwrap();
    assert_eq!(balancer.info(&dead).backends[0].state, State::Down);
    // Another owner brings it back.
    let brought_back = Backend {
        owner: Some(owner(2)),
        ..owned
    };
    balancer.reconcile(&[brought_back], &dead).unwrap();
    assert_eq!(balancer.info(&dead).backends[0].state, State::Ready);
}

#[test]
fn whoever_looks_sees_the_deaths_that_were_noted() {
    let owned = Backend {
        owner: Some(owner(1)),
        ..Backend::new(1, 1)
    };
    let balancer = Balancer::new(round_robin(), 0);
    balancer.reconcile(&[owned], &Unowned).unwrap();
    assert!(balancer.note_death(owner(1)), "somebody will settle it");
    assert_eq!(balancer.info(&Unowned).backends[0].state, State::Down);
}

#[test]
fn a_pick_that_passes_a_dead_backend_over_counts_for_the_one_it_handed_out() {
    let owned = Backend {
        owner: Some(owner(1)),
        ..Backend::new(1, 1)
    };
    let balancer = Balancer::new(round_robin(), 0);
    balancer
        .reconcile(&[owned, Backend::new(2, 2)], &Unowned)
        .unwrap();
    let dead = Dead(vec![owner(1)]);
    assert!(balancer.note_death(owner(1)), "nobody settles it");
    let caller = Caller::claim(0).unwrap();
    for _ in 0..5 {
        assert_eq!(balancer.pick(&caller, &dead, |id| *id), Ok(2));
    }
    let picks: Vec<_> = balancer
        .info(&dead)
        .backends
        .iter()
        .map(|backend| backend.picks)
        .collect();
    assert_eq!(picks, [Some(0), Some(5)]);
}

#[test]
fn the_death_of_its_owner_closes_a_balancer() {
    let caller = Caller::claim(0).unwrap();
    let balancer = Balancer::new(round_robin(), 0);
    balancer.reconcile(&[Backend::new(1, 1)], &Unowned).unwrap();
    balancer.set_owner(owner(9), &Unowned);
    die(&balancer, owner(8));
    assert_eq!(balancer.pick(&caller, &Unowned, |id| *id), Ok(1));
    die(&balancer, owner(9));
    assert_eq!(
        balancer.pick(&caller, &Unowned, |id| *id),
        Err(Unavailable::Closed)
    );

    let balancer = Balancer::<u64>::new(round_robin(), 0);
    balancer.set_owner(owner(9), &Dead(vec![owner(9)]));
    assert_eq!(
        balancer.pick(&caller, &Unowned, |id| *id),
        Err(Unavailable::Closed)
    );
}

#[test]
#[should_panic(expected = "a pick inside a pick")]
fn a_pick_inside_a_pick_of_the_same_caller_panics() {
    let caller = Caller::claim(0).unwrap();
    let balancer = Balancer::new(round_robin(), 0);
    balancer.reconcile(&[Backend::new(1, 1)], &Unowned).unwrap();
    let _ = balancer.pick(&caller, &Unowned, |_| {
        balancer.pick(&caller, &Unowned, |id| *id)
    });
}

#[test]
fn a_caller_can_pick_again_after_a_panic() {
    let caller = Caller::claim(0).unwrap();
    let balancer = Balancer::new(round_robin(), 0);
    balancer.reconcile(&[Backend::new(1, 1)], &Unowned).unwrap();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = balancer.pick(&caller, &Unowned, |_| panic!("in the caller's code"));
    }));
    assert!(panicked.is_err());
    assert_eq!(balancer.pick(&caller, &Unowned, |id| *id), Ok(1));
}

/// Owners who die when they are told to.
struct Mortals([AtomicBool; MORTALS]);

const MORTALS: usize = 512;

impl Owners for Mortals {
    type Watch = ();

    fn watch(&self, owner: Owner) -> Option<()> {
        self.is_alive(owner).then_some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, owner: Owner) -> bool {
        !self.0[owner.0.get() as usize - 1].load(Ordering::Acquire)
    }
}

#[test]
fn nobody_who_heard_of_a_death_picks_the_dead_while_others_come_and_go() {
    for policy in [
        round_robin(),
        per_caller(2),
        Policy::Random,
        Policy::PickFirst(pick_first::Config { shuffle: true }),
    ] {
        let world = Mortals([const { AtomicBool::new(false) }; MORTALS]);
        // As many as have died, in the order of their names, and been noted.
        let dead = AtomicU64::new(0);
        let balancer = Balancer::new(
            Config {
                policy,
                on_owner_death: OnOwnerDeath::Remove,
            },
            3,
        );
        // The one that stays lives for ever, so that there is always one to pick.
        balancer.reconcile(&[Backend::new(0, 0)], &world).unwrap();
        thread::scope(|scope| {
            let (balancer, world, dead) = (&balancer, &world, &dead);
            for seed in 0..2 {
                scope.spawn(move || {
                    let caller = Caller::claim(seed).unwrap();
                    while dead.load(Ordering::Acquire) < MORTALS as u64 {
                        let gone = dead.load(Ordering::Acquire);
                        let id = balancer.pick(&caller, world, |id| *id).unwrap();
                        assert!(id == 0 || id > gone, "picked {id} after {gone} had died");
                    }
                });
            }
            scope.spawn(move || {
                // Keeps the lock busy, so that deaths have to wait for it.
                while dead.load(Ordering::Acquire) < MORTALS as u64 {
                    balancer.info(world);
                }
            });
            for name in 1..=MORTALS as u64 {
                let owned = Backend {
                    owner: Some(owner(name)),
                    ..Backend::new(name, name)
                };
                balancer.add(&[owned], world).unwrap();
                if name % 8 == 0 {
                    for name in name - 7..=name {
                        world.0[name as usize - 1].store(true, Ordering::Release);
                        let settles = balancer.note_death(owner(name));
                        dead.store(name, Ordering::Release);
                        if settles {
                            balancer.settle(world);
                        }
                    }
                }
            }
        });
        assert_eq!(balancer.info(&world).backends.len(), 1);
    }
}
