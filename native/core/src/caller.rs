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
    own_number: Number,
    /// Its own, or that of nobody while it draws from [`Draws`].
    number: Cell<usize>,
    seed: Cell<u64>,
    /// The hash of the key of the call that it picks for.
    key: Cell<Option<u64>>,
}

/// Takes a call's key from a caller again when it is dropped, see [`Caller::with_key`].
#[must_use]
pub struct Keyed<'a> {
    caller: &'a Caller,
    /// The one before.
    key: Option<u64>,
}

impl Drop for Keyed<'_> {
    #[inline]
    fn drop(&mut self) {
        self.caller.key.set(self.key);
    }
}

/// Makes a caller itself again when it is dropped, see [`Caller::drawing_from`].
#[must_use]
pub struct Drawing<'a> {
    caller: &'a Caller,
    /// Where its own random numbers go on.
    seed: u64,
}

impl Drop for Drawing<'_> {
    fn drop(&mut self) {
        let Drawing { caller, seed } = self;
        caller.number.set(caller.own_number.get());
        caller.seed.set(*seed);
    }
}

/// Random numbers for picks that are to repeat, whichever callers make them.
pub struct Draws(AtomicU64);

impl Draws {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Draws(AtomicU64::new(seed))
    }

    /// What the next pick draws its numbers from: SplitMix64.
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

        // Relaxed: each gets a seed of its own because the addition is atomic.
        let step = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        let mixed = (step ^ (step >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Caller {
    /// Registers this thread. `seed` is where its random numbers come from. Never waits.
    pub fn new(seed: u64) -> Self {
        let own_number = Number::take();
        Caller {
            reader: Reader::register(),
            number: Cell::new(own_number.get()),
            own_number,
            seed: Cell::new(seed),
            key: Cell::new(None),
        }
    }

    /// Has this caller pick for calls whose key has this hash until the guard is dropped. Policies
    /// that hash choose by it, see [`Policy::hashes`](crate::policy::Policy::hashes); the others do not look.
    ///
    /// ```
    /// use grpc_lb_core::hash::xxh64;
    /// use grpc_lb_core::policy::{ring_hash, Policy};
    /// use grpc_lb_core::{Backend, Balancer, Caller, Time, Unowned};
    ///
    /// let policy = Policy::RingHash(ring_hash::Config::default());
    /// let balancer = Balancer::new(policy, 0, Time(0));
    /// let backends = ["10.0.0.1:443", "10.0.0.2:443"].map(|id| Backend::new(id, id).keyed(id));
    /// balancer.reconcile(&backends, &Unowned, Time(0))?;
    ///
    /// let caller = Caller::new(7);
    /// let _keyed = caller.with_key(xxh64(b"some-user", 0));
    /// let picked = balancer.pick(&caller, &Unowned, |id| *id);
    /// assert!((0..10).all(|_| balancer.pick(&caller, &Unowned, |id| *id) == picked));
    /// # Ok::<(), grpc_lb_core::ChangeError>(())
    /// ```
    #[inline]
    pub fn with_key(&self, hash: u64) -> Keyed<'_> {
        Keyed {
            caller: self,
            key: self.key.replace(Some(hash)),
        }
    }

    /// Has this caller pick as any other would until the guard is dropped: its random numbers are from
    /// `draws`, and its turns are those of all callers together.
    ///
    /// ```
    /// use grpc_lb_core::policy::{random, Policy};
    /// use grpc_lb_core::{Backend, Balancer, Caller, Draws, Time, Unowned};
    ///
    /// let balancer = Balancer::new(Policy::Random(random::Config), 0, Time(0));
    /// let backends: Vec<_> = (0..100).map(|id| Backend::new(id, id)).collect();
    /// balancer.reconcile(&backends, &Unowned, Time(0))?;
    ///
    /// let picked = |caller: Caller| {
    ///     let draws = Draws::new(42);
    ///     let pick = |_| {
    ///         let _drawing = caller.drawing_from(&draws);
    ///         balancer.pick(&caller, &Unowned, |id| *id)
    ///     };
    ///     (0..10).map(pick).collect::<Vec<_>>()
    /// };
    /// assert_eq!(picked(Caller::new(1)), picked(Caller::new(2)));
    /// # Ok::<(), grpc_lb_core::ChangeError>(())
    /// ```
    pub fn drawing_from(&self, draws: &Draws) -> Drawing<'_> {
        self.number.set(usize::MAX);
        Drawing {
            caller: self,
            seed: self.seed.replace(draws.next()),
        }
    }

    #[inline]
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Unique among the callers alive, see [`Number::get`], unless it is `usize::MAX`.
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.number.get()
    }

    /// The hash that a policy which hashes chooses by: that of the call's key, or any where it has none.
    #[inline]
    pub(crate) fn hash(&self) -> u64 {
        self.key.get().unwrap_or_else(|| self.random())
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
    use std::panic::{catch_unwind, AssertUnwindSafe};

    use super::*;

    #[test]
    fn a_caller_is_itself_again_after_it_drew_elsewhere() {
        let draws = Draws::new(7);
        let (caller, alone) = (Caller::new(3), Caller::new(3));
        let number = caller.number();
        for panics in [false, true] {
            let drawing = || {
                let _drawing = caller.drawing_from(&draws);
                assert_eq!(caller.number(), usize::MAX);
                caller.random();
                assert!(!panics, "what was picked");
            };
            assert_eq!(catch_unwind(AssertUnwindSafe(drawing)).is_err(), panics);
            assert_eq!(caller.number(), number);
            assert_eq!(caller.random(), alone.random());
        }
    }

    #[test]
    fn a_key_is_that_of_the_innermost_guard() {
        let caller = Caller::new(3);
        {
            let _one = caller.with_key(1);
            {
                let _other = caller.with_key(2);
                assert_eq!([caller.hash(), caller.hash()], [2, 2]);
            }
            assert_eq!(caller.hash(), 1);
        }
        assert_ne!(caller.hash(), caller.hash());
    }

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
