//! Every composition of subsets, priorities, localities and policies, under random changes, against a model
//! that is slow and obvious.
#![cfg(not(loom))]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::health::outlier_detection::{self, ConsecutiveFailures};
use grpc_lb_core::policy::{
    least_request, maglev, peak_ewma, pick_first, random, ring_hash, round_robin,
    weighted_round_robin, BalanceFactor, Policy,
};
use grpc_lb_core::subset;
use grpc_lb_core::{
    Backend, BackendInfo, Balancer, Caller, Config, OnOwnerDeath, Outcome, Owner, Owners, State,
    Time, Unavailable,
};
use proptest::prelude::*;

/// Ids are below this; each backend has an owner with its number.
const IDS: u8 = 10;

#[derive(Clone, Debug)]
enum Operation {
    Reconcile(Vec<Backend<u8>>),
    Add(Vec<Backend<u8>>),
    Remove(Vec<u8>),
    SetState(u8, State),
    Configure(Layering),
    /// So many calls to whom the policy chooses, which fail.
    Fail(usize),
    Checkout,
    /// The oldest call that was checked out ends.
    Complete,
    /// The owner of a backend dies, and is taken out before the next pick or after it.
    Die(u8, bool),
    Tick(u64),
}

/// What is around the policy.
#[derive(Clone, Debug)]
struct Layering {
    factor: Option<NonZeroU32>,
    panic_threshold: u32,
    weights: BTreeMap<Box<str>, f64>,
    max_requests_per_backend: Option<u32>,
    strict: bool,
}

const LOCALITIES: [&str; 3] = ["", "a", "b"];

fn backends() -> impl Strategy<Value = Vec<Backend<u8>>> {
    let backend =
        (0..IDS, 0u32..3, 0..3usize, 0u32..3).prop_map(|(id, priority, locality, weight)| {
            let name = LOCALITIES[locality];
            Backend {
                priority,
                locality: (!name.is_empty()).then(|| name.into()),
                weight,
                owner: Some(owner(id)),
                ..Backend::new(id, id).keyed([id])
            }
        });
    prop::collection::vec(backend, 0..10).prop_map(|mut backends| {
        let mut seen = HashSet::new();
        backends.retain(|backend| seen.insert(backend.id));
        backends
    })
}

fn owner(id: u8) -> Owner {
    Owner(NonZeroU64::new(u64::from(id) + 1).unwrap())
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![
        4 => Just(State::Ready),
        1 => Just(State::Connecting),
        3 => Just(State::TransientFailure),
        1 => Just(State::Draining),
    ]
}

fn policies() -> impl Strategy<Value = Policy> {
    let factors = || prop::option::of(Just(BalanceFactor::new(125).expect("it is enough")));
    prop_oneof![
        factors().prop_map(|factor| {
            let mut config = ring_hash::Config::new(8, 64).expect("these are sizes");
            config.hash_balance_factor = factor;
            Policy::RingHash(config)
        }),
        factors().prop_map(|factor| {
            let mut config = maglev::Config::new(11).expect("it is prime");
            config.hash_balance_factor = factor;
            Policy::Maglev(config)
        }),
        Just(Policy::RoundRobin(round_robin::Config::default())),
        Just(Policy::Random(random::Config)),
        Just(Policy::PickFirst(pick_first::Config { shuffle: false })),
        Just(Policy::LeastRequest(least_request::Config::default())),
        Just(Policy::PeakEwma(peak_ewma::Config::default())),
        Just(Policy::WeightedRoundRobin(
            weighted_round_robin::Config::default()
        )),
    ]
}

fn layerings() -> impl Strategy<Value = Layering> {
    let weight = prop_oneof![Just(0.0), Just(1.0), 0.1..10.0f64];
    let weights = prop::collection::vec((0..LOCALITIES.len(), weight), 0..4);
    let factors = prop_oneof![
        Just(None),
        Just(Some(100)),
        Just(Some(140)),
        (1..500u32).prop_map(Some)
    ];
    let thresholds = prop_oneof![Just(0), Just(50), 0..=100u32];
    let limits = prop_oneof![3 => Just(None), 1 => (0..3u32).prop_map(Some)];
    (factors, thresholds, weights, limits, any::<bool>()).prop_map(
        |(factor, panic_threshold, weights, max_requests_per_backend, strict)| Layering {
            factor: factor.and_then(NonZeroU32::new),
            panic_threshold,
            weights: weights
                .into_iter()
                .map(|(name, it)| (LOCALITIES[name].into(), it))
                .collect(),
            max_requests_per_backend,
            strict,
        },
    )
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        2 => backends().prop_map(Operation::Reconcile),
        4 => backends().prop_map(Operation::Add),
        3 => prop::collection::vec(0..IDS, 0..4).prop_map(Operation::Remove),
        8 => (0..IDS, states()).prop_map(|(id, state)| Operation::SetState(id, state)),
        3 => layerings().prop_map(Operation::Configure),
        5 => (1..5usize).prop_map(Operation::Fail),
        5 => Just(Operation::Checkout),
        3 => Just(Operation::Complete),
        3 => (0..IDS, any::<bool>()).prop_map(|(id, late)| Operation::Die(id, late)),
        2 => (1..60u64).prop_map(Operation::Tick),
    ];
    prop::collection::vec(operation, 0..40)
}

impl Layering {
    fn apply(&self, config: &mut Config) {
        config.overprovisioning_factor = self.factor;
        config.panic_threshold = self.panic_threshold;
        config.locality_weights = self.weights.clone();
        config.max_requests_per_backend = self.max_requests_per_backend;
        config.outlier_detection = Some(Box::new(outlier_detection::Config {
            strict: self.strict,
            max_ejection_percent: 100,
            consecutive_failures: Some(ConsecutiveFailures {
                failures: NonZeroU32::new(2).unwrap(),
                minimum_hosts: 0,
            }),
            ..Default::default()
        }));
    }
}

/// Who is dead. Those who are named again have begun a new life.
#[derive(Default)]
struct World(RefCell<HashSet<Owner>>);

impl Owners for World {
    type Watch = Owner;

    fn watch(&self, owner: Owner) -> Option<Owner> {
        (!self.0.borrow().contains(&owner)).then_some(owner)
    }

    fn unwatch(&self, _owner: Owner) {}

    fn is_alive(&self, owner: Owner) -> bool {
        !self.0.borrow().contains(&owner)
    }
}

type Key = (u32, Option<Box<str>>);

/// The layers of a list, as an obvious reader of the specification has them. What is known of the
/// backends themselves is the balancer's own: their states and ejections have models of their own.
struct Naive<'a> {
    layering: &'a Layering,
    /// Who has been ready since it was listed.
    were_ready: &'a HashSet<u8>,
    /// Those that are in the subset, by layer.
    layers: BTreeMap<Key, Vec<&'a BackendInfo<u8>>>,
}

impl<'a> Naive<'a> {
    fn new(
        layering: &'a Layering,
        subset: Option<subset::Config>,
        were_ready: &'a HashSet<u8>,
        backends: &'a [BackendInfo<u8>],
    ) -> Self {
        let mut layers: BTreeMap<Key, Vec<&BackendInfo<u8>>> = BTreeMap::new();
        for backend in backends {
            let hash =
                |it: &BackendInfo<u8>| subset.map_or(0, |subset| xxh64(&[it.id], subset.seed));
            let of_its_priority = backends.iter().filter(|it| it.priority == backend.priority);
            let before = of_its_priority
                .filter(|it| hash(it) < hash(backend))
                .count();
            let used = subset.is_none_or(|subset| before < subset.size.get() as usize);
            assert_eq!(backend.in_subset, used);
            if !used {
                continue;
            }
            let key = (backend.priority, backend.locality.clone());
            layers.entry(key).or_default().push(backend);
        }
        Naive {
            layering,
            were_ready,
            layers,
        }
    }

    /// Those that are healthy or could be, and with a factor those that have been.
    fn counted(&self, backends: &[&BackendInfo<u8>]) -> u64 {
        let lost = backends.iter().filter(|it| {
            let missing = it.owner_dead || it.state == State::Connecting;
            missing && it.state != State::Draining && self.were_ready.contains(&it.id)
        });
        counted(backends) + lost.count() as u64
    }

    fn all(&self) -> Vec<&'a BackendInfo<u8>> {
        self.layers.values().flatten().copied().collect()
    }

    fn of_priority(&self, priority: u32) -> Vec<&'a BackendInfo<u8>> {
        let all = self.all().into_iter();
        all.filter(|backend| backend.priority == priority).collect()
    }

    fn priorities(&self) -> Vec<u32> {
        let priorities: BTreeSet<u32> = self.layers.keys().map(|key| key.0).collect();
        priorities.into_iter().collect()
    }

    /// Each priority's part of the picks in percent, and whether it panics; with a factor.
    fn loads(&self, factor: u32, only: &[u32]) -> BTreeMap<u32, (u32, bool)> {
        let health = |priority: &u32| {
            let of_it = self.of_priority(*priority);
            let all = self.counted(&of_it);
            (100 * healthy(&of_it) * u64::from(factor))
                .checked_div(100 * all)
                .unwrap_or(0)
                .min(100)
        };
        let total: u64 = only.iter().map(health).sum::<u64>().min(100);
        let panics = |priority: &u32| {
            let of_it = self.of_priority(*priority);
            total < 100 && too_few(&of_it, self.counted(&of_it), self.layering.panic_threshold)
        };
        let all_panic = only.iter().all(panics);
        let listed = |priority: &u32| self.of_priority(*priority).len() as u64;
        let part = |priority: &u32| match all_panic {
            true => 100 * listed(priority) / only.iter().map(listed).sum::<u64>().max(1),
            false => (100 * health(priority)).checked_div(total).unwrap_or(0),
        };
        let mut left = 100;
        let mut loads: BTreeMap<u32, (u32, bool)> = only
            .iter()
            .map(|priority| {
                let load = part(priority).min(left);
                left -= load;
                (*priority, (load as u32, panics(priority)))
            })
            .collect();
        let takes = |priority: &&u32| match all_panic {
            true => listed(priority) > 0,
            false => health(priority) > 0,
        };
        if let Some(first) = only.iter().find(takes).or(only.first()) {
            loads.get_mut(first).unwrap().0 += left as u32;
        }
        loads
    }

    fn panics(&self, priority: u32) -> bool {
        match self.layering.factor {
            Some(factor) => self.loads(factor.get(), &self.priorities())[&priority].1,
            None => too_few(
                &self.all(),
                counted(&self.all()),
                self.layering.panic_threshold,
            ),
        }
    }

    /// Who can be picked, were it not for weights of 0.
    fn admitted(&self) -> Vec<&'a BackendInfo<u8>> {
        let nobody = self.layering.strict && healthy(&self.all()) == 0;
        let admits = |it: &&BackendInfo<u8>| match standing(it) {
            Standing::Healthy => true,
            Standing::Ejected => self.panics(it.priority) || nobody,
            Standing::Unhealthy => self.panics(it.priority),
            Standing::Excluded => false,
        };
        self.all().into_iter().filter(admits).collect()
    }

    fn pickable(&self) -> Vec<&'a BackendInfo<u8>> {
        let admitted = self.admitted();
        let weighs = admitted.iter().any(|backend| backend.weight > 0);
        let mut pickable = admitted;
        pickable.retain(|backend| backend.weight > 0 || !weighs);
        pickable
    }

    /// The part of the picks that each layer has.
    fn shares(&self) -> BTreeMap<Key, f64> {
        let pickable = self.pickable();
        let count = |key: &Key| {
            let of_it = pickable
                .iter()
                .filter(|it| (it.priority, it.locality.clone()) == *key);
            of_it.count()
        };
        let serving: Vec<&Key> = self.layers.keys().filter(|key| count(key) > 0).collect();
        let mut only: Vec<u32> = serving.iter().map(|key| key.0).collect();
        only.dedup();
        let loads: BTreeMap<u32, f64> = match self.layering.factor {
            Some(factor) => {
                let loads = self.loads(factor.get(), &only).into_iter();
                loads
                    .map(|(priority, load)| (priority, f64::from(load.0) / 100.0))
                    .collect()
            }
            None => {
                let has_healthy = |it: &&u32| healthy(&self.of_priority(**it)) > 0;
                let first = only.iter().find(has_healthy).or(only.first());
                first.into_iter().map(|first| (*first, 1.0)).collect()
            }
        };
        let mut shares = BTreeMap::new();
        for (priority, load) in loads {
            let keys: Vec<&Key> = serving
                .iter()
                .copied()
                .filter(|key| key.0 == priority)
                .collect();
            let of = |key: &Key| &self.layers[key];
            let calm = healthy(
                &keys
                    .iter()
                    .flat_map(|it| of(it).clone())
                    .collect::<Vec<_>>(),
            ) > 0
                && !self.panics(priority);
            let weight = |key: &Key| {
                let name = key.1.clone().unwrap_or_default();
                *self.layering.weights.get(&name).unwrap_or(&1.0)
            };
            let weightless = keys
                .iter()
                .all(|key| healthy(of(key)) == 0 || weight(key) == 0.0);
            let part = |key: &Key| {
                if !calm {
                    return count(key) as f64;
                }
                let healthy = healthy(of(key)) as f64 / self.counted(of(key)).max(1) as f64;
                let availability = match self.layering.factor {
                    Some(factor) => (healthy * f64::from(factor.get()) / 100.0).min(1.0),
                    None => f64::from(u8::from(healthy > 0.0)),
                };
                availability * if weightless { 1.0 } else { weight(key) }
            };
            let sum: f64 = keys.iter().map(|key| part(key)).sum();
            for key in keys {
                shares.insert(key.clone(), load * part(key) / sum);
            }
        }
        shares
    }
}

#[derive(PartialEq)]
enum Standing {
    Excluded,
    Unhealthy,
    Ejected,
    Healthy,
}

fn standing(backend: &BackendInfo<u8>) -> Standing {
    match backend.state {
        _ if backend.owner_dead => Standing::Excluded,
        // With a factor those that have been ready count, see `Naive::counted`.
        State::Connecting | State::Draining => Standing::Excluded,
        State::TransientFailure => Standing::Unhealthy,
        State::Ready if backend.ejected_until.is_some() => Standing::Ejected,
        State::Ready => Standing::Healthy,
    }
}

fn healthy(backends: &[&BackendInfo<u8>]) -> u64 {
    let healthy = backends
        .iter()
        .filter(|it| standing(it) == Standing::Healthy);
    healthy.count() as u64
}

fn counted(backends: &[&BackendInfo<u8>]) -> u64 {
    let counted = backends
        .iter()
        .filter(|it| standing(it) != Standing::Excluded);
    counted.count() as u64
}

fn too_few(backends: &[&BackendInfo<u8>], all: u64, threshold: u32) -> bool {
    match all {
        0 => threshold > 0,
        all => 100 * healthy(backends) < u64::from(threshold) * all,
    }
}

/// What is to be picked now, compared with what is.
fn compare(
    balancer: &Balancer<u8, Owner>,
    layering: &Layering,
    caller: &Caller,
    world: &World,
    subset: Option<subset::Config>,
    were_ready: &mut HashSet<u8>,
    by_turns: bool,
) {
    let info = balancer.info(world);
    were_ready.retain(|id| info.backends.iter().any(|it| it.id == *id));
    let up = |it: &&BackendInfo<u8>| it.state == State::Ready && !it.owner_dead;
    were_ready.extend(info.backends.iter().filter(up).map(|it| it.id));
    let naive = Naive::new(layering, subset, were_ready, &info.backends);
    let shares = naive.shares();
    let described: Vec<Key> = info
        .layers
        .iter()
        .map(|it| (it.priority, it.locality.clone()))
        .collect();
    assert_eq!(described, naive.layers.keys().cloned().collect::<Vec<_>>());
    for layer in &info.layers {
        let key = (layer.priority, layer.locality.clone());
        let of_it = &naive.layers[&key];
        let due = shares.get(&key).copied().unwrap_or(0.0);
        assert!((layer.share - due).abs() < 1e-9, "{layer:?} is due {due}");
        assert_eq!(u64::from(layer.healthy), healthy(of_it));
        assert_eq!(layer.backends as usize, of_it.len());
        assert_eq!(layer.panics, naive.panics(layer.priority), "{layer:?}");
    }
    let pickable: BTreeMap<u8, Key> = naive
        .pickable()
        .iter()
        .map(|it| (it.id, (it.priority, it.locality.clone())))
        .collect();
    const PICKS: usize = 60;
    let mut counts: BTreeMap<&Key, usize> = BTreeMap::new();
    for _ in 0..PICKS {
        match balancer.pick(caller, world, |id| *id) {
            Ok(id) => *counts.entry(&pickable[&id]).or_default() += 1,
            Err(none) => {
                assert_eq!(none, Unavailable::NoBackends);
                assert!(pickable.is_empty());
            }
        }
    }
    if !by_turns && !pickable.is_empty() {
        for hash in 0..20 {
            let _keyed = caller.with_key(u64::wrapping_mul(hash, 0x9e37_79b9_7f4a_7c15));
            let pick = || balancer.pick(caller, world, |id| *id);
            let once = pick();
            assert!(pickable.contains_key(&once.unwrap()));
            assert_eq!(once, pick());
        }
    }
    if !pickable.is_empty() {
        for (key, share) in &shares {
            let count = counts.get(key).copied().unwrap_or(0) as f64;
            let off = (count - share * PICKS as f64).abs();
            assert!(
                !by_turns || off <= 2.0 * shares.len() as f64,
                "{key:?}: {count} of {share}"
            );
            assert!(*share > 0.0 || count == 0.0, "{key:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, ..ProptestConfig::default() })]

    #[test]
    fn layers_serve_as_the_model_says(
        policy in policies(),
        layering in layerings(),
        subset in prop::option::of((1..4u32, 0..3u64)),
        removes in any::<bool>(),
        operations in operations(),
    ) {
        let subset = subset.map(|(size, seed)| subset::Config {
            size: NonZeroU32::new(size).unwrap(),
            seed,
        });
        let mut layering = layering;
        // By the key, which is any where there is none.
        let by_turns = !policy.hashes();
        let world = World::default();
        let mut config = Config {
            on_owner_death: if removes { OnOwnerDeath::Remove } else { OnOwnerDeath::Keep },
            subset,
            ..Config::from(policy)
        };
        layering.apply(&mut config);
        let balancer = Balancer::new(config, 1, Time(0));
        let caller = Caller::new(2);
        let mut calls = Vec::new();
        let mut were_ready = HashSet::new();
        let mut now = Time(0);
        for operation in operations {
            match operation {
                Operation::Reconcile(list) => drop(balancer.reconcile(&list, &world, now).unwrap()),
                Operation::Add(list) => drop(balancer.add(&list, &world, now).unwrap()),
                Operation::Remove(ids) => drop(balancer.remove(&ids, &world, now).unwrap()),
                Operation::SetState(id, state) => drop(balancer.set_state(&id, state, &world, now)),
                Operation::Configure(next) => {
                    balancer.configure(|config| next.apply(config), &world, now).unwrap();
                    layering = next;
                }
                Operation::Fail(failures) => {
                    for _ in 0..failures {
                        if let Ok((_, ticket)) = balancer.checkout(&caller, &world, now, |id| *id) {
                            ticket.complete(Outcome::Failure, None, now).unwrap();
                        }
                    }
                    balancer.tick(&world, now);
                }
                Operation::Checkout => {
                    let info = balancer.info(&world);
                    let pickable = Naive::new(&layering, subset, &were_ready, &info.backends).pickable();
                    let max = layering.max_requests_per_backend.unwrap_or(u32::MAX);
                    match balancer.checkout(&caller, &world, now, |id| *id) {
                        Ok((id, ticket)) => {
                            let it = pickable.iter().find(|it| it.id == id);
                            prop_assert!(it.is_some_and(|it| it.in_flight < max), "{}", id);
                            calls.push(ticket);
                        }
                        Err(Unavailable::Overloaded) => {
                            prop_assert!(!pickable.is_empty());
                            prop_assert!(pickable.iter().all(|it| it.in_flight >= max));
                        }
                        Err(_none) => prop_assert!(pickable.is_empty()),
                    }
                }
                Operation::Complete if !calls.is_empty() => {
                    calls.remove(0).complete(Outcome::Success, None, now).unwrap();
                }
                Operation::Complete => {}
                Operation::Die(id, late) => {
                    let listed = balancer.info(&world).backends;
                    let owned = |it: &BackendInfo<u8>| it.owner == Some(owner(id));
                    world.0.borrow_mut().insert(owner(id));
                    if listed.iter().any(owned) {
                        let pickable = Naive::new(&layering, subset, &were_ready, &listed).pickable();
                        let alive = pickable.iter().any(|it| it.id != id);
                        prop_assert!(balancer.note_death(owner(id)));
                        if late {
                            // Whoever is left is found, wherever it is.
                            let picked = balancer.pick(&caller, &world, |id| *id);
                            prop_assert_eq!(picked.is_ok(), alive);
                            prop_assert!(picked != Ok(id));
                        }
                        balancer.remove_dead(&world);
                    }
                }
                Operation::Tick(seconds) => {
                    now = now + Duration::from_secs(seconds);
                    balancer.tick(&world, now);
                }
            }
            compare(&balancer, &layering, &caller, &world, subset, &mut were_ready, by_turns);
        }
    }
}
