//! loom models: every interleaving of a few threads, with every reordering that the memory model
//! allows. `make loom` runs them.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicUsize as Count, Ordering::Relaxed as Any};
use std::sync::Arc as StdArc;
use std::time::Duration;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use crate::alarm::Alarm;
use crate::caller::Number;
use crate::cursor::{Cursor, CursorKind};
use crate::drain::{Drain, Drains};
use crate::health::outlier_detection::{self, ConsecutiveFailures};
use crate::limit::InFlight;
use crate::line::Line;
use crate::load::cohorts::{Cohort, Cohorts};
use crate::load::latency::{Latency, Rule};
use crate::policy::{peak_ewma, pick_first, random, ring_hash, BalanceFactor, Policy};
use crate::reclaim::{Published, Reader};
use crate::shared::Shared;
use crate::sync::{AtomicBool, AtomicUsize, Ordering, Patience};
use crate::{
    Backend, Balancer, Caller, Config, Outcome, Owner, Owners, Ticket, Time, Unavailable, Unowned,
};

/// For models in which snapshots are published and read. Below that is the whole of crossbeam-epoch,
/// as loom sees it, which has too many interleavings to see all: those with up to two preemptions.
fn with_epochs(model: impl Fn() + Send + Sync + 'static) {
    with_preemptions(2, model);
}

fn with_preemptions(bound: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(bound);
    bounded.check(model);
}

/// A value whose reads and end loom watches: reading it after or while it is dropped fails.
struct Watched {
    number: UnsafeCell<usize>,
    drops: StdArc<Count>,
}

// SAFETY: whether it may be shared is what the models find out; loom fails them if not.
#[allow(unsafe_code)]
unsafe impl Sync for Watched {}

impl Watched {
    fn new(number: usize, drops: &StdArc<Count>) -> Self {
        Watched {
            number: UnsafeCell::new(number),
            drops: drops.clone(),
        }
    }

    #[allow(unsafe_code)]
    fn number(&self) -> usize {
        // SAFETY: loom fails the model if another thread writes meanwhile.
        self.number.with(|number| unsafe { *number })
    }
}

impl Drop for Watched {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: loom fails the model if another thread reads meanwhile.
        self.number
            .with_mut(|number| unsafe { *number = usize::MAX });
        self.drops.fetch_add(1, Any);
    }
}

#[test]
fn a_value_is_freed_once_and_never_under_a_reader() {
    with_epochs(|| {
        let drops = StdArc::new(Count::new(0));
        let published = Arc::new(Published::new(Watched::new(0, &drops)));
        let reader = {
            let published = published.clone();
            thread::spawn(move || {
                let reader = Reader::register();
                let first = published.read(&reader, Watched::number);
                let second = published.read(&reader, Watched::number);
                assert!(first <= second && second <= 2);
            })
        };
        let freed = |count: usize| assert_eq!(drops.load(Any), count);
        published.publish(Watched::new(1, &drops));
        drop(published.reclaim(Patience::none()));
        published.publish(Watched::new(2, &drops));
        drop(published.reclaim(Patience::none()));
        reader.join().unwrap();
        drop(published.reclaim(Patience::none()));
        freed(2);
        drop(published);
        freed(3);
    });
}

#[test]
fn a_value_lives_as_long_as_the_last_of_its_readers() {
    with_epochs(|| {
        let drops = StdArc::new(Count::new(0));
        let published = Arc::new(Published::new(Watched::new(0, &drops)));
        let other = {
            let published = published.clone();
            thread::spawn(move || {
                let reader = Reader::register();
                assert!(published.read(&reader, Watched::number) <= 1);
            })
        };
        let reader = Reader::register();
        published.read(&reader, |value| {
            published.publish(Watched::new(1, &drops));
            drop(published.reclaim(Patience::none()));
            assert_eq!(value.number(), 0);
        });
        other.join().unwrap();
        drop(published.reclaim(Patience::none()));
        assert_eq!(drops.load(Any), 1);
        drop(published);
        assert_eq!(drops.load(Any), 2);
    });
}

#[test]
fn a_reader_that_ends_a_grace_period_hands_on_that_it_is_done() {
    with_preemptions(3, || {
        let drops = StdArc::new(Count::new(0));
        let published = Arc::new(Published::new(Watched::new(0, &drops)));
        // A thread's first pin moves the epoch on, and would hide what the second change does.
        published.publish(Watched::new(1, &drops));
        drop(published.reclaim(Patience::none()));
        let reader = {
            let published = published.clone();
            thread::spawn(move || {
                published.read(&Reader::register(), Watched::number);
                // The first pin of a reader runs what is due, as every 128th does.
                published.read(&Reader::register(), |_| ());
            })
        };
        published.publish(Watched::new(2, &drops));
        drop(published.reclaim(Patience::none()));
        reader.join().unwrap();
    });
}

#[test]
fn a_read_that_starts_after_publish_returned_sees_the_new_value() {
    with_epochs(|| {
        let drops = StdArc::new(Count::new(0));
        let published = Arc::new(Published::new(Watched::new(0, &drops)));
        let returned = Arc::new(AtomicBool::new(false));
        let reader = {
            let (published, returned) = (published.clone(), returned.clone());
            thread::spawn(move || {
                let reader = Reader::register();
                let returned = returned.load(Ordering::Acquire);
                let number = published.read(&reader, Watched::number);
                assert!(!returned || number == 1);
            })
        };
        published.publish(Watched::new(1, &drops));
        returned.store(true, Ordering::Release);
        reader.join().unwrap();
    });
}

#[test]
fn callers_alive_have_numbers_of_their_own() {
    loom::model(|| {
        let callers = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads = [0, 1].map(|_| {
            let callers = callers.clone();
            thread::spawn(move || {
                let number = Number::take();
                let callers = &callers[number.get()];
                assert_eq!(callers.fetch_add(1, Ordering::Relaxed), 0);
                callers.fetch_sub(1, Ordering::Relaxed);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

fn counted(cursor: &Cursor, n: usize) -> Vec<u64> {
    let mut turns = vec![0; n];
    cursor.for_each_turn(n, |index, more| turns[index] += more);
    turns
}

#[test]
fn every_caller_of_a_shared_cursor_gets_turns_of_its_own() {
    loom::model(|| {
        let cursor = Arc::new(Cursor::new(CursorKind::Shared, || 0));
        let other = {
            let cursor = cursor.clone();
            thread::spawn(move || [cursor.take(1, 1), cursor.take(1, 1)])
        };
        let mut turns = vec![cursor.take(0, 1), cursor.take(0, 1)];
        turns.extend(other.join().unwrap());
        turns.sort();
        assert_eq!(turns, [0, 1, 2, 3]);
        assert_eq!(counted(&cursor, 3), [2, 1, 1]);
    });
}

#[test]
fn no_turn_of_a_per_caller_cursor_is_lost() {
    loom::model(|| {
        // A lane for caller 0, and one that callers 1 and 2 share.
        let cursor = Arc::new(Cursor::new(CursorKind::PerCaller(1), || 0));
        let others = [1, 2].map(|caller| {
            let cursor = cursor.clone();
            thread::spawn(move || cursor.take(caller, 1))
        });
        assert_eq!([cursor.take(0, 1), cursor.take(0, 1)], [0, 1]);
        let mut turns = others.map(|other| other.join().unwrap());
        turns.sort();
        assert_eq!(turns, [0, 1]);
        assert_eq!(counted(&cursor, 2), [2, 2]);
    });
}

#[test]
fn a_lane_passes_on_to_the_next_owner_of_its_number() {
    loom::model(|| {
        let cursor = Arc::new(Cursor::new(CursorKind::PerCaller(2), || 0));
        let threads = [0, 1].map(|_| {
            let cursor = cursor.clone();
            thread::spawn(move || {
                let number = Number::take();
                cursor.take(number.get(), 1);
            })
        });
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(counted(&cursor, 1), [2]);
    });
}

fn owner(name: u64) -> Owner {
    Owner(NonZeroU64::new(name).unwrap())
}

/// A backend whose owner dies on another thread while this one runs `change`.
fn death_during(change: fn(&Balancer<u32>)) -> Arc<Balancer<u32>> {
    let owned = Backend {
        owner: Some(owner(7)),
        ..Backend::new(1, 1)
    };
    let balancer = Arc::new(Balancer::new(Policy::Random(random::Config), 0, Time(0)));
    balancer.reconcile(&[owned], &Unowned, Time(0)).unwrap();
    let death = {
        let balancer = balancer.clone();
        thread::spawn(move || {
            if balancer.note_death(owner(7)) {
                balancer.remove_dead(&Unowned);
            }
        })
    };
    change(&balancer);
    death.join().unwrap();
    balancer
}

#[test]
fn a_death_during_a_change_is_acted_on_by_whoever_holds_the_lock() {
    with_epochs(|| {
        let balancer = death_during(|balancer| drop(balancer.info(&Unowned)));
        // Seen by a pick: info would act on it now, if nobody had.
        let caller = Caller::new(0);
        let picked = balancer.pick(&caller, &Unowned, |id| *id);
        assert_eq!(picked, Err(Unavailable::NoBackends));
        assert!(balancer.info(&Unowned).backends[0].owner_dead);
    });
}

#[test]
fn a_death_during_a_close_leaves_the_balancer_closed() {
    with_epochs(|| {
        let balancer = death_during(|balancer| balancer.close(&Unowned));
        let caller = Caller::new(0);
        let picked = balancer.pick(&caller, &Unowned, |id| *id);
        assert_eq!(picked, Err(Unavailable::Closed));
    });
}

#[test]
fn of_deaths_at_the_same_time_one_call_removes_all() {
    with_epochs(|| {
        let owned = |id| Backend {
            owner: Some(owner(id)),
            ..Backend::new(id, id)
        };
        let balancer = Arc::new(Balancer::new(Policy::Random(random::Config), 0, Time(0)));
        balancer
            .reconcile(&[owned(1), owned(2)], &Unowned, Time(0))
            .unwrap();
        let die = |balancer: &Balancer<u64>, owner| {
            if balancer.note_death(owner) {
                balancer.remove_dead(&Unowned);
            }
        };
        let other = {
            let balancer = balancer.clone();
            thread::spawn(move || die(&balancer, owner(1)))
        };
        die(&balancer, owner(2));
        other.join().unwrap();
        let caller = Caller::new(0);
        let picked = balancer.pick(&caller, &Unowned, |id| *id);
        assert_eq!(picked, Err(Unavailable::NoBackends));
    });
}

/// One owner, dead or alive.
struct Mortal(AtomicBool);

impl Owners for Mortal {
    type Watch = ();

    fn watch(&self, owner: Owner) -> Option<()> {
        self.is_alive(owner).then_some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn nobody_who_heard_of_a_death_picks_the_dead() {
    with_epochs(|| {
        let owned = Backend {
            owner: Some(owner(7)),
            ..Backend::new(1, 1)
        };
        let mortal = Arc::new(Mortal(AtomicBool::new(true)));
        // Would pick the one that dies.
        let policy = Policy::PickFirst(pick_first::Config::default());
        let balancer = Arc::new(Balancer::new(policy, 0, Time(0)));
        balancer
            .reconcile(&[owned, Backend::new(2, 2)], &*mortal, Time(0))
            .unwrap();
        let heard = Arc::new(AtomicBool::new(false));
        let picker = {
            let (balancer, mortal, heard) = (balancer.clone(), mortal.clone(), heard.clone());
            thread::spawn(move || {
                let caller = Caller::new(0);
                let heard = heard.load(Ordering::Acquire);
                let picked = balancer.pick(&caller, &*mortal, |id| *id);
                assert!(matches!(picked, Ok(2)) || (picked == Ok(1) && !heard));
            })
        };
        mortal.0.store(false, Ordering::Relaxed);
        let asked = balancer.note_death(owner(7));
        heard.store(true, Ordering::Release);
        if asked {
            balancer.remove_dead(&*mortal);
        }
        picker.join().unwrap();
    });
}

#[test]
fn no_more_calls_are_in_flight_than_the_bound() {
    loom::model(|| {
        let calls = Arc::new(InFlight::new());
        // Written inside without a lock: loom fails the model if two are in there.
        let inside = Arc::new(UnsafeCell::new(0));
        let call = |calls: &InFlight, inside: &UnsafeCell<usize>| {
            let entered = calls.try_enter(Some(1));
            if entered {
                assert_eq!(calls.count(), 1);
                #[allow(unsafe_code)]
                // SAFETY: loom fails the model if another thread writes meanwhile.
                inside.with_mut(|count| unsafe { *count += 1 });
                calls.leave();
            }
            entered
        };
        let other = {
            let (calls, inside) = (calls.clone(), inside.clone());
            thread::spawn(move || call(&calls, &inside))
        };
        let entered = [call(&calls, &inside), other.join().unwrap()];
        assert!(entered.contains(&true));
        assert_eq!(calls.count(), 0);
    });
}

#[test]
fn no_more_calls_are_in_the_cohorts_than_the_bound() {
    loom::model(|| {
        let calls = Arc::new(Cohorts::new());
        // Written inside without a lock: loom fails the model if two are in there.
        let inside = Arc::new(UnsafeCell::new(0));
        let call = |calls: &Cohorts, inside: &UnsafeCell<usize>| {
            let entered = calls.join(Time(0), Some(1));
            if let Some((cohort, _)) = entered {
                assert_eq!(calls.count(), 1);
                #[allow(unsafe_code)]
                // SAFETY: loom fails the model if another thread writes meanwhile.
                inside.with_mut(|count| unsafe { *count += 1 });
                calls.leave(cohort);
            }
            entered.is_some()
        };
        let other = {
            let (calls, inside) = (calls.clone(), inside.clone());
            thread::spawn(move || call(&calls, &inside))
        };
        let entered = [call(&calls, &inside), other.join().unwrap()];
        assert!(entered.contains(&true));
        assert_eq!(calls.count(), 0);
    });
}

/// A drain that begins while a call ends and another begins on a row of before is over when both
/// have ended, and not earlier; and it is told once.
#[test]
fn a_drain_is_over_when_the_last_call_before_it_has_ended() {
    loom::model(|| {
        let (counts, drains) = (Cohorts::new(), Drains::default());
        let (call, _) = counts.join(Time(0), None).unwrap();
        // Whether each call has ended, as who closes what they use is to find it.
        let calls = Arc::new((
            counts,
            drains,
            [AtomicBool::new(false), AtomicBool::new(false)],
        ));
        type Calls = (Cohorts, Drains, [AtomicBool; 2]);
        fn end((counts, drains, ended): &Calls, call: Cohort, index: usize) -> u32 {
            ended[index].store(true, Ordering::Relaxed);
            let (of, latest) = (call.generation(), counts.leave(call));
            let mut told = 0;
            if of != latest && drains.on_late_end(of, latest) {
                drains.tell(|_, _| {
                    assert!(ended.iter().all(|ended| ended.load(Ordering::Relaxed)));
                    told += 1;
                });
            }
            told
        }
        let of = call.generation();
        let late = {
            let calls = calls.clone();
            thread::spawn(move || {
                let (joined, _) = calls.0.join(Time(0), None).unwrap();
                if joined.generation() != of {
                    calls.1.on_late_begin(of, joined.generation());
                }
                joined.of_generation(of)
            })
        };
        let other = {
            let calls = calls.clone();
            thread::spawn(move || end(&calls, call, 0))
        };
        let drain = Drain::new(Owner(NonZeroU64::MIN), 1);
        calls.1.begin(&drain, || calls.0.begin_generation());
        // The pick of the late one is over.
        let late = late.join().unwrap();
        assert_eq!(drain.release(), Some(1));
        let mut told = end(&calls, late, 1);
        told += other.join().unwrap();
        assert_eq!(told, 1);
    });
}

/// A sample at one second and one at two seconds, at the same time, and what a third thread sees of
/// them. Says what is left.
fn two_samples(rule: Rule, earlier: f64, later: f64, seen: fn(f64)) -> f64 {
    const DECAY: Duration = Duration::from_secs(10);
    let at = |seconds: u64| Time(seconds * 1_000_000_000);
    let latency = Arc::new(Latency::new(10.0, at(0), DECAY));
    let reader = {
        let latency = latency.clone();
        thread::spawn(move || seen(latency.estimate(DECAY)))
    };
    let other = {
        let latency = latency.clone();
        thread::spawn(move || latency.sample(earlier, at(1), DECAY, rule))
    };
    latency.sample(later, at(2), DECAY, rule);
    other.join().unwrap();
    reader.join().unwrap();
    latency.projected(at(2), DECAY)
}

/// What blending leaves of an estimate and takes of a sample after so many seconds.
fn blended(estimate: f64, sample: f64, seconds: f64) -> f64 {
    let kept = (-seconds / 10.0).exp();
    estimate * kept + sample * (1.0 - kept)
}

fn is_near(got: f64, expected: f64) -> bool {
    (got / expected - 1.0).abs() < 1e-9
}

#[test]
fn samples_at_the_same_time_are_all_blended_in_unless_time_has_passed_them() {
    loom::model(|| {
        let left = two_samples(Rule::Plain, 20.0, 30.0, |seen| {
            assert!((8.1..13.7).contains(&seen), "{seen}");
        });
        let both = blended(blended(10.0, 20.0, 1.0), 30.0, 1.0);
        // The later one came first: no time was left for the other.
        let later = blended(10.0, 30.0, 2.0);
        assert!(is_near(left, both) || is_near(left, later), "{left}");
    });
}

#[test]
fn a_peak_is_never_lost_to_a_sample_at_the_same_time() {
    with_epochs(|| {
        let left = two_samples(Rule::Peak, 30.0, 20.0, |seen| {
            assert!((8.1..30.1).contains(&seen), "{seen}");
        });
        let peak = 30.0 * (-0.1_f64).exp();
        assert!(
            is_near(left, peak) || is_near(left, blended(30.0, 20.0, 1.0)),
            "{left}"
        );
    });
    with_epochs(|| {
        let left = two_samples(Rule::Peak, 1.0, 30.0, |_| {});
        assert!(is_near(left, 30.0), "{left}");
    });
}

#[test]
fn calls_that_begin_and_end_while_cohorts_turn_are_in_one_of_them_and_none_is_made_older() {
    const MS: u64 = 1_000_000;
    loom::model(|| {
        let calls = Arc::new(Cohorts::new());
        let (first, _) = calls.join(Time(10 * MS), None).unwrap();
        let other = {
            let calls = calls.clone();
            thread::spawn(move || calls.join(Time(20 * MS), None).unwrap().0)
        };
        let (second, _) = calls.join(Time(30 * MS), None).unwrap();
        calls.leave(first);
        let left = [second, other.join().unwrap()];
        let oldest = calls.oldest().expect("two are in flight");
        assert!((10 * MS..=30 * MS).contains(&oldest.0), "{oldest:?}");
        let (third, _) = calls.join(Time(50 * MS), None).unwrap();
        for cohort in left {
            calls.leave(cohort);
        }
        assert!(calls.oldest().is_some());
        calls.leave(third);
        assert_eq!(calls.oldest(), None);
    });
}

fn limits(max_requests: Option<u32>, max_requests_per_backend: Option<u32>) -> Config {
    Config {
        max_requests,
        max_requests_per_backend,
        ..Config::from(Policy::PickFirst(pick_first::Config::default()))
    }
}

/// Backends 1 and 2, of which pick_first would take the first.
fn limited(max_requests: Option<u32>, max_requests_per_backend: Option<u32>) -> Balancer<u32> {
    let config = limits(max_requests, max_requests_per_backend);
    let balancer = Balancer::new(config, 0, Time(0));
    let backends = [Backend::new(1, 1), Backend::new(2, 2)];
    balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
    balancer
}

fn checkout(balancer: &Balancer<u32>, caller: &Caller) -> Result<(u32, Ticket), Unavailable> {
    balancer.checkout(caller, &Unowned, Time(0), |id| *id)
}

#[test]
fn of_two_ends_of_a_call_one_counts() {
    with_epochs(|| {
        let balancer = limited(Some(1), Some(1));
        let caller = Caller::new(0);
        let (_, ticket) = checkout(&balancer, &caller).unwrap();
        let ticket = Arc::new(ticket);
        let other = {
            let ticket = ticket.clone();
            thread::spawn(move || ticket.complete(Outcome::Failure, None, Time(1)))
        };
        let one = ticket.complete(Outcome::Success, None, Time(1));
        let other = other.join().unwrap();
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        drop(ticket);
        let backend = &balancer.info(&Unowned).backends[0];
        assert_eq!(backend.in_flight, 0);
        let counts = (backend.successes, backend.failures);
        assert_eq!(counts, (one.is_ok().into(), other.is_ok().into()));
        assert!(checkout(&balancer, &caller).is_ok());
    });
}

#[test]
fn a_call_ends_while_its_balancer_closes_and_goes() {
    with_epochs(|| {
        let balancer = limited(Some(1), Some(1));
        let caller = Caller::new(0);
        let (_, ticket) = checkout(&balancer, &caller).unwrap();
        let call = thread::spawn(move || {
            assert!(ticket.complete(Outcome::Failure, None, Time(1)).is_ok());
            assert!(!ticket.is_urgent());
        });
        balancer.close(&Unowned);
        let refused = checkout(&balancer, &caller);
        assert!(matches!(refused, Err(Unavailable::Closed)));
        drop(balancer);
        call.join().unwrap();
    });
}

#[test]
fn a_call_ends_while_its_backend_is_removed() {
    with_epochs(|| {
        let balancer = limited(Some(1), None);
        let caller = Caller::new(0);
        let (id, ticket) = checkout(&balancer, &caller).unwrap();
        assert_eq!(id, 1);
        let call = thread::spawn(move || {
            assert!(ticket.complete(Outcome::Success, None, Time(1)).is_ok());
        });
        balancer.remove(&[1], &Unowned, Time(0)).unwrap();
        call.join().unwrap();
        // The balancer has room for another again.
        let (id, _ticket) = checkout(&balancer, &caller).unwrap();
        assert_eq!(id, 2);
    });
}

/// Two threads that call at the same time, with room for one call. What each was told, and the
/// balancer after that.
fn two_calls(balancer: Balancer<u32>) -> ([Result<u32, Unavailable>; 2], Arc<Balancer<u32>>) {
    let balancer = Arc::new(balancer);
    // Written inside without a lock: loom fails the model if two are with one backend.
    let inside = Arc::new([UnsafeCell::new(0), UnsafeCell::new(0)]);
    let call = |balancer: &Balancer<u32>, inside: &[UnsafeCell<usize>; 2]| {
        let caller = Caller::new(0);
        let (id, ticket) = checkout(balancer, &caller)?;
        #[allow(unsafe_code)]
        // SAFETY: loom fails the model if another thread writes meanwhile.
        inside[id as usize - 1].with_mut(|count| unsafe { *count += 1 });
        ticket.complete(Outcome::Cancelled, None, Time(1)).unwrap();
        Ok(id)
    };
    let other = {
        let (balancer, inside) = (balancer.clone(), inside.clone());
        thread::spawn(move || call(&balancer, &inside))
    };
    let told = [call(&balancer, &inside), other.join().unwrap()];
    let info = balancer.info(&Unowned);
    let left: u32 = info.backends.iter().map(|backend| backend.in_flight).sum();
    assert_eq!(left, 0);
    (told, balancer)
}

#[test]
fn a_balancer_has_no_more_calls_in_flight_than_it_may_have() {
    with_epochs(|| {
        let (told, balancer) = two_calls(limited(Some(1), None));
        let expected = |told: &Result<u32, _>| [Ok(1), Err(Unavailable::Overloaded)].contains(told);
        assert!(
            told.iter().all(expected) && told.contains(&Ok(1)),
            "{told:?}"
        );
        let caller = Caller::new(0);
        let ticket = checkout(&balancer, &caller).unwrap();
        assert!(checkout(&balancer, &caller).is_err());
        drop(ticket);
    });
}

#[test]
fn a_backend_has_no_more_calls_in_flight_than_it_may_have() {
    with_epochs(|| {
        let (told, balancer) = two_calls(limited(None, Some(1)));
        let expected = |told: &Result<u32, _>| [Ok(1), Ok(2)].contains(told);
        assert!(
            told.iter().all(expected) && told.contains(&Ok(1)),
            "{told:?}"
        );
        let caller = Caller::new(0);
        let tickets = [(); 2].map(|()| checkout(&balancer, &caller).unwrap());
        assert!(checkout(&balancer, &caller).is_err());
        drop(tickets);
    });
}

#[test]
fn no_cause_for_a_look_is_lost() {
    loom::model(|| {
        let shared = triomphe::Arc::new(Shared::new(
            Config::from(Policy::Random(random::Config)).into(),
        ));
        let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let threads = [0, 1].map(|index| {
            let (shared, counts) = (shared.clone(), counts.clone());
            thread::spawn(move || {
                counts[index].store(1, Ordering::Relaxed);
                shared.request_look();
            })
        });
        let look = || [0, 1].map(|index| counts[index].load(Ordering::Relaxed));
        // Both have asked: whichever was the last, the look shows what led both there.
        let asked = [0, 1].map(|_| shared.take_request().then(look));
        for thread in threads {
            thread.join().unwrap();
        }
        let last = shared.take_request();
        let seen = asked.into_iter().flatten().last().unwrap_or_default();
        assert!(last || seen == [1, 1], "{asked:?}");
        assert_eq!(shared.due(), None);
    });
}

#[test]
fn failures_on_two_backends_are_both_acted_on() {
    with_epochs(|| {
        let detection = outlier_detection::Config {
            max_ejection_percent: 100,
            // Or one of the two would stay.
            strict: false,
            consecutive_failures: NonZeroU32::new(1).map(ConsecutiveFailures::of),
            consecutive_transport_failures: NonZeroU32::new(1),
            ..Default::default()
        };
        let config = Config {
            outlier_detection: Some(Box::new(detection)),
            ..limits(None, Some(1))
        };
        let balancer = Balancer::new(config, 0, Time(0));
        let backends = [Backend::new(1, 1), Backend::new(2, 2)];
        balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
        let caller = Caller::new(0);
        let tickets = [(); 2].map(|()| checkout(&balancer, &caller).unwrap().1);
        let mut outcomes = [Outcome::Failure, Outcome::TransportFailure].into_iter();
        let threads = tickets.map(|ticket| {
            let outcome = outcomes.next().expect("one for each");
            thread::spawn(move || {
                ticket.complete(outcome, None, Time(1)).unwrap();
            })
        });
        balancer.tick(&Unowned, Time(1));
        for thread in threads {
            thread.join().unwrap();
        }
        if balancer.due() == Some(Time(0)) {
            balancer.tick(&Unowned, Time(1));
        }
        let backends = balancer.info(&Unowned).backends;
        let ejected: Vec<_> = backends.iter().map(|it| it.times_ejected).collect();
        // The other one for both, unless all that may be are out when the second cause is seen.
        assert!(ejected == [1, 1] || ejected == [1, 2], "{ejected:?}");
    });
}

#[test]
fn a_success_undoes_no_failure_that_ejects() {
    with_epochs(|| {
        let detection = outlier_detection::Config {
            consecutive_failures: NonZeroU32::new(1).map(ConsecutiveFailures::of),
            ..Default::default()
        };
        let config = Config {
            outlier_detection: Some(Box::new(detection)),
            ..limits(None, Some(2))
        };
        let balancer = Balancer::new(config, 0, Time(0));
        let backends = [Backend::new(1, 1), Backend::new(2, 2)];
        balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
        let caller = Caller::new(0);
        // Both of the first.
        let [failing, succeeding] = [(); 2].map(|()| checkout(&balancer, &caller).unwrap().1);
        let thread = thread::spawn(move || {
            failing.complete(Outcome::Failure, None, Time(1)).unwrap();
        });
        succeeding
            .complete(Outcome::Success, None, Time(1))
            .unwrap();
        balancer.tick(&Unowned, Time(1));
        thread.join().unwrap();
        balancer.tick(&Unowned, Time(1));
        assert_eq!(balancer.info(&Unowned).backends[0].times_ejected, 1);
    });
}

#[test]
fn nobody_who_heard_of_a_death_calls_the_dead() {
    with_epochs(|| {
        let owned = Backend {
            owner: Some(owner(7)),
            ..Backend::new(1, 1)
        };
        let mortal = Arc::new(Mortal(AtomicBool::new(true)));
        let balancer = Arc::new(Balancer::new(limits(Some(1), Some(1)), 0, Time(0)));
        let backends = [owned, Backend::new(2, 2)];
        balancer.reconcile(&backends, &*mortal, Time(0)).unwrap();
        let heard = Arc::new(AtomicBool::new(false));
        let call = {
            let (balancer, mortal, heard) = (balancer.clone(), mortal.clone(), heard.clone());
            thread::spawn(move || {
                let caller = Caller::new(0);
                let heard = heard.load(Ordering::Acquire);
                let checkout = balancer.checkout(&caller, &*mortal, Time(0), |id| *id);
                let (id, ticket) = checkout.unwrap();
                assert!(id == 2 || (id == 1 && !heard));
                ticket
            })
        };
        mortal.0.store(false, Ordering::Relaxed);
        let asked = balancer.note_death(owner(7));
        heard.store(true, Ordering::Release);
        if asked {
            balancer.remove_dead(&*mortal);
        }
        let ticket = call.join().unwrap();
        let in_flight = || {
            let backends = balancer.info(&*mortal).backends;
            backends.iter().map(|it| it.in_flight).sum::<u32>()
        };
        assert_eq!(in_flight(), 1, "who was passed over has none");
        drop(ticket);
        assert_eq!(in_flight(), 0);
    });
}

#[test]
fn what_becomes_due_is_seen_or_rings() {
    loom::model(|| {
        let shared = Arc::new(Shared::new(limits(None, None).into()));
        let alarm = Arc::new(Alarm::new());
        // It was woken for something else, and that is what it looks for now.
        assert!(alarm.rings(Time(0)));
        let caller = {
            let (shared, alarm) = (shared.clone(), alarm.clone());
            thread::spawn(move || {
                shared.request_look();
                shared.due().is_some_and(|due| alarm.rings(due))
            })
        };
        alarm.begin_look();
        let seen = shared.take_request();
        alarm.end_look(Time(2_000));
        let rung = caller.join().unwrap();
        assert!(seen || rung);
    });
}

#[test]
fn of_two_that_make_something_due_one_rings() {
    loom::model(|| {
        let alarm = Arc::new(Alarm::new());
        let other = {
            let alarm = alarm.clone();
            thread::spawn(move || alarm.rings(Time(5)))
        };
        let rung = [alarm.rings(Time(5)), other.join().unwrap()];
        assert_eq!(rung.iter().filter(|rung| **rung).count(), 1);
    });
}

#[test]
fn a_limit_that_comes_and_goes_counts_each_call_once() {
    with_epochs(|| {
        let balancer = Arc::new(limited(None, None));
        let call = {
            let balancer = balancer.clone();
            thread::spawn(move || {
                let caller = Caller::new(0);
                let (_, ticket) = checkout(&balancer, &caller).unwrap();
                ticket.complete(Outcome::Success, None, Time(1)).unwrap();
            })
        };
        for max_requests in [Some(2), None, Some(1)] {
            let change = |config: &mut Config| config.max_requests = max_requests;
            balancer.configure(change, &Unowned, Time(1)).unwrap();
        }
        call.join().unwrap();
        let caller = Caller::new(0);
        let _ticket = checkout(&balancer, &caller).unwrap();
        let refused = checkout(&balancer, &caller);
        assert!(matches!(refused, Err(Unavailable::Overloaded)));
    });
}

#[test]
fn a_bound_that_picks_ask_for_and_that_comes_and_goes_counts_each_call_once() {
    let ring = |percent| {
        let mut config = ring_hash::Config::new(4, 4).unwrap();
        config.hash_balance_factor = BalanceFactor::new(percent);
        Policy::RingHash(config)
    };
    with_epochs(move || {
        let balancer = Arc::new(Balancer::new(ring(100), 0, Time(0)));
        let backends = [1, 2].map(|id| Backend::new(id, id).keyed([id as u8]));
        balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
        let call = {
            let balancer = balancer.clone();
            thread::spawn(move || {
                let caller = Caller::new(0);
                let _keyed = caller.with_key(7);
                // However many calls it has read of, it has found somebody.
                let (_, ticket) = checkout(&balancer, &caller).unwrap();
                ticket.complete(Outcome::Success, None, Time(1)).unwrap();
            })
        };
        for percent in [0, 100] {
            let change = |config: &mut Config| config.policy = ring(percent);
            balancer.configure(change, &Unowned, Time(1)).unwrap();
        }
        call.join().unwrap();
        let limit = |config: &mut Config| config.max_requests = Some(1);
        balancer.configure(limit, &Unowned, Time(1)).unwrap();
        let caller = Caller::new(0);
        let _ticket = checkout(&balancer, &caller).unwrap();
        let refused = checkout(&balancer, &caller);
        assert!(matches!(refused, Err(Unavailable::Overloaded)));
    });
}

#[test]
fn a_call_that_ends_while_the_decay_changes_is_averaged_as_it_should_be_or_left_out() {
    let averaging = |seconds| {
        Policy::PeakEwma(peak_ewma::Config {
            decay: Duration::from_secs(seconds),
            penalty: peak_ewma::Penalty::Fixed(Duration::from_millis(20)),
        })
    };
    with_preemptions(3, move || {
        let balancer = Arc::new(Balancer::new(averaging(10), 0, Time(0)));
        let backends = [Backend::new(1, 1)];
        balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
        let caller = Caller::new(0);
        let (_, failed) = checkout(&balancer, &caller).unwrap();
        failed.complete(Outcome::Failure, None, Time(0)).unwrap();
        let (_, ticket) = checkout(&balancer, &caller).unwrap();
        let call = thread::spawn(move || {
            let end = Time(30_000_000);
            ticket.complete(Outcome::Success, None, end).unwrap();
        });
        let change = |config: &mut Config| config.policy = averaging(1);
        balancer.configure(change, &Unowned, Time(0)).unwrap();
        call.join().unwrap();
        let latency = balancer.info(&Unowned).backends[0].latency_ns.unwrap();
        // A peak, or what it was before, which may have decayed since then at either pace.
        let decayed = |part: f64| 20e6 * (-part).exp();
        let expected = [30e6, 20e6, decayed(0.003), decayed(0.03)];
        let near = |expected: &f64| (latency / expected - 1.0).abs() < 1e-6;
        assert!(expected.iter().any(near), "{latency}");
    });
}

/// Room for one, and the line of those who wait for it.
struct Door {
    room: InFlight,
    line: Line,
    /// How often somebody was told, and not yet listened.
    told: AtomicUsize,
}

impl Door {
    /// Behind it is one already.
    fn occupied() -> Arc<Door> {
        let door = Door {
            room: InFlight::new(),
            line: Line::new(),
            told: AtomicUsize::new(0),
        };
        assert!(door.room.try_enter(Some(1)));
        Arc::new(door)
    }

    fn tell(&self) -> impl FnOnce(Owner, u64) + '_ {
        |_who, place| {
            let told = self.told.fetch_or(1 << place, Ordering::Relaxed);
            assert_eq!(told & 1 << place, 0, "it is told once until it tries");
        }
    }

    fn leave(&self) {
        self.room.leave();
        if self.line.awaits_room() {
            self.line.tell_first(self.tell());
        }
    }

    /// Whether who has this place gets in. It has heard what it was told before.
    fn try_enter(&self, place: u64) -> bool {
        self.told.fetch_and(!(1 << place), Ordering::Relaxed);
        let enters = self.line.begin_try(place) && self.room.try_enter(Some(1));
        if enters {
            self.line.leave(place, self.tell());
        }
        enters
    }

    fn is_told(&self, place: u64) -> bool {
        self.told.load(Ordering::Relaxed) & 1 << place != 0
    }
}

#[test]
fn who_waits_gets_in_or_is_told_of_room() {
    loom::model(|| {
        let door = Door::occupied();
        let inside = {
            let door = door.clone();
            thread::spawn(move || door.leave())
        };
        let place = door.line.join(owner(1));
        let entered = door.try_enter(place);
        inside.join().unwrap();
        assert!(entered || door.is_told(place) && door.try_enter(place));
    });
}

#[test]
fn who_is_told_last_is_never_left_behind() {
    loom::model(|| {
        let door = Door::occupied();
        let [first, second] = [1, 2].map(|name| door.line.join(owner(name)));
        let inside = {
            let door = door.clone();
            thread::spawn(move || door.leave())
        };
        // It gives up, perhaps in the moment in which it is told.
        door.line.leave(first, door.tell());
        let entered = door.try_enter(second);
        inside.join().unwrap();
        assert!(entered || door.is_told(second) && door.try_enter(second));
    });
}
