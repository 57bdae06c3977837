//! Line of those who wait for room, in the order in which they came.
//!
//! Only the first in line may try to get in. It tries when it becomes the first, and whenever it is
//! told of room; and it stays the first until it gets in or gives up, so that nobody overtakes it.
//! Who makes room looks at one word, and takes the lock only where somebody waits.

use std::collections::BTreeMap;

use crate::backend::Owner;
use crate::sync::{fence, seq_cst_access, AtomicUsize, Mutex, Ordering};

pub(crate) struct Line {
    /// How many wait. Written under the lock.
    waiting: AtomicUsize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// Who waits, by their numbers: the lower, the earlier.
    waiting: BTreeMap<u64, Owner>,
    last: u64,
    /// Whether the first was told of room and has not tried since.
    told: bool,
}

impl Line {
    pub(crate) fn new() -> Self {
        Line {
            waiting: AtomicUsize::new(0),
            places: Mutex::new(Places::default()),
        }
    }

    /// Whether nobody waits, for those who come and would overtake.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed: who joined just now may be overtaken by who comes just now.
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Whether somebody waits, for those who have made room by a SeqCst read-modify-write: such as
    /// [`InFlight::leave`](crate::limit::InFlight::leave).
    #[inline]
    pub(crate) fn awaits_room(&self) -> bool {
        seq_cst_access();
        // SeqCst: pairs with the fence in `join`. Either this sees who waits, or the room that was
        // made is seen by the try that follows the join.
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// As `awaits_room`, for those who have made room in any way.
    pub(crate) fn awaits_change(&self) -> bool {
        // SeqCst: pairs with the fence in `join`, as above.
        fence(Ordering::SeqCst);
        // Relaxed: the fence orders it.
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Takes a place at the end. Who has it must try once, and whenever it is told.
    pub(crate) fn join(&self, who: Owner) -> u64 {
        let mut places = self.places.lock();
        places.last += 1;
        let place = places.last;
        places.waiting.insert(place, who);
        // SeqCst: see `awaits_room`.
        self.waiting.store(places.waiting.len(), Ordering::SeqCst);
        drop(places);
        // SeqCst: pairs with `awaits_room` and `awaits_change`.
        fence(Ordering::SeqCst);
        place
    }

    /// Whether this is the first in line, who may try now: room that is made from now on is told
    /// again.
    pub(crate) fn begin_try(&self, place: u64) -> bool {
        let mut places = self.places.lock();
        let is_first = places.is_first(place);
        if is_first {
            places.told = false;
        }
        is_first
    }

    /// Gives a place up, if it is still held. If it was the first, the next one is told that it is.
    pub(crate) fn leave(&self, place: u64, tell: impl FnOnce(Owner, u64)) {
        let mut places = self.places.lock();
        let was_first = places.is_first(place);
        if places.waiting.remove(&place).is_none() {
            return;
        }
        // Relaxed: who still sees it takes the lock for nothing.
        self.waiting.store(places.waiting.len(), Ordering::Relaxed);
        if was_first {
            places.told = false;
            places.tell_first(tell);
        }
    }

    /// Tells the first in line that there may be room, unless it was told and has not tried since.
    /// `tell` runs under the lock, so that nobody is told who has left.
    #[cold]
    pub(crate) fn tell_first(&self, tell: impl FnOnce(Owner, u64)) {
        self.places.lock().tell_first(tell);
    }
}

impl Places {
    fn is_first(&self, place: u64) -> bool {
        let first = self.waiting.first_key_value();
        first.is_some_and(|(first, _)| *first == place)
    }

    fn tell_first(&mut self, tell: impl FnOnce(Owner, u64)) {
        if self.told {
            return;
        }
        if let Some((place, who)) = self.waiting.first_key_value() {
            tell(*who, *place);
            self.told = true;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    fn who(name: u64) -> Owner {
        Owner(NonZeroU64::new(name).unwrap())
    }

    /// Who is told by this.
    fn told(tell: impl FnOnce(&mut dyn FnMut(Owner, u64))) -> Option<u64> {
        let mut told = None;
        tell(&mut |who, _place| told = Some(who.0.get()));
        told
    }

    #[test]
    fn the_first_is_told_once_until_it_tries() {
        let line = Line::new();
        assert!(line.is_empty() && !line.awaits_room() && !line.awaits_change());
        let [first, second] = [7, 8].map(|name| line.join(who(name)));
        assert!(!line.is_empty() && line.awaits_room() && line.awaits_change());
        assert_eq!(told(|tell| line.tell_first(tell)), Some(7));
        assert_eq!(told(|tell| line.tell_first(tell)), None);
        assert!(!line.begin_try(second));
        assert_eq!(told(|tell| line.tell_first(tell)), None);
        assert!(line.begin_try(first));
        assert_eq!(told(|tell| line.tell_first(tell)), Some(7));
    }

    #[test]
    fn who_becomes_the_first_is_told() {
        let line = Line::new();
        let [first, second, third] = [7, 8, 9].map(|name| line.join(who(name)));
        assert_eq!(told(|tell| line.leave(second, tell)), None);
        assert_eq!(told(|tell| line.tell_first(tell)), Some(7));
        assert_eq!(told(|tell| line.leave(first, tell)), Some(9));
        assert_eq!(told(|tell| line.leave(first, tell)), None);
        assert!(line.begin_try(third));
        assert_eq!(told(|tell| line.leave(third, tell)), None);
        assert!(line.is_empty());
    }
}
