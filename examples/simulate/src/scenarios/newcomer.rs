//! A backend joins a fleet that answers within a millisecond or so: when is it tried, and how much
//! does it get?

use std::time::Duration;

use grpc_lb_core::Outcome;

use super::{percent, within};
use crate::contenders::{self, Contender};
use crate::simulation::{self, Behaviour, Call, Setup, WARM};
use crate::table::{self, Row};

/// What work on a call takes on average.
const WORK: Duration = Duration::from_millis(1);

/// The average time between two calls.
const GAP: Duration = Duration::from_millis(1);

/// When a caller gives up.
const DEADLINE: Duration = Duration::from_secs(1);

/// How long it is watched, from when it joins.
const SOON: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(60);

const COLUMNS: [&str; 3] = [
    "first call after, s",
    "of its share in 10 s, %",
    "of its share in 60 s, %",
];

/// The results of one contender. Shares are in percent of what is due to one that is as old as the
/// others.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// How long after it joined it got its first call. `None` if it got none.
    pub first: Option<Duration>,
    /// What it got in its first ten seconds.
    pub soon: f64,
    /// What it got in its first minute.
    pub later: f64,
}

/// Simulates all contenders with the same calls, to so many backends and the one that joins.
pub fn run(seed: u64, backends: usize) -> Vec<(&'static str, Measured)> {
    let run = |contender: Contender| {
        let calls = simulation::run(&setup(&contender, backends), seed);
        (contender.name, Measured::of(&calls, backends))
    };
    contenders::newcomer().into_iter().map(run).collect()
}

/// The results to read.
pub fn table(results: &[(&'static str, Measured)]) -> String {
    let row = |(name, measured): &(&'static str, Measured)| Row {
        name,
        cells: vec![
            measured.first.map_or("never".to_string(), |after| {
                format!("{:.2}", after.as_secs_f64())
            }),
            format!("{:.0}", measured.soon),
            format!("{:.0}", measured.later),
        ],
    };
    table::markdown(&COLUMNS, results.iter().map(row))
}

fn setup(contender: &Contender, backends: usize) -> Setup {
    let behaviour = Behaviour {
        weight: 1,
        work: WORK,
        fails: 0.0,
    };
    Setup {
        config: contender.config.clone(),
        backends: vec![behaviour; backends + 1],
        gap: GAP,
        calls: (WATCHED.as_secs_f64() / GAP.as_secs_f64()) as u64,
        deadline: DEADLINE,
        given_up: Outcome::Failure,
        hangs: None,
        joins: Some(WARM),
        priorities: Vec::new(),
        states: Vec::new(),
    }
}

impl Measured {
    fn of(calls: &[Call], newcomer: usize) -> Measured {
        let is_its = |call: &Call| call.backend == newcomer;
        let due = 100.0 / (newcomer + 1) as f64;
        let first = calls.iter().find(|call| is_its(call));
        let of_its_share = |long| 100.0 * percent(within(calls, WARM, long), is_its) / due;
        Measured {
            first: first.map(|call| call.started.since(WARM)),
            soon: of_its_share(SOON),
            later: of_its_share(WATCHED),
        }
    }
}
