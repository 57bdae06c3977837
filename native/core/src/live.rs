//! Counts of what exists, so that a test can prove that nothing leaks.

use std::marker::PhantomData;

use crossbeam_utils::CachePadded;

use crate::sync::{Tally, TallyOrdering as Ordering};

static BALANCERS: Tally = Tally::new(0);
static SNAPSHOTS: Tally = Tally::new(0);

/// Counts of each caller, since callers that write one word wait for each other's caches.
static CALLS: [CachePadded<Calls>; 64] = [const { CachePadded::new(Calls::new()) }; 64];

/// Those of all callers that have none of their own.
static ELSEWHERE: CachePadded<Calls> = CachePadded::new(Calls::new());

struct Calls {
    begun: Tally,
    ended: Tally,
}

impl Calls {
    const fn new() -> Self {
        Calls {
            begun: Tally::new(0),
            ended: Tally::new(0),
        }
    }
}

/// The counts at one moment; see [`live_counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveCounts {
    /// Balancers that were made and not dropped.
    pub balancers: usize,
    /// Snapshots that are current, or retired and not reclaimed yet.
    pub snapshots: usize,
    /// Calls that were checked out and are neither completed nor cancelled.
    pub tickets: usize,
}

/// Counts what exists in this process.
pub fn live_counts() -> LiveCounts {
    LiveCounts {
        // Relaxed: counts order nothing.
        balancers: BALANCERS.load(Ordering::Relaxed),
        snapshots: SNAPSHOTS.load(Ordering::Relaxed),
        tickets: calls_in_flight(),
    }
}

/// A call can end by another caller than it began.
fn calls_in_flight() -> usize {
    let all = || CALLS.iter().chain([&ELSEWHERE]);
    let sum = |sum: usize, count: usize| sum.wrapping_add(count);
    // In this order: Acquire pairs with the Release in `end_call`, so that no call counts as ended that
    // does not count as begun.
    let ended = all()
        .map(|calls| calls.ended.load(Ordering::Acquire))
        .fold(0, sum);
    let begun = all()
        .map(|calls| calls.begun.load(Ordering::Relaxed))
        .fold(0, sum);
    begun.wrapping_sub(ended)
}

/// A kind of thing that is counted.
pub(crate) trait Kind {
    const ALIVE: &'static Tally;
}

pub(crate) struct Balancers;

impl Kind for Balancers {
    const ALIVE: &'static Tally = &BALANCERS;
}

pub(crate) struct Snapshots;

impl Kind for Snapshots {
    const ALIVE: &'static Tally = &SNAPSHOTS;
}

/// Counts one thing for as long as it lives, and takes no room in it.
pub(crate) struct Counted<K: Kind>(PhantomData<K>);

impl<K: Kind> Counted<K> {
    pub(crate) fn new() -> Self {
        // Relaxed: counts order nothing.
        K::ALIVE.fetch_add(1, Ordering::Relaxed);
        Counted(PhantomData)
    }
}

impl<K: Kind> Drop for Counted<K> {
    fn drop(&mut self) {
        // Relaxed: counts order nothing.
        K::ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts a call that begins. `caller` is the number of the calling thread: unique among the callers alive.
#[inline]
pub(crate) fn begin_call(caller: usize) {
    match CALLS.get(caller) {
        Some(own) => add_one(&own.begun),
        // Relaxed: a count orders nothing.
        None => drop(ELSEWHERE.begun.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Counts the end of a call, on whichever thread. `caller` is its number, if it has one.
#[inline]
pub(crate) fn end_call(caller: Option<usize>) {
    match caller.and_then(|caller| CALLS.get(caller)) {
        Some(own) => add_one(&own.ended),
        // Release: see `live_counts`.
        None => drop(ELSEWHERE.ended.fetch_add(1, Ordering::Release)),
    }
}

/// A load and a store: no other thread writes it. When a caller's number passes on to another thread, the
/// claim of it orders what the last one stored.
#[inline]
fn add_one(own: &Tally) {
    // Release: see `live_counts`. Relaxed for the load: see above.
    own.store(
        own.load(Ordering::Relaxed).wrapping_add(1),
        Ordering::Release,
    );
}
