//! The clock that is given to the core.
//!
//! Not the VM's: to ask for that costs five times as much, because it takes a lock and smooths
//! leaps.

use std::sync::OnceLock;
use std::time::Instant;

use grpc_lb_core::Time;
use rustler::sys::{enif_monotonic_time, ErlNifTimeUnit};

static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// Starts the clock, when the library is loaded.
pub(crate) fn prepare() {
    ORIGIN.get_or_init(Instant::now);
}

#[inline]
pub(crate) fn now() -> Time {
    let origin = ORIGIN.get().expect("the library is loaded");
    // 584 years have passed when this is too much.
    Time(origin.elapsed().as_nanos() as u64)
}

/// A time as `System.monotonic_time(:millisecond)` tells it.
pub(crate) fn milliseconds(time: Time) -> i64 {
    // SAFETY: may be called on any thread of the VM.
    let vm = unsafe { enif_monotonic_time(ErlNifTimeUnit::ERL_NIF_MSEC) };
    let now = now();
    let (ahead, behind) = (time.since(now), now.since(time));
    let rounded_up = ahead.as_nanos().div_ceil(1_000_000);
    vm.saturating_add(rounded_up as i64)
        .saturating_sub(behind.as_millis() as i64)
}
