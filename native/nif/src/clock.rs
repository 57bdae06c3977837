//! The clock that is given to the core.
//!
//! Not the VM's: to ask for that costs five times as much, because it takes a lock and smooths
//! leaps.

use std::time::Instant;

use grpc_lb_core::Time;
use once_cell::race::OnceBox;

use crate::vm::scheduler::monotonic_milliseconds;

static ORIGIN: OnceBox<Instant> = OnceBox::new();

#[inline]
pub(crate) fn now() -> Time {
    let origin = ORIGIN.get_or_init(|| Box::new(Instant::now()));
    // 584 years have passed when this is too much.
    Time(origin.elapsed().as_nanos() as u64)
}

/// A time as `System.monotonic_time(:millisecond)` tells it.
pub(crate) fn milliseconds(time: Time) -> i64 {
    let (vm, now) = (monotonic_milliseconds(), now());
    let (ahead, behind) = (time.since(now), now.since(time));
    let rounded_up = ahead.as_nanos().div_ceil(1_000_000);
    vm.saturating_add(rounded_up as i64)
        .saturating_sub(behind.as_millis() as i64)
}
