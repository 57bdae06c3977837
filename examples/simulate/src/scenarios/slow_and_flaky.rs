//! One backend is slow, and one fails: shares, percentiles and errors.

use std::time::Duration;

use grpc_lb_core::Outcome;

use super::percent;
use crate::contenders::{self, Contender};
use crate::server::WORKERS;
use crate::simulation::{self, Behaviour, Call, End, Setup};
use crate::table::{self, Row};

/// When a caller gives up.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// What a healthy server's work on a call takes on average.
const WORK: Duration = Duration::from_millis(20);

/// The clients' calls, as a share of what the healthy servers can do.
const LOAD: f64 = 0.6;

/// Which backend is slow, and how many times longer it works.
const SLOW: usize = 0;
const SLOWNESS: u32 = 10;

/// Which backend is flaky, and how often it fails.
const FLAKY: usize = 1;
const FAILS: f64 = 0.3;

const COLUMNS: [&str; 6] = [
    "to the slow one, %",
    "to the flaky one, %",
    "p50, ms",
    "p99, ms",
    "p99.9, ms",
    "errors, %",
];

/// The results of one contender. Shares are in percent of all calls, times in milliseconds.
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

/// Simulates all contenders with the same calls, so many of them, to so many backends.
pub fn run(seed: u64, calls: u64, backends: usize) -> Vec<(&'static str, Measured)> {
    let run = |contender: Contender| {
        let setup = setup(&contender, calls, backends);
        let measured = Measured::of(&simulation::run(&setup, seed));
        (contender.name, measured)
    };
    contenders::all().into_iter().map(run).collect()
}

/// The results to read.
pub fn table(results: &[(&'static str, Measured)]) -> String {
    let row = |(name, measured): &(&'static str, Measured)| Row {
        name,
        cells: vec![
            format!("{:.1}", measured.slow),
            format!("{:.1}", measured.flaky),
            format!("{:.0}", measured.p50),
            format!("{:.0}", measured.p99),
            format!("{:.0}", measured.p999),
            format!("{:.2}", measured.errors()),
        ],
    };
    table::markdown(&COLUMNS, results.iter().map(row))
}

fn setup(contender: &Contender, calls: u64, backends: usize) -> Setup {
    let behaviour = |backend| Behaviour {
        // As if somebody knew.
        weight: if contender.knows_sizes && backend != SLOW {
            SLOWNESS
        } else {
            1
        },
        work: if backend == SLOW {
            WORK * SLOWNESS
        } else {
            WORK
        },
        fails: if backend == FLAKY { FAILS } else { 0.0 },
    };
    let healthy = backends - 2;
    Setup {
        config: contender.config.clone(),
        backends: (0..backends).map(behaviour).collect(),
        gap: WORK.div_f64(LOAD * (healthy * WORKERS) as f64),
        calls,
        deadline: DEADLINE,
        given_up: Outcome::Failure,
        hangs: None,
        joins: None,
        priorities: Vec::new(),
        states: Vec::new(),
    }
}

impl Measured {
    /// Calls that failed or were given up.
    pub fn errors(&self) -> f64 {
        self.timed_out + self.failed
    }

    fn of(calls: &[Call]) -> Measured {
        let mut took: Vec<Duration> = calls.iter().map(|call| call.took).collect();
        took.sort_unstable();
        Measured {
            slow: percent(calls, |call| call.backend == SLOW),
            flaky: percent(calls, |call| call.backend == FLAKY),
            p50: percentile(&took, 0.5),
            p99: percentile(&took, 0.99),
            p999: percentile(&took, 0.999),
            timed_out: percent(calls, |call| call.end == End::GivenUp),
            failed: percent(calls, |call| call.end == End::Refused),
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
