//! What is told to those who wait in line for room.

use std::sync::Arc;

use grpc_lb_core::Owner;
use rustler::{Encoder, Env, OwnedEnv, Term};

use crate::atoms;
use crate::value::Core;
use crate::vm::owner::pid_of;
use crate::vm::scheduler::on_normal_scheduler;
use crate::vm::worker::hand_over;

/// Tells a process that it is the first in line, and that there may be room.
pub(crate) fn tell(env: Env<'_>) -> impl FnOnce(Owner, u64) + '_ {
    move |who, place| {
        // Who is dead has a place that goes with it.
        let sent = env.send(&pid_of(who), message(env, place)).is_ok();
        if !sent && !on_normal_scheduler() {
            // The VM lets nobody send who is killed while its dirty NIF runs.
            hand_over(move || send(who, place));
        }
    }
}

/// For a thread that is none of the VM's.
fn send(who: Owner, place: u64) {
    let _ = OwnedEnv::new().send_and_clear(&pid_of(who), |env| message(env, place));
}

fn message(env: Env, place: u64) -> Term {
    (atoms::grpc_lb_room(), place).encode(env)
}

/// Lets the first who waits know of a change that is done, and may have made room.
pub(crate) fn tell_of_change(env: Env, balancer: &Core) {
    if balancer.is_awaited() {
        balancer.tell_first(tell(env));
    }
}

/// As `tell_of_change`, for a change that was made on no process's behalf.
pub(crate) fn tell_of_event(balancer: &Arc<Core>) {
    if !balancer.is_awaited() {
        return;
    }
    let balancer = Arc::clone(balancer);
    // A message without a process that sends it has to come from a thread that is none of the VM's.
    hand_over(move || balancer.tell_first(send));
}
