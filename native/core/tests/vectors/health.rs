//! Slow start.

use std::time::Duration;

use grpc_lb_core::health::slow_start::Config;
use grpc_lb_core::testing::slow_start_factor as factor;

use crate::given::{near, number, number_or, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    match op {
        "slow_start_factor" => Some(slow_start_factor(vector)),
        _ => None,
    }
}

fn slow_start_factor(vector: &Vector) -> Result<(), String> {
    let input = &vector.input;
    let ms = |key: &str| Duration::from_secs_f64(number_or(&input[key], 0.0) / 1e3);
    let default = Config::default();
    let config = Config {
        window: ms("window_ms"),
        aggression: number_or(&input["aggression"], default.aggression),
        min_weight_percent: number_or(&input["min_weight_percent"], default.min_weight_percent),
    };
    let got = factor(&config, ms("ms_since_healthy"));
    near("factor", got, number(&vector.expect["factor"]), 1e-12)
}
