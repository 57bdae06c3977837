//! Memory of backends that were removed, for when their ids are listed again.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};
use slab::Slab;
use triomphe::Arc;

use crate::backend::Offer;
use crate::entry::Entry;
use crate::health::Health;
use crate::time::Time;

/// What is known of a backend, whether it is listed or not.
pub(crate) struct Known {
    pub(crate) entry: Arc<Entry>,
    /// Its place in a shuffled list. Drawn once, so that a reconcile does not move a backend that
    /// stays.
    pub(crate) shuffle_place: u32,
    /// Made when outliers are first looked for.
    pub(crate) health: Option<Box<Health>>,
}

/// What is known of backends that are not listed. Bounded: beyond a number the oldest is forgotten.
/// Most balancers remember none: so the table of them is made when the first is remembered.
pub(crate) struct Memory<T>(Option<Box<Table<T>>>);

struct Table<T> {
    remembered: Slab<Remembered<T>>,
    by_id: HashTable<usize>,
    hasher: DefaultHashBuilder,
    /// Keys and when each was remembered until, the oldest first. Those that were recalled since are
    /// still here.
    queue: VecDeque<(usize, u64)>,
    /// How many were ever remembered.
    count: u64,
}

struct Remembered<T> {
    id: T,
    known: Known,
    until: Time,
    /// Which one it is of all that ever were.
    number: u64,
}

impl<T: Eq + Hash> Memory<T> {
    pub(crate) fn new() -> Self {
        Memory(None)
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|table| table.queue.is_empty())
    }

    /// Remembers a backend that is listed no more.
    pub(crate) fn remember(&mut self, id: T, known: Known, until: Time) {
        let table = self.0.get_or_insert_with(|| Box::new(Table::new()));
        table.remember(id, known, until);
    }

    /// Forgets the oldest beyond so many, and returns their ids.
    pub(crate) fn keep(&mut self, most: usize) -> Vec<T> {
        self.forget_while(|table, oldest| oldest.is_none() || table.queue.len() > most)
    }

    /// When the oldest is to be forgotten, after `keep`. `None`: there is none.
    pub(crate) fn oldest_until(&self) -> Option<Time> {
        let table = self.0.as_ref()?;
        let (key, _) = table.queue.front()?;
        Some(table.remembered.get(*key)?.until)
    }

    /// Takes an id out, with what is known of it unless that is too old.
    pub(crate) fn recall<O: Offer<T>>(&mut self, id: &O, now: Time) -> Option<(T, Option<Known>)> {
        let table = self.0.as_mut()?;
        let hash = table.hasher.hash_one(id);
        let remembered = &table.remembered;
        let is_it = |key: &usize| id.equivalent(&remembered[*key].id);
        let key = table.by_id.find(hash, is_it).copied()?;
        let Remembered {
            id, known, until, ..
        } = table.take(key);
        Some((id, (now < until).then_some(known)))
    }

    /// Forgets what is too old, and returns its ids.
    pub(crate) fn forget_old(&mut self, now: Time) -> Vec<T> {
        self.forget_while(|_, oldest| oldest.is_none_or(|oldest| oldest.until <= now))
    }

    /// Forgets all, and returns the ids.
    pub(crate) fn forget_all(&mut self) -> Vec<T> {
        self.forget_while(|_, _| true)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        let tables = self.0.iter_mut();
        let all = tables.flat_map(|table| table.remembered.iter_mut());
        all.map(|(_, it)| &mut it.known)
    }

    fn forget_while(
        &mut self,
        forget: impl Fn(&Table<T>, Option<&Remembered<T>>) -> bool,
    ) -> Vec<T> {
        let table = self.0.as_mut();
        table.map_or_else(Vec::new, |table| table.forget_while(forget))
    }
}

impl<T: Eq + Hash> Table<T> {
    fn new() -> Self {
        Table {
            remembered: Slab::new(),
            by_id: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            queue: VecDeque::new(),
            count: 0,
        }
    }

    fn remember(&mut self, id: T, known: Known, until: Time) {
        self.count += 1;
        let hash = self.hasher.hash_one(&id);
        let number = self.count;
        let key = self.remembered.insert(Remembered {
            id,
            known,
            until,
            number,
        });
        let (remembered, hasher) = (&self.remembered, &self.hasher);
        let rehash = |key: &usize| hasher.hash_one(&remembered[*key].id);
        self.by_id.insert_unique(hash, key, rehash);
        self.queue.push_back((key, number));
    }

    /// Forgets from the oldest on. `forget` is asked with the oldest, or `None` where that was
    /// recalled.
    fn forget_while(&mut self, forget: impl Fn(&Self, Option<&Remembered<T>>) -> bool) -> Vec<T> {
        let mut ids = Vec::new();
        while let Some((key, number)) = self.queue.front().copied() {
            let oldest = self.remembered.get(key).filter(|it| it.number == number);
            let is_there = oldest.is_some();
            if !forget(self, oldest) {
                break;
            }
            self.queue.pop_front();
            if is_there {
                ids.push(self.take(key).id);
            }
        }
        ids
    }

    fn take(&mut self, key: usize) -> Remembered<T> {
        let hash = self.hasher.hash_one(&self.remembered[key].id);
        let indexed = self.by_id.find_entry(hash, |other| *other == key);
        indexed.expect("all are indexed").remove();
        self.remembered.remove(key)
    }
}
