//! What the policies that hash have in common: a table whose entries are backends, the bound on their
//! loads, and who takes a call where the backend of its key cannot.
//!
//! The table has every backend of the list, whatever its state, so that the keys of one that is down or
//! ejected are the only ones that move, and come back to it. Snapshots share the table. Each has its
//! own, short list of which backends can be picked.

use triomphe::Arc;

use super::contract::{Build, CandidateList, Candidates, Listed, PolicyPicker, TableSize};
use crate::backend::HashKey;
use crate::caller::Caller;

/// A table of entries, each of a backend, and where in it a hash leads.
pub(crate) trait KeyTable: Sized {
    /// What it is built by, beside the backends.
    type Options: Copy + PartialEq;

    /// How many attempts after the first one lead to an entry by the hash. Those that follow go on from
    /// the first one's entry to the next.
    const REHASHES: usize;

    /// There are backends, each a text and a weight, in the order of the texts.
    fn build(options: &Self::Options, backends: &[(&[u8], u32)]) -> Self;

    /// The backends of the entries, as indices of those that it was built of.
    fn entries(&self) -> &[u32];

    /// The entry of a hash at one of the attempts up to [`REHASHES`](Self::REHASHES).
    fn find(&self, hash: u64, attempt: usize) -> usize;

    /// The part of all hashes that leads to an entry at the first attempt, 0 to 1.
    fn part(&self, entry: usize) -> f64;

    /// Memory that it takes.
    fn bytes(&self) -> usize;
}

/// How many calls a backend may have before its keys go on to others, in percent of its share of all
/// calls in flight: Envoy's `hash_balance_factor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BalanceFactor(u32);

impl BalanceFactor {
    /// `None` below 100: then not all calls would have a place.
    ///
    /// ```
    /// use grpc_lb_core::policy::BalanceFactor;
    ///
    /// assert!(BalanceFactor::new(125).is_some());
    /// assert_eq!(BalanceFactor::new(99), None);
    /// ```
    pub fn new(percent: u32) -> Option<Self> {
        (percent >= 100).then_some(BalanceFactor(percent))
    }
}

/// A table, prepared for one snapshot.
pub(crate) struct Picker<T: KeyTable> {
    built: Arc<Built<T>>,
    /// Which candidates the backends of the table are, or [`NONE`].
    candidates: Box<[u32]>,
    /// The entries whose backend is a candidate, where those are few: to look for the next of them one
    /// by one would take long.
    few: Option<Box<[u32]>>,
    bound: Option<Bound>,
}

/// It is no candidate.
const NONE: u32 = u32::MAX;

/// Below such a part of the table its entries are few.
const FEW: f64 = 0.125;

/// The bound on loads.
struct Bound {
    factor: BalanceFactor,
    /// Of the candidates.
    weight: f64,
}

/// After so many entries without room the least loaded of them takes the call.
const LOOKS: usize = 64;

/// A table, and what it is of.
struct Built<T: KeyTable> {
    options: T::Options,
    backends: Box<[(HashKey, u32)]>,
    table: T,
}

impl<T: KeyTable> Built<T> {
    fn new(options: T::Options, listed: &[Listed<'_>]) -> Self {
        let backends = listed.iter().map(|it| (&it.hash_key.slice, it.weight));
        Built {
            options,
            table: T::build(&options, &backends.collect::<Vec<(&[u8], u32)>>()),
            backends: listed
                .iter()
                .map(|it| (it.hash_key.clone(), it.weight))
                .collect(),
        }
    }

    /// Whether the table of these would be this one.
    fn is_of(&self, options: &T::Options, listed: &[Listed<'_>]) -> bool {
        let backends = self.backends.iter().map(|(key, weight)| (key, *weight));
        self.options == *options && backends.eq(listed.iter().map(|it| (it.hash_key, it.weight)))
    }
}

impl<T: KeyTable> Picker<T> {
    /// Takes the last table over if neither backends nor options have changed.
    pub(crate) fn build(
        options: T::Options,
        factor: Option<BalanceFactor>,
        list: &impl CandidateList,
        with: Build<Self>,
    ) -> Self {
        let mut listed = list.listed();
        // grpc-go's order. C-core and Envoy have the list's: where entries are no whole numbers, their rings
        // differ between clients that have a list in another order.
        listed.sort_by(|one, other| one.hash_key.slice.cmp(&other.hash_key.slice));
        let built = match with.last.filter(|last| last.built.is_of(&options, &listed)) {
            Some(last) => Arc::clone(&last.built),
            None => Arc::new(Built::new(options, &listed)),
        };
        let candidates: Box<[u32]> = listed.iter().map(|it| it.index.unwrap_or(NONE)).collect();
        let all = listed.iter().map(weight).sum::<f64>();
        let weight = listed
            .iter()
            .filter(|it| it.index.is_some())
            .map(weight)
            .sum::<f64>();
        let few = (weight < all * FEW).then(|| {
            let entries = built.table.entries().iter().zip(0..);
            let usable = entries.filter(|(backend, _)| candidates[**backend as usize] != NONE);
            usable.map(|(_, entry)| entry).collect()
        });
        Picker {
            built,
            candidates,
            few,
            bound: factor.map(|factor| Bound { factor, weight }),
        }
    }

    /// The candidate of an entry, or [`NONE`].
    #[inline]
    fn candidate(&self, entry: usize) -> u32 {
        self.candidates[self.built.table.entries()[entry] as usize]
    }

    /// Chooses from this attempt on, and with a bound.
    #[inline(never)]
    fn choose(&self, candidates: &impl Candidates, hash: u64, attempt: usize) -> usize {
        let entry = match &self.bound {
            None => self.usable(hash, attempt),
            Some(bound) => self.with_room(bound, candidates, hash, attempt),
        };
        match entry {
            Some(entry) => self.candidate(entry) as usize,
            // A table smaller than the list has no entry of some.
            None => (hash % candidates.len() as u64) as usize,
        }
    }

    /// The first entry from this attempt on whose backend is a candidate.
    fn usable(&self, hash: u64, attempt: usize) -> Option<usize> {
        let table = &self.built.table;
        let mut by_hash = (attempt..=T::REHASHES).map(|attempt| table.find(hash, attempt));
        let is_usable = |entry: &usize| self.candidate(*entry) != NONE;
        by_hash.find(is_usable).or_else(|| {
            let len = table.entries().len();
            let first = (table.find(hash, 0) + attempt.saturating_sub(T::REHASHES)) % len;
            match &self.few {
                None => (first..len).chain(0..first).find(is_usable),
                Some(few) => {
                    let next = few.partition_point(|entry| (*entry as usize) < first);
                    few.get(next).or(few.first()).map(|entry| *entry as usize)
                }
            }
        })
    }

    /// The same, of a backend that has not more than its part of the calls.
    ///
    /// Envoy goes on to backends in a random order that the hash is the seed of, and shuffles the whole
    /// list for it; this goes on as for one that cannot be picked, as in the paper (Mirrokni and others,
    /// Consistent Hashing with Bounded Loads).
    fn with_room(
        &self,
        bound: &Bound,
        candidates: &impl Candidates,
        hash: u64,
        attempt: usize,
    ) -> Option<usize> {
        // The call itself is one of them, unless it is a mere pick.
        let calls = u64::from(candidates.calls_in_flight().max(1));
        let places = (calls * u64::from(bound.factor.0)).div_ceil(100);
        let mut least: Option<(f64, usize)> = None;
        for attempt in attempt..attempt + LOOKS {
            let entry = self.usable(hash, attempt)?;
            let (_, weight) = self.built.backends[self.built.table.entries()[entry] as usize];
            let share = f64::from(weight.max(1)) / bound.weight;
            let slots = (places as f64 * share).ceil().max(1.0);
            let load = candidates.load(self.candidate(entry) as usize);
            let load = f64::from(load.in_flight()) / slots;
            if load <= 1.0 {
                return Some(entry);
            }
            if least.is_none_or(|(less, _)| load < less) {
                least = Some((load, entry));
            }
        }
        least.map(|(_, entry)| entry)
    }
}

/// As the table has it: 0 counts as 1.
fn weight(listed: &Listed<'_>) -> f64 {
    f64::from(listed.weight.max(1))
}

impl<T: KeyTable> PolicyPicker for Picker<T> {
    /// The next entry is often the same backend's.
    const MORE_CHOICES: usize = 256;

    #[inline]
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
        let hash = caller.hash();
        if self.bound.is_none() {
            let candidate = self.candidate(self.built.table.find(hash, 0));
            if candidate != NONE {
                return candidate as usize;
            }
        }
        self.choose(candidates, hash, 0)
    }

    fn pick_again(&self, candidates: &impl Candidates, caller: &Caller, attempt: usize) -> usize {
        self.choose(candidates, caller.hash(), attempt)
    }

    /// Where the key says, so that the search for it always begins there.
    fn search_from(&self, n: usize, caller: &Caller) -> usize {
        (caller.hash() % n as u64) as usize
    }

    fn for_each_entry(&self, mut add: impl FnMut(usize, f64)) {
        let table = &self.built.table;
        for entry in 0..table.entries().len() {
            let candidate = self.candidate(entry);
            if candidate != NONE {
                add(candidate as usize, table.part(entry));
            }
        }
    }

    fn table(&self) -> Option<TableSize> {
        let Built {
            backends, table, ..
        } = &*self.built;
        let few = self.few.as_ref().map_or(0, |few| size_of_val(&**few));
        Some(TableSize {
            entries: table.entries().len(),
            bytes: table.bytes() + size_of_val(&**backends) + size_of_val(&*self.candidates) + few,
        })
    }
}
