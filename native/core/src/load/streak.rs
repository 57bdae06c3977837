//! Bad samples in a row: how far each of them is believed.

use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// How long one bad sample alone has a backend shunned at most, in nanoseconds;
/// each further one twice as long.
pub(super) const SHUNNED: f64 = 0.5e9;

/// From so many on, a bad sample shuns for as long as its latency is worth.
const MOST: u64 = COUNT;

/// Bits of the count.
const COUNT: u64 = 15;

/// After so many, a bound stays what it is where samples are only lower bounds.
const MOST_AT_LEAST: u64 = 3;

/// Below the time and the count, how many good ones have come since: so many end the streak.
const GOOD: u64 = 7 << 4;
const ONE_GOOD: u64 = 1 << 4;

/// How many bad samples have come with no good one in between, and when the last of them came.
///
/// Relaxed, all: the word stands for itself. Of two that come at once, one counts.
#[derive(Debug, Default)]
pub(crate) struct Streak {
    /// The time, whose last bits are the count of bad ones and, above it, that of good ones since.
    word: AtomicU64,
}

/// What a sample says of the latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// What it was.
    Exactly,
    /// What it was at least, since there was no answer.
    AtLeast,
}

impl Streak {
    /// Takes a good sample into account.
    #[inline]
    pub(crate) fn on_good(&self) {
        let word = self.word.load(Ordering::Relaxed);
        // Nearly always.
        if word == 0 {
            return;
        }
        let next = match word & GOOD {
            GOOD => 0,
            _ => word + ONE_GOOD,
        };
        let relaxed = Ordering::Relaxed;
        let _ = self.word.compare_exchange(word, next, relaxed, relaxed);
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 0
    }

    /// Whether no good sample came since the last bad one.
    #[inline]
    pub(crate) fn was_bad(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        word != 0 && word & GOOD == 0
    }

    /// Takes a bad sample of a call into account that began then. How long the backend may be
    /// shunned for it, in nanoseconds: no longer, if the call was in flight beside the one before,
    /// since what holds up one holds up all.
    pub(crate) fn extend(&self, began: Time, now: Time, says: Says) -> f64 {
        let word = self.word.load(Ordering::Relaxed);
        let count = word & COUNT;
        if count > 0 && began.0 < word & !(COUNT | GOOD) {
            return 0.0;
        }
        let most = match says {
            Says::Exactly => MOST,
            Says::AtLeast => MOST_AT_LEAST,
        };
        let next = now.0 & !(COUNT | GOOD) | count.max((count + 1).min(most));
        let relaxed = Ordering::Relaxed;
        let _ = self.word.compare_exchange(word, next, relaxed, relaxed);
        match count.min(most) {
            MOST => f64::INFINITY,
            doublings => SHUNNED * (1_u64 << doublings) as f64,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(seconds << 30)
    }

    fn extend(streak: &Streak, now: u64, says: Says) -> f64 {
        streak.extend(at(now), at(now + 1), says) / SHUNNED
    }

    #[test]
    fn each_further_one_counts_twice_as_much_until_enough_good_ones_come() {
        let streak = Streak::default();
        assert!(streak.is_empty());
        let first: Vec<f64> = (1..=5)
            .map(|now| extend(&streak, now * 2, Says::Exactly))
            .collect();
        assert_eq!(first, [1.0, 2.0, 4.0, 8.0, 16.0]);
        assert!(streak.was_bad());
        // Not in a row.
        for _ in 0..7 {
            streak.on_good();
            assert!(!streak.was_bad() && !streak.is_empty());
        }
        assert_eq!(extend(&streak, 12, Says::Exactly), 32.0);
        for _ in 0..8 {
            streak.on_good();
        }
        assert!(streak.is_empty());
        assert_eq!(extend(&streak, 20, Says::Exactly), 1.0);
        let last = (11..40)
            .map(|now| extend(&streak, now * 2, Says::Exactly))
            .last();
        assert_eq!(last, Some(f64::INFINITY));
    }

    #[test]
    fn those_in_flight_together_count_as_one() {
        let streak = Streak::default();
        assert_eq!(streak.extend(at(1), at(9), Says::Exactly), SHUNNED);
        for began in 1..8 {
            assert_eq!(streak.extend(at(began), at(9), Says::Exactly), 0.0);
        }
        assert_eq!(streak.extend(at(9), at(10), Says::Exactly), 2.0 * SHUNNED);
    }

    #[test]
    fn without_an_answer_it_is_eight_times_at_most() {
        let streak = Streak::default();
        let shunned: Vec<f64> = (1..7)
            .map(|now| extend(&streak, now * 2, Says::AtLeast))
            .collect();
        assert_eq!(shunned, [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
        // Nor does it count for more than that where an answer comes.
        assert_eq!(extend(&streak, 20, Says::Exactly), 8.0);
        assert_eq!(extend(&streak, 30, Says::Exactly), 16.0);
        assert_eq!(extend(&streak, 40, Says::AtLeast), 8.0);
        assert_eq!(extend(&streak, 50, Says::Exactly), 32.0);
    }
}
