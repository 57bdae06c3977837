//! A store-load barrier in two halves: [`light`] for readers, [`heavy`] for writers.
//!
//! If one thread stores A, runs `light` and loads B, and another stores B, runs `heavy` and loads
//! A, then at least one of the two sees the other's store. With two `SeqCst` fences that holds on
//! every machine. On Linux the membarrier(2) system call lets the writer run the fence on behalf
//! of all threads of the process, and `light` only has to stop the compiler.

#[cfg(all(target_os = "linux", not(loom)))]
pub(crate) use self::membarrier::{heavy, light};

#[cfg(any(not(target_os = "linux"), loom))]
pub(crate) use self::fences::{heavy, light};

#[cfg(any(not(target_os = "linux"), loom))]
mod fences {
    use crate::sync::{fence, Ordering};

    /// The reader's half.
    #[inline]
    pub(crate) fn light() {
        // SeqCst: pairs with the fence in `heavy`; only two SeqCst fences order a store before a
        // later load of another location.
        fence(Ordering::SeqCst);
    }

    /// The writer's half. Says whether it holds; with fences it always does.
    pub(crate) fn heavy() -> bool {
        // SeqCst: pairs with the fence in `light`.
        fence(Ordering::SeqCst);
        true
    }
}

#[cfg(all(target_os = "linux", not(loom)))]
mod membarrier {
    use crate::sync::{compiler_fence, fence, AtomicBool, Ordering};
    use std::sync::OnceLock;

    // linux/membarrier.h; the libc crate has the call's number but not its commands everywhere.
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    /// Whether readers may leave the fence to writers. Set once, after the kernel has agreed.
    static EXPEDITED: AtomicBool = AtomicBool::new(false);

    /// The reader's half.
    #[inline]
    pub(crate) fn light() {
        // Relaxed: a reader that misses the change runs a fence that is not needed; one that sees
        // it relies on `heavy`, which never runs before the registration is through.
        if EXPEDITED.load(Ordering::Relaxed) {
            // SeqCst: keeps the compiler from moving the load above the store. The processor's
            // part is done by membarrier in `heavy`, which makes every running thread of the
            // process execute a full barrier; a thread that is not running passed one when it
            // was switched out.
            compiler_fence(Ordering::SeqCst);
        } else {
            // SeqCst: pairs with the fence in `heavy`.
            fence(Ordering::SeqCst);
        }
    }

    /// The writer's half. Says whether it holds: if the kernel takes its promise back, nothing
    /// may be freed on the strength of it.
    pub(crate) fn heavy() -> bool {
        // SeqCst: pairs with the fence in `light`, for readers that have not seen `EXPEDITED`.
        fence(Ordering::SeqCst);
        !register() || membarrier(PRIVATE_EXPEDITED)
    }

    /// Asks the kernel once. A kernel without the call, or a sandbox that forbids it, leaves the
    /// fences in place.
    fn register() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| {
            let agreed = membarrier(REGISTER_PRIVATE_EXPEDITED);
            // Relaxed: see `light`.
            EXPEDITED.store(agreed, Ordering::Relaxed);
            agreed
        })
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: membarrier(2) takes two integers, touches no memory of ours and reports an
        // unknown command as an error.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 }
    }
}
