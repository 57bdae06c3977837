//! The balancers that real time drives. `GrpcLb.Ticker` calls for their work, and is woken when some
//! falls due early.

use std::sync::Arc;
use std::time::Duration;

use grpc_lb_core::{Alarm, Time};
use rustler::Env;

use crate::atoms;
use crate::balancer::Balancer;
use crate::clock::{self, Clock};
use crate::timed::{self, Timed};
use crate::value::Core;
use crate::vm::scheduler::notify;

static BALANCERS: Timed = Timed::new();

static ALARM: Alarm = Alarm::new();

/// The shortest sleep of the ticker, unless it is woken: it does the work of several balancers at
/// once.
const NAP: Duration = Duration::from_millis(10);

/// The time until a balancer whose work has panicked gets another tick.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Has a balancer ticked by its clock, once, if it has such work.
pub(crate) fn adopt(balancer: &Balancer) {
    if !balancer.is_timed() {
        return;
    }
    let Some(core) = balancer.adopt() else {
        return;
    };
    match balancer.clock() {
        Clock::System => BALANCERS.add(core),
        Clock::Manual(clock) => clock.drive(core),
    }
}

/// Does what is due in all balancers. Returns in how long there is more; `None` as long as there is
/// nothing.
pub(crate) fn tick() -> Option<Duration> {
    ALARM.begin_look();
    let balancers = BALANCERS.living();
    let next = balancers.filter_map(|balancer| tick_one(&balancer)).min()?;
    let now = clock::now();
    let next = next.max(now + NAP);
    ALARM.end_look(next);
    Some(next.since(now))
}

fn tick_one(balancer: &Arc<Core>) -> Option<Time> {
    let now = clock::now();
    match balancer.due() {
        Some(due) if due <= now => timed::tick(balancer, now).unwrap_or(Some(now + AFTER_PANIC)),
        due => due,
    }
}

/// Wakes the ticker for what cannot wait.
#[cold]
pub(crate) fn wake_now(env: Env) {
    wake_at(env, Time(0));
}

/// Wakes the ticker when a balancer has something due before it would look.
pub(crate) fn wake(env: Env, balancer: &Balancer) {
    if let (Clock::System, Some(due)) = (balancer.clock(), balancer.due()) {
        wake_at(env, due);
    }
}

fn wake_at(env: Env, due: Time) {
    if ALARM.rings(due) {
        // Where there is none, its supervisor starts one, which ticks first of all.
        notify(env, atoms::ticker(), atoms::tick_due());
    }
}
