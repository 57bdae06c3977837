//! The balancer as a term: a NIF resource, found again in an argument, watched over by monitors
//! on the processes that own it or its backends.

use std::ffi::c_void;
use std::io;
use std::mem::{size_of, transmute, MaybeUninit};
use std::num::NonZeroU64;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::Arc;
use std::thread;

use grpc_lb_core::{Balancer, Owner, Owners};
use rustler::sys::{
    enif_alloc_resource, enif_demonitor_process, enif_get_resource, enif_is_process_alive,
    enif_keep_resource, enif_make_resource, enif_monitor_process, enif_release_resource, ErlNifEnv,
    ErlNifMonitor, ErlNifPid, ErlNifResourceType, ErlNifTerm,
};
use rustler::{Env, LocalPid, Monitor, Term};

use crate::error::{kind, ArgumentError};
use crate::library::{Library, LIBRARY};
use crate::value::Value;

/// The resource type, opened when the library was loaded.
static RESOURCE_TYPE: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(ptr::null_mut());

pub(crate) fn set_resource_type(opened: *const ErlNifResourceType) {
    // Relaxed: the VM lets no process call the module before its library is loaded, and orders
    // that call after the load.
    RESOURCE_TYPE.store(opened.cast_mut(), Ordering::Relaxed);
}

/// What a balancer's reference refers to.
///
/// The first field is where other builds of this library look (see `library.rs`), hence `repr(C)`.
#[repr(C)]
pub(crate) struct Object {
    made_by: &'static Library,
    /// Counted, so that a tick can find it alive, or not: see `ticker.rs`.
    pub(crate) balancer: Arc<Balancer<Value, Monitor>>,
}

// The VM aligns resources for any C type, which is 8 bytes at least.
const _: () = assert!(align_of::<Object>() <= 8);

/// Whose object an argument refers to.
pub(crate) enum Found<'a> {
    Ours(&'a Object),
    /// Made by another build of the library, which has to serve it.
    Foreign(&'a Library),
}

/// Finds the object that a term refers to. `None` when it is no balancer.
///
/// # Safety
///
/// `term` must belong to `env`, and the result must not outlive the call that has `term` as an
/// argument.
#[inline]
pub(crate) unsafe fn find<'a>(env: *mut ErlNifEnv, term: ErlNifTerm) -> Option<Found<'a>> {
    let mut object = MaybeUninit::uninit();
    // Relaxed: see `set_resource_type`.
    let resource_type = RESOURCE_TYPE.load(Ordering::Relaxed);
    // SAFETY: the caller vouches for `env` and `term`; `object` has room for the answer.
    if unsafe { enif_get_resource(env, term, resource_type, object.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call above said that it wrote it.
    let object: *const c_void = unsafe { object.assume_init() };
    // SAFETY: every object of this type, whichever build made it, begins with a pointer to the
    // `Library` of the build that made it, which is never unloaded.
    let made_by: &'a Library = unsafe { *object.cast::<&'a Library>() };
    if ptr::eq(made_by, &LIBRARY) {
        // SAFETY: we made it, so it is an `Object`; the argument keeps it alive.
        Some(Found::Ours(unsafe { &*object.cast::<Object>() }))
    } else {
        Some(Found::Foreign(made_by))
    }
}

/// Finds the object that an argument refers to.
pub(crate) fn get<'a>(env: Env<'a>, term: Term<'a>) -> Result<Found<'a>, ArgumentError> {
    // SAFETY: `Term<'a>` belongs to `Env<'a>`, and neither outlives the call.
    unsafe { find(env.as_c_arg(), term.as_c_arg()) }.ok_or_else(|| not_a_balancer(term))
}

#[cold]
pub(crate) fn not_a_balancer(term: Term) -> ArgumentError {
    ArgumentError(format!(
        "argument 1 is not a balancer: expected the reference that GrpcLb.new/3 returned on this \
         node, got {}",
        kind(term)
    ))
}

/// A reference of our own to an object, which frees the object if it is the last one.
pub(crate) struct Handle(*const Object);

impl Handle {
    pub(crate) fn new(balancer: Balancer<Value, Monitor>) -> Handle {
        // Relaxed: see `set_resource_type`.
        let resource_type = RESOURCE_TYPE.load(Ordering::Relaxed);
        // SAFETY: the type is open, because this library is loaded.
        let memory = unsafe { enif_alloc_resource(resource_type, size_of::<Object>()) };
        let object = memory.cast::<Object>();
        // SAFETY: the VM gave us memory of that size and alignment that nobody else has.
        unsafe {
            object.write(Object {
                made_by: &LIBRARY,
                balancer: Arc::new(balancer),
            });
        }
        Handle(object)
    }

    /// One more reference to an object.
    fn keep(object: &Object) -> Handle {
        let object: *const Object = object;
        // SAFETY: the object is alive, as the borrow shows.
        unsafe { enif_keep_resource(object.cast()) };
        Handle(object)
    }

    pub(crate) fn object(&self) -> &Object {
        // SAFETY: `new` initialised it, and our reference keeps it alive.
        unsafe { &*self.0 }
    }

    pub(crate) fn to_term<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the object is alive.
        let raw = unsafe { enif_make_resource(env.as_c_arg(), self.0.cast()) };
        // SAFETY: it was made in this environment.
        unsafe { Term::new(env, raw) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: gives up the reference that `new` or `keep` took.
        unsafe { enif_release_resource(self.0.cast()) };
    }
}

// SAFETY: a reference to a resource may be given up on any thread, and an `Object` is shared
// between threads as it is.
unsafe impl Send for Handle {}

/// With more backends than this, what the VM has done on a normal scheduler, which is to hear of
/// deaths and to run destructors, is done on a thread of its own: freeing a thousand copied terms,
/// or building their list anew, takes some tenths of a millisecond.
const LARGE: usize = 1_000;

/// Starts a thread for such work. On an error the work was dropped undone.
fn start_thread(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let named = thread::Builder::new().name("grpc_lb".into());
    named.spawn(work).map(drop)
}

/// Drops an object of this build.
///
/// # Safety
///
/// To be called by the VM alone, once, when nothing refers to the object any more.
pub(crate) unsafe extern "C" fn destroy(_env: *mut ErlNifEnv, object: *mut c_void) {
    // A panic must not unwind into the VM; what was not dropped by then is leaked.
    let _ = catch_unwind(|| {
        // SAFETY: the VM calls this once, for an object that `Handle::new` initialised, and frees
        // its memory afterwards without another look at it.
        let object = unsafe { ptr::read(object.cast::<Object>()) };
        if object.balancer.summary().backends > LARGE {
            // If there can be no thread, the object is dropped here, with the work.
            let _ = start_thread(move || drop(object));
        }
    });
}

/// Hears that a process died that was monitored for an object of this build.
///
/// # Safety
///
/// To be called by the VM alone.
pub(crate) unsafe extern "C" fn down(
    env: *mut ErlNifEnv,
    object: *mut c_void,
    pid: *const ErlNifPid,
    _monitor: *const ErlNifMonitor,
) {
    // A panic must not unwind into the VM.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the VM keeps the object alive during the call, and `Handle::new` made it.
        let object = unsafe { &*object.cast::<Object>() };
        // SAFETY: the VM passes a valid pid.
        let owner = owner_of(LocalPid::from_c_arg(unsafe { *pid }));
        if !object.balancer.note_death(owner) {
            return;
        }
        if object.balancer.summary().backends <= LARGE || settle_on_a_thread(object).is_err() {
            object.balancer.remove_dead(&Monitors { env, object });
        }
    }));
}

/// One thread settles all deaths that are noted before it begins, so that a thousand at once do
/// not build a large list a thousand times.
fn settle_on_a_thread(object: &Object) -> io::Result<()> {
    let handle = Handle::keep(object);
    start_thread(move || {
        let object = handle.object();
        // No environment: the thread is none of the VM's.
        let env = ptr::null_mut();
        object.balancer.remove_dead(&Monitors { env, object });
    })
}

/// The processes that own a balancer or its backends, watched with monitors of the VM.
pub(crate) struct Monitors<'a> {
    env: *mut ErlNifEnv,
    object: &'a Object,
}

impl<'a> Monitors<'a> {
    pub(crate) fn new(env: Env, object: &'a Object) -> Self {
        Self::in_call(env.as_c_arg(), object)
    }

    /// `env` is that of the call that is under way.
    #[inline]
    pub(crate) fn in_call(env: *mut ErlNifEnv, object: &'a Object) -> Self {
        Monitors { env, object }
    }
}

impl Owners for Monitors<'_> {
    type Watch = Monitor;

    fn watch(&self, owner: Owner) -> Option<Monitor> {
        let pid = pid_of(owner);
        let mut monitor = MaybeUninit::uninit();
        let object: *const Object = self.object;
        // SAFETY: `env` is that of the call or callback that is under way, the object is one of
        // our resources, and `monitor` has room for the answer.
        let failed = unsafe {
            enif_monitor_process(
                self.env,
                object.cast(),
                pid.as_c_arg(),
                monitor.as_mut_ptr(),
            )
        };
        if failed != 0 {
            return None;
        }
        // SAFETY: the call said that it wrote it.
        Some(Monitor::from_c_arg(unsafe { monitor.assume_init() }))
    }

    fn unwatch(&self, monitor: Monitor) {
        let object: *const Object = self.object;
        // A monitor that has fired meanwhile is gone already, which is as good.
        // SAFETY: as in `watch`.
        unsafe { enif_demonitor_process(self.env, object.cast(), monitor.as_c_arg()) };
    }

    fn is_alive(&self, owner: Owner) -> bool {
        // SAFETY: `env` is that of the call that is under way, and asking writes nothing.
        unsafe { enif_is_process_alive(self.env, pid_of(owner).as_c_arg()) != 0 }
    }
}

/// A local pid is one word that means the same everywhere on the node.
pub(crate) fn owner_of(pid: LocalPid) -> Owner {
    // SAFETY: an `ErlNifPid` is a C struct of one term, which is one word.
    let word = unsafe { transmute::<ErlNifPid, u64>(*pid.as_c_arg()) };
    Owner(NonZeroU64::new(word).expect("no term is all zeroes"))
}

pub(crate) fn pid_of(owner: Owner) -> LocalPid {
    // SAFETY: `owner_of` made it from such a pid.
    LocalPid::from_c_arg(unsafe { transmute::<u64, ErlNifPid>(owner.0.get()) })
}
