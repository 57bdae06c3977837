//! Real threads: what picks see while the list changes, and that everything is freed once.
#![cfg(not(loom))]

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU32, AtomicU64, Ordering};
use std::sync::{mpsc, Arc, Barrier};
use std::thread;
use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{self, ConsecutiveFailures, FailurePercentage};
use grpc_lb_core::health::slow_start;
use grpc_lb_core::load::orca::{LoadReport, Report};

use grpc_lb_core::policy::{pick_first, random, round_robin, Policy};
use grpc_lb_core::{
    live_counts, Backend, Balancer, Caller, Config, Drained, Offer, OnOwnerDeath, Outcome, Owner,
    Owners, Search, State, Time, Unavailable, Unowned,
};

mod support;

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

thread_local! {
    /// Whether this thread does nothing but pick.
    static ONLY_PICKS: Cell<bool> = const { Cell::new(false) };
}

impl Drop for Tracked {
    fn drop(&mut self) {
        assert!(!ONLY_PICKS.get(), "a pick ran a destructor");
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

fn per_caller(callers: u32) -> Policy {
    Policy::RoundRobin(round_robin::Config {
        cursor: round_robin::CursorKind::PerCaller(callers),
        ..Default::default()
    })
}

#[test]
fn every_value_is_freed_once_and_none_is_seen_dead() {
    for policy in [round_robin(), per_caller(4), Policy::Random(random::Config)] {
        let count = Arc::new(AtomicIsize::new(0));
        let balancer = Balancer::new(policy, 7, Time(0));
        let stop = AtomicBool::new(false);
        balancer
            .reconcile(&list(0..8, &count), &Unowned, Time(0))
            .unwrap();
        thread::scope(|scope| {
            for seed in 0..6 {
                let (balancer, stop) = (&balancer, &stop);
                scope.spawn(move || {
                    ONLY_PICKS.set(true);
                    let caller = Caller::new(seed);
                    while !stop.load(Ordering::Relaxed) {
                        balancer
                            .pick(&caller, &Unowned, |value| assert_eq!(*value.alive, ALIVE))
                            .unwrap();
                    }
                });
            }
            for round in 0..3_000 {
                let offered = list(round..round + 1 + round % 9, &count);
                balancer.reconcile(&offered, &Unowned, Time(0)).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        // Not before: a pick of another test can hold back for a moment what a close retires. What
        // a close frees is in `reclamation.rs`, whose tests run one at a time.
        drop(balancer);
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn dropping_a_balancer_frees_what_it_lists() {
    let count = Arc::new(AtomicIsize::new(0));
    let balancer = Balancer::new(round_robin(), 7, Time(0));
    balancer
        .reconcile(&list(0..100, &count), &Unowned, Time(0))
        .unwrap();
    assert!(count.load(Ordering::SeqCst) > 0);
    drop(balancer);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_rejected_reconcile_keeps_nothing() {
    let count = Arc::new(AtomicIsize::new(0));
    let balancer = Balancer::new(round_robin(), 7, Time(0));
    assert!(balancer
        .reconcile(&list([1, 2, 1], &count), &Unowned, Time(0))
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
    let balancer = Balancer::new(round_robin(), 7, Time(0));
    balancer
        .reconcile(&list(0..10, &count), &Unowned, Time(0))
        .unwrap();
    let again: Vec<_> = (2..10)
        .map(|number| Backend::new(Listed(number), Listed(number)))
        .collect();
    let changes = balancer.reconcile(&again, &Unowned, Time(0)).unwrap();
    assert_eq!((changes.kept, changes.removed), (8, 2));
}

#[test]
fn a_shared_rotation_is_exact_under_contention() {
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    let backends: Vec<_> = (0..7).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
    let counts = pick_from_threads(&balancer, 16, 1_000);
    let total: u64 = counts.values().sum();
    assert_eq!(total, 16_000);
    assert!(spread(&counts) <= 1, "{counts:?}");
    for backend in balancer.info(&Unowned).backends {
        assert_eq!(backend.picks, counts[&backend.id], "{}", backend.id);
    }
}

#[test]
fn rotations_of_callers_differ_by_at_most_their_number() {
    const THREADS: u64 = 8;
    // Fewer lanes than threads: some threads share the last one.
    let balancer = Balancer::new(per_caller(3), 0, Time(0));
    let backends: Vec<_> = (0..7).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
    let counts = pick_from_threads(&balancer, THREADS, 1_003);
    assert!(spread(&counts) <= THREADS, "{counts:?}");
    for backend in balancer.info(&Unowned).backends {
        assert_eq!(backend.picks, counts[&backend.id], "{}", backend.id);
    }
}

fn pick_from_threads(balancer: &Balancer<u32>, threads: u64, picks: usize) -> HashMap<u32, u64> {
    let start = Barrier::new(threads as usize);
    let counts = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|seed| {
                let start = &start;
                scope.spawn(move || {
                    let caller = Caller::new(seed);
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
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    let stop = AtomicBool::new(false);
    let backends: Vec<_> = (0..3).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
    let picked: u64 = thread::scope(|scope| {
        let pickers: Vec<_> = (0..4)
            .map(|seed| {
                let (balancer, stop) = (&balancer, &stop);
                scope.spawn(move || {
                    let caller = Caller::new(seed);
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
            balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
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
        .map(|backend| backend.picks)
        .sum();
    assert_eq!(counted, picked);
}

#[test]
fn a_shrinking_list_is_seen_by_every_pick_after_it() {
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    for _ in 0..200 {
        let all: Vec<_> = (0..8u32).map(|id| Backend::new(id, id)).collect();
        balancer.reconcile(&all, &Unowned, Time(0)).unwrap();
        let shrunk = AtomicBool::new(false);
        thread::scope(|scope| {
            for seed in 0..4 {
                let (balancer, shrunk) = (&balancer, &shrunk);
                scope.spawn(move || {
                    let caller = Caller::new(seed);
                    for _ in 0..200 {
                        let survivors_only = shrunk.load(Ordering::SeqCst);
                        let id = balancer.pick(&caller, &Unowned, |id| *id).unwrap();
                        assert!(!survivors_only || id < 2);
                    }
                });
            }
            balancer.reconcile(&all[..2], &Unowned, Time(0)).unwrap();
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
        balancer.remove_dead(&Unowned);
    }
}

#[test]
fn deaths_and_reconciles_at_the_same_time_lose_nobody() {
    const OWNERS: u64 = 64;
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    let owned: Vec<_> = (1..=OWNERS)
        .map(|id| Backend {
            owner: Some(owner(id)),
            ..Backend::new(id, id)
        })
        .collect();
    balancer.reconcile(&owned, &Unowned, Time(0)).unwrap();
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
    let backends = balancer.info(&Unowned).backends;
    assert!(
        backends.iter().all(|backend| backend.owner_dead),
        "{backends:?}"
    );
    let caller = Caller::new(0);
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
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    let dead = Dead(vec![owner(1)]);
    balancer
        .reconcile(std::slice::from_ref(&owned), &dead, Time(0))
        .unwrap();
    assert!(balancer.info(&dead).backends[0].owner_dead);
    // Another owner brings it back.
    let brought_back = Backend {
        owner: Some(owner(2)),
        ..owned
    };
    balancer.reconcile(&[brought_back], &dead, Time(0)).unwrap();
    assert!(!balancer.info(&dead).backends[0].owner_dead);
}

#[test]
fn whoever_looks_sees_the_deaths_that_were_noted() {
    let owned = Backend {
        owner: Some(owner(1)),
        ..Backend::new(1, 1)
    };
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    balancer.reconcile(&[owned], &Unowned, Time(0)).unwrap();
    assert!(balancer.note_death(owner(1)), "somebody has to remove it");
    assert!(balancer.info(&Unowned).backends[0].owner_dead);
}

#[test]
fn a_pick_that_passes_a_dead_backend_over_counts_for_the_one_it_handed_out() {
    let owned = Backend {
        owner: Some(owner(1)),
        ..Backend::new(1, 1)
    };
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    balancer
        .reconcile(&[owned, Backend::new(2, 2)], &Unowned, Time(0))
        .unwrap();
    let dead = Dead(vec![owner(1)]);
    assert!(balancer.note_death(owner(1)), "nobody removes it");
    let caller = Caller::new(0);
    for _ in 0..5 {
        assert_eq!(balancer.pick(&caller, &dead, |id| *id), Ok(2));
    }
    let picks: Vec<_> = balancer
        .info(&dead)
        .backends
        .iter()
        .map(|backend| backend.picks)
        .collect();
    assert_eq!(picks, [0, 5]);
}

#[test]
fn the_death_of_its_owner_closes_a_balancer() {
    let caller = Caller::new(0);
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    balancer
        .reconcile(&[Backend::new(1, 1)], &Unowned, Time(0))
        .unwrap();
    balancer.set_owner(owner(9), &Unowned);
    die(&balancer, owner(8));
    assert_eq!(balancer.pick(&caller, &Unowned, |id| *id), Ok(1));
    die(&balancer, owner(9));
    assert_eq!(
        balancer.pick(&caller, &Unowned, |id| *id),
        Err(Unavailable::Closed)
    );

    let balancer = Balancer::<u64>::new(round_robin(), 0, Time(0));
    balancer.set_owner(owner(9), &Dead(vec![owner(9)]));
    assert_eq!(
        balancer.pick(&caller, &Unowned, |id| *id),
        Err(Unavailable::Closed)
    );
}

#[test]
fn what_a_pick_shows_stays_while_it_picks_and_changes_the_list_itself() {
    let count = Arc::new(AtomicIsize::new(0));
    let caller = Caller::new(0);
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    let number = |value: &Tracked| (*value.alive == ALIVE).then_some(value.number);
    balancer
        .reconcile(&list([1], &count), &Unowned, Time(0))
        .unwrap();
    let picked = balancer.pick(&caller, &Unowned, |outer| {
        balancer
            .reconcile(&list([2], &count), &Unowned, Time(0))
            .unwrap();
        let inner = balancer.pick(&caller, &Unowned, number).unwrap();
        (number(outer), inner)
    });
    assert_eq!(picked, Ok((Some(1), Some(2))));
    drop(balancer);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_caller_can_pick_again_after_a_panic() {
    let caller = Caller::new(0);
    let balancer = Balancer::new(round_robin(), 0, Time(0));
    balancer
        .reconcile(&[Backend::new(1, 1)], &Unowned, Time(0))
        .unwrap();
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
        Policy::Random(random::Config),
        Policy::PickFirst(pick_first::Config { shuffle: true }),
    ] {
        let world = Mortals([const { AtomicBool::new(false) }; MORTALS]);
        // As many as have died, in the order of their names, and been noted.
        let dead = AtomicU64::new(0);
        let balancer = Balancer::new(
            Config {
                on_owner_death: OnOwnerDeath::Remove,
                ..Config::from(policy)
            },
            3,
            Time(0),
        );
        // The one that stays lives for ever, so that there is always one to pick.
        balancer
            .reconcile(&[Backend::new(0, 0)], &world, Time(0))
            .unwrap();
        thread::scope(|scope| {
            let (balancer, world, dead) = (&balancer, &world, &dead);
            for seed in 0..2 {
                scope.spawn(move || {
                    let caller = Caller::new(seed);
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
                balancer.add(&[owned], world, Time(0)).unwrap();
                if name % 8 == 0 {
                    for name in name - 7..=name {
                        world.0[name as usize - 1].store(true, Ordering::Release);
                        let asked = balancer.note_death(owner(name));
                        dead.store(name, Ordering::Release);
                        if asked {
                            balancer.remove_dead(world);
                        }
                    }
                }
            }
        });
        assert_eq!(balancer.info(&world).backends.len(), 1);
    }
}

/// What is counted of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Ended {
    all: u64,
    successes: u64,
    failures: u64,
}

const BACKENDS: usize = 6;

/// With everything around the policy that can be, so that each part of it is at work at once.
fn everything(policy: Policy) -> Config {
    Config {
        outlier_detection: Some(Box::new(outlier_detection::Config {
            interval: Duration::from_millis(1),
            base_ejection_time: Duration::from_millis(3),
            max_ejection_percent: 50,
            failure_percentage: Some(FailurePercentage {
                threshold: 34,
                minimum_hosts: 2,
                request_volume: 5,
                ..Default::default()
            }),
            consecutive_failures: NonZeroU32::new(3).map(ConsecutiveFailures::of),
            ..Default::default()
        })),
        slow_start: Some(Box::new(slow_start::Config {
            window: Duration::from_millis(20),
            ..Default::default()
        })),
        panic_threshold: 50,
        max_requests: Some(IN_FLIGHT),
        max_requests_per_backend: Some(IN_FLIGHT_EACH),
        ..Config::from(policy)
    }
}

const IN_FLIGHT: u32 = 7;
const IN_FLIGHT_EACH: u32 = 2;

/// Calls, with up to three open at a time, and says what has become of them. `inside` says how many
/// calls all threads have open with each backend, and at last with all.
fn call(
    balancer: &Balancer<usize>,
    inside: &[AtomicU32; BACKENDS + 1],
    clock: &AtomicU64,
    seed: u64,
) -> [Ended; BACKENDS] {
    let caller = Caller::new(seed);
    let mut random = fastrand::Rng::with_seed(seed);
    let report = Report {
        rps_fractional: 1.0,
        application_utilization: 0.5,
        ..Report::default()
    };
    let mut ended = [Ended::default(); BACKENDS];
    let mut open = Vec::new();
    for round in 0..5_000 {
        let now = Time(clock.fetch_add(1_000, Ordering::Relaxed));
        match balancer.checkout(&caller, &Unowned, now, |id| *id) {
            Ok((id, ticket)) => {
                assert!(inside[id].fetch_add(1, Ordering::Relaxed) < IN_FLIGHT_EACH);
                assert!(inside[BACKENDS].fetch_add(1, Ordering::Relaxed) < IN_FLIGHT);
                open.push((id, ticket));
            }
            Err(unavailable) => assert_ne!(unavailable, Unavailable::Closed),
        }
        while open.len() > random.usize(..3) {
            let (id, ticket) = open.swap_remove(random.usize(..open.len()));
            inside[id].fetch_sub(1, Ordering::Relaxed);
            inside[BACKENDS].fetch_sub(1, Ordering::Relaxed);
            ended[id].all += 1;
            let outcome = match random.u32(..10) {
                0 => {
                    drop(ticket);
                    continue;
                }
                1 => Outcome::Cancelled,
                // One of them fails more often than not.
                dice if dice < if id == 0 { 8 } else { 3 } => Outcome::Failure,
                _ => Outcome::Success,
            };
            ended[id].successes += u64::from(outcome == Outcome::Success);
            ended[id].failures += u64::from(outcome == Outcome::Failure);
            let report = (round % 5 == 0).then_some(LoadReport::Decoded(&report));
            ticket.complete(outcome, report, now).unwrap();
            assert!(ticket.complete(Outcome::Success, None, now).is_err());
        }
    }
    for (id, _ticket) in open {
        inside[id].fetch_sub(1, Ordering::Relaxed);
        inside[BACKENDS].fetch_sub(1, Ordering::Relaxed);
        ended[id].all += 1;
    }
    ended
}

/// The only test here that has tickets, which are counted for the whole process.
#[test]
fn calls_are_counted_whatever_happens_to_the_list_meanwhile() {
    for policy in support::policies() {
        let name = policy.name();
        let balancer = Balancer::new(everything(policy), 1, Time(0));
        let backend = |id: usize, weight| {
            support::keyed(Backend {
                weight,
                ..Backend::new(id, id)
            })
        };
        let list: Vec<_> = (0..BACKENDS).map(|id| backend(id, 1)).collect();
        balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
        let inside = [const { AtomicU32::new(0) }; BACKENDS + 1];
        let clock = AtomicU64::new(0);
        let calling = AtomicBool::new(true);
        let ended = thread::scope(|scope| {
            let (balancer, inside, clock, calling) = (&balancer, &inside, &clock, &calling);
            let during_calls = |change: &(dyn Fn(&mut fastrand::Rng, Time) + Sync)| {
                let mut random = fastrand::Rng::with_seed(2);
                while calling.load(Ordering::Relaxed) {
                    change(&mut random, Time(clock.load(Ordering::Relaxed)));
                    thread::yield_now();
                }
            };
            let callers: Vec<_> = (0..4)
                .map(|seed| scope.spawn(move || call(balancer, inside, clock, seed)))
                .collect();
            scope.spawn(move || {
                during_calls(&|random, now| {
                    // In another order, and with other weights.
                    let mut list: Vec<_> = (0..BACKENDS)
                        .map(|id| backend(id, random.u32(1..4)))
                        .collect();
                    random.shuffle(&mut list);
                    let changes = balancer.reconcile(&list, &Unowned, now).unwrap();
                    assert_eq!(changes.kept, BACKENDS);
                });
            });
            scope.spawn(move || {
                during_calls(&|random, now| {
                    let conditions = [
                        State::Ready,
                        State::Ready,
                        State::TransientFailure,
                        State::Draining,
                    ];
                    let condition = conditions[random.usize(..4)];
                    let id = random.usize(..BACKENDS);
                    let set = balancer.set_state(&id, condition, &Unowned, now);
                    assert_eq!(set, Ok(()));
                });
            });
            scope.spawn(move || {
                during_calls(&|_, now| {
                    assert!(balancer.tick(&Unowned, now).is_some());
                    for backend in balancer.info(&Unowned).backends {
                        assert!(backend.in_flight <= IN_FLIGHT_EACH);
                        assert!(backend.latency_ns.is_none_or(f64::is_finite));
                    }
                });
            });
            let ended: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
            // Also if one of them has failed.
            calling.store(false, Ordering::Relaxed);
            let ended = ended.into_iter().map(Result::unwrap);
            ended.collect::<Vec<_>>()
        });
        for backend in balancer.info(&Unowned).backends {
            let parts = ended.iter().map(|ended| ended[backend.id]);
            let sum = parts.fold(Ended::default(), |sum, part| Ended {
                all: sum.all + part.all,
                successes: sum.successes + part.successes,
                failures: sum.failures + part.failures,
            });
            let counted = Ended {
                all: backend.picks,
                successes: backend.successes,
                failures: backend.failures,
            };
            assert_eq!(counted, sum, "{name} {}", backend.id);
            assert_eq!(backend.in_flight, 0, "{name} {}", backend.id);
            balancer
                .set_state(&backend.id, State::Ready, &Unowned, Time(0))
                .unwrap();
        }
        assert_eq!(live_counts().tickets, 0, "{name}");

        // Two sweeps long after that, the first of which may eject for what it sees for the first
        // time: nobody is ejected any more.
        for seconds in [1_000_000, 2_000_000] {
            balancer.tick(&Unowned, Time(seconds * 1_000_000_000));
        }

        // And there is room for as many as before, and no more.
        let caller = Caller::new(0);
        let checkout = || balancer.checkout(&caller, &Unowned, Time(0), |_| ());
        let tickets: Vec<_> = (0..IN_FLIGHT).map(|_| checkout().unwrap()).collect();
        assert!(matches!(checkout(), Err(Unavailable::Overloaded)));
        drop(tickets);
    }
}

#[test]
fn a_drain_waits_for_a_pick_that_is_about_to_begin_a_call() {
    let policy = Policy::RoundRobin(round_robin::Config::default());
    let balancer = Balancer::new(policy, 0, Time(0));
    balancer
        .reconcile(&[Backend::new("a", "old")], &Unowned, Time(0))
        .unwrap();
    let (looks, looked) = mpsc::channel::<String>();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let (drains, drained) = mpsc::channel();
    thread::scope(|scope| {
        let (balancer, go_on) = (&balancer, go_on);
        let call = scope.spawn(move || {
            let wanted = |value: &&str| {
                looks.send(value.to_string()).unwrap();
                goes_on.recv().is_ok()
            };
            let (caller, search) = (Caller::new(0), Search::Brief);
            let begun = balancer.checkout_where(&caller, &Unowned, search, Time(0), wanted, |_| ());
            begun.unwrap().1
        });
        assert_eq!(looked.recv().unwrap(), "old");
        scope.spawn(move || {
            let (list, me) = ([Backend::new("a", "new")], Owner(NonZeroU64::MIN));
            let changed = balancer.reconcile_draining(&list, &["a"], me, &Unowned, Time(0));
            drains.send(changed.unwrap().1).unwrap();
        });
        // Longer than most threads are kept from a processor.
        let early = drained.recv_timeout(Duration::from_millis(300));
        assert_eq!(early, Err(mpsc::RecvTimeoutError::Timeout));
        go_on.send(()).unwrap();
        let call = call.join().unwrap();
        assert_eq!(drained.recv(), Ok(vec![Some(Drained::Later(1))]));
        call.complete(Outcome::Success, None, Time(1)).unwrap();
        assert!(call.has_ended_drain());
    });
}
