//! peak_ewma: of two backends drawn at random, the one that will probably answer sooner, as in
//! Finagle and linkerd.
//!
//! What is compared is the peak-sensitive moving average of a backend's latency times its calls in
//! flight and the one to come, divided by its weight. A failed call is recorded as a slow one, as in
//! linkerd: to fail fast must not pay.

use std::time::Duration;

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use crate::caller::Caller;
use crate::load::latency::{gain, Decay, Rule};
use crate::load::{nanoseconds, Measuring};

/// What can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a sample counts: after this time it has lost all but 37 % of its weight. Not 0.
    pub decay: Duration,
    /// What is taken for the latency of a backend that has answered no call yet. Not 0.
    pub default_rtt: Duration,
    /// The latency that a failed call is recorded with, if it did not take longer.
    pub penalty: Duration,
}

impl Default for Config {
    /// linkerd's.
    fn default() -> Self {
        Config {
            decay: Duration::from_secs(10),
            default_rtt: Duration::from_millis(30),
            penalty: Duration::from_secs(5),
        }
    }
}

pub(crate) struct Picker {
    decay: Decay,
    weighted: bool,
}

impl PolicyConfig for Config {
    const NAME: &'static str = "peak_ewma";
    type Picker = Picker;

    fn build(&self, _list: &impl CandidateList, with: Build<Picker>) -> Picker {
        Picker {
            decay: self.decay.into(),
            weighted: with.weighted,
        }
    }

    fn measuring(&self) -> Option<Measuring> {
        Some(Measuring {
            rule: Rule::Peak,
            decay: self.decay.into(),
            initial: nanoseconds(self.default_rtt),
            failure: nanoseconds(self.penalty),
        })
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        let n = candidates.len();
        if n == 1 {
            return 0;
        }
        // In any order, each as likely as the others: of two that are equal the one is taken.
        let one = caller.random_below(n);
        let other = match caller.random_below(n - 1) {
            below if below < one => below,
            other => other + 1,
        };
        let [a, b] = [one, other].map(|index| candidates.load(index));
        // In tower's words: the one with the lower `estimate * (pending + 1)`; by weight.
        let [mut calls_a, mut calls_b] = [a, b].map(|load| f64::from(load.in_flight()) + 1.0);
        if self.weighted {
            (calls_a, calls_b) = (calls_a * b.weight(), calls_b * a.weight());
        }
        // As often as not there is nothing in flight, and no need for a logarithm.
        let lead = match calls_a == calls_b {
            true => 0,
            false => gain(calls_b / calls_a, self.decay),
        };
        match a.score().saturating_sub(b.score()) <= lead {
            true => one,
            false => other,
        }
    }
}
