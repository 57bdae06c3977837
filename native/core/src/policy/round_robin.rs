//! round_robin: one backend after the other, in list order.
//!
//! gRPC gives every new picker a random start; Envoy keeps its index across updates, which then is
//! another backend's in a list of another length. Here the rotation goes on with the backend whose
//! turn it is, so that one that comes and goes takes no turn from the others. A random start can be
//! chosen, see [`Start`] and [`OnReconcile`].

use strength_reduce::StrengthReducedU64;

use super::contract::{Build, CandidateList, Candidates, Cause, PolicyConfig, PolicyPicker};
use crate::caller::Caller;
use crate::cursor::Cursor;
pub use crate::cursor::CursorKind;

/// What can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Which callers share the rotation.
    pub cursor: CursorKind,
    /// Where the rotation starts.
    pub start: Start,
    /// What a new list does to the rotation.
    pub on_reconcile: OnReconcile,
}

/// Where the rotation starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the first backend.
    #[default]
    First,
    /// At any, so that many clients with one list do not start in step.
    Random,
}

/// What a new list does to the rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnReconcile {
    /// It goes on where it is.
    #[default]
    Keep,
    /// It starts again, see [`Start`].
    Reset,
}

pub(crate) struct Picker {
    cursor: Cursor,
    /// The number of backends, prepared: a division is the dearest instruction of a pick. 1 for
    /// an empty list, which is never picked from.
    backends: StrengthReducedU64,
}

impl PolicyConfig for Config {
    const NAME: &'static str = "round_robin";
    type Picker = Picker;

    fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
        let Build {
            last,
            cause,
            random,
            ..
        } = with;
        // Drawn among the first few that were ready, a random start would be one of these.
        let begun = |last: &Picker| self.start != Start::Random || last.cursor.begun();
        let keeps = self.on_reconcile == OnReconcile::Keep || cause == Cause::StateChange;
        let first = || match self.start {
            Start::First => 0,
            // 32 bits leave a rotation 2^64 - 2^32 turns before it wraps.
            Start::Random => u64::from(random.u32(..)),
        };
        Picker {
            cursor: match last {
                Some(last) if keeps && begun(last) => last.cursor.continued(self.cursor, |turn| {
                    list.follower((turn % last.backends) as usize) as u64
                }),
                _ => Cursor::new(self.cursor, first),
            },
            backends: StrengthReducedU64::new(list.len().max(1) as u64),
        }
    }

    fn restarts(&self) -> bool {
        self.on_reconcile == OnReconcile::Reset
    }
}

impl PolicyPicker for Picker {
    const COUNTS_PICKS: bool = true;

    #[inline]
    fn pick(&self, _candidates: &impl Candidates, caller: &Caller) -> usize {
        (self.cursor.take(caller.number(), 1) % self.backends) as usize
    }

    fn for_each_picked(&self, n: usize, add: impl FnMut(usize, u64)) {
        self.cursor.for_each_turn(n, add);
    }
}
