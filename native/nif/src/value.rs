//! A term that outlives the call that brought it.

use std::hash::{Hash, Hasher};
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use grpc_lb_core::Offer;
use hashbrown::Equivalent;
use rustler::sys::{
    enif_alloc_env, enif_free_env, enif_get_local_pid, enif_get_local_port, enif_hash,
    enif_is_atom, enif_is_empty_list, enif_is_identical, enif_make_copy, enif_make_new_binary,
    ErlNifEnv, ErlNifHash, ErlNifPid, ErlNifPort, ErlNifTerm,
};
use rustler::{Binary, Env, Term};
use triomphe::ThinArc;

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
    /// A short binary, as most ids are. An environment would take 2.5 KB for it.
    Short(ThinArc<(), u8>),
    /// Any other.
    Copied(Arc<Copied>),
}

/// The VM copies binaries of up to so many bytes wherever they go, too.
const SHORT: usize = 63;

fn short_binary(term: Term<'_>) -> Option<&[u8]> {
    let binary: Binary = term.decode().ok()?;
    (binary.len() <= SHORT).then_some(binary.as_slice())
}

/// A term in an environment that it shares with the other term of its backend.
pub(crate) struct Copied {
    /// Kept for as long as the term is.
    _environment: Arc<Environment>,
    term: ErlNifTerm,
}

/// An environment that belongs to no process.
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
    /// Keeps a term that needs no environment.
    fn without_environment(term: Term) -> Option<Self> {
        if is_immediate(term) {
            return Some(Value::Immediate(term.as_c_arg()));
        }
        let bytes = short_binary(term)?;
        Some(Value::Short(ThinArc::from_header_and_slice((), bytes)))
    }

    /// The term, in `env`.
    #[inline]
    pub(crate) fn to_raw(&self, env: *mut ErlNifEnv) -> ErlNifTerm {
        match self {
            Value::Immediate(term) => *term,
            Value::Short(binary) => make_binary(env, &binary.slice),
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
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Immediate(one), Value::Immediate(other)) => identical(*one, *other),
            (Value::Short(one), Value::Short(other)) => one == other,
            (Value::Copied(one), Value::Copied(other)) => identical(one.term, other.term),
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Value::Immediate(term) => hash(*term, state),
            Value::Short(binary) => binary.slice.hash(state),
            Value::Copied(copied) => hash(copied.term, state),
        }
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
        // As the `Value` that it would become.
        match short_binary(self.0) {
            Some(bytes) => bytes.hash(state),
            None => hash(self.0.as_c_arg(), state),
        }
    }
}

impl Equivalent<Value> for Offered<'_> {
    fn equivalent(&self, value: &Value) -> bool {
        match value {
            Value::Immediate(term) => identical(self.0.as_c_arg(), *term),
            Value::Short(binary) => short_binary(self.0) == Some(&binary.slice),
            Value::Copied(copied) => identical(self.0.as_c_arg(), copied.term),
        }
    }
}

impl Offer<Value> for Offered<'_> {
    fn own(id: &Self, value: &Self) -> (Value, Value) {
        let [own_id, own_value] = [id, value].map(|term| Value::without_environment(term.0));
        if let (Some(id), Some(value)) = (&own_id, &own_value) {
            return (id.clone(), value.clone());
        }
        let mut environment = Environment::new();
        let mut copy = |offered: &Self, own: &Option<Value>| match own {
            Some(_) => offered.0.as_c_arg(),
            None => environment.copy(offered.0),
        };
        let id_copy = copy(id, &own_id);
        let value_copy = match id == value {
            // A bare value is its own id: one copy serves both.
            true => id_copy,
            false => copy(value, &own_value),
        };
        let environment = Arc::new(environment);
        let keep = |own: Option<Value>, term| {
            own.unwrap_or_else(|| {
                let _environment = Arc::clone(&environment);
                Value::Copied(Arc::new(Copied { _environment, term }))
            })
        };
        (keep(own_id, id_copy), keep(own_value, value_copy))
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

/// A binary on the heap of `env`.
fn make_binary(env: *mut ErlNifEnv, bytes: &[u8]) -> ErlNifTerm {
    let mut term = MaybeUninit::uninit();
    // SAFETY: `env` is the environment of the call that is under way, and `term` has room for the
    // answer.
    let data = unsafe { enif_make_new_binary(env, bytes.len(), term.as_mut_ptr()) };
    // SAFETY: the VM has made room for so many bytes, which nobody else sees yet.
    unsafe { data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    // SAFETY: the call has written it.
    unsafe { term.assume_init() }
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
    let is_atom = unsafe { enif_is_atom(env, raw) != 0 };
    // SAFETY: as above.
    let is_empty_list = unsafe { enif_is_empty_list(env, raw) != 0 };
    // SAFETY: as above, and `pid` has room for the answer.
    let is_local_pid = unsafe { enif_get_local_pid(env, raw, pid.as_mut_ptr()) != 0 };
    // SAFETY: as above, and `port` has room for the answer.
    let is_local_port = unsafe { enif_get_local_port(env, raw, port.as_mut_ptr()) != 0 };
    let is_small_integer = || term.decode().is_ok_and(|integer| SMALL.contains(&integer));
    is_atom || is_empty_list || is_local_pid || is_local_port || is_small_integer()
}
