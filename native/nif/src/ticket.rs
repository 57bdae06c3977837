//! The ticket as a reference, so that a call ends when its ticket is garbage.

use std::ops::Deref;

use grpc_lb_core::{Begun, Outcome};
use rustler::Env;

use crate::atoms;
use crate::clock::Clock;
use crate::line::tell;
use crate::vm::owner::pid_of;
use crate::vm::{Resource, ResourceType};

/// The core's ticket, and the clock by which it is timed.
pub(crate) struct Ticket {
    call: grpc_lb_core::Ticket,
    clock: Clock,
}

impl Ticket {
    #[inline]
    pub(crate) fn new(call: grpc_lb_core::Ticket, clock: Clock) -> Self {
        Ticket { call, clock }
    }

    /// What tells it the time.
    #[inline]
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl Deref for Ticket {
    type Target = grpc_lb_core::Ticket;

    #[inline]
    fn deref(&self) -> &grpc_lb_core::Ticket {
        &self.call
    }
}

static TYPE: ResourceType<Ticket> = ResourceType::new(c"grpc_lb_ticket");

impl Resource for Ticket {
    const EXPECTED: &'static str =
        "a ticket: expected the reference that GrpcLb.checkout/1 returned on this node";

    #[inline]
    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }

    /// The call of a ticket that is garbage was cancelled, and has lasted until now.
    fn destroy(self, env: Env) {
        // Most have ended.
        if !self.has_ended() {
            // Nobody else has it.
            let _ = self.complete(Outcome::Cancelled, None, &self.clock);
            tell_of_end(env, &self, self.has_ended_drain());
        }
    }
}

/// Lets those know who wait for the end of a call: for the room that it has left, and for itself.
#[inline]
pub(crate) fn tell_of_end(env: Env, call: &Begun, has_ended_drain: bool) {
    if call.is_awaited() {
        call.tell_first(tell(env));
    }
    if has_ended_drain {
        tell_drained(env, call);
    }
}

#[cold]
#[inline(never)]
fn tell_drained(env: Env, call: &Begun) {
    call.tell_drained(|who, number| {
        // Who is dead waits no more.
        let _ = env.send(&pid_of(who), (atoms::grpc_lb_drained(), number));
    });
}
