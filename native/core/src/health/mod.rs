//! Decides which backends may be picked at all, whatever the policy.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`outlier_detection`], `ejection` | which backends are left out for how their calls end (gRFC A50) |
//! | [`slow_start`] | how fast one that has become ready comes to its full weight (Envoy) |
//! | `panic` | when so few are healthy that all are picked (Envoy) |

pub(crate) mod ejection;
pub mod outlier_detection;
pub(crate) mod panic;
pub mod slow_start;

use self::ejection::Ejection;
use crate::load::Ended;

/// How a backend stands among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not picked whatever happens, and not counted.
    #[default]
    Excluded,
    /// Picked in a panic only.
    Unhealthy,
    Healthy,
}

/// How many backends there are of each standing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    unhealthy: u32,
    healthy: u32,
}

impl Census {
    /// Counts one that goes from one standing to another.
    pub(crate) fn shift(&mut self, from: Standing, to: Standing) {
        match from {
            Standing::Excluded => {}
            Standing::Unhealthy => self.unhealthy -= 1,
            Standing::Healthy => self.healthy -= 1,
        }
        match to {
            Standing::Excluded => {}
            Standing::Unhealthy => self.unhealthy += 1,
            Standing::Healthy => self.healthy += 1,
        }
    }

    /// Whether so few are healthy that the others are picked, too.
    pub(crate) fn panics(&self, threshold_percent: u32) -> bool {
        let [healthy, unhealthy] = [self.healthy, self.unhealthy].map(|count| count as usize);
        panic::panics(threshold_percent, healthy, healthy + unhealthy)
    }
}

/// What outlier detection remembers of a backend.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) ejection: Ejection,
    /// The calls that the last sweep had seen.
    pub(crate) seen: Ended,
}

impl Health {
    /// Of a backend whose calls up to now do not count.
    pub(crate) fn new(seen: Ended) -> Self {
        Health {
            ejection: Ejection::default(),
            seen,
        }
    }
}
