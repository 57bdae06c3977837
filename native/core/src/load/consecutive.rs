//! Failures in a row, and whether there were too many.

use crate::sync::{AtomicU32, AtomicU8, Ordering};

/// Counts them. That there were too many stays known until somebody looks, though a call succeed
/// before: calls that end together would else undo each other, and Envoy does not ask again either.
///
/// Relaxed, all: each number stands for itself. Who notes that there are too many requests a look, which
/// is what has the look see it.
#[derive(Debug, Default)]
pub(crate) struct Consecutive {
    failures: AtomicU32,
    transport_failures: AtomicU32,
    /// Of which there were too many since the last look: `FAILURES`, `TRANSPORT_FAILURES`. Not how many:
    /// a backend has no room for that.
    too_many: AtomicU8,
}

const FAILURES: u8 = 1;
const TRANSPORT_FAILURES: u8 = 2;

/// Calls that have failed since the last one that succeeded, or limits of them; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InARow {
    /// However they failed.
    pub(crate) failures: u32,
    pub(crate) transport_failures: u32,
}

impl Consecutive {
    /// Counts a failure, and says how many there are now.
    pub(crate) fn count_failure(&self) -> u32 {
        one_more(&self.failures)
    }

    /// As `count_failure`, of those on the way.
    pub(crate) fn count_transport_failure(&self) -> u32 {
        one_more(&self.transport_failures)
    }

    /// A call has succeeded.
    #[inline]
    pub(crate) fn interrupt(&self) {
        for count in [&self.failures, &self.transport_failures] {
            // Looked at first: it is 0 nearly always, and a load is cheaper than a store.
            if count.load(Ordering::Relaxed) != 0 {
                count.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Notes whether so many are too many. Equal, not at least: once a row.
    pub(crate) fn note_if_too_many(&self, failed: InARow, limits: InARow) -> bool {
        let is_limit = |failed: u32, limit: u32| failed == limit && limit != 0;
        let mut too_many = 0;
        if is_limit(failed.failures, limits.failures) {
            too_many |= FAILURES;
        }
        if is_limit(failed.transport_failures, limits.transport_failures) {
            too_many |= TRANSPORT_FAILURES;
        }
        if too_many != 0 {
            self.too_many.fetch_or(too_many, Ordering::Relaxed);
        }
        too_many != 0
    }

    /// Whether a look would see none.
    pub(crate) fn is_empty(&self) -> bool {
        let counts = [&self.failures, &self.transport_failures];
        counts
            .iter()
            .all(|count| count.load(Ordering::Relaxed) == 0)
            && self.too_many.load(Ordering::Relaxed) == 0
    }

    /// How many there are, and no fewer than the limit where there were too many. That is known no more.
    pub(crate) fn look(&self, limits: InARow) -> InARow {
        // Looked at first: of most backends there were not.
        let too_many = match self.too_many.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.too_many.swap(0, Ordering::Relaxed),
        };
        let count = |count: &AtomicU32, which: u8, limit: u32| {
            let least = if too_many & which != 0 { limit } else { 0 };
            count.load(Ordering::Relaxed).max(least)
        };
        InARow {
            failures: count(&self.failures, FAILURES, limits.failures),
            transport_failures: count(
                &self.transport_failures,
                TRANSPORT_FAILURES,
                limits.transport_failures,
            ),
        }
    }

    /// Leaves what was too many to no look.
    pub(crate) fn forget_too_many(&self) {
        self.too_many.store(0, Ordering::Relaxed);
    }

    /// Begins to count failures anew.
    pub(crate) fn reset_failures(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.too_many.fetch_and(!FAILURES, Ordering::Relaxed);
    }

    /// Begins to count failures on the way anew.
    pub(crate) fn reset_transport_failures(&self) {
        self.transport_failures.store(0, Ordering::Relaxed);
        self.too_many
            .fetch_and(!TRANSPORT_FAILURES, Ordering::Relaxed);
    }
}

fn one_more(count: &AtomicU32) -> u32 {
    count.fetch_add(1, Ordering::Relaxed).saturating_add(1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LIMITS: InARow = InARow {
        failures: 3,
        transport_failures: 1,
    };

    fn failures(failures: u32) -> InARow {
        InARow {
            failures,
            transport_failures: 0,
        }
    }

    #[test]
    fn a_success_ends_the_row_and_does_not_undo_that_there_were_too_many() {
        let consecutive = Consecutive::default();
        for (count, too_many) in [(1, false), (2, false), (3, true), (4, false)] {
            assert_eq!(consecutive.count_failure(), count);
            let noted = consecutive.note_if_too_many(failures(count), LIMITS);
            assert_eq!(noted, too_many);
        }
        consecutive.interrupt();
        assert_eq!(consecutive.count_failure(), 1);
        assert!(!consecutive.is_empty());
        assert_eq!(consecutive.look(LIMITS), failures(3));
        // By one look.
        assert_eq!(consecutive.look(LIMITS), failures(1));
        consecutive.interrupt();
        assert!(consecutive.is_empty());
    }

    #[test]
    fn each_kind_has_its_limit() {
        let consecutive = Consecutive::default();
        let failed = InARow {
            failures: consecutive.count_failure(),
            transport_failures: consecutive.count_transport_failure(),
        };
        assert!(consecutive.note_if_too_many(failed, LIMITS));
        consecutive.interrupt();
        consecutive.reset_failures();
        let transport = InARow {
            failures: 0,
            ..LIMITS
        };
        assert_eq!(consecutive.look(LIMITS), transport);
        assert!(consecutive.is_empty());
    }

    #[test]
    fn those_that_are_not_too_many_are_forgotten() {
        let consecutive = Consecutive::default();
        let no_limits = InARow::default();
        let one = failures(consecutive.count_failure());
        assert!(!consecutive.note_if_too_many(one, no_limits));
        assert!(!consecutive.note_if_too_many(no_limits, no_limits));
        consecutive.interrupt();
        assert_eq!(consecutive.look(LIMITS), no_limits);
        for forget in [Consecutive::forget_too_many, Consecutive::reset_failures] {
            assert!(consecutive.note_if_too_many(one, failures(1)));
            forget(&consecutive);
            assert!(consecutive.is_empty());
        }
    }
}
