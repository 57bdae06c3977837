//! Cursor of the rotating policies: counts turns.
//!
//! A cursor belongs to one snapshot. Turns are numbered from where it starts, so what it has
//! counted says how often each backend of that snapshot was picked, and nothing else has to be
//! written at a pick.

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicU64, Ordering};

/// Which callers share a rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CursorKind {
    /// All callers: over any run of picks without a reconcile the counts of the backends differ
    /// by at most 1.
    #[default]
    Shared,
    /// Each of so many callers has its own, and all others share one: the counts differ by at
    /// most the number of callers that picked. No cache line is shared among them.
    PerCaller(u32),
}

impl CursorKind {
    /// How many callers have a counter of their own.
    fn callers(self) -> usize {
        match self {
            CursorKind::Shared => 0,
            CursorKind::PerCaller(callers) => callers as usize,
        }
    }
}

/// A counter for each of the first callers, and a last one that all others share. A cursor that
/// everybody shares has only that one.
pub(crate) struct Cursor(Box<[Lane]>);

/// One counter, with a cache line to itself.
struct Lane(CachePadded<Turns>);

struct Turns {
    first: u64,
    next: AtomicU64,
}

impl Lane {
    fn starting_at(first: u64) -> Self {
        Lane(CachePadded::new(Turns {
            first,
            next: AtomicU64::new(first),
        }))
    }

    fn next(&self) -> u64 {
        // Relaxed: a count; picks that are under way on the old snapshot may or may not be in it.
        self.0.next.load(Ordering::Relaxed)
    }
}

impl Cursor {
    /// A cursor whose counters begin where `first` says, each.
    pub(crate) fn new(kind: CursorKind, mut first: impl FnMut() -> u64) -> Self {
        let lanes = 0..=kind.callers();
        Cursor(lanes.map(|_| Lane::starting_at(first())).collect())
    }

    /// A new cursor that goes on where this one is, by what `goes_on` makes of that. A counter that
    /// this one does not have goes on from the one that is furthest.
    pub(crate) fn continued(&self, kind: CursorKind, goes_on: impl FnMut(u64) -> u64) -> Self {
        let (others, own) = self.0.split_last().expect("there is a lane for the others");
        let furthest = || self.0.iter().map(Lane::next).max();
        let next = |caller: usize| match own.get(caller) {
            Some(lane) => lane.next(),
            None => furthest().expect("there is a lane"),
        };
        let callers = kind.callers();
        let others = match callers == own.len() {
            true => others.next(),
            false => next(usize::MAX),
        };
        let nexts = (0..callers).map(next).chain([others]);
        Cursor(nexts.map(goes_on).map(Lane::starting_at).collect())
    }

    /// Whether a turn has been taken.
    pub(crate) fn begun(&self) -> bool {
        self.0.iter().any(|lane| lane.next() != lane.0.first)
    }

    /// Takes the next turn; the one after it is so far from it. `caller` is unique among the callers
    /// alive.
    #[inline]
    pub(crate) fn take(&self, caller: usize, step: u64) -> u64 {
        let (others, own) = self.0.split_last().expect("there is a lane for the others");
        match own.get(caller) {
            Some(lane) => {
                // Relaxed, and a load and a store: no other thread writes this lane. When the
                // caller's number passes on to another thread, the claim of it orders what the
                // last one stored.
                let turn = lane.0.next.load(Ordering::Relaxed);
                lane.0
                    .next
                    .store(turn.wrapping_add(step), Ordering::Relaxed);
                turn
            }
            // Relaxed: every caller gets a turn of its own because the addition is atomic, and a
            // turn publishes nothing.
            None => others.0.next.fetch_add(step, Ordering::Relaxed),
        }
    }

    /// Shows which of `n` backends had turns, and how many, in parts: no more of them than there
    /// were turns.
    pub(crate) fn for_each_turn(&self, n: usize, mut add: impl FnMut(usize, u64)) {
        let mut rounds = 0;
        for lane in &self.0 {
            let (first, next) = (lane.0.first, lane.next());
            rounds += (next - first) / n as u64;
            let rest = (next - first) % n as u64;
            (next - rest..next).for_each(|turn| add((turn % n as u64) as usize, 1));
        }
        if rounds > 0 {
            (0..n).for_each(|index| add(index, rounds));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn turns(cursor: &Cursor, n: usize) -> Vec<u64> {
        let mut turns = vec![0; n];
        cursor.for_each_turn(n, |index, more| turns[index] += more);
        turns
    }

    #[test]
    fn turns_are_counted_for_whose_they_were() {
        for n in 1..7 {
            for first in [0, 1, 5, 1_000_003] {
                for count in 0..20 {
                    let cursor = Cursor::new(CursorKind::Shared, || first);
                    let mut expected = vec![0; n];
                    for _ in 0..count {
                        expected[(cursor.take(0, 1) % n as u64) as usize] += 1;
                    }
                    assert_eq!(turns(&cursor, n), expected, "{n} {first} {count}");
                }
            }
        }
    }

    #[test]
    fn callers_have_lanes_of_their_own_and_the_rest_share_one() {
        let cursor = Cursor::new(CursorKind::PerCaller(2), || 0);
        assert_eq!(
            [cursor.take(0, 1), cursor.take(0, 1), cursor.take(1, 1)],
            [0, 1, 0]
        );
        assert_eq!(
            [cursor.take(2, 1), cursor.take(900, 1), cursor.take(2, 1)],
            [0, 1, 2]
        );
        assert_eq!(turns(&cursor, 3), [3, 2, 1]);
    }

    #[test]
    fn a_continued_cursor_goes_on_and_counts_anew() {
        let cursor = Cursor::new(CursorKind::Shared, || 7);
        cursor.take(0, 1);
        let next = cursor.continued(CursorKind::Shared, |next| next);
        assert_eq!(turns(&next, 3), [0, 0, 0]);
        assert_eq!(next.take(0, 1), 8);
    }

    #[test]
    fn a_cursor_of_another_kind_goes_on_from_the_furthest() {
        let own = CursorKind::PerCaller(2);
        let apart = Cursor::new(CursorKind::Shared, || 7).continued(own, |next| next);
        assert_eq!([0, 0, 0, 1, 5].map(|it| apart.take(it, 1)), [7, 8, 9, 7, 7]);
        let same = apart.continued(own, |next| next);
        assert_eq!([0, 1, 5].map(|it| same.take(it, 1)), [10, 8, 8]);
        let more = apart.continued(CursorKind::PerCaller(3), |next| next);
        assert_eq!([0, 1, 2, 5].map(|it| more.take(it, 1)), [10, 8, 10, 10]);
        let shared = apart.continued(CursorKind::Shared, |next| next);
        assert_eq!([0, 1, 5].map(|it| shared.take(it, 1)), [10, 11, 12]);
    }
}
