//! The library's entry: what the VM finds in the file, and calls when the module is loaded.
//!
//! rustler's own entry has no `upgrade`, so this one is ours.

use std::ffi::{c_int, c_void};
use std::panic::catch_unwind;
use std::ptr;

use once_cell::sync::OnceCell;
use rustler::codegen_runtime::internal_write_symbols;
use rustler::sys::{ErlNifEntry, ErlNifEnv, ErlNifResourceFlags, ErlNifTerm};

use super::dirty;
use super::function::Function;
use super::library::{remember, take_over, Functions, Loaded, Parts, PARTS};
use super::nif::Scheduler;
use crate::atoms;

/// Makes this crate a NIF library.
///
/// The body of a function is given its arguments as they are. That of a method, whose first argument
/// has to be a reference, is given the object in its place, and never one that another build made.
/// Each is named in Elixir as its body is here.
macro_rules! library {
    (
        module: $module:expr,
        types: [$($type:ty),* $(,)?],
        tick: $tick:expr,
        take_over: $take_over:expr,
        functions: { $($function:tt)* },
        methods: { $($method:tt)* } $(,)?
    ) => {
        #[allow(unsafe_code)]
        const _: () = {
            const NIFS: &[$crate::vm::function::Function] =
                $crate::vm::entry::nifs!(functions: { $($function)* }, methods: { $($method)* });
            static PARTS: $crate::vm::library::Parts = $crate::vm::library::Parts::new(
                $module,
                NIFS,
                &[$($crate::vm::resource::open::<$type>),*],
                $tick,
                $take_over,
            );

            /// What the VM looks for in the file.
            #[no_mangle]
            extern "C" fn nif_init() -> *const rustler::sys::ErlNifEntry {
                $crate::vm::entry::entry(&PARTS)
            }
        };
    };
}
pub(crate) use library;

/// The NIFs of a library, see `library!`.
macro_rules! nifs {
    (
        functions: {
            $($f_scheduler:ident $f_file:ident::$f_name:ident($($f_argument:ident),*);)*
        },
        methods: {
            $(
                $scheduler:ident $file:ident::$name:ident(
                    $type:ident $(| $other:ident)? $(, $argument:ident)*
                ) $(after $attempt_file:ident::$attempt:ident)?;
            )*
        }
    ) => {
        &[
            $($crate::vm::function::nif!(
                $f_scheduler,
                $f_name,
                <[&str]>::len(&[$(stringify!($f_argument)),*]),
                |env, arguments| {
                    $f_file::$f_name(env, arguments.map(|argument| argument.to_term(env)))
                }
            ),)*
            $($crate::vm::function::nif!(
                $scheduler,
                $name,
                <[&str]>::len(&[stringify!($type) $(, stringify!($argument))*]),
                expects: $crate::vm::entry::expects!($type $(| $other)?),
                $(attempt: |env, [object, arguments @ ..]| {
                    $crate::vm::dispatch::try_on_object::<$type, _>(
                        env, object, arguments, $attempt_file::$attempt,
                    )
                },)?
                |env, [object, arguments @ ..]| $crate::vm::entry::on!(
                    $type $(| $other)?, env, Self::NAME, object, arguments, $file::$name,
                )
            ),)*
        ]
    };
}
pub(crate) use nifs;

/// Looks whether the first argument of a method can be right.
macro_rules! expects {
    ($type:ident) => {
        $crate::vm::dispatch::expect_object::<$type>
    };
    ($type:ident | $other:ident) => {
        $crate::vm::dispatch::expect_either::<$type, $other>
    };
}
pub(crate) use expects;

/// Calls a method. Where there are two types, its body is generic.
macro_rules! on {
    ($type:ident, $($argument:expr),* $(,)?) => {
        $crate::vm::dispatch::on_object::<$type, _>($($argument),*)
    };
    (
        $type:ident | $other:ident,
        $env:expr, $nif:expr, $object:expr, $arguments:expr, $body:path $(,)?
    ) => {
        $crate::vm::dispatch::on_either::<$type, $other, _>(
            $env, $nif, $object, $arguments, $body, $body,
        )
    };
}
pub(crate) use on;

struct Entry {
    told: ErlNifEntry,
    /// To which `told` points.
    _functions: Functions,
}
// SAFETY: nobody writes it, and the pointers in it are to what it holds, and to constants.
unsafe impl Send for Entry {}
// SAFETY: as above.
unsafe impl Sync for Entry {}

/// The entry of a library of these parts. Null when this is no VM that it knows.
pub(crate) fn entry(parts: &'static Parts) -> *const ErlNifEntry {
    static ENTRY: OnceCell<Entry> = OnceCell::new();
    let entry = ENTRY.get_or_try_init(|| make_entry(parts).ok_or(()));
    entry.map_or(ptr::null(), |entry| &entry.told)
}

fn make_entry(parts: &'static Parts) -> Option<Entry> {
    // SAFETY: rustler wants this before its first call into the VM, which is after this, and
    // once, since it writes what such calls read.
    unsafe { internal_write_symbols() };
    // Nobody else sets it, and this runs once.
    let _ = PARTS.set(parts);
    let by_entrance = dirty::copies_arguments()?;
    let describe = |function: &Function| match function.scheduler {
        Scheduler::DirtyCpu if by_entrance => function.entrance(),
        Scheduler::DirtyCpu if function.attempts => function.attempt(),
        _ => function.itself(),
    };
    let functions = Functions(parts.nifs.iter().map(describe).collect());
    let mut told = ErlNifEntry::new(parts.module, &functions.0, load);
    told.upgrade = Some(upgrade);
    Some(Entry {
        told,
        _functions: functions,
    })
}

/// The module is loaded, and no other version of it has a library.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn load(
    env: *mut ErlNifEnv,
    private: *mut *mut c_void,
    _info: ErlNifTerm,
) -> c_int {
    let ways = [ErlNifResourceFlags::ERL_NIF_RT_CREATE];
    // SAFETY: the VM gives the place, and `env`; null is a list.
    unsafe { start(env, private, ptr::null(), &ways) }
}

/// The module is loaded in the place of a version whose objects may live on.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn upgrade(
    env: *mut ErlNifEnv,
    private: *mut *mut c_void,
    old_private: *mut *mut c_void,
    _info: ErlNifTerm,
) -> c_int {
    // SAFETY: the VM gives what the version before has left there.
    let before = unsafe { *old_private };
    // That version can have had fewer types.
    let ways = [
        ErlNifResourceFlags::ERL_NIF_RT_TAKEOVER,
        ErlNifResourceFlags::ERL_NIF_RT_CREATE,
    ];
    // SAFETY: the VM gives the place, and `env`; every version leaves a list.
    unsafe { start(env, private, before.cast::<Loaded>(), &ways) }
}

/// What the VM wants to hear.
const STARTED: c_int = 0;
const NOT_STARTED: c_int = 1;

/// Opens the types, and leaves the list of the builds that were loaded for the next version.
///
/// # Safety
///
/// As for [`remember`]; `env` must be that of the load that is under way, and `private` a place for
/// a pointer.
unsafe fn start(
    env: *mut ErlNifEnv,
    private: *mut *mut c_void,
    before: *const Loaded,
    ways: &[ErlNifResourceFlags],
) -> c_int {
    let started = catch_unwind(|| {
        // Looked up now, so that no scheduler waits for another that does.
        atoms::ok();
        // SAFETY: the caller vouches for the list.
        let loaded = unsafe { remember(before) }?;
        let mut types = PARTS.get()?.types.iter();
        // SAFETY: the caller vouches for `env`.
        let all_open = types.all(|open| unsafe { open(env, ways) });
        // SAFETY: the caller vouches for both.
        all_open.then(|| unsafe { take_over(env, before) });
        all_open.then_some(loaded)
    });
    let Ok(Some(loaded)) = started else {
        return NOT_STARTED;
    };
    // SAFETY: the caller gives the place.
    unsafe { private.write(loaded.cast_mut().cast()) };
    STARTED
}
