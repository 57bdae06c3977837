//! Counts of what exists, so that a test can prove that nothing leaks.

use std::marker::PhantomData;

use crossbeam_utils::CachePadded;

use crate::sync::{Tally, TallyOrdering as Ordering};

static BALANCERS: Tally = Tally::new(0);
static SNAPSHOTS: Tally = Tally::new(0);

/// One count for each caller, since callers that write one word wait for each other's caches. The
/// last is for all callers that have none of their own.
static CALLS: [CachePadded<Calls>; 65] = [const { CachePadded::new(Calls::new()) }; 65];

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
        tickets: CALLS
            .iter()
            .map(|calls| {
                // In this order: Acquire pairs with the Release in `end`, so that no call counts as
                // ended that does not count as begun.
                let ended = calls.ended.load(Ordering::Acquire);
                calls.begun.load(Ordering::Relaxed) - ended
            })
            .sum(),
    }
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

/// Where a call is counted as begun, and later as ended.
pub(crate) struct CountedCall(u8);

impl CountedCall {
    /// `caller` is the caller's number: unique among the callers alive.
    #[inline]
    pub(crate) fn begin(caller: usize) -> Self {
        let shared = CALLS.len() - 1;
        let index = caller.min(shared);
        let begun = &CALLS[index].begun;
        // Relaxed, and a load and a store: no other thread writes this one. When the caller's number
        // passes on to another thread, the claim of it orders what the last one stored.
        match index == shared {
            false => begun.store(begun.load(Ordering::Relaxed) + 1, Ordering::Relaxed),
            true => drop(begun.fetch_add(1, Ordering::Relaxed)),
        }
        CountedCall(index as u8)
    }

    /// Once, on any thread.
    #[inline]
    pub(crate) fn end(&self) {
        // Release: see `live_counts`.
        CALLS[self.0 as usize].ended.fetch_add(1, Ordering::Release);
    }
}
