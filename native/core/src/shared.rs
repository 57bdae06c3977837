//! What a balancer and the calls that it has in flight share: a call can end after the balancer is
//! gone.

use crate::config::Config;
use crate::limit::InFlight;
use crate::load::Measuring;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::time::Time;

pub(crate) struct Shared {
    pub(crate) config: Config,
    /// How the policy wants latencies averaged.
    pub(crate) measuring: Measuring,
    /// All calls in flight; counted only where there is a limit, since all callers write it.
    pub(crate) in_flight: InFlight,
    malformed_reports: AtomicU64,
    /// When there is work next, as far as the last tick or change knew.
    due: AtomicU64,
    /// Whether calls have given cause for work before that.
    urgent: AtomicBool,
    /// Whether nobody is there any more to do any work.
    ended: AtomicBool,
}

impl Shared {
    pub(crate) fn new(config: Config) -> Self {
        Shared {
            measuring: config.policy.measuring(),
            config,
            in_flight: InFlight::default(),
            malformed_reports: AtomicU64::new(0),
            due: AtomicU64::new(Time::NEVER.0),
            urgent: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// When there is work that time drives. `None` as long as there is none.
    pub(crate) fn due(&self) -> Option<Time> {
        // Relaxed, all: who is told too late is told again by whoever wrote it, and work that nobody
        // does is asked for in vain.
        if self.ended.load(Ordering::Relaxed) {
            return None;
        }
        if self.urgent.load(Ordering::Relaxed) {
            return Some(Time(0));
        }
        let due = Time(self.due.load(Ordering::Relaxed));
        (due != Time::NEVER).then_some(due)
    }

    /// Under the writer's lock.
    pub(crate) fn set_due(&self, due: Time) {
        // Relaxed: see `due`.
        self.due.store(due.0, Ordering::Relaxed);
    }

    /// Whether a look is asked for at once.
    pub(crate) fn is_urgent(&self) -> bool {
        // Relaxed: see `due`.
        self.urgent.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// The balancer is gone: calls that are still in flight ask for nothing more.
    pub(crate) fn end(&self) {
        // Relaxed: see `due`.
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Asks for a look at once.
    pub(crate) fn hurry(&self) {
        // Release: pairs with the Acquire in `take_urgent`: who takes this sees the counts that led
        // to it. A swap and no store, which would hide from the taker what led another here.
        self.urgent.swap(true, Ordering::Release);
    }

    /// Whether somebody asked for a look. Before the look: who asks during it asks for another.
    pub(crate) fn take_urgent(&self) -> bool {
        // Acquire: see `hurry`. Relaxed for the rest: taking it publishes nothing.
        self.urgent.swap(false, Ordering::Acquire)
    }

    pub(crate) fn count_malformed_report(&self) {
        // Relaxed: a count.
        self.malformed_reports.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn malformed_reports(&self) -> u64 {
        // Relaxed: a count.
        self.malformed_reports.load(Ordering::Relaxed)
    }
}
