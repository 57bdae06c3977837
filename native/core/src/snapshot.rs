//! What a pick reads: immutable but for the cursor, and published whole.

use std::sync::Arc;

use crate::backend::{Entry, Row};
use crate::caller::Caller;
use crate::live::Counted;
use crate::policy::Picker;
use crate::sync::Ordering;

pub(crate) struct Snapshot<T> {
    /// The backends that can be picked, in the policy's order.
    rows: Box<[Row<T>]>,
    picker: Picker,
    /// What to say when there are no rows.
    empty: Unavailable,
    _counted: Counted,
}

/// Why there is nothing to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The list is empty, or no backend in it is ready.
    NoBackends,
    /// The balancer is closed.
    Closed,
}

impl<T> Snapshot<T> {
    pub(crate) fn new(rows: Vec<Row<T>>, picker: Picker, empty: Unavailable) -> Self {
        Snapshot {
            rows: rows.into_boxed_slice(),
            picker,
            empty,
            _counted: Counted::snapshot(),
        }
    }

    #[inline]
    pub(crate) fn pick(&self, caller: &Caller) -> Result<&T, Unavailable> {
        if self.rows.is_empty() {
            return Err(self.empty);
        }
        let row = &self.rows[self.picker.pick(self.rows.len(), caller)];
        Ok(&row.value)
    }

    pub(crate) fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Each backend with the picks that this snapshot handed out. Empty for policies that do not
    /// count.
    pub(crate) fn picks(&self) -> impl Iterator<Item = (&Arc<Entry>, u64)> {
        let picks = match self.rows.len() {
            0 => Vec::new(),
            n => self.picker.picks(n).unwrap_or_default(),
        };
        self.rows.iter().map(|row| &row.entry).zip(picks)
    }

    /// Adds this snapshot's picks to its backends. Once, when no pick can come any more.
    pub(crate) fn settle(&self) {
        for (entry, picks) in self.picks() {
            // Relaxed: read under the writer's lock, which whoever calls this holds.
            entry.picks.fetch_add(picks, Ordering::Relaxed);
        }
    }
}
