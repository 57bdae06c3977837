//! What a backend is to those who offer it, and what is kept of it.

use std::hash::Hash;
use std::num::NonZeroU64;
use std::time::Duration;

use hashbrown::Equivalent;
use triomphe::Arc;

use crate::load::orca::{LoadReport, Report};
use crate::load::reported_weight::Source;
use crate::load::{Load, Outcome};
use crate::shared::Shared;
use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// A backend as it is offered to [`Balancer::reconcile`](crate::Balancer::reconcile).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend<O> {
    /// Who it is. Unique within a list; what was counted for an id stays with it.
    pub id: O,
    /// What a pick hands out.
    pub value: O,
    /// Whose death takes it out of the rotation.
    pub owner: Option<Owner>,
    /// Its share beside the others, for the policies that weigh.
    pub weight: u32,
}

impl<O> Backend<O> {
    /// A backend of weight 1 that nobody owns.
    pub fn new(id: O, value: O) -> Self {
        Backend {
            id,
            value,
            owner: None,
            weight: 1,
        }
    }
}

/// Something that can become a `T`: compared with those that are held already, and made into one
/// only where it is new.
///
/// Its `Hash` must agree with that of `T`, as [`Equivalent`] demands.
pub trait Offer<T>: Eq + Hash + Equivalent<T> {
    /// Makes the two that will be kept of a backend: they come and go together.
    fn own(id: &Self, value: &Self) -> (T, T);
}

impl<T: Clone + Eq + Hash> Offer<T> for T {
    fn own(id: &Self, value: &Self) -> (T, T) {
        (id.clone(), value.clone())
    }
}

/// The name of a process that owns backends. The core only compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub NonZeroU64);

/// Whoever can tell when an owner dies, and then calls
/// [`Balancer::note_death`](crate::Balancer::note_death).
pub trait Owners {
    /// What it takes to stop watching.
    type Watch: Send;

    /// Starts to watch. `None` when the owner is dead already; then there is nothing to undo.
    fn watch(&self, owner: Owner) -> Option<Self::Watch>;

    /// Stops watching, if the owner has not died meanwhile.
    fn unwatch(&self, watch: Self::Watch);

    /// Whether an owner that was watched still lives. Asked by picks, and only between
    /// [`Balancer::note_death`](crate::Balancer::note_death) and the end of the settling.
    fn is_alive(&self, owner: Owner) -> bool;
}

/// For balancers whose backends have no owners: everybody lives.
#[derive(Clone, Copy, Debug)]
pub struct Unowned;

impl Owners for Unowned {
    type Watch = ();

    fn watch(&self, _owner: Owner) -> Option<()> {
        Some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        true
    }
}

/// Whether a backend can be picked, as far as its user and its owner say; health has its say apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As its user says.
    Told(Condition),
    /// Its owner is dead. It stays listed, with what was counted for it, until it is removed or
    /// comes back with an owner that lives.
    Down,
}

/// What a user says of a backend, in gRPC's terms of connectivity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// It can be picked.
    #[default]
    Ready,
    /// Not yet.
    Connecting,
    /// Not now.
    TransientFailure,
    /// No more: it finishes the calls that it has.
    Draining,
}

/// What becomes of a backend whose owner dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOwnerDeath {
    /// It stays listed, as [`State::Down`].
    #[default]
    Keep,
    /// It is removed. One that is offered with a dead owner is not listed.
    Remove,
}

/// A backend in a snapshot.
#[derive(Clone)]
pub(crate) struct Row<T> {
    pub(crate) value: T,
    pub(crate) owner: Option<Owner>,
    pub(crate) entry: Arc<Entry>,
}

/// What outlives snapshots: shared by all of them that list the backend, and by the calls that it
/// has in flight.
pub(crate) struct Entry {
    /// Which member it is.
    pub(crate) key: u32,
    /// Where the backend stands in a shuffled list; drawn once, so that a reconcile moves nobody
    /// who stays.
    pub(crate) place: u32,
    /// Picks that nothing else tells of. With a policy that has a cursor: those through snapshots
    /// that are freed, and what has to be added to the turns or taken off for picks that passed a
    /// backend over. With others: calls that were cancelled.
    pub(crate) picks: AtomicU64,
    pub(crate) load: Load,
    pub(crate) shared: Arc<Shared>,
}

impl Entry {
    pub(crate) fn new(key: u32, place: u32, shared: &Arc<Shared>, now: Time) -> Self {
        let reports = shared.config.policy.reported_weights().is_some();
        Entry {
            key,
            place,
            picks: AtomicU64::new(0),
            load: Load::new(&shared.measuring, reports, now),
            shared: Arc::clone(shared),
        }
    }

    /// Counts a call as in flight, unless there are too many.
    #[inline]
    pub(crate) fn begin(&self) -> bool {
        let max = self.shared.config.max_requests_per_backend;
        self.load.in_flight.try_enter(max)
    }

    /// Counts the end of such a call.
    #[inline]
    pub(crate) fn end(&self, outcome: Outcome, took: Duration, now: Time) {
        let shared = &*self.shared;
        if shared.config.max_requests.is_some() {
            shared.in_flight.leave();
        }
        let failed = self.load.end(outcome, took, now, &shared.measuring);
        if outcome == Outcome::Cancelled && !shared.config.policy.counts_picks() {
            // Relaxed: a count.
            self.picks.fetch_add(1, Ordering::Relaxed);
        }
        if failed > 0 {
            let detection = shared.config.outlier_detection.as_ref();
            let too_many = detection.and_then(|config| config.consecutive_failures);
            // Once a row: until somebody looks, more of them say nothing new.
            if too_many.is_some_and(|too_many| failed == too_many.get()) {
                shared.hurry();
            }
        }
    }

    /// Takes a load report into account, if the policy wants it.
    pub(crate) fn on_report(&self, report: LoadReport, source: Source, now: Time) {
        let decoded;
        let report = match report {
            LoadReport::Decoded(report) => report,
            LoadReport::Bytes(bytes) => match Report::decode(bytes) {
                Some(report) => {
                    decoded = report;
                    &decoded
                }
                None => return self.shared.count_malformed_report(),
            },
        };
        let config = self.shared.config.policy.reported_weights();
        if let (Some(config), Some(reported)) = (config, &self.load.reported) {
            // A58: where reports come out of band, those of calls are ignored.
            if source == Source::OutOfBand || config.source == Source::PerCall {
                reported.on_report(report, now, config);
            }
        }
    }
}
