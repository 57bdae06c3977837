//! Rows of backends that can be picked, in chunks that one snapshot shares with the next: a change
//! of one backend copies its chunk and not the list.

use std::slice;

use triomphe::Arc;

use crate::entry::Row;
use crate::load::Load;
use crate::policy::Candidates;

/// A row is found with one division by this, which is a power of two; a change copies so many rows
/// and one pointer for so many rows more.
const CHUNK: usize = 64;

/// All chunks are full but the last one.
pub(crate) enum Rows<T> {
    /// Most lists are no longer: they need no list of chunks.
    One(Arc<[Row<T>]>),
    /// None, or several.
    Many {
        chunks: Box<[Arc<[Row<T>]>]>,
        /// Of all rows: a `u32`, as the keys of members are.
        len: u32,
    },
}

impl<T> Rows<T> {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Rows::One(rows) => rows.len(),
            Rows::Many { len, .. } => *len as usize,
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> &Row<T> {
        match self {
            Rows::One(rows) => &rows[index],
            Rows::Many { chunks, .. } => &chunks[index / CHUNK][index % CHUNK],
        }
    }

    /// How many are in chunks that no other list shares.
    pub(crate) fn unshared(&self) -> usize {
        let own = self.chunks().iter().filter(|chunk| chunk.is_unique());
        own.map(|chunk| chunk.len()).sum()
    }

    fn chunks(&self) -> &[Arc<[Row<T>]>] {
        match self {
            Rows::One(rows) => slice::from_ref(rows),
            Rows::Many { chunks, .. } => chunks,
        }
    }
}

impl<T> Candidates for Rows<T> {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn load(&self, index: usize) -> &Load {
        &self.get(index).entry.load
    }

    fn calls_in_flight(&self) -> u32 {
        self.get(0).entry.shared.in_flight.count()
    }
}

impl<T: Clone> Rows<T> {
    /// The same rows, to be changed.
    pub(crate) fn edit(&self) -> Draft<T> {
        Draft {
            chunks: self.chunks().iter().cloned().map(Chunk::Shared).collect(),
            len: self.len(),
        }
    }
}

/// Rows that are being changed.
pub(crate) struct Draft<T> {
    chunks: Vec<Chunk<T>>,
    len: usize,
}

enum Chunk<T> {
    Shared(Arc<[Row<T>]>),
    Own(Vec<Row<T>>),
}

impl<T> Draft<T> {
    pub(crate) fn new() -> Self {
        Draft {
            chunks: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn finish(self) -> Rows<T> {
        let chunks = self.chunks.into_iter().map(|chunk| match chunk {
            Chunk::Shared(rows) => rows,
            Chunk::Own(rows) => rows.into(),
        });
        let mut chunks: Vec<Arc<[Row<T>]>> = chunks.collect();
        if chunks.len() == 1 {
            return Rows::One(chunks.remove(0));
        }
        Rows::Many {
            chunks: chunks.into(),
            len: self.len as u32,
        }
    }
}

impl<T: Clone> Draft<T> {
    /// Adds a row at the end, and says where that is.
    pub(crate) fn push(&mut self, row: Row<T>) -> usize {
        let index = self.len;
        if index.is_multiple_of(CHUNK) {
            self.chunks.push(Chunk::Own(Vec::new()));
        }
        self.own(index / CHUNK).push(row);
        self.len += 1;
        index
    }

    pub(crate) fn replace(&mut self, index: usize, row: Row<T>) {
        self.own(index / CHUNK)[index % CHUNK] = row;
    }

    /// Removes a row. The last one takes its place, and is returned unless it was the one to go.
    pub(crate) fn swap_remove(&mut self, index: usize) -> Option<&Row<T>> {
        let last = self.pop();
        if index == self.len {
            return None;
        }
        self.replace(index, last);
        self.own(index / CHUNK).get(index % CHUNK)
    }

    fn pop(&mut self) -> Row<T> {
        self.len -= 1;
        let row = self.own(self.len / CHUNK).pop();
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.pop();
        }
        row.expect("chunks are full but the last, which is not empty")
    }

    /// A chunk that is no longer shared.
    fn own(&mut self, chunk: usize) -> &mut Vec<Row<T>> {
        let chunk = &mut self.chunks[chunk];
        if let Chunk::Shared(rows) = chunk {
            *chunk = Chunk::Own(rows.to_vec());
        }
        match chunk {
            Chunk::Own(rows) => rows,
            Chunk::Shared(_) => unreachable!("it was made our own"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::entry::Entry;
    use crate::load::cohorts::Generation;
    use crate::policy::{random, Policy};
    use crate::shared::Shared;
    use crate::time::Time;

    fn row(value: u32) -> Row<u32> {
        let config = Config::from(Policy::Random(random::Config));
        let shared = Arc::new(Shared::new(config.into()));
        Row {
            value,
            owner: None,
            key: 0,
            generation: Generation::default(),
            entry: Arc::new(Entry::new(&shared, Time(0))),
        }
    }

    fn values(rows: &Rows<u32>) -> Vec<u32> {
        let chunks = rows.chunks().iter().flat_map(|chunk| chunk.iter());
        let values: Vec<u32> = chunks.map(|row| row.value).collect();
        for (index, value) in values.iter().enumerate() {
            assert_eq!(rows.get(index).value, *value);
        }
        assert_eq!(rows.len(), values.len());
        values
    }

    #[test]
    #[cfg_attr(miri, ignore = "too many steps")]
    fn edits_do_what_they_do_to_a_vec_and_leave_the_original_alone() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut naive: Vec<u32> = Vec::new();
        let mut rows = Draft::new().finish();
        for value in 0..3_000 {
            let (before, last) = (values(&rows), rows);
            let mut draft = last.edit();
            for value in [value, value + 10_000, value + 20_000] {
                // Grows at first and shrinks later.
                match random.u32(0..3_000) {
                    dice if naive.is_empty() || dice > value % 10_000 => {
                        assert_eq!(draft.push(row(value)), naive.len());
                        naive.push(value);
                    }
                    dice if dice % 4 == 0 => {
                        let index = random.usize(..naive.len());
                        draft.replace(index, row(value));
                        naive[index] = value;
                    }
                    _ => {
                        let index = random.usize(..naive.len());
                        naive.swap_remove(index);
                        let moved = draft.swap_remove(index).map(|row| row.value);
                        assert_eq!(moved, naive.get(index).copied());
                    }
                }
            }
            rows = draft.finish();
            assert_eq!(values(&rows), naive);
            assert_eq!(values(&last), before);
        }
    }

    #[test]
    fn a_change_of_one_row_copies_one_chunk() {
        let mut draft = Draft::new();
        for value in 0..1_000 {
            draft.push(row(value));
        }
        let before = draft.finish();
        let mut draft = before.edit();
        draft.replace(500, row(7));
        let after = draft.finish();
        let shared = before.chunks().iter().zip(after.chunks());
        let copied = shared.filter(|(one, other)| !Arc::ptr_eq(one, other));
        assert_eq!(copied.count(), 1);
    }
}
