//! What time drives: sweeps for outliers, weights, slow start.

use std::hash::Hash;
use std::time::Duration;

use triomphe::Arc;

use super::writer::{Change, Writer};
use crate::health::outlier_detection::{self, Streak, Subject};
use crate::health::slow_start;
use crate::members::MemberKey;
use crate::reclaim::Published;
use crate::snapshot::Snapshot;
use crate::time::Time;

/// When there is work that time drives; [`Time::NEVER`] where there is none.
#[derive(Clone, Copy)]
pub(super) struct Schedule {
    pub(super) sweep: Time,
    pub(super) weights: Time,
    /// When the last member that warms up will be warm.
    pub(super) warm: Time,
}

impl<T: Clone + Eq + Hash + Send + Sync, W> Writer<T, W> {
    /// Does what is due, see [`Balancer::tick`](super::Balancer::tick).
    pub(super) fn tick(&mut self, published: &Published<Snapshot<T>>, now: Time) {
        let urgent = self.shared.take_urgent();
        if self.closed {
            return;
        }
        let Schedule { sweep, weights, .. } = self.schedule;
        let (sweep, weights) = (sweep <= now, weights <= now);
        let mut change = self.begin(published);
        if sweep || urgent {
            self.look_for_outliers(sweep, &mut change, now);
        }
        if weights && self.update_weights(now) {
            change.touched |= self.shared.config.policy.tabulates_weights();
        }
        self.end_state_change(change, published);
    }

    /// Ejects backends and lets them back in (gRFC A50): at a sweep, or those alone that fail call
    /// after call.
    pub(super) fn look_for_outliers(&mut self, sweep: bool, change: &mut Change<T>, now: Time) {
        let shared = Arc::clone(&self.shared);
        let Some(config) = shared.config.outlier_detection.as_deref() else {
            return;
        };
        let members = self.members.iter();
        let before: Vec<(MemberKey, bool)> = members
            .map(|(key, member)| (key, member.is_ejected()))
            .collect();
        let mut streaks: Vec<Streak> = self
            .members
            .iter_mut()
            .filter_map(|(_, member)| {
                Some(Streak {
                    consecutive: member.entry.load.consecutive_failures(),
                    ejection: &mut member.health.as_mut()?.ejection,
                })
            })
            .collect();
        outlier_detection::eject_failing(config, &mut streaks, now);
        if sweep {
            let mut subjects: Vec<Subject> = self
                .members
                .iter_mut()
                .filter_map(|(_, member)| {
                    let health = member.health.as_mut()?;
                    let ended = member.entry.load.ended();
                    let seen = std::mem::replace(&mut health.seen, ended);
                    Some(Subject {
                        ok: ended.successes - seen.successes,
                        failed: ended.failures - seen.failures,
                        ejection: &mut health.ejection,
                    })
                })
                .collect();
            let random = &mut self.random;
            outlier_detection::sweep(config, &mut subjects, now, || random.u32(..100));
            self.schedule.sweep = now + config.interval;
        }
        for (key, was_ejected) in before {
            let member = self.members.get(key);
            if member.is_ejected() != was_ejected {
                member.entry.load.forgive();
                self.judge(key, change, now);
            }
        }
    }

    /// A member has become healthy. Says whether its weight has changed by that.
    pub(super) fn warm_up(&mut self, key: MemberKey, now: Time) -> bool {
        let member = self.members.get_mut(key);
        if let Some(reported) = &member.entry.load.reported {
            reported.on_ready();
        }
        if let Some(health) = &mut member.health {
            health.healthy_since = now;
        }
        if let Some(config) = &self.shared.config.slow_start {
            self.schedule.warm = self.schedule.warm.max(now + config.window);
            let next = now + warming_step(config);
            self.schedule.weights = self.schedule.weights.min(next);
        }
        self.weigh(key, now)
    }

    /// A58: a new picker takes weights as they are, those of backends that did not change, too.
    pub(super) fn read_reports(&mut self, now: Time) {
        if self.shared.config.policy.reported_weights().is_some() {
            self.weigh_all(now);
        }
    }

    /// Brings all weights up to date, and says whether one has changed.
    pub(super) fn weigh_all(&mut self, now: Time) -> bool {
        let keys: Vec<MemberKey> = self.members.iter().map(|(key, _)| key).collect();
        keys.into_iter().filter(|key| self.weigh(*key, now)).count() > 0
    }

    /// As `weigh_all`, and says when to do so again.
    pub(super) fn update_weights(&mut self, now: Time) -> bool {
        let changed = self.weigh_all(now);
        let config = &self.shared.config;
        let reports = config.policy.reported_weights();
        let slow_start = config.slow_start.as_deref();
        let warming = slow_start.filter(|_| now < self.schedule.warm);
        let periods = reports
            .map(|config| config.weight_update_period)
            .into_iter()
            .chain(warming.map(warming_step));
        self.schedule.weights = periods.min().map_or(Time::NEVER, |period| now + period);
        changed
    }

    /// Brings the weight of a member up to date, and says whether it has changed.
    pub(super) fn weigh(&mut self, key: MemberKey, now: Time) -> bool {
        let config = &self.shared.config;
        let member = self.members.get(key);
        let load = &member.entry.load;
        let own = match (&load.reported, config.policy.reported_weights()) {
            (Some(reported), Some(config)) => reported.get(now, config),
            _ => f64::from(member.weight),
        };
        let factor = match (&config.slow_start, &member.health) {
            (Some(config), Some(health)) => {
                slow_start::factor(config, now.since(health.healthy_since))
            }
            _ => 1.0,
        };
        let (before, weight) = (load.weight(), own * factor);
        load.set_weight(weight);
        self.weighted += u32::from(weight != 1.0);
        self.weighted -= u32::from(before != 1.0);
        weight != before
    }

    /// Says when there is work next.
    pub(super) fn announce(&self) {
        let Schedule { sweep, weights, .. } = self.schedule;
        self.shared.set_due(match self.closed {
            true => Time::NEVER,
            false => sweep.min(weights),
        });
    }
}

/// How often weights are updated while a backend warms up: often enough that no step is seen, and
/// never so often that it costs something.
fn warming_step(config: &slow_start::Config) -> Duration {
    const STEPS: u32 = 64;
    (config.window / STEPS).clamp(Duration::from_millis(20), Duration::from_secs(1))
}
