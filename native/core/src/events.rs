//! What a balancer has decided, kept until somebody asks for it.

use std::time::Duration;

use crate::health::ejection::Cause;

/// Something that a balancer has decided, or found, without being asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<T> {
    /// A backend is left out.
    Ejected {
        /// Which.
        id: T,
        /// Why.
        cause: Cause,
        /// How long it lasts, at least.
        lasts: Duration,
    },
    /// A backend that was ejected is not any more.
    Unejected {
        /// Which.
        id: T,
        /// How long it was.
        lasted: Duration,
    },
    /// A backend has become healthy, and has its whole weight after a while only.
    SlowStart {
        /// Which.
        id: T,
        /// How long it takes.
        lasts: Duration,
    },
    /// A backend in slow start has its whole weight.
    Warm {
        /// Which.
        id: T,
    },
    /// A backend has left the list because its owner has died.
    Died {
        /// Which.
        id: T,
    },
    /// So few backends are healthy that others are picked, too; or enough are again.
    Panic {
        /// Of which priority, if each is judged for itself.
        priority: Option<u32>,
        /// Whether it begins.
        begins: bool,
        /// How many are healthy.
        healthy: u32,
        /// Of how many.
        counted: u32,
    },
    /// Checkouts found no room under the limits.
    Overloaded {
        /// How many did since this was told last.
        refused: u64,
    },
}

/// Events that nobody has asked for yet, the oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Events<T> {
    /// As many as are kept.
    pub events: Vec<Event<T>>,
    /// How many came after these, and were not kept.
    pub lost: u64,
}

impl<T> Default for Events<T> {
    fn default() -> Self {
        Events {
            events: Vec::new(),
            lost: 0,
        }
    }
}

impl<T> Events<T> {
    /// So many are kept: a change of a long list can lead to one for each backend.
    pub const MOST: usize = 64;

    /// Whether there was nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(crate) fn push(&mut self, event: Event<T>) {
        match self.events.len() < Self::MOST {
            true => self.events.push(event),
            false => self.lost += 1,
        }
    }
}
