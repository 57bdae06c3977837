//! Group of backends among which a policy chooses.

use std::fmt;

use triomphe::Arc;

use crate::caller::Caller;
use crate::entry::{Entry, Row, Start};
use crate::policy::Picker;
use crate::rows::Rows;
use crate::sync::Ordering;

/// The backends of a group that can be picked, and what chooses among them.
pub(crate) struct Group<T> {
    rows: Rows<T>,
    picker: Picker,
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
    /// None was found among so many that to look at more would hold up the thread: a search
    /// through the whole list has the answer, see
    /// [`Balancer::pick_thoroughly`](crate::Balancer::pick_thoroughly).
    Unfinished,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unavailable::NoBackends => "no backend can be picked",
            Unavailable::Closed => "the balancer is closed",
            Unavailable::Overloaded => "too many calls are in flight",
            Unavailable::Unfinished => "only a part of the list was looked at",
        })
    }
}

impl std::error::Error for Unavailable {}

/// How far a search goes for a backend in the place of a chosen one that is full or dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// So far that it takes some ten microseconds at most.
    Brief,
    /// Through the whole list.
    Thorough,
}

impl Search {
    /// How many rows are looked at, one after the other.
    fn rows(self) -> usize {
        match self {
            Search::Brief => 256,
            Search::Thorough => usize::MAX,
        }
    }

    /// How many groups are looked through after the first.
    pub(crate) fn groups(self) -> usize {
        match self {
            Search::Brief => 8,
            Search::Thorough => usize::MAX,
        }
    }
}

impl<T> Group<T> {
    pub(crate) fn new(rows: Rows<T>, picker: Picker) -> Self {
        Group { rows, picker }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 0
    }

    /// `None` when there are no rows.
    #[inline(always)]
    pub(crate) fn pick(&self, caller: &Caller) -> Option<&Row<T>> {
        let chosen = self.choose(caller).ok()?;
        Some(self.rows.get(chosen))
    }

    /// As `pick`, while there are rows that must not be picked.
    #[cold]
    pub(crate) fn pick_where(
        &self,
        caller: &Caller,
        search: Search,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<&Row<T>, Unavailable> {
        let chosen = self.choose_again(caller, 0)?;
        let row = self.rows.get(chosen);
        match usable(row) {
            true => Ok(row),
            false => self
                .elsewhere(chosen, caller, search, usable, |_| Some(()))
                .map(|(row, ())| row),
        }
    }

    /// As `pick`, and counts a call as in flight. A backend that has too many of them, or must not
    /// be picked, is passed over by the policy, and by a search where it goes on to choose such.
    #[inline]
    pub(crate) fn begin(
        &self,
        caller: &Caller,
        search: Search,
        usable: impl Fn(&Row<T>) -> bool,
        enter: impl Fn(&Row<T>) -> Option<Start>,
    ) -> Result<(&Row<T>, Start), Unavailable> {
        let chosen = self.choose(caller)?;
        let row = self.rows.get(chosen);
        match usable(row).then(|| enter(row)).flatten() {
            Some(begun) => Ok((row, begun)),
            None => self.elsewhere(chosen, caller, search, usable, enter),
        }
    }

    /// A usable row that has room, in the place of the chosen one.
    ///
    /// The policy chooses again, so that what is left gets its share of the calls that others
    /// cannot take; the neighbour of a full one would get them all. Rows that it does not find are
    /// looked for from a place that it names.
    #[cold]
    fn elsewhere<E>(
        &self,
        chosen: usize,
        caller: &Caller,
        search: Search,
        usable: impl Fn(&Row<T>) -> bool,
        enter: impl Fn(&Row<T>) -> Option<E>,
    ) -> Result<(&Row<T>, E), Unavailable> {
        self.pass_over(chosen);
        for attempt in 1..=self.picker.more_choices() {
            let chosen = self.choose_again(caller, attempt)?;
            let row = self.rows.get(chosen);
            if let Some(entered) = usable(row).then(|| enter(row)).flatten() {
                return Ok((row, entered));
            }
            self.pass_over(chosen);
        }
        let (len, limit) = (self.rows.len(), search.rows());
        let start = self.picker.search_from(len, caller);
        let indices = (start..len).chain(0..start).take(limit);
        let rows = indices.map(|index| self.rows.get(index));
        let mut usable = rows.filter(|row| usable(row)).peekable();
        let none = match usable.peek() {
            _ if len > limit => Unavailable::Unfinished,
            Some(_) => Unavailable::Overloaded,
            None => Unavailable::NoBackends,
        };
        let instead = usable.find_map(|row| Some((row, enter(row)?)));
        let (instead, entered) = instead.ok_or(none)?;
        if self.picker.counts_picks() {
            // Relaxed: a count.
            instead.entry.picks.fetch_add(1, Ordering::Relaxed);
        }
        Ok((instead, entered))
    }

    /// Takes back that the turn of this row was a pick of it.
    fn pass_over(&self, index: usize) {
        if self.picker.counts_picks() {
            // Relaxed: a count, which may be below 0, and wrapped, as long as the turns are not added.
            let picks = &self.rows.get(index).entry.picks;
            picks.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[inline]
    fn choose(&self, caller: &Caller) -> Result<usize, Unavailable> {
        match self.rows.len() {
            0 => Err(Unavailable::NoBackends),
            _ => Ok(self.picker.pick(&self.rows, caller)),
        }
    }

    /// The same, where it is not to be compiled once more, after so many others were passed over.
    #[cold]
    #[inline(never)]
    fn choose_again(&self, caller: &Caller, attempt: usize) -> Result<usize, Unavailable> {
        match self.rows.len() {
            0 => Err(Unavailable::NoBackends),
            _ => Ok(self.picker.pick_again(&self.rows, caller, attempt)),
        }
    }

    pub(crate) fn rows(&self) -> &Rows<T> {
        &self.rows
    }

    pub(crate) fn picker(&self) -> &Picker {
        &self.picker
    }

    /// Shows each entry of a table that hashes are looked up in, as its backend and the part of all keys
    /// in this group that lead to it.
    pub(crate) fn for_each_entry(&self, mut add: impl FnMut(&Arc<Entry>, f64)) {
        // Without rows the picker is what it was before.
        if self.rows.len() > 0 {
            self.picker
                .for_each_entry(|index, part| add(&self.rows.get(index).entry, part));
        }
    }

    /// Shows each backend that was picked in this group and how often, possibly in parts,
    /// for policies that count. Takes no more steps than there were picks.
    pub(crate) fn for_each_picked(&self, mut add: impl FnMut(&Arc<Entry>, u64)) {
        self.picker
            .for_each_picked(self.rows.len(), |index, picks| {
                add(&self.rows.get(index).entry, picks);
            });
    }
}
