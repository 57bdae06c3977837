//! What is asked of the heap: by a pick or a call nothing of ours, also while the list changes under
//! it, and nothing at all while it does not; by a change of one backend no more than that backend is
//! worth, however long the list.
//!
//! While lists change, crossbeam-epoch keeps its books on whichever thread pins, once in 128 pins:
//! it allocates and frees nodes that hold a bag of what is to run later, and frees the records of
//! threads that have ended. These are told by their layout, which is asked of crossbeam-epoch itself.
//! As there is one epoch for the process, the tests run one at a time.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::{Add, AddAssign, Sub};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_epoch::Collector;
use grpc_lb_core::health::outlier_detection::{self, ConsecutiveFailures};
use grpc_lb_core::policy::{random, round_robin, Policy};
use grpc_lb_core::{
    Backend, Balancer, Caller, Config, Outcome, Owner, Owners, State, Time, Unavailable, Unowned,
};

mod support;

/// Calls to the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Calls {
    ours: u64,
    /// crossbeam-epoch's, for its bookkeeping.
    books: u64,
}

const NONE: Calls = Calls { ours: 0, books: 0 };

/// Counts the calls of each thread, and the bytes it was given.
struct Counting;

thread_local! {
    static CALLS: Cell<Calls> = const { Cell::new(NONE) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
    static LAST: Cell<Option<Layout>> = const { Cell::new(None) };
}

/// The layouts of crossbeam-epoch's bookkeeping, once they are known.
static BOOKS: OnceLock<[Layout; 2]> = OnceLock::new();

fn count(layout: Layout, bytes: usize) {
    let books = BOOKS.get().is_some_and(|books| books.contains(&layout));
    let call = match books {
        true => Calls { books: 1, ..NONE },
        false => Calls { ours: 1, ..NONE },
    };
    // Not when the thread is ending and its locals are gone.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + call));
    let _ = BYTES.try_with(|given| given.set(given.get() + bytes));
}

/// Runs a test that is the only one that reads and changes lists, with a heap whose books are known.
fn alone(test: impl FnOnce() + Send + 'static) {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    BOOKS.get_or_init(|| {
        let last = || LAST.get().expect("something was allocated");
        let collector = Collector::new();
        let handle = collector.register();
        let record = last();
        let guard = handle.pin();
        guard.defer(|| ());
        guard.flush();
        [record, last()]
    });
    // In a thread that has ended before the next test begins: as it ends, a thread leaves its books to
    // whoever pins next.
    if let Err(panic) = thread::spawn(test).join() {
        resume_unwind(panic);
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, layout.size());
        let _ = LAST.try_with(|last| last.set(Some(layout)));
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout, 0);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

impl Add for Calls {
    type Output = Calls;

    fn add(self, other: Calls) -> Calls {
        Calls {
            ours: self.ours + other.ours,
            books: self.books + other.books,
        }
    }
}

impl AddAssign for Calls {
    fn add_assign(&mut self, other: Calls) {
        *self = *self + other;
    }
}

impl Sub for Calls {
    type Output = Calls;

    fn sub(self, other: Calls) -> Calls {
        Calls {
            ours: self.ours - other.ours,
            books: self.books - other.books,
        }
    }
}

fn calls() -> Calls {
    CALLS.get()
}

/// Calls to the heap during `what`.
fn calls_of<R>(what: impl FnOnce() -> R) -> (Calls, R) {
    let before = calls();
    let result = what();
    (calls() - before, result)
}

/// A call, with what each of its steps asks of the heap but for its end: if the backend was removed
/// meanwhile, the last ticket frees what was kept of it.
fn call(balancer: &Balancer<String>, caller: &Caller, outcome: Outcome, now: Time) -> Calls {
    let checkout = || balancer.checkout(caller, &Unowned, now, String::len);
    let (begin, checkout) = calls_of(checkout);
    let Ok((_, ticket)) = checkout else {
        return begin;
    };
    let complete = || ticket.complete(outcome, None, now + Duration::from_millis(3));
    let (end, completed) = calls_of(complete);
    completed.unwrap();
    begin + end
}

/// A thread's first look at the configuration, at the end of a call that failed, has arc-swap make
/// what it keeps of the thread.
fn first_failure(balancer: &Balancer<String>, caller: &Caller) {
    let ticket = loop {
        match balancer.checkout(caller, &Unowned, Time(0), |_| ()) {
            Ok(((), ticket)) => break ticket,
            // Others call at this moment.
            Err(_) => thread::yield_now(),
        }
    };
    ticket.complete(Outcome::Failure, None, Time(0)).unwrap();
}

#[test]
fn picks_and_calls_leave_what_is_ours_alone_while_the_list_changes() {
    alone(|| {
        for policy in support::policies() {
            // Of three threads that call at once, some are passed on and some refused.
            let config = Config {
                max_requests: Some(2),
                max_requests_per_backend: Some(1),
                outlier_detection: Some(Box::new(outlier_detection::Config {
                    consecutive_failures: NonZeroU32::new(3).map(ConsecutiveFailures::of),
                    ..Default::default()
                })),
                ..Config::from(policy)
            };
            let name = config.policy.name();
            let balancer = Balancer::new(config, 1, Time(0));
            let lists: Vec<Vec<_>> = (1..20)
                .map(|n| {
                    (0..n)
                        .map(|id| Backend {
                            weight: 1 + id % 3,
                            ..Backend::new(id.to_string(), "x".repeat(n as usize))
                        })
                        .map(support::keyed)
                        .collect()
                })
                .collect();
            balancer.reconcile(&lists[0], &Unowned, Time(0)).unwrap();
            let stop = AtomicBool::new(false);
            let before = calls();
            thread::scope(|scope| {
                let pickers: Vec<_> = (0..3)
                    .map(|seed| {
                        let (balancer, stop) = (&balancer, &stop);
                        scope.spawn(move || {
                            let caller = Caller::new(seed);
                            let outcomes = [Outcome::Success, Outcome::Failure, Outcome::Cancelled];
                            let (mut asked, mut rounds) = (NONE, 0);
                            first_failure(balancer, &caller);
                            while !stop.load(Ordering::Relaxed) || rounds < 10_000 {
                                let pick = || balancer.pick(&caller, &Unowned, String::len);
                                let (of_pick, picked) = calls_of(pick);
                                picked.unwrap();
                                let outcome = outcomes[rounds % 3];
                                asked += of_pick + call(balancer, &caller, outcome, Time(0));
                                rounds += 1;
                            }
                            asked
                        })
                    })
                    .collect();
                for round in 0..1_000 {
                    let list = &lists[round % lists.len()];
                    balancer.reconcile(list, &Unowned, Time(0)).unwrap();
                }
                stop.store(true, Ordering::Relaxed);
                for picker in pickers {
                    assert_eq!(picker.join().unwrap().ours, 0, "{name}");
                }
            });
            let writer = calls() - before;
            assert!(writer.ours > 0 && writer.books > 0, "all are counted");
        }
    });
}

/// An owner who has died.
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
fn picks_and_calls_leave_the_heap_alone_while_nothing_changes() {
    alone(|| {
        for policy in support::policies() {
            let config = Config {
                max_requests_per_backend: Some(1),
                ..Config::from(policy)
            };
            let balancer = Balancer::new(config, 1, Time(0));
            let owned = Backend {
                owner: NonZeroU64::new(7).map(Owner),
                ..Backend::new(0, 0)
            };
            let others = (1..5).map(|id| Backend::new(id, id));
            let list = std::iter::once(owned).chain(others);
            let list: Vec<_> = list.map(support::keyed).collect();
            balancer.reconcile(&list, &Dead, Time(0)).unwrap();
            assert!(balancer.note_death(Owner(NonZeroU64::new(7).unwrap())));
            let caller = Caller::new(0);
            let checkout = || balancer.checkout(&caller, &Dead, Time(0), |id| *id);
            // What was retired and who ended before this is done with after so many pins.
            for _ in 0..10_000 {
                balancer.pick(&caller, &Dead, |_| ()).unwrap();
            }
            let (asked, ()) = calls_of(|| {
                for _ in 0..1_000 {
                    // Passes the dead one over.
                    balancer.pick(&caller, &Dead, |_| ()).unwrap();
                    let tickets = [(); 4].map(|()| checkout().ok());
                    assert!(tickets.iter().flatten().all(|(id, _)| *id > 0));
                    assert!(tickets.iter().all(Option::is_some));
                    assert!(matches!(checkout(), Err(Unavailable::Overloaded)));
                }
            });
            assert_eq!(asked, NONE);
        }
    });
}

/// The bytes that it takes to add a thousand backends one by one to a list, and to remove them
/// again.
fn bytes_for_a_thousand(listed: u64, policy: Policy) -> usize {
    let balancer = Balancer::new(policy, 1, Time(0));
    let list: Vec<_> = (0..listed).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    let caller = Caller::new(0);
    let before = BYTES.with(Cell::get);
    for id in listed..listed + 1_000 {
        balancer
            .add(&[Backend::new(id, id)], &Unowned, Time(0))
            .unwrap();
        balancer.pick(&caller, &Unowned, |_| ()).unwrap();
    }
    for id in 0..1_000 {
        balancer.remove(&[id], &Unowned, Time(0)).unwrap();
        balancer.pick(&caller, &Unowned, |_| ()).unwrap();
    }
    BYTES.with(Cell::get) - before
}

#[test]
fn the_cost_of_a_change_is_not_that_of_the_list() {
    alone(|| {
        for policy in [
            Policy::RoundRobin(round_robin::Config::default()),
            Policy::Random(random::Config),
        ] {
            let short = bytes_for_a_thousand(1_000, policy.clone());
            let long = bytes_for_a_thousand(32_000, policy);
            // Copying the list would make it 30 times as much.
            assert!(long < 8 * short, "{short} and {long} bytes");
        }
    });
}

#[test]
fn picks_and_calls_leave_the_heap_alone_whichever_layer_serves() {
    alone(|| {
        for policy in support::policies() {
            let config = Config {
                overprovisioning_factor: NonZeroU32::new(140),
                max_requests_per_backend: Some(1),
                ..Config::from(policy)
            };
            let name = config.policy.name();
            let balancer = Balancer::new(config, 1, Time(0));
            let caller = Caller::new(1);
            let list: Vec<_> = (0..40)
                .map(|id| Backend {
                    priority: id % 2,
                    locality: Some(format!("zone {}", id % 3).into()),
                    ..Backend::new(id.to_string(), "x".to_string()).keyed(id.to_string())
                })
                .collect();
            balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
            // Half of the first priority is down: the second has a part of the picks.
            for id in (0..20).step_by(2) {
                let down = State::TransientFailure;
                balancer
                    .set_state(&id.to_string(), down, &Unowned, Time(0))
                    .unwrap();
            }
            first_failure(&balancer, &caller);
            let (asked, ()) = calls_of(|| {
                for _ in 0..1_000 {
                    balancer.pick(&caller, &Unowned, String::len).unwrap();
                }
                // With the layers full, one after the other.
                let tickets: [_; 30] = std::array::from_fn(|_| {
                    balancer
                        .checkout(&caller, &Unowned, Time(0), String::len)
                        .unwrap()
                        .1
                });
                let full = balancer.checkout(&caller, &Unowned, Time(0), String::len);
                assert_eq!(full.err(), Some(Unavailable::Overloaded));
                for ticket in tickets {
                    ticket.complete(Outcome::Failure, None, Time(0)).unwrap();
                }
            });
            assert_eq!(asked, NONE, "{name}");
        }
    });
}
