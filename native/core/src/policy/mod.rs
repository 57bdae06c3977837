//! The policies: each a file with the same three roles.
//!
//! A `Config` says what a user can choose. `build` prepares a picker for a list of backends, off
//! the hot path. `pick` says which row of the snapshot is next, on the hot path: it does not
//! allocate, lock or read a clock, and takes its randomness from the caller.
//!
//! | policy | chooses |
//! | --- | --- |
//! | [`pick_first`] | the first backend that is ready |
//! | [`round_robin`] | one after the other |
//! | [`random`](Policy::Random) | any, by weight |
//! | [`weighted_round_robin`] | one after the other, by weight; [`stride`] is its schedule |
//! | [`least_request`] | the one of a few with the fewest calls in flight |
//! | [`peak_ewma`] | the one of two that will probably answer sooner |
//!
//! [`ring_hash`] and [`maglev`] are tables for policies that hash, which are not there yet: they are
//! built and looked up, and tested with the known answers.

pub mod alias;
pub mod least_request;
pub mod maglev;
pub mod peak_ewma;
pub mod pick_first;
pub mod random;
pub mod ring_hash;
pub mod round_robin;
pub mod stride;
pub mod weighted_round_robin;

use std::time::Duration;

use self::weighted_round_robin::Weights;
use crate::backend::Row;
use crate::caller::Caller;
use crate::load::{nanoseconds, reported_weight, Measuring, Rule};
use crate::rows::Rows;

/// The rule that chooses.
#[derive(Clone, Debug, PartialEq)]
pub enum Policy {
    /// The first backend that is ready.
    PickFirst(pick_first::Config),
    /// One after the other.
    RoundRobin(round_robin::Config),
    /// Any, by weight.
    Random,
    /// One after the other, by weight.
    WeightedRoundRobin(weighted_round_robin::Config),
    /// The one of a few with the fewest calls in flight.
    LeastRequest(least_request::Config),
    /// The one of two that will probably answer sooner.
    PeakEwma(Box<peak_ewma::Config>),
}

/// What a new snapshot comes from; some policies begin anew with a list, others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A list that a user gave or changed.
    Reconcile,
    /// A change of state or weight of backends that stay listed.
    StateChange,
}

/// A policy, prepared for one snapshot.
pub(crate) enum Picker {
    PickFirst(pick_first::Picker),
    RoundRobin(round_robin::Picker),
    Random(random::Picker),
    WeightedRoundRobin(weighted_round_robin::Picker),
    LeastRequest(least_request::Picker),
    PeakEwma(peak_ewma::Picker),
}

impl Policy {
    /// The policy's name, as users write it.
    pub fn name(&self) -> &'static str {
        match self {
            Policy::PickFirst(_) => "pick_first",
            Policy::RoundRobin(_) => "round_robin",
            Policy::Random => "random",
            Policy::WeightedRoundRobin(_) => "weighted_round_robin",
            Policy::LeastRequest(_) => "least_request",
            Policy::PeakEwma(_) => "peak_ewma",
        }
    }

    /// Whether the picks of each backend are known. A policy without a cursor would have to write
    /// to a shared counter at every pick to know them.
    pub(crate) fn counts_picks(&self) -> bool {
        matches!(self, Policy::RoundRobin(_))
    }

    /// Whether it prepares a table of weights, which is built anew when one changes.
    pub(crate) fn tabulates_weights(&self) -> bool {
        matches!(self, Policy::Random | Policy::WeightedRoundRobin(_))
    }

    /// How weights come out of load reports, if they do.
    pub(crate) fn reported_weights(&self) -> Option<&reported_weight::Config> {
        match self {
            Policy::WeightedRoundRobin(config) => match &config.weights {
                Weights::Reported(config) => Some(config),
                Weights::Static => None,
            },
            _ => None,
        }
    }

    /// How latencies are averaged.
    pub(crate) fn measuring(&self) -> Measuring {
        match self {
            Policy::PeakEwma(config) => Measuring {
                rule: Rule::Peak,
                decay: config.decay.into(),
                initial: nanoseconds(config.default_rtt),
                failure: nanoseconds(config.penalty),
            },
            _ => Measuring {
                rule: Rule::Plain,
                decay: Duration::from_secs(10).into(),
                initial: f64::INFINITY,
                failure: f64::INFINITY,
            },
        }
    }

    /// Prepares the picker for these rows. `rank` says which place in the list is a row's: the lower,
    /// the earlier. `weighted` says whether some weight is not 1.
    pub(crate) fn build<T>(
        &self,
        rows: &Rows<T>,
        rank: impl Fn(&Row<T>) -> u64,
        weighted: bool,
        last: &Picker,
        cause: Cause,
        random: &mut fastrand::Rng,
    ) -> Picker {
        match self {
            Policy::PickFirst(config) => Picker::PickFirst(pick_first::build(config, rows, rank)),
            Policy::RoundRobin(config) => {
                let last = match last {
                    Picker::RoundRobin(last) => Some(last),
                    _ => None,
                };
                Picker::RoundRobin(round_robin::build(config, rows.len(), last, cause, random))
            }
            Policy::Random => Picker::Random(random::build(rows, weighted)),
            Policy::WeightedRoundRobin(config) => {
                let last = match last {
                    Picker::WeightedRoundRobin(last) => Some(last),
                    _ => None,
                };
                let picker = weighted_round_robin::build(config, rows, last, cause, random);
                Picker::WeightedRoundRobin(picker)
            }
            Policy::LeastRequest(config) => {
                Picker::LeastRequest(least_request::build(config, weighted))
            }
            Policy::PeakEwma(config) => Picker::PeakEwma(peak_ewma::build(config, weighted)),
        }
    }
}

impl Picker {
    /// For a list that nobody has given yet. It has no cursor, which would be as large as all the
    /// rest of the snapshot: the one for the first list begins anew.
    pub(crate) fn unstarted() -> Self {
        Picker::PickFirst(pick_first::Picker::default())
    }

    /// The index of the row to pick among these, which are not empty and are those that the picker
    /// was built for.
    #[inline]
    pub(crate) fn pick<T>(&self, rows: &Rows<T>, caller: &Caller) -> usize {
        match self {
            Picker::PickFirst(picker) => picker.pick(),
            Picker::RoundRobin(picker) => picker.pick(caller),
            Picker::Random(picker) => picker.pick(rows.len(), caller),
            Picker::WeightedRoundRobin(picker) => picker.pick(caller),
            Picker::LeastRequest(picker) => picker.pick(rows, caller),
            Picker::PeakEwma(picker) => picker.pick(rows, caller),
        }
    }

    /// Whether it can tell how often each row was picked: see [`Policy::counts_picks`].
    pub(crate) fn counts(&self) -> bool {
        matches!(self, Picker::RoundRobin(_))
    }

    /// Shows which of `n` rows were picked, and how often, in parts, for policies that can tell
    /// without counting at the pick.
    pub(crate) fn for_each_picked(&self, n: usize, add: impl FnMut(usize, u64)) {
        match self {
            Picker::RoundRobin(picker) if n > 0 => picker.for_each_turn(n, add),
            _ => {}
        }
    }
}
