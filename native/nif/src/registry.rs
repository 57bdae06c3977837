//! The balancers of this build that live, for people to look at. Nothing in here keeps one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use grpc_lb_core::Owner;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::events::About;
use crate::value::{Core, Value};

/// What is known of a balancer without a hold of it.
pub(crate) struct Listed {
    pub(crate) about: Arc<About>,
    pub(crate) policy: &'static str,
    /// The process whose death closes it.
    pub(crate) owner: Option<Owner>,
    pub(crate) clock: Clock,
    /// Whether values are to come interned. Those that do not are copied.
    pub(crate) interns: bool,
    pub(crate) core: Weak<Core>,
    /// Whether it has its first list: nobody is shown one that is being made, and may be refused.
    made: AtomicBool,
}

/// A balancer's place in the registry, which it has for as long as this lives.
pub(crate) struct Listing {
    listed: Arc<Listed>,
    slot: usize,
}

impl Listing {
    pub(crate) fn new(
        core: &Arc<Core>,
        clock: Clock,
        name: Option<Value>,
        owner: Option<Owner>,
        interns: bool,
    ) -> Self {
        // Relaxed: numbers order nothing.
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let listed = Arc::new(Listed {
            about: Arc::new(About::new(number, name)),
            policy: core.summary().policy,
            owner,
            clock,
            interns,
            core: Arc::downgrade(core),
            made: AtomicBool::new(false),
        });
        let slot = shelf(number).lock().put(Arc::clone(&listed));
        Listing { listed, slot }
    }

    /// From now on it is found.
    pub(crate) fn show(&self) {
        // Release: pairs with the Acquire in `some`, so that who finds it sees its first list.
        self.listed.made.store(true, Ordering::Release);
    }

    pub(crate) fn listed(&self) -> &Listed {
        &self.listed
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        // It is dropped here once the lock is open again.
        let _listed = shelf(self.listed.about.number).lock().take(self.slot);
    }
}

/// All that are listed, in the order in which they were made.
pub(crate) fn all() -> Vec<Arc<Listed>> {
    let mut all: Vec<Arc<Listed>> = Vec::new();
    for shelf in &SHELVES {
        let mut from = 0;
        while let Some(some) = shelf.lock().some(from) {
            from += AT_A_TIME;
            all.extend(some);
        }
    }
    all.sort_unstable_by_key(|listed| listed.about.number);
    all
}

/// The one with this number, if it lives.
pub(crate) fn find(number: u64) -> Option<Arc<Listed>> {
    let mut from = 0;
    while let Some(some) = shelf(number).lock().some(from) {
        from += AT_A_TIME;
        let found = some
            .into_iter()
            .find(|listed| listed.about.number == number);
        if found.is_some() {
            return found;
        }
    }
    None
}

static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// Many, since balancers are made and dropped by many processes at once, and dropped on normal
/// schedulers.
static SHELVES: [Mutex<Shelf>; 16] = [const { Mutex::new(Shelf::new()) }; 16];

fn shelf(number: u64) -> &'static Mutex<Shelf> {
    &SHELVES[number as usize % SHELVES.len()]
}

/// So many slots are looked at under a lock: a scheduler that waits for it waits some microseconds.
const AT_A_TIME: usize = 256;

/// Slots that do not move, so that who is in one finds it again.
struct Shelf {
    slots: Vec<Slot>,
    /// The first of those that are free.
    free: Option<usize>,
    taken: usize,
}

enum Slot {
    Taken(Arc<Listed>),
    Free { next: Option<usize> },
}

impl Shelf {
    const fn new() -> Self {
        Shelf {
            slots: Vec::new(),
            free: None,
            taken: 0,
        }
    }

    fn put(&mut self, listed: Arc<Listed>) -> usize {
        self.taken += 1;
        let taken = Slot::Taken(listed);
        let Some(slot) = self.free else {
            self.slots.push(taken);
            return self.slots.len() - 1;
        };
        if let Slot::Free { next } = std::mem::replace(&mut self.slots[slot], taken) {
            self.free = next;
        }
        slot
    }

    fn take(&mut self, slot: usize) -> Slot {
        let free = Slot::Free { next: self.free };
        let taken = std::mem::replace(&mut self.slots[slot], free);
        self.free = Some(slot);
        self.taken -= 1;
        if self.taken == 0 {
            *self = Shelf::new();
        }
        taken
    }

    /// Those in some slots from this one on; `None` past the last.
    fn some(&self, from: usize) -> Option<Vec<Arc<Listed>>> {
        let slots = self.slots.get(from..).filter(|slots| !slots.is_empty())?;
        let taken = slots.iter().take(AT_A_TIME).filter_map(|slot| match slot {
            // Acquire: see `Listing::show`.
            Slot::Taken(listed) if listed.made.load(Ordering::Acquire) => Some(Arc::clone(listed)),
            Slot::Taken(_) | Slot::Free { .. } => None,
        });
        Some(taken.collect())
    }
}
