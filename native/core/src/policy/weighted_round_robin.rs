//! weighted_round_robin (gRFC A58): one after the other, each as often as its weight says.
//!
//! Weights are those of the list, or come from load reports. The schedule is gRPC's static stride,
//! see `stride`.

use strength_reduce::StrengthReducedU64;

use super::contract::{Build, CandidateList, Candidates, Cause, PolicyConfig, PolicyPicker};
use super::stride::Stride;
use crate::caller::Caller;
use crate::cursor::{Cursor, CursorKind};
use crate::load::reported_weight;

/// What can be chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Which callers share the rotation.
    pub cursor: CursorKind,
    /// Where weights come from.
    pub weights: Weights,
}

/// Where weights come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Weights {
    /// The list.
    #[default]
    Static,
    /// Load reports.
    Reported(Box<reported_weight::Config>),
}

pub(crate) struct Picker {
    cursor: Cursor,
    schedule: Schedule,
}

enum Schedule {
    Stride(Stride),
    /// A58: with fewer than two backends, or as long as no weight is known.
    RoundRobin(StrengthReducedU64),
}

impl PolicyConfig for Config {
    const NAME: &'static str = "weighted_round_robin";
    const TABULATES_WEIGHTS: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        let Build {
            last,
            cause,
            random,
            ..
        } = with;
        let backends = list.len();
        let weights = (0..backends).map(|index| single(list.load(index).weight()));
        let schedule = match Stride::new(&weights.collect::<Vec<f32>>()) {
            Some(stride) => Schedule::Stride(stride),
            None => Schedule::RoundRobin(StrengthReducedU64::new(backends.max(1) as u64)),
        };
        let cursor = match last {
            // A58: the timer swaps schedules, and the counter goes on.
            Some(last) if cause == Cause::StateChange => last.cursor.continued(self.cursor),
            // A58: a new picker begins anywhere, so that many clients do not go in step.
            _ => Cursor::new(self.cursor, || u64::from(random.u32(..))),
        };
        Picker { cursor, schedule }
    }

    fn reported_weights(&self) -> Option<&reported_weight::Config> {
        match &self.weights {
            Weights::Static => None,
            Weights::Reported(config) => Some(config),
        }
    }
}

/// C-core weighs in 32 bits. What is too small for that is still known, which 0 is not.
fn single(weight: f64) -> f32 {
    match weight > 0.0 {
        true => (weight as f32).max(f32::MIN_POSITIVE),
        false => 0.0,
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, _candidates: &impl Candidates, caller: &Caller) -> usize {
        let caller = caller.number();
        match &self.schedule {
            // The schedule repeats itself after 2^32 turns, as that of gRPC.
            Schedule::Stride(stride) => stride.pick(|| self.cursor.take(caller) as u32),
            Schedule::RoundRobin(backends) => (self.cursor.take(caller) % *backends) as usize,
        }
    }
}
