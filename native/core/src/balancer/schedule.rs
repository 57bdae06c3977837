//! Schedule of the work that time drives.

use std::time::Duration;

use crate::config::Config;
use crate::health::slow_start;
use crate::time::Time;

/// When there is work; [`Time::NEVER`] where there is none.
pub(super) struct Schedule {
    /// When the last sweep was, or outlier detection was switched on.
    swept: Time,
    sweep: Time,
    /// When the next ejection of a backend that could not be reached is over.
    unreachable: Time,
    weights: Time,
    /// When the last member that warms up will be warm.
    warm: Time,
    /// When something that is remembered is to be forgotten.
    forget: Time,
}

impl Schedule {
    pub(super) fn new(config: &Config, now: Time) -> Self {
        let reports = config.policy.reported_weights();
        let mut schedule = Schedule {
            swept: now,
            sweep: Time::NEVER,
            unreachable: Time::NEVER,
            weights: reports.map_or(Time::NEVER, |config| now + config.weight_update_period),
            warm: now,
            forget: Time::NEVER,
        };
        schedule.plan_sweep(config);
        schedule
    }

    pub(super) fn sweep_is_due(&self, now: Time) -> bool {
        self.sweep <= now
    }

    pub(super) fn unreachable_are_due(&self, now: Time) -> bool {
        self.unreachable <= now
    }

    pub(super) fn weights_are_due(&self, now: Time) -> bool {
        self.weights <= now
    }

    /// When there is work next.
    pub(super) fn next(&self) -> Time {
        let times = [self.unreachable, self.weights, self.forget];
        times.into_iter().fold(self.sweep, Time::min)
    }

    /// All that could not be reached are known, by when they are to be let back in.
    pub(super) fn plan_unreachable(&mut self, until: impl Iterator<Item = Time>) {
        self.unreachable = until.min().unwrap_or(Time::NEVER);
    }

    /// When the oldest of what is remembered is to be forgotten.
    pub(super) fn plan_forgetting(&mut self, until: Option<Time>) {
        self.forget = until.unwrap_or(Time::NEVER);
    }

    /// No member warms up, as far as is known.
    pub(super) fn forget_warm_ups(&mut self, now: Time) {
        self.warm = now;
    }

    /// A sweep is done, or outlier detection begins.
    pub(super) fn on_sweep(&mut self, config: &Config, now: Time) {
        self.swept = now;
        self.plan_sweep(config);
    }

    /// A50: under another interval the next sweep is so long after the last one.
    pub(super) fn plan_sweep(&mut self, config: &Config) {
        let detection = config.outlier_detection.as_ref();
        self.sweep = detection.map_or(Time::NEVER, |config| self.swept + config.interval);
    }

    /// A member is healthy since then, and warms up. If that began now, weights are updated soon.
    pub(super) fn on_warm_up(&mut self, config: &slow_start::Config, since: Time) {
        self.warm = self.warm.max(since + config.window);
        self.weights = self.weights.min(since + warming_step(config));
    }

    /// All weights are up to date.
    pub(super) fn on_weights(&mut self, config: &Config, now: Time) {
        let reports = config.policy.reported_weights();
        let slow_start = config.slow_start.as_deref();
        let warming = slow_start.filter(|_| now < self.warm);
        let periods = reports
            .map(|config| config.weight_update_period)
            .into_iter()
            .chain(warming.map(warming_step));
        self.weights = periods.min().map_or(Time::NEVER, |period| now + period);
    }
}

/// How often weights are updated while a backend warms up: often enough that no step is seen, and
/// never so often that it costs something.
fn warming_step(config: &slow_start::Config) -> Duration {
    const STEPS: u32 = 64;
    (config.window / STEPS).clamp(Duration::from_millis(20), Duration::from_secs(1))
}
