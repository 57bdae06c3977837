//! State under the writer's lock.

use std::hash::Hash;
use std::sync;

use triomphe::Arc;

use super::layers::Layers;
use super::results::MemberError;
use super::schedule::Schedule;
use crate::backend::{Backend, Offer, Owner};
use crate::config::Config;
use crate::drain::Drain;
use crate::entry::Entry;
use crate::events::{Event, Events};
use crate::health::{slow_start, Health};
use crate::load::{Ended, Load};
use crate::members::{Member, MemberKey, Members};
use crate::memory::{Known, Memory};
use crate::shared::Shared;
use crate::time::Time;
use crate::watched::Watched;

pub(super) struct Writer<T, W> {
    pub(super) shared: Arc<Shared>,
    /// The one in `shared`, at hand.
    pub(super) config: sync::Arc<Config>,
    pub(super) members: Members<T>,
    /// What is known of members that were removed.
    pub(super) memory: Memory<T>,
    /// Of members that were removed with calls in flight.
    pub(super) leaving: Vec<Arc<Entry>>,
    /// The number that was given last to a drain.
    pub(super) last_drain: u64,
    /// Whether a call was found to be counted.
    counts_calls: bool,
    pub(super) layers: Layers,
    /// How many members weigh something else than 1.
    pub(super) weighted: u32,
    /// How many members in the rotation weigh something.
    pub(super) weighing: u32,
    /// Whether members of weight 0 are picked, since there is no other to pick.
    pub(super) weightless: bool,
    /// Whether the rows may be in another order than the list.
    pub(super) scattered: bool,
    /// How many members were healthy when one that fails was not ejected, since those were too few.
    pub(super) held_back: Option<u32>,
    /// The process whose death closes the balancer.
    pub(super) owner: Option<Owner>,
    /// The owners of members and of the balancer.
    pub(super) watched: Watched<W>,
    pub(super) schedule: Schedule,
    pub(super) generation: u64,
    /// Another after each change that was begun, of whatever kind.
    pub(super) version: u64,
    pub(super) closed: bool,
    pub(super) random: fastrand::Rng,
    /// What was decided that nobody has asked for yet.
    pub(super) events: Events<T>,
    /// Which priorities are known to panic; `None` is all together.
    panicking: Vec<Option<u32>>,
}

impl<T: Clone + Eq + Hash, W> Writer<T, W> {
    /// Without members.
    pub(super) fn new(
        shared: Arc<Shared>,
        config: sync::Arc<Config>,
        seed: u64,
        now: Time,
    ) -> Self {
        let writer = Writer {
            schedule: Schedule::new(&config, now),
            shared,
            config,
            members: Members::new(),
            memory: Memory::new(),
            leaving: Vec::new(),
            last_drain: 0,
            counts_calls: false,
            layers: Layers::new(),
            weighted: 0,
            weighing: 0,
            weightless: false,
            scattered: false,
            held_back: None,
            owner: None,
            watched: Watched::new(),
            generation: 0,
            version: 0,
            closed: false,
            random: fastrand::Rng::with_seed(seed),
            events: Events::default(),
            panicking: Vec::new(),
        };
        writer.publish_due();
        writer
    }

    /// Whether a list is published that is the same as the one before it: the first is, whatever is in it.
    pub(super) fn publishes_same(&self) -> bool {
        self.generation == 0 || self.config.policy.restarts()
    }

    /// Whether there is nothing to do where the list is offered as it is.
    pub(super) fn is_settled(&self) -> bool {
        !self.publishes_same() && !self.scattered && self.memory.is_empty()
    }

    /// Keeps what was decided, if anybody wants to know.
    pub(super) fn tell(&mut self, event: impl FnOnce(&Self) -> Event<T>) {
        if self.shared.is_listened_to() {
            let event = event(self);
            self.events.push(event);
        }
    }

    pub(super) fn id(&self, key: MemberKey) -> T {
        self.members.get(key).id.clone()
    }

    /// Tells which panics have begun since this was asked for before, and which are over.
    pub(super) fn tell_panics(&mut self) {
        let now = self.layers.panicking(&self.config);
        let before = std::mem::take(&mut self.panicking);
        let ended = before.iter().filter(|it| !now.contains(it));
        let begun = now.iter().filter(|it| !before.contains(it));
        let changed = ended
            .map(|it| (it, false))
            .chain(begun.map(|it| (it, true)));
        for (priority, begins) in changed {
            self.tell(|writer| {
                let (healthy, counted) = writer.layers.health(*priority);
                Event::Panic {
                    priority: *priority,
                    begins,
                    healthy,
                    counted,
                }
            });
        }
        self.panicking = now;
    }

    pub(super) fn find<O: Offer<T>>(&self, id: &O) -> Result<MemberKey, MemberError> {
        match self.closed {
            true => Err(MemberError::Closed),
            false => self.members.find(id).ok_or(MemberError::NotFound),
        }
    }

    pub(super) fn entry(&self, key: MemberKey) -> Arc<Entry> {
        Arc::clone(&self.members.get(key).entry)
    }

    /// A wait for calls in flight, by this process.
    pub(super) fn new_drain(&mut self, who: Owner) -> Arc<Drain> {
        self.last_drain += 1;
        Drain::new(who, self.last_drain)
    }

    /// Whether any call was counted of those that are listed, or was when this was asked for before.
    pub(super) fn counts_calls(&mut self) -> bool {
        let counts = |(_, member): (_, &Member<T>)| {
            let load = &member.entry.load;
            load.in_flight() > 0 || load.ended() != Ended::default()
        };
        self.counts_calls = self.counts_calls || self.members.iter().any(counts);
        self.counts_calls
    }

    /// Keeps hold of what has been removed for as long as it has calls in flight.
    pub(super) fn on_delisted(&mut self, entry: &Arc<Entry>) {
        if entry.load.in_flight() == 0 {
            return;
        }
        // Lets go of the others before the list would grow: it is at most twice as long as it was when
        // most of them had calls.
        if self.leaving.len() == self.leaving.capacity() {
            self.leaving.retain(|entry| entry.load.in_flight() > 0);
        }
        self.leaving.push(Arc::clone(entry));
    }

    /// Lists a backend whose id, of this hash, is not listed: without an owner and not in the rotation.
    /// Returns the id by which it was remembered, too.
    pub(super) fn insert<O: Offer<T>>(
        &mut self,
        hash: u64,
        offered: &Backend<O>,
        now: Time,
    ) -> (MemberKey, Option<T>) {
        let (id, recalled) = self.memory.recall(&offered.id, now).unzip();
        let known = match recalled.flatten() {
            Some(known) => known,
            None => Known {
                entry: Arc::new(Entry::new(&self.shared, now)),
                shuffle_place: self.random.u32(..),
                health: None,
            },
        };
        let known = self.up_to_date(known);
        self.weighted += u32::from(known.entry.load.known_weight() != Some(1.0));
        let layer = self.layers.find_or_add(offered);
        self.layers.count(layer, true);
        (self.members.insert(hash, offered, layer, known, now), id)
    }

    /// What is known of a backend that is to be listed, under the present configuration.
    fn up_to_date(&self, mut known: Known) -> Known {
        let load = &known.entry.load;
        if self.config.policy.reported_weights().is_some() {
            load.expect_reports();
        }
        match &self.config.outlier_detection {
            Some(_) => {
                let new = || Box::new(Health::new(load.ended()));
                let health = known.health.get_or_insert_with(new);
                // Perhaps it was to be ejected when it left, or to be let back in meanwhile.
                if !load.consecutive.is_empty() || health.ejection.is_ejected() {
                    self.shared.request_look();
                }
            }
            None => {
                if let Some(health) = &mut known.health {
                    health.ejection.clear();
                }
            }
        }
        known
    }

    /// Brings the weight of a member up to date, and says whether it has changed.
    pub(super) fn update_weight(&mut self, key: MemberKey, now: Time) -> bool {
        let config = &self.config;
        let member = self.members.get(key);
        let load = &member.entry.load;
        let weight = match (load.reported.get(), config.policy.reported_weights()) {
            (Some(reported), Some(config)) => reported.get(now, config),
            // Where it is picked, all others have none either.
            _ => Some(f64::from(member.weight.max(1))),
        };
        let slow_start = config.slow_start.as_ref();
        let warmth = slow_start.map_or(1.0, |config| {
            slow_start::factor(config, now.since(member.healthy_since))
        });
        let as_now = |load: &Load| (load.known_weight(), load.warmth());
        let before = as_now(load);
        load.set_weight(weight, warmth);
        let after = as_now(load);
        let differs = |weight: Option<f64>| u32::from(weight != Some(1.0));
        self.weighted += differs(after.0);
        self.weighted -= differs(before.0);
        if before.1 < 1.0 && after.1 == 1.0 {
            self.tell(|writer| Event::Warm { id: writer.id(key) });
        }
        after != before
    }

    /// Brings all weights up to date, and says whether one has changed.
    pub(super) fn update_weights(&mut self, now: Time) -> bool {
        let keys: Vec<MemberKey> = self.members.iter().map(|(key, _)| key).collect();
        // All of them, and not up to the first that changes.
        let changed = keys.into_iter().filter(|key| self.update_weight(*key, now));
        changed.count() > 0
    }

    /// Lets threads without the lock know when there is work next.
    pub(super) fn publish_due(&self) {
        self.shared.set_due(match self.closed {
            true => Time::NEVER,
            false => self.schedule.next(),
        });
    }
}
