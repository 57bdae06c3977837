//! least_request (gRFC A48): of a few backends that are drawn at random, the one with the fewest
//! calls in flight.
//!
//! Where weights differ, backends are compared by `(in flight + 1) ^ bias / weight`, which is the
//! weight that Envoy gives them, turned over.

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use crate::caller::Caller;
use crate::load::Load;

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

impl PolicyConfig for Config {
    const NAME: &'static str = "least_request";
    type Picker = Picker;

    fn build(&self, _list: &impl CandidateList, with: Build<Picker>) -> Picker {
        Picker {
            choices: self.choices.clamp(MIN_CHOICES, MAX_CHOICES),
            bias: self.bias,
            // With another bias than 1, too: it only means something beside weights.
            weighted: with.weighted,
        }
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        let samples = (0..self.choices).map(|_| caller.random_below(candidates.len()));
        let load = |index| candidates.load(index);
        match self.weighted {
            false => cheapest(samples, |index| f64::from(load(index).in_flight())),
            true => cheapest(samples, |index| cost(load(index), self.bias)),
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
pub(crate) fn cheapest(samples: impl Iterator<Item = usize>, cost: impl Fn(usize) -> f64) -> usize {
    let costs = samples.map(|index| (index, cost(index)));
    let cheapest = costs.reduce(|best, next| if next.1 < best.1 { next } else { best });
    cheapest.expect("there is a sample").0
}
