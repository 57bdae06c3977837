//! pick_first.json.

use grpc_lb_core::testing::weighted_place;

use crate::given::{all_near, integers, list, number_or, numbers, only, same, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "weighted_shuffle" => Some(weighted_shuffle(vector)),
        _ => None,
    }
}

fn weighted_shuffle(vector: &Vector) -> Result<(), String> {
    let (input, expect) = (&vector.input, &vector.expect);
    only(input, &["weights", "u"])?;
    only(expect, &["order", "keys"])?;
    let weights = list(&input["weights"]).iter();
    let draws = numbers(&input["u"]);
    let places: Vec<f64> = weights
        .map(|weight| number_or(weight, 1.0))
        .zip(draws)
        .map(|(weight, random)| weighted_place(weight, random))
        .collect();
    if !expect["keys"].is_null() {
        all_near("keys", &places, &numbers(&expect["keys"]), 1e-12)?;
    }
    let mut order: Vec<u64> = (0..places.len() as u64).collect();
    order.sort_by(|a, b| places[*b as usize].total_cmp(&places[*a as usize]));
    same("order", &order, &integers(&expect["order"]))
}
