//! What is asked of the heap: nothing by a pick, also while the list changes under it, and by a
//! change of one backend no more than that backend is worth, however long the list.
#![cfg(not(loom))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use grpc_lb_core::policy::{pick_first, round_robin, Policy};
use grpc_lb_core::{Backend, Balancer, Caller, Unowned};

/// Counts the calls of each thread, and the bytes it was given.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

fn count(bytes: usize) {
    // Not when the thread is ending and its locals are gone.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
    let _ = BYTES.try_with(|given| given.set(given.get() + bytes));
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn calls() -> u64 {
    CALLS.with(Cell::get)
}

#[test]
fn picks_leave_the_heap_alone() {
    let policies = [
        Policy::PickFirst(pick_first::Config { shuffle: true }),
        Policy::RoundRobin(round_robin::Config::default()),
        Policy::RoundRobin(round_robin::Config {
            cursor: round_robin::CursorKind::PerCaller(2),
            ..Default::default()
        }),
        Policy::Random,
    ];
    for policy in policies {
        let balancer = Balancer::new(policy, 1);
        let lists: Vec<Vec<_>> = (1..20)
            .map(|n| {
                (0..n)
                    .map(|id| Backend::new(id.to_string(), "x".repeat(n)))
                    .collect()
            })
            .collect();
        balancer.reconcile(&lists[0], &Unowned).unwrap();
        let stop = AtomicBool::new(false);
        let before = calls();
        thread::scope(|scope| {
            let pickers: Vec<_> = (0..3)
                .map(|seed| {
                    let (balancer, stop) = (&balancer, &stop);
                    scope.spawn(move || {
                        let caller = Caller::claim(seed).unwrap();
                        let before = calls();
                        let mut picks = 0;
                        while !stop.load(Ordering::Relaxed) || picks < 100_000 {
                            balancer.pick(&caller, &Unowned, String::len).unwrap();
                            picks += 1;
                        }
                        calls() - before
                    })
                })
                .collect();
            for round in 0..2_000 {
                let list = &lists[round % lists.len()];
                balancer.reconcile(list, &Unowned).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            for picker in pickers {
                assert_eq!(picker.join().unwrap(), 0);
            }
        });
        assert!(calls() > before, "the writer's calls are counted");
    }
}

/// The bytes that it takes to add a thousand backends one by one to a list, and to remove them
/// again.
fn bytes_for_a_thousand(listed: u64, policy: Policy) -> usize {
    let balancer = Balancer::new(policy, 1);
    let list: Vec<_> = (0..listed).map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&list, &Unowned).unwrap();
    let caller = Caller::claim(0).unwrap();
    let before = BYTES.with(Cell::get);
    for id in listed..listed + 1_000 {
        balancer.add(&[Backend::new(id, id)], &Unowned).unwrap();
        balancer.pick(&caller, &Unowned, |_| ()).unwrap();
    }
    for id in 0..1_000 {
        balancer.remove(&[id], &Unowned).unwrap();
        balancer.pick(&caller, &Unowned, |_| ()).unwrap();
    }
    BYTES.with(Cell::get) - before
}

#[test]
fn the_cost_of_a_change_is_not_that_of_the_list() {
    for policy in [
        Policy::RoundRobin(round_robin::Config::default()),
        Policy::Random,
    ] {
        let short = bytes_for_a_thousand(1_000, policy.clone());
        let long = bytes_for_a_thousand(32_000, policy);
        // Copying the list would make it 30 times as much.
        assert!(long < 8 * short, "{short} and {long} bytes");
    }
}
