//! linkerd's estimator of peak EWMA.

use std::time::Duration;

use grpc_lb_core::testing::{Latency, Rule};
use grpc_lb_core::Time;
use serde_json::Value;

use crate::given::{all_near, list, number, number_or, numbers, text, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "linkerd_ewma" => Some(linkerd_ewma(vector)),
        _ => None,
    }
}

/// Samples and reads, in the order given.
fn linkerd_ewma(vector: &Vector) -> Result<(), String> {
    let input = &vector.input;
    let decay = Duration::from_secs_f64(number(&input["decay_s"]));
    let time = |seconds: &Value| {
        // The reference counts in whole nanoseconds too.
        Time((number_or(seconds, 0.0) * 1e9).round() as u64)
    };
    let initial = number_or(&input["initial"], f64::INFINITY);
    let mut latency = Latency::new(initial, time(&input["created_t_s"]), decay);
    let mut reads = Vec::new();
    for event in list(&input["events"]) {
        let now = time(&event["t_s"]);
        match text(&event["op"]) {
            "add" => latency.sample(number(&event["value"]), now, decay, Rule::Plain),
            "add_peak" => latency.sample(number(&event["value"]), now, decay, Rule::Peak),
            // A backend never gets a new estimate here; a new one does.
            "reset" => latency = Latency::new(number(&event["value"]), now, decay),
            "get" => reads.push(latency.estimate(decay)),
            "get_at" => reads.push(latency.projected(now, decay)),
            what => return Err(format!("no event {what}")),
        }
    }
    all_near("reads", &reads, &numbers(&vector.expect["reads"]), 1e-9)
}
