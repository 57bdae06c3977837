//! Outlier detection.

use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{Config, FailurePercentage, SuccessRate};
use grpc_lb_core::testing::{mean_and_stdev, success_rate_threshold, sweep, Ejection, Subject};
use grpc_lb_core::Time;
use serde_json::Value;

use crate::given::{integer, integer_or, integers, list, near, number, numbers, same, text};
use crate::given::{Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "mean_stdev" => Some(statistics(vector, &vector.input["values"])),
        "success_rate_threshold" => Some(statistics(vector, &vector.input["success_rates"])),
        "outlier_timeline" => Some(timeline(vector)),
        _ => None,
    }
}

/// Compares what is expected of mean, variance, deviation and threshold.
fn statistics(vector: &Vector, values: &Value) -> Result<(), String> {
    let (mean, stdev) = mean_and_stdev(numbers(values).into_iter());
    let default = u64::from(SuccessRate::default().stdev_factor);
    let factor = integer_or(&vector.input["stdev_factor"], default) as u32;
    let expected = vector.expect.as_object().ok_or("nothing is expected")?;
    expected.iter().try_for_each(|(key, expected)| {
        let got = match key.as_str() {
            "mean" => mean,
            "variance" => stdev * stdev,
            "stdev" => stdev,
            "threshold" => success_rate_threshold(mean, stdev, factor),
            _ => return Err(format!("what is {key}?")),
        };
        // Rates are up to 100: what should be 0 may be off by that much.
        let expected = number(expected);
        if expected.abs() < 1e-9 && got.abs() < 1e-9 {
            return Ok(());
        }
        near(key, got, expected, 1e-9)
    })
}

/// Sweeps at the times given, each after calls of every endpoint.
fn timeline(vector: &Vector) -> Result<(), String> {
    let input = &vector.input;
    let draw = integer_or(&input["enforcement_random"], 0) as u32;
    let mut ejections = vec![Ejection::default(); integer(&input["endpoints"]) as usize];
    let mut given = &input["config"];
    let (mut ejected, mut multipliers) = (Vec::new(), Vec::new());
    for tick in list(&input["ticks"]) {
        if !tick["config"].is_null() {
            given = &tick["config"];
        }
        let mut config = config(given);
        let rule = input["max_rule"].as_str().unwrap_or("a50");
        config.max_ejection_percent = max_percent(rule, config.max_ejection_percent, &ejections)?;
        if config.success_rate.is_none() && config.failure_percentage.is_none() {
            // A50: without an algorithm all ejections end, and nothing is remembered.
            ejections.fill(Ejection::default());
        }

        let calls = list(&tick["calls"]);
        same("endpoints with calls", &calls.len(), &ejections.len())?;
        let pairs = ejections.iter_mut().zip(calls);
        let mut subjects: Vec<_> = pairs
            .map(|(ejection, calls)| Subject {
                ok: integer(&calls[0]),
                failed: integer(&calls[1]),
                ready: true,
                ejection,
            })
            .collect();
        let now = Time((number(&tick["t"]) * 1e6).round() as u64);
        sweep(&config, &mut subjects, now, || draw);

        let now_ejected = (0..ejections.len()).filter(|i| ejections[*i].is_ejected());
        ejected.push(now_ejected.map(|i| i as u64).collect());
        multipliers.push(ejections.iter().map(|it| it.multiplier.into()).collect());
    }

    let expect = &vector.expect;
    same("ejected", &ejected, &lists(&expect["ejected_after_tick"]))?;
    match &expect["multiplier_after_tick"] {
        Value::Null => Ok(()),
        expected => same("multipliers", &multipliers, &lists(expected)),
    }
}

fn lists(value: &Value) -> Vec<Vec<u64>> {
    list(value).iter().map(integers).collect()
}

/// The maximum with which ours does what another implementation does. All that differs is how many
/// endpoints may be ejected before no more are.
fn max_percent(rule: &str, percent: u32, ejections: &[Ejection]) -> Result<u32, String> {
    match rule {
        "a50" | "go" | "java" => Ok(percent),
        // The first is ejected whatever the maximum: it is one endpoint at least.
        "core" if percent == 0 && ejections.len() > 100 => {
            Err("a percent is more than one endpoint".to_string())
        }
        "core" => Ok(percent.max(1)),
        _ => Err(format!("no max_rule {rule}")),
    }
}

/// A configuration in gRPC's words, times in milliseconds. What is absent or null is the default.
fn config(given: &Value) -> Config {
    let default = Config::default();
    Config {
        interval: duration(&given["interval"], default.interval),
        base_ejection_time: duration(&given["baseEjectionTime"], default.base_ejection_time),
        max_ejection_time: duration(&given["maxEjectionTime"], default.max_ejection_time),
        max_ejection_percent: small(&given["maxEjectionPercent"], default.max_ejection_percent),
        success_rate: set(&given["successRateEjection"]).map(success_rate),
        failure_percentage: set(&given["failurePercentageEjection"]).map(failure_percentage),
        strict: false,
        ..default
    }
}

fn set(given: &Value) -> Option<&Value> {
    (!given.is_null()).then_some(given)
}

fn success_rate(given: &Value) -> SuccessRate {
    let default = SuccessRate::default();
    SuccessRate {
        stdev_factor: small(&given["stdevFactor"], default.stdev_factor),
        enforcement_percentage: small(
            &given["enforcementPercentage"],
            default.enforcement_percentage,
        ),
        minimum_hosts: small(&given["minimumHosts"], default.minimum_hosts),
        request_volume: small(&given["requestVolume"], default.request_volume),
    }
}

fn failure_percentage(given: &Value) -> FailurePercentage {
    let default = FailurePercentage::default();
    FailurePercentage {
        threshold: small(&given["threshold"], default.threshold),
        enforcement_percentage: small(
            &given["enforcementPercentage"],
            default.enforcement_percentage,
        ),
        minimum_hosts: small(&given["minimumHosts"], default.minimum_hosts),
        request_volume: small(&given["requestVolume"], default.request_volume),
    }
}

fn small(value: &Value, default: u32) -> u32 {
    u32::try_from(integer_or(value, default.into())).expect("a number of 32 bits")
}

/// A number of milliseconds, or a text of seconds such as `"1.5s"`, as service configs have it.
fn duration(value: &Value, default: Duration) -> Duration {
    match value {
        Value::Null => default,
        Value::String(seconds) => {
            let seconds = text(value).strip_suffix('s').unwrap_or(seconds);
            Duration::from_secs_f64(seconds.parse().expect("a number of seconds"))
        }
        _ => Duration::from_secs_f64(number(value) / 1e3),
    }
}
