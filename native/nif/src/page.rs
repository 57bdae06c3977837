//! A page of interned values as a reference, for who fills it and has them listed.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::vm::literal::{Page, Slot};
use crate::vm::{Resource, ResourceType};

/// A page that is held until it is let go, or the reference is garbage: who is killed meanwhile leaves
/// nothing.
pub(crate) struct Reserved(Mutex<Option<Arc<Page>>>);

static TYPE: ResourceType<Reserved> = ResourceType::new(c"grpc_lb_page");

impl Resource for Reserved {
    const EXPECTED: &'static str = "a page of interned values";

    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }
}

impl Reserved {
    pub(crate) fn new(page: Page) -> Self {
        Reserved(Mutex::new(Some(Arc::new(page))))
    }

    fn page(&self) -> Option<Arc<Page>> {
        self.0.lock().clone()
    }

    /// See [`Page::fill`].
    pub(crate) fn fill(&self, answers: rustler::Term) {
        if let Some(page) = self.page() {
            page.fill(answers);
        }
    }

    /// One of the values of the page, if it is held.
    pub(crate) fn slot(&self, index: usize) -> Option<Slot> {
        self.page()?.slot(index)
    }

    pub(crate) fn let_go(&self) {
        // Dropped after the lock.
        let page = self.0.lock().take();
        drop(page);
    }
}
