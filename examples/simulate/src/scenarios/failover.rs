//! Of two regions the near one loses its backends, one after the other, and gets them back: who is
//! sent to the far one, and how many calls does nobody answer in time?

use std::num::NonZeroU32;
use std::time::Duration;

use grpc_lb_core::{Outcome, State, Time};

use super::{percent, within};
use crate::contenders::{self, Contender};
use crate::lines::{self, Panel};
use crate::simulation::{self, Behaviour, Call, End, Setup, WARM};
use crate::table::{self, Row};

/// What work on a call takes on average.
const WORK: Duration = Duration::from_millis(20);

/// When a caller gives up.
const DEADLINE: Duration = Duration::from_millis(500);

/// Calls are so much of what the near region can serve, in backends: 6 of 10.
const BUSY: f64 = 0.6;

/// After so long the next backend goes or comes back.
const STEP: Duration = Duration::from_secs(5);

const COLUMNS: [&str; 4] = [
    "to the far region with all near ones up, %",
    "with half of them up, %",
    "with none, %",
    "given up in all, %",
];

/// The results of one contender.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Calls to the far region while all of the near one was up, in percent.
    pub all_up: f64,
    /// While every other one was.
    pub half_up: f64,
    /// While none was.
    pub none_up: f64,
    /// Calls that were given up, in percent.
    pub given_up: f64,
    /// Calls to the far region, and calls that were given up, in percent, second by second.
    pub by_second: Vec<[f64; 2]>,
}

/// Simulates all contenders with the same calls, to two regions of so many backends.
pub fn run(seed: u64, backends: usize) -> Vec<(&'static str, Measured)> {
    let run = |contender: Contender| {
        let calls = simulation::run(&setup(&contender, backends), seed);
        (contender.name, Measured::of(&calls, backends))
    };
    contenders::failover().into_iter().map(run).collect()
}

/// The results to read.
pub fn table(results: &[(&'static str, Measured)]) -> String {
    let row = |(name, measured): &(&'static str, Measured)| Row {
        name,
        cells: [
            measured.all_up,
            measured.half_up,
            measured.none_up,
            measured.given_up,
        ]
        .map(|cell| format!("{cell:.1}"))
        .into(),
    };
    table::markdown(&COLUMNS, results.iter().map(row))
}

/// The chart.
pub fn svg(results: &[(&'static str, Measured)]) -> String {
    let names: Vec<&str> = results.iter().map(|(name, _)| *name).collect();
    let panel = |title, column: usize| {
        let of_one = |(_, measured): &(_, Measured)| {
            measured
                .by_second
                .iter()
                .map(|second| second[column])
                .collect()
        };
        Panel {
            title,
            lines: results.iter().map(of_one).collect(),
        }
    };
    lines::svg(
        "A region loses its backends one by one, and gets them back",
        &names,
        &[
            panel("Calls to the far region, %", 0),
            panel("Calls that were given up, %", 1),
        ],
    )
}

/// When so many of the near backends have gone.
fn gone(backends: u32) -> Time {
    WARM + STEP * backends
}

fn watched(backends: usize) -> Duration {
    // They go, none is there, and they come back.
    STEP * (2 * backends as u32 + 2)
}

fn setup(contender: &Contender, backends: usize) -> Setup {
    let behaviour = Behaviour {
        weight: 1,
        work: WORK,
        fails: 0.0,
    };
    let near = 0..backends as u32;
    let go = near
        .clone()
        .map(|one| (gone(one + 1), one as usize, State::TransientFailure));
    let back = near.map(|one| (gone(backends as u32 + 2 + one), one as usize, State::Ready));
    let capacity = crate::server::WORKERS as f64 * backends as f64;
    let gap = WORK.div_f64(capacity * BUSY);
    let far = u32::from(contender.near_first);
    Setup {
        config: contender.config.clone(),
        backends: vec![behaviour; 2 * backends],
        gap,
        calls: (watched(backends).as_secs_f64() / gap.as_secs_f64()) as u64,
        deadline: DEADLINE,
        given_up: Outcome::Cancelled,
        hangs: None,
        joins: None,
        priorities: [vec![0; backends], vec![far; backends]].concat(),
        states: go.chain(back).collect(),
    }
}

/// Envoy's.
pub(crate) const FACTOR: Option<NonZeroU32> = NonZeroU32::new(140);

impl Measured {
    fn of(calls: &[Call], backends: usize) -> Measured {
        let far = |calls: &[Call]| percent(calls, |call| call.backend >= backends);
        let given_up = |calls: &[Call]| percent(calls, |call| call.end == End::GivenUp);
        let step = |gone_by_then: usize| within(calls, gone(gone_by_then as u32), STEP);
        let seconds = 0..watched(backends).as_secs() as u32;
        let second = |second| {
            within(
                calls,
                WARM + Duration::from_secs(1) * second,
                Duration::from_secs(1),
            )
        };
        Measured {
            all_up: far(step(0)),
            half_up: far(step(backends / 2)),
            none_up: far(step(backends)),
            given_up: given_up(calls),
            by_second: seconds
                .map(second)
                .map(|calls| [far(calls), given_up(calls)])
                .collect(),
        }
    }
}
