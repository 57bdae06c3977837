//! Changes of the list: by users, and by deaths of owners.

use std::borrow::Borrow;
use std::hash::Hash;

use triomphe::Arc;

use super::change::{Change, Gone, Scope};
use super::compare::Compared;
use super::results::{Changes, Drained, MemberError};
use crate::backend::{Backend, Offer, OnOwnerDeath, Owner, Owners, State};
use crate::drain::Drain;
use crate::events::Event;
use crate::members::MemberKey;
use crate::time::Time;

/// A backend that has begun to drain, while it may be given calls still.
pub(super) struct Draining {
    key: MemberKey,
    drain: Arc<Drain>,
    counts_calls: bool,
}

impl Draining {
    /// It is given no call more.
    pub(super) fn release(self) -> Drained {
        match self.drain.release() {
            Some(number) => Drained::Later(number),
            None if self.counts_calls => Drained::Now,
            None => Drained::Unknown,
        }
    }

    /// Calls may be given to it that nobody has heard of yet: it is never over.
    pub(super) fn hold(self) -> Drained {
        Drained::Later(self.drain.number())
    }
}

impl<T: Clone + Eq + Hash + Send + Sync, O: Owners> Scope<'_, T, O> {
    /// The calls of those that are `leaving` are to be told from later ones, also where their ids stay.
    pub(super) fn reconcile<I: Offer<T>, B: Borrow<Backend<I>>>(
        self,
        compared: Compared<B>,
        leaving: &[Option<Draining>],
        now: Time,
    ) -> (Changes, Gone<T>) {
        let is_same = leaving.is_empty() && matches!(compared, Compared::Same);
        if is_same && self.writer.is_settled() {
            return (Changes::none(self.writer.members.len()), Gone::new());
        }
        let difference = compared.difference(&self.writer.members);
        let mut change = Change::begin(self);
        change.forget_old(now);
        let members = &change.writer.members;
        let unlisted: Vec<MemberKey> = match members.len() - difference.kept() {
            0 => Vec::new(),
            _ => {
                let keys = members.iter().map(|(key, _)| key);
                keys.filter(|key| difference.lacks(*key)).collect()
            }
        };
        for draining in leaving.iter().flatten() {
            change.renew_row(draining.key);
        }
        if change.writer.publishes_same() {
            change.touch();
        }
        let order = change.upsert_all(difference, now);
        for key in unlisted {
            change.remove_for_now(key, now);
        }
        change.arrange(order);
        change.follow_list(now);
        change.finish()
    }

    pub(super) fn add<I: Offer<T>, B: Borrow<Backend<I>>>(
        self,
        compared: Compared<B>,
        now: Time,
    ) -> (Changes, Gone<T>) {
        let difference = compared.difference(&self.writer.members);
        let mut change = Change::begin(self);
        change.forget_old(now);
        change.upsert_all(difference, now);
        change.follow_list(now);
        change.finish()
    }

    pub(super) fn remove<B: Offer<T>>(self, ids: &[B], now: Time) -> (Changes, Gone<T>) {
        let mut change = Change::begin(self);
        change.forget_old(now);
        for id in ids {
            if let Some(key) = change.writer.members.find(id) {
                change.remove_for_now(key, now);
            }
        }
        change.update_subset(Some(now));
        change.finish()
    }

    pub(super) fn set_state<B: Offer<T>>(
        self,
        id: &B,
        state: State,
        now: Time,
    ) -> Result<(), MemberError> {
        let key = self.writer.find(id)?;
        let mut change = Change::begin(self);
        change.writer.members.get_mut(key).state = state;
        change.update_standing(key, now);
        change.read_reports(now);
        change.finish_state_change();
        Ok(())
    }

    /// Begins to drain listed backends with these ids. `None` for each that is not listed.
    pub(super) fn drain<B: Offer<T>>(&mut self, ids: &[B], who: Owner) -> Vec<Option<Draining>> {
        let counts_calls = self.writer.counts_calls();
        let drain = |id| {
            let key = self.writer.members.find(id)?;
            let drain = self.writer.new_drain(who);
            self.writer.entry(key).drain(&drain);
            Some(Draining {
                key,
                drain,
                counts_calls,
            })
        };
        ids.iter().map(drain).collect()
    }

    /// Begins to drain all backends that are listed, and those that were removed and have calls in
    /// flight.
    pub(super) fn drain_all(&mut self, who: Owner) -> Arc<Drain> {
        let drain = self.writer.new_drain(who);
        let listed = self.writer.members.iter();
        for (_, member) in listed {
            member.entry.drain(&drain);
        }
        // Kept: somebody may ask once more.
        for entry in &self.writer.leaving {
            entry.drain(&drain);
        }
        drain
    }

    /// Ties the balancer to an owner.
    pub(super) fn set_owner(self, owner: Owner) -> Gone<T> {
        self.writer.owner = Some(owner);
        match self.writer.watched.watch(owner, self.owners).is_some() {
            true => Gone::new(),
            false => self.close(),
        }
    }

    /// Takes the members of dead owners out of the rotation.
    pub(super) fn remove_owners(self, dead: &[Owner]) -> Gone<T> {
        // An owner that is not watched any more has nothing here: its name may be another's now.
        let mut keys = Vec::new();
        for owner in dead {
            if let Some(members) = self.writer.watched.remove(*owner) {
                if self.writer.owner == Some(*owner) {
                    return self.close();
                }
                keys.extend(members);
            }
        }
        if keys.is_empty() {
            return Gone::new();
        }
        // From the last row to the first, so that none that is to go takes another's place.
        keys.sort_unstable_by_key(|key| std::cmp::Reverse(self.writer.members.get(*key).row));
        let mut change = Change::begin(self);
        for key in keys {
            match change.writer.config.on_owner_death {
                OnOwnerDeath::Keep => {
                    let member = change.writer.members.get_mut(key);
                    member.owner = None;
                    member.owner_dead = true;
                    change.lose_owner(key);
                }
                OnOwnerDeath::Remove => {
                    change
                        .writer
                        .tell(|writer| Event::Died { id: writer.id(key) });
                    change.remove(key);
                }
            }
        }
        change.update_subset(None);
        change.finish_state_change()
    }

    pub(super) fn close(self) -> Gone<T> {
        match self.writer.closed {
            true => Gone::new(),
            false => Change::begin(self).close(),
        }
    }
}
