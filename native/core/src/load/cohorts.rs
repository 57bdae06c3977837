//! How many calls are in flight, and how old the oldest is: with no list of them, and no lock.

use crate::sync::{AtomicU64, Ordering};
use crate::time::Time;

/// Calls in flight, in two cohorts by when they began. New ones join the younger cohort; when the older
/// one has ended, the younger takes its place and an empty one is joined. So the age of the oldest is
/// known by when its cohort was last joined: never more than it is, and less by no more than those
/// took that began before it, and a millisecond.
///
/// ```
/// use grpc_lb_core::testing::Cohorts;
/// use grpc_lb_core::Time;
///
/// let (calls, at) = (Cohorts::new(), |ms: u64| Time(ms * 1_000_000));
/// let (slow, before) = calls.join(at(0), None).unwrap();
/// assert_eq!(before, None);
/// for ms in 1..50 {
///     let (quick, before) = calls.join(at(ms), Some(2)).unwrap();
///     assert_eq!(before, Some(at(0)));
///     calls.leave(quick);
/// }
/// assert_eq!(calls.oldest(), Some(at(0)));
/// assert_eq!(calls.join(at(50), Some(1)), None);
/// assert_eq!(calls.count(), 1);
/// calls.leave(slow);
/// assert_eq!(calls.oldest(), None);
/// ```
///
/// A generation is begun where calls from then on are to be told from those before:
///
/// ```
/// # use grpc_lb_core::testing::Cohorts;
/// # use grpc_lb_core::Time;
/// let calls = Cohorts::new();
/// let (first, _) = calls.join(Time(0), None).unwrap();
/// assert_eq!(calls.leave(first), first.generation());
///
/// let (second, _) = calls.join(Time(0), None).unwrap();
/// let (generation, before) = calls.begin_generation();
/// assert_eq!((before, second.generation().behind(generation)), (1, 1));
/// assert_eq!(calls.leave(second), generation);
/// ```
#[derive(Debug, Default)]
pub struct Cohorts {
    /// Which cohort is joined, the highest bit; the generation, 7 bits; and how many are in each
    /// cohort, 28 bits. In one word, so that who joins learns whether that was still the younger
    /// one, and who joins or leaves whether a generation had begun.
    counts: AtomicU64,
    /// When the older cohort was last joined, at the latest.
    turned: AtomicU64,
    /// When the younger one was last joined.
    joined: AtomicU64,
}

/// Which cohort a call is in, and of which generation it is.
///
/// As the highest byte of the word of counts has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cohort(u8);

const SECOND: u8 = (JOINS_SECOND >> GENERATION_SHIFT) as u8;

/// Numbers generations, and comes round after 128 of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u8);

const JOINS_SECOND: u64 = 1 << 63;
const GENERATION_SHIFT: u32 = 56;
const GENERATIONS: u64 = 0x7F;
const SIZE_BITS: u32 = 28;
const SIZE: u64 = (1 << SIZE_BITS) - 1;

/// At least so many nanoseconds are between two turns, which write one word more.
const TURN: u64 = 1_000_000;

impl Generation {
    #[inline]
    fn of(counts: u64) -> Self {
        Generation((counts >> GENERATION_SHIFT & GENERATIONS) as u8)
    }

    /// How many began after this one, up to that: right for fewer than 128.
    pub fn behind(self, latest: Generation) -> u8 {
        latest.0.wrapping_sub(self.0) & GENERATIONS as u8
    }
}

impl Cohort {
    #[inline]
    fn joined(counts: u64) -> Self {
        Cohort((counts >> GENERATION_SHIFT) as u8)
    }

    /// To be kept with other things in one word.
    #[inline]
    pub(crate) fn to_bits(self) -> u8 {
        self.0
    }

    #[inline]
    pub(crate) fn from_bits(bits: u8) -> Self {
        Cohort(bits)
    }

    #[inline]
    fn is_second(self) -> bool {
        self.0 & SECOND != 0
    }

    /// Of which generation the call is: the one in which it began, if nothing else was said.
    #[inline]
    pub fn generation(self) -> Generation {
        Generation(self.0 & !SECOND)
    }

    /// As one of that generation.
    #[inline]
    pub(crate) fn of_generation(self, generation: Generation) -> Self {
        Cohort(self.0 & SECOND | generation.0)
    }

    #[inline]
    fn other(self) -> Self {
        Cohort(self.0 ^ SECOND)
    }

    /// One call in it, in the word of counts.
    #[inline]
    fn one(self) -> u64 {
        match self.is_second() {
            false => 1,
            true => 1 << SIZE_BITS,
        }
    }

    #[inline]
    fn size(self, counts: u64) -> u64 {
        match self.is_second() {
            false => counts & SIZE,
            true => counts >> SIZE_BITS & SIZE,
        }
    }
}

/// In both cohorts.
fn count(counts: u64) -> u64 {
    (counts & SIZE) + (counts >> SIZE_BITS & SIZE)
}

impl Cohorts {
    /// No call.
    pub fn new() -> Self {
        Cohorts::default()
    }

    /// Counts a call that begins now, unless `max` are in flight; `None` is no bound, and 0 lets none
    /// in. When the oldest of those before it began, if there are any: no later than that.
    #[inline]
    pub fn join(&self, now: Time, max: Option<u32>) -> Option<(Cohort, Option<Time>)> {
        // Relaxed: the count that follows tells whether this was outdated.
        let counts = self.counts.load(Ordering::Relaxed);
        let mut cohort = Cohort::joined(counts);
        if cohort.size(counts) > 0 && cohort.other().size(counts) == 0 {
            cohort = self.turn(cohort, counts, now);
        }
        // Acquire: see `turn`; and a call that enters because another has left comes after all that the
        // other did.
        let before = match max {
            None => self.counts.fetch_add(cohort.one(), Ordering::Acquire),
            Some(max) => {
                let enter = |counts| (count(counts) < max.into()).then(|| counts + cohort.one());
                let (new, full) = (Ordering::Acquire, Ordering::Relaxed);
                self.counts.fetch_update(new, full, enter).ok()?
            }
        };
        let joined = Cohort::joined(before);
        if joined.is_second() != cohort.is_second() {
            cohort = self.change(cohort);
        }
        let cohort = cohort.of_generation(joined.generation());
        let oldest = self.oldest_of(before);
        // Relaxed: see `oldest_of`.
        self.joined.store(now.0, Ordering::Relaxed);
        Some((cohort, oldest))
    }

    /// Counts the end of a call, once. Which generation was the latest then.
    #[inline]
    pub fn leave(&self, cohort: Cohort) -> Generation {
        // SeqCst: Release, see `join`, and what `Line::awaits_room` asks for.
        let counts = self.counts.fetch_sub(cohort.one(), Ordering::SeqCst);
        debug_assert!(cohort.size(counts) > 0, "only a call that joined leaves");
        Generation::of(counts)
    }

    /// Begins a generation. Which one, and how many calls were in flight: all that have not left
    /// before this learn of it when they do, and all that join after it when they join.
    pub fn begin_generation(&self) -> (Generation, u32) {
        let next = |counts: u64| {
            let generation = ((counts >> GENERATION_SHIFT) + 1) & GENERATIONS;
            counts & !(GENERATIONS << GENERATION_SHIFT) | generation << GENERATION_SHIFT
        };
        // Release: pairs with the acquiring changes of who joins and leaves, who look for the drain of a
        // generation that they see. Relaxed when it is tried again: nothing is read through it.
        let before = self
            .counts
            .fetch_update(Ordering::Release, Ordering::Relaxed, |counts| {
                Some(next(counts))
            });
        let (Ok(before) | Err(before)) = before;
        (Generation::of(next(before)), self::count(before) as u32)
    }

    /// The latest generation, for those who order themselves after its begin.
    pub fn generation(&self) -> Generation {
        // Relaxed: see above.
        Generation::of(self.counts.load(Ordering::Relaxed))
    }

    /// How many are in flight at the moment.
    #[inline]
    pub fn count(&self) -> u32 {
        // Relaxed: it may be outdated before it is looked at.
        u32::try_from(count(self.counts.load(Ordering::Relaxed))).unwrap_or(u32::MAX)
    }

    /// When a call began last.
    #[inline]
    pub(crate) fn last_joined(&self) -> Time {
        // Relaxed: it may be outdated before it is looked at.
        Time(self.joined.load(Ordering::Relaxed))
    }

    /// When the oldest call in flight began: no later than this. `None`: there is none.
    pub fn oldest(&self) -> Option<Time> {
        // Acquire: see `turn`.
        self.oldest_of(self.counts.load(Ordering::Acquire))
    }

    #[inline]
    fn oldest_of(&self, counts: u64) -> Option<Time> {
        let younger = Cohort::joined(counts);
        // Relaxed: a thread that is held up after it has joined may leave a time of then.
        let since = if younger.other().size(counts) > 0 {
            self.turned.load(Ordering::Relaxed)
        } else if younger.size(counts) > 0 {
            self.joined.load(Ordering::Relaxed)
        } else {
            return None;
        };
        Some(Time(since))
    }

    /// From the older cohort, which it has joined by mistake, to the younger. That stays the
    /// younger meanwhile: the older one is not empty.
    #[cold]
    fn change(&self, from: Cohort) -> Cohort {
        let to = from.other();
        let step = to.one().wrapping_sub(from.one());
        // Relaxed: a count.
        self.counts.fetch_add(step, Ordering::Relaxed);
        to
    }

    /// Makes the younger cohort the older one, which is empty. Which one is to be joined then.
    #[inline]
    fn turn(&self, younger: Cohort, counts: u64, now: Time) -> Cohort {
        // Relaxed: two that turn at once differ little.
        if now.0.saturating_sub(self.turned.load(Ordering::Relaxed)) < TURN {
            return younger;
        }
        // Before the turn: who sees that must not take the cohort for as old as the one before.
        let joined = self.joined.load(Ordering::Relaxed);
        self.turned.store(joined, Ordering::Relaxed);
        // Release: pairs with the Acquire of who sees the turn. Relaxed on failure: another call has
        // begun or ended, and the next to begin tries again.
        let (new, failed) = (Ordering::Release, Ordering::Relaxed);
        let turned = counts ^ JOINS_SECOND;
        match self.counts.compare_exchange(counts, turned, new, failed) {
            Ok(_) => younger.other(),
            Err(_) => younger,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Time {
        Time(ms * MS)
    }

    #[test]
    fn a_call_alone_is_as_old_as_it_is() {
        let calls = Cohorts::new();
        let (call, _) = calls.join(at(5_000), None).unwrap();
        assert_eq!(calls.oldest(), Some(at(5_000)));
        calls.leave(call);
        assert_eq!(calls.oldest(), None);
        let (call, before) = calls.join(at(70_000), None).unwrap();
        assert_eq!(before, None);
        assert_eq!(calls.oldest(), Some(at(70_000)));
        calls.leave(call);
    }

    /// Against a list of all calls in flight, that last 1 to 20 ms, and one that is lost at times.
    #[test]
    fn it_is_never_more_and_soon_not_much_less() {
        let mut random = fastrand::Rng::with_seed(7);
        let calls = Cohorts::new();
        let mut in_flight: Vec<(u64, u64, Cohort)> = Vec::new();
        let mut lost_since = None;
        for now in 0..200_000 {
            in_flight.retain(|(_, end, cohort)| {
                let ended = *end <= now;
                if ended {
                    calls.leave(*cohort);
                }
                !ended
            });
            for _ in 0..random.u64(0..3) {
                let lost = now % 10_000 == 5_000 && lost_since.is_none_or(|it| it != now);
                let lasts = if lost { 4_000 } else { random.u64(1..20) };
                let (cohort, _) = calls.join(at(now), None).unwrap();
                in_flight.push((now, now + lasts, cohort));
                lost_since = if lost { Some(now) } else { lost_since };
            }
            let truth = in_flight.iter().map(|(began, ..)| now - began).max();
            let told = calls.oldest().map(|began| now - began.0 / MS);
            assert_eq!(calls.count() as usize, in_flight.len());
            assert_eq!(truth.is_some(), told.is_some());
            let (truth, told) = (truth.unwrap_or(0), told.unwrap_or(0));
            assert!(told <= truth && truth <= told + 45, "{told} of {truth}");
        }
        assert!(lost_since.is_some());
    }
}
