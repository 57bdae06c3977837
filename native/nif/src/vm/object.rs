//! What a reference refers to: a Rust value with a head that all builds know.

use std::ffi::c_void;
use std::ops::Deref;

use rustler::sys::{ErlNifEnv, ErlNifMonitor, ErlNifPid};

use super::library::Library;

/// What an object says of itself, whichever build made it.
///
/// Builds share it: fields are only ever added at its end, with a new number of the ABI.
#[repr(C)]
pub(super) struct VTable {
    pub(super) made_by: &'static Library,
    pub(super) destroy: unsafe extern "C" fn(*mut ErlNifEnv, *mut c_void),
    pub(super) down:
        unsafe extern "C" fn(*mut ErlNifEnv, *mut c_void, *const ErlNifPid, *const ErlNifMonitor),
}

/// What a reference refers to.
///
/// The first field is where other builds look, hence `repr(C)`.
#[repr(C)]
pub(crate) struct Object<T> {
    pub(super) vtable: &'static VTable,
    pub(super) value: T,
}

impl<T> Deref for Object<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The table of an object.
///
/// # Safety
///
/// `object` must be an object of ours, whichever build made it.
#[inline]
pub(super) unsafe fn vtable_of(object: *const c_void) -> &'static VTable {
    // SAFETY: it begins with a reference to its table.
    unsafe { *object.cast::<&'static VTable>() }
}
