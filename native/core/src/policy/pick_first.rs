//! pick_first (gRFC A62): every call goes to the first backend that is ready.
//!
//! The connection's part of A62 and A61 (which address to dial, and when) is not here: the
//! backends that a balancer holds are connected.

use crate::rows::Rows;

/// What can be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// A62's `shuffleAddressList`: a random order in the place of the list's, so that many
    /// clients with one list do not all choose the same backend.
    ///
    /// Every backend draws its place when it is first listed and keeps it, so a reconcile does
    /// not move the traffic away from a first backend that stays: A62 keeps a selected address
    /// that is still listed, too.
    pub shuffle: bool,
}

/// Which row every pick takes.
pub(crate) struct Picker(usize);

pub(crate) fn build<T>(config: &Config, rows: &Rows<T>) -> Picker {
    let first = rows.iter().enumerate().min_by_key(|(_, row)| {
        if config.shuffle {
            row.entry.place
        } else {
            row.rank
        }
    });
    Picker(first.map_or(0, |(index, _)| index))
}

impl Picker {
    #[inline]
    pub(crate) fn pick(&self) -> usize {
        self.0
    }
}
