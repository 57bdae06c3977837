//! What can be looked at: a balancer, and a view of one, which is a reference that does not keep it.

use std::sync::Arc;

use grpc_lb_core::{Info, Summary};
use rustler::{Env, Term};

use crate::registry::Listed;
use crate::timed::Unwatched;
use crate::value::{Core, Value, LARGE};
use crate::vm::worker::hand_over;
use crate::vm::{Handle, Object, Resource, ResourceType};

/// A balancer, or a view of one.
pub(crate) trait Look: Resource {
    fn listed(&self) -> &Listed;

    /// What can be said of it without its lock, and whether each backend needs a text that is hashed.
    fn sum_up(&self) -> (Summary, bool);

    /// The balancer as it is now.
    fn info(object: &Object<Self>, env: Env) -> Info<Value>;
}

/// See [`Look::sum_up`].
pub(crate) fn sum_up(core: &Core) -> (Summary, bool) {
    (core.summary(), core.hashes())
}

/// A view of a balancer. Once that has gone it looks like one that is closed.
pub(crate) struct View(Arc<Listed>);

impl View {
    pub(crate) fn new(listed: Arc<Listed>) -> Self {
        View(listed)
    }

    pub(crate) fn into_term(self, env: Env) -> Term {
        Handle::new(self).to_term(env)
    }

    /// Looks at the balancer if it has not gone. It does not go meanwhile.
    fn with<R>(&self, look: impl FnOnce(&Core) -> R) -> Option<R> {
        let core = self.0.core.upgrade()?;
        let seen = look(&core);
        let_go(core);
        Some(seen)
    }
}

/// Ends a hold of a balancer that may be the last one.
fn let_go(core: Arc<Core>) {
    if let Some(core) = Arc::into_inner(core) {
        if core.summary().backends > LARGE {
            hand_over(move || drop(core));
        }
    }
}

impl Look for View {
    fn listed(&self) -> &Listed {
        &self.0
    }

    fn sum_up(&self) -> (Summary, bool) {
        let gone = Summary {
            policy: self.0.policy,
            backends: 0,
            closed: true,
        };
        self.with(sum_up).unwrap_or((gone, false))
    }

    fn info(object: &Object<Self>, _env: Env) -> Info<Value> {
        // The resource that watches the owners may have gone already.
        let info = object.with(|core| core.info(&Unwatched));
        info.unwrap_or_else(|| Info {
            policy: object.0.policy,
            generation: 0,
            closed: true,
            malformed_reports: 0,
            layers: Vec::new(),
            table: None,
            backends: Vec::new(),
        })
    }
}

static TYPE: ResourceType<View> = ResourceType::new(c"grpc_lb_view");

impl Resource for View {
    const EXPECTED: &'static str = "a view of a balancer: expected one that GrpcLb.all/0 returned";

    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }
}
