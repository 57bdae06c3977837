//! Literals: answers that lie outside of all heaps, and that a NIF can return as they are.
//!
//! A page is a tuple of answers, each `{:ok, value}`, that was put into `:persistent_term` under a key
//! of its own. What lies there has a word that means the same in every process, and stays where it is
//! until the key is erased. So a pick returns the word, and nothing is copied.
//!
//! That is sound because of an order of things that nobody can turn round:
//!
//! 1. A word is held by a [`Slot`], and slots are reference counted. Whoever hands a word out has it
//!    from a slot that is alive: a pick from a row of the snapshot that it has pinned.
//! 2. A page whose last slot is dropped is noted as retired. The rows of a snapshot are dropped
//!    once no pick can be in it (`grpc_lb_core`'s `reclaim`), so what is retired is in reach of no
//!    pick that has yet to read its word.
//! 3. Then alone its key is erased, by a process of the library. The VM has every process copy
//!    what it still holds of it, and frees it after that. A process does so between two steps of its own,
//!    and never in the middle of a NIF on a normal scheduler. So a pick that has read the word, and
//!    has not returned yet, returns it first: it is then among what its process holds, and is copied.
//!
//! The third holds on normal schedulers alone. The VM of OTP 25 looks through a process that runs
//! on a dirty one while it runs there, and cannot see a word that is in the hands of native code. So
//! what runs on a dirty scheduler answers with copies, which it makes while it holds the slot:
//! [`Slot::copy`]; and [`Slot::answer`] is for normal ones.
//!
//! A key is never used twice, so that who is late to erase one erases nothing else.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::mem;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use once_cell::race::OnceBox;
use parking_lot::Mutex;
use rustler::sys::{enif_make_copy, ErlNifTerm};
use rustler::types::tuple::get_tuple;
use rustler::{Env, Term};

use super::term::{hash, identical};

static SLOTS: AtomicUsize = AtomicUsize::new(0);

/// How many answers lie in pages that were filled and are not erased.
pub(crate) fn live_slots() -> usize {
    // Relaxed: a count orders nothing.
    SLOTS.load(Ordering::Relaxed)
}

static WORDS: AtomicU64 = AtomicU64::new(0);

/// The words of all pages that are reserved, filled, or not erased yet.
pub(crate) fn live_words() -> u64 {
    // SeqCst: see `Words::count`.
    WORDS.load(Ordering::SeqCst)
}

/// How much memory the VM has for a page, counted until that is erased: the VM ends when what it has
/// for literals is full.
#[derive(Default)]
pub(crate) struct Words(u64);

impl Words {
    pub(crate) fn count(words: u64) -> Self {
        // SeqCst: who counts first and asks all builds then, sees the words of everybody who has been
        // answered before, whichever the builds are.
        WORDS.fetch_add(words, Ordering::SeqCst);
        Words(words)
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // Relaxed: who sees it late takes less than could be had.
        WORDS.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// A page of answers, alive as long as its key must not be erased.
pub(crate) struct Page {
    number: u64,
    words: Words,
    /// Once they are there.
    answers: OnceBox<Vec<Answer>>,
}

/// The words of `{:ok, value}` and of the value in it.
#[derive(Clone, Copy)]
struct Answer {
    whole: ErlNifTerm,
    value: ErlNifTerm,
}

/// A page whose key is to be erased.
struct Retired {
    number: u64,
    words: Words,
    slots: usize,
}

struct Queue {
    /// In the order in which they were retired.
    pages: VecDeque<Retired>,
    words: u64,
}

/// Locked for a push, or to look at some: what frees snapshots meets it, and no pick.
static RETIRED: Mutex<Queue> = Mutex::new(Queue {
    pages: VecDeque::new(),
    words: 0,
});

impl Drop for Page {
    fn drop(&mut self) {
        let slots = self.answers().len();
        let words = mem::take(&mut self.words);
        let mut retired = RETIRED.lock();
        retired.words += words.0;
        retired.pages.push_back(Retired {
            number: self.number,
            words,
            slots,
        });
    }
}

impl Page {
    /// `number` is that of its key.
    pub(crate) fn new(number: u64, words: Words) -> Self {
        Page {
            number,
            words,
            answers: OnceBox::new(),
        }
    }

    /// Takes what lies under its key, the first time that it is told.
    ///
    /// That is sound because nobody else can call the NIF that does it: it is private to
    /// `GrpcLb.Native`, whose `intern/4` has read the page from `:persistent_term`.
    pub(crate) fn fill(&self, page: Term) {
        let answer = |answer: Term| match *get_tuple(answer).ok()? {
            [_ok, value] => Some(Answer {
                whole: answer.as_c_arg(),
                value: value.as_c_arg(),
            }),
            _ => None,
        };
        let answers = get_tuple(page).unwrap_or_default().into_iter().map(answer);
        let Some(answers) = answers.collect::<Option<Vec<_>>>() else {
            return;
        };
        let slots = answers.len();
        if self.answers.set(Box::new(answers)).is_ok() {
            // Relaxed: a count orders nothing.
            SLOTS.fetch_add(slots, Ordering::Relaxed);
        }
    }

    /// One of its answers. `None` when it has none of this number, or none as yet.
    pub(crate) fn slot(self: Arc<Self>, index: usize) -> Option<Slot> {
        let answer = *self.answers().get(index)?;
        Some(Slot {
            answer,
            _page: self,
        })
    }

    fn answers(&self) -> &[Answer] {
        self.answers.get().map_or(&[], |answers| answers)
    }
}

/// How many pages wait to be erased, their words, and the numbers and words of the first of them, so many
/// at most.
pub(crate) fn retired(at_most: usize) -> (usize, u64, Vec<(u64, u64)>) {
    let Queue { pages, words } = &*RETIRED.lock();
    let first = pages.iter().take(at_most);
    let first = first.map(|page| (page.number, page.words.0)).collect();
    (pages.len(), *words, first)
}

/// The key of a retired page was erased. The first are found at once.
pub(crate) fn forget(number: u64) {
    let Queue { pages, words } = &mut *RETIRED.lock();
    let position = pages.iter().position(|page| page.number == number);
    if let Some(page) = position.and_then(|position| pages.remove(position)) {
        *words -= page.words.0;
        // Relaxed: a count orders nothing.
        SLOTS.fetch_sub(page.slots, Ordering::Relaxed);
    }
}

/// An answer that is not copied.
pub(crate) struct Slot {
    answer: Answer,
    /// Kept for as long as the words are.
    _page: Arc<Page>,
}

impl Slot {
    /// The answer as it is, on a normal scheduler.
    #[inline]
    pub(crate) fn answer<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: a literal belongs to every environment. See above why it lives as long as this one.
        unsafe { Term::new(env, self.answer.whole) }
    }

    /// The value as it is, on a normal scheduler.
    #[inline]
    pub(crate) fn value<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: as above.
        unsafe { Term::new(env, self.answer.value) }
    }

    /// A copy of the value, on whichever scheduler.
    pub(crate) fn copy<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the source is only read, and lives as long as `self`.
        let copy = unsafe { enif_make_copy(env.as_c_arg(), self.answer.value) };
        // SAFETY: it was made in this environment.
        unsafe { Term::new(env, copy) }
    }

    /// Elixir's `===`.
    pub(crate) fn is(&self, value: Term) -> bool {
        identical(self.answer.value, value.as_c_arg())
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        identical(self.answer.value, other.answer.value)
    }
}

impl Eq for Slot {}

impl Hash for Slot {
    /// As `term::hash_term`.
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.answer.value, state);
    }
}
