//! What can happen to a fleet, and what is measured of it.

pub mod cache;
pub mod canary;
pub mod failover;
pub mod hung;
pub mod newcomer;
pub mod slow_and_flaky;

use std::time::Duration;

use grpc_lb_core::Time;

use crate::simulation::Call;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// One backend is slow, and one fails.
    SlowAndFlaky,
    /// One backend stops answering for a while.
    Hung,
    /// A backend joins.
    Newcomer,
    /// One backend has a small weight.
    Canary,
    /// Of two regions one loses its backends.
    Failover,
    /// Backends are caches, and come and go.
    Cache,
}

impl Scenario {
    /// All of them, by the name that they have on the command line.
    pub const NAMES: [(&str, Scenario); 6] = [
        ("slow-and-flaky", Scenario::SlowAndFlaky),
        ("hung", Scenario::Hung),
        ("newcomer", Scenario::Newcomer),
        ("canary", Scenario::Canary),
        ("failover", Scenario::Failover),
        ("cache", Scenario::Cache),
    ];

    /// Whether there is a chart of it.
    pub fn is_drawn(self) -> bool {
        matches!(
            self,
            Scenario::SlowAndFlaky | Scenario::Failover | Scenario::Cache
        )
    }

    /// How many backends there are by default, in each region where there are two.
    pub fn backends(self) -> usize {
        match self {
            Scenario::Hung | Scenario::Canary => 3,
            Scenario::SlowAndFlaky | Scenario::Newcomer | Scenario::Failover | Scenario::Cache => {
                10
            }
        }
    }
}

/// How many of these calls are so, in percent. None are 0 %.
fn percent(calls: &[Call], is: impl Fn(&Call) -> bool) -> f64 {
    let those = calls.iter().filter(|call| is(call)).count();
    100.0 * those as f64 / calls.len().max(1) as f64
}

/// The calls that started from then on for so long.
fn within(calls: &[Call], from: Time, long: Duration) -> &[Call] {
    let before = |time| calls.partition_point(|call| call.started < time);
    &calls[before(from)..before(from + long)]
}
