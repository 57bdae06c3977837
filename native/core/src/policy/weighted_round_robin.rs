//! weighted_round_robin (gRFC A58): one after the other, each as often as its weight says.
//!
//! Weights are those of the list, or come from load reports. The schedule is gRPC's static stride,
//! see [`Stride`](super::stride::Stride).

use strength_reduce::StrengthReducedU64;

use super::round_robin::CursorKind;
use super::stride::Stride;
use super::Cause;
use crate::caller::Caller;
use crate::cursor::Cursor;
use crate::load::reported_weight;
use crate::rows::Rows;

/// What can be chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Who shares the rotation.
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

pub(crate) fn build<T>(
    config: &Config,
    rows: &Rows<T>,
    last: Option<&Picker>,
    cause: Cause,
    random: &mut fastrand::Rng,
) -> Picker {
    let weights = rows.iter().map(|row| single(row.entry.load.weight()));
    let weights: Vec<f32> = weights.collect();
    let schedule = match Stride::new(&weights) {
        Some(stride) => Schedule::Stride(stride),
        None => Schedule::RoundRobin(StrengthReducedU64::new(rows.len().max(1) as u64)),
    };
    let cursor = match last {
        // A58: the timer swaps schedules, and the counter goes on.
        Some(last) if cause == Cause::StateChange => last.cursor.continued(),
        _ => start(config.cursor, random),
    };
    Picker { cursor, schedule }
}

/// C-core weighs in 32 bits. What is too small for that is still known, which 0 is not.
fn single(weight: f64) -> f32 {
    match weight > 0.0 {
        true => (weight as f32).max(f32::MIN_POSITIVE),
        false => 0.0,
    }
}

/// A58: a new picker begins anywhere, so that many clients do not go in step.
fn start(cursor: CursorKind, random: &mut fastrand::Rng) -> Cursor {
    let mut first = || u64::from(random.u32(..));
    match cursor {
        CursorKind::Shared => Cursor::shared(first()),
        CursorKind::PerCaller(callers) => Cursor::per_caller(callers as usize, first),
    }
}

impl Picker {
    #[inline]
    pub(crate) fn pick(&self, caller: &Caller) -> usize {
        let caller = caller.reader().index();
        match &self.schedule {
            // The schedule repeats itself after 2^32 turns, as that of gRPC.
            Schedule::Stride(stride) => stride.pick(|| self.cursor.take(caller) as u32),
            Schedule::RoundRobin(backends) => (self.cursor.take(caller) % *backends) as usize,
        }
    }
}
