//! Options of outlier detection (gRFC A50): backends that fail more often than the others are not
//! picked for a while.

use std::num::NonZeroU32;
use std::time::Duration;

/// What a user can choose. The defaults are A50's, with all that ejects switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// From one sweep to the next.
    pub interval: Duration,
    /// How long the first ejection lasts; one that follows soon is longer.
    pub base_ejection_time: Duration,
    /// How long an ejection lasts at most, unless `base_ejection_time` is longer.
    pub max_ejection_time: Duration,
    /// No backend is ejected while so many are, in percent of all. One more than that may be.
    pub max_ejection_percent: u32,
    /// Ejects backends that succeed less often than the others.
    pub success_rate: Option<SuccessRate>,
    /// Ejects backends that fail too often, whatever the others do.
    pub failure_percentage: Option<FailurePercentage>,
    /// Ejects backends that fail so many times in a row.
    pub consecutive_failures: Option<NonZeroU32>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
            success_rate: None,
            failure_percentage: None,
            consecutive_failures: None,
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
    /// More failures than that, in percent of the calls, are too many.
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
