//! What a change leaves behind. To drop it can take longer than the change, and needs no lock.

use super::change::Gone;
use crate::snapshot::Snapshot;

/// Ids, values and snapshots that are not needed any more.
pub struct Garbage<T> {
    pub(super) values: Gone<T>,
    pub(super) snapshots: Vec<Snapshot<T>>,
}

impl<T> Garbage<T> {
    /// How many values, and rows of backends, are dropped with it.
    pub fn len(&self) -> usize {
        let snapshots = self.snapshots.iter();
        self.values.len() + snapshots.map(Snapshot::unshared).sum::<usize>()
    }

    /// Whether there is nothing to drop.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
