//! Configuration of a live balancer: what is known of its backends stays.

use std::hash::Hash;
use std::sync::Arc;

use super::change::{Change, Scope};
use super::results::{ConfigureError, Configured};
use super::writer::Writer;
use crate::backend::Owners;
use crate::config::Config;
use crate::health::{outlier_detection, Health};
use crate::time::Time;

impl<T: Clone + Eq + Hash + Send + Sync, O: Owners> Scope<'_, T, O> {
    /// See [`Balancer::configure`](super::Balancer::configure).
    pub(super) fn configure(
        self,
        change: impl FnOnce(&mut Config),
        now: Time,
    ) -> Result<Configured, ConfigureError> {
        if self.writer.closed {
            return Err(ConfigureError::Closed);
        }
        let last = Arc::clone(&self.writer.config);
        let mut next = Config::clone(&last);
        change(&mut next);
        let [current, wanted] = [&last, &next].map(|config| config.policy.name());
        if current != wanted {
            return Err(ConfigureError::OtherPolicy { current, wanted });
        }
        if next == *last {
            return Ok(Configured::Unchanged);
        }
        let mut change = Change::begin(self);
        change.writer.set_config(next);
        change.touch();
        change.configure_detection(&last, now);
        change.configure_weights(now);
        change.finish_state_change();
        Ok(Configured::Changed)
    }
}

impl<T: Clone + Eq + Hash + Send + Sync, O: Owners> Change<'_, T, O> {
    /// Lets ejected backends back in where outliers are no longer looked for, and looks at once for
    /// those that already fail more calls in a row than they may now.
    fn configure_detection(&mut self, last: &Config, now: Time) {
        let detects = self.writer.config.outlier_detection.is_some();
        match (last.outlier_detection.is_some(), detects) {
            (false, true) => self.writer.begin_detection(now),
            (true, false) => self.update_ejections(now, Writer::end_detection),
            _ => {}
        }
        let limits = |config: &Config| {
            let detection = config.outlier_detection.as_deref();
            detection.map(outlier_detection::Config::limits_in_a_row)
        };
        if limits(last) != limits(&self.writer.config) {
            self.writer.forget_too_many();
        }
        let Writer {
            schedule, config, ..
        } = &mut *self.writer;
        schedule.plan_sweep(config);
        self.eject_failing(now);
    }

    /// Has weights follow from reports and slow start as they are configured now.
    fn configure_weights(&mut self, now: Time) {
        let Writer {
            schedule,
            config,
            members,
            ..
        } = &mut *self.writer;
        schedule.forget_warm_ups(now);
        for (_, member) in members.iter() {
            if config.policy.reported_weights().is_some() {
                member.entry.load.expect_reports();
            }
            if let Some(config) = &config.slow_start {
                schedule.on_warm_up(config, member.healthy_since);
            }
        }
        self.update_weights(now);
    }
}

impl<T: Clone + Eq + Hash, W> Writer<T, W> {
    fn set_config(&mut self, next: Config) {
        self.config = Arc::new(next);
        self.shared.set_config(Arc::clone(&self.config));
        let Some(measuring) = self.config.policy.measuring() else {
            return;
        };
        let last = self.shared.measuring();
        let next = measuring.after(&last);
        self.shared.set_measuring(&next);
        let listed = self.members.iter().map(|(_, member)| &member.entry);
        let removed = self.memory.iter_mut().map(|known| &known.entry);
        for entry in listed.chain(removed) {
            entry.load.change_measuring(&last, &next);
        }
    }

    /// What was too many by other limits may not be by these.
    fn forget_too_many(&mut self) {
        let listed = self.members.iter().map(|(_, member)| &member.entry);
        let removed = self.memory.iter_mut().map(|known| &known.entry);
        for entry in listed.chain(removed) {
            entry.load.consecutive.forget_too_many();
        }
    }

    /// A50: calls count from when outliers are first looked for.
    fn begin_detection(&mut self, now: Time) {
        for (_, member) in self.members.iter_mut() {
            let ended = member.entry.load.ended();
            let new = || Box::new(Health::new(ended));
            member.health.get_or_insert_with(new).seen = ended;
        }
        for known in self.memory.iter_mut() {
            let ended = known.entry.load.ended();
            if let Some(health) = &mut known.health {
                health.seen = ended;
            }
        }
        self.schedule.on_sweep(&self.config, now);
    }

    /// How often a backend was ejected stays.
    fn end_detection(&mut self) {
        self.held_back = None;
        for (_, member) in self.members.iter_mut() {
            if let Some(health) = &mut member.health {
                health.ejection.clear();
            }
        }
    }
}
