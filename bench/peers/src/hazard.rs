//! The way that grpc_lb_core read its snapshot before it stood on crossbeam-epoch: one hazard pointer
//! a thread, the dear barrier on the writer's side. Kept so that what was given up can be measured.

use std::cell::Cell;
use std::ptr;
use std::sync::atomic::{compiler_fence, fence, AtomicBool, AtomicPtr, Ordering};

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::{values, Cursor, Hot, List, Rotation};

/// How many readers there may be at once.
const CAPACITY: usize = 1_024;

static SLOTS: [CachePadded<Slot>; CAPACITY] = [const {
    CachePadded::new(Slot {
        protected: AtomicPtr::new(ptr::null_mut()),
        claimed: AtomicBool::new(false),
    })
}; CAPACITY];

struct Slot {
    /// What its reader may be reading.
    protected: AtomicPtr<List>,
    claimed: AtomicBool,
}

/// A reader's claim on a slot.
pub struct Reader {
    slot: &'static Slot,
    own: Cell<u64>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.slot.claimed.store(false, Ordering::Release);
    }
}

/// Hazard pointers: name, look again, read. The writer frees what no slot names.
pub struct Hazard {
    list: AtomicPtr<List>,
    retired: Mutex<Vec<*mut List>>,
    expedited: bool,
    cursor: Cursor,
}

// SAFETY: the pointers are boxes that this owns; they are shared as the protocol of `pick` and
// `replace` has it.
unsafe impl Sync for Hazard {}

impl Hot for Hazard {
    type Reader = Reader;

    fn new(rotation: Rotation) -> Self {
        Hazard {
            list: AtomicPtr::new(Box::into_raw(Box::new(List::new(values(0))))),
            retired: Mutex::new(Vec::new()),
            expedited: membarrier::register(),
            cursor: Cursor::new(rotation),
        }
    }

    fn reader(&self) -> Reader {
        let slot = SLOTS.iter().find(|slot| {
            slot.claimed
                .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
        });
        Reader {
            slot: slot.expect("a slot"),
            own: Cell::new(0),
        }
    }

    #[inline]
    fn pick(&self, reader: &Reader) -> u64 {
        let protected = &reader.slot.protected;
        let mut candidate = self.list.load(Ordering::Relaxed);
        loop {
            protected.store(candidate, Ordering::Release);
            // Either the writer's scan sees the slot, or the next load sees the writer's new list.
            match self.expedited {
                true => compiler_fence(Ordering::SeqCst),
                false => fence(Ordering::SeqCst),
            }
            let now = self.list.load(Ordering::Acquire);
            if ptr::eq(now, candidate) {
                break;
            }
            candidate = now;
        }
        // SAFETY: it was current after the slot named it, so no writer frees it before that ends.
        let picked = unsafe { &*candidate }.at(self.cursor.take(&reader.own));
        protected.store(ptr::null_mut(), Ordering::Release);
        picked
    }

    fn replace(&self, values: Vec<u64>) {
        let next = Box::into_raw(Box::new(List::new(values)));
        let mut retired = self.retired.lock();
        retired.push(self.list.swap(next, Ordering::AcqRel));
        fence(Ordering::SeqCst);
        if self.expedited && !membarrier::run() {
            return;
        }
        let slots = SLOTS.iter();
        let held: Vec<_> = slots.map(|slot| slot.protected.load(Ordering::Acquire)).collect();
        retired.retain(|list| {
            let keep = held.contains(list);
            if !keep {
                // SAFETY: it came from a box, is out of sight, and no slot names it.
                drop(unsafe { Box::from_raw(*list) });
            }
            keep
        });
    }
}

impl Drop for Hazard {
    fn drop(&mut self) {
        for list in self.retired.get_mut().drain(..).chain([*self.list.get_mut()]) {
            // SAFETY: `&mut self`: there is no reader, and all came from boxes.
            drop(unsafe { Box::from_raw(list) });
        }
    }
}

/// membarrier(2): the kernel runs the barrier on all threads of the process.
#[cfg(target_os = "linux")]
mod membarrier {
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;

    pub(super) fn register() -> bool {
        call(REGISTER_PRIVATE_EXPEDITED)
    }

    pub(super) fn run() -> bool {
        call(PRIVATE_EXPEDITED)
    }

    fn call(command: libc::c_int) -> bool {
        // SAFETY: it takes two integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0) == 0 }
    }
}

#[cfg(not(target_os = "linux"))]
mod membarrier {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn run() -> bool {
        true
    }
}
