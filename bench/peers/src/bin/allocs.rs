//! Counts what readers allocate and free while another thread replaces the list 1,000 times a
//! second. A pick of grpc_lb_core must do neither, but for crossbeam-epoch's bookkeeping, which is
//! told by its layout: exits with 1 if it does.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_epoch::Collector;
use grpc_lb_peers::{while_replacing, Core, Epoch, Hazard, Hot, Lock, Rotation, SharedLock, Swap};

const PERIOD: Duration = Duration::from_millis(1);
const RUN: Duration = Duration::from_secs(2);

/// Picks between two looks at the clock.
const BURST: u64 = 1_000;

#[derive(Clone, Copy)]
struct Counts {
    picks: u64,
    allocated: u64,
    freed: u64,
    /// Of these, what crossbeam-epoch did for its bookkeeping.
    books: u64,
}

const NONE: Counts = Counts {
    picks: 0,
    allocated: 0,
    freed: 0,
    books: 0,
};

thread_local! {
    static COUNTS: Cell<Counts> = const { Cell::new(NONE) };
    static LAST: Cell<Option<Layout>> = const { Cell::new(None) };
}

/// The layouts of crossbeam-epoch's bookkeeping, once they are known: the record of a thread, and the
/// node of a bag.
static BOOKS: OnceLock<[Layout; 2]> = OnceLock::new();

/// Asks crossbeam-epoch for them.
fn learn_books() -> [Layout; 2] {
    let last = || LAST.get().expect("something was allocated");
    let collector = Collector::new();
    let handle = collector.register();
    let record = last();
    let guard = handle.pin();
    guard.defer(|| ());
    guard.flush();
    [record, last()]
}

fn is_books(layout: Layout) -> bool {
    BOOKS.get().is_some_and(|books| books.contains(&layout))
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed on unchanged to the system's allocator, which keeps the contract;
// counting itself neither allocates nor unwinds, for the thread-local needs no initialisation and
// no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LAST.set(Some(layout));
        count(|counts| {
            counts.allocated += 1;
            counts.books += u64::from(is_books(layout));
        });
        // SAFETY: passed on under the caller's own guarantees.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(|counts| {
            counts.freed += 1;
            counts.books += u64::from(is_books(layout));
        });
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
    BOOKS.get_or_init(learn_books);
    println!(
        "{:<16} {:>8} {:>14} {:>18} {:>14} {:>22}",
        "", "replaced", "reads", "readers allocated", "readers freed", "of these bookkeeping"
    );
    let core = report::<Core>("grpc_lb_core");
    report::<Hazard>("hazard pointers");
    report::<Epoch>("crossbeam-epoch");
    report::<Swap>("arc-swap");
    report::<SharedLock>("RwLock");
    report::<Lock>("Mutex");

    if core.allocated + core.freed == core.books {
        ExitCode::SUCCESS
    } else {
        eprintln!("a pick of grpc_lb_core allocated or freed something of ours");
        ExitCode::FAILURE
    }
}

fn report<H: Hot>(name: &str) -> Counts {
    let readers = thread::available_parallelism().map_or(1, usize::from);
    let hot = H::new(Rotation::PerReader);
    let (counts, replaced) = while_replacing(&hot, PERIOD, || read(&hot, readers));
    println!(
        "{name:<16} {replaced:>8} {:>14} {:>18} {:>14} {:>22}",
        counts.picks, counts.allocated, counts.freed, counts.books
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
                    COUNTS.set(NONE);
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
        readers.into_iter().fold(NONE, |sum, reader| {
            let counts = reader.join().expect("a reader does not panic");
            Counts {
                picks: sum.picks + counts.picks,
                allocated: sum.allocated + counts.allocated,
                freed: sum.freed + counts.freed,
                books: sum.books + counts.books,
            }
        })
    })
}
