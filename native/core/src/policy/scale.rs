//! Scale of weights that come out of load reports (gRFC A58), as C-core has it: 16 bits, and none is
//! far from the mean. Weights that users give are taken as they are.

/// The largest weight.
const MAX: u16 = u16::MAX;

/// A weight counts as at most so many times the mean of those that are known. So one pick passes
/// over some ten backends at most, on average (C-core).
const MAX_RATIO: f64 = 10.0;

/// A weight counts as at least this part of the mean (C-core; Java has 0.1).
const MIN_RATIO: f64 = 0.01;

/// A weight that may not be known yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// It is known.
    Known(f32),
    /// It is not: this part, which slow start leaves it, of the mean of those that are known.
    Part(f32),
}

/// Scales weights: 65,535 is the largest, unless it is one that is not known. Without any that is
/// known they are parts of 65,535.
///
/// C-core's arithmetic, down to which steps are f32: its known answers depend on the rounding.
///
/// ```
/// use grpc_lb_core::testing::{scaled, Weight};
///
/// let weights = [Weight::Known(3.0), Weight::Part(1.0), Weight::Known(1.0), Weight::Part(0.1)];
/// assert_eq!(scaled(&weights), [65_535, 43_690, 21_845, 4_369]);
/// ```
pub fn scaled(weights: &[Weight]) -> Vec<u16> {
    let known = || {
        weights.iter().filter_map(|weight| match weight {
            Weight::Known(weight) => Some(*weight),
            Weight::Part(_) => None,
        })
    };
    let largest = known().fold(0.0, f32::max).min(f32::MAX);
    let part = |mean: u16, part: f32| ((f64::from(mean) * f64::from(part)).round() as u16).max(1);
    if largest == 0.0 {
        let parts = weights.iter().map(|weight| match weight {
            Weight::Known(_) => MAX,
            Weight::Part(of_mean) => part(MAX, *of_mean),
        });
        return parts.collect();
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

    let scaled = |weight: &Weight| match weight {
        Weight::Known(weight) => rounded(relative(*weight).min(f64::from(max))).max(least),
        Weight::Part(of_mean) => part(mean, *of_mean),
    };
    weights.iter().map(scaled).collect()
}

/// The largest power of two that is not above a positive, finite number.
fn power_of_two_below(number: f32) -> f64 {
    const FRACTION: u32 = f64::MANTISSA_DIGITS - 1;
    // Every f32 is a normal f64: without its fraction it is that power.
    f64::from_bits(f64::from(number).to_bits() >> FRACTION << FRACTION)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Weight::{Known, Part};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn extreme_weights_keep_their_ratio() {
        let ratio = |unit: f32| scaled(&[Known(unit), Known(2.0 * unit), Known(4.0 * unit)]);
        let smallest = f32::from_bits(1);
        for unit in [smallest, f32::MIN_POSITIVE, 2.0_f32.powi(125)] {
            assert_eq!(ratio(unit), ratio(1.0), "{unit}");
        }
    }

    #[test]
    fn a_weight_counts_as_ten_times_the_mean_at_most() {
        let mut weights = [Known(1.0); 100];
        weights[0] = Known(1e6);
        // The mean is 10,000.99, of which ten times is 65,535, and a hundredth is 66 of those.
        assert_eq!(scaled(&weights)[..2], [65_535, 66]);
    }

    #[test]
    fn what_is_not_known_is_a_part_of_the_mean() {
        assert_eq!(
            scaled(&[Known(3.0), Part(1.0), Known(1.0), Part(0.5)]),
            [65_535, 43_690, 21_845, 21_845]
        );
        assert_eq!(scaled(&[Part(1.0), Part(0.1)]), [65_535, 6_554]);
        assert_eq!(scaled(&[Known(f32::INFINITY), Known(1.0)]), [65_535, 328]);
    }

    proptest! {
        #[test]
        fn every_backend_has_a_weight(
            weights in prop::collection::vec(
                prop_oneof![
                    (f32::MIN_POSITIVE..f32::MAX).prop_map(Known),
                    (0.0..=1.0_f32).prop_map(Part),
                ],
                1..50
            )
        ) {
            prop_assert!(!scaled(&weights).contains(&0));
        }
    }
}
