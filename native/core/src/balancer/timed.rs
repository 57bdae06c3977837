//! Work that time drives: sweeps for outliers, weights, slow start.

use std::hash::Hash;
use std::time::Duration;

use super::change::{Change, Gone, Scope};
use super::writer::Writer;
use crate::backend::Owners;
use crate::events::Event;
use crate::health::ejection::{self, Cause, Ejection, Streak, Subject};
use crate::members::{Member, MemberKey};
use crate::time::Time;

impl<T: Clone + Eq + Hash + Send + Sync, O: Owners> Scope<'_, T, O> {
    /// Does what is due, see [`Balancer::tick`](super::Balancer::tick).
    pub(super) fn tick(self, now: Time) -> Gone<T> {
        let requested = self.writer.shared.take_request();
        if let Some(refused) = self.writer.shared.take_refusals(now) {
            self.writer.tell(|_| Event::Overloaded { refused });
        }
        if self.writer.closed {
            return Gone::new();
        }
        let schedule = &self.writer.schedule;
        let (sweep, weights) = (schedule.sweep_is_due(now), schedule.weights_are_due(now));
        let failing = requested || schedule.unreachable_are_due(now);
        let mut change = Change::begin(self);
        change.forget_old(now);
        if sweep {
            change.sweep_for_outliers(now);
        } else if failing {
            change.eject_failing(now);
        }
        if weights {
            change.update_weights(now);
        }
        change.finish_state_change()
    }
}

impl<T: Clone + Eq + Hash + Send + Sync, O: Owners> Change<'_, T, O> {
    /// Ejects backends that fail call after call, and lets back in those that could not be reached,
    /// without waiting for the sweep.
    pub(super) fn eject_failing(&mut self, now: Time) {
        self.update_ejections(now, |writer| writer.eject_failing(now));
    }

    /// Ejects backends and lets them back in (gRFC A50).
    fn sweep_for_outliers(&mut self, now: Time) {
        self.update_ejections(now, |writer| {
            writer.eject_failing(now);
            writer.sweep(now);
        });
    }

    /// Takes the members that `update` ejects out of the rotation, and puts those back that it lets
    /// in again.
    pub(super) fn update_ejections(
        &mut self,
        now: Time,
        update: impl FnOnce(&mut Writer<T, O::Watch>),
    ) {
        let members = self.writer.members.iter();
        let ejection = |member: &Member<T>| member.ejection().copied().unwrap_or_default();
        let before: Vec<(MemberKey, Ejection)> = members
            .map(|(key, member)| (key, ejection(member)))
            .collect();
        update(self.writer);
        for (key, before) in before {
            let member = self.writer.members.get(key);
            let after = ejection(member);
            let load = &member.entry.load;
            // Neither ejection has to do with the failures that led to the other.
            let outlier = before.ejected_at.is_some() != after.ejected_at.is_some();
            let unreachable = before.unreachable.until != after.unreachable.until;
            if outlier {
                load.consecutive.reset_failures();
            }
            if unreachable {
                load.consecutive.reset_transport_failures();
            }
            if outlier || unreachable {
                self.update_standing(key, now);
            }
            if before.is_ejected() && !after.is_ejected() {
                self.writer.tell(|writer| Event::Unejected {
                    id: writer.id(key),
                    lasted: now.since(before.since()),
                });
            }
        }
        let healthy = self.writer.layers.census().healthy();
        let Writer {
            members,
            schedule,
            held_back,
            ..
        } = &mut *self.writer;
        // Those who were ejected or let back in by this look have been looked at.
        *held_back = held_back.map(|_| healthy);
        let ejections = members.iter().filter_map(|(_, member)| member.ejection());
        schedule.plan_unreachable(ejections.filter_map(|ejection| ejection.unreachable.until));
    }

    /// Brings all weights up to date, and plans when to do so again.
    pub(super) fn update_weights(&mut self, now: Time) {
        if self.writer.update_weights(now) && self.writer.config.policy.tabulates_weights() {
            self.touch();
        }
        let Writer {
            schedule, config, ..
        } = &mut *self.writer;
        schedule.on_weights(config, now);
    }
}

impl<T: Clone + Eq + Hash, W> Writer<T, W> {
    fn eject_failing(&mut self, now: Time) {
        let Some(config) = self.config.outlier_detection.as_deref() else {
            return;
        };
        let limits = config.limits_in_a_row();
        let members = self.members.iter_mut();
        let members = members.filter(|(_, member)| !member.outside);
        let streaks = members.filter_map(|(key, member)| {
            let load = &member.entry.load;
            let failed = load.consecutive.look(limits);
            let streak = Streak {
                failures: failed.failures,
                transport_failures: failed.transport_failures,
                ok: load.ended().successes,
                ready: member.is_ready(),
                ejection: &mut member.health.as_mut()?.ejection,
            };
            Some((key, streak))
        });
        let (keys, mut streaks): (Vec<MemberKey>, Vec<Streak>) = streaks.unzip();
        let ejected = ejection::eject_failing(config, &mut streaks, now);
        let held_back = streaks.iter().any(|streak| streak.is_held_back(config));
        self.held_back = held_back.then(|| self.layers.census().healthy());
        self.tell_ejected(&keys, ejected, now);
    }

    fn sweep(&mut self, now: Time) {
        let Some(config) = self.config.outlier_detection.as_deref() else {
            return;
        };
        let members = self.members.iter_mut();
        let members = members.filter(|(_, member)| !member.outside);
        let subjects = members.filter_map(|(key, member)| {
            let ready = member.is_ready();
            let health = member.health.as_mut()?;
            let ended = member.entry.load.ended();
            let seen = std::mem::replace(&mut health.seen, ended);
            let subject = Subject {
                ok: ended.successes - seen.successes,
                failed: ended.failures - seen.failures,
                ready,
                ejection: &mut health.ejection,
            };
            Some((key, subject))
        });
        let random = &mut self.random;
        let (keys, mut subjects): (Vec<MemberKey>, Vec<Subject>) = subjects.unzip();
        let ejected = ejection::sweep(config, &mut subjects, now, || random.u32(..100));
        self.schedule.on_sweep(&self.config, now);
        self.tell_ejected(&keys, ejected, now);
    }

    /// Tells who was ejected, by their place among the keys, and why.
    fn tell_ejected(&mut self, keys: &[MemberKey], ejected: Vec<(usize, Cause)>, now: Time) {
        for (index, cause) in ejected {
            let key = keys[index];
            self.tell(|writer| {
                let config = writer.config.outlier_detection.as_deref();
                let ejection = writer.members.get(key).ejection();
                let until = config.and_then(|config| ejection?.lasts_until(cause.rule, config));
                Event::Ejected {
                    id: writer.id(key),
                    cause,
                    lasts: until.map_or(Duration::ZERO, |until| until.since(now)),
                }
            });
        }
    }
}
