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

static ENVIRONMENTS: AtomicUsize = AtomicUsize::new(0);

/// How many environments hold ids and values of backends.
pub(crate) fn live_environments() -> usize {
    // Relaxed: a count orders nothing.
    ENVIRONMENTS.load(Ordering::Relaxed)
}

/// A term that is kept: an id or a value of a backend.
#[derive(Clone)]
pub(crate) enum Value {
    /// A term that is one machine word and means the same in every environment.
    Immediate(ErlNifTerm),
    /// Any other, copied once when it came.
    Copied(Arc<Environment>, ErlNifTerm),
}

/// An environment that belongs to no process. It holds the id and the value of a backend: an
/// environment takes more memory than most terms.
pub(crate) struct Environment(*mut ErlNifEnv);

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

    /// Copies a term into it, which must not be shared yet.
    fn copy(&mut self, term: Term) -> ErlNifTerm {
        // SAFETY: the environment is ours alone, as `&mut` shows; the term is valid in that of
        // the call that is under way.
        unsafe { enif_make_copy(self.0, term.as_c_arg()) }
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

impl Value {
    /// The term, in `env`.
    #[inline]
    pub(crate) fn to_raw(&self, env: *mut ErlNifEnv) -> ErlNifTerm {
        match self {
            Value::Immediate(term) => *term,
            // SAFETY: `env` is the environment of the call that is under way; the source is only
            // read, and lives as long as `self`.
            Value::Copied(_environment, term) => unsafe { enif_make_copy(env, *term) },
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
            Value::Immediate(term) | Value::Copied(_, term) => *term,
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
    fn own(id: &Self, value: &Self) -> (Value, Value) {
        let immediate = [id, value].map(|offered| is_immediate(offered.0));
        if immediate == [true, true] {
            let [id, value] = [id, value].map(|offered| Value::Immediate(offered.0.as_c_arg()));
            return (id, value);
        }
        let mut environment = Environment::new();
        let mut keep = |offered: &Self, immediate| match immediate {
            true => offered.0.as_c_arg(),
            false => environment.copy(offered.0),
        };
        let kept_id = keep(id, immediate[0]);
        let kept_value = match id == value {
            // A bare value is its own id: one copy serves both.
            true => kept_id,
            false => keep(value, immediate[1]),
        };
        let environment = Arc::new(environment);
        let own = |kept, immediate| match immediate {
            true => Value::Immediate(kept),
            false => Value::Copied(Arc::clone(&environment), kept),
        };
        (own(kept_id, immediate[0]), own(kept_value, immediate[1]))
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
