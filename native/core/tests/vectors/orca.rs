//! orca.json: load reports off the wire (load::orca).

use std::collections::HashMap;

use grpc_lb_core::load::orca::Report;
use serde_json::Value;

use crate::given::{integer, number, only, same, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "orca_decode" => Some(decode(&vector.input, &vector.expect)),
        _ => None,
    }
}

/// The same bytes may be given in several ways.
fn decode(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["hex", "base64", "base64_no_padding"])?;
    only(expect, &["report", "error"])?;
    let expected = match &expect["report"] {
        Value::Null => None,
        given => Some(report(given)),
    };
    let given = [
        ("hex", hex as Reader),
        ("base64", base64),
        ("base64_no_padding", base64),
    ];
    let mut read = 0;
    for (key, decode) in given {
        let Some(text) = input[key].as_str() else {
            continue;
        };
        let bytes = decode(text).ok_or_else(|| format!("{key} cannot be read: {text}"))?;
        same(key, &Report::decode(&bytes), &expected)?;
        read += 1;
    }
    same("has bytes", &(read > 0), &true)
}

/// Makes bytes of text.
type Reader = fn(&str) -> Option<Vec<u8>>;

/// A report as the vectors write it, where `qps` is another name of `rps_fractional`.
pub fn report(given: &Value) -> Report {
    let mut report = Report::default();
    let fields = given
        .as_object()
        .unwrap_or_else(|| panic!("no report: {given}"));
    for (key, value) in fields {
        match key.as_str() {
            "cpu_utilization" => report.cpu_utilization = number(value),
            "mem_utilization" => report.mem_utilization = number(value),
            "rps" => report.rps = integer(value),
            "rps_fractional" | "qps" => report.rps_fractional = number(value),
            "eps" => report.eps = number(value),
            "application_utilization" => report.application_utilization = number(value),
            "request_cost" => report.request_cost = named(value),
            "utilization" => report.utilization = named(value),
            "named_metrics" => report.named_metrics = named(value),
            other => panic!("unknown field {other} of a report"),
        }
    }
    report
}

fn named(given: &Value) -> HashMap<String, f64> {
    let entries = given
        .as_object()
        .unwrap_or_else(|| panic!("no map: {given}"));
    entries
        .iter()
        .map(|(key, value)| (key.clone(), number(value)))
        .collect()
}

fn hex(text: &str) -> Option<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok())
        .collect()
}

fn base64(text: &str) -> Option<Vec<u8>> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut have) = (0_u32, 0);
    for digit in text.trim_end_matches('=').bytes() {
        bits = bits << 6 | DIGITS.iter().position(|known| *known == digit)? as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    Some(bytes)
}
