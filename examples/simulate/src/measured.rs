//! Shares, percentiles and errors of one run.

use std::time::Duration;

use crate::server::Kind;
use crate::simulation::{Call, End};

/// The results of one run. Shares are in percent of all calls, times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Calls that went to the slow backend.
    pub slow: f64,
    /// Calls that went to the flaky backend.
    pub flaky: f64,
    /// What half of the calls took at most, however they ended.
    pub p50: f64,
    /// What 99 % of the calls took at most.
    pub p99: f64,
    /// What 99.9 % of the calls took at most.
    pub p999: f64,
    /// Calls that their caller gave up.
    pub timed_out: f64,
    /// Calls that the flaky backend failed.
    pub failed: f64,
}

impl Measured {
    /// Calls that failed or were given up.
    pub fn errors(&self) -> f64 {
        self.timed_out + self.failed
    }

    pub(crate) fn of<'a>(calls: impl Iterator<Item = &'a Call> + Clone) -> Measured {
        let percent = |is: fn(&Call) -> bool| {
            let those = calls.clone().filter(|call| is(call)).count();
            100.0 * those as f64 / calls.clone().count() as f64
        };
        let mut took: Vec<Duration> = calls.clone().map(|call| call.took).collect();
        took.sort_unstable();
        Measured {
            slow: percent(|call| call.kind == Kind::Slow),
            flaky: percent(|call| call.kind == Kind::Flaky),
            p50: percentile(&took, 0.5),
            p99: percentile(&took, 0.99),
            p999: percentile(&took, 0.999),
            timed_out: percent(|call| call.end == End::TimedOut),
            failed: percent(|call| call.end == End::Refused),
        }
    }
}

/// The smallest of these, which are sorted, that a share of `rank` does not exceed.
fn percentile(sorted: &[Duration], rank: f64) -> f64 {
    let at_most = (rank * sorted.len() as f64).ceil() as usize;
    sorted[at_most - 1].as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_those_measured() {
        let sorted: Vec<Duration> = (1..=1_000).map(Duration::from_millis).collect();
        assert_eq!(percentile(&sorted, 0.5), 500.0);
        assert_eq!(percentile(&sorted, 0.99), 990.0);
        assert_eq!(percentile(&sorted, 0.999), 999.0);
        assert_eq!(percentile(&sorted[..1], 0.5), 1.0);
        assert_eq!(percentile(&sorted[..3], 0.5), 2.0);
    }
}
