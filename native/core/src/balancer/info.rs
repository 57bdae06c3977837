//! A balancer as it is at one moment.

use std::hash::Hash;

use hashbrown::HashMap;
use triomphe::Arc;

use super::writer::Writer;
use crate::backend::{Entry, Owner, State};
use crate::members::Member;
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
    /// Load reports that were no such thing.
    pub malformed_reports: u64,
    /// All that are listed, in the order of the list.
    pub backends: Vec<BackendInfo<T>>,
}

/// A backend as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendInfo<T> {
    /// Who it is.
    pub id: T,
    /// What a pick hands out.
    pub value: T,
    /// Whether it can be picked, unless it is ejected.
    pub state: State,
    /// Whose death takes it out of the rotation.
    pub owner: Option<Owner>,
    /// Its share beside the others, as given with it.
    pub weight: u32,
    /// Its share as it is now, where load reports or slow start have a say in it. 0 is not known.
    pub current_weight: Option<f64>,
    /// How often it was picked since its id was first listed; with a policy that does not count
    /// picks, how often it was checked out.
    pub picks: u64,
    /// Calls that were checked out and have not ended.
    pub in_flight: u32,
    /// The average latency of its calls. `None` before the first was answered.
    pub latency_ns: Option<f64>,
    /// Calls that ended well.
    pub successes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// When its ejection is over, at the first sweep after that. `None` if it is not ejected.
    pub ejected_until: Option<Time>,
    /// How often it was ejected.
    pub times_ejected: u64,
}

impl<T: Clone + Eq + Hash + Send + Sync, W> Writer<T, W> {
    pub(super) fn info(&self, published: &Published<Snapshot<T>>) -> Info<T> {
        let mut unsettled: HashMap<*const Entry, u64> = HashMap::new();
        let mut add = |snapshot: &Snapshot<T>| {
            snapshot.for_each_picked(|entry, picks| {
                *unsettled.entry(Arc::as_ptr(entry)).or_default() += picks;
            });
        };
        published.inspect(&mut add);
        published.inspect_retired(&mut add);
        let turns = |member: &Member<T>| {
            // Relaxed: written under the writer's lock, which is held, or by a pick that is under
            // way and may or may not be counted.
            let settled = member.entry.picks.load(Ordering::Relaxed);
            let unsettled = unsettled.get(&Arc::as_ptr(&member.entry)).unwrap_or(&0);
            settled.wrapping_add(*unsettled)
        };
        let config = &self.shared.config;
        Info {
            policy: config.policy.name(),
            generation: self.generation,
            closed: self.closed,
            malformed_reports: self.shared.malformed_reports(),
            backends: self
                .members
                .in_order()
                .into_iter()
                .map(|member| self.describe(member, turns(member)))
                .collect(),
        }
    }

    fn describe(&self, member: &Member<T>, turns: u64) -> BackendInfo<T> {
        let config = &self.shared.config;
        let load = &member.entry.load;
        let (in_flight, ended) = (load.in_flight(), load.ended());
        let checkouts = u64::from(in_flight) + ended.successes + ended.failures;
        let varies = config.policy.reported_weights().is_some() || config.slow_start.is_some();
        let health = member.health.as_ref();
        let ejected_until = config.outlier_detection.as_ref().zip(health);
        let ejected_until =
            ejected_until.and_then(|(config, health)| health.ejection.ejected_until(config));
        BackendInfo {
            id: member.id.clone(),
            value: member.value.clone(),
            state: member.state(),
            owner: member.owner,
            weight: member.weight,
            current_weight: varies.then(|| load.weight()),
            picks: match config.policy.counts_picks() {
                true => turns,
                false => checkouts + turns,
            },
            in_flight,
            latency_ns: load.latency(&self.shared.measuring),
            successes: ended.successes,
            failures: ended.failures,
            ejected_until,
            times_ejected: health.map_or(0, |health| health.ejection.times_ejected),
        }
    }
}
