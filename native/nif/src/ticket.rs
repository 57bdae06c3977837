//! The ticket as a reference, so that a call ends when its ticket is garbage.

use crate::vm::{Resource, ResourceType};

pub(crate) use grpc_lb_core::Ticket;

static TYPE: ResourceType<Ticket> = ResourceType::new(c"grpc_lb_ticket");

impl Resource for Ticket {
    const EXPECTED: &'static str =
        "a ticket: expected the reference that GrpcLb.checkout/1 returned on this node";

    #[inline]
    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }
}
