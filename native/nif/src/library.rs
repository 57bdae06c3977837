//! The library's entry, and how the module is loaded again or upgraded while balancers live.
//!
//! rustler's own entry cannot be upgraded, so this one is ours, made of the functions that
//! rustler collected and the raw one. Two things can happen to a node that runs:
//!
//! - The module is loaded again and the file is the same. The loader hands out the library that
//!   it has; `upgrade` takes the resource type over, and nothing else changes.
//! - Another build is loaded from another file, as in a release upgrade. It takes the type over
//!   too, but an object of the old build has the old build's layout, and its snapshots are
//!   guarded by the old build's table of readers. So every object names the [`Library`] that
//!   made it, and that library goes on to serve it: each NIF hands a foreign object's call to
//!   the function of the same name over there. For that, no build is ever unloaded (`build.rs`).
//!
//! What builds share must therefore never change: the names of the resource types, [`Library`], that
//! an object begins with a pointer to it, and [`Loaded`].

use std::ffi::{c_int, c_void, CStr};
use std::mem::MaybeUninit;
use std::panic::catch_unwind;
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use rustler::codegen_runtime::{internal_write_symbols, inventory};
use rustler::sys::{
    enif_init_resource_type, enif_priv_data, enif_system_info, ErlNifEntry, ErlNifEnv, ErlNifFunc,
    ErlNifMonitor, ErlNifPid, ErlNifResourceDown, ErlNifResourceDtor, ErlNifResourceFlags,
    ErlNifResourceType, ErlNifResourceTypeInit, ErlNifSysInfo, ErlNifTerm,
};
use rustler::{Env, Nif, Term};

use crate::error::ArgumentError;
use crate::{call, clock, dirty, pick, raw, resource, ticker, ticket};

const MODULE: &CStr = c"Elixir.GrpcLb.Native";
const BALANCER_TYPE: &CStr = c"grpc_lb_balancer";
const TICKET_TYPE: &CStr = c"grpc_lb_ticket";

/// Counts the versions of [`Library`]. Fields are only ever added at its end, with a new number.
const ABI: u32 = 2;

/// What other builds know of this one.
#[repr(C)]
pub(crate) struct Library {
    /// For builds to come: which fields there are.
    _abi: u32,
    functions: unsafe extern "C" fn(count: *mut usize) -> *const ErlNifFunc,
    destroy: unsafe extern "C" fn(*mut ErlNifEnv, *mut c_void),
    down: unsafe extern "C" fn(*mut ErlNifEnv, *mut c_void, *const ErlNifPid, *const ErlNifMonitor),
    /// Since 2. Builds before that made no tickets.
    destroy_ticket: unsafe extern "C" fn(*mut ErlNifEnv, *mut c_void),
    /// Since 2. Does what is due in the balancers of this build, and says in how many nanoseconds
    /// there is more; `u64::MAX` is never.
    tick: extern "C" fn() -> u64,
}

/// What the VM keeps for the module from version to version: the builds that were loaded, the last
/// one first. Never changed, and never freed. Builds of version 1 kept nothing.
#[repr(C)]
struct Loaded {
    library: &'static Library,
    before: *const Loaded,
}

pub(crate) static LIBRARY: Library = Library {
    _abi: ABI,
    functions: shared_functions,
    destroy: resource::destroy,
    down: resource::down,
    destroy_ticket: ticket::destroy,
    tick: tick_own,
};

impl Library {
    /// Has this library serve a call for an object that it made.
    pub(crate) fn serve<'a>(
        &self,
        env: Env<'a>,
        name: &CStr,
        arguments: &[Term<'a>],
    ) -> Result<Term<'a>, ArgumentError> {
        let arguments: Vec<ErlNifTerm> = arguments.iter().map(Term::as_c_arg).collect();
        // SAFETY: the arguments belong to `env`, which is that of the call that is under way.
        let answer = unsafe { self.serve_raw(env.as_c_arg(), name, &arguments) };
        // SAFETY: a NIF's answer belongs to the environment of its call.
        answer.map(|answer| unsafe { Term::new(env, answer) })
    }

    /// As [`Library::serve`].
    ///
    /// # Safety
    ///
    /// As for any call of a NIF: `env` is that of the call that is under way, and the arguments
    /// belong to it.
    pub(crate) unsafe fn serve_raw(
        &self,
        env: *mut ErlNifEnv,
        name: &CStr,
        arguments: &[ErlNifTerm],
    ) -> Result<ErlNifTerm, ArgumentError> {
        let mut count = 0;
        // SAFETY: it writes the length of what it returns to where it is told.
        let first = unsafe { (self.functions)(&mut count) };
        // SAFETY: such is the promise of `functions`, and no build is ever unloaded.
        let functions = unsafe { slice::from_raw_parts(first, count) };
        let function = functions.iter().find(|function| {
            // SAFETY: the names of NIFs are C strings that live as long as their library.
            let same_name = unsafe { CStr::from_ptr(function.name) } == name;
            same_name && function.arity as usize == arguments.len()
        });
        let Some(function) = function else {
            return Err(ArgumentError(format!(
                "this balancer was made by a version of grpc_lb that has no {}/{}",
                name.to_string_lossy(),
                arguments.len()
            )));
        };
        let argc = arguments.len() as c_int;
        // SAFETY: the caller vouches for `env` and the arguments; the arity is right.
        Ok(unsafe { (function.function)(env, argc, arguments.as_ptr()) })
    }
}

/// The NIFs of this library, as the VM calls them.
fn functions() -> &'static [ErlNifFunc] {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    let Functions(functions) = FUNCTIONS.get_or_init(|| {
        if otp_release() >= dirty::SAFE_SINCE {
            return Functions(all().collect());
        }
        let normal = all().filter(|function| function.flags == 0);
        Functions(normal.chain(dirty::entrances()).collect())
    });
    functions
}

/// The NIFs of this library as they are.
fn all() -> impl Iterator<Item = ErlNifFunc> {
    let through_rustler = inventory::iter::<Nif>().map(Nif::get_def);
    through_rustler
        .chain([pick::function()])
        .chain(call::functions())
}

/// NIFs that are put together once.
pub(crate) struct Functions(pub(crate) Vec<ErlNifFunc>);
// SAFETY: the pointers in an `ErlNifFunc` are to constants.
unsafe impl Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

/// The NIFs of this library, for other builds: a call has passed an entrance over there.
///
/// # Safety
///
/// `count` must be a place for a number.
unsafe extern "C" fn shared_functions(count: *mut usize) -> *const ErlNifFunc {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    let Functions(functions) = FUNCTIONS.get_or_init(|| Functions(all().collect()));
    // SAFETY: the caller gives a place for it.
    unsafe { count.write(functions.len()) };
    functions.as_ptr()
}

/// What the VM looks for in the file.
#[no_mangle]
extern "C" fn nif_init() -> *const ErlNifEntry {
    struct Entry(ErlNifEntry);
    // SAFETY: the pointers in an `ErlNifEntry` are to constants.
    unsafe impl Send for Entry {}
    // SAFETY: as above.
    unsafe impl Sync for Entry {}

    static ENTRY: OnceLock<Entry> = OnceLock::new();
    let Entry(entry) = ENTRY.get_or_init(|| {
        // SAFETY: rustler wants this before its first call into the VM, which is after this, and
        // once, since it writes what such calls read.
        unsafe { internal_write_symbols() };
        let mut entry = ErlNifEntry::new(MODULE, functions(), load);
        entry.upgrade = Some(upgrade);
        Entry(entry)
    });
    entry
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
    // SAFETY: the VM gives the place.
    unsafe { remember(private, ptr::null()) };
    start(env, &[ErlNifResourceFlags::ERL_NIF_RT_CREATE])
}

/// The module is loaded in the place of a version whose balancers may live on.
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
    // SAFETY: the VM gives the place; every version leaves a list or nothing.
    unsafe { remember(private, before.cast::<Loaded>()) };
    // A version from before there were tickets has no type to take over.
    let ways = [
        ErlNifResourceFlags::ERL_NIF_RT_TAKEOVER,
        ErlNifResourceFlags::ERL_NIF_RT_CREATE,
    ];
    start(env, &ways)
}

/// Leaves the list of the builds that were loaded for the next version, and for `tick`.
///
/// # Safety
///
/// `private` must be a place for a pointer, and `before` such a list, or null.
unsafe fn remember(private: *mut *mut c_void, before: *const Loaded) {
    // SAFETY: the caller vouches for the list.
    let known = unsafe { libraries(before) }.any(|library| ptr::eq(library, &LIBRARY));
    let loaded: *const Loaded = match known {
        true => before,
        false => Box::leak(Box::new(Loaded {
            library: &LIBRARY,
            before,
        })),
    };
    // SAFETY: the caller gives the place.
    unsafe { private.write(loaded.cast_mut().cast()) };
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

/// Does what is due in the balancers of all builds. In how many nanoseconds there is more; `None` as
/// long as there is nothing.
pub(crate) fn tick(env: Env) -> Option<u64> {
    // SAFETY: `env` is that of the call that is under way.
    let loaded = unsafe { enif_priv_data(env.as_c_arg()) };
    // SAFETY: it is what `load` or `upgrade` has left.
    let libraries = unsafe { libraries(loaded.cast_const().cast()) };
    let next = libraries.map(|library| (library.tick)()).min()?;
    (next != u64::MAX).then_some(next)
}

extern "C" fn tick_own() -> u64 {
    // A panic must not unwind into another build.
    let next = catch_unwind(ticker::tick).unwrap_or(Some(clock::now()));
    next.map_or(u64::MAX, |next| {
        let left = next.since(clock::now()).as_nanos();
        u64::try_from(left).unwrap_or(u64::MAX)
    })
}

/// Opens the resource types in the first of these ways that the VM accepts. What the VM wants to
/// hear: 0 is success.
fn start(env: *mut ErlNifEnv, ways: &[ErlNifResourceFlags]) -> c_int {
    let balancer = callbacks(destroy_any, Some(down_any));
    let ticket = callbacks(destroy_any_ticket, None);
    let open = |name, callbacks| {
        let mut opened = ways.iter().map(|way| open(env, name, callbacks, *way));
        opened.find(|opened| !opened.is_null())
    };
    let (Some(balancer), Some(ticket)) =
        (open(BALANCER_TYPE, &balancer), open(TICKET_TYPE, &ticket))
    else {
        return 1;
    };
    resource::set_resource_type(balancer);
    ticket::set_resource_type(ticket);
    raw::prepare();
    clock::prepare();
    0
}

fn callbacks(
    destroy: unsafe extern "C" fn(*mut ErlNifEnv, *mut c_void),
    down: Option<ErlNifResourceDown>,
) -> ErlNifResourceTypeInit {
    ErlNifResourceTypeInit {
        dtor: destroy as *const ErlNifResourceDtor,
        stop: ptr::null(),
        down: down.map_or(ptr::null(), |down| down as *const ErlNifResourceDown),
        members: 3,
        dyncall: ptr::null(),
    }
}

fn open(
    env: *mut ErlNifEnv,
    name: &CStr,
    callbacks: &ErlNifResourceTypeInit,
    way: ErlNifResourceFlags,
) -> *const ErlNifResourceType {
    let mut tried = way;
    // SAFETY: `env` is that of the load or upgrade that is under way, and everything pointed to
    // lives through the call.
    unsafe { enif_init_resource_type(env, name.as_ptr(), callbacks, way, &mut tried) }
}

/// Drops an object, whichever build made it.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn destroy_any(env: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: every object begins with a pointer to the library that made it.
    let made_by = unsafe { *object.cast::<&Library>() };
    // SAFETY: the VM's call is passed on as it is.
    unsafe { (made_by.destroy)(env, object) };
}

/// Drops a ticket, whichever build made it.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn destroy_any_ticket(env: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: every object begins with a pointer to the library that made it.
    let made_by = unsafe { *object.cast::<&Library>() };
    // SAFETY: the VM's call is passed on as it is. Who made a ticket has the field.
    unsafe { (made_by.destroy_ticket)(env, object) };
}

/// Hears of a dead process, for an object of whichever build.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn down_any(
    env: *mut ErlNifEnv,
    object: *mut c_void,
    pid: *const ErlNifPid,
    monitor: *const ErlNifMonitor,
) {
    // SAFETY: every object begins with a pointer to the library that made it.
    let made_by = unsafe { *object.cast::<&Library>() };
    // SAFETY: the VM's call is passed on as it is.
    unsafe { (made_by.down)(env, object, pid, monitor) };
}

/// How many schedulers the VM was started with.
pub(crate) fn schedulers() -> u32 {
    u32::try_from(system_info().scheduler_threads).expect("a VM has schedulers")
}

/// The VM's major version.
fn otp_release() -> u32 {
    // SAFETY: it is a C string that lives as long as the VM.
    let release = unsafe { CStr::from_ptr(system_info().otp_release) };
    let release = release.to_str().ok().and_then(|text| text.parse().ok());
    release.expect("a release of OTP is a number")
}

fn system_info() -> ErlNifSysInfo {
    let mut info = MaybeUninit::<ErlNifSysInfo>::zeroed();
    // SAFETY: the struct has the size that we tell.
    unsafe { enif_system_info(info.as_mut_ptr(), size_of::<ErlNifSysInfo>()) };
    // SAFETY: every field is an integer or a pointer, for which zeroes are valid, and the VM
    // filled it in.
    unsafe { info.assume_init() }
}
