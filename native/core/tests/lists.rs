//! Lists that are offered beside those that are listed: what is published, what is looked at, and what is
//! left behind.
#![cfg(not(loom))]

use std::cell::Cell;
use std::num::NonZeroU64;

use grpc_lb_core::policy::{ring_hash, round_robin, Policy};
use grpc_lb_core::{
    Backend, Balancer, Busy, Caller, ChangeError, Changes, Offers, Owner, Owners, Seen, State,
    Time, Unowned,
};

const NOW: Time = Time(0);

fn round_robin() -> Policy {
    Policy::RoundRobin(round_robin::Config::default())
}

fn backend(id: u32) -> Backend<u32> {
    Backend::new(id, id)
}

fn list(ids: impl IntoIterator<Item = u32>) -> Vec<Backend<u32>> {
    ids.into_iter().map(backend).collect()
}

fn listing(policy: Policy, list: &[Backend<u32>]) -> Balancer<u32> {
    let balancer = Balancer::new(policy, 1, NOW);
    balancer.reconcile(list, &Unowned, NOW).unwrap();
    balancer
}

fn changes(added: usize, removed: usize, kept: usize) -> Changes {
    Changes {
        added,
        removed,
        kept,
    }
}

/// What is in the list, how often it was published, and what a round of picks has.
fn look(balancer: &Balancer<u32>) -> (Vec<(u32, u32)>, u64, Vec<u32>) {
    let info = balancer.info(&Unowned);
    let listed = info.backends.iter().map(|it| (it.id, it.value)).collect();
    let caller = Caller::new(0);
    let pick = |_| balancer.pick(&caller, &Unowned, |value| *value).unwrap();
    let mut round: Vec<u32> = (0..info.backends.len()).map(pick).collect();
    let first = round.iter().position(|id| *id == info.backends[0].value);
    round.rotate_left(first.unwrap_or(0));
    (listed, info.generation, round)
}

/// A list that notes which of its backends are let in, refuses one, and does something meanwhile.
struct Noted<'a, F> {
    list: std::slice::Iter<'a, Backend<u32>>,
    let_in: &'a Cell<Vec<u32>>,
    refuses: Option<u32>,
    meanwhile: F,
}

#[derive(Debug, PartialEq)]
enum Refused {
    Busy,
    Change(ChangeError),
    Id(u32),
}

impl From<Busy> for Refused {
    fn from(_: Busy) -> Self {
        Refused::Busy
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        Refused::Change(error)
    }
}

impl<'a, F: FnMut()> Offers<u32> for Noted<'a, F> {
    type Offer = u32;
    type Item = &'a Backend<u32>;
    type Refusal = Refused;

    fn total(&self) -> usize {
        self.list.len()
    }

    fn take_next(&mut self) -> Option<Result<Self::Item, Refused>> {
        (self.meanwhile)();
        self.list.next().map(Ok)
    }

    fn let_in(&mut self, _position: usize, offered: &Self::Item) -> Result<(), Refused> {
        let mut ids = self.let_in.take();
        ids.push(offered.id);
        self.let_in.set(ids);
        match self.refuses == Some(offered.id) {
            true => Err(Refused::Id(offered.id)),
            false => Ok(()),
        }
    }
}

#[test]
fn a_list_that_is_there_already_is_not_published() {
    let offered = list(0..100);
    let balancer = listing(round_robin(), &offered);
    let before = look(&balancer);
    assert_eq!(before.1, 1);
    for _ in 0..3 {
        let changed = balancer.reconcile(&offered, &Unowned, NOW);
        assert_eq!(changed, Ok(changes(0, 0, 100)));
        let changed = balancer.add(&offered[50..], &Unowned, NOW);
        assert_eq!(changed, Ok(changes(0, 0, 100)));
        assert_eq!(look(&balancer), before);
    }
    // One without backends is published once, as the first.
    let empty = listing(round_robin(), &[]);
    empty.reconcile(&list([]), &Unowned, NOW).unwrap();
    assert_eq!(empty.info(&Unowned).generation, 1);
}

#[test]
fn whatever_differs_is_published() {
    let differs: [fn(&mut Vec<Backend<u32>>); 9] = [
        |list| list.swap(3, 70),
        |list| list[7].value = 1_000,
        |list| list[99].weight = 0,
        |list| list[0].priority = 1,
        |list| list[0].locality = Some("zone".into()),
        |list| list[5].state = Some(State::Draining),
        |list| list[5] = backend(5).keyed("text"),
        |list| drop(list.pop()),
        |list| list.insert(0, backend(1_000)),
    ];
    for (number, differ) in differs.iter().enumerate() {
        let mut offered = list(0..100);
        let balancer = listing(round_robin(), &offered);
        differ(&mut offered);
        balancer.reconcile(&offered, &Unowned, NOW).unwrap();
        let (listed, generation, _) = look(&balancer);
        assert_eq!(generation, 2, "{number}");
        let expected: Vec<_> = offered.iter().map(|it| (it.id, it.value)).collect();
        assert_eq!(listed, expected, "{number}");
        balancer.reconcile(&offered, &Unowned, NOW).unwrap();
        assert_eq!(balancer.info(&Unowned).generation, 2, "{number}");
    }
}

#[test]
fn a_rotation_is_in_the_order_of_the_list_again_after_a_reconcile_with_the_same() {
    let balancer = listing(round_robin(), &list(0..5));
    balancer.remove(&[1], &Unowned, NOW).unwrap();
    assert_eq!(look(&balancer).2, [0, 4, 2, 3]);
    let kept = list([0, 2, 3, 4]);
    balancer.reconcile(&kept, &Unowned, NOW).unwrap();
    assert_eq!(look(&balancer).1, 3);
    assert_eq!(look(&balancer).2, [0, 2, 3, 4]);

    let down = |state| balancer.set_state(&2, state, &Unowned, NOW).unwrap();
    down(State::TransientFailure);
    down(State::Ready);
    assert_eq!(look(&balancer).2, [0, 4, 3, 2]);
    balancer.reconcile(&kept, &Unowned, NOW).unwrap();
    assert_eq!(look(&balancer).2, [0, 2, 3, 4]);
}

#[test]
fn only_what_is_new_or_changed_is_let_in() {
    let offered = list(0..10);
    let balancer = listing(round_robin(), &offered);
    let let_in = Cell::default();
    let reconcile = |list: &[Backend<u32>], refuses| {
        let noted = Noted {
            list: list.iter(),
            let_in: &let_in,
            refuses,
            meanwhile: || {},
        };
        let changed = balancer.reconcile_from(noted, &Unowned, NOW);
        (changed, let_in.take())
    };
    assert_eq!(reconcile(&offered, None), (Ok(changes(0, 0, 10)), vec![]));
    let mut other = offered.clone();
    other[4].value = 1_000;
    other[6] = backend(1_001);
    // Refused: nothing has changed.
    let before = look(&balancer);
    let refused = (Err(Refused::Id(1_001)), vec![4, 1_001]);
    assert_eq!(reconcile(&other, Some(1_001)), refused);
    assert_eq!(look(&balancer), before);
    // The one after the new one is looked up. From then on all are where they are expected.
    let changed = (Ok(changes(1, 1, 9)), vec![4, 1_001, 7]);
    assert_eq!(reconcile(&other, None), changed);
    // Behind one that has come, and one that has gone.
    let mut moved = other.clone();
    moved.insert(0, backend(1_002));
    moved.remove(5);
    let changed = (Ok(changes(1, 1, 9)), vec![1_002, 5]);
    assert_eq!(reconcile(&moved, None), changed);
}

fn nobody_died() {
    panic!("nobody owns anything");
}

#[test]
fn who_only_tries_does_not_wait_and_does_little() {
    let offered = list(0..1_000);
    let mut other = offered.clone();
    other[500].value = 1_000;
    let balancer = listing(round_robin(), &offered);
    let let_in = Cell::default();
    let tried = Cell::new(0);
    fn brief<'a, F>(
        list: &'a [Backend<u32>],
        let_in: &'a Cell<Vec<u32>>,
        meanwhile: F,
    ) -> Noted<'a, F> {
        Noted {
            list: list.iter(),
            let_in,
            refuses: None,
            meanwhile,
        }
    }
    // Somebody else is changing it.
    let meanwhile = || {
        let list = brief(&offered, &let_in, || {});
        let refused = balancer
            .try_reconcile_from(list, None, &Unowned, NOW, nobody_died)
            .err();
        assert_eq!(refused, Some(Refused::Busy));
        tried.set(tried.get() + 1);
    };
    let short = brief(&offered[..10], &let_in, meanwhile);
    balancer.reconcile_from(short, &Unowned, NOW).unwrap();
    assert_eq!(tried.get(), 11);
    balancer.reconcile(&offered, &Unowned, NOW).unwrap();

    let try_ = |balancer: &Balancer<u32>, list: &[Backend<u32>]| {
        let list = brief(list, &let_in, || {});
        let tried = balancer.try_reconcile_from(list, None, &Unowned, NOW, nobody_died);
        tried.map(|(changes, garbage)| (changes, garbage.len()))
    };
    // Some of a chunk of rows, and the value.
    let (changed, garbage) = try_(&balancer, &other).unwrap();
    assert_eq!(changed, changes(0, 0, 1_000));
    assert!((1..=2 + 64).contains(&garbage), "{garbage}");
    assert_eq!(try_(&balancer, &other), Ok((changes(0, 0, 1_000), 0)));
    // Many changes, a long list, a table.
    assert_eq!(try_(&balancer, &list(1_000..2_000)), Err(Refused::Busy));
    let long = listing(round_robin(), &list(0..20_000));
    assert_eq!(
        try_(&long, &list(0..20_000)),
        Ok((changes(0, 0, 20_000), 0))
    );
    assert_eq!(try_(&long, &list(1..20_000)), Err(Refused::Busy));
    let keyed: Vec<_> = offered
        .iter()
        .map(|it| it.clone().keyed(it.id.to_string()))
        .collect();
    let hashing = listing(Policy::RingHash(ring_hash::Config::default()), &keyed);
    assert_eq!(try_(&hashing, &keyed), Ok((changes(0, 0, 1_000), 0)));
    assert_eq!(try_(&hashing, &keyed[1..]), Err(Refused::Busy));
    assert_eq!(hashing.info(&Unowned).backends.len(), 1_000);
    // Many localities, of which each has its share, even where nothing changes.
    for (localities, tried) in [(64, Ok((changes(0, 0, 100), 0))), (65, Err(Refused::Busy))] {
        let mut spread = list(0..100);
        for backend in &mut spread {
            backend.locality = Some((backend.id % localities).to_string().into());
        }
        let balancer = listing(round_robin(), &spread);
        assert_eq!(try_(&balancer, &spread), tried);
    }
    balancer.close(&Unowned);
    let closed = Err(Refused::Change(ChangeError::Closed));
    assert_eq!(try_(&balancer, &[]), closed);
}

#[test]
fn what_was_seen_to_be_the_same_is_not_compared_again_unless_something_has_changed() {
    let offered = list(0..100);
    let balancer = listing(round_robin(), &offered);
    let mut other = offered.clone();
    other[7].value = 1_000;
    other.remove(40);
    other.insert(60, backend(1_001));
    let let_in = Cell::default();
    let noted = |list| Noted {
        list: <[Backend<u32>]>::iter(list),
        let_in: &let_in,
        refuses: None,
        meanwhile: || {},
    };
    let look = |seen: &mut Seen| {
        for part in other.chunks(30) {
            balancer.try_look(&mut noted(part), seen, nobody_died)?;
        }
        Ok::<(), Refused>(())
    };
    let reconcile = |list, seen: Option<&Seen>| {
        let tried = balancer.try_reconcile_from(noted(list), seen, &Unowned, NOW, nobody_died);
        tried.map(|(changes, _garbage)| changes)
    };
    let mut seen = Seen::default();
    look(&mut seen).unwrap();
    assert_eq!(let_in.take(), [7, 41, 1_001]);
    assert_eq!(seen.differ, [7, 40, 60]);

    // Values that differ where nothing was seen to differ: they are not looked at.
    let mut unlike = other.clone();
    unlike[20].value = 1_002;
    assert_eq!(reconcile(&unlike, Some(&seen)), Ok(changes(1, 1, 99)));
    let info = balancer.info(&Unowned);
    assert_eq!(
        info.backends.iter().map(|it| it.value).collect::<Vec<_>>(),
        { other.iter().map(|it| it.value).collect::<Vec<_>>() }
    );
    // Seen of another list than there is now: to compare all at once takes long.
    assert_eq!(reconcile(&unlike, Some(&seen)), Err(Refused::Busy));
    assert_eq!(balancer.info(&Unowned).backends[20].value, 20);
    assert_eq!(reconcile(&unlike, None), Ok(changes(0, 0, 100)));
    assert_eq!(balancer.info(&Unowned).backends[20].value, 1_002);

    // All was seen to be the same: nothing is left to look at, and nothing is published.
    let mut seen = Seen::default();
    balancer
        .try_look(&mut noted(&unlike), &mut seen, nobody_died)
        .unwrap();
    assert_eq!(seen.differ, []);
    let generation = balancer.info(&Unowned).generation;
    let unread = Noted {
        list: unlike.iter(),
        let_in: &let_in,
        refuses: None,
        meanwhile: || panic!("it was read"),
    };
    let changed = balancer.try_reconcile_from(unread, Some(&seen), &Unowned, NOW, nobody_died);
    assert_eq!(changed.unwrap().0, changes(0, 0, 100));
    assert_eq!(balancer.info(&Unowned).generation, generation);
    // So was the beginning of the list, and the rest is not offered.
    let mut seen = Seen::default();
    balancer
        .try_look(&mut noted(&unlike[..60]), &mut seen, nobody_died)
        .unwrap();
    assert_eq!(
        reconcile(&unlike[..60], Some(&seen)),
        Ok(changes(0, 40, 60))
    );
    reconcile(&unlike, None).unwrap();

    // A change between two parts, of a state too, and one that is under way.
    let mut seen = Seen::default();
    balancer
        .try_look(&mut noted(&unlike[..50]), &mut seen, nobody_died)
        .unwrap();
    balancer.set_state(&3, State::Ready, &Unowned, NOW).unwrap();
    let rest = balancer.try_look(&mut noted(&unlike[50..]), &mut seen, nobody_died);
    assert_eq!(rest, Err(Refused::Busy));
    // So many that it is of no use.
    let others = list(1_000..1_100);
    let rest = balancer.try_look(&mut noted(&others), &mut Seen::default(), nobody_died);
    assert_eq!(rest, Err(Refused::Busy));
    // One that is offered twice is found to be.
    let mut twice = unlike.clone();
    twice.push(unlike[30].clone());
    let mut seen = Seen::default();
    balancer
        .try_look(&mut noted(&twice), &mut seen, nobody_died)
        .unwrap();
    let refused = ChangeError::DuplicateId {
        first: 30,
        second: 100,
    };
    assert_eq!(
        reconcile(&twice, Some(&seen)),
        Err(Refused::Change(refused))
    );
}

#[test]
fn which_are_listed_with_a_value_is_told_unless_somebody_is_changing_it() {
    let balancer = listing(round_robin(), &list(0..10));
    let offered = [(3, 3), (4, 40), (10, 10)];
    assert_eq!(balancer.lists(&offered, &Unowned), [true, false, false]);
    let (let_in, meanwhile) = (Cell::default(), Cell::default());
    let noted = Noted {
        list: [].iter(),
        let_in: &let_in,
        refuses: None,
        meanwhile: || meanwhile.set(balancer.try_lists(&offered, nobody_died).err()),
    };
    balancer.reconcile_from(noted, &Unowned, NOW).unwrap();
    assert_eq!(meanwhile.take(), Some(Busy));
    assert_eq!(
        balancer.try_lists(&offered, nobody_died),
        Ok(vec![false; 3])
    );
}

#[test]
fn ids_that_are_offered_twice_are_named_wherever_they_are() {
    let balancer = listing(round_robin(), &list(0..10));
    let before = look(&balancer);
    for (ids, first, second) in [
        (vec![0, 1, 1], 1, 2),
        (vec![3, 2, 1, 3], 0, 3),
        (vec![0, 20, 1, 20], 1, 3),
        (vec![20, 20], 0, 1),
        ((0..10).chain([0]).collect(), 0, 10),
    ] {
        let refused = balancer.reconcile(&list(ids.clone()), &Unowned, NOW);
        assert_eq!(
            refused,
            Err(ChangeError::DuplicateId { first, second }),
            "{ids:?}"
        );
        let refused = balancer.add(&list(ids), &Unowned, NOW);
        assert_eq!(refused, Err(ChangeError::DuplicateId { first, second }));
    }
    assert_eq!(look(&balancer), before);
}

/// Watches whoever is asked for, who dies when a test says so.
struct Watching;

impl Owners for Watching {
    type Watch = ();

    fn watch(&self, _owner: Owner) -> Option<()> {
        Some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        true
    }
}

#[test]
fn a_death_that_finds_somebody_who_only_tries_is_left_to_be_acted_on() {
    let owner = Owner(NonZeroU64::MIN);
    let offered = list(0..10);
    // What is tried, and whether it is refused where a death was left before.
    type Try = fn(&Balancer<u32>, &[Backend<u32>], &dyn Fn(), &dyn Fn()) -> Result<(), Refused>;
    fn noted<'a>(
        list: &'a [Backend<u32>],
        let_in: &'a Cell<Vec<u32>>,
        meanwhile: &'a dyn Fn(),
    ) -> Noted<'a, &'a dyn Fn()> {
        Noted {
            list: list.iter(),
            let_in,
            refuses: None,
            meanwhile,
        }
    }
    let look: Try = |balancer, offered, meanwhile, died| {
        let let_in = Cell::default();
        let mut part = noted(offered, &let_in, meanwhile);
        balancer.try_look(&mut part, &mut Seen::default(), died)
    };
    let reconcile: Try = |balancer, offered, meanwhile, died| {
        let let_in = Cell::default();
        let part = noted(offered, &let_in, meanwhile);
        let tried = balancer.try_reconcile_from(part, None, &Watching, NOW, died);
        tried.map(|_changes| ())
    };
    let refused: Try = |balancer, offered, meanwhile, died| {
        let let_in = Cell::default();
        let twice = [&offered[..1], offered].concat();
        let part = noted(&twice, &let_in, meanwhile);
        let tried = balancer.try_reconcile_from(part, None, &Watching, NOW, died);
        assert!(matches!(tried, Err(Refused::Change(_))));
        Ok(())
    };
    for try_ in [look, reconcile, refused] {
        let balancer = Balancer::<u32>::new(round_robin(), 1, NOW);
        balancer.reconcile(&offered, &Watching, NOW).unwrap();
        balancer.set_owner(owner, &Watching);
        let noted = Cell::new(0);
        // Who acts on the first death finds the lock taken, and goes away.
        let meanwhile = || {
            if noted.get() == 0 {
                assert!(balancer.note_death(owner));
                balancer.remove_dead(&Watching);
                assert!(!balancer.summary().closed);
            }
            noted.set(noted.get() + 1);
        };
        let told = Cell::new(0);
        let died = || told.set(told.get() + 1);
        try_(&balancer, &offered, &meanwhile, &died).unwrap();
        assert_eq!(told.get(), 1);
        // Nothing is done as long as it is left, and it is told again.
        let busy = look(&balancer, &offered, &|| unreachable!(), &died);
        assert_eq!((busy, told.get()), (Err(Refused::Busy), 2));
        assert_eq!(balancer.try_lists(&[(1, 1)], died), Err(Busy));
        assert_eq!(told.get(), 3);
        balancer.remove_dead(&Watching);
        assert!(balancer.summary().closed);
        assert_eq!(balancer.try_lists(&[(1, 1)], nobody_died), Ok(vec![false]));
    }
}

#[test]
fn who_only_tries_and_is_refused_frees_nothing() {
    let balancer = listing(round_robin(), &list(0..10));
    let caller = Caller::new(0);
    // A snapshot that is replaced while a pick holds it is freed by a later change.
    let pick = balancer.pick(&caller, &Unowned, |_| {
        balancer.reconcile(&list(1..10), &Unowned, NOW).unwrap();
    });
    pick.unwrap();
    let let_in = Cell::default();
    let try_ = |list: &[Backend<u32>]| {
        let list = Noted {
            list: list.iter(),
            let_in: &let_in,
            refuses: None,
            meanwhile: || {},
        };
        let tried = balancer.try_reconcile_from(list, None, &Unowned, NOW, nobody_died);
        tried.map(|(_changes, garbage)| garbage.len())
    };
    let twice = list([1, 1]);
    assert!(matches!(try_(&twice), Err(Refused::Change(_))));
    assert_eq!(try_(&list(100..200)), Err(Refused::Busy));
    // A pick of another test may be under way, for which this one does not wait.
    let freed = (0..100_000).any(|_| {
        std::thread::yield_now();
        try_(&list(1..10)).unwrap() > 0
    });
    assert!(freed);
}
