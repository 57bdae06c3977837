//! What a pick reads: immutable but for the cursor, and published whole.

use std::sync::Arc;

use crate::backend::{Entry, Owner};
use crate::caller::Caller;
use crate::live::Counted;
use crate::policy::Picker;
use crate::rows::Rows;
use crate::sync::Ordering;

pub(crate) struct Snapshot<T> {
    /// The backends that can be picked.
    rows: Rows<T>,
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
    pub(crate) fn new(rows: Rows<T>, picker: Picker, empty: Unavailable) -> Self {
        Snapshot {
            rows,
            picker,
            empty,
            _counted: Counted::snapshot(),
        }
    }

    #[inline]
    pub(crate) fn pick(&self, caller: &Caller) -> Result<&T, Unavailable> {
        Ok(&self.rows.get(self.choose(caller)?).value)
    }

    /// As `pick`, while some owner is dead and its backends are still among the rows: passes over
    /// those to the next one in the list.
    #[cold]
    pub(crate) fn pick_living(
        &self,
        caller: &Caller,
        is_alive: impl Fn(Owner) -> bool,
    ) -> Result<&T, Unavailable> {
        let chosen = self.choose(caller)?;
        let mut rows = (chosen..self.rows.len())
            .chain(0..chosen)
            .map(|index| self.rows.get(index));
        let living = rows.find(|row| row.owner.is_none_or(&is_alive));
        // The turn was that of the chosen one. Relaxed: counts; that of the chosen one may be below 0,
        // and wrapped, for as long as its turns are not settled.
        let passed_over = &self.rows.get(chosen).entry.picks;
        passed_over.fetch_sub(1, Ordering::Relaxed);
        let living = living.ok_or(Unavailable::NoBackends)?;
        living.entry.picks.fetch_add(1, Ordering::Relaxed);
        Ok(&living.value)
    }

    #[inline]
    fn choose(&self, caller: &Caller) -> Result<usize, Unavailable> {
        match self.rows.len() {
            0 => Err(self.empty),
            n => Ok(self.picker.pick(n, caller)),
        }
    }

    pub(crate) fn rows(&self) -> &Rows<T> {
        &self.rows
    }

    pub(crate) fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Shows each backend that this snapshot handed out and how often, possibly in parts. For
    /// policies that count; in time that those picks have paid for.
    pub(crate) fn for_each_picked(&self, mut add: impl FnMut(&Arc<Entry>, u64)) {
        self.picker
            .for_each_picked(self.rows.len(), |index, picks| {
                add(&self.rows.get(index).entry, picks);
            });
    }

    /// Adds this snapshot's picks to its backends. Once, when no pick can come any more.
    pub(crate) fn settle(&self) {
        self.for_each_picked(|entry, picks| {
            // Relaxed: read under the writer's lock, which whoever calls this holds.
            entry.picks.fetch_add(picks, Ordering::Relaxed);
        });
    }
}
