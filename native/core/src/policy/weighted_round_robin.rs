//! weighted_round_robin (gRFC A58): one after the other, each as often as its weight says.
//!
//! Weights are those of the list, as they are, or come from load reports, on A58's scale. The turns
//! go on across changes of the list; A58 begins anywhere at each.

use super::contract::{Build, CandidateList, Candidates, PolicyConfig, PolicyPicker};
use super::scale::{scaled, Weight};
use super::schedule::Schedule;
use crate::caller::Caller;
use crate::cursor::{Cursor, CursorKind};
use crate::load::{reported_weight, Load};

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
    /// Counts places of the schedule.
    cursor: Cursor,
    schedule: Schedule,
}

impl PolicyConfig for Config {
    const NAME: &'static str = "weighted_round_robin";
    const TABULATES_WEIGHTS: bool = true;
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        let Build { last, random, .. } = with;
        let loads = (0..list.len()).map(|index| list.load(index));
        let weights: Vec<f64> = match self.weights {
            Weights::Static => loads.map(Load::weight).collect(),
            Weights::Reported(_) => {
                let weights: Vec<Weight> = loads.map(reported).collect();
                scaled(&weights).into_iter().map(f64::from).collect()
            }
        };
        let schedule = Schedule::new(&weights);
        let cursor = match last {
            Some(last) if schedule.is_like(&last.schedule) => {
                last.cursor.continued(self.cursor, |place| place)
            }
            // Less than a turn further: lists that take turns would each come upon the same places
            // again and again.
            Some(last) => last.cursor.continued(self.cursor, |place| {
                place.wrapping_add(schedule.less_than_a_turn(random.u64(..)))
            }),
            // So that many clients do not go in step.
            None => Cursor::new(self.cursor, || random.u64(..)),
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

/// C-core weighs in 32 bits.
fn reported(load: &Load) -> Weight {
    match load.known_weight() {
        // What is too small for that is known all the same.
        Some(weight) => Weight::Known((weight as f32).max(f32::MIN_POSITIVE)),
        None => Weight::Part(load.warmth() as f32),
    }
}

impl PolicyPicker for Picker {
    #[inline]
    fn pick(&self, _candidates: &impl Candidates, caller: &Caller) -> usize {
        let place = self.cursor.take(caller.number(), self.schedule.step());
        self.schedule.at(place)
    }
}
