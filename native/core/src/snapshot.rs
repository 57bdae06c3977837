//! Snapshot that picks read: immutable but for the cursor, and published whole.

use std::fmt;

use triomphe::Arc;

use crate::caller::Caller;
use crate::entry::{Entry, Row};
use crate::limit::Limits;
use crate::live::{Counted, Snapshots};
use crate::policy::Picker;
use crate::rows::{Draft, Rows};
use crate::sync::Ordering;

pub(crate) struct Snapshot<T> {
    /// The backends that can be picked.
    rows: Rows<T>,
    picker: Picker,
    limits: Limits,
    /// What to say when there are no rows.
    empty: Unavailable,
    _counted: Counted<Snapshots>,
}

/// Why nothing was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The list is empty, or no backend in it is ready.
    NoBackends,
    /// The balancer is closed.
    Closed,
    /// There are as many calls in flight as there may be. For calls only: a mere pick counts none.
    Overloaded,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unavailable::NoBackends => "no backend can be picked",
            Unavailable::Closed => "the balancer is closed",
            Unavailable::Overloaded => "too many calls are in flight",
        })
    }
}

impl std::error::Error for Unavailable {}

/// How many backends are asked for room for a call before it is refused: a call must not look
/// through a long list when there are too many calls anyway.
const TRIES: usize = 16;

impl<T> Snapshot<T> {
    /// Of a balancer that was never given a list.
    pub(crate) fn unstarted(limits: Limits) -> Self
    where
        T: Clone,
    {
        let rows = Draft::new().finish();
        Snapshot::new(rows, Picker::unstarted(), limits, Unavailable::NoBackends)
    }

    pub(crate) fn new(rows: Rows<T>, picker: Picker, limits: Limits, empty: Unavailable) -> Self {
        Snapshot {
            rows,
            picker,
            limits,
            empty,
            _counted: Counted::new(),
        }
    }

    #[inline]
    pub(crate) fn pick(&self, caller: &Caller) -> Result<&Row<T>, Unavailable> {
        Ok(self.rows.get(self.choose(caller)?))
    }

    /// As `pick`, while there are rows that must not be picked: passes over those to the next one.
    #[cold]
    pub(crate) fn pick_where(
        &self,
        caller: &Caller,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<&Row<T>, Unavailable> {
        let chosen = self.choose(caller)?;
        let instead = self.from(chosen).find(|row| usable(row));
        self.credit(chosen, instead);
        instead.ok_or(Unavailable::NoBackends)
    }

    /// As `pick`, and counts a call as in flight. A backend that has too many of them, or must not
    /// be picked, is passed over.
    #[inline]
    pub(crate) fn begin(
        &self,
        caller: &Caller,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<&Row<T>, Unavailable> {
        let chosen = self.choose(caller)?;
        let row = self.rows.get(chosen);
        if usable(row) && row.entry.begin(self.limits.max_requests_per_backend) {
            return Ok(row);
        }
        self.begin_elsewhere(chosen, usable)
    }

    /// The answer to a call for which there is no room in the balancer.
    #[cold]
    pub(crate) fn overloaded(&self) -> Unavailable {
        match self.rows.len() {
            0 => self.empty,
            _ => Unavailable::Overloaded,
        }
    }

    #[cold]
    fn begin_elsewhere(
        &self,
        chosen: usize,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<&Row<T>, Unavailable> {
        let mut usable = self.from(chosen).filter(|row| usable(row)).peekable();
        let none = match usable.peek() {
            Some(_) => Unavailable::Overloaded,
            None => Unavailable::NoBackends,
        };
        let max = self.limits.max_requests_per_backend;
        let instead = usable.take(TRIES).find(|row| row.entry.begin(max));
        self.credit(chosen, instead);
        instead.ok_or(none)
    }

    /// Every row, from this one on.
    fn from(&self, index: usize) -> impl Iterator<Item = &Row<T>> {
        let indices = (index..self.rows.len()).chain(0..index);
        indices.map(|index| self.rows.get(index))
    }

    /// Counts the turn of the chosen one as a pick of another.
    fn credit(&self, chosen: usize, instead: Option<&Row<T>>) {
        if !self.picker.counts_picks() {
            return;
        }
        // Relaxed: counts; that of the chosen one may be below 0, and wrapped, as long as its
        // turns are not added.
        let passed_over = &self.rows.get(chosen).entry.picks;
        passed_over.fetch_sub(1, Ordering::Relaxed);
        if let Some(instead) = instead {
            instead.entry.picks.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[inline]
    fn choose(&self, caller: &Caller) -> Result<usize, Unavailable> {
        match self.rows.len() {
            0 => Err(self.empty),
            _ => Ok(self.picker.pick(&self.rows, caller)),
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn rows(&self) -> &Rows<T> {
        &self.rows
    }

    pub(crate) fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Shows each backend that was picked through this snapshot and how often, possibly in parts,
    /// for policies that count. Takes no more steps than there were picks.
    pub(crate) fn for_each_picked(&self, mut add: impl FnMut(&Arc<Entry>, u64)) {
        self.picker
            .for_each_picked(self.rows.len(), |index, picks| {
                add(&self.rows.get(index).entry, picks);
            });
    }

    /// Adds this snapshot's picks to its backends. Once, when no pick can come any more.
    pub(crate) fn add_picks(&self) {
        self.for_each_picked(|entry, picks| {
            // Relaxed: read under the writer's lock, which the caller holds.
            entry.picks.fetch_add(picks, Ordering::Relaxed);
        });
    }
}
