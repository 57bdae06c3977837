//! Snapshot that picks read: immutable but for the cursors, and published whole.

use triomphe::Arc;

use crate::caller::Caller;
use crate::entry::{Entry, Row, Start};
use crate::group::Group;
pub use crate::group::{Search, Unavailable};
use crate::limit::Limits;
use crate::live::{Counted, Snapshots};
use crate::policy::{Picker, TableSize};
use crate::rows::Draft;
use crate::share::{Shares, Turns};
use crate::sync::Ordering;
use crate::time::Clock;

pub(crate) struct Snapshot<T> {
    groups: Groups<T>,
    limits: Limits,
    closed: bool,
    _counted: Counted<Snapshots>,
}

/// The backends of each priority and locality.
pub(crate) enum Groups<T> {
    /// Most balancers have no more.
    One(Group<T>),
    Many(Box<Layered<T>>),
}

pub(crate) struct Layered<T> {
    groups: Box<[Group<T>]>,
    order: Order,
}

/// Which group is tried first, and which are tried after it, in this order.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    first: First,
    rest: Box<[u32]>,
}

#[derive(Clone, Debug)]
pub(crate) enum First {
    Always(u32),
    ByTurns(Turns),
    /// With a policy that hashes: a call with the same key has the same group.
    ByKey(Shares),
}

impl Order {
    pub(crate) fn new(first: First, rest: Box<[u32]>) -> Self {
        Order { first, rest }
    }

    #[inline]
    fn first(&self, caller: &Caller) -> usize {
        match &self.first {
            First::Always(group) => *group as usize,
            First::ByTurns(turns) => turns.take(),
            First::ByKey(shares) => shares.of(caller.hash()),
        }
    }
}

impl<T> Groups<T> {
    /// The groups, of which there is one at least; the order says nothing where it is the only one.
    pub(crate) fn new(mut groups: Vec<Group<T>>, order: Order) -> Self {
        match groups.len() {
            1 => Groups::One(groups.remove(0)),
            _ => Groups::Many(Box::new(Layered {
                groups: groups.into(),
                order,
            })),
        }
    }

    pub(crate) fn as_slice(&self) -> &[Group<T>] {
        match self {
            Groups::One(group) => std::slice::from_ref(group),
            Groups::Many(layered) => &layered.groups,
        }
    }
}

impl<T> Layered<T> {
    /// What the first group finds, or else one after it.
    #[inline]
    fn find<'a, F>(
        &'a self,
        caller: &Caller,
        search: Search,
        find: impl Fn(&'a Group<T>) -> Result<F, Unavailable>,
    ) -> Result<F, Unavailable> {
        let first = self.order.first(caller);
        match find(&self.groups[first]) {
            Err(reason @ (Unavailable::NoBackends | Unavailable::Overloaded)) => {
                self.find_after(first, reason, search, find)
            }
            found => found,
        }
    }

    #[cold]
    fn find_after<'a, F>(
        &'a self,
        first: usize,
        mut reason: Unavailable,
        search: Search,
        find: impl Fn(&'a Group<T>) -> Result<F, Unavailable>,
    ) -> Result<F, Unavailable> {
        let rest = self.order.rest.iter().map(|group| *group as usize);
        let mut rest = rest.filter(|group| *group != first);
        for group in rest.by_ref().take(search.groups()) {
            match find(&self.groups[group]) {
                Err(Unavailable::NoBackends) => {}
                Err(Unavailable::Overloaded) => reason = Unavailable::Overloaded,
                found => return found,
            }
        }
        match rest.next() {
            Some(_) => Err(Unavailable::Unfinished),
            None => Err(reason),
        }
    }
}

impl<T> Snapshot<T> {
    /// Of a balancer that was never given a list.
    pub(crate) fn unstarted(limits: Limits) -> Self
    where
        T: Clone,
    {
        let group = Group::new(Draft::new().finish(), Picker::unstarted());
        Snapshot::new(Groups::One(group), limits, false)
    }

    pub(crate) fn new(groups: Groups<T>, limits: Limits, closed: bool) -> Self {
        Snapshot {
            groups,
            limits,
            closed,
            _counted: Counted::new(),
        }
    }

    /// What the only group finds. `None`: nothing, or there are several; [`Snapshot::pick`] knows.
    ///
    /// Nearly every pick ends with this. What it finds is one word, which stays in a register; a
    /// result would go through memory.
    #[inline(always)]
    pub(crate) fn pick_in_one(&self, caller: &Caller) -> Option<&Row<T>> {
        match &self.groups {
            Groups::One(group) => group.pick(caller),
            Groups::Many(_) => None,
        }
    }

    pub(crate) fn pick(&self, caller: &Caller) -> Result<&Row<T>, Unavailable> {
        match &self.groups {
            Groups::One(group) => group.pick(caller).ok_or_else(|| self.none()),
            Groups::Many(layered) => self.pick_in_order(layered, caller),
        }
    }

    /// Apart, as is `begin_in_order`: what is called in one place is compiled into it. Not cold: for a
    /// balancer with layers this is the way of every pick.
    #[inline(never)]
    fn pick_in_order<'a>(
        &'a self,
        layered: &'a Layered<T>,
        caller: &Caller,
    ) -> Result<&'a Row<T>, Unavailable> {
        let pick = |group| Group::pick(group, caller).ok_or(Unavailable::NoBackends);
        let found = layered.find(caller, Search::Brief, pick);
        found.map_err(|none| self.said(none))
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
        let found = match &self.groups {
            Groups::One(group) => pick(group),
            Groups::Many(layered) => layered.find(caller, search, pick),
        };
        found.map_err(|none| self.said(none))
    }

    /// As `pick`, and counts a call as in flight. A backend that has too many of them, or must not
    /// be picked, is passed over by the policy, and by a search where it goes on to choose such.
    #[inline]
    pub(crate) fn begin(
        &self,
        caller: &Caller,
        search: Search,
        clock: &impl Clock,
        usable: impl Fn(&Row<T>) -> bool,
    ) -> Result<(&Row<T>, Start), Unavailable> {
        let max = self.limits.max_requests_per_backend;
        let enter = |row: &Row<T>| row.entry.begin(clock, max);
        match &self.groups {
            Groups::One(group) => {
                let begun = group.begin(caller, search, usable, enter);
                begun.map_err(|none| self.said(none))
            }
            Groups::Many(layered) => self.begin_in_order(layered, caller, search, usable, enter),
        }
    }

    #[inline(never)]
    fn begin_in_order<'a>(
        &'a self,
        layered: &'a Layered<T>,
        caller: &Caller,
        search: Search,
        usable: impl Fn(&Row<T>) -> bool,
        enter: impl Fn(&Row<T>) -> Option<Start>,
    ) -> Result<(&'a Row<T>, Start), Unavailable> {
        let begun = layered.find(caller, search, |group| {
            group.begin(caller, search, &usable, &enter)
        });
        begun.map_err(|none| self.said(none))
    }

    /// The answer to a call for which there is no room in the balancer.
    #[cold]
    pub(crate) fn overloaded(&self) -> Unavailable {
        match self.groups().iter().all(Group::is_empty) {
            true => self.none(),
            false => Unavailable::Overloaded,
        }
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

    /// One at least.
    pub(crate) fn groups(&self) -> &[Group<T>] {
        self.groups.as_slice()
    }

    /// How many rows it shares with no other snapshot.
    pub(crate) fn unshared(&self) -> usize {
        self.groups()
            .iter()
            .map(|group| group.rows().unshared())
            .sum()
    }

    /// How large the tables of a policy that hashes are together.
    pub(crate) fn table(&self) -> Option<TableSize> {
        let tables = self
            .groups()
            .iter()
            .filter_map(|group| group.picker().table());
        tables.reduce(|one, other| TableSize {
            entries: one.entries + other.entries,
            bytes: one.bytes + other.bytes,
        })
    }

    /// Shows each backend that was picked through this snapshot and how often, possibly in parts,
    /// for policies that count. Takes no more steps than there were picks.
    pub(crate) fn for_each_picked(&self, mut add: impl FnMut(&Arc<Entry>, u64)) {
        for group in self.groups() {
            group.for_each_picked(&mut add);
        }
    }

    /// Adds this snapshot's picks to its backends. Once, when no pick can come any more.
    pub(crate) fn add_picks(&self) {
        self.for_each_picked(|entry, picks| {
            // Relaxed: read under the writer's lock, which the caller holds.
            entry.picks.fetch_add(picks, Ordering::Relaxed);
        });
    }
}
