//! Shares of the picks that go to groups: kept by turns and not by chance, at one cost however many
//! groups there are.

use strength_reduce::StrengthReducedU64;
use triomphe::Arc;

use crate::sync::{AtomicU64, Ordering};

/// Turns, taken one after the other, of which each group has its share.
///
/// Whatever the shares of n groups, they are those of n - 1 pairs that have equally many turns each
/// (Walker's alias method). The pairs take turns, and of a pair's turns the first group has so many
/// that their number is exact over any run of them, give or take one.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    /// Goes on from snapshot to snapshot.
    taken: Arc<AtomicU64>,
    pairs: Box<[Pair]>,
    count: StrengthReducedU64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    /// Of the first; the other has the rest.
    share: f64,
    first: u32,
    other: u32,
}

impl Turns {
    /// Turns of at least two groups by their shares, which are above 0 and add up to 1.
    pub(crate) fn new(taken: &Arc<AtomicU64>, shares: &[(u32, f64)]) -> Self {
        let pairs = pairs(shares);
        Turns {
            taken: Arc::clone(taken),
            count: StrengthReducedU64::new(pairs.len() as u64),
            pairs,
        }
    }

    /// Takes the next turn, and says whose it is.
    ///
    /// Those of a pair's first group are the turns at which its share adds up to the next whole
    /// number: they are spread evenly, and no random number is needed.
    #[inline]
    pub(crate) fn take(&self) -> usize {
        // Relaxed: a turn stands for itself.
        let turn = self.taken.fetch_add(1, Ordering::Relaxed);
        let (round, pair) = StrengthReducedU64::div_rem(turn, self.count);
        let Pair {
            share,
            first,
            other,
        } = self.pairs[pair as usize];
        let turn = round as f64;
        match ((turn + 1.0) * share).floor() != (turn * share).floor() {
            true => first as usize,
            false => other as usize,
        }
    }
}

/// The least share that is left and the greatest make up a pair, and what the greatest has left over
/// takes part in the next.
fn pairs(shares: &[(u32, f64)]) -> Box<[Pair]> {
    debug_assert!(shares.len() > 1);
    let count = shares.len() - 1;
    let mut left = shares.to_vec();
    left.sort_by(|one, other| other.1.total_cmp(&one.1));
    let pairs = (0..count).map(|_| {
        let (other, least) = left.pop().expect("there is one more group than pairs");
        let (first, greatest) = left[0];
        let of_other = (least * count as f64).clamp(0.0, 1.0);
        left[0] = (first, greatest - (1.0 - of_other) / count as f64);
        let place = left[1..].partition_point(|it| it.1 > left[0].1);
        left[..=place].rotate_left(1);
        Pair {
            share: 1.0 - of_other,
            first,
            other,
        }
    });
    pairs.collect()
}

/// The same shares of all keys, by their hashes.
#[derive(Clone, Debug)]
pub(crate) struct Shares(Box<[(f64, u32)]>);

impl Shares {
    /// Shares of groups, in an order in which a share that changes moves as few keys as can be.
    pub(crate) fn new(shares: &[(u32, f64)]) -> Self {
        let ends = shares.iter().scan(0.0, |end, (group, share)| {
            *end += share;
            Some((*end, *group))
        });
        Shares(ends.collect())
    }

    /// The group of a key.
    ///
    /// By what is left of its hash after a division by 100, as Envoy chooses a priority by its share in
    /// percent, and then by more of the hash: a policy looks keys up by other parts of it.
    #[inline]
    pub(crate) fn of(&self, hash: u64) -> usize {
        const FINE: u64 = 1_000_000;
        let percent = (hash % 100) as f64 + (hash / 100 % FINE) as f64 / FINE as f64;
        let place = self.0.partition_point(|(end, _)| end * 100.0 <= percent);
        self.0[place.min(self.0.len() - 1)].1 as usize
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(first: u64, shares: &[f64]) -> Turns {
        let numbered: Vec<(u32, f64)> = (0..).zip(shares.iter().copied()).collect();
        Turns::new(&Arc::new(AtomicU64::new(first)), &numbered)
    }

    #[test]
    fn any_run_of_turns_has_the_share_give_or_take_one() {
        for share in [0.1, 0.25, 0.5, 0.7, 0.999] {
            let turns = turns(12_345, &[share, 1.0 - share]);
            let taken: Vec<usize> = (0..2_000).map(|_| turns.take()).collect();
            for run in [1, 10, 333, 1_000] {
                for start in 0..1_000 {
                    let first = taken[start..start + run].iter().filter(|it| **it == 0);
                    let due = share * run as f64;
                    assert!(
                        (first.count() as f64 - due).abs() <= 1.0 + 1e-6,
                        "{share} {run}"
                    );
                }
            }
        }
    }

    #[test]
    fn keys_have_the_shares_and_few_of_them_move_when_one_changes() {
        let before = Shares::new(&[(7, 0.7), (8, 0.3)]);
        let after = Shares::new(&[(7, 0.65), (8, 0.25), (9, 0.1)]);
        let of = |shares: &Shares, group| {
            let hashes = (0..1_000_000u64).map(|it| it.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            hashes.filter(|hash| shares.of(*hash) == group).count()
        };
        for (group, share) in [(7, 0.65), (8, 0.25), (9, 0.1)] {
            assert!(of(&after, group).abs_diff((share * 1e6) as usize) < 1_500);
        }
        // Envoy: the hash modulo 100, plus 1, against the shares in percent one after the other.
        for hash in 0..1_000 {
            let envoys = if hash % 100 < 70 { 7 } else { 8 };
            assert_eq!(before.of(hash), envoys);
            let moved = [65..70, 90..100]
                .iter()
                .any(|it| it.contains(&(hash % 100)));
            assert_eq!(before.of(hash) != after.of(hash), moved);
        }
        assert_eq!(after.of(u64::MAX - u64::MAX % 100 - 1), 9);
    }

    proptest! {
        #[test]
        fn pairs_have_what_the_groups_have(weights in prop::collection::vec(0.001..100.0f64, 2..20)) {
            let sum: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            let turns = turns(0, &shares);
            prop_assert_eq!(turns.pairs.len(), shares.len() - 1);
            let mut got = vec![0.0; shares.len()];
            for pair in &turns.pairs {
                let part = 1.0 / turns.pairs.len() as f64;
                got[pair.first as usize] += pair.share * part;
                got[pair.other as usize] += (1.0 - pair.share) * part;
            }
            for (got, share) in got.iter().zip(&shares) {
                prop_assert!((got - share).abs() < 1e-9, "{:?} {:?}", got, share);
            }
        }

        #[test]
        fn many_groups_have_their_shares_over_any_run(
            weights in prop::collection::vec(0.001..100.0f64, 2..8),
            start in 0..1_000_000u64,
            run in 1..2_000usize,
        ) {
            let sum: f64 = weights.iter().sum();
            let shares: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
            let turns = turns(start, &shares);
            let mut got = vec![0usize; shares.len()];
            (0..run).for_each(|_| got[turns.take()] += 1);
            for (index, (got, share)) in got.iter().zip(&shares).enumerate() {
                let of_it = |pair: &&Pair| [pair.first, pair.other].contains(&(index as u32));
                let pairs = turns.pairs.iter().filter(of_it).count() as f64;
                let off = (*got as f64 - share * run as f64).abs();
                prop_assert!(off <= 2.0 * pairs, "{} off by {} in {:?}", index, off, shares);
            }
        }
    }
}
