//! least_request.json: the choice among samples (policy::least_request).

use grpc_lb_core::testing::preferred;
use serde_json::Value;

use crate::given::{
    integer, integer_or, integers, number_or, numbers, only, same, Vector, Vectors,
};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    let (input, expect) = (&vector.input, &vector.expect);
    Some(match op {
        "least_request_samples" => samples(input, expect),
        "least_request_stream" => stream(input, expect),
        _ => return None,
    })
}

/// One pick out of random numbers, each of which stands for a backend by its remainder.
fn samples(input: &Value, expect: &Value) -> Result<(), String> {
    only(
        input,
        &[
            "active",
            "choice_count",
            "pending",
            "count_pending",
            "weights",
            "bias",
            "samples",
        ],
    )?;
    only(expect, &["pick"])?;
    let mut active = integers(&input["active"]);
    if input["count_pending"] == Value::Bool(true) {
        let pending = integers(&input["pending"]);
        active
            .iter_mut()
            .zip(pending)
            .for_each(|(active, pending)| *active += pending);
    }
    let mut samples = integers(&input["samples"]);
    samples.truncate(integer_or(&input["choice_count"], u64::MAX) as usize);
    let got = if active.is_empty() {
        None
    } else {
        Some(pick(input, &active, samples.into_iter()) as u64)
    };
    let expected = Some(&expect["pick"])
        .filter(|pick| !pick.is_null())
        .map(integer);
    same("pick", &got, &expected)
}

/// Picks whose calls never end.
fn stream(input: &Value, expect: &Value) -> Result<(), String> {
    only(
        input,
        &[
            "initial_active",
            "choice_count",
            "weights",
            "bias",
            "samples",
            "picks",
        ],
    )?;
    only(expect, &["picks", "active"])?;
    let mut active = integers(&input["initial_active"]);
    let choices = integer(&input["choice_count"]) as usize;
    let mut samples = endless(&input["samples"]);
    let got: Vec<u64> = (0..integer(&input["picks"]))
        .map(|_| {
            let picked = pick(input, &active, samples.by_ref().take(choices));
            active[picked] += 1;
            picked as u64
        })
        .collect();
    same("picks", &got, &integers(&expect["picks"]))?;
    match &expect["active"] {
        Value::Null => Ok(()),
        expected => same("active", &active, &integers(expected)),
    }
}

fn pick(input: &Value, active: &[u64], samples: impl Iterator<Item = u64>) -> usize {
    let weights = match &input["weights"] {
        Value::Null => vec![1.0; active.len()],
        weights => numbers(weights),
    };
    let bias = number_or(&input["bias"], 1.0);
    // Envoy's weight, turned over.
    let cost = |backend: usize| (active[backend] as f64 + 1.0).powf(bias) / weights[backend];
    preferred(
        samples.map(|sample| (sample % active.len() as u64) as usize),
        |kept, next| cost(next) < cost(kept),
    )
}

/// A list, or a text such as `0,1,2,0,1,2,...`: both begin again at their end, the text after its
/// period.
fn endless(given: &Value) -> impl Iterator<Item = u64> {
    let numbers = match given {
        Value::String(text) => {
            let shown: Vec<u64> = text
                .split(',')
                .map(str::trim)
                .filter(|part| *part != "...")
                .map(|part| part.parse().unwrap_or_else(|_| panic!("no number: {part}")))
                .collect();
            let period = (1..=shown.len())
                .find(|period| (*period..shown.len()).all(|i| shown[i] == shown[i - period]))
                .unwrap_or(shown.len());
            shown[..period].to_vec()
        }
        _ => integers(given),
    };
    numbers.into_iter().cycle()
}
