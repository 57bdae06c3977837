//! Envoy's slow start: a backend that has just become ready takes its share step by step.

use std::time::Duration;

/// What a user can choose. The defaults are Envoy's.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How long it takes until a backend has its whole weight, in steps of a millisecond; none is
    /// off.
    pub window: Duration,
    /// How fast it gets there: 1 grows with the time, more than that sooner. What is not above 0
    /// counts as 1.
    pub aggression: f64,
    /// The least part of the weight, 0 to 100.
    pub min_weight_percent: f64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            window: Duration::ZERO,
            aggression: 1.0,
            min_weight_percent: 10.0,
        }
    }
}

/// What the weight of a backend is to be multiplied by that has been ready for that long.
///
/// ```
/// use std::time::Duration;
/// use grpc_lb_core::health::slow_start::Config;
/// use grpc_lb_core::testing::slow_start_factor as factor;
///
/// let config = Config { window: Duration::from_secs(60), ..Config::default() };
/// assert_eq!(factor(&config, Duration::from_secs(1)), 0.1);
/// assert_eq!(factor(&config, Duration::from_secs(30)), 0.5);
/// assert_eq!(factor(&config, Duration::from_secs(60)), 1.0);
/// ```
pub(crate) fn factor(config: &Config, ready_for: Duration) -> f64 {
    // Envoy measures both in whole milliseconds.
    let (ready_for, window) = (ready_for.as_millis(), config.window.as_millis());
    if ready_for >= window {
        return 1.0;
    }
    let aggression = if config.aggression > 0.0 {
        config.aggression
    } else {
        1.0
    };
    let part = ready_for.max(1) as f64 / window as f64;
    part.powf(1.0 / aggression)
        .max(config.min_weight_percent / 100.0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config(window_ms: u64, aggression: f64) -> Config {
        Config {
            window: Duration::from_millis(window_ms),
            aggression,
            min_weight_percent: 0.0,
        }
    }

    fn after(config: &Config, ms: u64) -> f64 {
        factor(config, Duration::from_millis(ms))
    }

    #[test]
    fn without_a_window_the_weight_is_whole() {
        assert_eq!(factor(&Config::default(), Duration::ZERO), 1.0);
        let less_than_a_step = Config {
            window: Duration::from_micros(999),
            ..Config::default()
        };
        assert_eq!(factor(&less_than_a_step, Duration::ZERO), 1.0);
    }

    #[test]
    fn the_first_millisecond_counts_as_passed() {
        assert_eq!(after(&config(1_000, 1.0), 0), 0.001);
        assert_eq!(after(&config(1_000, 1.0), 1), 0.001);
        assert_eq!(after(&config(1_000, 1.0), 2), 0.002);
    }

    #[test]
    fn more_aggression_is_sooner_there() {
        assert_eq!(after(&config(10_000, 2.0), 2_500), 0.5);
        assert_eq!(after(&config(10_000, 0.5), 5_000), 0.25);
    }

    #[test]
    fn an_aggression_that_is_none_counts_as_one() {
        for aggression in [0.0, -1.0, f64::NAN] {
            assert_eq!(after(&config(1_000, aggression), 300), 0.3);
        }
    }

    proptest! {
        #[test]
        fn it_grows_from_the_least_part_to_the_whole(
            window in 0..100_000u64,
            aggression in 0.1..10.0,
            min_weight_percent in 0.0..=100.0,
            ms in 0..120_000u64,
            more in 0..1_000u64,
        ) {
            let config = Config { min_weight_percent, ..config(window, aggression) };
            let (now, later) = (after(&config, ms), after(&config, ms + more));
            prop_assert!(min_weight_percent / 100.0 <= now && later <= 1.0);
            prop_assert!(now <= later * (1.0 + f64::EPSILON));
        }
    }
}
