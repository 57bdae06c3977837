//! Static stride scheduler: picks in proportion to weights, from one counter and without a
//! lock.
//!
//! It is what gRPC's weighted_round_robin runs; gRFC A58's text has a scheduler with a queue
//! instead, which needs a lock. Weights are 16 bits wide. The counter goes over the backends in
//! list order, one generation after the other, and passes a backend of weight `w` over in all but
//! `w` of 65,535 generations, which it spreads evenly.

use strength_reduce::StrengthReducedU32;

/// The weight of a backend that no generation passes over.
const MAX: u16 = u16::MAX;

/// A weight counts as at most so many times the mean of those that are known. So one pick passes
/// over some ten backends at most, on average (C-core).
const MAX_RATIO: f64 = 10.0;

/// A weight counts as at least this part of the mean (C-core; Java has 0.1).
const MIN_RATIO: f64 = 0.01;

/// Backends, weighted.
pub struct Stride {
    weights: Box<[u16]>,
    /// Their number, prepared: a division is the dearest instruction of a pick.
    backends: StrengthReducedU32,
}

impl Stride {
    /// Scales weights as C-core does. `None` for fewer than two backends or when no weight is
    /// known: that is for round robin.
    ///
    /// 0, and what is no positive number, stands for a weight that is not known: such a backend
    /// gets the mean of those that are.
    ///
    /// ```
    /// use grpc_lb_core::testing::Stride;
    ///
    /// let stride = Stride::new(&[3.0, 0.0, 1.0]).unwrap();
    /// assert_eq!(stride.scaled(), [65_535, 43_690, 21_845]);
    /// assert!(Stride::new(&[0.0, 0.0]).is_none());
    /// ```
    pub fn new(weights: &[f32]) -> Option<Stride> {
        if weights.len() < 2 {
            return None;
        }
        Stride::from_scaled(scale(weights)?)
    }

    /// Takes weights that are scaled already. `None` unless one of them is 65,535: a table without
    /// could let picks go on and on. A backend of weight 0 is never picked.
    ///
    /// ```
    /// use grpc_lb_core::testing::Stride;
    ///
    /// assert!(Stride::from_scaled(vec![65_535, 0, 17]).is_some());
    /// assert!(Stride::from_scaled(vec![65_534, 0, 17]).is_none());
    /// ```
    pub fn from_scaled(weights: Vec<u16>) -> Option<Stride> {
        let backends = u32::try_from(weights.len()).ok()?;
        weights.contains(&MAX).then(|| Stride {
            backends: StrengthReducedU32::new(backends),
            weights: weights.into_boxed_slice(),
        })
    }

    /// The weights as they are used: 65,535 is the largest.
    #[cfg(any(test, feature = "testing"))]
    pub fn scaled(&self) -> &[u16] {
        &self.weights
    }

    /// The index of the next backend.
    ///
    /// `next` hands out the numbers of a counter, which may be shared with other picks, and begin
    /// anywhere. They are taken until one is not passed over: in a row of numbers, no more than
    /// there are backends, or twice that where the counter wraps.
    ///
    /// ```
    /// use grpc_lb_core::testing::Stride;
    ///
    /// let stride = Stride::new(&[1.0, 2.0, 3.0]).unwrap();
    /// let mut counter = 0..;
    /// let picks: Vec<usize> = (0..6).map(|_| stride.pick(|| counter.next().unwrap())).collect();
    /// assert_eq!(picks, [1, 2, 2, 0, 1, 2]);
    /// ```
    #[inline]
    pub fn pick(&self, mut next: impl FnMut() -> u32) -> usize {
        loop {
            let (generation, slot) = StrengthReducedU32::div_rem(next(), self.backends);
            let weight = u64::from(self.weights[slot as usize]);
            // Half a period between neighbours: that two of one weight are not passed over in the
            // same generations. No overflow: both products have 48 bits at most.
            let position = weight * u64::from(generation) + u64::from(slot) * u64::from(MAX / 2);
            if position % u64::from(MAX) >= u64::from(MAX) - weight {
                return slot as usize;
            }
        }
    }
}

/// C-core's arithmetic, down to which steps are f32: its known answers depend on the rounding.
fn scale(weights: &[f32]) -> Option<Vec<u16>> {
    let known = || weights.iter().copied().filter(|&weight| weight > 0.0);
    let largest = known().fold(0.0, f32::max).min(f32::MAX);
    if largest == 0.0 {
        return None;
    }
    // A power of two changes no digit of what follows, and keeps it away from where f32 ends.
    let unit = power_of_two_below(largest);
    let relative = |weight: f32| f64::from(weight.min(f32::MAX)) / unit;

    let mean = known().map(relative).sum::<f64>() / known().count() as f64;
    let max = relative(largest).min(MAX_RATIO * mean) as f32;
    let factor = f64::from(f32::from(MAX) / max);
    let rounded = |weight: f64| (weight * factor).round() as u16;
    let mean = rounded(mean);
    let least = (f64::from(mean) * MIN_RATIO).round().max(1.0) as u16;

    let scaled = |&weight: &f32| {
        if weight > 0.0 {
            rounded(relative(weight).min(f64::from(max))).max(least)
        } else {
            mean
        }
    };
    Some(weights.iter().map(scaled).collect())
}

/// The largest power of two that is not above a positive, finite number.
fn power_of_two_below(number: f32) -> f64 {
    const FRACTION: u32 = f64::MANTISSA_DIGITS - 1;
    // Every f32 is a normal f64: without its fraction it is that power.
    f64::from_bits(f64::from(number).to_bits() >> FRACTION << FRACTION)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counter(first: u32) -> impl FnMut() -> u32 {
        let mut number = first.wrapping_sub(1);
        move || {
            number = number.wrapping_add(1);
            number
        }
    }

    #[test]
    fn every_backend_is_picked_exactly_by_its_weight() {
        let stride = Stride::from_scaled(vec![65_535, 1, 0, 30_000, 65_534]).unwrap();
        let picks: u32 = stride.scaled().iter().copied().map(u32::from).sum();
        let mut next = counter(0);
        let mut counts = [0; 5];
        for _ in 0..picks {
            counts[stride.pick(&mut next)] += 1;
        }
        assert_eq!(counts[..], *stride.scaled());
    }

    #[test]
    fn extreme_weights_keep_their_ratio() {
        let ratio = |unit: f32| {
            let stride = Stride::new(&[unit, 2.0 * unit, 4.0 * unit]).unwrap();
            stride.scaled().to_vec()
        };
        let smallest = f32::from_bits(1);
        for unit in [smallest, f32::MIN_POSITIVE, 2.0_f32.powi(125)] {
            assert_eq!(ratio(unit), ratio(1.0), "{unit}");
        }
    }

    #[test]
    fn a_weight_counts_as_ten_times_the_mean_at_most() {
        let mut weights = [1.0_f32; 100];
        weights[0] = 1e6;
        let stride = Stride::new(&weights).unwrap();
        // The mean is 10,000.99, of which ten times is 65,535, and a hundredth is 66 of those.
        assert_eq!(stride.scaled()[..2], [65_535, 66]);
    }

    #[test]
    fn what_is_no_weight_is_not_known() {
        for unknown in [0.0, -0.0, -1.0, f32::NAN, f32::NEG_INFINITY] {
            let stride = Stride::new(&[3.0, unknown, 1.0]).unwrap();
            assert_eq!(stride.scaled(), [65_535, 43_690, 21_845], "{unknown}");
            assert!(Stride::new(&[unknown, unknown]).is_none());
        }
        assert_eq!(
            Stride::new(&[f32::INFINITY, 1.0]).unwrap().scaled(),
            [65_535, 328]
        );
    }

    proptest! {
        #[test]
        fn every_table_has_a_backend_that_is_never_passed_over(
            weights in prop::collection::vec(any::<f32>(), 2..50)
        ) {
            if let Some(stride) = Stride::new(&weights) {
                prop_assert!(stride.scaled().contains(&MAX));
                prop_assert!(!stride.scaled().contains(&0));
            }
        }

        #[test]
        fn a_pick_takes_less_than_two_rounds_of_the_counter(
            mut weights in prop::collection::vec(any::<u16>(), 1..50),
            first in prop_oneof![any::<u32>(), (u32::MAX - 60)..=u32::MAX],
        ) {
            weights[0] = MAX;
            let stride = Stride::from_scaled(weights).unwrap();
            let mut next = counter(first);
            let mut taken = 0;
            let picked = stride.pick(|| {
                taken += 1;
                next()
            });
            prop_assert!(taken <= 2 * stride.scaled().len());
            prop_assert!(stride.scaled()[picked] > 0);
        }
    }
}
