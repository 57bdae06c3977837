//! Snapshot that picks read: immutable but for the cursors, and published whole.

use triomphe::Arc;

use crate::caller::Caller;
use crate::entry::{Entry, Row};
use crate::group::Group;
pub use crate::group::{Search, Unavailable};
use crate::limit::Limits;
use crate::live::{Counted, Snapshots};
use crate::load::cohorts::Cohort;
use crate::policy::{Picker, TableSize};
use crate::rows::Draft;
use crate::share::Turns;
use crate::sync::Ordering;
use crate::time::Time;

pub(crate) struct Snapshot<T> {
    preferred: Group<T>,
    /// Only of a balancer that has had such backends.
    reserve: Option<Box<Reserve<T>>>,
    limits: Limits,
    closed: bool,
    _counted: Counted<Snapshots>,
}

/// The backends that stand in for the preferred ones, or have a share of the picks beside them.
pub(crate) struct Reserve<T> {
    pub(crate) group: Group<T>,
    pub(crate) order: Order,
}

/// Which group is tried first.
#[derive(Clone, Debug)]
pub(crate) enum Order {
    PreferredFirst,
    ReserveFirst,
    ByTurns(Turns),
}

impl<T> Snapshot<T> {
    /// Of a balancer that was never given a list.
    pub(crate) fn unstarted(limits: Limits) -> Self
    where
        T: Clone,
    {
        let group = Group::new(Draft::new().finish(), Picker::unstarted());
        Snapshot::new(group, None, limits, false)
    }

    pub(crate) fn new(
        preferred: Group<T>,
        reserve: Option<Box<Reserve<T>>>,
        limits: Limits,
        closed: bool,
    ) -> Self {
        Snapshot {
            preferred,
            reserve,
            limits,
            closed,
            _counted: Counted::new(),
        }
    }

    #[inline]
    pub(crate) fn pick(&self, caller: &Caller) -> Result<&Row<T>, Unavailable> {
        match &self.reserve {
            None => self.preferred.pick(caller).map_err(|none| self.said(none)),
            Some(reserve) => self.pick_in_order(reserve, caller),
        }
    }

    /// Apart, as is `begin_in_order`: what is called in one place is compiled into it.
    #[cold]
    #[inline(never)]
    fn pick_in_order<'a>(
        &'a self,
        reserve: &'a Reserve<T>,
        caller: &Caller,
    ) -> Result<&'a Row<T>, Unavailable> {
        self.in_order(reserve, |group| group.pick(caller))
    }

    /// As `pick`, while there are rows that must not be picked.
    #[cold]
    pub(crate) fn pick_where(
        &self,
        caller: &Caller,
        search: Search,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<&Row<T>, Unavailable> {
        let pick = |group| Group::pick_where(group, caller, search, &usable);
        match &self.reserve {
            None => pick(&self.preferred).map_err(|none| self.said(none)),
            Some(reserve) => self.in_order(reserve, pick),
        }
    }

    /// As `pick`, and counts a call as in flight. A backend that has too many of them, or must not
    /// be picked, is passed over by the policy, and by a search where it goes on to choose such.
    #[inline]
    pub(crate) fn begin(
        &self,
        caller: &Caller,
        search: Search,
        now: Time,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<(&Row<T>, Cohort), Unavailable> {
        let max = self.limits.max_requests_per_backend;
        let enter = |row: &Row<T>| row.entry.begin(now, max);
        match &self.reserve {
            None => {
                let begun = self.preferred.begin(caller, search, usable, enter);
                begun.map_err(|none| self.said(none))
            }
            Some(reserve) => self.begin_in_order(reserve, caller, search, usable, enter),
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_in_order<'a>(
        &'a self,
        reserve: &'a Reserve<T>,
        caller: &Caller,
        search: Search,
        usable: impl Fn(&Row<T>) -> bool,
        enter: impl Fn(&Row<T>) -> Option<Cohort>,
    ) -> Result<(&'a Row<T>, Cohort), Unavailable> {
        self.in_order(reserve, |group| {
            group.begin(caller, search, &usable, &enter)
        })
    }

    /// The answer to a call for which there is no room in the balancer.
    #[cold]
    pub(crate) fn overloaded(&self) -> Unavailable {
        match self.groups().all(Group::is_empty) {
            true => self.none(),
            false => Unavailable::Overloaded,
        }
    }

    /// What the first group finds, or else the other one.
    fn in_order<'a, F>(
        &'a self,
        reserve: &'a Reserve<T>,
        find: impl Fn(&'a Group<T>) -> Result<F, Unavailable>,
    ) -> Result<F, Unavailable> {
        let preferred_first = match &reserve.order {
            Order::PreferredFirst => true,
            Order::ReserveFirst => false,
            Order::ByTurns(turns) => turns.take(),
        };
        let [one, other] = match preferred_first {
            true => [&self.preferred, &reserve.group],
            false => [&reserve.group, &self.preferred],
        };
        let found = match find(one) {
            Err(reason @ (Unavailable::NoBackends | Unavailable::Overloaded)) => find(other)
                .map_err(|none| match none {
                    Unavailable::NoBackends => reason,
                    other => other,
                }),
            found => found,
        };
        found.map_err(|none| self.said(none))
    }

    /// A group says that there is none, and does not know whether the balancer is closed.
    #[cold]
    fn said(&self, none: Unavailable) -> Unavailable {
        match none {
            Unavailable::NoBackends => self.none(),
            other => other,
        }
    }

    /// What to say when there are no rows.
    fn none(&self) -> Unavailable {
        match self.closed {
            true => Unavailable::Closed,
            false => Unavailable::NoBackends,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn preferred(&self) -> &Group<T> {
        &self.preferred
    }

    pub(crate) fn reserve(&self) -> Option<&Group<T>> {
        self.reserve.as_ref().map(|reserve| &reserve.group)
    }

    fn groups(&self) -> impl Iterator<Item = &Group<T>> {
        [&self.preferred].into_iter().chain(self.reserve())
    }

    /// How large the tables of a policy that hashes are together.
    pub(crate) fn table(&self) -> Option<TableSize> {
        let tables = self.groups().filter_map(|group| group.picker().table());
        tables.reduce(|one, other| TableSize {
            entries: one.entries + other.entries,
            bytes: one.bytes + other.bytes,
        })
    }

    /// Shows each backend that was picked through this snapshot and how often, possibly in parts,
    /// for policies that count. Takes no more steps than there were picks.
    pub(crate) fn for_each_picked(&self, mut add: impl FnMut(&Arc<Entry>, u64)) {
        self.groups()
            .for_each(|group| group.for_each_picked(&mut add));
    }

    /// Adds this snapshot's picks to its backends. Once, when no pick can come any more.
    pub(crate) fn add_picks(&self) {
        self.for_each_picked(|entry, picks| {
            // Relaxed: read under the writer's lock, which the caller holds.
            entry.picks.fetch_add(picks, Ordering::Relaxed);
        });
    }
}
