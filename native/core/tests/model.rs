//! Random sequences of operations against a model that is slow and obvious.
#![cfg(not(loom))]

use std::collections::{HashMap, HashSet};

use grpc_lb_core::policy::{pick_first, round_robin, Policy};
use grpc_lb_core::{
    Backend, Balancer, Caller, Changes, Owner, Owners, ReconcileError, State, Unavailable,
};
use proptest::prelude::*;
use std::cell::RefCell;

#[derive(Clone, Debug)]
enum Operation {
    Reconcile(Vec<Backend<u8>>),
    Pick,
    Die(Owner),
    Close,
}

fn backends() -> impl Strategy<Value = Vec<Backend<u8>>> {
    let backend = (0u8..6, 0u8..3, prop::option::of(0u64..3), 1u32..4).prop_map(
        |(id, value, owner, weight)| Backend {
            id,
            value,
            owner: owner.map(Owner),
            weight,
        },
    );
    prop::collection::vec(backend, 0..5)
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        3 => backends().prop_map(Operation::Reconcile),
        20 => Just(Operation::Pick),
        2 => (0u64..3).prop_map(|owner| Operation::Die(Owner(owner))),
        1 => Just(Operation::Close),
    ];
    prop::collection::vec(operation, 0..60)
}

fn policies() -> impl Strategy<Value = Policy> {
    use round_robin::{Config, CursorKind, OnReconcile, Start};
    prop_oneof![
        Just(Policy::Random),
        Just(Policy::PickFirst(pick_first::Config { shuffle: false })),
        (any::<bool>(), any::<bool>()).prop_map(|(per_caller, reset)| {
            Policy::RoundRobin(Config {
                cursor: if per_caller {
                    CursorKind::PerCaller(2)
                } else {
                    CursorKind::Shared
                },
                start: Start::First,
                on_reconcile: if reset {
                    OnReconcile::Reset
                } else {
                    OnReconcile::Keep
                },
            })
        }),
    ]
}

/// Who is dead, and who is being watched: an owner that is watched twice, or unwatched without
/// having been watched, is a bug.
#[derive(Default)]
struct World {
    dead: RefCell<HashSet<Owner>>,
    watched: RefCell<HashSet<Owner>>,
}

impl Owners for World {
    type Watch = Owner;

    fn watch(&self, owner: Owner) -> Option<Owner> {
        if self.dead.borrow().contains(&owner) {
            return None;
        }
        assert!(self.watched.borrow_mut().insert(owner), "watched twice");
        Some(owner)
    }

    fn unwatch(&self, owner: Owner) {
        assert!(self.watched.borrow_mut().remove(&owner), "was not watched");
    }
}

/// The obvious balancer: a list, and for every id how often it was picked.
struct Naive {
    policy: Policy,
    listed: Vec<Backend<u8>>,
    picks: HashMap<u8, u64>,
    turn: usize,
    generation: u64,
    closed: bool,
}

impl Naive {
    fn ready(&self, world: &World) -> Vec<&Backend<u8>> {
        let dead = world.dead.borrow();
        self.listed
            .iter()
            .filter(|backend| !backend.owner.is_some_and(|owner| dead.contains(&owner)))
            .collect()
    }

    fn pick(&mut self, world: &World, picked: Result<u8, Unavailable>) {
        let ready = self.ready(world);
        if ready.is_empty() {
            let reason = if self.closed {
                Unavailable::Closed
            } else {
                Unavailable::NoBackends
            };
            assert_eq!(picked, Err(reason));
            return;
        }
        let value = picked.expect("there is one to pick");
        match &self.policy {
            Policy::PickFirst(_) => assert_eq!(value, ready[0].value),
            Policy::Random => assert!(ready.iter().any(|backend| backend.value == value)),
            Policy::RoundRobin(_) => {
                let chosen = ready[self.turn % ready.len()];
                assert_eq!(value, chosen.value);
                let id = chosen.id;
                *self.picks.entry(id).or_default() += 1;
                self.turn += 1;
            }
        }
    }

    fn reconcile(&mut self, offered: &[Backend<u8>]) -> Result<Changes, ReconcileError> {
        for second in 0..offered.len() {
            for first in 0..second {
                if offered[first].id == offered[second].id {
                    return Err(ReconcileError::DuplicateId { first, second });
                }
            }
        }
        if self.closed {
            return Err(ReconcileError::Closed);
        }
        let before: HashSet<u8> = self.listed.iter().map(|backend| backend.id).collect();
        let after: HashSet<u8> = offered.iter().map(|backend| backend.id).collect();
        self.picks.retain(|id, _| after.contains(id));
        self.listed = offered.to_vec();
        self.generation += 1;
        if let Policy::RoundRobin(config) = &self.policy {
            if config.on_reconcile == round_robin::OnReconcile::Reset {
                self.turn = 0;
            }
        }
        Ok(Changes {
            added: after.difference(&before).count(),
            removed: before.difference(&after).count(),
            kept: after.intersection(&before).count(),
        })
    }

    fn die(&mut self, world: &World, owner: Owner) {
        let news = world.dead.borrow_mut().insert(owner);
        if news
            && self
                .listed
                .iter()
                .any(|backend| backend.owner == Some(owner))
        {
            self.generation += 1;
        }
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.generation += 1;
            self.listed.clear();
        }
    }

    fn compare(&self, world: &World, balancer: &Balancer<u8, Owner>) {
        let info = balancer.info(world);
        assert_eq!(info.policy, self.policy.name());
        assert_eq!(info.closed, self.closed);
        assert_eq!(info.generation, self.generation);
        let dead = world.dead.borrow();
        let counts = matches!(self.policy, Policy::RoundRobin(_));
        let expected: Vec<_> = self
            .listed
            .iter()
            .map(|backend| {
                let down = backend.owner.is_some_and(|owner| dead.contains(&owner));
                let picks = self.picks.get(&backend.id).copied().unwrap_or(0);
                (
                    backend.id,
                    backend.value,
                    if down { State::Down } else { State::Ready },
                    backend.weight,
                    counts.then_some(picks),
                )
            })
            .collect();
        let actual: Vec<_> = info
            .backends
            .iter()
            .map(|backend| {
                (
                    backend.id,
                    backend.value,
                    backend.state,
                    backend.weight,
                    backend.picks,
                )
            })
            .collect();
        assert_eq!(actual, expected);
        let owners: HashSet<Owner> = self
            .listed
            .iter()
            .filter_map(|backend| backend.owner)
            .filter(|owner| !dead.contains(owner))
            .collect();
        assert_eq!(*world.watched.borrow(), owners);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does(policy in policies(), operations in operations()) {
        let world = World::default();
        let balancer = Balancer::new(policy.clone(), 1);
        let caller = Caller::claim(2).unwrap();
        let mut naive = Naive {
            policy,
            listed: Vec::new(),
            picks: HashMap::new(),
            turn: 0,
            generation: 0,
            closed: false,
        };
        for operation in operations {
            match operation {
                Operation::Reconcile(offered) => {
                    let expected = naive.reconcile(&offered);
                    prop_assert_eq!(balancer.reconcile(&offered, &world), expected);
                }
                Operation::Pick => naive.pick(&world, balancer.pick(&caller, |value| *value)),
                Operation::Die(owner) => {
                    naive.die(&world, owner);
                    if world.watched.borrow_mut().remove(&owner) {
                        assert!(balancer.note_death(owner), "nobody else was asked");
balancer.settle(&world);
                    }
                }
                Operation::Close => {
                    naive.close();
                    balancer.close(&world);
                }
            }
            naive.compare(&world, &balancer);
        }
    }
}
