//! What wakes `GrpcLb.Ticker` when work falls due before it would look.

use grpc_lb_core::{Alarm, Time};
use rustler::Atom;

use crate::atoms;

pub(crate) static ALARM: Alarm = Alarm::new();

/// Wakes the ticker for what is due then, if it would look later. `notify` sends a message to the process
/// of a name.
pub(crate) fn wake_at(due: Time, notify: impl FnOnce(Atom, Atom)) {
    if ALARM.rings(due) {
        // Where there is none, its supervisor starts one, which ticks first of all.
        notify(atoms::ticker(), atoms::tick_due());
    }
}
