//! Backends, their states and their owners: the words that users and the core share.

use std::hash::Hash;
use std::num::NonZeroU64;

use hashbrown::Equivalent;
use triomphe::ThinArc;

/// A backend's text among the entries of a policy that hashes: what is hashed to find its places.
pub type HashKey = ThinArc<(), u8>;

/// A backend as it is offered to [`Balancer::reconcile`](crate::Balancer::reconcile).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend<O> {
    /// Its identity. Unique within a list; what was counted for an id stays with it.
    pub id: O,
    /// What a pick returns.
    pub value: O,
    /// The process whose death takes it out of the rotation.
    pub owner: Option<Owner>,
    /// Its share beside the others, for the policies that weigh. With any policy a backend of weight 0
    /// is not picked as long as another can be; where there are only such, they weigh alike.
    pub weight: u32,
    /// Its state from now on. `None` keeps what was said of its id before; a new one is ready.
    pub state: Option<State>,
    /// The lower, the earlier: the backends of one priority stand back as long as those of an earlier
    /// one can be picked. See
    /// [`Config::overprovisioning_factor`](crate::Config::overprovisioning_factor).
    pub priority: u32,
    /// Where it is. The localities of one priority share its picks by
    /// [weight](crate::Config::locality_weights). Those without are one locality, too.
    pub locality: Option<Box<str>>,
    /// Its text among the entries of a policy that hashes, which needs it.
    pub hash_key: Option<HashKey>,
}

impl<O> Backend<O> {
    /// A backend of weight 1 that nobody owns and whose state is not said.
    pub fn new(id: O, value: O) -> Self {
        Backend {
            id,
            value,
            owner: None,
            weight: 1,
            state: None,
            priority: 0,
            locality: None,
            hash_key: None,
        }
    }

    /// The same, with a text for the policies that hash.
    #[must_use]
    pub fn keyed(self, text: impl AsRef<[u8]>) -> Self {
        Backend {
            hash_key: Some(HashKey::from_header_and_slice((), text.as_ref())),
            ..self
        }
    }
}

/// Something that can become a `T`: compared with those that are held already, and converted only
/// where it is new.
///
/// Its `Hash` must agree with that of `T`, as [`Equivalent`] demands.
pub trait Offer<T>: Eq + Hash + Equivalent<T> {
    /// Makes the id and the value that will be kept of a backend, and dropped together.
    fn own(id: &Self, value: &Self) -> (T, T);
}

impl<T: Clone + Eq + Hash> Offer<T> for T {
    fn own(id: &Self, value: &Self) -> (T, T) {
        (id.clone(), value.clone())
    }
}

/// Names a process that owns backends. The core only compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner(pub NonZeroU64);

/// Watches owners, and calls [`Balancer::note_death`](crate::Balancer::note_death) when one dies.
pub trait Owners {
    /// A handle of one watch, to end it with.
    type Watch: Send;

    /// Starts to watch. `None`, and nothing to undo, when the owner is dead already.
    fn watch(&self, owner: Owner) -> Option<Self::Watch>;

    /// Stops watching, if the owner has not died meanwhile.
    fn unwatch(&self, watch: Self::Watch);

    /// Whether an owner that was watched still lives. Picks ask, and only after
    /// [`Balancer::note_death`](crate::Balancer::note_death) and until
    /// [`Balancer::remove_dead`](crate::Balancer::remove_dead) returns.
    fn is_alive(&self, owner: Owner) -> bool;
}

/// For backends without owners: everybody lives.
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

/// The connectivity state of a backend, in gRPC's terms, as its user says. A new one is ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
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
    /// It stays listed with what was counted for it, and is not picked until it is offered with an
    /// owner that lives.
    #[default]
    Keep,
    /// It is removed. One that is offered with a dead owner is not listed.
    Remove,
}
