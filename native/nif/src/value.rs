//! A term that outlives the call that brought it.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use grpc_lb_core::Offer;
use hashbrown::Equivalent;
use rustler::sys::{
    enif_alloc_env, enif_free_env, enif_get_local_pid, enif_get_local_port, enif_hash,
    enif_is_atom, enif_is_empty_list, enif_is_identical, enif_make_copy, ErlNifEnv, ErlNifHash,
    ErlNifPid, ErlNifPort, ErlNifTerm,
};
use rustler::{Env, Term};
use std::mem::MaybeUninit;

static COPIES: AtomicUsize = AtomicUsize::new(0);

/// How many terms are kept in environments of their own.
pub(crate) fn live_copies() -> usize {
    // Relaxed: a count orders nothing.
    COPIES.load(Ordering::Relaxed)
}

/// A term that is kept: an id or a value of a backend.
#[derive(Clone)]
pub(crate) enum Value {
    /// A term that is one machine word and means the same in every environment.
    Immediate(ErlNifTerm),
    /// Any other, copied once when it came.
    Copied(Arc<Copied>),
}

/// A term in an environment of its own.
pub(crate) struct Copied {
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
}

// SAFETY: the environment belongs to no process and is written only by `Copied::new`, before
// anybody else can see it, and freed by `drop`, when nobody else can. In between it is only read:
// `enif_make_copy`, `enif_is_identical` and `enif_hash` do not write what they read, and counts
// inside of terms (of big binaries, of resources) are atomic.
unsafe impl Send for Copied {}
// SAFETY: as above.
unsafe impl Sync for Copied {}

impl Copied {
    fn new(term: ErlNifTerm) -> Self {
        // Relaxed: a count orders nothing.
        COPIES.fetch_add(1, Ordering::Relaxed);
        // SAFETY: may be called on any thread.
        let env = unsafe { enif_alloc_env() };
        // SAFETY: `env` is fresh and ours; `term` is valid in the environment of the call that is
        // under way, whose decoder handed it over.
        let term = unsafe { enif_make_copy(env, term) };
        Copied { env, term }
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // SAFETY: `env` came from `enif_alloc_env` and nothing refers to it after this.
        unsafe { enif_free_env(self.env) };
        // Relaxed: a count orders nothing.
        COPIES.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Value {
    /// The term, in `env`.
    #[inline]
    pub(crate) fn to_raw(&self, env: *mut ErlNifEnv) -> ErlNifTerm {
        match self {
            Value::Immediate(term) => *term,
            // SAFETY: `env` is the environment of the call that is under way; the source is only
            // read, and lives as long as `self`.
            Value::Copied(copied) => unsafe { enif_make_copy(env, copied.term) },
        }
    }

    /// The term, in `env`.
    pub(crate) fn to_term<'a>(&self, env: Env<'a>) -> Term<'a> {
        let raw = self.to_raw(env.as_c_arg());
        // SAFETY: `to_raw` made it in this environment.
        unsafe { Term::new(env, raw) }
    }

    /// The term where it is kept, to compare it.
    fn kept(&self) -> ErlNifTerm {
        match self {
            Value::Immediate(term) => *term,
            Value::Copied(copied) => copied.term,
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        identical(self.kept(), other.kept())
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.kept(), state);
    }
}

/// A term of the call that is under way, offered to be kept.
#[derive(Clone, Copy)]
pub(crate) struct Offered<'a>(pub(crate) Term<'a>);

impl PartialEq for Offered<'_> {
    fn eq(&self, other: &Self) -> bool {
        identical(self.0.as_c_arg(), other.0.as_c_arg())
    }
}

impl Eq for Offered<'_> {}

impl Hash for Offered<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(self.0.as_c_arg(), state);
    }
}

impl Equivalent<Value> for Offered<'_> {
    fn equivalent(&self, value: &Value) -> bool {
        identical(self.0.as_c_arg(), value.kept())
    }
}

impl Offer<Value> for Offered<'_> {
    fn own(&self) -> Value {
        let term = self.0.as_c_arg();
        if is_immediate(self.0) {
            Value::Immediate(term)
        } else {
            Value::Copied(Arc::new(Copied::new(term)))
        }
    }
}

/// Elixir's `===`.
fn identical(left: ErlNifTerm, right: ErlNifTerm) -> bool {
    // SAFETY: both terms are alive, and comparing only reads them.
    unsafe { enif_is_identical(left, right) != 0 }
}

/// Agrees with [`identical`], as map keys do.
fn hash<H: Hasher>(term: ErlNifTerm, state: &mut H) {
    // SAFETY: the term is alive, and hashing only reads it.
    state.write_u64(unsafe { enif_hash(ErlNifHash::ERL_NIF_INTERNAL_HASH, term, 0) });
}

/// Whether the term is one word that refers to no environment: an atom, a local pid or port, a
/// small integer or the empty list.
fn is_immediate(term: Term) -> bool {
    /// Small integers have 60 bits.
    const SMALL: std::ops::Range<i64> = -(1 << 59)..1 << 59;

    let (env, raw) = (term.get_env().as_c_arg(), term.as_c_arg());
    let mut pid = MaybeUninit::<ErlNifPid>::uninit();
    let mut port = MaybeUninit::<ErlNifPort>::uninit();
    // SAFETY: the term belongs to the environment; asking writes nothing.
    let is_atom = || unsafe { enif_is_atom(env, raw) != 0 };
    // SAFETY: as above, and `pid` has room for the answer.
    let is_local_pid = || unsafe { enif_get_local_pid(env, raw, pid.as_mut_ptr()) != 0 };
    // SAFETY: as above, and `port` has room for the answer.
    let is_local_port = || unsafe { enif_get_local_port(env, raw, port.as_mut_ptr()) != 0 };
    // SAFETY: as for `is_atom`.
    let is_empty_list = || unsafe { enif_is_empty_list(env, raw) != 0 };
    let mut is_local_pid = is_local_pid;
    let mut is_local_port = is_local_port;
    is_atom()
        || is_local_pid()
        || term.decode().is_ok_and(|integer| SMALL.contains(&integer))
        || is_local_port()
        || is_empty_list()
}
