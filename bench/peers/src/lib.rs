//! Six ways to read a list that another thread may replace, with the same rotation over it.
//!
//! All hold a list of `u64` and a round-robin cursor and reduce the turn to an index in the same
//! way; what differs is how a reader gets at the list and what it does for its reclamation. What a
//! thread brings along is made once by [`Hot::reader`] and passed in, for all of them alike.

mod hazard;

pub use hazard::Hazard;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_epoch::{Atomic, LocalHandle, Owned};
use crossbeam_utils::CachePadded;
use grpc_lb_core::policy::round_robin::{Config, CursorKind};
use grpc_lb_core::policy::Policy;
use grpc_lb_core::{Backend, Balancer, Caller, Time, Unowned};
use parking_lot::{Mutex, RwLock};
use strength_reduce::StrengthReducedU64;

/// Entries of the list.
pub const BACKENDS: u64 = 100;

/// Whose rotation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// One counter for all readers.
    Shared,
    /// A counter for each reader.
    PerReader,
}

/// A list that is read all the time and replaced now and then.
pub trait Hot: Sync {
    /// What a reading thread keeps.
    type Reader;

    fn new(rotation: Rotation) -> Self;
    fn reader(&self) -> Self::Reader;
    fn pick(&self, reader: &Self::Reader) -> u64;
    fn replace(&self, values: Vec<u64>);
}

/// The first list, and each `n`th one after it; they differ in one entry.
pub fn values(n: u64) -> Vec<u64> {
    (0..BACKENDS - 1).chain([BACKENDS + n]).collect()
}

/// Runs `body` while another thread replaces the list once a `period`; says how often it did.
pub fn while_replacing<H: Hot, R>(hot: &H, period: Duration, body: impl FnOnce() -> R) -> (R, u64) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut next = Instant::now();
            let mut replaced = 0;
            // Relaxed: nothing else is read on the strength of it.
            while !stop.load(Ordering::Relaxed) {
                replaced += 1;
                hot.replace(values(replaced));
                next += period;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            replaced
        });
        let result = body();
        stop.store(true, Ordering::Relaxed);
        (result, writer.join().expect("the writer does not panic"))
    })
}

/// The list and the cursor of all ways but grpc_lb_core's, which has its own.
struct List {
    values: Vec<u64>,
    len: StrengthReducedU64,
}

impl List {
    fn new(values: Vec<u64>) -> Self {
        let len = StrengthReducedU64::new(values.len() as u64);
        List { values, len }
    }

    #[inline]
    fn at(&self, turn: u64) -> u64 {
        self.values[(turn % self.len) as usize]
    }
}

struct Cursor {
    rotation: Rotation,
    shared: CachePadded<AtomicU64>,
}

impl Cursor {
    fn new(rotation: Rotation) -> Self {
        Cursor {
            rotation,
            shared: CachePadded::new(AtomicU64::new(0)),
        }
    }

    #[inline]
    fn take(&self, own: &Cell<u64>) -> u64 {
        match self.rotation {
            Rotation::Shared => self.shared.fetch_add(1, Ordering::Relaxed),
            Rotation::PerReader => own.replace(own.get() + 1),
        }
    }
}

/// grpc_lb_core: crossbeam-epoch, with frees on the writer's side alone.
pub struct Core(Balancer<u64>);

impl Hot for Core {
    type Reader = Caller;

    fn new(rotation: Rotation) -> Self {
        let cursor = match rotation {
            Rotation::Shared => CursorKind::Shared,
            Rotation::PerReader => CursorKind::PerCaller(64),
        };
        let config = Config {
            cursor,
            ..Config::default()
        };
        let core = Core(Balancer::new(Policy::RoundRobin(config), 0, Time(0)));
        core.replace(values(0));
        core
    }

    fn reader(&self) -> Caller {
        Caller::new(0)
    }

    #[inline]
    fn pick(&self, caller: &Caller) -> u64 {
        self.0.pick(caller, &Unowned, |value| *value).unwrap_or(u64::MAX)
    }

    fn replace(&self, values: Vec<u64>) {
        let backends: Vec<_> = values
            .into_iter()
            .map(|value| Backend::new(value, value))
            .collect();
        self.0
            .reconcile(&backends, &Unowned, Time(0))
            .expect("an open balancer and distinct ids");
    }
}

/// crossbeam-epoch as it comes: pin, load, and whoever comes by frees. The writer flushes, so that it
/// frees as much as it can itself.
pub struct Epoch {
    list: Atomic<List>,
    cursor: Cursor,
}

impl Hot for Epoch {
    type Reader = (LocalHandle, Cell<u64>);

    fn new(rotation: Rotation) -> Self {
        Epoch {
            list: Atomic::new(List::new(values(0))),
            cursor: Cursor::new(rotation),
        }
    }

    fn reader(&self) -> Self::Reader {
        (
            crossbeam_epoch::default_collector().register(),
            Cell::new(0),
        )
    }

    #[inline]
    fn pick(&self, (handle, own): &Self::Reader) -> u64 {
        let guard = handle.pin();
        let list = self.list.load(Ordering::Acquire, &guard);
        // SAFETY: `list` is never null, and what `replace` retires lives while the guard does.
        unsafe { list.deref() }.at(self.cursor.take(own))
    }

    fn replace(&self, values: Vec<u64>) {
        let guard = crossbeam_epoch::pin();
        let last = self
            .list
            .swap(Owned::new(List::new(values)), Ordering::AcqRel, &guard);
        // SAFETY: the swap took it out of the reach of guards to come.
        unsafe { guard.defer_destroy(last) };
        guard.flush();
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: there is no reader.
        drop(unsafe { std::mem::take(&mut self.list).into_owned() });
    }
}

/// arc-swap: load.
pub struct Swap {
    list: ArcSwap<List>,
    cursor: Cursor,
}

impl Hot for Swap {
    type Reader = Cell<u64>;

    fn new(rotation: Rotation) -> Self {
        Swap {
            list: ArcSwap::from_pointee(List::new(values(0))),
            cursor: Cursor::new(rotation),
        }
    }

    fn reader(&self) -> Self::Reader {
        Cell::new(0)
    }

    #[inline]
    fn pick(&self, own: &Self::Reader) -> u64 {
        self.list.load().at(self.cursor.take(own))
    }

    fn replace(&self, values: Vec<u64>) {
        self.list.store(Arc::new(List::new(values)));
    }
}

/// parking_lot: a lock that readers share.
pub struct SharedLock {
    list: RwLock<List>,
    cursor: Cursor,
}

impl Hot for SharedLock {
    type Reader = Cell<u64>;

    fn new(rotation: Rotation) -> Self {
        SharedLock {
            list: RwLock::new(List::new(values(0))),
            cursor: Cursor::new(rotation),
        }
    }

    fn reader(&self) -> Self::Reader {
        Cell::new(0)
    }

    #[inline]
    fn pick(&self, own: &Self::Reader) -> u64 {
        self.list.read().at(self.cursor.take(own))
    }

    fn replace(&self, values: Vec<u64>) {
        let next = List::new(values);
        // The guard is gone before the last list is dropped.
        let _last = std::mem::replace(&mut *self.list.write(), next);
    }
}

/// parking_lot: a lock that nobody shares.
pub struct Lock {
    list: Mutex<List>,
    cursor: Cursor,
}

impl Hot for Lock {
    type Reader = Cell<u64>;

    fn new(rotation: Rotation) -> Self {
        Lock {
            list: Mutex::new(List::new(values(0))),
            cursor: Cursor::new(rotation),
        }
    }

    fn reader(&self) -> Self::Reader {
        Cell::new(0)
    }

    #[inline]
    fn pick(&self, own: &Self::Reader) -> u64 {
        self.list.lock().at(self.cursor.take(own))
    }

    fn replace(&self, values: Vec<u64>) {
        let next = List::new(values);
        // The guard is gone before the last list is dropped.
        let _last = std::mem::replace(&mut *self.list.lock(), next);
    }
}
