//! Alias table: a random pick in proportion to weights, in one step (Walker's method, built as
//! Vose does).
//!
//! Each of n equal slots belongs to one backend up to a threshold, and to another one above it.

/// Backends, weighted.
pub struct Alias {
    slots: Box<[Slot]>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Below it the slot is its own backend's, of 2^64.
    threshold: u64,
    /// The backend that has the rest.
    other: u32,
}

impl Alias {
    /// Prepares a table. `None` for fewer than two backends or when all weights are equal: that is
    /// for a plain random pick.
    ///
    /// A backend of weight 0 is never picked, nor is one whose weight is no positive number.
    pub fn new(weights: &[f64]) -> Option<Alias> {
        let backends = u32::try_from(weights.len()).ok()?;
        let weight = |&weight: &f64| {
            if weight > 0.0 {
                weight.min(f64::MAX)
            } else {
                0.0
            }
        };
        let largest = weights.iter().map(weight).fold(0.0, f64::max);
        if weights.len() < 2 || weights.iter().map(weight).all(|weight| weight == largest) {
            return None;
        }
        // Relative to the largest, so that the sum is finite.
        let sum: f64 = weights.iter().map(|w| weight(w) / largest).sum();
        // How many slots a backend fills.
        let mut fills: Vec<f64> = weights
            .iter()
            .map(|w| weight(w) / largest / sum * f64::from(backends))
            .collect();

        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..backends).partition(|&backend| fills[backend as usize] < 1.0);
        // A backend that is left without a partner fills its slot, but for an error of rounding.
        let mut slots: Box<[Slot]> = (0..backends)
            .map(|backend| Slot {
                threshold: u64::MAX,
                other: backend,
            })
            .collect();
        while let (Some(&giver), Some(taker)) = (large.last(), small.pop()) {
            let fill = fills[taker as usize];
            slots[taker as usize] = Slot {
                threshold: (fill * 2.0_f64.powi(64)) as u64,
                other: giver,
            };
            // In this order: the sum of both is nearer to the giver's true rest.
            let rest = (fills[giver as usize] + fill) - 1.0;
            fills[giver as usize] = rest;
            if rest < 1.0 {
                large.pop();
                small.push(giver);
            }
        }
        Some(Alias { slots })
    }

    /// The index of the backend that a random number stands for; every number is as likely as the
    /// others.
    ///
    /// ```
    /// use grpc_lb_core::testing::Alias;
    ///
    /// let alias = Alias::new(&[3.0, 1.0]).unwrap();
    /// let quarters = [0, 1 << 62, 2 << 62, 3 << 62];
    /// let ones = quarters.iter().filter(|&&random| alias.pick(random) == 1).count();
    /// assert_eq!(ones, 1);
    /// ```
    #[inline]
    pub fn pick(&self, random: u64) -> usize {
        // As a fraction of 2^64, times the slots: the slot, and where in it.
        let scaled = u128::from(random) * self.slots.len() as u128;
        let own = (scaled >> 64) as usize;
        let slot = self.slots[own];
        if (scaled as u64) < slot.threshold {
            own
        } else {
            slot.other as usize
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The share of all random numbers that each backend gets.
    fn shares(alias: &Alias) -> Vec<f64> {
        let n = alias.slots.len();
        let mut shares = vec![0.0; n];
        for (own, slot) in alias.slots.iter().enumerate() {
            let part = slot.threshold as f64 / 2.0_f64.powi(64);
            shares[own] += part / n as f64;
            shares[slot.other as usize] += (1.0 - part) / n as f64;
        }
        shares
    }

    #[test]
    fn equal_weights_need_no_table() {
        for weights in [&[][..], &[1.0], &[2.0, 2.0], &[0.0, 0.0], &[-1.0, f64::NAN]] {
            assert!(Alias::new(weights).is_none(), "{weights:?}");
        }
    }

    #[test]
    fn any_number_has_a_backend() {
        let alias = Alias::new(&[1.0, 0.0, 5.0]).unwrap();
        for random in [0, 1, u64::MAX / 3, u64::MAX / 3 + 1, u64::MAX - 1, u64::MAX] {
            assert!([0, 2].contains(&alias.pick(random)));
        }
    }

    #[test]
    fn picks_are_chi_square_close_to_the_weights() {
        let weights = [1.0, 2.0, 3.0, 0.5, 10.0, 0.25, 7.0, 1.25];
        let sum: f64 = weights.iter().sum();
        let alias = Alias::new(&weights).unwrap();
        let mut random = fastrand::Rng::with_seed(17);
        let mut counts = [0.0; 8];
        let picks = 1_000_000;
        (0..picks).for_each(|_| counts[alias.pick(random.u64(..))] += 1.0);
        let statistic: f64 = counts
            .iter()
            .zip(weights)
            .map(|(count, weight)| {
                let expected = f64::from(picks) * weight / sum;
                (count - expected) * (count - expected) / expected
            })
            .sum();
        // 7 degrees of freedom: one table of 1,000 that are right exceeds 24.32.
        assert!(statistic < 24.32, "{statistic}");
    }

    proptest! {
        #[test]
        fn shares_are_the_weights(
            weights in prop::collection::vec(prop_oneof![0.0..1.0, 0.0..1e9, Just(0.0)], 2..200)
        ) {
            let sum: f64 = weights.iter().sum();
            if let Some(alias) = Alias::new(&weights) {
                for (share, weight) in shares(&alias).into_iter().zip(&weights) {
                    prop_assert!((share - weight / sum).abs() < 1e-12, "{share} {weight}");
                }
            }
        }

        #[test]
        fn what_has_no_weight_is_never_picked(
            weights in prop::collection::vec(
                prop_oneof![any::<f64>(), Just(0.0), Just(f64::NAN), Just(f64::INFINITY)],
                2..50
            ),
            random in any::<u64>(),
        ) {
            if let Some(alias) = Alias::new(&weights) {
                let weight = weights[alias.pick(random)];
                prop_assert!(weight > 0.0, "{weight}");
            }
        }
    }
}
