//! Options of outlier detection (gRFC A50): backends that fail more often than the others are not
//! picked for a while.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::load::InARow;

/// What a user can choose. The defaults are A50's, with all that ejects switched off, and strict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From one sweep to the next.
    pub interval: Duration,
    /// How long the first ejection lasts; one that follows soon is longer.
    pub base_ejection_time: Duration,
    /// How long an ejection lasts at most, unless `base_ejection_time` is longer.
    pub max_ejection_time: Duration,
    /// How many may be ejected, in percent of those that count. One may be, unless this is 0.
    pub max_ejection_percent: u32,
    /// Whether nothing is made worse: only backends that are ready, with an owner that lives, count
    /// and are ejected; the last that can be picked is not, nor one more than the maximum after the
    /// first; and those that are ejected are picked when no other can be. A50's letter, if not: all
    /// backends count, and another is ejected as long as fewer than the maximum are.
    pub strict: bool,
    /// By what the next ejections become shorter.
    pub backoff_recovery: Recovery,
    /// Ejects backends that succeed less often than the others.
    pub success_rate: Option<SuccessRate>,
    /// Ejects backends that fail too often, whatever the others do.
    pub failure_percentage: Option<FailurePercentage>,
    /// Ejects backends that fail many times in a row.
    pub consecutive_failures: Option<ConsecutiveFailures>,
    /// Ejects backends to which so many calls in a row have failed on the way, for a time of its
    /// own: a second at first, and 1.6 times as long each time until a call succeeds, up to two
    /// minutes. As Envoy's split of failures of local origin, with gRPC's backoff.
    pub consecutive_transport_failures: Option<NonZeroU32>,
}

impl Config {
    /// So many failures in a row eject.
    pub(crate) fn limits_in_a_row(&self) -> InARow {
        let number = |limit: Option<NonZeroU32>| limit.map_or(0, NonZeroU32::get);
        InARow {
            failures: number(self.consecutive_failures.map(|rule| rule.failures)),
            transport_failures: number(self.consecutive_transport_failures),
        }
    }
}

/// How a backend's next ejection becomes shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// By each interval in which it is not ejected (A50).
    #[default]
    Time,
    /// By each such interval in which a call to it succeeds.
    Success,
}

/// Too many failures in a row. Envoy has this and A50 has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsecutiveFailures {
    /// So many eject.
    pub failures: NonZeroU32,
    /// With fewer backends than that, none is ejected.
    pub minimum_hosts: u32,
}

impl ConsecutiveFailures {
    /// So many, with two backends at least.
    pub fn of(failures: NonZeroU32) -> Self {
        ConsecutiveFailures {
            failures,
            minimum_hosts: 2,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            strict: true,
            backoff_recovery: Recovery::Time,
            success_rate: None,
            failure_percentage: None,
            consecutive_failures: None,
            consecutive_transport_failures: None,
        }
    }
}

/// A50's success rate algorithm. The defaults are A50's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuccessRate {
    /// How many thousandths of a standard deviation below the mean is too far.
    pub stdev_factor: u32,
    /// How many of 100 that are too far below are ejected.
    pub enforcement_percentage: u32,
    /// With fewer backends than that of enough volume, none is ejected.
    pub minimum_hosts: u32,
    /// Backends with fewer calls since the last sweep are left out; those with none always are.
    pub request_volume: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        SuccessRate {
            stdev_factor: 1_900,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 100,
        }
    }
}

/// A50's failure percentage algorithm. The defaults are A50's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// More failures than that, in percent of the calls, are too many. If strict, 100 is all of them,
    /// more than which there cannot be.
    pub threshold: u32,
    /// How many of 100 with too many failures are ejected.
    pub enforcement_percentage: u32,
    /// With fewer backends than that of enough volume, none is ejected.
    pub minimum_hosts: u32,
    /// Backends with fewer calls since the last sweep are left out; those with none always are.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        FailurePercentage {
            threshold: 85,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}
