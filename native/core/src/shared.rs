//! State that a balancer shares with its calls in flight: a call can end after the balancer is gone.

use std::ops::Deref;
use std::sync;
use std::time::Duration;

use crate::config::Config;
use crate::limit::InFlight;
use crate::line::Line;
use crate::load::fleet::Fleet;
use crate::load::{LiveMeasuring, Measuring};
use crate::sync::{ArcSwap, AtomicBool, AtomicU64, Ordering};
use crate::time::Time;

pub(crate) struct Shared {
    /// Read off the hot path: a pick has what it needs of it in its snapshot.
    config: ArcSwap<Config>,
    averaging: Averaging,
    pub(crate) fleet: Fleet,
    /// The calls in flight that began while their number was limited, or asked for by the policy: only
    /// then do all callers write this one word.
    pub(crate) in_flight: InFlight,
    /// Callers who wait for room.
    pub(crate) line: Line,
    malformed_reports: AtomicU64,
    /// When there is work next, as far as the last tick or change knew.
    due: AtomicU64,
    /// Whether calls have given cause for work before that.
    urgent: AtomicBool,
    /// Whether somebody wants to know what is decided.
    listened_to: AtomicBool,
    /// Whether there is something for them.
    eventful: AtomicBool,
    /// How many checkouts found no room since that was told last, and when it may be told again.
    refused: AtomicU64,
    tell_refused: AtomicU64,
    /// Whether the balancer, which would do the work, is gone.
    ended: AtomicBool,
}

/// So often it is told at most that checkouts found no room.
const REFUSALS: Duration = Duration::from_secs(1);

/// How latencies are averaged. Apart from the rest of the configuration, since every call that ends
/// asks for it, and a load from an `ArcSwap` costs as much as all else that it does.
enum Averaging {
    Fixed(Measuring),
    /// The policy's options have a say.
    Configured(LiveMeasuring),
}

impl Shared {
    pub(crate) fn new(config: sync::Arc<Config>) -> Self {
        let averaging = match config.policy.measuring() {
            None => Averaging::Fixed(Measuring::plain()),
            Some(measuring) => Averaging::Configured(LiveMeasuring::new(measuring)),
        };
        Shared {
            config: ArcSwap::new(config),
            averaging,
            fleet: Fleet::default(),
            in_flight: InFlight::new(),
            line: Line::new(),
            malformed_reports: AtomicU64::new(0),
            due: AtomicU64::new(Time::NEVER.0),
            urgent: AtomicBool::new(false),
            listened_to: AtomicBool::new(false),
            eventful: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            tell_refused: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    pub(crate) fn config(&self) -> impl Deref<Target = sync::Arc<Config>> + '_ {
        self.config.load()
    }

    /// Under the writer's lock.
    pub(crate) fn set_config(&self, config: sync::Arc<Config>) {
        self.config.store(config);
    }

    /// Whether the policy goes by when calls begin and end, so that each is to be timed.
    #[inline]
    pub(crate) fn times_calls(&self) -> bool {
        matches!(self.averaging, Averaging::Configured(_))
    }

    /// How latencies are averaged.
    #[inline]
    pub(crate) fn measuring(&self) -> Measuring {
        match &self.averaging {
            Averaging::Fixed(measuring) => *measuring,
            Averaging::Configured(measuring) => measuring.get(),
        }
    }

    /// Under the writer's lock.
    pub(crate) fn set_measuring(&self, next: &Measuring) {
        match &self.averaging {
            Averaging::Fixed(_) => unreachable!("the policy has no say, and stays the same"),
            Averaging::Configured(measuring) => measuring.set(next),
        }
    }

    /// When there is work that time drives. `None` as long as there is none.
    pub(crate) fn due(&self) -> Option<Time> {
        // Relaxed, all: a reader that sees an old value is told by the writer of the new one.
        if self.ended.load(Ordering::Relaxed) {
            return None;
        }
        if self.urgent.load(Ordering::Relaxed) || self.eventful.load(Ordering::Relaxed) {
            return Some(Time(0));
        }
        let mut due = Time(self.due.load(Ordering::Relaxed));
        if self.refused.load(Ordering::Relaxed) > 0 {
            due = due.min(Time(self.tell_refused.load(Ordering::Relaxed)));
        }
        (due != Time::NEVER).then_some(due)
    }

    /// Under the writer's lock.
    pub(crate) fn set_due(&self, due: Time) {
        // Relaxed: see `due`.
        self.due.store(due.0, Ordering::Relaxed);
    }

    /// Whether a look at the backends is requested at once.
    pub(crate) fn is_urgent(&self) -> bool {
        // Relaxed: see `due`.
        self.urgent.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// The balancer is gone: calls that are still in flight request nothing more.
    pub(crate) fn end(&self) {
        // Relaxed: see `due`.
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Requests a look at the backends at once.
    pub(crate) fn request_look(&self) {
        // Release: pairs with the Acquire in `take_request`, so that the taker sees the counts that
        // led to it. A swap and no store, which would hide from the taker what led another here.
        self.urgent.swap(true, Ordering::Release);
    }

    /// Whether a look was requested. To be asked before the look: a request that comes during it is
    /// for the next.
    pub(crate) fn take_request(&self) -> bool {
        // Acquire: see `request_look`. Relaxed for the rest: taking it publishes nothing.
        self.urgent.swap(false, Ordering::Acquire)
    }

    /// Whether somebody wants to know what is decided.
    pub(crate) fn is_listened_to(&self) -> bool {
        // Relaxed: whether one event more or less is told orders nothing.
        self.listened_to.load(Ordering::Relaxed)
    }

    pub(crate) fn listen(&self, listens: bool) {
        // Relaxed: as above.
        self.listened_to.store(listens, Ordering::Relaxed);
    }

    /// Whether there is something for them.
    pub(crate) fn is_eventful(&self) -> bool {
        // Relaxed: see `due`.
        self.eventful.load(Ordering::Relaxed)
    }

    /// Under the writer's lock.
    pub(crate) fn set_eventful(&self, eventful: bool) {
        // Relaxed: see `due`. A load first, because this is asked for after every change.
        if self.eventful.load(Ordering::Relaxed) != eventful {
            self.eventful.store(eventful, Ordering::Relaxed);
        }
    }

    /// A checkout found no room. Whether it is the first since that was told.
    pub(crate) fn count_refusal(&self) -> bool {
        // Relaxed: a count.
        self.is_listened_to() && self.refused.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// How many checkouts found no room, if that is to be told now. Under the writer's lock.
    pub(crate) fn take_refusals(&self, now: Time) -> Option<u64> {
        // Relaxed, all: counts, and see `due`.
        if self.refused.load(Ordering::Relaxed) == 0
            || Time(self.tell_refused.load(Ordering::Relaxed)) > now
        {
            return None;
        }
        let next = now + REFUSALS;
        self.tell_refused.store(next.0, Ordering::Relaxed);
        Some(self.refused.swap(0, Ordering::Relaxed))
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
