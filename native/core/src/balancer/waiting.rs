//! Waiting in line for room.

use std::hash::Hash;
use std::time::Duration;

use super::Balancer;
use crate::backend::{Owner, Owners};
use crate::caller::Caller;
use crate::snapshot::{Search, Unavailable};
use crate::ticket::Ticket;
use crate::time::Clock;

/// The turn of who is the first in line, see [`Balancer::turn`]. It may check out while all who come
/// later may not.
pub struct Turn<'a, T, W> {
    balancer: &'a Balancer<T, W>,
}

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Turn<'_, T, W> {
    /// As [`Balancer::checkout_where`].
    pub fn checkout_where<R>(
        &self,
        caller: &Caller,
        owners: &impl Owners<Watch = W>,
        search: Search,
        clock: impl Clock,
        wanted: impl Fn(&T) -> bool,
        take: impl FnOnce(&T) -> R,
    ) -> Result<(R, Ticket), Unavailable> {
        let take = |value: &T, ticket| (take(value), ticket);
        self.balancer
            .begin(caller, owners, search, clock, wanted, take)
    }
}

impl<T: Clone + Eq + Hash + Send + Sync, W: Send> Balancer<T, W> {
    /// Takes a place in the line of those who wait for room, and says how long the configuration lets
    /// them. `None` when it lets nobody wait.
    ///
    /// Whether it is its [turn](Balancer::turn) is to be asked at once, and whenever `who` is told that there
    /// may be room. The [place is to be left](Balancer::leave_line) when a checkout in turn has another
    /// answer than [`Unavailable::Overloaded`], or `who` gives up.
    pub fn line_up(&self, who: Owner) -> Option<(u64, Duration)> {
        let wait = self.shared.config().checkout_wait;
        (!wait.is_zero()).then(|| (self.shared.line.join(who), wait))
    }

    /// The turn of who has this place in line. `None` while others are before it: they are told first.
    pub fn turn(&self, place: u64) -> Option<Turn<'_, T, W>> {
        let is_first = self.shared.line.begin_try(place);
        is_first.then_some(Turn { balancer: self })
    }

    /// Gives up a place in line; to do so again changes nothing. If it was the first one, `tell` is
    /// told who is the first now. It runs under a lock, and must not use the balancer.
    pub fn leave_line(&self, place: u64, tell: impl FnOnce(Owner, u64)) {
        self.shared.line.leave(place, tell);
    }

    /// Whether somebody waits for room, which a change or a tick that is done may have made.
    pub fn is_awaited(&self) -> bool {
        self.shared.line.awaits_change()
    }

    /// Whether a call more may be in flight, as far as all are limited together. A checkout that finds
    /// nobody holds its place among them for a moment: who waits and tries then is to be told again.
    pub fn has_room(&self) -> bool {
        let max = self.shared.config().max_requests;
        max.is_some_and(|max| self.shared.in_flight.count() < max)
    }

    /// Tells the first who waits that there may be room. `tell` is as in [`Balancer::leave_line`].
    pub fn tell_first(&self, tell: impl FnOnce(Owner, u64)) {
        self.shared.line.tell_first(tell);
    }
}
