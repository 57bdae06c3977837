//! What a thread brings along to pick.

use std::cell::Cell;

use crate::reclaim::Reader;

/// A thread's context for picking: its slot in the table of readers and its random numbers.
///
/// Cannot be sent to another thread or shared. Make one a thread and keep it.
pub struct Caller {
    reader: Reader,
    seed: Cell<u64>,
}

impl Caller {
    /// Claims a place among the readers. `None` when 1,024 threads have one.
    pub fn claim(seed: u64) -> Option<Caller> {
        Some(Caller {
            reader: Reader::claim()?,
            seed: Cell::new(seed),
        })
    }

    #[inline]
    pub(crate) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Unique among the callers alive.
    #[inline]
    pub(crate) fn number(&self) -> usize {
        self.reader.index()
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
