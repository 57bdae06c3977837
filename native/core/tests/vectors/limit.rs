//! Circuit breaking.

use grpc_lb_core::testing::InFlight;

use crate::given::{integer, integer_or, list, same, text, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "circuit_breaker_events" => Some(events(vector)),
        _ => None,
    }
}

/// A32's default, where the configuration has none.
const DEFAULT_MAX: u64 = 1_024;

/// Changes of the limit, calls that start and calls that end, as `[what, number]`.
fn events(vector: &Vector) -> Result<(), String> {
    let default = integer_or(&vector.input["default_max"], DEFAULT_MAX);
    let mut max = default;
    let calls = InFlight::new();
    let mut started = Vec::new();
    for event in list(&vector.input["events"]) {
        let (what, number) = (text(&event[0]), &event[1]);
        match what {
            "max" => max = integer_or(number, default),
            "start" => {
                let number = integer(number);
                let max = u32::try_from(max).expect("a limit of 32 bits");
                let entered = (0..number).filter(|_| calls.try_enter(Some(max))).count() as u64;
                started.push([entered, number - entered]);
            }
            "end" => (0..integer(number)).for_each(|_| calls.leave()),
            _ => return Err(format!("no event {what}")),
        }
    }
    let expected: Vec<[u64; 2]> = list(&vector.expect["accepted_rejected_per_start"])
        .iter()
        .map(|pair| [integer(&pair[0]), integer(&pair[1])])
        .collect();
    same("accepted and rejected", &started, &expected)
}
