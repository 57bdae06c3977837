//! round_robin: one backend after the other, in list order.
//!
//! gRPC gives every new picker a random start; Envoy keeps its index across updates. Both can be
//! chosen, see [`Start`] and [`OnReconcile`].

use strength_reduce::StrengthReducedU64;

use super::Cause;
use crate::caller::Caller;
use crate::cursor::Cursor;

/// What can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Who shares the rotation.
    pub cursor: CursorKind,
    /// Where the rotation starts.
    pub start: Start,
    /// What a new list does to the rotation.
    pub on_reconcile: OnReconcile,
}

/// Who shares the rotation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CursorKind {
    /// All callers: over any run of picks without a reconcile the counts of the backends differ
    /// by at most 1.
    #[default]
    Shared,
    /// Each of so many callers has its own, and all others share one: the counts differ by at
    /// most the number of callers that picked. No cache line is shared among them.
    PerCaller(u32),
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

pub(crate) fn build(
    config: &Config,
    backends: usize,
    last: Option<&Picker>,
    cause: Cause,
    random: &mut fastrand::Rng,
) -> Picker {
    let goes_on = config.on_reconcile == OnReconcile::Keep || cause == Cause::StateChange;
    let cursor = match last {
        Some(last) if goes_on => last.cursor.continued(),
        _ => start(config, random),
    };
    Picker {
        cursor,
        backends: StrengthReducedU64::new(backends.max(1) as u64),
    }
}

fn start(config: &Config, random: &mut fastrand::Rng) -> Cursor {
    let mut first = || match config.start {
        Start::First => 0,
        // 32 bits leave a rotation 2^64 - 2^32 turns before it wraps.
        Start::Random => u64::from(random.u32(..)),
    };
    match config.cursor {
        CursorKind::Shared => Cursor::shared(first()),
        CursorKind::PerCaller(callers) => Cursor::per_caller(callers as usize, first),
    }
}

impl Picker {
    #[inline]
    pub(crate) fn pick(&self, caller: &Caller) -> usize {
        (self.cursor.take(caller.reader().index()) % self.backends) as usize
    }

    pub(crate) fn for_each_turn(&self, n: usize, add: impl FnMut(usize, u64)) {
        self.cursor.for_each_turn(n, add);
    }
}
