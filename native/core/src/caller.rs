//! What a thread brings along to pick.

use std::cell::Cell;

use crate::reclaim::Reader;
use crate::sync::{AtomicU64, Ordering};

/// A thread's context for picking: its registration as a reader, a number and random numbers.
///
/// Cannot be sent to another thread or shared. Make one a thread and keep it: making one allocates
/// some 2 KiB.
///
/// ```
/// use grpc_lb_core::policy::Policy;
/// use grpc_lb_core::{Balancer, Caller, Time, Unavailable, Unowned};
///
/// let balancer = Balancer::<u32>::new(Policy::RoundRobin(Default::default()), 0, Time(0));
/// let caller = Caller::new(7);
/// let picked = balancer.pick(&caller, &Unowned, |id| *id);
/// assert_eq!(picked, Err(Unavailable::NoBackends));
/// ```
pub struct Caller {
    reader: Reader,
    number: Number,
    seed: Cell<u64>,
}

impl Caller {
    /// Registers this thread. `seed` is where its random numbers come from. Never waits.
    pub fn new(seed: u64) -> Self {
        Caller {
            reader: Reader::register(),
            number: Number::take(),
            seed: Cell::new(seed),
        }
    }

    #[inline]
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// See [`Number::get`].
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number.get()
    }

    /// A number in `0..bound`, each as likely as the others. `bound` is not 0.
    #[inline]
    pub(crate) fn random_below(&self, bound: usize) -> usize {
        self.draw(|random| random.usize(..bound))
    }

    /// Any number, each as likely as the others.
    #[inline]
    pub(crate) fn random(&self) -> u64 {
        self.draw(|random| random.u64(..))
    }

    #[inline]
    fn draw<R>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> R) -> R {
        let mut random = fastrand::Rng::with_seed(self.seed.get());
        let drawn = draw(&mut random);
        self.seed.set(random.get_seed());
        drawn
    }
}

/// 1,024 numbers: as many as the BEAM can have schedulers. Under loom few threads ask for one.
const WORDS: usize = if cfg!(loom) { 1 } else { 16 };

const BITS: usize = u64::BITS as usize;

/// A bit for each number: whether a caller has it.
#[cfg(not(loom))]
static TAKEN: [AtomicU64; WORDS] = [const { AtomicU64::new(0) }; WORDS];

// loom's atomics are made anew for every execution of a model.
#[cfg(loom)]
loom::lazy_static! {
    static ref TAKEN: [AtomicU64; WORDS] = [AtomicU64::new(0)];
}

/// What tells a caller from the others.
pub(crate) struct Number(usize);

impl Number {
    /// Takes the lowest that is free.
    pub(crate) fn take() -> Self {
        for (index, word) in TAKEN.iter().enumerate() {
            // Acquire: pairs with the Release in `drop`, so that what the last owner left is visible
            // to this one. Relaxed on failure: nothing is taken.
            let taken = word.fetch_update(Ordering::Acquire, Ordering::Relaxed, |taken| {
                (taken != u64::MAX).then(|| taken | (taken + 1))
            });
            if let Ok(taken) = taken {
                return Number(index * BITS + taken.trailing_ones() as usize);
            }
        }
        Number(usize::MAX)
    }

    /// Unique among the callers alive, and small when they are few; or `usize::MAX`, which all have
    /// that come when 1,024 are there.
    #[inline]
    pub(crate) fn get(&self) -> usize {
        self.0
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        if let Some(word) = TAKEN.get(self.0 / BITS) {
            let bit = 1 << (self.0 % BITS);
            // Release: pairs with the Acquire in `take`.
            word.fetch_and(!bit, Ordering::Release);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_are_unique_while_there_are_any_and_come_back() {
        let taken: Vec<_> = (0..WORDS * BITS + 10).map(|_| Number::take()).collect();
        let (own, others): (Vec<_>, Vec<_>) = taken.iter().partition(|it| it.0 < usize::MAX);
        assert!(others.len() >= 10);
        let unique: HashSet<_> = own.iter().map(|number| number.get()).collect();
        assert_eq!(unique.len(), own.len());
        assert!(unique.iter().all(|number| *number < WORDS * BITS));
        drop(taken);
        assert!(Number::take().get() < WORDS * BITS);
    }
}
