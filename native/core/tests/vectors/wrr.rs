//! weighted_round_robin.json: weights out of load reports (load::reported_weight), and the picks
//! that follow from them. Times are milliseconds.

use std::time::Duration;

use grpc_lb_core::load::reported_weight::{Config, Metric};
use grpc_lb_core::testing::{utilization, ReportedWeight};
use grpc_lb_core::Time;
use serde_json::Value;

use crate::given::{
    all_near, integer, integer_or, integers, list, near, number, number_or, numbers, only, same,
    text, Vector, Vectors,
};
use crate::orca::report;
use crate::stride::{shares, Run, Schedule};
use crate::Outcome;

/// How exact a weight has to be: some roundings of an f64.
const EXACT: f64 = 1e-12;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    let (input, expect) = (&vector.input, &vector.expect);
    Some(match op {
        "wrr_ratio" => ratio(input, expect),
        "wrr_share" => share(input, expect),
        "wrr_weight_timeline" => timeline(input, expect),
        "utilization" => used(input, expect),
        _ => return None,
    })
}

/// Every backend reports once at the start; then the weights are read and picks made.
fn ratio(input: &Value, expect: &Value) -> Result<(), String> {
    only(expect, &["weights", "ratio", "ratio_by_address"])?;
    let mut config = config(input);
    if input["blackout_ms"].is_null() {
        config.blackout_period = Duration::ZERO;
    }
    let addresses = addresses(input);
    let reports: Vec<&Value> = match &addresses {
        None => list(&input["reports"]).iter().collect(),
        Some(addresses) => addresses
            .iter()
            .map(|address| &input["reports_by_address"][address])
            .collect(),
    };
    let weights: Vec<f64> = reports
        .iter()
        .map(|given| {
            let weight = ReportedWeight::new();
            if !given.is_null() {
                weight.on_report(&report(given), Time(0), &config);
            }
            weight.get(Time(0), &config).unwrap_or(0.0)
        })
        .collect();
    if let Some(expected) = expect.get("weights") {
        all_near("weights", &weights, &numbers(expected), EXACT)?;
    }
    let expected = match addresses {
        None => integers(&expect["ratio"]),
        Some(addresses) => {
            let ratio = &expect["ratio_by_address"];
            same(
                "addresses",
                &Some(addresses.len()),
                &ratio.as_object().map(|r| r.len()),
            )?;
            addresses
                .iter()
                .map(|address| integer(&ratio[address]))
                .collect()
        }
    };
    // The 16 bits of a weight do not hold every ratio exactly: 1,000 cycles are off by a few.
    let cycle: u64 = expected.iter().sum();
    let counts = counts(input, &weights, 1_000 * cycle);
    let parts: Vec<f64> = expected
        .iter()
        .map(|part| *part as f64 / cycle as f64)
        .collect();
    shares(&counts, &parts, 0.000_1)
}

/// A balancer holds every address once.
fn addresses(input: &Value) -> Option<Vec<&str>> {
    let mut once: Vec<&str> = Vec::new();
    for address in input["addresses"].as_array()?.iter().map(text) {
        if !once.contains(&address) {
            once.push(address);
        }
    }
    Some(once)
}

fn share(input: &Value, expect: &Value) -> Result<(), String> {
    only(expect, &["share", "tolerance"])?;
    let counts = counts(
        input,
        &numbers(&input["weights"]),
        integer_or(&input["picks"], 10_000),
    );
    shares(
        &counts,
        &numbers(&expect["share"]),
        number(&expect["tolerance"]),
    )
}

/// How often each backend is picked; round robin where weights say nothing.
fn counts(input: &Value, weights: &[f64], picks: u64) -> Vec<u64> {
    let variant = input["variant"].as_str().unwrap_or("core");
    let schedule = Schedule::of(variant, weights).unwrap_or(Schedule::RoundRobin(weights.len()));
    let mut run = Run {
        schedule: &schedule,
        counter: integer_or(&input["seq"], 0) as u32,
    };
    run.counts(weights.len(), picks)
}

fn timeline(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["config", "events"])?;
    only(expect, &["weights_at_get"])?;
    let config = config(&input["config"]);
    let weight = ReportedWeight::new();
    let mut got = Vec::new();
    for event in list(&input["events"]) {
        let now = Time(0) + milliseconds(&event["t"]);
        match text(&event["op"]) {
            "report" => weight.on_report(&report(&event["report"]), now, &config),
            "get" => got.push(weight.get(now, &config).unwrap_or(0.0)),
            "ready" => weight.on_ready(),
            other => return Err(format!("unknown event {other}")),
        }
    }
    all_near(
        "weights_at_get",
        &got,
        &numbers(&expect["weights_at_get"]),
        EXACT,
    )
}

fn used(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["report", "metric_names", "named_metrics_first"])?;
    only(expect, &["utilization"])?;
    let report = report(&input["report"]);
    // Older Envoy asks the application before the metrics that are named.
    let application_first = input["named_metrics_first"] == Value::Bool(false);
    let got = if application_first && report.application_utilization > 0.0 {
        report.application_utilization
    } else {
        utilization(&report, &metrics(&input["metric_names"]))
    };
    near("utilization", got, number(&expect["utilization"]), 0.0)
}

/// A58's config with its defaults for what is absent.
fn config(given: &Value) -> Config {
    let default = Config::default();
    let period = |key: &str, default: Duration| match &given[key] {
        Value::Null => default,
        value => milliseconds(value),
    };
    let penalty = ["error_utilization_penalty", "penalty"]
        .iter()
        .map(|key| &given[*key])
        .find(|value| !value.is_null())
        .unwrap_or(&Value::Null);
    Config {
        blackout_period: period("blackout_ms", default.blackout_period),
        weight_expiration_period: period("expiration_ms", default.weight_expiration_period),
        weight_update_period: period("update_ms", default.weight_update_period),
        error_utilization_penalty: number_or(penalty, default.error_utilization_penalty),
        metrics: metrics(&given["metric_names"]),
        source: default.source,
    }
    .clamped()
}

fn metrics(names: &Value) -> Vec<Metric> {
    let names = names.as_array().map(Vec::as_slice).unwrap_or_default();
    names
        .iter()
        .filter_map(|name| Metric::parse(text(name)))
        .collect()
}

fn milliseconds(value: &Value) -> Duration {
    Duration::from_secs_f64(number(value) / 1_000.0)
}
