//! Who takes part in reclamation: the collector, and a handle for each thread that reads or writes.

use crate::sync::epoch::{Collector, Guard, LocalHandle};

/// The collector of this library. Its own, so that a pick never runs what others have deferred.
#[cfg(not(loom))]
fn collector() -> &'static Collector {
    // A race: a thread that comes while another makes the collector makes one too, and does not
    // wait. One of the two is kept.
    static COLLECTOR: once_cell::race::OnceBox<Collector> = once_cell::race::OnceBox::new();
    COLLECTOR.get_or_init(|| Box::new(Collector::new()))
}

// Everything of loom's is made anew for every execution of a model.
#[cfg(loom)]
fn collector() -> Collector {
    loom::lazy_static! {
        static ref COLLECTOR: Collector = Collector::new();
    }
    COLLECTOR.clone()
}

/// A thread's registration as a reader. Cannot be sent to another thread or shared.
pub(crate) struct Reader(LocalHandle);

impl Reader {
    pub(crate) fn register() -> Self {
        Reader(collector().register())
    }

    /// What is published now and is read under the guard lives as long as the guard.
    #[inline]
    pub(super) fn pin(&self) -> Guard {
        self.0.pin()
    }
}

/// Pins this thread as a writer. Its handle is made at its first change and goes with the thread.
pub(super) fn pin_writer() -> Guard {
    crate::sync::thread_local! {
        static WRITER: LocalHandle = collector().register();
    }
    WRITER.with(LocalHandle::pin)
}
