//! random_subsetting (gRFC A68): a client that does not need every backend connects to some.
//!
//! Each client has a seed of its own, so the clients' choices are spread evenly over the backends.
//! A client's own choice hardly changes with the list: of a backend that comes or goes, at most
//! one other takes the place.

use std::num::NonZeroU32;

use crate::hash::xxh64;

/// A subset of the backends of each priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many are used.
    pub size: NonZeroU32,
    /// What the choice depends on: clients with the same seed choose alike.
    pub seed: u64,
}

/// The `size` backends with the lowest hashes, lowest first, as indices of `keys`; all in list
/// order where there are not more of them.
///
/// ```
/// use grpc_lb_core::subset::subset;
///
/// let keys = ["10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"];
/// assert_eq!(subset(&keys, 0, 1), [1]);
/// assert_eq!(subset(&keys, 1, 1), [0]);
/// assert_eq!(subset(&keys, 0, 3), [0, 1, 2]);
/// ```
pub fn subset<K: AsRef<[u8]>>(keys: &[K], seed: u64, size: usize) -> Vec<usize> {
    let hashes = keys.iter().map(|key| xxh64(key.as_ref(), seed));
    lowest(&hashes.collect::<Vec<u64>>(), size)
}

/// The same of backends whose keys are hashed already.
pub(crate) fn lowest(hashes: &[u64], size: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..hashes.len()).collect();
    if size < hashes.len() {
        // Of equal hashes the one that is listed first goes first.
        let place = |index: &usize| (hashes[*index], *index);
        chosen.select_nth_unstable_by_key(size, place);
        chosen.truncate(size);
        chosen.sort_unstable_by_key(place);
    }
    chosen
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn members(keys: &[String], seed: u64, size: usize) -> BTreeSet<String> {
        let subset = subset(keys, seed, size);
        subset.iter().map(|index| keys[*index].clone()).collect()
    }

    #[test]
    fn the_lowest_hashes_are_chosen_lowest_first() {
        let keys: Vec<String> = (0..40).map(|index| format!("10.0.0.{index}:443")).collect();
        let hashes: Vec<u64> = keys.iter().map(|key| xxh64(key.as_bytes(), 7)).collect();
        for size in 0..40 {
            let mut lowest = hashes.clone();
            lowest.sort_unstable();
            let chosen = subset(&keys, 7, size);
            let chosen: Vec<u64> = chosen.iter().map(|index| hashes[*index]).collect();
            assert_eq!(chosen, lowest[..size]);
        }
    }

    #[test]
    fn backends_with_one_key_are_chosen_in_list_order() {
        assert_eq!(subset(&["a"; 4], 0, 3), [0, 1, 2]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn every_backend_is_chosen_about_as_often_as_the_others() {
        let keys: Vec<String> = (0..20).map(|index| format!("10.0.0.{index}:443")).collect();
        let mut counts = [0_u32; 20];
        for seed in 0..4_000 {
            subset(&keys, seed, 5)
                .iter()
                .for_each(|index| counts[*index] += 1);
        }
        // 1,000 each is expected, with a standard deviation of 27.
        assert!(
            counts.iter().all(|count| (860..1140).contains(count)),
            "{counts:?}"
        );
    }

    proptest! {
        #[test]
        fn the_choice_is_as_large_as_asked_and_does_not_depend_on_the_order(
            (keys, shuffled) in prop::collection::btree_set("[a-e]{0,3}", 0..30)
                .prop_map(Vec::from_iter)
                .prop_flat_map(|keys| (Just(keys.clone()), Just(keys).prop_shuffle())),
            seed: u64,
            size in 0..40_usize,
        ) {
            let chosen = members(&keys, seed, size);
            prop_assert_eq!(chosen.len(), size.min(keys.len()));
            prop_assert_eq!(chosen, members(&shuffled, seed, size));
        }

        #[test]
        fn a_backend_that_leaves_changes_one_member_at_most(
            keys in prop::collection::btree_set("[a-e]{0,3}", 1..30).prop_map(Vec::from_iter),
            leaves: prop::sample::Index,
            seed: u64,
            size in 0..40_usize,
        ) {
            let before = members(&keys, seed, size);
            let mut rest = keys;
            let left = rest.remove(leaves.index(rest.len()));
            let after = members(&rest, seed, size);
            let lost: Vec<_> = before.difference(&after).collect();
            prop_assert!(lost.iter().all(|key| **key == left), "{lost:?}");
            prop_assert!(after.difference(&before).count() <= lost.len());
        }
    }
}
