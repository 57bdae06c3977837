//! The balancer as a reference.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

use grpc_lb_core::{Draws, Info, Owner, Summary};
use rustler::{Env, Term};

use crate::alarm::wake_at;
use crate::clock::Clock;
use crate::error::kind;
use crate::events::About;
use crate::line::tell_of_event;
use crate::registry::{Listed, Listing};
use crate::timed::Driven;
use crate::value::{Core, Value, LARGE};
use crate::view::{sum_up, Look, View};
use crate::vm::dispatch::own_object;
use crate::vm::owner::Monitors;
use crate::vm::resource::hand_over_with;
use crate::vm::worker::hand_over;
use crate::vm::{Object, Resource, ResourceType};

/// The words that are freed in some tenths of a millisecond.
const WORDS: usize = 1 << 16;

/// The core's balancer, what it is given to work with, and whether its clock drives it.
pub(crate) struct Balancer {
    /// Counted, so that who drives it finds it alive, or not.
    core: Arc<Core>,
    clock: Clock,
    /// Where random choices come from, if they are to repeat.
    draws: Option<Draws>,
    adopted: AtomicBool,
    listing: Listing,
    /// The words that the largest id or value may take that it has, binaries and all.
    largest: AtomicUsize,
}

impl Balancer {
    pub(crate) fn new(
        core: Core,
        clock: Clock,
        name: Option<Value>,
        owner: Option<Owner>,
        draws: Option<Draws>,
        interns: bool,
    ) -> Self {
        let core = Arc::new(core);
        let listing = Listing::new(&core, clock.clone(), name, owner, interns);
        Balancer {
            core,
            clock,
            draws,
            adopted: AtomicBool::new(false),
            listing,
            largest: AtomicUsize::new(0),
        }
    }

    /// What is told of it beside what it has decided.
    pub(crate) fn about(&self) -> &Arc<About> {
        &self.listing.listed().about
    }

    /// Has people find it from now on.
    pub(crate) fn show(&self) {
        self.listing.show();
    }

    /// Where random choices come from, if they are to repeat.
    #[inline]
    pub(crate) fn draws(&self) -> Option<&Draws> {
        self.draws.as_ref()
    }

    /// What tells it the time.
    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// An id or a value that takes so many words, binaries and all, may become one of its own.
    pub(crate) fn note_size(&self, words: usize) {
        // Relaxed: who compares something with it has the lock under which it was taken in.
        self.largest.fetch_max(words, Ordering::Relaxed);
    }

    /// So many words may the largest of its ids and values take.
    pub(crate) fn largest(&self) -> usize {
        // Relaxed: see `note_size`.
        self.largest.load(Ordering::Relaxed)
    }

    /// Whether it takes longer than a normal scheduler has to free so many of its ids and values, each of
    /// which may be as large as the largest.
    pub(crate) fn is_much(&self, values: usize) -> bool {
        values > LARGE || values.saturating_mul(self.largest()) > WORDS
    }

    /// What its clock is to know of it, the first time that it is asked for.
    pub(crate) fn adopt(&self) -> Option<Driven> {
        // Relaxed: only one caller sees `false`, and it publishes nothing.
        let adopted = self.adopted.swap(true, Ordering::Relaxed);
        (!adopted).then(|| Driven {
            core: Arc::downgrade(&self.core),
            about: Arc::downgrade(self.about()),
        })
    }
}

impl Deref for Balancer {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        &self.core
    }
}

impl Look for Balancer {
    fn listed(&self) -> &Listed {
        self.listing.listed()
    }

    fn sum_up(&self) -> (Summary, bool) {
        sum_up(&self.core)
    }

    fn info(object: &Object<Self>, env: Env) -> Info<Value> {
        object.core.info(&Monitors::new(env, object))
    }
}

static TYPE: ResourceType<Balancer> = ResourceType::new(c"grpc_lb_balancer");

impl Resource for Balancer {
    const EXPECTED: &'static str =
        "a balancer: expected the reference that GrpcLb.new/3 returned on this node";

    #[inline]
    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }

    fn kind(term: Term) -> &'static str {
        match own_object::<View>(term) {
            Some(_) => "a view of one, by which it can be looked at alone",
            None if term.is_atom() => {
                "an atom; a pool is called by name with GrpcLb.Pool, and \
                 GrpcLb.Connection.handle!/1 finds a connection by name"
            }
            None if term.is_binary() => {
                "a binary; GrpcLb.Connection.handle!/1 finds a connection by name"
            }
            None if term.is_map() => {
                "a map; a handle of GrpcLb.Connection has its balancer in the field :balancer"
            }
            None => kind(term),
        }
    }

    fn destroy(self, _env: Env) {
        if self.is_much(self.summary().backends) {
            hand_over(move || drop(self));
        }
    }

    fn owner_died(object: &Object<Self>, owner: Owner, monitors: &Monitors<Self>) {
        // One removal is for all who are noted as dead before it begins, so that a thousand deaths
        // at once do not build a large list a thousand times.
        if object.note_death(owner) {
            remove_dead(object, monitors);
        }
    }
}

/// Acts on the deaths of owners that were noted: here, or on the library's thread where that takes longer than
/// a normal scheduler has.
pub(crate) fn remove_dead(object: &Object<Balancer>, monitors: &Monitors<Balancer>) {
    let remove = |object: &Object<Balancer>, monitors: &Monitors<Balancer>| {
        object.remove_dead(monitors);
        tell_of_event(&object.core);
        if let (Clock::System, Some(due)) = (object.clock(), object.due()) {
            wake_at(due, |name, message| monitors.notify(name, message));
        }
    };
    if object.is_much(object.summary().backends) || object.hashes() {
        hand_over_with(object, remove);
    } else {
        remove(object, monitors);
    }
}
