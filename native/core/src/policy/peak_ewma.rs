//! peak_ewma: of two backends drawn at random, the one that will probably answer sooner, as in
//! Finagle and linkerd.
//!
//! What is compared is the peak-sensitive moving average of a backend's latency times its calls in
//! flight and the one to come. Weights decide who is drawn, both times: one that outweighs
//! all others together is often drawn alone, or the others would have more than is due to them.
//!
//! A slow call, a failed one (which counts as slow, for to fail fast must not pay), one that was given
//! up, and the silence of a backend that has calls in flight raise the average, one of them alone so
//! far that the backend is shunned for half a second at most. Each further one that began after the
//! last doubles that, up to what the latency is worth; where there was no answer, up to four seconds.
//! Eight good ones in a row are a new beginning. linkerd and Finagle have no such bound: there, one
//! slow call of a thousand shuns a backend for minutes.

use std::time::Duration;

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use super::draw::Draw;
use crate::caller::Caller;
use crate::load::latency::{gain, gain_by_counts, Decay, Rule};
use crate::load::{self, nanoseconds, Load, Measuring};

/// What can be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// How long a sample counts: after this time it has lost all but 37 % of its weight. Not 0.
    pub decay: Duration,
    /// The latency that a failed call is recorded with, if it did not take longer.
    pub penalty: Penalty,
}

/// The latency of a failed call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Penalty {
    /// So many times what calls of the fleet usually take.
    Times(f64),
    /// linkerd's.
    Fixed(Duration),
}

impl Default for Config {
    /// linkerd's decay.
    fn default() -> Self {
        Config {
            decay: Duration::from_secs(10),
            penalty: Penalty::Times(90.0),
        }
    }
}

/// What stands for the call to come of the one that was drawn first. That of the other one is half a
/// call, midway between what it has and what it would have: it is one and a half times this.
const ALIKE: f64 = 1.0 / 3.0;

pub(crate) struct Picker {
    decay: Decay,
    draw: Draw,
    weighted: bool,
}

impl PolicyConfig for Config {
    const NAME: &'static str = "peak_ewma";
    const TABULATES_WEIGHTS: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        Picker {
            decay: self.decay.into(),
            draw: Draw::new(list, with.weighted),
            weighted: with.weighted,
        }
    }

    fn measuring(&self) -> Option<Measuring> {
        Some(Measuring {
            rule: Rule::Peak,
            decay: self.decay.into(),
            failure: match self.penalty {
                Penalty::Times(usual) => load::Penalty {
                    nanoseconds: 0.0,
                    usual,
                },
                Penalty::Fixed(least) => load::Penalty {
                    nanoseconds: nanoseconds(least),
                    usual: 0.0,
                },
            },
        })
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        let (kept, next) = self.draw.pair(candidates.len(), caller);
        match next {
            Some(next) if self.prefers(candidates.load(next), candidates.load(kept)) => next,
            _ => kept,
        }
    }
}

impl Picker {
    /// Whether the one that was drawn after the other takes the call.
    #[inline]
    fn prefers(&self, next: &Load, kept: &Load) -> bool {
        let calls = [next, kept].map(Load::in_flight);
        let [next_is_new, kept_is_new] = [(next, calls[0]), (kept, calls[1])]
            .map(|(load, calls)| calls == 0 && load.is_unknown());
        let weights = match self.weighted {
            true => [next, kept].map(Load::weight),
            false => [1.0, 1.0],
        };
        if weights[0] == 0.0 {
            return false;
        }
        // Finagle's probation: who is not known is tried at once, with one call at a time. Picks that
        // come before the first has begun its call see none in flight, and may choose it, too.
        if next_is_new != kept_is_new {
            return next_is_new;
        }
        // Who is shunned leads by so little that neither weights nor the last latency may outweigh it.
        let by_weight = self.weighted && !kept.is_suspect();
        let lead = match by_weight {
            // In tower's words, `pending + 1`.
            false => gain_by_counts([calls[1] + 1, calls[0] + 1], self.decay),
            // The draw has taken the weights into account already. So the first stays where latencies
            // are about alike, and calls in flight count by weight.
            true => {
                let heavier = weights[0].max(weights[1]);
                let next_calls = (f64::from(calls[0]) + 0.5) * heavier / weights[0];
                let kept_calls = f64::from(calls[1]) * heavier / weights[1] + ALIKE;
                gain(kept_calls / next_calls, self.decay)
            }
        };
        // Who is seldom drawn has decayed further, and is no faster for that: it must have been, too.
        next.score().saturating_sub(kept.score()) < lead
            && (!by_weight || next.last_score().saturating_sub(kept.last_score()) < lead)
    }
}
