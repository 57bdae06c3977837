//! Schedule of turns by weight, told from one counter and without a lock.
//!
//! Turns are laid out on a circle, as many for each backend as its weight, one backend after the
//! other in list order. A counter goes around in steps of nearly the golden section, which spreads
//! the turns of each backend as evenly as steps of one length can. A step takes a whole number of
//! turns that has no divisor in common with their total: so over any run of as many picks as there
//! are turns each is come upon once.
//!
//! gRPC's static stride scheduler passes backends over one by one until the turn of one has come,
//! and Envoy's is a queue under a lock. Here a turn is found where it is, whatever the weights.

/// The golden section.
const SECTION: f64 = 0.618_033_988_749_894_9;

/// What weights that are no whole numbers are scaled to, in sum.
const FINE: f64 = (1_u64 << 32) as f64;

/// Turns, by weight.
pub(crate) struct Schedule {
    /// Where the turns of each backend end, and those of the next one begin.
    ends: Box<[u64]>,
    /// The circle in 2^k equal parts, at least as many as there are backends: whose turn it is
    /// where each part begins, and at the end of the last one.
    parts: Box<[u32]>,
    /// What of a place on the circle does not tell the part.
    shift: u32,
    /// All turns.
    total: u64,
    /// From one place to the next; the circle has 2^64.
    step: u64,
}

impl Schedule {
    /// Prepares turns. What has no weight has no turn, unless no backend has one.
    pub(crate) fn new(weights: &[f64]) -> Schedule {
        let turns = turns(weights);
        let ends: Box<[u64]> = turns
            .iter()
            .scan(0, |end, turns| {
                *end += turns;
                Some(*end)
            })
            .collect();
        let total = ends.last().copied().unwrap_or(0);
        let alike = turns.iter().all(|of_one| *of_one == turns[0]);
        // Round robin, in list order, where all are alike.
        let stride = if alike { 1 } else { stride(total) };
        // Rounded up, so that a place at the beginning of a turn does not fall short of the next.
        let step = (u128::from(stride) << 64).div_ceil(u128::from(total.max(1)));
        let bits = ends.len().next_power_of_two().trailing_zeros().max(1);
        let whose = |turn| ends.partition_point(|end| *end <= turn) as u32;
        let last = total.saturating_sub(1);
        let begin = |part: u64| ((u128::from(part) * u128::from(total)) >> bits) as u64;
        Schedule {
            parts: (0..=1 << bits)
                .map(|part| whose(begin(part).min(last)))
                .collect(),
            shift: u64::BITS - bits,
            ends,
            total,
            // A single turn is the whole circle.
            step: step as u64,
        }
    }

    /// How far the counter goes at each pick.
    #[inline]
    pub(crate) fn step(&self) -> u64 {
        self.step
    }

    /// Whose turn it is at this place.
    #[inline]
    pub(crate) fn at(&self, place: u64) -> usize {
        let turn = ((u128::from(place) * u128::from(self.total)) >> 64) as u64;
        let part = (place >> self.shift) as usize;
        let [from, to] = [part, part + 1].map(|part| self.parts[part] as usize);
        from + self.ends[from..to].partition_point(|end| *end <= turn)
    }

    /// Any place less than a turn from the beginning of the circle.
    pub(crate) fn less_than_a_turn(&self, random: u64) -> u64 {
        random / self.total.max(1)
    }

    /// Whether both have the same turns.
    pub(crate) fn is_like(&self, other: &Schedule) -> bool {
        self.ends == other.ends
    }
}

/// Weights as whole numbers, the smallest of the same ratio.
fn turns(weights: &[f64]) -> Vec<u64> {
    let sum: f64 = weights.iter().sum();
    if sum <= 0.0 {
        return vec![1; weights.len()];
    }
    let whole = weights.iter().all(|weight| weight.fract() == 0.0) && sum < 2_f64.powi(53);
    let turns = |weight: f64| match weight {
        0.0 => 0,
        weight if whole => weight as u64,
        weight => ((weight / sum * FINE).round() as u64).max(1),
    };
    let mut turns: Vec<u64> = weights.iter().map(|weight| turns(*weight)).collect();
    let divisor = turns.iter().copied().fold(0, common_divisor);
    turns.iter_mut().for_each(|turns| *turns /= divisor);
    turns
}

/// The number nearest to the golden section of `total` that has no divisor in common with it.
fn stride(total: u64) -> u64 {
    let section = (total as f64 * SECTION) as u64;
    let around = (0..).flat_map(|distance| [section + distance, section.saturating_sub(distance)]);
    let mut around = around.filter(|stride| common_divisor(*stride, total) == 1);
    around
        .next()
        .expect("1 has none, nor has the total and 1 more")
}

fn common_divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        _ => common_divisor(b, a % b),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn picks(schedule: &Schedule, first: u64, picks: usize) -> Vec<usize> {
        let places = (0..picks as u64).map(|pick| {
            let gone = schedule.step().wrapping_mul(pick);
            schedule.at(first.wrapping_add(gone))
        });
        places.collect()
    }

    fn counts(schedule: &Schedule, n: usize, first: u64, of: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        let picks = picks(schedule, first, of);
        picks.into_iter().for_each(|index| counts[index] += 1);
        counts
    }

    #[test]
    fn turns_are_spread() {
        for (weights, expected) in [
            (&[3.0, 1.0][..], "abaa"),
            (&[1.0, 1.0, 1.0], "abc"),
            (&[2.0, 2.0], "abab"),
            (&[1.5, 0.5], "abaa"),
            (&[5.0, 1.0, 1.0], "aaabaca"),
            (&[1.0], "aa"),
            (&[0.0, 0.0], "abab"),
            (&[0.0, 3.0], "bbbb"),
        ] {
            let schedule = Schedule::new(weights);
            let names = picks(&schedule, 0, expected.len());
            let names: String = names.iter().map(|it| (b'a' + *it as u8) as char).collect();
            // From wherever it begins.
            assert!(expected.repeat(2).contains(&names), "{weights:?}: {names}");
        }
    }

    #[test]
    fn one_that_outweighs_all_others_leaves_them_their_turns() {
        let mut weights = vec![1.0; 1_001];
        weights[500] = 999_000.0;
        let schedule = Schedule::new(&weights);
        let counts = counts(&schedule, 1_001, 12_345, 1_000_000);
        assert!(weights
            .iter()
            .zip(counts)
            .all(|(weight, count)| *weight == count as f64));
    }

    proptest! {
        #[test]
        fn over_as_many_picks_as_there_are_turns_each_has_its_own(
            weights in prop::collection::vec(0..50_u32, 1..40),
            first in any::<u64>(),
        ) {
            let total: u32 = weights.iter().sum();
            prop_assume!(total > 0);
            let given: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let counts = counts(&Schedule::new(&given), weights.len(), first, total as usize);
            for (count, weight) in counts.iter().zip(weights) {
                prop_assert_eq!(*count, weight as usize);
            }
        }

        #[test]
        fn no_run_of_picks_strays_far_from_the_weights(
            weights in prop::collection::vec(prop_oneof![0.001..1.0, 1.0..1e4], 1..20),
            first in any::<u64>(),
            of in 1..2_000_usize,
        ) {
            let sum: f64 = weights.iter().sum();
            let counts = counts(&Schedule::new(&weights), weights.len(), first, of);
            for (count, weight) in counts.iter().zip(&weights) {
                let expected = weight / sum * of as f64;
                prop_assert!((*count as f64 - expected).abs() < 6.0, "{count} for {expected}");
            }
        }

        #[test]
        fn every_place_is_the_turn_of_one_with_a_weight(
            weights in prop::collection::vec(prop_oneof![Just(0_u32), any::<u32>()], 1..50),
            place in prop_oneof![any::<u64>(), Just(u64::MAX), Just(0)],
        ) {
            let given: Vec<f64> = weights.iter().map(|weight| f64::from(*weight)).collect();
            let index = Schedule::new(&given).at(place);
            prop_assert!(weights[index] > 0 || weights.iter().all(|weight| *weight == 0));
        }
    }
}
