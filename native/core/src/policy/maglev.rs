//! maglev: calls with one key go to one backend, by a table that is read at one place.
//!
//! The table is built as Envoy builds it. Of a change of the list it moves a few more keys than a
//! ring does, but the shares of the backends are exact, and a lookup does not search. Where the backend
//! of a slot cannot take a call, the key is hashed again, as Envoy's retries do, a few times; then the
//! slots that follow are gone through.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use strength_reduce::StrengthReducedU64;

use super::contract::{Build, CandidateList, PolicyConfig};
use super::hashing::{self, BalanceFactor, KeyTable};
use crate::hash::{shares, xxh64};

/// How many slots a table has; Envoy's default is 65,537.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    table_size: u32,
    /// Has keys pass on to others where their backend has too many calls. `None` is never.
    pub hash_balance_factor: Option<BalanceFactor>,
}

/// What is wrong with a table's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// It is above [`Config::LIMIT`].
    TooLarge(u32),
    /// It is not prime. A backend's steps through the table reach every slot only if it is.
    NotPrime(u32),
}

impl Config {
    /// The largest size (Envoy's), which is prime.
    pub const LIMIT: u32 = 5_000_011;

    /// A table of this size.
    ///
    /// ```
    /// use grpc_lb_core::policy::maglev::{Config, ConfigError};
    ///
    /// assert!(Config::new(65_537).is_ok());
    /// assert_eq!(Config::new(65_536), Err(ConfigError::NotPrime(65_536)));
    /// ```
    pub fn new(table_size: u32) -> Result<Self, ConfigError> {
        if table_size > Self::LIMIT {
            Err(ConfigError::TooLarge(table_size))
        } else if !is_prime(table_size) {
            Err(ConfigError::NotPrime(table_size))
        } else {
            Ok(Config {
                table_size,
                hash_balance_factor: None,
            })
        }
    }

    /// The number of slots.
    pub fn table_size(&self) -> u32 {
        self.table_size
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            table_size: 65_537,
            hash_balance_factor: None,
        }
    }
}

pub(crate) type Picker = hashing::Picker<Table>;

impl PolicyConfig for Config {
    const NAME: &'static str = "maglev";
    const HASHES: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        Picker::build(self.table_size, self.hash_balance_factor, list, with)
    }

    fn counts_calls(&self) -> bool {
        self.hash_balance_factor.is_some()
    }
}

impl KeyTable for Table {
    /// The number of slots.
    type Options = u32;
    const REHASHES: usize = 8;

    fn build(table_size: &u32, backends: &[(&[u8], u32)]) -> Self {
        Self::of_size(*table_size, &shares(backends))
    }

    #[inline]
    fn entries(&self) -> &[u32] {
        &self.slots
    }

    #[inline]
    fn find(&self, hash: u64, attempt: usize) -> usize {
        self.slot(hash, attempt as u64)
    }

    fn part(&self, _slot: usize) -> f64 {
        1.0 / self.slots.len() as f64
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.slots)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            ConfigError::TooLarge(size) => {
                write!(f, "table_size ({size}) is above {}", Config::LIMIT)
            }
            ConfigError::NotPrime(size) => write!(f, "table_size ({size}) is not a prime number"),
        }
    }
}

impl std::error::Error for ConfigError {}

fn is_prime(number: u32) -> bool {
    let mut factors = (2..).take_while(|factor| factor * factor <= number);
    number >= 2 && !factors.any(|factor| number.is_multiple_of(factor))
}

/// The table. It is built off the hot path and never changes.
///
/// ```
/// use grpc_lb_core::hash::xxh64;
/// use grpc_lb_core::policy::maglev::{Config, Table};
///
/// let table = Table::build(&Config::default(), &[("10.0.0.1:443", 1), ("10.0.0.2:443", 1)]);
/// let hash = xxh64(b"some-user", 0);
/// assert_eq!(table.lookup(hash, 0), table.lookup(hash, 0));
///
/// let nobody = Table::build::<&str>(&Config::default(), &[]);
/// assert_eq!(nobody.lookup(hash, 0), None);
/// ```
pub struct Table {
    /// The backends of the slots, as indices of the list. Empty if there are no backends.
    slots: Box<[u32]>,
    /// The number of slots, prepared: a division is the dearest instruction of a lookup.
    size: StrengthReducedU64,
}

impl Table {
    /// The table of these backends, each a key and a weight. It does not depend on their order,
    /// but for the indices.
    pub fn build<K: AsRef<[u8]>>(config: &Config, backends: &[(K, u32)]) -> Self {
        let backends: Vec<_> = backends.iter().map(|(key, w)| (key.as_ref(), *w)).collect();
        Self::of_shares(config, &shares(&backends))
    }

    /// The table of backends whose weights are parts of 1.
    pub fn of_shares<K: AsRef<[u8]>>(config: &Config, backends: &[(K, f64)]) -> Self {
        Self::of_size(config.table_size, backends)
    }

    fn of_size<K: AsRef<[u8]>>(size: u32, backends: &[(K, f64)]) -> Self {
        let size = u64::from(size);
        Table {
            slots: fill(size, backends).into(),
            size: StrengthReducedU64::new(size),
        }
    }

    /// The backends of the slots, in order; none if there are no backends.
    pub fn slots(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.slots.iter().map(|backend| *backend as usize)
    }

    /// The backend of this hash, or `None` if there are no backends. Attempts above 0 are for when
    /// those before have led to backends that are not ready: they hash again, as Envoy's retries.
    #[inline]
    pub fn lookup(&self, hash: u64, attempt: u32) -> Option<usize> {
        let slot = self.slots.get(self.slot(hash, attempt.into()));
        slot.map(|backend| *backend as usize)
    }

    #[inline]
    fn slot(&self, hash: u64, attempt: u64) -> usize {
        // Of 0 that is 0, which changes no bit.
        ((hash ^ attempt.wrapping_neg()) % self.size) as usize
    }

    /// The backends of all slots once, beginning at the one for this hash: what is left to a call
    /// that no attempt has led to a backend that is ready. A backend without a slot, as there are
    /// where backends outnumber the slots, is not among them.
    #[inline]
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let first = self.slot(hash, 0);
        let (before, after) = self.slots.split_at(first.min(self.slots.len()));
        after.iter().chain(before).map(|backend| *backend as usize)
    }
}

/// A backend on its way through the slots.
struct Filler {
    index: u32,
    share: f64,
    /// What its turns so far have cost; it has another when its share has made up for them.
    target: f64,
    slot: u64,
    skip: u64,
}

const FREE: u32 = u32::MAX;

/// In turns, all backends take the next slot that is free on their own way through the table. The
/// heaviest has a turn in every round, the others as often as their share is of its share.
fn fill<K: AsRef<[u8]>>(size: u64, backends: &[(K, f64)]) -> Vec<u32> {
    debug_assert!(backends
        .iter()
        .all(|(_, share)| *share > 0.0 && *share <= 1.0));
    let heaviest = backends.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let mut sorted: Vec<u32> = (0..backends.len() as u32).collect();
    sorted.sort_by_key(|index| backends[*index as usize].0.as_ref());
    let mut fillers: Vec<Filler> = sorted
        .into_iter()
        .map(|index| {
            let (key, share) = &backends[index as usize];
            let key = key.as_ref();
            Filler {
                index,
                share: *share,
                target: 0.0,
                slot: xxh64(key, 0) % size,
                skip: xxh64(key, 1) % (size - 1) + 1,
            }
        })
        .collect();

    // The backend that is next, and in which round. To ask every backend in every round would take the
    // product of slots and backends where one weight is far above the others.
    let mut turns: BinaryHeap<Reverse<(u64, usize)>> = (0..fillers.len())
        .map(|order| Reverse((1, order)))
        .collect();
    if turns.is_empty() {
        return Vec::new();
    }
    let mut slots = vec![FREE; size as usize];
    for _ in 0..size {
        let mut turn = turns.peek_mut().expect("every turn leads to another");
        let Reverse((round, order)) = *turn;
        let filler = &mut fillers[order];
        while slots[filler.slot as usize] != FREE {
            // Both are below the size: a division would be most of what there is to do.
            filler.slot += filler.skip;
            if filler.slot >= size {
                filler.slot -= size;
            }
        }
        slots[filler.slot as usize] = filler.index;
        filler.target += heaviest;
        *turn = Reverse((filler.next_turn(round), order));
    }
    slots
}

impl Filler {
    /// The first round after this one in which its share has made up for its turns.
    fn next_turn(&self, round: u64) -> u64 {
        let has_turn = |round: u64| round as f64 * self.share >= self.target;
        // The division may round to one beside it; what counts is the product, as in Envoy.
        let mut next = ((self.target / self.share) as u64)
            .saturating_sub(1)
            .max(round + 1);
        while !has_turn(next) {
            next += 1;
        }
        next
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule as Envoy has it, which asks every backend in every round.
    fn plain(size: u64, backends: &[(String, f64)]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..backends.len()).collect();
        order.sort_by_key(|index| &backends[*index].0);
        let heaviest = backends.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let mut slots = vec![usize::MAX; size as usize];
        let mut targets = vec![0.0; backends.len()];
        let mut next = vec![0; backends.len()];
        let mut free = size;
        for round in 1_u64.. {
            for index in order.iter().copied() {
                let (key, share) = &backends[index];
                if free == 0 {
                    return slots;
                }
                if round as f64 * share < targets[index] {
                    continue;
                }
                targets[index] += heaviest;
                let (offset, skip) = (
                    xxh64(key.as_bytes(), 0) % size,
                    xxh64(key.as_bytes(), 1) % (size - 1) + 1,
                );
                let slot = loop {
                    let slot = (offset + skip * next[index]) % size;
                    next[index] += 1;
                    if slots[slot as usize] == usize::MAX {
                        break slot;
                    }
                };
                slots[slot as usize] = index;
                free -= 1;
            }
        }
        unreachable!("the table is full before the rounds end")
    }

    fn keyed<W: Copy>(weights: &[W]) -> Vec<(String, W)> {
        let weights = weights.iter().enumerate();
        weights
            .map(|(index, weight)| (format!("10.0.0.{index}:443"), *weight))
            .collect()
    }

    #[test]
    fn a_config_names_what_is_wrong_with_it() {
        let new = Config::new;
        assert_eq!(new(65_537), Ok(Config::default()));
        for prime in [2, 3, 5, 7, 1_021, 5_000_011] {
            assert_eq!(new(prime).map(|config| config.table_size()), Ok(prime));
        }
        for other in [0, 1, 4, 9, 25, 65_536, 2_237 * 2_233] {
            assert_eq!(new(other), Err(ConfigError::NotPrime(other)));
        }
        assert_eq!(new(5_000_077), Err(ConfigError::TooLarge(5_000_077)));
        assert_eq!(new(u32::MAX), Err(ConfigError::TooLarge(u32::MAX)));
        let error = ConfigError::NotPrime(8).to_string();
        assert_eq!(error, "table_size (8) is not a prime number");
        let error = ConfigError::TooLarge(5_000_077).to_string();
        assert_eq!(error, "table_size (5000077) is above 5000011");
    }

    #[test]
    fn a_table_of_nobody_leads_nowhere() {
        let table = Table::build::<&str>(&Config::default(), &[]);
        assert_eq!(table.slots().len(), 0);
        assert_eq!(table.lookup(7, 0), None);
        assert_eq!(table.walk(7).next(), None);
    }

    #[test]
    fn attempts_hash_again() {
        let table = Table::build(&Config::new(1_021).unwrap(), &keyed(&[1; 10]));
        let slots: Vec<_> = table.slots().collect();
        for hash in [0, 1, 1_021, u64::MAX, 0x1234_5678_9abc_def0] {
            assert_eq!(table.lookup(hash, 0), Some(slots[(hash % 1_021) as usize]));
            for attempt in 1..20_u64 {
                let again = hash ^ (u64::MAX - attempt + 1);
                assert_eq!(
                    table.lookup(hash, attempt as u32),
                    Some(slots[(again % 1_021) as usize])
                );
            }
        }
    }

    #[test]
    fn a_walk_passes_every_slot_once() {
        let table = Table::build(&Config::new(7).unwrap(), &keyed(&[1, 2]));
        let slots: Vec<_> = table.slots().collect();
        for hash in 0..14 {
            let mut expected = slots.clone();
            expected.rotate_left((hash % 7) as usize);
            assert_eq!(table.walk(hash).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn backends_may_outnumber_the_slots() {
        let table = Table::build(&Config::new(2).unwrap(), &keyed(&[1; 5]));
        let mut slots: Vec<_> = table.slots().collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn weights_far_apart_do_not_make_the_build_long() {
        // Round after round over all, this would take 10^11 steps.
        let mut weights = vec![1; 20_000];
        weights[7] = u32::MAX;
        let table = Table::build(&Config::new(5_000_011).unwrap(), &keyed(&weights));
        assert_eq!(
            table.slots().filter(|slot| *slot == 7).count(),
            5_000_011 - 19_999
        );
    }

    proptest! {
        #[test]
        fn turns_are_taken_as_in_the_plain_rule(
            weights in prop_oneof![
                // Where turns fall due in the very round of another.
                prop::collection::vec(1..4_u32, 1..25),
                prop::collection::vec(1..1_000_u32, 1..25),
                prop::collection::vec(prop_oneof![1..4_u32, Just(u32::MAX)], 1..25),
            ],
            size in prop::sample::select(vec![2_u32, 3, 7, 17, 101, 1_021]),
        ) {
            let keyed = keyed(&weights);
            let table = Table::build(&Config::new(size).unwrap(), &keyed);
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let shares: Vec<_> = keyed
                .into_iter()
                .map(|(key, weight)| (key, f64::from(weight) / sum))
                .collect();
            prop_assert_eq!(
                table.slots().collect::<Vec<_>>(),
                plain(u64::from(size), &shares)
            );
        }

        #[test]
        fn the_order_of_the_list_does_not_matter(
            (backends, shuffled) in prop::collection::vec(1..9_u32, 1..20)
                .prop_map(|weights| keyed(&weights))
                .prop_flat_map(|keyed| (Just(keyed.clone()), Just(keyed).prop_shuffle())),
        ) {
            let config = Config::new(101).unwrap();
            let keys = |backends: &[(String, u32)]| -> Vec<String> {
                let table = Table::build(&config, backends);
                table.slots().map(|index| backends[index].0.clone()).collect()
            };
            prop_assert_eq!(keys(&backends), keys(&shuffled));
        }

        #[test]
        fn slots_are_in_number_as_the_weights(
            weights in prop::collection::vec(1..100_u32, 1..20),
        ) {
            let table = Table::build(&Config::new(10_007).unwrap(), &keyed(&weights));
            let sum: u32 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let count = table.slots().filter(|slot| *slot == index).count() as f64;
                let share = f64::from(*weight) / f64::from(sum);
                // In the last round some have had a turn and some have not.
                let allowed = 2.0 + weights.len() as f64 * share;
                prop_assert!((count - 10_007.0 * share).abs() <= allowed, "{count} {share}");
            }
        }
    }
}
