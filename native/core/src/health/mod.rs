//! Decides which backends may be picked at all, whatever the policy.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`outlier_detection`], `ejection` | which backends are left out for how their calls end (gRFC A50) |
//! | [`slow_start`] | how fast one that has become ready comes to its full weight (Envoy) |
//! | [`priority`] | which priority has which part of the picks (Envoy) |
//! | `panic` | when so few are healthy that all are picked (Envoy) |

pub(crate) mod ejection;
pub mod outlier_detection;
pub(crate) mod panic;
pub mod priority;
pub mod slow_start;

use self::ejection::Ejection;
use crate::load::Ended;

/// How a backend stands among the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not picked whatever happens, and not counted.
    #[default]
    Excluded,
    /// Not in the subset that is used, and as if it was not listed.
    Outside,
    /// Not picked whatever happens, and missing in its priority: it has been ready.
    Lost,
    /// Picked in a panic only.
    Unhealthy,
    /// Ready, and left out for how its calls ended: picked in a panic, and where no other can be.
    Ejected,
    Healthy,
}

/// Who is picked beside the healthy ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Relief {
    #[default]
    Nobody,
    Ejected,
    /// The ejected and the unhealthy ones.
    All,
}

impl Relief {
    /// Whether one of this standing is picked.
    pub(crate) fn picks(self, standing: Standing) -> bool {
        match standing {
            Standing::Healthy => true,
            Standing::Ejected => self != Relief::Nobody,
            Standing::Unhealthy => self == Relief::All,
            Standing::Excluded | Standing::Outside | Standing::Lost => false,
        }
    }
}

/// How many backends there are of each standing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    outside: u32,
    lost: u32,
    unhealthy: u32,
    ejected: u32,
    healthy: u32,
}

impl Census {
    /// Counts one that goes from one standing to another.
    pub(crate) fn shift(&mut self, from: Standing, to: Standing) {
        if let Some(count) = self.count(from) {
            *count -= 1;
        }
        if let Some(count) = self.count(to) {
            *count += 1;
        }
    }

    fn count(&mut self, standing: Standing) -> Option<&mut u32> {
        match standing {
            Standing::Excluded => None,
            Standing::Outside => Some(&mut self.outside),
            Standing::Lost => Some(&mut self.lost),
            Standing::Unhealthy => Some(&mut self.unhealthy),
            Standing::Ejected => Some(&mut self.ejected),
            Standing::Healthy => Some(&mut self.healthy),
        }
    }

    /// Who is picked beside the healthy ones, where so few of all are healthy. `strict` is that of
    /// outlier detection.
    pub(crate) fn relief(&self, panic_threshold: u32, strict: bool) -> Relief {
        let (healthy, all) = (self.healthy as usize, self.counted() as usize);
        if panic::panics(panic_threshold, healthy, all) {
            Relief::All
        } else if strict && healthy == 0 {
            Relief::Ejected
        } else {
            Relief::Nobody
        }
    }

    pub(crate) fn has_healthy(self) -> bool {
        self.healthy > 0
    }

    pub(crate) fn healthy(self) -> u32 {
        self.healthy
    }

    pub(crate) fn outside(self) -> u32 {
        self.outside
    }

    pub(crate) fn lost(self) -> u32 {
        self.lost
    }

    /// All that are healthy, or are picked in a panic.
    pub(crate) fn counted(self) -> u32 {
        self.healthy + self.ejected + self.unhealthy
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
