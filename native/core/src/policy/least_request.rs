//! least_request (gRFC A48): of a few backends that are drawn at random, the one with the fewest
//! calls in flight.
//!
//! A48 draws with replacement and knows no weights. Here a backend is drawn once, as in tower, and
//! by its weight; so where nothing is in flight shares are the weights, as they are with Envoy's
//! schedule. What is compared are calls in flight by weight, so that under load these are as the
//! weights. Envoy's schedule divides a weight by calls in flight and takes that for a rate: shares
//! are then as the roots of the weights.

use std::hint::select_unpredictable;

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use super::draw::{self, Draw};
use crate::caller::Caller;
use crate::load::Load;

/// What can be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// How many backends are compared.
    pub choices: Choices,
    /// Envoy's `active_request_bias`, from 0: how much calls in flight count. With 0 they do not.
    pub bias: f64,
}

/// How many backends are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choices {
    /// A48's `choiceCount`. Fewer than 2 are taken for 2, more than 10 for 10.
    Some(usize),
    /// All in a list of up to 64, as Envoy's `FULL_SCAN`; of a longer one as many as can be drawn.
    All,
}

/// A48's lower limit to `choiceCount`. The upper one is that of draws.
const FEWEST: usize = 2;

/// The longest list that is looked through.
const LONGEST_SCAN: usize = 64;

impl Default for Config {
    fn default() -> Self {
        Config {
            choices: Choices::Some(2),
            bias: 1.0,
        }
    }
}

pub(crate) struct Picker {
    draw: Draw,
    /// How many are drawn. `None`: all are looked through.
    choices: Option<usize>,
    rule: Rule,
}

impl PolicyConfig for Config {
    const NAME: &'static str = "least_request";
    const TABULATES_WEIGHTS: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        let choices = match self.choices {
            Choices::Some(choices) => Some(choices.clamp(FEWEST, draw::MOST)),
            Choices::All => (list.len() > LONGEST_SCAN).then_some(draw::MOST),
        };
        Picker {
            draw: Draw::new(list, with.weighted),
            choices,
            rule: Rule::new(self.bias),
        }
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        let n = candidates.len();
        let load = |index| candidates.load(index);
        match self.choices {
            Some(FEWEST) => {
                let (kept, next) = self.draw.two(n, caller);
                let Some(next) = next else {
                    return kept;
                };
                let takes = match self.draw.is_by_weight() {
                    true => self.rule.prefers(load(next), load(kept)),
                    // As above, with no division.
                    false => self.rule.prefers_equal(load(next), load(kept)),
                };
                // Under load nobody can foretell which: a wrong guess would cost more than the wait.
                select_unpredictable(takes, next, kept)
            }
            Some(choices) => preferred(self.draw.distinct(n, choices, caller), |kept, next| {
                self.rule.prefers(load(next), load(kept))
            }),
            None => self.scan(candidates, caller),
        }
    }
}

impl Picker {
    /// The one with the fewest calls of all; one that is drawn, as long as none is preferred to it,
    /// or else any of those that are preferred to all others.
    fn scan(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        let drawn = self.draw.one(candidates.len(), caller);
        let (mut best, mut cost, mut ties) = (drawn, self.rule.kept(candidates.load(drawn)), 0);
        for index in (0..candidates.len()).filter(|index| *index != drawn) {
            let next = self.rule.offered(candidates.load(index));
            if next < cost || (ties == 0 && next == cost) {
                (best, cost, ties) = (index, next, 1);
            } else if next == cost {
                ties += 1;
                if caller.random_below(ties) == 0 {
                    best = index;
                }
            }
        }
        best
    }
}

/// The first of the drawn ones, or the first that is preferred to it, and so on.
#[inline]
pub(crate) fn preferred(
    drawn: impl Iterator<Item = usize>,
    prefers_next: impl Fn(usize, usize) -> bool,
) -> usize {
    let better = |kept, next| match prefers_next(kept, next) {
        true => next,
        false => kept,
    };
    drawn.reduce(better).expect("one is drawn")
}

/// What the call to come adds to the one that was drawn later.
const HALF: f64 = 0.5;

/// By what two backends are compared: `load ^ power / weight`, where the load of the one that was
/// drawn before is its calls in flight, and that of the other one half a call more, midway between
/// what it has and what it would have. So with equal loads the draw decides, and with it the
/// weights.
///
/// Envoy's bias is that power where it is above 1. Below 1 it is the part of the load of the first
/// one that counts, since its draw has taken the weights into account already: with none, it stays.
#[derive(Clone, Copy)]
struct Rule {
    part: f64,
    power: f64,
}

impl Rule {
    fn new(bias: f64) -> Rule {
        Rule {
            part: bias.min(1.0),
            power: bias.max(1.0),
        }
    }

    #[inline]
    fn prefers(&self, next: &Load, kept: &Load) -> bool {
        self.offered(next) <= self.kept(kept)
    }

    /// The same for two of one weight, whose costs are as their loads.
    #[inline]
    fn prefers_equal(&self, next: &Load, kept: &Load) -> bool {
        f64::from(next.in_flight()) + HALF <= self.part * f64::from(kept.in_flight())
    }

    #[inline]
    fn kept(&self, load: &Load) -> f64 {
        self.cost(self.part * f64::from(load.in_flight()), load)
    }

    #[inline]
    fn offered(&self, load: &Load) -> f64 {
        self.cost(f64::from(load.in_flight()) + HALF, load)
    }

    #[inline]
    fn cost(&self, calls: f64, load: &Load) -> f64 {
        let calls = match self.power == 1.0 {
            true => calls,
            false => calls.powf(self.power),
        };
        calls / load.weight()
    }
}
