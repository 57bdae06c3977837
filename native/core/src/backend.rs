//! What a backend is to those who offer it, and what is kept of it.

use std::hash::Hash;
use std::num::NonZeroU64;
use std::sync::Arc;

use hashbrown::Equivalent;

use crate::members::MemberKey;
use crate::sync::AtomicU64;

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

/// Whether a backend can be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It can.
    Ready,
    /// Its owner is dead. It stays listed, with what was counted for it, until it is removed or
    /// comes back with an owner that lives.
    Down,
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
    /// Its place in the list: the lower, the earlier.
    pub(crate) rank: u64,
    pub(crate) entry: Arc<Entry>,
}

/// What outlives snapshots: shared by all of them that list the backend.
pub(crate) struct Entry {
    /// Which member it is.
    pub(crate) key: MemberKey,
    /// Where the backend stands in a shuffled list; drawn once, so that a reconcile moves nobody
    /// who stays.
    pub(crate) place: u64,
    /// Picks through snapshots that are freed; those of the others are still in their cursors. And
    /// what has to be added to the turns or taken off, for picks that passed a dead backend over.
    pub(crate) picks: AtomicU64,
}

impl Entry {
    pub(crate) fn new(key: MemberKey, place: u64) -> Self {
        Entry {
            key,
            place,
            picks: AtomicU64::new(0),
        }
    }
}
