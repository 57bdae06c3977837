//! What a call to the fleet usually takes, so that one backend can be told from the others.

use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// How much of the way to a sample the mean goes.
const STEP: f64 = 1.0 / 16.0;

/// The geometric mean of the latencies of calls that succeeded, of which one in about a millisecond is
/// looked at: every call reads this word, and few write it. A sample counts as no more than e times
/// what is usual, so that a few very slow ones do not change what that is.
///
/// Relaxed, all: the word stands for itself.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    /// When it was written, in some milliseconds, and the mean in nanoseconds, an `f32`. 0 is not
    /// known.
    word: AtomicU64,
}

impl Fleet {
    /// In nanoseconds.
    #[inline]
    pub(crate) fn usual(&self) -> Option<f64> {
        usual(self.word.load(Ordering::Relaxed))
    }

    /// Takes a call into account that took `nanoseconds` and succeeded.
    #[inline]
    pub(crate) fn observe(&self, nanoseconds: f64, now: Time) {
        let word = self.word.load(Ordering::Relaxed);
        let moment = now.0 >> 20 & u64::from(u32::MAX);
        if word >> 32 != moment || word == 0 {
            self.update(word, moment, nanoseconds);
        }
    }

    fn update(&self, word: u64, moment: u64, nanoseconds: f64) {
        let sample = nanoseconds.max(1.0);
        let mean = usual(word).map_or(sample, |mean| {
            mean * ((sample / mean).ln().clamp(-1.0, 1.0) * STEP).exp()
        });
        let next = moment << 32 | u64::from((mean as f32).to_bits());
        let relaxed = Ordering::Relaxed;
        // One that fails has been told of another call just now, which is as good.
        let _ = self.word.compare_exchange(word, next, relaxed, relaxed);
    }
}

fn usual(word: u64) -> Option<f64> {
    let mean = f32::from_bits(word as u32);
    (mean > 0.0).then_some(f64::from(mean))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_first_call_is_what_is_usual_and_a_few_slow_ones_change_little() {
        let fleet = Fleet::default();
        assert_eq!(fleet.usual(), None);
        fleet.observe(1e6, Time(0));
        assert_eq!(fleet.usual(), Some(1e6));
        for call in 1..=1_000 {
            let slow = call % 100 == 0;
            fleet.observe(if slow { 1e9 } else { 1e6 }, Time(call * 2 * MS));
        }
        let usual = fleet.usual().unwrap();
        assert!((1e6..1.1e6).contains(&usual), "{usual}");
    }

    #[test]
    fn it_follows_a_fleet_that_gets_slow_within_a_hundred_samples() {
        let fleet = Fleet::default();
        fleet.observe(1e6, Time(0));
        for call in 1..=100 {
            fleet.observe(1e8, Time(call * 2 * MS));
        }
        let usual = fleet.usual().unwrap();
        assert!((0.8e8..1.001e8).contains(&usual), "{usual}");
    }

    #[test]
    fn of_calls_that_end_at_once_one_counts() {
        let fleet = Fleet::default();
        for call in 0..1_000 {
            fleet.observe(1e6 + call as f64, Time(call));
        }
        assert_eq!(fleet.usual(), Some(1e6));
    }
}
