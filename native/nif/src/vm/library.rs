//! The builds of this library that are loaded, and which of them serves a call.
//!
//! Two things can happen to a node that runs:
//!
//! - The module is loaded again and the file is the same. The loader hands out the library that
//!   it has; the resource types are taken over, and nothing else changes.
//! - Another build is loaded from another file, as in a release upgrade. It takes the types over
//!   too, but an object of the old build has the old build's layout, and its snapshots are guarded
//!   by the old build's collector. So every object names the [`Library`] that made it, and
//!   that library goes on to serve it: `dispatch` hands the call to the NIF of the same name and
//!   arity over there, before the body of ours has seen it. For that, no build is ever unloaded
//!   (`build.rs`).
//!
//! What builds share must therefore not change: the names of the resource types, that an object
//! begins with a reference to its `VTable`, that one, [`Library`] and [`Loaded`].

use std::ffi::{c_int, CStr};
use std::panic::catch_unwind;
use std::ptr;
use std::slice;
use std::time::Duration;

use once_cell::race::{OnceBox, OnceRef};
use rustler::sys::{
    enif_is_exception, enif_priv_data, ErlNifEnv, ErlNifFunc, ErlNifResourceFlags, ErlNifTerm,
};
use rustler::{Encoder, Env, Term};

use super::function::Function;
use super::nif::Answer;
use super::term::Word;
use crate::error::ArgumentError;

/// Counts the versions of what builds share. Fields are only ever added, at an end, with a new
/// number.
pub(crate) const ABI: u32 = 4;

/// The oldest version that this build can live with. Builds before lack NIFs that the module calls for
/// their objects too.
const OLDEST_ABI: u32 = 4;

/// What other builds know of this one.
#[repr(C)]
pub(super) struct Library {
    abi: u32,
    functions: unsafe extern "C" fn(count: *mut usize) -> *const ErlNifFunc,
    /// Does what is due in the objects of this build. Returns in how many nanoseconds there is more;
    /// `u64::MAX` is never.
    tick: extern "C" fn() -> u64,
}

pub(super) static LIBRARY: Library = Library {
    abi: ABI,
    functions,
    tick,
};

/// What a library is made of.
pub(crate) struct Parts {
    pub(super) module: &'static CStr,
    pub(super) nifs: &'static [Function],
    pub(super) types: &'static [OpenType],
    /// Does what is due in all objects. Returns in how long there is more; `None` as long as there
    /// is nothing.
    pub(super) tick: fn() -> Option<Duration>,
    /// Takes over what was said to the build before, if there is one. It answers what takes no argument with a
    /// boolean; `None` is what it does not know.
    take_over: TakeOver,
}

type TakeOver = fn(ask_last: &dyn Fn(&CStr) -> Option<bool>);

/// Opens a type of resources, if the VM lets it.
type OpenType = unsafe fn(*mut ErlNifEnv, &[ErlNifResourceFlags]) -> bool;

impl Parts {
    pub(crate) const fn new(
        module: &'static CStr,
        nifs: &'static [Function],
        types: &'static [OpenType],
        tick: fn() -> Option<Duration>,
        take_over: TakeOver,
    ) -> Self {
        Parts {
            module,
            nifs,
            types,
            tick,
            take_over,
        }
    }
}

/// What this build is made of, known once the VM has asked for its entry.
pub(super) static PARTS: OnceRef<'static, Parts> = OnceRef::new();

fn parts() -> &'static Parts {
    PARTS.get().expect("the library is loaded")
}

impl Library {
    /// Has this library serve a call for an object that it made.
    #[cold]
    pub(super) fn serve<'a>(
        &self,
        env: Env<'a>,
        nif: &CStr,
        object: Word<'a>,
        rest: &[Word<'a>],
    ) -> Answer<'a> {
        let arguments: Vec<ErlNifTerm> = [object]
            .iter()
            .chain(rest)
            .map(|argument| argument.to_term(env).as_c_arg())
            .collect();
        // SAFETY: the arguments are terms of `env`.
        let answer = unsafe { self.call(env, nif, &arguments) };
        answer.ok_or_else(|| {
            ArgumentError(format!(
                "argument 1 was made by a version of grpc_lb that has no {}/{}",
                nif.to_string_lossy(),
                arguments.len()
            ))
        })
    }

    /// Calls a NIF of this library if it has it.
    ///
    /// # Safety
    ///
    /// The arguments must belong to `env`.
    unsafe fn call<'a>(
        &self,
        env: Env<'a>,
        nif: &CStr,
        arguments: &[ErlNifTerm],
    ) -> Option<Term<'a>> {
        let function = self.functions().iter().find(|function| {
            // SAFETY: the names of NIFs are C strings that live as long as their library.
            let same_name = unsafe { CStr::from_ptr(function.name) } == nif;
            same_name && function.arity as usize == arguments.len()
        })?;
        let (argc, argv) = (arguments.len() as c_int, arguments.as_ptr());
        // SAFETY: the arguments belong to `env`, which is that of the call that is under way; there
        // are as many as the function takes.
        let answer = unsafe { (function.function)(env.as_c_arg(), argc, argv) };
        // SAFETY: a NIF's answer belongs to the environment of its call. What it has raised is
        // returned like any other answer.
        Some(unsafe { Term::new(env, answer) })
    }

    fn functions(&self) -> &'static [ErlNifFunc] {
        let mut count = 0;
        // SAFETY: it writes the length of what it returns to where it is told.
        let first = unsafe { (self.functions)(&mut count) };
        // SAFETY: such is the promise of `functions`, and no build is ever unloaded.
        unsafe { slice::from_raw_parts(first, count) }
    }
}

/// NIFs as the VM is told of them, to be kept.
pub(super) struct Functions(pub(super) Vec<ErlNifFunc>);
// SAFETY: the pointers in an `ErlNifFunc` are to constants.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

/// The NIFs of this build, for other builds: a call has passed an entrance over there.
///
/// # Safety
///
/// `count` must be a place for a number.
unsafe extern "C" fn functions(count: *mut usize) -> *const ErlNifFunc {
    static FUNCTIONS: OnceBox<Functions> = OnceBox::new();
    let Functions(functions) = FUNCTIONS.get_or_init(|| {
        let functions = parts().nifs.iter().map(Function::itself);
        Box::new(Functions(functions.collect()))
    });
    // SAFETY: the caller gives a place for it.
    unsafe { count.write(functions.len()) };
    functions.as_ptr()
}

extern "C" fn tick() -> u64 {
    // A panic must not unwind into another build. What it left undone is due.
    let left = catch_unwind(|| (parts().tick)()).unwrap_or(Some(Duration::ZERO));
    left.map_or(u64::MAX, |left| {
        u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)
    })
}

/// What a NIF says in each build that has it, as a list; or what one has raised.
pub(crate) fn ask_all<'a>(env: Env<'a>, nif: &CStr, arguments: &[Term<'a>]) -> Term<'a> {
    let arguments: Vec<ErlNifTerm> = arguments.iter().map(|term| term.as_c_arg()).collect();
    let mut said = Vec::new();
    for library in loaded(env) {
        // SAFETY: the arguments are terms of `env`.
        let Some(answer) = (unsafe { library.call(env, nif, &arguments) }) else {
            continue;
        };
        // SAFETY: the answer belongs to `env`.
        if unsafe { enif_is_exception(env.as_c_arg(), answer.as_c_arg()) } != 0 {
            return answer;
        }
        said.push(answer);
    }
    said.encode(env)
}

/// Does what is due in the objects of all builds. Returns in how long there is more; `None` as long
/// as there is nothing.
pub(crate) fn tick_all(env: Env) -> Option<Duration> {
    let next = loaded(env).map(|library| (library.tick)()).min()?;
    (next != u64::MAX).then_some(Duration::from_nanos(next))
}

/// The builds that were loaded, the last one first.
fn loaded(env: Env) -> impl Iterator<Item = &'static Library> {
    // SAFETY: `env` is that of the call that is under way.
    let loaded = unsafe { enif_priv_data(env.as_c_arg()) };
    // SAFETY: it is what `remember` has left.
    unsafe { libraries(loaded.cast_const().cast()) }
}

/// What the VM keeps for the module from version to version: the builds that were loaded, the last
/// one first. Never changed, and never freed.
#[repr(C)]
pub(super) struct Loaded {
    library: &'static Library,
    before: *const Loaded,
}

/// Adds this build to the list of those that were loaded. `None` when it cannot live with the last
/// one.
///
/// # Safety
///
/// `before` must be such a list, or null.
pub(super) unsafe fn remember(before: *const Loaded) -> Option<*const Loaded> {
    // SAFETY: the caller vouches for the list.
    let last = unsafe { libraries(before) }.next();
    if last.is_some_and(|library| library.abi < OLDEST_ABI) {
        return None;
    }
    // SAFETY: the caller vouches for the list.
    let known = unsafe { libraries(before) }.any(|library| ptr::eq(library, &LIBRARY));
    Some(match known {
        true => before,
        false => Box::leak(Box::new(Loaded {
            library: &LIBRARY,
            before,
        })),
    })
}

/// Has this build take over what was said to the last one of a list.
///
/// # Safety
///
/// `env` must be that of a load that is under way, and `before` such a list, or null.
pub(super) unsafe fn take_over(env: *mut ErlNifEnv, before: *const Loaded) {
    // SAFETY: the caller vouches for the list.
    let Some(last) = (unsafe { libraries(before) }).next() else {
        return;
    };
    let lifetime = ();
    // SAFETY: the caller vouches for it, and this is its only name.
    let env = unsafe { Env::new(&lifetime, env) };
    // SAFETY: there are no arguments.
    (parts().take_over)(&|nif| unsafe { last.call(env, nif, &[]) }?.decode().ok());
}

/// The builds of a list.
///
/// # Safety
///
/// `loaded` must be a list that `remember` made, in whichever build, or null.
unsafe fn libraries(mut loaded: *const Loaded) -> impl Iterator<Item = &'static Library> {
    std::iter::from_fn(move || {
        // SAFETY: the caller vouches for the list, which is never freed.
        let Loaded { library, before } = unsafe { loaded.as_ref() }?;
        loaded = *before;
        Some(*library)
    })
}
