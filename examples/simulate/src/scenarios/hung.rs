//! One backend stops answering for a while, and callers give up: who is still sent there, and when
//! does it get its share again?

use std::time::Duration;

use grpc_lb_core::Outcome;

use super::{percent, within};
use crate::contenders::{self, Contender};
use crate::simulation::{self, Behaviour, Call, End, Setup, WARM};
use crate::table::{self, Row};

/// What work on a call takes on average.
const WORK: Duration = Duration::from_millis(2);

/// The average time between two calls.
const GAP: Duration = Duration::from_millis(2);

/// When a caller gives up.
const DEADLINE: Duration = Duration::from_millis(100);

/// How long the backend hangs, from the first measured call on, and how long it is watched then.
const HANGS: Duration = Duration::from_secs(30);
const WATCHED: Duration = Duration::from_secs(90);

const SECOND: Duration = Duration::from_secs(1);

/// It has its share again when it gets so much of it within a second.
const AGAIN: f64 = 0.8;

const COLUMNS: [&str; 4] = [
    "to the hung one in the first second, %",
    "and after it, %",
    "given up, %",
    "has its share again after, s",
];

/// The results of one contender.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Calls that went to the hung backend in its first second, in percent.
    pub at_first: f64,
    /// Calls that went there from then on until it answered again, in percent.
    pub later: f64,
    /// Calls that were given up while it hung, in percent.
    pub given_up: f64,
    /// How many whole seconds it had answered when it got its share again. `None` if it never did.
    pub again: Option<u32>,
}

/// Simulates all contenders with the same calls, to so many backends.
pub fn run(seed: u64, backends: usize) -> Vec<(&'static str, Measured)> {
    let run = |contender: Contender| {
        let calls = simulation::run(&setup(&contender, backends), seed);
        (contender.name, Measured::of(&calls, backends))
    };
    contenders::hung().into_iter().map(run).collect()
}

/// The results to read.
pub fn table(results: &[(&'static str, Measured)]) -> String {
    let row = |(name, measured): &(&'static str, Measured)| Row {
        name,
        cells: vec![
            format!("{:.1}", measured.at_first),
            format!("{:.1}", measured.later),
            format!("{:.1}", measured.given_up),
            measured
                .again
                .map_or("never".to_string(), |after| after.to_string()),
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
        backends: vec![behaviour; backends],
        gap: GAP,
        calls: ((HANGS + WATCHED).as_secs_f64() / GAP.as_secs_f64()) as u64,
        deadline: DEADLINE,
        given_up: if contender.tells {
            Outcome::Failure
        } else {
            Outcome::Cancelled
        },
        hangs: Some(WARM..WARM + HANGS),
        joins: None,
        priorities: Vec::new(),
        states: Vec::new(),
    }
}

impl Measured {
    fn of(calls: &[Call], backends: usize) -> Measured {
        let share = |calls| percent(calls, |call| call.backend == 0);
        let while_it_hung = within(calls, WARM, HANGS);
        let has_its_share = |second: &u32| {
            let calls = within(calls, WARM + HANGS + SECOND * *second, SECOND);
            share(calls) >= AGAIN * 100.0 / backends as f64
        };
        Measured {
            at_first: share(within(calls, WARM, SECOND)),
            later: share(within(calls, WARM + SECOND, HANGS - SECOND)),
            given_up: percent(while_it_hung, |call| call.end == End::GivenUp),
            again: (0..WATCHED.as_secs() as u32 - 1).find(has_its_share),
        }
    }
}
