//! ring_hash (gRFC A42): calls with one key go to one backend, and keep going there while other
//! backends come and go.
//!
//! Every backend has entries on a ring of hashes, in number as its weight; a call goes to the
//! backend of the first entry that is not below the hash of the call's key. If that one is not
//! ready, the ring is walked to the next entry whose backend is. A call without a key goes to any
//! point of the ring (A76).

use std::fmt;
use std::io::Write;

use super::contract::{Build, CandidateList, PolicyConfig};
use super::hashing::{self, BalanceFactor, KeyTable};
use crate::hash::{shares, xxh64};

/// How many entries a ring may have; A42's default is 1,024 to 4,096.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    min_ring_size: u32,
    max_ring_size: u32,
    /// Has keys pass on to others where their backend has too many calls. `None` is never.
    pub hash_balance_factor: Option<BalanceFactor>,
}

/// What is wrong with the sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The smallest size is 0 or above [`Config::LIMIT`].
    MinRingSize(u32),
    /// The largest size is 0 or above [`Config::LIMIT`].
    MaxRingSize(u32),
    /// The smallest size is above the largest.
    MinAboveMax {
        /// The smallest size.
        min: u32,
        /// The largest size.
        max: u32,
    },
}

impl Config {
    /// The largest size that can be asked for (A42).
    pub const LIMIT: u32 = 8_388_608;

    /// The cap that gRPC clients put on every ring's size, whatever is asked for: A42's default.
    pub const DEFAULT_CAP: u32 = 4_096;

    /// A ring of `min_ring_size` entries at least, where that is needed to have them in number as
    /// the weights, up to `max_ring_size`.
    ///
    /// ```
    /// use grpc_lb_core::policy::ring_hash::{Config, ConfigError};
    ///
    /// assert!(Config::new(1_024, 4_096).is_ok());
    /// assert_eq!(Config::new(0, 9), Err(ConfigError::MinRingSize(0)));
    /// assert_eq!(
    ///     Config::new(20, 10).unwrap_err().to_string(),
    ///     "min_ring_size (20) is above max_ring_size (10)"
    /// );
    /// ```
    pub fn new(min_ring_size: u32, max_ring_size: u32) -> Result<Self, ConfigError> {
        let allowed = 1..=Self::LIMIT;
        if !allowed.contains(&min_ring_size) {
            Err(ConfigError::MinRingSize(min_ring_size))
        } else if !allowed.contains(&max_ring_size) {
            Err(ConfigError::MaxRingSize(max_ring_size))
        } else if min_ring_size > max_ring_size {
            Err(ConfigError::MinAboveMax {
                min: min_ring_size,
                max: max_ring_size,
            })
        } else {
            Ok(Config {
                min_ring_size,
                max_ring_size,
                ..Config::default()
            })
        }
    }

    /// The same with neither size above `cap`. A42 compares the two sizes before it caps them, so
    /// that a config is right or wrong whatever the client's cap. A cap of 0 counts as 1.
    #[must_use]
    pub fn capped(self, cap: u32) -> Self {
        let cap = cap.max(1);
        Config {
            min_ring_size: self.min_ring_size.min(cap),
            max_ring_size: self.max_ring_size.min(cap),
            ..self
        }
    }

    /// The smallest size that a ring is to have.
    pub fn min_ring_size(&self) -> u32 {
        self.min_ring_size
    }

    /// The largest size that a ring may have.
    pub fn max_ring_size(&self) -> u32 {
        self.max_ring_size
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            min_ring_size: 1_024,
            max_ring_size: 4_096,
            hash_balance_factor: None,
        }
    }
}

pub(crate) type Picker = hashing::Picker<Ring>;

impl PolicyConfig for Config {
    const NAME: &'static str = "ring_hash";
    const HASHES: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        // The bound is no part of the ring.
        let sizes = Config {
            hash_balance_factor: None,
            ..*self
        };
        Picker::build(sizes, self.hash_balance_factor, list, with)
    }

    fn counts_calls(&self) -> bool {
        self.hash_balance_factor.is_some()
    }
}

impl KeyTable for Ring {
    type Options = Config;
    const REHASHES: usize = 0;

    fn build(options: &Config, backends: &[(&[u8], u32)]) -> Self {
        Ring::build(options, backends)
    }

    #[inline]
    fn entries(&self) -> &[u32] {
        &self.backends
    }

    #[inline]
    fn find(&self, hash: u64, _attempt: usize) -> usize {
        Ring::find(self, hash)
    }

    fn part(&self, entry: usize) -> f64 {
        match self.hashes.len() {
            1 => 1.0,
            n => {
                let before = self.hashes[(entry + n - 1) % n];
                self.hashes[entry].wrapping_sub(before) as f64 / 2f64.powi(64)
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.hashes) + size_of_val(&*self.backends)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let limit = Config::LIMIT;
        match self {
            ConfigError::MinRingSize(size) => {
                write!(f, "min_ring_size ({size}) is not within 1..{limit}")
            }
            ConfigError::MaxRingSize(size) => {
                write!(f, "max_ring_size ({size}) is not within 1..{limit}")
            }
            ConfigError::MinAboveMax { min, max } => {
                write!(f, "min_ring_size ({min}) is above max_ring_size ({max})")
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// The ring. It is built off the hot path and never changes; a lookup is a binary search.
///
/// ```
/// use grpc_lb_core::hash::xxh64;
/// use grpc_lb_core::policy::ring_hash::{Config, Ring};
///
/// let ring = Ring::build(&Config::default(), &[(b"10.0.0.1:443", 1), (b"10.0.0.2:443", 1)]);
/// assert_eq!(ring.len(), 1_024);
///
/// let hash = xxh64(b"some-user", 0);
/// let first = ring.walk(hash).next();
/// assert_eq!(first, Some(ring.entry(ring.find(hash)).1));
/// // The other one, for when the first is not ready.
/// assert_eq!(ring.walk(hash).find(|backend| Some(*backend) != first), first.map(|i| 1 - i));
/// ```
pub struct Ring {
    /// Ascending. Apart from the backends, so that a search touches nothing else.
    hashes: Box<[u64]>,
    /// The backends of the entries, as indices of the list.
    backends: Box<[u32]>,
}

impl Ring {
    /// The ring of these backends, each a key and a weight, in list order. An entry's hash is that
    /// of its backend's key, an underscore and the entry's number.
    ///
    /// Sums of rounded shares may add one entry to the largest size, as in gRPC and Envoy.
    pub fn build<K: AsRef<[u8]>>(config: &Config, backends: &[(K, u32)]) -> Self {
        let backends: Vec<_> = backends.iter().map(|(key, w)| (key.as_ref(), *w)).collect();
        Self::of_shares(config, &shares(&backends), |entry| xxh64(entry, 0))
    }

    /// The ring of backends whose weights are parts of 1, with any hash.
    pub fn of_shares<K: AsRef<[u8]>>(
        config: &Config,
        backends: &[(K, f64)],
        hash: impl Fn(&[u8]) -> u64,
    ) -> Self {
        debug_assert!(backends
            .iter()
            .all(|(_, share)| *share > 0.0 && *share <= 1.0));
        let least = backends.iter().map(|(_, share)| *share).reduce(f64::min);
        let mut entries = Vec::new();
        if let Some(least) = least {
            // In this order of operations: other ones round differently, and a ring that differs
            // from other clients' in size sends keys elsewhere.
            let scale = ((least * f64::from(config.min_ring_size)).ceil() / least)
                .min(f64::from(config.max_ring_size));
            entries.reserve(scale.ceil() as usize);
            let (mut current, mut target) = (0.0, 0.0);
            let mut text = Vec::new();
            for (index, (key, share)) in backends.iter().enumerate() {
                text.clear();
                text.extend_from_slice(key.as_ref());
                text.push(b'_');
                let prefix = text.len();
                target += scale * share;
                let mut number = 0_u32;
                while current < target {
                    text.truncate(prefix);
                    write!(text, "{number}").expect("a vector takes every write");
                    entries.push((hash(&text), index as u32));
                    number += 1;
                    current += 1.0;
                }
            }
        }
        // Of equal hashes the backend that is listed first comes first, as in order of insertion.
        entries.sort_unstable();
        let (hashes, backends): (Vec<_>, Vec<_>) = entries.into_iter().unzip();
        Ring {
            hashes: hashes.into(),
            backends: backends.into(),
        }
    }

    /// The number of entries; 0 if there are no backends.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// An entry's hash and backend.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn entry(&self, index: usize) -> (u64, usize) {
        (self.hashes[index], self.backends[index] as usize)
    }

    /// The index of the first entry whose hash is not below this one; behind the last comes the
    /// first, 0.
    #[inline]
    pub fn find(&self, hash: u64) -> usize {
        let index = self.hashes.partition_point(|entry| *entry < hash);
        if index < self.hashes.len() {
            index
        } else {
            0
        }
    }

    /// The backends of all entries once, beginning at the one for this hash: those that a call
    /// tries in turn until one is ready.
    #[inline]
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let (before, after) = self.backends.split_at(self.find(hash));
        after.iter().chain(before).map(|backend| *backend as usize)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(ring: &Ring, backends: usize) -> Vec<usize> {
        let mut counts = vec![0; backends];
        ring.walk(0).for_each(|backend| counts[backend] += 1);
        counts
    }

    #[test]
    fn a_config_names_what_is_wrong_with_it() {
        let new = Config::new;
        assert_eq!(new(1_024, 4_096), Ok(Config::default()));
        assert!(new(1, 1).is_ok());
        assert!(new(Config::LIMIT, Config::LIMIT).is_ok());
        assert_eq!(new(0, 1), Err(ConfigError::MinRingSize(0)));
        assert_eq!(new(1, 0), Err(ConfigError::MaxRingSize(0)));
        assert_eq!(
            new(8_388_609, 8_388_609),
            Err(ConfigError::MinRingSize(8_388_609))
        );
        assert_eq!(new(1, u32::MAX), Err(ConfigError::MaxRingSize(u32::MAX)));
        assert_eq!(new(2, 1), Err(ConfigError::MinAboveMax { min: 2, max: 1 }));
        let error = ConfigError::MaxRingSize(0).to_string();
        assert_eq!(error, "max_ring_size (0) is not within 1..8388608");
    }

    #[test]
    fn the_cap_is_for_both_sizes() {
        let capped = |min, max| Config::new(min, max).map(|config| config.capped(4_096));
        assert_eq!(capped(10, 20), Config::new(10, 20));
        assert_eq!(capped(1_024, 8_388_608), Ok(Config::default()));
        assert_eq!(capped(5_000, 6_000), Config::new(4_096, 4_096));
        assert_eq!(Config::default().capped(0), Config::new(1, 1).unwrap());
    }

    #[test]
    fn a_ring_of_nobody_leads_nowhere() {
        let ring = Ring::build::<&str>(&Config::default(), &[]);
        assert!(ring.is_empty());
        assert_eq!(ring.find(7), 0);
        assert_eq!(ring.walk(7).next(), None);
    }

    #[test]
    fn a_weight_of_0_counts_as_1() {
        let config = Config::new(8, 8).unwrap();
        let ring = Ring::build(&config, &[("a", 0), ("b", 3)]);
        assert_eq!(counts(&ring, 2), [2, 6]);
    }

    #[test]
    fn equal_hashes_are_in_list_order() {
        let config = Config::new(4, 4).unwrap();
        let ring = Ring::of_shares(&config, &[("a", 0.5), ("b", 0.5)], |_| 9);
        assert_eq!(ring.walk(9).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(ring.find(10), 0);
    }

    #[test]
    fn a_ring_smaller_than_the_list_leaves_some_out() {
        let backends: Vec<_> = (0..10).map(|index| (index.to_string(), 1)).collect();
        let ring = Ring::build(&Config::new(1, 3).unwrap(), &backends);
        assert_eq!(counts(&ring, 10).iter().sum::<usize>(), ring.len());
        assert_eq!(ring.len(), 3);
    }

    #[test]
    fn a_backend_that_leaves_takes_only_its_own_keys_along() {
        // 12 entries each, before and after.
        let all = [("a", 1), ("b", 1), ("c", 1), ("d", 1)];
        let before = Ring::build(&Config::new(48, 48).unwrap(), &all);
        let after = Ring::build(&Config::new(36, 36).unwrap(), &all[..3]);
        for key in 0..1_000_u32 {
            let hash = xxh64(&key.to_le_bytes(), 0);
            let mut walk = before.walk(hash);
            assert_eq!(after.walk(hash).next(), walk.find(|backend| *backend != 3));
        }
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "too many steps")]
        fn a_ring_is_sorted_and_its_entries_are_in_number_as_the_weights(
            weights in prop::collection::vec(1..1_000_u32, 1..20),
            min in 1..2_000_u32,
            more in 0..2_000_u32,
        ) {
            let keys: Vec<_> = (0..weights.len()).map(|index| format!("key {index}")).collect();
            let backends: Vec<_> = keys.iter().zip(weights.iter().copied()).collect();
            let ring = Ring::build(&Config::new(min, min + more).unwrap(), &backends);
            let entries: Vec<_> = (0..ring.len()).map(|index| ring.entry(index)).collect();

            prop_assert!(entries.is_sorted());
            prop_assert!((min..=min + more + 1).contains(&(ring.len() as u32)), "{}", ring.len());
            let sum: u32 = weights.iter().sum();
            for (backend, count) in counts(&ring, weights.len()).into_iter().enumerate() {
                let exact = ring.len() as f64 * f64::from(weights[backend]) / f64::from(sum);
                prop_assert!((count as f64 - exact).abs() <= 2.0, "{count} {exact}");
                for number in 0..count {
                    let text = format!("{}_{number}", keys[backend]);
                    let entry = (xxh64(text.as_bytes(), 0), backend);
                    prop_assert!(entries.contains(&entry));
                }
            }
        }

        #[test]
        fn a_lookup_finds_the_first_entry_that_is_not_below(
            size in 1..50_u32,
            hash: u64,
            near: prop::sample::Index,
            distance in 0..3_u64,
        ) {
            let config = Config::new(size, size).unwrap();
            let ring = Ring::build(&config, &[("a", 1), ("b", 2), ("c", 3)]);
            let at = ring.entry(near.index(ring.len())).0;
            for hash in [hash, at.wrapping_add(distance).wrapping_sub(1), 0, u64::MAX] {
                let first = (0..ring.len()).find(|index| ring.entry(*index).0 >= hash);
                prop_assert_eq!(ring.find(hash), first.unwrap_or(0));

                let walk: Vec<_> = ring.walk(hash).collect();
                let expected: Vec<_> = (0..ring.len())
                    .map(|step| ring.entry((ring.find(hash) + step) % ring.len()).1)
                    .collect();
                prop_assert_eq!(walk, expected);
            }
        }
    }
}
