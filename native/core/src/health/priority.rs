//! Envoy's priorities: which level of backends takes which part of the picks.
//!
//! With an overprovisioning factor a level that is partly unhealthy keeps all of its picks until its
//! health, times the factor, is less than the whole. From there on the levels below take over what
//! is missing, in their order. Where all of them together have less than the whole, each that is
//! below the panic threshold panics for itself.

use super::panic::panics;

/// The backends of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// All of them.
    pub listed: u32,
    /// Those that are healthy, or could be: no others count for how healthy the level is.
    pub counted: u32,
    /// Those that are healthy.
    pub healthy: u32,
}

/// What becomes of a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Its part of the picks. The levels have 100 together.
    pub percent: u32,
    /// Whether all of it is picked, healthy or not.
    pub panics: bool,
}

/// The loads of levels, the first one first. `factor` and `panic_threshold` are in percent.
///
/// ```
/// use grpc_lb_core::testing::{priority_loads, Level};
///
/// let level = |healthy| Level { listed: 100, counted: 100, healthy };
/// let percents = |levels: &[Level]| -> Vec<u32> {
///     let loads = priority_loads(levels, 140, 50);
///     loads.iter().map(|load| load.percent).collect()
/// };
/// assert_eq!(percents(&[level(72), level(100)]), [100, 0]);
/// assert_eq!(percents(&[level(71), level(100)]), [99, 1]);
/// assert_eq!(percents(&[level(50), level(100)]), [70, 30]);
/// ```
pub fn loads(levels: &[Level], factor: u32, panic_threshold: u32) -> Vec<Load> {
    let health: Vec<u64> = levels.iter().map(|level| level.health(factor)).collect();
    let total = health.iter().sum::<u64>().min(100);
    let mut loads: Vec<Load> = levels
        .iter()
        .map(|level| Load {
            percent: 0,
            panics: total < 100
                && panics(
                    panic_threshold,
                    level.healthy as usize,
                    level.counted as usize,
                ),
        })
        .collect();
    let all_panic = loads.iter().all(|load| load.panics);
    let parts: Vec<u64> = match total {
        // By how many there are: whoever is picked may work or not.
        _ if all_panic => levels.iter().map(|level| level.listed.into()).collect(),
        _ => health,
    };
    let whole = match all_panic {
        true => parts.iter().sum(),
        false => total,
    };
    let mut rest = 100;
    for (load, part) in loads.iter_mut().zip(&parts) {
        load.percent = (100 * part).checked_div(whole).unwrap_or(0).min(rest) as u32;
        rest -= u64::from(load.percent);
    }
    // What was lost to rounding, or all of it where nobody is healthy.
    let first = parts.iter().position(|part| *part > 0).unwrap_or(0);
    if let Some(load) = loads.get_mut(first) {
        load.percent += rest as u32;
    }
    loads
}

impl Level {
    /// In percent, and with the factor.
    fn health(&self, factor: u32) -> u64 {
        let health = u64::from(factor) * u64::from(self.healthy);
        health
            .checked_div(self.counted.into())
            .unwrap_or(0)
            .min(100)
    }
}

/// Which part of its weight a locality has among the others of its level.
pub(crate) fn availability(level: &Level, factor: Option<u32>) -> f64 {
    let Some(factor) = factor else {
        return 1.0;
    };
    let healthy = f64::from(level.healthy) / f64::from(level.counted.max(1));
    (f64::from(factor) / 100.0 * healthy).min(1.0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn level(healthy: u32, counted: u32) -> Level {
        Level {
            listed: counted,
            counted,
            healthy,
        }
    }

    fn percents(levels: &[Level], threshold: u32) -> Vec<(u32, bool)> {
        let loads = loads(levels, 140, threshold);
        loads
            .iter()
            .map(|load| (load.percent, load.panics))
            .collect()
    }

    /// The table of Envoy's documentation of priority levels, in percent of healthy backends.
    #[test]
    fn levels_below_take_over_what_is_missing() {
        let cases: [(&[u32], &[u32]); 9] = [
            (&[100, 100], &[100, 0]),
            (&[72, 100], &[100, 0]),
            (&[71, 100], &[99, 1]),
            (&[50, 100], &[70, 30]),
            (&[25, 100], &[35, 65]),
            (&[0, 100], &[0, 100]),
            (&[71, 71, 100], &[99, 1, 0]),
            (&[25, 100, 100], &[35, 65, 0]),
            (&[25, 25, 100], &[35, 35, 30]),
        ];
        for (healthy, expected) in cases {
            let levels: Vec<Level> = healthy.iter().map(|it| level(*it, 100)).collect();
            let got: Vec<u32> = percents(&levels, 50).iter().map(|it| it.0).collect();
            assert_eq!(got, expected, "{healthy:?}");
        }
    }

    #[test]
    fn what_rounding_loses_goes_to_the_first_that_is_healthy() {
        let levels = [level(0, 10), level(1, 4), level(1, 4), level(1, 5)];
        // 35 + 35 + 28 = 98 percent: 35.7, 35.7 and 28.6 of it, rounded down.
        assert_eq!(
            percents(&levels, 0),
            [(0, false), (37, false), (35, false), (28, false)]
        );
    }

    #[test]
    fn no_level_panics_while_all_together_have_the_whole() {
        assert_eq!(
            percents(&[level(10, 100), level(80, 100)], 50),
            [(14, false), (86, false)]
        );
        assert_eq!(
            percents(&[level(5, 100), level(65, 100)], 50),
            [(8, true), (92, false)]
        );
    }

    #[test]
    fn where_all_panic_each_has_as_many_as_it_lists() {
        assert_eq!(
            percents(&[level(1, 4), level(1, 8)], 50),
            [(34, true), (66, true)]
        );
        let levels = [Level::default(), level(0, 1), level(0, 2)];
        assert_eq!(percents(&levels, 50), [(0, true), (34, true), (66, true)]);
    }

    #[test]
    fn with_nobody_healthy_and_no_panic_the_first_has_it_all() {
        assert_eq!(
            percents(&[level(0, 4), level(0, 8)], 0),
            [(100, false), (0, false)]
        );
        assert_eq!(percents(&[], 50), []);
    }

    proptest! {
        #[test]
        fn levels_share_the_whole(
            levels in prop::collection::vec((0..50u32, 0..50u32, 0..50u32), 1..6),
            factor in 1..1_000u32,
            threshold in 0..=100u32,
        ) {
            let levels: Vec<Level> = levels
                .into_iter()
                .map(|(healthy, unhealthy, excluded)| Level {
                    listed: healthy + unhealthy + excluded,
                    counted: healthy + unhealthy,
                    healthy,
                })
                .collect();
            let loads = loads(&levels, factor, threshold);
            prop_assert_eq!(loads.iter().map(|load| load.percent).sum::<u32>(), 100);
            let some_healthy = levels.iter().any(|level| level.health(factor) > 0);
            for (load, level) in loads.iter().zip(&levels) {
                let serves = level.health(factor) > 0 || load.panics || !some_healthy;
                prop_assert!(load.percent == 0 || serves);
            }
        }
    }
}
