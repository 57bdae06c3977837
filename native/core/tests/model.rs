//! Random sequences of operations against a model that is slow and obvious.
#![cfg(not(loom))]

use std::cell::RefCell;
use std::collections::HashSet;
use std::num::NonZeroU64;
use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{
    self, ConsecutiveFailures, FailurePercentage, Recovery, SuccessRate,
};
use grpc_lb_core::policy::weighted_round_robin::{self, Weights};
use grpc_lb_core::policy::{
    least_request, maglev, peak_ewma, pick_first, random, ring_hash, round_robin, BalanceFactor,
    Policy,
};
use grpc_lb_core::testing::{eject_failing, sweep, Ejection, Streak, Subject};
use grpc_lb_core::{
    AlreadyCompleted, Backend, BackendInfo, Balancer, Caller, ChangeError, Changes, Config,
    ConfigureError, Configured, MemberError, OnOwnerDeath, Outcome, Owner, Owners, State, Ticket,
    Time, Unavailable, Unowned,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Reconcile(Vec<Backend<u8>>),
    /// A reconcile with the list that there is, edited.
    Edit(Vec<Edit>),
    Add(Vec<Backend<u8>>),
    Remove(Vec<u8>),
    SetState(u8, State),
    Configure(Config),
    Pick,
    Checkout,
    /// These name any of the tickets there are.
    Complete(prop::sample::Index, Outcome),
    Drop(prop::sample::Index),
    Tick,
    Die(Owner),
    Close,
}

/// An edit of a list. Indices are those of any backend, as far as there are some.
#[derive(Clone, Debug)]
enum Edit {
    Swap(prop::sample::Index, prop::sample::Index),
    /// It may be the second with its id.
    Insert(prop::sample::Index, Backend<u8>),
    Remove(prop::sample::Index),
    Weigh(prop::sample::Index, u32),
    /// With the same id.
    Replace(prop::sample::Index, u8),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let index = any::<prop::sample::Index>;
    let edit = prop_oneof![
        (index(), index()).prop_map(|(one, other)| Edit::Swap(one, other)),
        (index(), backend()).prop_map(|(index, backend)| Edit::Insert(index, backend)),
        index().prop_map(Edit::Remove),
        (index(), 1u32..4).prop_map(|(index, weight)| Edit::Weigh(index, weight)),
        (index(), 0u8..3).prop_map(|(index, value)| Edit::Replace(index, value)),
    ];
    prop::collection::vec(edit, 0..4)
}

fn edit(list: &mut Vec<Backend<u8>>, edit: Edit) {
    let len = list.len();
    match edit {
        Edit::Insert(index, backend) => list.insert(index.index(len + 1), backend),
        _ if len == 0 => {}
        Edit::Swap(one, other) => list.swap(one.index(len), other.index(len)),
        Edit::Remove(index) => drop(list.remove(index.index(len))),
        Edit::Weigh(index, weight) => index.get_mut(list).weight = weight,
        Edit::Replace(index, value) => {
            let backend = index.get_mut(list);
            backend.value = backend.id + value * IDS;
        }
    }
}

fn names() -> impl Strategy<Value = Owner> {
    (1u64..4).prop_map(|name| Owner(NonZeroU64::new(name).unwrap()))
}

/// Ids are below this. The value of a backend is its id and some multiple of this, so that a pick
/// shows whose it is.
const IDS: u8 = 6;

fn backend() -> impl Strategy<Value = Backend<u8>> {
    let said = prop::option::weighted(0.2, states());
    (0..IDS, 0u8..3, prop::option::of(names()), 1u32..4, said).prop_map(
        |(id, value, owner, weight, state)| {
            let backend = Backend {
                owner,
                weight,
                state,
                ..Backend::new(id, id + value * IDS)
            };
            backend.keyed(id.to_string())
        },
    )
}

fn backends() -> impl Strategy<Value = Vec<Backend<u8>>> {
    prop::collection::vec(backend(), 0..5)
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![
        3 => Just(State::Ready),
        1 => Just(State::Connecting),
        3 => Just(State::TransientFailure),
        1 => Just(State::Draining),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Success),
        Just(Outcome::Failure),
        Just(Outcome::TransportFailure),
        Just(Outcome::Cancelled),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let ticket = any::<prop::sample::Index>;
    let operation = prop_oneof![
        3 => backends().prop_map(Operation::Reconcile),
        4 => edits().prop_map(Operation::Edit),
        3 => backends().prop_map(Operation::Add),
        3 => prop::collection::vec(0..IDS, 0..3).prop_map(Operation::Remove),
        5 => (0..IDS, states()).prop_map(|(id, it)| Operation::SetState(id, it)),
        4 => configs().prop_map(Operation::Configure),
        10 => Just(Operation::Pick),
        15 => Just(Operation::Checkout),
        8 => (ticket(), outcomes()).prop_map(|(it, outcome)| Operation::Complete(it, outcome)),
        4 => ticket().prop_map(Operation::Drop),
        1 => Just(Operation::Tick),
        2 => names().prop_map(Operation::Die),
        1 => Just(Operation::Close),
    ];
    prop::collection::vec(operation, 0..60)
}

fn policies() -> impl Strategy<Value = Policy> {
    use round_robin::{Config, CursorKind, OnReconcile, Start};
    prop_oneof![
        1 => Just(Policy::Random(random::Config)),
        1 => Just(Policy::PickFirst(pick_first::Config { shuffle: false })),
        1 => Just(Policy::LeastRequest(least_request::Config::default())),
        1 => Just(Policy::PeakEwma(peak_ewma::Config::default())),
        1 => any::<bool>().prop_map(|bounded| {
            let mut config = ring_hash::Config::new(8, 64).expect("the sizes are right");
            config.hash_balance_factor = BalanceFactor::new(100).filter(|_| bounded);
            Policy::RingHash(config)
        }),
        1 => any::<bool>().prop_map(|bounded| {
            let mut config = maglev::Config::new(11).expect("it is prime");
            config.hash_balance_factor = BalanceFactor::new(100).filter(|_| bounded);
            Policy::Maglev(config)
        }),
        1 => any::<bool>().prop_map(|reported| {
            Policy::WeightedRoundRobin(weighted_round_robin::Config {
                weights: match reported {
                    true => Weights::Reported(Box::default()),
                    false => Weights::Static,
                },
                ..Default::default()
            })
        }),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(per_caller, reset)| {
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

/// Whether all calls are counted, whatever their limit.
fn bounds_loads(policy: &Policy) -> bool {
    match policy {
        Policy::RingHash(config) => config.hash_balance_factor.is_some(),
        Policy::Maglev(config) => config.hash_balance_factor.is_some(),
        _ => false,
    }
}

fn configs() -> impl Strategy<Value = Config> {
    let limits = || prop_oneof![2 => Just(None), 1 => (0u32..4).prop_map(Some)];
    let thresholds = prop_oneof![2 => Just(0), 1 => Just(50), 1 => Just(100)];
    (policies(), any::<bool>(), limits(), limits(), thresholds).prop_map(
        |(policy, removes, max_requests, max_requests_per_backend, panic_threshold)| Config {
            on_owner_death: match removes {
                true => OnOwnerDeath::Remove,
                false => OnOwnerDeath::Keep,
            },
            max_requests,
            max_requests_per_backend,
            panic_threshold,
            ..Config::from(policy)
        },
    )
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

/// The obvious balancer: a list, the ids in the order in which they are picked, and what was counted
/// of every backend that was ever listed.
struct Naive {
    config: Config,
    listed: Vec<Member>,
    rotation: Vec<u8>,
    /// The same, as the last change left it.
    published: Vec<u8>,
    counts: Vec<Counts>,
    turn: usize,
    /// Whether the turn is not known: another kind of cursor goes on where any of the counters of the
    /// last one was.
    astray: bool,
    /// Whom pick_first has selected, by its counts.
    selected: Option<usize>,
    /// Calls in flight that began while the number of all was limited.
    in_total: u32,
    panicking: bool,
    /// Whether the rotation is in a known order: in which one a panic takes backends in is of no
    /// interest.
    ordered: bool,
    generation: u64,
    /// Whether the last operation may or may not have published something.
    uncertain: bool,
    closed: bool,
}

#[derive(Clone)]
struct Member {
    offered: Backend<u8>,
    state: State,
    owner_dead: bool,
    /// Which of the counts are its own: an id that was removed and comes back has new ones.
    counts: usize,
}

impl Member {
    fn is(&self, state: State) -> bool {
        self.state == state && !self.owner_dead
    }
}

/// A call in flight.
#[derive(Clone, Copy)]
struct Call {
    /// Which counts it is counted in.
    counts: usize,
    in_total: bool,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    turns: u64,
    in_flight: u32,
    successes: u64,
    failures: u64,
    cancelled: u64,
}

impl Naive {
    fn new(config: Config) -> Self {
        Naive {
            ordered: config.panic_threshold == 0,
            config,
            listed: Vec::new(),
            rotation: Vec::new(),
            published: Vec::new(),
            counts: Vec::new(),
            turn: 0,
            astray: false,
            selected: None,
            in_total: 0,
            panicking: false,
            generation: 0,
            uncertain: false,
            closed: false,
        }
    }

    fn find(&self, id: u8) -> Option<usize> {
        self.listed
            .iter()
            .position(|member| member.offered.id == id)
    }

    fn member(&self, id: u8) -> &Member {
        &self.listed[self.find(id).expect("it is listed")]
    }

    fn counts(&mut self, id: u8) -> &mut Counts {
        let index = self.member(id).counts;
        &mut self.counts[index]
    }

    /// Who may be picked when it is all the same how many calls are in flight, and whether the
    /// first of them is the one.
    fn candidates(&mut self) -> (Vec<u8>, bool) {
        let n = self.rotation.len();
        let first = match &self.config.policy {
            Policy::PickFirst(_) => self.selected_id(),
            Policy::RoundRobin(_) if n > 0 => {
                self.turn += 1;
                Some(self.rotation[(self.turn - 1) % n])
            }
            _ => None,
        };
        let start = first.and_then(|first| self.rotation.iter().position(|id| *id == first));
        let start = start.unwrap_or(0);
        let candidates = (start..n).chain(0..start).map(|index| self.rotation[index]);
        let ordered = self.ordered && !self.astray || n < 2;
        (candidates.collect(), first.is_some() && ordered)
    }

    /// A62: who is selected stays so while it can be picked.
    fn select(&mut self) {
        if self.selected_id().is_none() {
            let mut listed = self.listed.iter();
            let first = listed.find(|member| self.rotation.contains(&member.offered.id));
            self.selected = first.map(|member| member.counts);
        }
    }

    fn selected_id(&self) -> Option<u8> {
        let mut listed = self.listed.iter();
        let selected = listed.find(|member| Some(member.counts) == self.selected)?;
        let id = selected.offered.id;
        self.rotation.contains(&id).then_some(id)
    }

    fn none(&self) -> Unavailable {
        match self.closed {
            true => Unavailable::Closed,
            false => Unavailable::NoBackends,
        }
    }

    fn check(&self, value: u8, candidates: &[u8], exact: bool) -> u8 {
        let id = value % IDS;
        assert!(candidates.contains(&id), "{id} of {candidates:?}");
        assert!(!exact || id == candidates[0], "{id} of {candidates:?}");
        assert_eq!(value, self.member(id).offered.value);
        id
    }

    fn pick(&mut self, picked: Result<u8, Unavailable>) {
        let (candidates, exact) = self.candidates();
        if candidates.is_empty() {
            assert_eq!(picked, Err(self.none()));
            return;
        }
        let id = self.check(picked.expect("there is one to pick"), &candidates, exact);
        self.counts(id).turns += 1;
        if std::mem::take(&mut self.astray) {
            let place = self.rotation.iter().position(|other| *other == id);
            self.turn = place.expect("it was picked") + 1;
        }
    }

    /// What the call is counted in.
    fn checkout(&mut self, picked: Result<u8, Unavailable>) -> Option<Call> {
        if self.rotation.is_empty() {
            assert_eq!(picked, Err(self.none()));
            return None;
        }
        let limit = self.config.max_requests;
        if limit.is_some_and(|max| self.in_total >= max) {
            assert_eq!(picked, Err(Unavailable::Overloaded));
            return None;
        }
        let (mut candidates, exact) = self.candidates();
        if let Some(max) = self.config.max_requests_per_backend {
            let full: Vec<u8> = candidates.clone();
            candidates.retain(|id| self.counts(*id).in_flight < max);
            // The policy takes a turn for each that it passes over, and so many in vain.
            if let Policy::RoundRobin(_) = self.config.policy {
                let passed = full.iter().position(|id| candidates.contains(id));
                self.turn += passed.unwrap_or(16);
            }
        }
        if candidates.is_empty() {
            assert_eq!(picked, Err(Unavailable::Overloaded));
            return None;
        }
        let id = self.check(picked.expect("there is room"), &candidates, exact);
        let counts = self.counts(id);
        counts.turns += 1;
        counts.in_flight += 1;
        let in_total = limit.is_some() || bounds_loads(&self.config.policy);
        self.in_total += u32::from(in_total);
        Some(Call {
            counts: self.member(id).counts,
            in_total,
        })
    }

    fn complete(&mut self, call: Call, outcome: Outcome) {
        self.in_total -= u32::from(call.in_total);
        let counts = &mut self.counts[call.counts];
        counts.in_flight -= 1;
        *match outcome {
            Outcome::Success => &mut counts.successes,
            Outcome::Failure | Outcome::TransportFailure => &mut counts.failures,
            Outcome::Cancelled => &mut counts.cancelled,
        } += 1;
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

    /// Has a backend in the rotation if it is to be there, and says whether that is new.
    fn seat(&mut self, id: u8) -> bool {
        let wanted = self.find(id).map(|index| &self.listed[index]);
        let wanted = wanted.is_some_and(|member| {
            let unhealthy = self.panicking && member.is(State::TransientFailure);
            member.is(State::Ready) || unhealthy
        });
        match (self.rotation.iter().position(|other| *other == id), wanted) {
            (None, true) => self.rotation.push(id),
            (Some(index), false) => drop(self.rotation.swap_remove(index)),
            _ => return false,
        }
        true
    }

    /// Begins or ends a panic, and says whether the rotation has changed.
    fn calm(&mut self) -> bool {
        let count = |state| self.listed.iter().filter(|it| it.is(state)).count();
        let healthy = count(State::Ready);
        let all = healthy + count(State::TransientFailure);
        let threshold = self.config.panic_threshold as usize;
        self.panicking = 100 * healthy < threshold * all.max(1);
        // By id: all that are to go before those that come.
        let mut changed = false;
        for id in 0..IDS {
            changed |= self.seat(id);
        }
        changed
    }

    fn offer(&mut self, offered: &Backend<u8>, last: Option<Member>, world: &World) {
        let dead = offered.owner.is_some_and(|owner| !world.is_alive(owner));
        if dead && self.config.on_owner_death == OnOwnerDeath::Remove {
            self.listed.retain(|member| member.offered.id != offered.id);
            self.seat(offered.id);
            return;
        }
        let (state, counts) = match last {
            Some(last) => (last.state, last.counts),
            None => {
                self.counts.push(Counts::default());
                (State::Ready, self.counts.len() - 1)
            }
        };
        let state = offered.state.unwrap_or(state);
        let member = Member {
            offered: Backend {
                owner: offered.owner.filter(|_| !dead),
                ..offered.clone()
            },
            state,
            owner_dead: dead,
            counts,
        };
        match self.find(offered.id) {
            Some(index) => self.listed[index] = member,
            None => self.listed.push(member),
        }
        self.seat(offered.id);
    }

    /// What every change ends with that picks can see: whose turn it is keeps it, or the first one
    /// after it that is still there.
    fn publish(&mut self) {
        self.generation += 1;
        let last = std::mem::replace(&mut self.published, self.rotation.clone());
        let next = self.turn.checked_rem(last.len()).unwrap_or(0);
        let mut followers = last[next..].iter().chain(&last[..next]);
        let place = |id| self.rotation.iter().position(|other| other == id);
        self.turn = followers.find_map(place).unwrap_or(0);
    }

    /// Whether a member is as it is offered.
    fn is_same(&self, offered: &Backend<u8>) -> bool {
        self.find(offered.id).is_some_and(|index| {
            let member = &self.listed[index];
            let state = offered.state.unwrap_or(member.state);
            let as_offered = Backend {
                state: offered.state,
                ..member.offered.clone()
            };
            as_offered == *offered && member.state == state && !member.owner_dead
        })
    }

    /// What every change of the list ends with.
    fn end(&mut self, before: &HashSet<u8>) -> Changes {
        self.calm();
        self.publish();
        if let Policy::RoundRobin(config) = &self.config.policy {
            if config.on_reconcile == round_robin::OnReconcile::Reset {
                self.turn = 0;
            }
        }
        let after = self.ids();
        Changes {
            added: after.difference(before).count(),
            removed: before.difference(&after).count(),
            kept: after.intersection(before).count(),
        }
    }

    fn ids(&self) -> HashSet<u8> {
        self.listed.iter().map(|member| member.offered.id).collect()
    }

    fn reconcile(
        &mut self,
        offered: &[Backend<u8>],
        world: &World,
    ) -> Result<Changes, ChangeError> {
        self.refuse(offered)?;
        let before = self.ids();
        // What is published whether it differs or not.
        let always = match &self.config.policy {
            Policy::RoundRobin(config) => config.on_reconcile == round_robin::OnReconcile::Reset,
            _ => false,
        } || self.generation == 0;
        let ids = offered.iter().map(|backend| backend.id);
        let listed = self.listed.iter().map(|member| member.offered.id);
        if listed.eq(ids) && offered.iter().all(|it| self.is_same(it)) && !always {
            return Ok(self.tidy(&before));
        }
        let last = std::mem::take(&mut self.listed);
        self.rotation.clear();
        self.ordered = self.config.panic_threshold == 0;
        for backend in offered {
            let last = last.iter().find(|member| member.offered.id == backend.id);
            self.offer(backend, last.cloned(), world);
        }
        Ok(self.end(&before))
    }

    /// A reconcile with the list as it is: the rotation has its order from now on. What has it already
    /// stays.
    fn tidy(&mut self, before: &HashSet<u8>) -> Changes {
        let listed = self.listed.iter().map(|member| member.offered.id);
        let tidy: Vec<u8> = listed.filter(|id| self.rotation.contains(id)).collect();
        // In which order a panic has taken backends in is not known.
        self.uncertain = !self.ordered;
        if tidy != self.rotation {
            self.rotation = tidy;
            self.publish();
        }
        untouched(before)
    }

    fn add(&mut self, offered: &[Backend<u8>], world: &World) -> Result<Changes, ChangeError> {
        self.refuse(offered)?;
        let before = self.ids();
        if offered.iter().all(|backend| self.is_same(backend)) {
            return Ok(untouched(&before));
        }
        for backend in offered {
            let last = self
                .find(backend.id)
                .map(|index| self.listed[index].clone());
            self.offer(backend, last, world);
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
            self.listed.retain(|member| member.offered.id != *id);
            self.seat(*id);
        }
        Ok(self.end(&before))
    }

    fn set_state(&mut self, id: u8, state: State) -> Result<(), MemberError> {
        if self.closed {
            return Err(MemberError::Closed);
        }
        let index = self.find(id).ok_or(MemberError::NotFound)?;
        self.listed[index].state = state;
        let seated = self.seat(id);
        let calmed = self.calm();
        if seated || calmed {
            self.publish();
        }
        Ok(())
    }

    fn configure(&mut self, next: &Config) -> Result<Configured, ConfigureError> {
        if self.closed {
            return Err(ConfigureError::Closed);
        }
        let [current, wanted] = [&self.config, next].map(|config| config.policy.name());
        if current != wanted {
            return Err(ConfigureError::OtherPolicy { current, wanted });
        }
        if self.config == *next {
            return Ok(Configured::Unchanged);
        }
        if let (Policy::RoundRobin(last), Policy::RoundRobin(next)) =
            (&self.config.policy, &next.policy)
        {
            self.astray |= last.cursor != next.cursor;
        }
        self.config = next.clone();
        self.ordered &= next.panic_threshold == 0;
        self.calm();
        self.publish();
        Ok(Configured::Changed)
    }

    fn die(&mut self, world: &World, owner: Owner) {
        world.dead.borrow_mut().insert(owner);
        let owned = |member: &Member| member.offered.owner == Some(owner);
        let ids: HashSet<u8> = self
            .listed
            .iter()
            .filter(|member| owned(member))
            .map(|member| member.offered.id)
            .collect();
        let removes = self.config.on_owner_death == OnOwnerDeath::Remove;
        if removes {
            self.listed.retain(|member| !owned(member));
        }
        for member in self.listed.iter_mut().filter(|member| owned(member)) {
            member.offered.owner = None;
            member.owner_dead = true;
        }
        let mut touched = removes && !ids.is_empty();
        for index in (0..self.rotation.len()).rev() {
            if ids.contains(&self.rotation[index]) {
                self.rotation.swap_remove(index);
                touched = true;
            }
        }
        touched |= self.calm();
        if touched {
            self.publish();
        }
    }

    fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.listed.clear();
            self.rotation.clear();
            self.publish();
        }
    }

    fn compare(&mut self, world: &World, balancer: &Balancer<u8, Owner>) {
        self.select();
        let mut info = balancer.info(world);
        assert_eq!(info.policy, self.config.policy.name());
        assert_eq!(info.closed, self.closed);
        if std::mem::take(&mut self.uncertain) {
            assert!(self.generation.abs_diff(info.generation) <= 1);
            self.generation = info.generation;
        }
        assert_eq!(info.generation, self.generation);
        assert_eq!(info.malformed_reports, 0);
        let summary = balancer.summary();
        assert_eq!(summary.policy, info.policy);
        assert_eq!(summary.backends, self.listed.len());
        assert_eq!(summary.closed, self.closed);
        let measures_failures = matches!(self.config.policy, Policy::PeakEwma(_));
        for backend in &mut info.backends {
            let measured = backend.successes > 0 || measures_failures && backend.failures > 0;
            assert_eq!(backend.latency_ns.take().is_some(), measured);
            let led = backend.table_share.take();
            assert_eq!(led.is_some(), info.table.is_some());
            assert!(led.is_none_or(|part| (0.0..=1.0 + 1e-9).contains(&part)));
            assert_eq!(
                balancer.successes(&backend.id, world),
                Ok(backend.successes)
            );
            let waits = backend.oldest_in_flight.take().is_some();
            assert_eq!(waits, backend.in_flight > 0);
        }
        let expected: Vec<_> = self.listed.iter().map(|it| self.describe(it)).collect();
        assert_eq!(info.backends, expected);
        let members = self.listed.iter();
        let owners: HashSet<Owner> = members.filter_map(|it| it.offered.owner).collect();
        assert_eq!(*world.watched.borrow(), owners);
    }

    fn describe(&self, member: &Member) -> BackendInfo<u8> {
        let Backend {
            id,
            value,
            owner,
            weight,
            priority,
            ..
        } = member.offered;
        let counts = self.counts[member.counts];
        let in_flight = counts.in_flight;
        let checkouts =
            u64::from(in_flight) + counts.successes + counts.failures + counts.cancelled;
        BackendInfo {
            id,
            value,
            state: member.state,
            owner_dead: member.owner_dead,
            owner,
            in_subset: true,
            priority,
            locality: None,
            weight,
            // Nobody ever reports.
            current_weight: (!self.config.is_timed()).then_some(f64::from(weight)),
            picks: match self.config.policy {
                Policy::RoundRobin(_) => counts.turns,
                _ => checkouts,
            },
            in_flight,
            table_share: None,
            oldest_in_flight: None,
            latency_ns: None,
            successes: counts.successes,
            failures: counts.failures,
            ejected_until: None,
            ejected_by: None,
            times_ejected: 0,
        }
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
    fn does_what_the_model_does(config in configs(), operations in operations()) {
        let world = World::default();
        let balancer = Balancer::new(config.clone(), 1, Time(0));
        let caller = Caller::new(2);
        let mut naive = Naive::new(config);
        // With what each is counted in, and whether it has ended.
        let mut tickets: Vec<(Ticket, Call, bool)> = Vec::new();
        for (operation, now) in operations.into_iter().zip((1..).map(Time)) {
            match operation {
                Operation::Reconcile(offered) => {
                    let expected = naive.reconcile(&offered, &world);
                    prop_assert_eq!(balancer.reconcile(&offered, &world, now), expected);
                }
                Operation::Edit(edits) => {
                    let listed = naive.listed.iter();
                    let mut offered: Vec<_> = listed.map(|it| it.offered.clone()).collect();
                    for it in edits {
                        edit(&mut offered, it);
                    }
                    let expected = naive.reconcile(&offered, &world);
                    prop_assert_eq!(balancer.reconcile(&offered, &world, now), expected);
                }
                Operation::Add(offered) => {
                    let expected = naive.add(&offered, &world);
                    prop_assert_eq!(balancer.add(&offered, &world, now), expected);
                }
                Operation::Remove(ids) => {
                    prop_assert_eq!(balancer.remove(&ids, &world, Time(0)), naive.remove(&ids));
                }
                Operation::SetState(id, state) => {
                    let expected = naive.set_state(id, state);
                    let set = balancer.set_state(&id, state, &world, now);
                    prop_assert_eq!(set, expected);
                }
                Operation::Configure(next) => {
                    let expected = naive.configure(&next);
                    let configured = balancer.configure(|config| *config = next, &world, now);
                    prop_assert_eq!(configured, expected);
                }
                Operation::Pick => naive.pick(balancer.pick(&caller, &world, |value| *value)),
                Operation::Checkout => {
                    let checkout = balancer.checkout(&caller, &world, now, |value| *value);
                    let (picked, ticket) = match checkout {
                        Ok((value, ticket)) => (Ok(value), Some(ticket)),
                        Err(unavailable) => (Err(unavailable), None),
                    };
                    let call = naive.checkout(picked);
                    tickets.extend(ticket.zip(call).map(|(it, call)| (it, call, false)));
                }
                Operation::Complete(index, outcome) if !tickets.is_empty() => {
                    let (ticket, call, ended) = index.get_mut(&mut tickets);
                    let expected = if *ended { Err(AlreadyCompleted) } else { Ok(()) };
                    prop_assert_eq!(ticket.complete(outcome, None, now), expected);
                    if !std::mem::replace(ended, true) {
                        naive.complete(*call, outcome);
                    }
                }
                Operation::Drop(index) if !tickets.is_empty() => {
                    let (ticket, call, ended) = tickets.swap_remove(index.index(tickets.len()));
                    drop(ticket);
                    if !ended {
                        naive.complete(call, Outcome::Cancelled);
                    }
                }
                Operation::Complete(..) | Operation::Drop(_) => {}
                Operation::Tick => {
                    let due = naive.config.is_timed() && !naive.closed;
                    prop_assert_eq!(balancer.tick(&world, now).is_some(), due);
                }
                Operation::Die(owner) => {
                    naive.die(&world, owner);
                    if world.watched.borrow_mut().remove(&owner) {
                        assert!(balancer.note_death(owner), "nobody else was asked");
                        balancer.remove_dead(&world);
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

/// What happens to backends that are watched for outliers.
#[derive(Clone, Debug)]
enum Event {
    /// So many calls to a backend, one after the other.
    Calls(u8, usize, Outcome),
    /// One that is listed no more comes back as a new one.
    Replace(u8),
    SetState(u8, State),
    /// After so many seconds.
    Tick(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        12 => (0..IDS, 1usize..6, outcomes()).prop_map(|(id, n, it)| Event::Calls(id, n, it)),
        1 => (0..IDS).prop_map(Event::Replace),
        1 => (0..IDS, states()).prop_map(|(id, it)| Event::SetState(id, it)),
        4 => (0u64..20).prop_map(Event::Tick),
    ];
    prop::collection::vec(event, 0..80)
}

/// With thresholds that such few calls reach.
fn detections() -> impl Strategy<Value = outlier_detection::Config> {
    let success_rate = SuccessRate {
        stdev_factor: 1_000,
        minimum_hosts: 3,
        request_volume: 3,
        ..Default::default()
    };
    let failure_percentage = FailurePercentage {
        threshold: 60,
        minimum_hosts: 2,
        request_volume: 4,
        ..Default::default()
    };
    let consecutive =
        (2u32..5, 0u32..7).prop_map(|(failures, minimum_hosts)| ConsecutiveFailures {
            failures: failures.try_into().unwrap(),
            minimum_hosts,
        });
    (
        prop::option::of(Just(success_rate)),
        prop::option::of(Just(failure_percentage)),
        prop::option::of(consecutive),
        prop::option::of((1u32..3).prop_map(|n| n.try_into().unwrap())),
        prop_oneof![Just(10), Just(40), Just(100)],
        any::<bool>(),
        prop_oneof![Just(Recovery::Time), Just(Recovery::Success)],
    )
        .prop_map(
            |(success_rate, failure_percentage, consecutive, transport, max, strict, recovery)| {
                outlier_detection::Config {
                    max_ejection_percent: max,
                    strict,
                    backoff_recovery: recovery,
                    success_rate,
                    failure_percentage,
                    consecutive_failures: consecutive,
                    consecutive_transport_failures: transport,
                    ..Default::default()
                }
            },
        )
}

/// A backend as an obvious sweeper knows it.
#[derive(Clone, Copy, Default)]
struct Suspect {
    ejection: Ejection,
    /// Since the last sweep.
    ok: u64,
    failed: u64,
    consecutive: u32,
    transport: u32,
    /// Whether they became too many since the last look.
    too_many: (bool, bool),
    /// Ever.
    all_ok: u64,
    ready: bool,
}

impl Suspect {
    fn new() -> Self {
        Suspect {
            ready: true,
            ..Suspect::default()
        }
    }
}

/// Who is picked: those that are ready and not ejected. Strictly, all that are ready if there are none.
fn picked(config: &outlier_detection::Config, all: &[Suspect]) -> HashSet<u8> {
    let ids = |it: &dyn Fn(&Suspect) -> bool| {
        let all = all.iter().zip(0..).filter(|(suspect, _)| it(suspect));
        all.map(|(_, id)| id).collect::<HashSet<u8>>()
    };
    let healthy = ids(&|it| it.ready && !it.ejection.is_ejected());
    match healthy.is_empty() && config.strict {
        true => ids(&|it| it.ready),
        false => healthy,
    }
}

/// When the next of those that could not be reached is let back in.
fn returns(all: &[Suspect]) -> Time {
    let until = all.iter().filter_map(|it| it.ejection.unreachable.until);
    until.min().unwrap_or(Time(u64::MAX))
}

fn healthy(all: &[Suspect]) -> usize {
    let healthy = |it: &&Suspect| it.ready && !it.ejection.is_ejected();
    all.iter().filter(healthy).count()
}

/// What is due at a tick, by the functions that have known answers of their own. Whether one was held
/// back.
fn look(config: &outlier_detection::Config, all: &mut [Suspect], sweeps: bool, now: Time) -> bool {
    let before: Vec<_> = all.iter().map(|it| it.ejection).collect();
    let limit = config
        .consecutive_failures
        .map_or(0, |rule| rule.failures.get());
    let transport_limit = config
        .consecutive_transport_failures
        .map_or(0, |limit| limit.get());
    let mut streaks: Vec<_> = all
        .iter_mut()
        .map(|it| Streak {
            failures: it.consecutive.max(if it.too_many.0 { limit } else { 0 }),
            transport_failures: it
                .transport
                .max(if it.too_many.1 { transport_limit } else { 0 }),
            ok: it.all_ok,
            ready: it.ready,
            ejection: &mut it.ejection,
        })
        .collect();
    eject_failing(config, &mut streaks, now);
    let held_back = streaks.iter().any(|streak| streak.is_held_back(config));
    if sweeps {
        let mut subjects: Vec<_> = all
            .iter_mut()
            .map(|it| Subject {
                ok: std::mem::take(&mut it.ok),
                failed: std::mem::take(&mut it.failed),
                ready: it.ready,
                ejection: &mut it.ejection,
            })
            .collect();
        sweep(config, &mut subjects, now, || 0);
    }
    for (it, before) in all.iter_mut().zip(before) {
        it.too_many = (false, false);
        let after = it.ejection;
        if after.ejected_at.is_some() != before.ejected_at.is_some() {
            it.consecutive = 0;
        }
        if after.unreachable.until != before.unreachable.until
            || it.ready && before.is_ejected() && !after.is_ejected()
        {
            it.transport = 0;
        }
    }
    held_back
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn ejects_as_an_obvious_sweeper_does(detection in detections(), events in events()) {
        let config = Config {
            outlier_detection: Some(Box::new(detection.clone())),
            ..Config::from(Policy::RoundRobin(round_robin::Config::default()))
        };
        let balancer = Balancer::new(config, 1, Time(0));
        let caller = Caller::new(2);
        let list: Vec<_> = (0..IDS).map(|id| Backend::new(id, id)).collect();
        balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
        let mut all = [Suspect::new(); IDS as usize];
        let (mut now, mut sweep, mut urgent) = (Time(0), Time(0) + detection.interval, false);
        // One that is gone leaves its appointment behind, which costs a look.
        let mut planned = Time(u64::MAX);
        let mut held_back = None;
        for event in events {
            match event {
                Event::Calls(id, calls, outcome) => {
                    for _ in 0..calls {
                        // Those that are not picked have none.
                        if !picked(&detection, &all).contains(&id) {
                            break;
                        }
                        let it = &mut all[id as usize];
                        let checkout = || balancer.checkout(&caller, &Unowned, now, |id| *id);
                        let mut checkouts = std::iter::repeat_with(|| checkout().unwrap());
                        let (_, ticket) = checkouts.find(|it| it.0 == id).unwrap();
                        ticket.complete(outcome, None, now).unwrap();
                        match outcome {
                            Outcome::Success => {
                                it.ok += 1;
                                it.all_ok += 1;
                                (it.consecutive, it.transport) = (0, 0);
                            }
                            Outcome::Failure | Outcome::TransportFailure => {
                                it.failed += 1;
                                it.consecutive += 1;
                                let rule = detection.consecutive_failures;
                                if rule.is_some_and(|rule| rule.failures.get() == it.consecutive) {
                                    (urgent, it.too_many.0) = (true, true);
                                }
                                if outcome == Outcome::TransportFailure {
                                    it.transport += 1;
                                    let limit = detection.consecutive_transport_failures;
                                    if limit.is_some_and(|limit| limit.get() == it.transport) {
                                        (urgent, it.too_many.1) = (true, true);
                                    }
                                }
                            }
                            Outcome::Cancelled => {}
                        }
                    }
                }
                Event::Replace(id) => {
                    balancer.remove(&[id], &Unowned, Time(0)).unwrap();
                    balancer.add(&[Backend::new(id, id)], &Unowned, now).unwrap();
                    all[id as usize] = Suspect::new();
                }
                Event::SetState(id, state) => {
                    balancer.set_state(&id, state, &Unowned, now).unwrap();
                    let it = &mut all[id as usize];
                    let was_healthy = it.ready && !it.ejection.is_ejected();
                    it.ready = state == State::Ready;
                    if it.ready && !it.ejection.is_ejected() && !was_healthy {
                        (it.transport, it.too_many.1) = (0, false);
                    }
                }
                Event::Tick(seconds) => {
                    now = now + Duration::from_secs(seconds);
                    let sweeps = sweep <= now;
                    if sweeps {
                        sweep = now + detection.interval;
                    }
                    if sweeps || urgent || planned <= now {
                        let is_held_back = look(&detection, &mut all, sweeps, now);
                        held_back = is_held_back.then(|| healthy(&all));
                        planned = returns(&all);
                    }
                    urgent = false;
                    let due = sweep.min(planned);
                    prop_assert_eq!(balancer.tick(&Unowned, now), Some(due));
                }
            }
            if held_back.is_some_and(|then| healthy(&all) > then) {
                held_back = None;
                urgent = true;
            }
            let due = if urgent { Time(0) } else { sweep.min(planned) };
            prop_assert_eq!(balancer.due(), Some(due));
            let backends = balancer.info(&Unowned).backends;
            let usable = picked(&detection, &all);
            for backend in &backends {
                let ejection = &all[backend.id as usize].ejection;
                prop_assert_eq!(backend.ejected_until, ejection.ejected_until(&detection));
                prop_assert_eq!(backend.times_ejected, ejection.times_ejected);
            }
            for _ in 0..IDS {
                match balancer.pick(&caller, &Unowned, |id| *id) {
                    Ok(id) => prop_assert!(usable.contains(&id)),
                    Err(_) => prop_assert!(usable.is_empty()),
                }
            }
        }
    }
}
