//! Terms that outlive the call that brought them, and terms made and read without a detour.

use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use rustler::sys::{
    enif_alloc_env, enif_free_env, enif_get_local_pid, enif_get_local_port, enif_get_tuple,
    enif_hash, enif_inspect_binary, enif_is_identical, enif_make_copy, enif_make_new_binary,
    enif_make_tuple_from_array, ErlNifBinary, ErlNifEnv, ErlNifHash, ErlNifPid, ErlNifPort,
    ErlNifTerm,
};
use rustler::{Env, Term};

static ENVIRONMENTS: AtomicUsize = AtomicUsize::new(0);

/// How many environments hold terms.
pub(crate) fn live_environments() -> usize {
    // Relaxed: a count orders nothing.
    ENVIRONMENTS.load(Ordering::Relaxed)
}

/// A term that is one word and means the same in every environment: an atom, a local pid or port, a
/// small integer or the empty list.
#[derive(Clone, Copy)]
pub(crate) struct Immediate(ErlNifTerm);

impl Immediate {
    /// `None` when the term refers to a heap.
    pub(crate) fn of(term: Term) -> Option<Self> {
        /// Small integers have 60 bits.
        const SMALL: std::ops::Range<i64> = -(1 << 59)..1 << 59;

        let is_immediate = term.is_atom()
            || term.is_empty_list()
            || is_local_pid(term)
            || is_local_port(term)
            || term.decode().is_ok_and(|integer| SMALL.contains(&integer));
        is_immediate.then(|| Immediate(term.as_c_arg()))
    }

    #[inline]
    pub(crate) fn to_term(self, env: Env) -> Term {
        // SAFETY: it refers to no environment.
        unsafe { Term::new(env, self.0) }
    }

    /// Elixir's `===`.
    pub(crate) fn is(self, term: Term) -> bool {
        identical(self.0, term.as_c_arg())
    }
}

impl PartialEq for Immediate {
    fn eq(&self, other: &Self) -> bool {
        identical(self.0, other.0)
    }
}

impl Eq for Immediate {}

impl Hash for Immediate {
    /// As [`hash_term`].
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.0, state);
    }
}

/// A term of the call that is under way, in one word: what a function apart from the hot path returns. A
/// [`Term`] would go through memory, on the hot path too.
#[derive(Clone, Copy)]
pub(crate) struct Word<'a>(ErlNifTerm, PhantomData<Env<'a>>);

impl<'a> Word<'a> {
    #[inline]
    pub(crate) fn to_term(self, env: Env<'a>) -> Term<'a> {
        // SAFETY: it is from this environment: no two have the same lifetime.
        unsafe { Term::new(env, self.0) }
    }
}

impl<'a> From<Term<'a>> for Word<'a> {
    #[inline]
    fn from(term: Term<'a>) -> Self {
        Word(term.as_c_arg(), PhantomData)
    }
}

/// A copy of a term in an environment that belongs to no process.
pub(crate) struct Copied {
    /// Kept for as long as the term is.
    _environment: Arc<Environment>,
    term: ErlNifTerm,
}

impl Copied {
    /// Copies terms into one environment, which takes some 2.5 KB by itself.
    pub(crate) fn together<const N: usize>(terms: [Term; N]) -> [Copied; N] {
        let environment = Environment::new();
        // SAFETY: the environment is ours alone as yet; the terms are valid in that of the call that
        // is under way.
        let copies = terms.map(|term| unsafe { enif_make_copy(environment.0, term.as_c_arg()) });
        let environment = Arc::new(environment);
        copies.map(|term| Copied {
            _environment: Arc::clone(&environment),
            term,
        })
    }

    /// A copy of it in `env`.
    #[inline]
    pub(crate) fn to_term<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the source is only read, and lives as long as `self`.
        let copy = unsafe { enif_make_copy(env.as_c_arg(), self.term) };
        // SAFETY: it was made in this environment.
        unsafe { Term::new(env, copy) }
    }

    /// Elixir's `===`.
    pub(crate) fn is(&self, term: Term) -> bool {
        identical(self.term, term.as_c_arg())
    }
}

impl PartialEq for Copied {
    fn eq(&self, other: &Self) -> bool {
        identical(self.term, other.term)
    }
}

impl Eq for Copied {}

impl Hash for Copied {
    /// As [`hash_term`].
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.term, state);
    }
}

struct Environment(*mut ErlNifEnv);

// SAFETY: the environment is written only by whoever makes it, before anybody else can see it, and
// freed by `drop`, when nobody else can. In between it is only read: `enif_make_copy`,
// `enif_is_identical` and `enif_hash` do not write what they read, and counts inside of terms (of
// big binaries, of resources) are atomic.
unsafe impl Send for Environment {}
// SAFETY: as above.
unsafe impl Sync for Environment {}

impl Environment {
    fn new() -> Self {
        // Relaxed: a count orders nothing.
        ENVIRONMENTS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: may be called on any thread.
        Environment(unsafe { enif_alloc_env() })
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        // SAFETY: it came from `enif_alloc_env` and nothing refers to it after this.
        unsafe { enif_free_env(self.0) };
        // Relaxed: a count orders nothing.
        ENVIRONMENTS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of a binary. `None` when the term is none.
pub(crate) fn bytes(term: Term<'_>) -> Option<&[u8]> {
    let mut binary = MaybeUninit::<ErlNifBinary>::uninit();
    let (env, raw) = (term.get_env().as_c_arg(), term.as_c_arg());
    // SAFETY: the term belongs to its environment, and `binary` has room for the answer.
    if unsafe { enif_inspect_binary(env, raw, binary.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call above said that it wrote it.
    let binary = unsafe { binary.assume_init() };
    if binary.size == 0 {
        // Its pointer can be null.
        return Some(&[]);
    }
    // SAFETY: the VM keeps the bytes as they are during the call, which the term does not outlive.
    Some(unsafe { slice::from_raw_parts(binary.data, binary.size) })
}

/// A binary on the heap of `env`.
pub(crate) fn binary<'a>(env: Env<'a>, bytes: &[u8]) -> Term<'a> {
    let mut term = MaybeUninit::uninit();
    // SAFETY: `term` has room for the answer.
    let data = unsafe { enif_make_new_binary(env.as_c_arg(), bytes.len(), term.as_mut_ptr()) };
    // SAFETY: the VM has made room for so many bytes, which nobody else sees yet.
    unsafe { data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    // SAFETY: the call has written it.
    let term = unsafe { term.assume_init() };
    // SAFETY: it was made in this environment.
    unsafe { Term::new(env, term) }
}

/// A tuple. rustler's has the elements in a `Vec` first.
#[inline]
pub(crate) fn tuple<'a, const N: usize>(env: Env<'a>, elements: [Term<'a>; N]) -> Term<'a> {
    let elements = elements.map(|element| element.as_c_arg());
    // SAFETY: the elements belong to the environment, as their lifetime shows; the length is theirs.
    let term = unsafe { enif_make_tuple_from_array(env.as_c_arg(), elements.as_ptr(), N as u32) };
    // SAFETY: it was made in this environment.
    unsafe { Term::new(env, term) }
}

/// The elements of a tuple of so many.
pub(crate) fn untuple<const N: usize>(term: Term<'_>) -> Option<[Term<'_>; N]> {
    let elements: &[ErlNifTerm; N] = elements(term)?.try_into().ok()?;
    // SAFETY: an element belongs to the environment of its tuple.
    Some(elements.map(|element| unsafe { Term::new(term.get_env(), element) }))
}

/// The elements of a tuple.
pub(super) fn elements<'a>(term: Term<'a>) -> Option<&'a [ErlNifTerm]> {
    let (mut arity, mut first) = (0, MaybeUninit::uninit());
    let (env, raw) = (term.get_env().as_c_arg(), term.as_c_arg());
    // SAFETY: the term belongs to its environment; there is room for both answers.
    if unsafe { enif_get_tuple(env, raw, &mut arity, first.as_mut_ptr()) } == 0 {
        return None;
    }
    if arity == 0 {
        // Its pointer can be anything.
        return Some(&[]);
    }
    // SAFETY: the call above said that it wrote it.
    let first = unsafe { first.assume_init() };
    // SAFETY: the VM keeps the tuple where it is during the call, which the term does not outlive.
    Some(unsafe { slice::from_raw_parts(first, arity as usize) })
}

pub(super) fn identical(left: ErlNifTerm, right: ErlNifTerm) -> bool {
    // SAFETY: both terms are alive, and comparing only reads them.
    unsafe { enif_is_identical(left, right) != 0 }
}

/// Agrees with [`identical`], as map keys do.
///
/// The VM's own hash of a term is the same in every VM, so that one can work out as many terms as one
/// likes that share it. What goes in first is what a hasher says of nothing: its seed, which is
/// another in each table.
pub(super) fn hash<H: Hasher>(term: ErlNifTerm, state: &mut H) {
    let salt = u64::from(state.finish() as u32);
    // SAFETY: the term is alive, and hashing only reads it.
    state.write_u64(unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, term, salt) });
}

/// Hashes a term as it would be if it were kept.
pub(crate) fn hash_term<H: Hasher>(term: Term, state: &mut H) {
    hash(term.as_c_arg(), state);
}

fn is_local_pid(term: Term) -> bool {
    let mut pid = MaybeUninit::<ErlNifPid>::uninit();
    let (env, raw) = (term.get_env().as_c_arg(), term.as_c_arg());
    // SAFETY: the term belongs to its environment, and `pid` has room for the answer.
    unsafe { enif_get_local_pid(env, raw, pid.as_mut_ptr()) != 0 }
}

fn is_local_port(term: Term) -> bool {
    let mut port = MaybeUninit::<ErlNifPort>::uninit();
    let (env, raw) = (term.get_env().as_c_arg(), term.as_c_arg());
    // SAFETY: the term belongs to its environment, and `port` has room for the answer.
    unsafe { enif_get_local_port(env, raw, port.as_mut_ptr()) != 0 }
}
