//! A place in the line of those who wait for room, as a reference: it is given up when the process
//! that waits is dead.

use rustler::Env;

use crate::balancer::Balancer;
use crate::line::tell;
use crate::vm::{Handle, Resource, ResourceType};

/// A place in a balancer's line.
pub(crate) struct Waiter {
    pub(crate) balancer: Handle<Balancer>,
    pub(crate) place: u64,
}

static TYPE: ResourceType<Waiter> = ResourceType::new(c"grpc_lb_waiter");

impl Waiter {
    pub(crate) fn leave(&self, env: Env) {
        self.balancer.leave_line(self.place, tell(env));
    }
}

impl Resource for Waiter {
    const EXPECTED: &'static str =
        "a place in line: expected the reference that GrpcLb.Native.line_up/1 returned on this node";

    #[inline]
    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }

    fn destroy(self, env: Env) {
        self.leave(env);
    }
}
