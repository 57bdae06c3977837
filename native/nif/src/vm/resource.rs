//! Objects as resources of the VM: made, found by a reference, ended.

use std::ffi::{c_void, CStr};
use std::marker::PhantomData;
use std::mem::{size_of, MaybeUninit};
use std::ops::Deref;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, Ordering};

use grpc_lb_core::Owner;
use rustler::sys::{
    enif_alloc_resource, enif_get_resource, enif_init_resource_type, enif_keep_resource,
    enif_make_resource, enif_release_resource, ErlNifEnv, ErlNifMonitor, ErlNifPid,
    ErlNifResourceDown, ErlNifResourceDtor, ErlNifResourceFlags, ErlNifResourceType,
    ErlNifResourceTypeInit,
};
use rustler::{Env, LocalPid, Term};

use super::library::{Library, LIBRARY};
use super::object::{vtable_of, Object, VTable};
use super::owner::{owner_of, Monitors};
use super::worker::hand_over;
use crate::error::kind;

/// A type of values that references can refer to.
pub(crate) trait Resource: Send + Sync + Sized + 'static {
    /// What an argument should have been that is no such reference.
    const EXPECTED: &'static str;

    /// What an argument is that is no such reference.
    fn kind(term: Term) -> &'static str {
        kind(term)
    }

    /// The type as the VM knows it.
    fn resource_type() -> &'static ResourceType<Self>;

    /// Ends a value to which nothing refers any more, on a normal scheduler.
    fn destroy(self, _env: Env) {}

    /// Hears that a process died that was watched for the object, on a normal scheduler.
    fn owner_died(_object: &Object<Self>, _owner: Owner, _monitors: &Monitors<Self>) {}
}

/// A type of resources: one static for each type.
pub(crate) struct ResourceType<T> {
    name: &'static CStr,
    vtable: VTable,
    /// Null until the library is loaded.
    opened: AtomicPtr<ErlNifResourceType>,
    of: PhantomData<fn() -> T>,
}

impl<T: Resource> ResourceType<T> {
    /// A type that is not open yet. Builds know it by its name.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        // The VM aligns resources for any C type, which is 8 bytes at least.
        const { assert!(align_of::<Object<T>>() <= 8) };
        ResourceType {
            name,
            vtable: VTable {
                made_by: &LIBRARY,
                destroy: destroy::<T>,
                down: down::<T>,
            },
            opened: AtomicPtr::new(ptr::null_mut()),
            of: PhantomData,
        }
    }

    /// The open type.
    #[inline]
    fn opened(&self) -> *const ErlNifResourceType {
        // Relaxed: the VM lets no process call the module before its library is loaded, and orders
        // that call after the load.
        self.opened.load(Ordering::Relaxed)
    }
}

/// Opens a type in the first of these ways that the VM accepts, if there is one.
///
/// # Safety
///
/// `env` must be that of a load or an upgrade that is under way.
pub(crate) unsafe fn open<T: Resource>(env: *mut ErlNifEnv, ways: &[ErlNifResourceFlags]) -> bool {
    let resource_type = T::resource_type();
    let callbacks = ErlNifResourceTypeInit {
        dtor: destroy_any as *const ErlNifResourceDtor,
        stop: ptr::null(),
        down: down_any as *const ErlNifResourceDown,
        members: 3,
        dyncall: ptr::null(),
    };
    let mut opened = ways.iter().map(|way| {
        let (name, mut tried) = (resource_type.name.as_ptr(), *way);
        // SAFETY: the caller vouches for `env`, and everything pointed to lives through the call.
        unsafe { enif_init_resource_type(env, name, &callbacks, *way, &mut tried) }
    });
    let Some(opened) = opened.find(|opened| !opened.is_null()) else {
        return false;
    };
    let place = &resource_type.opened;
    // Relaxed: see `opened`.
    place.store(opened.cast_mut(), Ordering::Relaxed);
    true
}

/// Whose object a term refers to.
pub(super) enum Found<'a, T> {
    Ours(&'a Object<T>),
    /// Another build made it, and has to serve it.
    Foreign(&'static Library),
}

/// Finds the object that an argument refers to. `None` when it refers to none of this type.
#[inline]
pub(super) fn find<'a, T: Resource>(term: Term<'a>) -> Option<Found<'a, T>> {
    let (env, raw) = (term.get_env().as_c_arg(), term.as_c_arg());
    let resource_type = T::resource_type();
    let mut object = MaybeUninit::uninit();
    // SAFETY: the term belongs to its environment; `object` has room for the answer.
    if unsafe { enif_get_resource(env, raw, resource_type.opened(), object.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: the call above said that it wrote it.
    let object: *const c_void = unsafe { object.assume_init() };
    // SAFETY: every object of this type, whichever build made it, begins with its table, which is
    // never unloaded.
    let vtable = unsafe { vtable_of(object) };
    if ptr::eq(vtable, &resource_type.vtable) {
        // SAFETY: we made it, so it is an `Object<T>`; the term keeps it alive.
        Some(Found::Ours(unsafe { &*object.cast::<Object<T>>() }))
    } else {
        Some(Found::Foreign(vtable.made_by))
    }
}

/// A reference of our own to an object, which ends the object if it is the last one.
pub(crate) struct Handle<T>(NonNull<Object<T>>);

// SAFETY: a reference to a resource may be given up on any thread, and then the value is shared
// between threads or dropped by another, which `Resource` allows.
unsafe impl<T: Resource> Send for Handle<T> {}
// SAFETY: who shares it shares the value, which `Resource` allows, and the VM's count of references
// is atomic.
unsafe impl<T: Resource> Sync for Handle<T> {}

impl<T: Resource> Handle<T> {
    /// An object of this value.
    #[inline]
    pub(crate) fn new(value: T) -> Self {
        let resource_type = T::resource_type();
        let size = size_of::<Object<T>>();
        // SAFETY: the type is open, because this library is loaded.
        let memory = unsafe { enif_alloc_resource(resource_type.opened(), size) };
        let object = NonNull::new(memory.cast()).expect("the VM ends when it has no memory");
        let vtable = &resource_type.vtable;
        // SAFETY: the VM gave us memory of that size and alignment that nobody else has.
        unsafe { object.write(Object { vtable, value }) };
        Handle(object)
    }

    /// One more reference to an object.
    pub(crate) fn keep(object: &Object<T>) -> Self {
        let object = NonNull::from(object);
        // SAFETY: the object is alive, as the borrow shows.
        unsafe { enif_keep_resource(object.as_ptr().cast()) };
        Handle(object)
    }

    /// The term, which is one more reference.
    #[inline]
    pub(crate) fn to_term<'a>(&self, env: Env<'a>) -> Term<'a> {
        // SAFETY: the object is alive.
        let raw = unsafe { enif_make_resource(env.as_c_arg(), self.0.as_ptr().cast()) };
        // SAFETY: it was made in this environment.
        unsafe { Term::new(env, raw) }
    }
}

impl<T> Deref for Handle<T> {
    type Target = Object<T>;

    fn deref(&self) -> &Object<T> {
        // SAFETY: `new` initialised it, and our reference keeps it alive.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Handle<T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: gives up the reference that `new` or `keep` took.
        unsafe { enif_release_resource(self.0.as_ptr().cast()) };
    }
}

/// Has the worker work on an object, which it keeps alive.
pub(crate) fn hand_over_with<T: Resource>(
    object: &Object<T>,
    work: impl FnOnce(&Object<T>, &Monitors<T>) + Send + 'static,
) {
    let handle = Handle::keep(object);
    hand_over(move || work(&handle, &Monitors::off_scheduler(&handle)));
}

/// Ends an object, whichever build made it.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn destroy_any(env: *mut ErlNifEnv, object: *mut c_void) {
    // SAFETY: the VM calls this for the objects of our types alone.
    let vtable = unsafe { vtable_of(object) };
    // SAFETY: the VM's call is passed on as it is.
    unsafe { (vtable.destroy)(env, object) };
}

/// Ends an object of this build.
///
/// # Safety
///
/// To be called by the VM alone, once, when nothing refers to the object any more.
unsafe extern "C" fn destroy<T: Resource>(env: *mut ErlNifEnv, object: *mut c_void) {
    // A panic must not unwind into the VM; what was not dropped by then is leaked.
    let _ = catch_unwind(|| {
        let lifetime = ();
        // SAFETY: `env` is that of the callback that is under way, and this one its only name.
        let env = unsafe { Env::new(&lifetime, env) };
        // SAFETY: the VM calls this once, for an object that `Handle::new` initialised, and frees
        // its memory afterwards without another look at it.
        let object = unsafe { object.cast::<Object<T>>().read() };
        object.value.destroy(env);
    });
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
    // SAFETY: the VM calls this for the objects of our types alone.
    let vtable = unsafe { vtable_of(object) };
    // SAFETY: the VM's call is passed on as it is.
    unsafe { (vtable.down)(env, object, pid, monitor) };
}

/// Hears of a dead process, for an object of this build.
///
/// # Safety
///
/// To be called by the VM alone.
unsafe extern "C" fn down<T: Resource>(
    env: *mut ErlNifEnv,
    object: *mut c_void,
    pid: *const ErlNifPid,
    _monitor: *const ErlNifMonitor,
) {
    // A panic must not unwind into the VM.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let lifetime = ();
        // SAFETY: `env` is that of the callback that is under way, and this one its only name.
        let env = unsafe { Env::new(&lifetime, env) };
        // SAFETY: the VM keeps the object alive during the call, and `Handle::new` made it.
        let object = unsafe { &*object.cast::<Object<T>>() };
        // SAFETY: the VM passes a valid pid.
        let pid = LocalPid::from_c_arg(unsafe { *pid });
        T::owner_died(object, owner_of(pid), &Monitors::new(env, object));
    }));
}
