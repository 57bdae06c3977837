//! Drains: who waits until the calls have ended that backends were given before they left.
//!
//! What is counted for a backend belongs to its id, and so do its calls in flight, also those of what
//! its value was before. A drain begins a [generation](Generation) of calls: those in flight are of
//! earlier ones, and those of rows that are made after it are of this one. So each call knows, when it
//! ends and sees a later generation than its own, that somebody may wait for it; and all others look
//! at nothing more than the word that they write anyway.

use once_cell::race::OnceBox;
use triomphe::Arc;

use crate::backend::Owner;
use crate::load::cohorts::Generation;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

/// A wait for the calls of one backend or of several.
pub(crate) struct Drain {
    /// Calls that have not ended, and one more until it is [released](Drain::release).
    calls: AtomicU64,
    told: AtomicBool,
    who: Owner,
    number: u64,
}

impl Drain {
    /// A wait by this process. The number is for it to know the wait by.
    pub(crate) fn new(who: Owner, number: u64) -> Arc<Self> {
        Arc::new(Drain {
            calls: AtomicU64::new(1),
            told: AtomicBool::new(false),
            who,
            number,
        })
    }

    fn add(&self, calls: u32) {
        // Relaxed: a count, which `end` orders.
        self.calls.fetch_add(calls.into(), Ordering::Relaxed);
    }

    /// Counts the end of a call. Whether it was the last.
    fn end(&self) -> bool {
        // AcqRel: what came before the end of each call comes before the last end.
        self.calls.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// No call more is given to what is waited for: its number, if calls are left, and `who` is told
    /// then.
    pub(crate) fn release(&self) -> Option<u64> {
        let is_over = self.end();
        let told = is_over && self.is_to_be_told();
        (!told).then_some(self.number)
    }

    /// By which `who` knows it.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    fn is_over(&self) -> bool {
        // Acquire: pairs with `end`.
        self.calls.load(Ordering::Acquire) == 0
    }

    /// Whether somebody was told. Who has ended one has yet to tell of it.
    fn is_told(&self) -> bool {
        // Relaxed: see below.
        self.told.load(Ordering::Relaxed)
    }

    /// Whether nobody was told yet, the first time that it is asked.
    fn is_to_be_told(&self) -> bool {
        // Relaxed: one swap among all finds it false, and nothing is handed over by it.
        !self.told.swap(true, Ordering::Relaxed)
    }
}

/// Waits for the calls of one backend, each from a generation on. Most backends never have one.
#[derive(Default)]
pub(crate) struct Drains(OnceBox<Waits>);

struct Waits {
    /// Each for the calls that began before a generation.
    open: Mutex<Vec<(Generation, Arc<Drain>)>>,
    /// Calls that ended well in a later generation than their own.
    late_successes: AtomicU64,
}

impl Waits {
    fn new() -> Self {
        Waits {
            open: Mutex::new(Vec::new()),
            late_successes: AtomicU64::new(0),
        }
    }
}

/// A generation is known by its number for so long.
const MOST: usize = 64;

impl Drains {
    /// Waits for all calls before the generation that `begin` begins, which says how many are in
    /// flight.
    pub(crate) fn begin(&self, drain: &Arc<Drain>, begin: impl FnOnce() -> (Generation, u32)) {
        let mut waits = self.0.get_or_init(|| Box::new(Waits::new())).open.lock();
        waits.retain(|(_, drain)| !drain.is_told());
        if waits.len() == MOST {
            // There are calls that are older than all of them. This one waits for good.
            return drain.add(1);
        }
        // Under the lock: who ends and sees the generation finds the wait.
        let (generation, calls) = begin();
        drain.add(calls);
        waits.push((generation, Arc::clone(drain)));
    }

    /// Counts a call of an earlier generation than the latest, which has just begun.
    pub(crate) fn on_late_begin(&self, of: Generation, latest: Generation) {
        self.each_between(of, latest, |drain| drain.add(1));
    }

    /// Counts the end of such a call. Whether it was the last that somebody waits for.
    pub(crate) fn on_late_end(&self, of: Generation, latest: Generation) -> bool {
        let mut last = false;
        self.each_between(of, latest, |drain| last |= drain.end());
        last
    }

    /// Counts that such a call has ended well.
    pub(crate) fn on_late_success(&self) {
        if let Some(waits) = self.0.get() {
            // Relaxed: a count.
            waits.late_successes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many such calls have ended well.
    pub(crate) fn late_successes(&self) -> u64 {
        // Relaxed: a count.
        let late = |waits: &Waits| waits.late_successes.load(Ordering::Relaxed);
        self.0.get().map_or(0, late)
    }

    /// Those that wait for a call of one generation, as far as they had begun in another.
    fn each_between(&self, of: Generation, latest: Generation, mut found: impl FnMut(&Drain)) {
        let Some(waits) = self.0.get() else { return };
        for (generation, drain) in waits.open.lock().iter() {
            if generation.behind(latest) < of.behind(latest) {
                found(drain);
            }
        }
    }

    /// Ends the waits that are over, and tells who waited.
    pub(crate) fn tell(&self, mut tell: impl FnMut(Owner, u64)) {
        let Some(waits) = self.0.get() else { return };
        waits.open.lock().retain(|(_, drain)| {
            let is_over = drain.is_over();
            if is_over && drain.is_to_be_told() {
                tell(drain.who, drain.number);
            }
            !is_over
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::num::NonZeroU64;

    use super::*;
    use crate::load::cohorts::{Cohort, Cohorts};
    use crate::time::Time;

    /// A backend's calls and the waits for them.
    #[derive(Default)]
    struct Calls {
        counts: Cohorts,
        drains: Drains,
    }

    impl Calls {
        fn drain(&self, number: u64) -> Option<u64> {
            let drain = Drain::new(Owner(NonZeroU64::MIN), number);
            self.drains.begin(&drain, || self.counts.begin_generation());
            drain.release()
        }

        /// Begins a call on a row of that generation.
        fn begin(&self, of: Generation) -> Cohort {
            let (joined, _) = self.counts.join(Time(0), None).unwrap();
            if joined.generation() != of {
                self.drains.on_late_begin(of, joined.generation());
            }
            joined.of_generation(of)
        }

        /// Ends a call. Which waits are over then.
        fn end(&self, call: Cohort) -> Vec<u64> {
            let mut told = Vec::new();
            let (of, latest) = (call.generation(), self.counts.leave(call));
            if of != latest && self.drains.on_late_end(of, latest) {
                self.drains.tell(|_, number| told.push(number));
            }
            told
        }
    }

    #[test]
    fn a_wait_is_for_the_calls_before_it() {
        let calls = Calls::default();
        assert_eq!(calls.drain(1), None);
        let old = calls.counts.generation();
        let [first, second] = [(); 2].map(|()| calls.begin(old));
        assert_eq!(calls.drain(2), Some(2));
        let new = calls.counts.generation();
        // On a row of before, which somebody had in hand.
        let late = calls.begin(old);
        let later = calls.begin(new);
        assert_eq!(calls.end(first), []);
        assert_eq!(calls.end(late), []);
        assert_eq!(calls.drain(3), Some(3));
        assert_eq!(calls.end(second), [2]);
        assert_eq!(calls.end(calls.begin(calls.counts.generation())), []);
        assert_eq!(calls.end(later), [3]);
        assert_eq!(calls.drain(4), None);
    }

    /// Against a list of all calls, with many more generations than there are numbers for.
    #[test]
    fn a_wait_is_over_when_the_last_of_its_calls_has_ended() {
        let mut random = fastrand::Rng::with_seed(5);
        let calls = Calls::default();
        // The calls in flight, with the generations that wait for them; and what waits.
        let mut in_flight: Vec<(Cohort, u64)> = Vec::new();
        let (mut number, mut waiting) = (0, Vec::new());
        for _ in 0..100_000 {
            match random.u32(0..30) {
                0 => {
                    number += 1;
                    let waits = calls.drain(number);
                    assert_eq!(waits.is_some(), !in_flight.is_empty());
                    waiting.extend(waits);
                }
                1..16 if in_flight.len() < 30 => {
                    in_flight.push((calls.begin(calls.counts.generation()), number));
                }
                _ if in_flight.is_empty() => {}
                _ => {
                    let (call, _) = in_flight.swap_remove(random.usize(..in_flight.len()));
                    let mut told = calls.end(call);
                    told.sort_unstable();
                    let is_over = |wait: &u64| in_flight.iter().all(|(_, at)| at >= wait);
                    let over: Vec<u64> = waiting.iter().copied().filter(is_over).collect();
                    waiting.retain(|wait| !is_over(wait));
                    assert_eq!(told, over);
                }
            }
        }
        assert!(number > 1_000);
    }

    #[test]
    fn who_ends_one_tells_it_though_another_begins_in_between() {
        let calls = Calls::default();
        let call = calls.begin(calls.counts.generation());
        assert_eq!(calls.drain(1), Some(1));
        let (of, latest) = (call.generation(), calls.counts.leave(call));
        assert!(calls.drains.on_late_end(of, latest));
        assert_eq!(calls.drain(2), None);
        let mut told = Vec::new();
        calls.drains.tell(|_, number| told.push(number));
        assert_eq!(told, [1]);
    }

    #[test]
    fn one_too_many_waits_for_good() {
        let calls = Calls::default();
        let call = calls.begin(calls.counts.generation());
        for number in 0..MOST as u64 {
            assert_eq!(calls.drain(number), Some(number));
        }
        assert_eq!(calls.drain(1_000), Some(1_000));
        let told: Vec<u64> = (0..MOST as u64).collect();
        assert_eq!(calls.end(call), told);
        assert_eq!(calls.drain(1), None);
    }
}
