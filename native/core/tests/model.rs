//! Random sequences of operations against a model that is slow and obvious.
#![cfg(not(loom))]

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::num::NonZeroU64;

use grpc_lb_core::policy::{pick_first, round_robin, Policy};
use grpc_lb_core::{
    Backend, BackendInfo, Balancer, Caller, ChangeError, Changes, Config, OnOwnerDeath, Owner,
    Owners, State, Unavailable,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Reconcile(Vec<Backend<u8>>),
    Add(Vec<Backend<u8>>),
    Remove(Vec<u8>),
    Pick,
    Die(Owner),
    Close,
}

fn names() -> impl Strategy<Value = Owner> {
    (1u64..4).prop_map(|name| Owner(NonZeroU64::new(name).unwrap()))
}

fn backends() -> impl Strategy<Value = Vec<Backend<u8>>> {
    let backend = (0u8..6, 0u8..3, prop::option::of(names()), 1u32..4).prop_map(
        |(id, value, owner, weight)| Backend {
            id,
            value,
            owner,
            weight,
        },
    );
    prop::collection::vec(backend, 0..5)
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        3 => backends().prop_map(Operation::Reconcile),
        3 => backends().prop_map(Operation::Add),
        3 => prop::collection::vec(0u8..6, 0..3).prop_map(Operation::Remove),
        20 => Just(Operation::Pick),
        2 => names().prop_map(Operation::Die),
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

    fn is_alive(&self, owner: Owner) -> bool {
        !self.dead.borrow().contains(&owner)
    }
}

/// The obvious balancer: a list, for every id how often it was picked, and the ids in the order in
/// which they are picked.
struct Naive {
    config: Config,
    listed: Vec<Backend<u8>>,
    rotation: Vec<u8>,
    picks: HashMap<u8, u64>,
    turn: usize,
    generation: u64,
    closed: bool,
}

impl Naive {
    fn find(&self, id: u8) -> Option<usize> {
        self.listed.iter().position(|backend| backend.id == id)
    }

    fn pick(&mut self, picked: Result<u8, Unavailable>) {
        if self.rotation.is_empty() {
            let reason = if self.closed {
                Unavailable::Closed
            } else {
                Unavailable::NoBackends
            };
            assert_eq!(picked, Err(reason));
            return;
        }
        let value = picked.expect("there is one to pick");
        let mut ready = self
            .listed
            .iter()
            .filter(|backend| self.rotation.contains(&backend.id));
        match &self.config.policy {
            Policy::PickFirst(_) => assert_eq!(value, ready.next().unwrap().value),
            Policy::Random => assert!(ready.any(|backend| backend.value == value)),
            Policy::RoundRobin(_) => {
                let id = self.rotation[self.turn % self.rotation.len()];
                assert_eq!(value, self.listed[self.find(id).unwrap()].value);
                *self.picks.entry(id).or_default() += 1;
                self.turn += 1;
            }
        }
    }

    fn refuse(&self, offered: &[Backend<u8>]) -> Result<(), ChangeError> {
        for second in 0..offered.len() {
            for first in 0..second {
                if offered[first].id == offered[second].id {
                    return Err(ChangeError::DuplicateId { first, second });
                }
            }
        }
        match self.closed {
            true => Err(ChangeError::Closed),
            false => Ok(()),
        }
    }

    fn offer(&mut self, offered: &Backend<u8>, world: &World) {
        let dead = offered.owner.filter(|owner| !world.is_alive(*owner));
        let offered = Backend {
            owner: offered.owner.filter(|_| dead.is_none()),
            ..offered.clone()
        };
        let in_rotation = self.rotation.iter().position(|id| *id == offered.id);
        match (in_rotation, dead) {
            (None, None) => self.rotation.push(offered.id),
            (Some(index), Some(_)) => drop(self.rotation.swap_remove(index)),
            _ => {}
        }
        match self.find(offered.id) {
            Some(index) => self.listed[index] = offered,
            None => self.listed.push(offered),
        }
    }

    /// What every change of the list ends with.
    fn end(&mut self, before: &HashSet<u8>) -> Changes {
        let removes = self.config.on_owner_death == OnOwnerDeath::Remove;
        let rotation = &self.rotation;
        self.listed
            .retain(|backend| !removes || rotation.contains(&backend.id));
        let after: HashSet<u8> = self.listed.iter().map(|backend| backend.id).collect();
        self.picks.retain(|id, _| after.contains(id));
        self.generation += 1;
        if let Policy::RoundRobin(config) = &self.config.policy {
            if config.on_reconcile == round_robin::OnReconcile::Reset {
                self.turn = 0;
            }
        }
        Changes {
            added: after.difference(before).count(),
            removed: before.difference(&after).count(),
            kept: after.intersection(before).count(),
        }
    }

    fn ids(&self) -> HashSet<u8> {
        self.listed.iter().map(|backend| backend.id).collect()
    }

    fn reconcile(
        &mut self,
        offered: &[Backend<u8>],
        world: &World,
    ) -> Result<Changes, ChangeError> {
        self.refuse(offered)?;
        let before = self.ids();
        self.listed.clear();
        self.rotation.clear();
        for backend in offered {
            self.offer(backend, world);
        }
        Ok(self.end(&before))
    }

    fn add(&mut self, offered: &[Backend<u8>], world: &World) -> Result<Changes, ChangeError> {
        self.refuse(offered)?;
        let before = self.ids();
        if offered.is_empty() {
            return Ok(untouched(&before));
        }
        for backend in offered {
            self.offer(backend, world);
        }
        Ok(self.end(&before))
    }

    fn remove(&mut self, ids: &[u8]) -> Result<Changes, ChangeError> {
        self.refuse(&[])?;
        let before = self.ids();
        if !ids.iter().any(|id| before.contains(id)) {
            return Ok(untouched(&before));
        }
        for id in ids {
            if let Some(index) = self.rotation.iter().position(|other| other == id) {
                self.rotation.swap_remove(index);
            }
            self.listed.retain(|backend| backend.id != *id);
        }
        Ok(self.end(&before))
    }

    fn die(&mut self, world: &World, owner: Owner) {
        world.dead.borrow_mut().insert(owner);
        let owned = |backend: &Backend<u8>| backend.owner == Some(owner);
        let ids: HashSet<u8> = self
            .listed
            .iter()
            .filter(|b| owned(b))
            .map(|b| b.id)
            .collect();
        if ids.is_empty() {
            return;
        }
        self.generation += 1;
        for index in (0..self.rotation.len()).rev() {
            if ids.contains(&self.rotation[index]) {
                self.rotation.swap_remove(index);
            }
        }
        match self.config.on_owner_death {
            OnOwnerDeath::Keep => {
                let dead = self.listed.iter_mut().filter(|backend| owned(backend));
                dead.for_each(|backend| backend.owner = None);
            }
            OnOwnerDeath::Remove => {
                self.listed.retain(|backend| !owned(backend));
                self.picks.retain(|id, _| !ids.contains(id));
            }
        }
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.generation += 1;
            self.listed.clear();
            self.rotation.clear();
        }
    }

    fn compare(&self, world: &World, balancer: &Balancer<u8, Owner>) {
        let info = balancer.info(world);
        assert_eq!(info.policy, self.config.policy.name());
        assert_eq!(info.closed, self.closed);
        assert_eq!(info.generation, self.generation);
        let counts = matches!(self.config.policy, Policy::RoundRobin(_));
        let expected: Vec<_> = self
            .listed
            .iter()
            .map(|backend| BackendInfo {
                id: backend.id,
                value: backend.value,
                state: match self.rotation.contains(&backend.id) {
                    true => State::Ready,
                    false => State::Down,
                },
                owner: backend.owner,
                weight: backend.weight,
                picks: counts.then_some(self.picks.get(&backend.id).copied().unwrap_or(0)),
            })
            .collect();
        assert_eq!(info.backends, expected);
        let owners: HashSet<Owner> = self.listed.iter().filter_map(|b| b.owner).collect();
        assert_eq!(*world.watched.borrow(), owners);
    }
}

fn untouched(before: &HashSet<u8>) -> Changes {
    Changes {
        kept: before.len(),
        ..Changes::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn does_what_the_model_does(
        policy in policies(),
        removes in any::<bool>(),
        operations in operations(),
    ) {
        let on_owner_death = match removes {
            true => OnOwnerDeath::Remove,
            false => OnOwnerDeath::Keep,
        };
        let config = Config { policy, on_owner_death };
        let world = World::default();
        let balancer = Balancer::new(config.clone(), 1);
        let caller = Caller::claim(2).unwrap();
        let mut naive = Naive {
            config,
            listed: Vec::new(),
            rotation: Vec::new(),
            picks: HashMap::new(),
            turn: 0,
            generation: 0,
            closed: false,
        };
        for operation in operations {
            match operation {
                Operation::Reconcile(offered) => {
                    let expected = naive.reconcile(&offered, &world);
                    prop_assert_eq!(balancer.reconcile(&offered, &world), expected);
                }
                Operation::Add(offered) => {
                    let expected = naive.add(&offered, &world);
                    prop_assert_eq!(balancer.add(&offered, &world), expected);
                }
                Operation::Remove(ids) => {
                    prop_assert_eq!(balancer.remove(&ids, &world), naive.remove(&ids));
                }
                Operation::Pick => naive.pick(balancer.pick(&caller, &world, |value| *value)),
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
