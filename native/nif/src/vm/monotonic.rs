//! The system's clock, in nanoseconds since some moment. The standard library has none that costs less
//! than it is exact.

/// The time.
#[inline]
pub(crate) fn now() -> u64 {
    system::now()
}

/// The time of the kernel's last tick, 1 to 10 milliseconds ago at most, where there is such a clock: to
/// read it costs a tenth.
#[inline]
pub(crate) fn last_tick() -> Option<u64> {
    system::last_tick()
}

#[cfg(target_os = "linux")]
mod system {
    use std::mem::MaybeUninit;

    use libc::{clock_gettime, clockid_t, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE};

    #[inline]
    pub(super) fn now() -> u64 {
        read(CLOCK_MONOTONIC).expect("the kernel has this clock")
    }

    #[inline]
    pub(super) fn last_tick() -> Option<u64> {
        read(CLOCK_MONOTONIC_COARSE)
    }

    #[inline]
    fn read(clock: clockid_t) -> Option<u64> {
        let mut time = MaybeUninit::uninit();
        // SAFETY: there is room for the answer.
        if unsafe { clock_gettime(clock, time.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: the call said that it wrote it.
        let time = unsafe { time.assume_init() };
        // 584 years since the start of the system are too many.
        Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::time::Instant;

    use once_cell::race::OnceBox;

    static ORIGIN: OnceBox<Instant> = OnceBox::new();

    pub(super) fn now() -> u64 {
        let origin = ORIGIN.get_or_init(|| Box::new(Instant::now()));
        // 584 years have passed when this is too much.
        origin.elapsed().as_nanos() as u64
    }

    pub(super) fn last_tick() -> Option<u64> {
        None
    }
}
