//! One backend has a small weight beside others that are equal: does it get what is due to it?

use std::time::Duration;

use grpc_lb_core::Outcome;

use super::percent;
use crate::contenders::{self, Contender};
use crate::server::WORKERS;
use crate::simulation::{self, Behaviour, Setup};
use crate::table::{self, Row};

/// What work on a call takes on average.
const WORK: Duration = Duration::from_millis(20);

/// When a caller gives up.
const DEADLINE: Duration = Duration::from_secs(1);

/// The clients' calls, as a share of what the servers can do.
const IDLE: f64 = 0.01;
const LOADED: f64 = 0.6;

const COLUMNS: [&str; 4] = [
    "of 0.1 %, idle",
    "of 0.1 %, loaded",
    "of 1 %, idle",
    "of 1 %, loaded",
];

/// What the canary got of all calls, in percent.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Of 0.1 %, while calls were few.
    pub small_idle: f64,
    /// Of 0.1 %, while servers were busy.
    pub small_loaded: f64,
    /// Of 1 %, while calls were few.
    pub idle: f64,
    /// Of 1 %, while servers were busy.
    pub loaded: f64,
}

/// Simulates all contenders with the same calls, so many of them, to so many backends.
pub fn run(seed: u64, calls: u64, backends: usize) -> Vec<(&'static str, Measured)> {
    let run = |contender: Contender| {
        let share = |weight_of_all, load| {
            let setup = setup(&contender, calls, backends, weight_of_all, load);
            percent(&simulation::run(&setup, seed), |call| call.backend == 0)
        };
        let measured = Measured {
            small_idle: share(1_000, IDLE),
            small_loaded: share(1_000, LOADED),
            idle: share(100, IDLE),
            loaded: share(100, LOADED),
        };
        (contender.name, measured)
    };
    contenders::canary().into_iter().map(run).collect()
}

/// The results to read.
pub fn table(results: &[(&'static str, Measured)]) -> String {
    let row = |(name, measured): &(&'static str, Measured)| {
        let shares = [
            measured.small_idle,
            measured.small_loaded,
            measured.idle,
            measured.loaded,
        ];
        Row {
            name,
            cells: shares.map(|share| format!("{share:.2}")).into(),
        }
    };
    table::markdown(&COLUMNS, results.iter().map(row))
}

/// The canary has 1 of `weight_of_all`, for each of the others.
fn setup(
    contender: &Contender,
    calls: u64,
    backends: usize,
    weight_of_all: u32,
    load: f64,
) -> Setup {
    let others = backends - 1;
    let weighing = |weight| Behaviour {
        weight,
        work: WORK,
        fails: 0.0,
    };
    let mut all = vec![weighing(weight_of_all - 1); backends];
    all[0] = weighing(others as u32);
    Setup {
        config: contender.config.clone(),
        backends: all,
        gap: WORK.div_f64(load * (others * WORKERS) as f64),
        calls,
        deadline: DEADLINE,
        given_up: Outcome::Failure,
        hangs: None,
        joins: None,
        priorities: Vec::new(),
        states: Vec::new(),
    }
}
