//! static_stride_scheduler.json: scaling (policy::scale), and gRPC's static stride scheduler.
//!
//! The crate scales as C-core does. How Java and Go scale is here, and the order in which gRPC takes
//! turns.

use grpc_lb_core::testing::{scaled, Weight};
use serde_json::Value;

use crate::given::{integer, integer_or, integers, number, numbers, only, same, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "stride_new"
        | "stride_counts"
        | "stride_sequence"
        | "stride_sequence_with_counter"
        | "stride_share"
        | "stride_scaled_and_sequence" => Some(check(&vector.input, &vector.expect)),
        _ => None,
    }
}

/// All ops differ only in what they expect.
fn check(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["variant", "weights", "seq", "picks"])?;
    only(
        expect,
        &[
            "scheduler",
            "uses_round_robin",
            "scaled_weights",
            "derived_scaled_weights",
            "sequence",
            "picks",
            "counter_after",
            "counts",
            "derived_counts",
            "share",
            "share_tolerance",
        ],
    )?;
    let weights = numbers(&input["weights"]);
    let schedule = Schedule::of(input["variant"].as_str().unwrap_or("core"), &weights);

    if let Some(scheduler) = expect.get("scheduler") {
        same("is none", &schedule.is_none(), &scheduler.is_null())?;
    }
    if let Some(round_robin) = expect.get("uses_round_robin") {
        same(
            "round robin",
            &known(&weights).lt(&2),
            &round_robin.as_bool().unwrap_or(false),
        )?;
    }
    for key in ["scaled_weights", "derived_scaled_weights"] {
        match &expect[key] {
            Value::Null => {}
            Value::String(name) => {
                same(
                    "scheduler",
                    &schedule.as_ref().map(Schedule::name),
                    &Some(name.as_str()),
                )?;
            }
            scaled => {
                let got = schedule.as_ref().map(Schedule::scaled).unwrap_or_default();
                same(key, &got, &integers(scaled))?;
            }
        }
    }
    // Without a scheduler the caller picks round robin.
    let schedule = schedule.unwrap_or(Schedule::RoundRobin(weights.len()));
    sequences(input, expect, &weights, &schedule)
}

fn sequences(
    input: &Value,
    expect: &Value,
    weights: &[f64],
    schedule: &Schedule,
) -> Result<(), String> {
    let mut run = Run {
        schedule,
        counter: integer_or(&input["seq"], 0) as u32,
    };
    for key in ["sequence", "picks"] {
        let Some(expected) = expect.get(key) else {
            continue;
        };
        let expected = integers(expected);
        // A counter after every pick, or the one after all of them.
        let counters = &expect["counter_after"];
        let mut got = Vec::new();
        let mut after = Vec::new();
        for _ in &expected {
            got.push(run.pick() as u64);
            after.push(u64::from(run.counter));
        }
        same(key, &got, &expected)?;
        match counters {
            Value::Null => {}
            Value::Array(_) => same("counter_after", &after, &integers(counters))?,
            _ => same("counter_after", &u64::from(run.counter), &integer(counters))?,
        }
        return Ok(());
    }

    let expects_counts = ["counts", "derived_counts", "share", "share_tolerance"];
    if !expects_counts.iter().any(|key| expect.get(key).is_some()) {
        return Ok(());
    }
    let picks = integer(&input["picks"]);
    let counts = run.counts(weights.len(), picks);
    for key in ["counts", "derived_counts"] {
        if let Some(expected) = expect.get(key) {
            same(key, &counts, &integers(expected))?;
        }
    }
    if let Some(tolerance) = expect.get("share_tolerance") {
        let expected = match &expect["share"] {
            Value::Null => {
                let sum: f64 = weights.iter().sum();
                weights.iter().map(|weight| weight / sum).collect()
            }
            share => numbers(share),
        };
        shares(&counts, &expected, number(tolerance))?;
    }
    Ok(())
}

/// Fails unless every count is that share of all of them, up to the tolerance.
pub fn shares(counts: &[u64], expected: &[f64], tolerance: f64) -> Result<(), String> {
    let sum: u64 = counts.iter().sum();
    same("number of shares", &counts.len(), &expected.len())?;
    for (i, (count, expected)) in counts.iter().zip(expected).enumerate() {
        let share = *count as f64 / sum as f64;
        if (share - expected).abs() > tolerance {
            return Err(format!("share[{i}]: expected {expected}, got {share}"));
        }
    }
    Ok(())
}

/// A scheduler and its counter.
pub struct Run<'a> {
    pub schedule: &'a Schedule,
    pub counter: u32,
}

impl Run<'_> {
    fn pick(&mut self) -> usize {
        let mut next = || {
            let number = self.counter;
            self.counter = number.wrapping_add(1);
            number
        };
        match self.schedule {
            Schedule::RoundRobin(backends) => next() as usize % backends,
            Schedule::Stride(stride) => stride.pick(next),
        }
    }

    /// How often each backend is picked.
    pub fn counts(&mut self, backends: usize, picks: u64) -> Vec<u64> {
        let mut counts = vec![0; backends];
        (0..picks).for_each(|_| counts[self.pick()] += 1);
        counts
    }
}

/// What an implementation runs for a list of weights.
pub enum Schedule {
    RoundRobin(usize),
    Stride(Stride),
}

impl Schedule {
    /// `None` where C-core makes no scheduler.
    pub fn of(variant: &str, weights: &[f64]) -> Option<Schedule> {
        match variant {
            "core" => {
                let weight = |weight: &f64| match *weight > 0.0 {
                    true => Weight::Known(*weight as f32),
                    false => Weight::Part(1.0),
                };
                let enough = weights.len() > 1 && known(weights) > 0;
                enough.then(|| stride(scaled(&weights.iter().map(weight).collect::<Vec<_>>())))
            }
            "java" => Some(stride(java(weights))),
            "go" => Some(go(weights)),
            other => panic!("unknown variant {other}"),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Schedule::RoundRobin(_) => "round_robin",
            Schedule::Stride(_) => "stride",
        }
    }

    fn scaled(&self) -> Vec<u64> {
        match self {
            Schedule::RoundRobin(_) => Vec::new(),
            Schedule::Stride(stride) => stride.0.iter().copied().map(u64::from).collect(),
        }
    }
}

fn stride(scaled: Vec<u16>) -> Schedule {
    assert!(scaled.contains(&u16::MAX), "picks would go on and on");
    Schedule::Stride(Stride(scaled))
}

/// gRPC's schedule. A counter goes over the backends in list order, one generation after the other,
/// and passes a backend of weight `w` over in all but `w` of 65,535 generations.
pub struct Stride(Vec<u16>);

impl Stride {
    fn pick(&self, mut next: impl FnMut() -> u32) -> usize {
        loop {
            let number = next() as usize;
            let (generation, slot) = (number / self.0.len(), number % self.0.len());
            let (weight, max) = (u64::from(self.0[slot]), u64::from(u16::MAX));
            let position = weight * generation as u64 + slot as u64 * (max / 2);
            if position % max >= max - weight {
                return slot;
            }
        }
    }
}

fn known(weights: &[f64]) -> usize {
    weights.iter().filter(|weight| **weight > 0.0).count()
}

/// grpc-java: at most ten times and at least a tenth of the mean; all alike if none is known.
fn java(weights: &[f64]) -> Vec<u16> {
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let valid = || weights.iter().copied().filter(|weight| *weight > 0.0);
    if valid().count() == 0 {
        return vec![u16::MAX; weights.len()];
    }
    let mean = valid().map(f64::from).sum::<f64>() / valid().count() as f64;
    let max = valid().fold(0.0, f32::max).min((10.0 * mean) as f32);
    let factor = f64::from(65_535.0_f32 / max);
    let least = (factor * mean * 0.1).ceil() as u16;
    let scaled = |weight: &f32| {
        if *weight > 0.0 {
            ((factor * f64::from(weight.min(max))).round() as u16).max(least)
        } else {
            (factor * mean).round() as u16
        }
    };
    weights.iter().map(scaled).collect()
}

/// grpc-go: no bounds; plain round robin for one backend, one known weight, or all as the mean.
fn go(weights: &[f64]) -> Schedule {
    let round_robin = Schedule::RoundRobin(weights.len());
    let known = weights.iter().filter(|weight| **weight != 0.0).count();
    if weights.len() < 2 || known < 2 {
        return round_robin;
    }
    let factor = 65_535.0 / weights.iter().copied().fold(0.0, f64::max);
    let mean = (factor * (weights.iter().sum::<f64>() / known as f64)).round() as u16;
    let scaled = |weight: &f64| {
        if *weight == 0.0 {
            mean
        } else {
            (factor * weight).round() as u16
        }
    };
    let scaled: Vec<u16> = weights.iter().map(scaled).collect();
    if scaled.iter().all(|weight| *weight == mean) {
        return round_robin;
    }
    stride(scaled)
}
