//! Balancer at one moment, for users to look at.

use std::hash::Hash;

use hashbrown::HashMap;
use triomphe::Arc;

use super::layers::Layer;
use super::writer::Writer;
use crate::backend::{Owner, State};
use crate::entry::Entry;
use crate::health::ejection::Rule;
use crate::health::Relief;
use crate::members::Member;
use crate::policy::TableSize;
use crate::reclaim::Published;
use crate::snapshot::Snapshot;
use crate::sync::Ordering;
use crate::time::Time;

/// A balancer as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Info<T> {
    /// See [`Policy::name`](crate::policy::Policy::name).
    pub policy: &'static str,
    /// How many snapshots were published: the first reconcile makes it 1.
    pub generation: u64,
    /// Whether it was closed.
    pub closed: bool,
    /// How many load reports were malformed.
    pub malformed_reports: u64,
    /// Those that have a backend, by priority, and by locality in one priority.
    pub layers: Vec<LayerInfo>,
    /// The tables of a policy that hashes, together; `None` with any other.
    pub table: Option<TableSize>,
    /// All that are listed, in the order of the list.
    pub backends: Vec<BackendInfo<T>>,
}

/// The backends of one locality of one priority, as they are at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerInfo {
    /// See [`Backend::priority`](crate::Backend::priority).
    pub priority: u32,
    /// See [`Backend::locality`](crate::Backend::locality).
    pub locality: Option<Box<str>>,
    /// Which part of the picks it has, 0 to 1. All have 1 together, unless nothing can be picked.
    pub share: f64,
    /// How many are listed, and in the subset if there is one.
    pub backends: u32,
    /// How many are ready and not ejected.
    pub healthy: u32,
    /// Whether it is in a panic, and its ejected and unhealthy backends are picked, too.
    pub panics: bool,
}

/// What can be said of a balancer without its lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// See [`Policy::name`](crate::policy::Policy::name).
    pub policy: &'static str,
    /// How many are listed.
    pub backends: usize,
    /// Whether it was closed.
    pub closed: bool,
}

/// A backend as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendInfo<T> {
    /// Its identity.
    pub id: T,
    /// What a pick returns.
    pub value: T,
    /// As its user says.
    pub state: State,
    /// Whether its owner is dead: then it is not picked, whatever its state, until it is offered
    /// with an owner that lives.
    pub owner_dead: bool,
    /// The process whose death takes it out of the rotation. `None` also once that is dead.
    pub owner: Option<Owner>,
    /// Whether it is used: in the subset, or there is none.
    pub in_subset: bool,
    /// As given with it.
    pub priority: u32,
    /// As given with it.
    pub locality: Option<Box<str>>,
    /// Its share beside the others, as given with it.
    pub weight: u32,
    /// Its share as it is now: as given, or as its load reports say, and less than that in a slow
    /// start. `None` if it is not known, because reports are awaited.
    pub current_weight: Option<f64>,
    /// Which part of the keys of its layer its entries in the table have, 0 to 1: those that lead to it
    /// unless it, or another that cannot be picked, passes them on. `None` without such a table.
    pub table_share: Option<f64>,
    /// How often it was picked since its id was first listed; with a policy that does not count
    /// picks, how often it was checked out.
    pub picks: u64,
    /// Calls that were checked out and have not ended.
    pub in_flight: u32,
    /// When the oldest of them began: no later than this, and little before it. `None` if there is
    /// none.
    pub oldest_in_flight: Option<Time>,
    /// The average latency of its calls. `None` before the first was answered.
    pub latency_ns: Option<f64>,
    /// Calls that ended well.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// When its ejection is over, at the first sweep after that. `None` if it is not ejected.
    pub ejected_until: Option<Time>,
    /// By which rule it is ejected; by one about how its calls end, if it is for both.
    pub ejected_by: Option<Rule>,
    /// How often it was ejected.
    pub times_ejected: u64,
}

impl Layer {
    fn describe(&self) -> LayerInfo {
        LayerInfo {
            priority: self.priority,
            locality: self.locality.clone(),
            share: self.share,
            backends: self.used(),
            healthy: self.census.healthy(),
            panics: self.relief == Relief::All,
        }
    }
}

impl<T: Clone + Eq + Hash + Send + Sync, W> Writer<T, W> {
    pub(super) fn info(&self, published: &Published<Snapshot<T>>) -> Info<T> {
        let mut recent: HashMap<*const Entry, u64> = HashMap::new();
        let mut add = |snapshot: &Snapshot<T>| {
            snapshot.for_each_picked(|entry, picks| {
                *recent.entry(Arc::as_ptr(entry)).or_default() += picks;
            });
        };
        published.inspect(&mut add);
        published.inspect_retired(&mut add);
        let table = published.inspect(|snapshot| snapshot.table());
        let mut led: HashMap<*const Entry, f64> = HashMap::new();
        published.inspect(|snapshot| {
            for group in snapshot.groups() {
                group.for_each_entry(|entry, part| {
                    *led.entry(Arc::as_ptr(entry)).or_default() += part;
                });
            }
        });
        let table_share = |member: &Member<T>| {
            table?;
            Some(led.get(&Arc::as_ptr(&member.entry)).copied().unwrap_or(0.0))
        };
        let turns = |member: &Member<T>| {
            // Relaxed: written under the writer's lock, which is held, or by a pick that is under
            // way and may or may not be counted.
            let earlier = member.entry.picks.load(Ordering::Relaxed);
            let recent = recent.get(&Arc::as_ptr(&member.entry)).unwrap_or(&0);
            earlier.wrapping_add(*recent)
        };
        Info {
            policy: self.config.policy.name(),
            generation: self.generation,
            closed: self.closed,
            malformed_reports: self.shared.malformed_reports(),
            layers: self.layers.in_order().map(Layer::describe).collect(),
            table,
            backends: self
                .members
                .in_order()
                .map(|member| self.describe(member, turns(member), table_share(member)))
                .collect(),
        }
    }

    fn describe(&self, member: &Member<T>, turns: u64, table_share: Option<f64>) -> BackendInfo<T> {
        let config = &self.config;
        let load = &member.entry.load;
        let layer = self.layers.get(member.layer);
        let (in_flight, ended) = (load.in_flight(), load.ended());
        let checkouts = u64::from(in_flight) + ended.successes + ended.failures;
        let current_weight = match member.weight {
            // What its entry has is for when no other backend can be picked.
            0 => Some(0.0),
            _ => load.known_weight(),
        };
        let health = member.health.as_ref();
        let ejected_until = config.outlier_detection.as_ref().zip(health);
        let ejected_until =
            ejected_until.and_then(|(config, health)| health.ejection.ejected_until(config));
        BackendInfo {
            id: member.id.clone(),
            value: member.value.clone(),
            state: member.state,
            owner_dead: member.owner_dead,
            owner: member.owner,
            in_subset: !member.outside,
            priority: layer.priority,
            locality: layer.locality.clone(),
            weight: member.weight,
            current_weight,
            table_share,
            picks: match config.policy.counts_picks() {
                true => turns,
                false => checkouts + turns,
            },
            in_flight,
            oldest_in_flight: load.oldest_in_flight(),
            latency_ns: load.latency(&self.shared.measuring()),
            successes: ended.successes,
            failures: ended.failures,
            ejected_until,
            ejected_by: health.and_then(|health| health.ejection.ejected_by()),
            times_ejected: health.map_or(0, |health| health.ejection.times_ejected),
        }
    }
}
