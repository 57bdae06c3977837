//! The policies: each a file with the same three roles.
//!
//! A `Config` says what a user can choose. `build` prepares a picker for a list of backends, off
//! the hot path. `pick` says which row of the snapshot is next, on the hot path: it does not
//! allocate, lock or read a clock, and takes its randomness from the caller.

pub mod alias;
pub mod least_request;
pub mod maglev;
pub mod pick_first;
pub mod random;
pub mod ring_hash;
pub mod round_robin;
pub mod stride;

use crate::caller::Caller;
use crate::rows::Rows;

/// The rule that chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The first backend that is ready.
    PickFirst(pick_first::Config),
    /// One after the other.
    RoundRobin(round_robin::Config),
    /// Any, each as likely as the others.
    Random,
}

/// What a new snapshot comes from; some policies begin anew with a list, others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A list that a user gave or changed.
    Reconcile,
    /// A change of state of backends that stay listed.
    StateChange,
}

/// A policy, prepared for one snapshot.
pub(crate) enum Picker {
    PickFirst(pick_first::Picker),
    RoundRobin(round_robin::Picker),
    Random,
}

impl Policy {
    /// The policy's name, as users write it.
    pub fn name(&self) -> &'static str {
        match self {
            Policy::PickFirst(_) => "pick_first",
            Policy::RoundRobin(_) => "round_robin",
            Policy::Random => "random",
        }
    }

    /// Whether the picks of each backend are known. A policy without a cursor would have to write
    /// to a shared counter at every pick to know them.
    pub(crate) fn counts_picks(&self) -> bool {
        matches!(self, Policy::RoundRobin(_))
    }

    /// Prepares the picker for these rows.
    pub(crate) fn build<T>(
        &self,
        rows: &Rows<T>,
        last: Option<&Picker>,
        cause: Cause,
        random: &mut fastrand::Rng,
    ) -> Picker {
        match self {
            Policy::PickFirst(config) => Picker::PickFirst(pick_first::build(config, rows)),
            Policy::RoundRobin(config) => {
                let last = match last {
                    Some(Picker::RoundRobin(last)) => Some(last),
                    _ => None,
                };
                Picker::RoundRobin(round_robin::build(config, rows.len(), last, cause, random))
            }
            Policy::Random => Picker::Random,
        }
    }
}

impl Picker {
    /// The index of the row to pick among `n`, which is not 0 and is the number of rows that the
    /// picker was built for.
    #[inline]
    pub(crate) fn pick(&self, n: usize, caller: &Caller) -> usize {
        match self {
            Picker::PickFirst(picker) => picker.pick(),
            Picker::RoundRobin(picker) => picker.pick(caller),
            Picker::Random => random::pick(n, caller),
        }
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
