//! Worker: the library's own thread, for work that would hold a scheduler up.
//!
//! There is one, however much work there is: a thousand large balancers that become garbage at once
//! are freed one after the other, and not on a thousand threads.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Work = Box<dyn FnOnce() + Send>;

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    work: VecDeque::new(),
    served: false,
});

static MORE: Condvar = Condvar::new();

/// How long the thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(5);

struct Queue {
    work: VecDeque<Work>,
    /// Whether there is a thread that will look at the queue again.
    served: bool,
}

/// Has work done by the worker, in the order in which it is handed over. Where no thread can be
/// started, it is done before this returns.
pub(crate) fn hand_over(work: impl FnOnce() + Send + 'static) {
    let mut queue = QUEUE.lock();
    queue.work.push_back(Box::new(work));
    if queue.served {
        drop(queue);
        MORE.notify_one();
        return;
    }
    queue.served = true;
    drop(queue);
    let named = thread::Builder::new().name("grpc_lb".into());
    if named.spawn(|| serve(IDLE)).is_err() {
        serve(Duration::ZERO);
    }
}

/// Does all work there is, until there has been none for so long.
fn serve(idle: Duration) {
    while let Some(work) = next(idle) {
        // A panic in one piece of work must not keep the others from being done.
        let _ = catch_unwind(AssertUnwindSafe(work));
    }
}

fn next(idle: Duration) -> Option<Work> {
    let mut queue = QUEUE.lock();
    if queue.work.is_empty() && !idle.is_zero() {
        MORE.wait_while_for(&mut queue, |queue| queue.work.is_empty(), idle);
    }
    let work = queue.work.pop_front();
    queue.served = work.is_some();
    work
}
