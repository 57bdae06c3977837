//! least_request (gRFC A48): of a few backends that are drawn at random, the one with the fewest
//! calls in flight.
//!
//! Where weights differ, backends are compared by `(in flight + 1) ^ bias / weight`, which is the
//! weight that Envoy gives them, turned over.

use crate::caller::Caller;
use crate::load::Load;
use crate::rows::Rows;

/// What can be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// A48's `choiceCount`: how many are drawn, with replacement. Fewer than 2 are taken for 2, more
    /// than 10 for 10.
    pub choices: usize,
    /// Envoy's `active_request_bias`, from 0: how much calls in flight count beside weights. With 0
    /// they do not.
    pub bias: f64,
}

/// A48's limits to `choiceCount`.
const MIN_CHOICES: usize = 2;
const MAX_CHOICES: usize = 10;

impl Default for Config {
    fn default() -> Self {
        Config {
            choices: 2,
            bias: 1.0,
        }
    }
}

pub(crate) struct Picker {
    choices: usize,
    bias: f64,
    weighted: bool,
}

pub(crate) fn build(config: &Config, weighted: bool) -> Picker {
    Picker {
        choices: config.choices.clamp(MIN_CHOICES, MAX_CHOICES),
        bias: config.bias,
        // With another bias than 1, too: it only means something beside weights.
        weighted,
    }
}

impl Picker {
    #[inline]
    pub(crate) fn pick<T>(&self, rows: &Rows<T>, caller: &Caller) -> usize {
        let samples = (0..self.choices).map(|_| caller.random_below(rows.len()));
        let load = |index| &rows.get(index).entry.load;
        match self.weighted {
            false => choose(samples, |index| f64::from(load(index).in_flight())),
            true => choose(samples, |index| cost(load(index), self.bias)),
        }
    }
}

fn cost(load: &Load, bias: f64) -> f64 {
    let active = f64::from(load.in_flight()) + 1.0;
    let active = if bias == 1.0 {
        active
    } else {
        active.powf(bias)
    };
    active / load.weight()
}

/// The first of the samples that costs least.
#[inline]
pub fn choose(samples: impl Iterator<Item = usize>, cost: impl Fn(usize) -> f64) -> usize {
    let costs = samples.map(|index| (index, cost(index)));
    let cheapest = costs.reduce(|best, next| if next.1 < best.1 { next } else { best });
    cheapest.expect("there is a sample").0
}
