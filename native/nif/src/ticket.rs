//! The ticket of a call as a term: a NIF resource, so that a call ends when its ticket is garbage.

use std::ffi::c_void;
use std::mem::{size_of, MaybeUninit};
use std::panic::catch_unwind;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use grpc_lb_core::Ticket;
use rustler::sys::{
    enif_alloc_resource, enif_get_resource, enif_make_resource, enif_release_resource, ErlNifEnv,
    ErlNifResourceType, ErlNifTerm,
};
use rustler::Term;

use crate::error::{kind, ArgumentError};
use crate::library::{Library, LIBRARY};

/// The resource type, opened when the library was loaded.
static RESOURCE_TYPE: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(ptr::null_mut());

pub(crate) fn set_resource_type(opened: *const ErlNifResourceType) {
    // Relaxed: the VM lets no process call the module before its library is loaded, and orders
    // that call after the load.
    RESOURCE_TYPE.store(opened.cast_mut(), Ordering::Relaxed);
}

/// What a ticket's reference refers to.
///
/// The first field is where other builds of this library look (see `library.rs`), hence `repr(C)`.
#[repr(C)]
struct Object {
    made_by: &'static Library,
    ticket: Ticket,
}

// The VM aligns resources for any C type, which is 8 bytes at least.
const _: () = assert!(align_of::<Object>() <= 8);

/// Whose ticket an argument refers to.
pub(crate) enum FoundTicket<'a> {
    Ours(&'a Ticket),
    /// Made by another build of the library, which has to serve it.
    Foreign(&'a Library),
}

/// Finds the ticket that a term refers to. `None` when it is none.
///
/// # Safety
///
/// `term` must belong to `env`, and the result must not outlive the call that has `term` as an
/// argument.
#[inline]
pub(crate) unsafe fn find_ticket<'a>(
    env: *mut ErlNifEnv,
    term: ErlNifTerm,
) -> Option<FoundTicket<'a>> {
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
        let object = unsafe { &*object.cast::<Object>() };
        Some(FoundTicket::Ours(&object.ticket))
    } else {
        Some(FoundTicket::Foreign(made_by))
    }
}

#[cold]
pub(crate) fn not_a_ticket(term: Term) -> ArgumentError {
    ArgumentError(format!(
        "argument 1 is not a ticket: expected the reference that GrpcLb.checkout/1 returned on this \
         node, got {}",
        kind(term)
    ))
}

/// A reference of our own to an object.
pub(crate) struct TicketHandle(*mut Object);

impl TicketHandle {
    #[inline]
    pub(crate) fn new(ticket: Ticket) -> Self {
        // Relaxed: see `set_resource_type`.
        let resource_type = RESOURCE_TYPE.load(Ordering::Relaxed);
        // SAFETY: the type is open, because this library is loaded.
        let memory = unsafe { enif_alloc_resource(resource_type, size_of::<Object>()) };
        let object = memory.cast::<Object>();
        // SAFETY: the VM gave us memory of that size and alignment that nobody else has.
        unsafe {
            object.write(Object {
                made_by: &LIBRARY,
                ticket,
            });
        }
        TicketHandle(object)
    }

    /// The term, which from now on is all that keeps the object.
    #[inline]
    pub(crate) fn into_raw_term(self, env: *mut ErlNifEnv) -> ErlNifTerm {
        // SAFETY: the object is alive, and `env` is that of the call that is under way.
        unsafe { enif_make_resource(env, self.0.cast()) }
    }
}

impl Drop for TicketHandle {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: gives up the reference that `new` took.
        unsafe { enif_release_resource(self.0.cast()) };
    }
}

/// Drops a ticket of this build.
///
/// # Safety
///
/// To be called by the VM alone, once, when nothing refers to the object any more.
pub(crate) unsafe extern "C" fn destroy(_env: *mut ErlNifEnv, object: *mut c_void) {
    // A panic must not unwind into the VM; what was not dropped by then is leaked.
    let _ = catch_unwind(|| {
        // SAFETY: the VM calls this once, for an object that `TicketHandle::new` initialised, and
        // frees its memory afterwards without another look at it.
        unsafe { ptr::drop_in_place(object.cast::<Object>()) };
    });
}
