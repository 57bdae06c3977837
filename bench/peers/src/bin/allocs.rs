//! Counts what readers allocate and free while another thread replaces the list 1,000 times a
//! second. A pick of grpc_lb_core must do neither: exits with 1 if it does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use grpc_lb_peers::{while_replacing, Core, Epoch, Hot, Lock, Rotation, SharedLock, Swap};

const PERIOD: Duration = Duration::from_millis(1);
const RUN: Duration = Duration::from_secs(2);

/// Picks between two looks at the clock.
const BURST: u64 = 1_000;

#[derive(Clone, Copy, Default)]
struct Counts {
    picks: u64,
    allocated: u64,
    freed: u64,
}

thread_local! {
    static COUNTS: Cell<Counts> = const {
        Cell::new(Counts { picks: 0, allocated: 0, freed: 0 })
    };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract;
// counting itself neither allocates nor unwinds, for the thread-local needs no initialisation and
// no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(|counts| counts.allocated += 1);
        // SAFETY: passed on under the caller's own guarantees.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(|counts| counts.freed += 1);
        // SAFETY: passed on under the caller's own guarantees.
        unsafe { System.dealloc(pointer, layout) }
    }
}

fn count(change: impl FnOnce(&mut Counts)) {
    COUNTS.with(|cell| {
        let mut counts = cell.get();
        change(&mut counts);
        cell.set(counts);
    });
}

fn main() -> ExitCode {
    println!(
        "{:<16} {:>8} {:>14} {:>18} {:>14}",
        "", "replaced", "reads", "readers allocated", "readers freed"
    );
    let core = report::<Core>("grpc_lb_core");
    report::<Epoch>("crossbeam-epoch");
    report::<Swap>("arc-swap");
    report::<SharedLock>("RwLock");
    report::<Lock>("Mutex");

    if (core.allocated, core.freed) == (0, 0) {
        ExitCode::SUCCESS
    } else {
        eprintln!("a pick of grpc_lb_core allocated or freed");
        ExitCode::FAILURE
    }
}

fn report<H: Hot>(name: &str) -> Counts {
    let readers = thread::available_parallelism().map_or(1, usize::from);
    let hot = H::new(Rotation::PerReader);
    let (counts, replaced) = while_replacing(&hot, PERIOD, || read(&hot, readers));
    println!(
        "{name:<16} {replaced:>8} {:>14} {:>18} {:>14}",
        counts.picks, counts.allocated, counts.freed
    );
    counts
}

/// What `readers` threads did together, from the first pick of each to its last.
fn read<H: Hot>(hot: &H, readers: usize) -> Counts {
    thread::scope(|scope| {
        let readers: Vec<_> = (0..readers)
            .map(|_| {
                scope.spawn(|| {
                    let reader = hot.reader();
                    // What a thread sets up at its first pick is no cost of picking.
                    black_box(hot.pick(&reader));
                    COUNTS.set(Counts::default());
                    let start = Instant::now();
                    while start.elapsed() < RUN {
                        for _ in 0..BURST {
                            black_box(hot.pick(&reader));
                        }
                        count(|counts| counts.picks += BURST);
                    }
                    COUNTS.get()
                })
            })
            .collect();
        readers.into_iter().fold(Counts::default(), |sum, reader| {
            let counts = reader.join().expect("a reader does not panic");
            Counts {
                picks: sum.picks + counts.picks,
                allocated: sum.allocated + counts.allocated,
                freed: sum.freed + counts.freed,
            }
        })
    })
}
