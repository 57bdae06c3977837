//! The balancers that real time drives. `GrpcLb.Ticker` calls for their work, and is woken when some
//! falls due early.

use std::time::Duration;

use grpc_lb_core::{Busy, Time};
use parking_lot::Mutex;
use rustler::{Env, Term};

use crate::alarm::{wake_at, ALARM};
use crate::atoms;
use crate::balancer::Balancer;
use crate::clock::{self, Clock};
use crate::error::ArgumentError;
use crate::events;
use crate::timed::{self, Driven, Live, Timed};
use crate::vm::library::ask_all;
use crate::vm::scheduler::notify;
use crate::vm::{Answer, Handle, Object};

static BALANCERS: Timed = Timed::new();

/// The shortest sleep of the ticker, unless it is woken: it does the work of several balancers at
/// once.
const NAP: Duration = Duration::from_millis(10);

/// The time until a balancer whose work has panicked gets another tick.
const AFTER_PANIC: Duration = Duration::from_secs(1);

/// Has a balancer ticked by its clock, once, if it has such work or something to tell.
pub(crate) fn adopt(env: Env, balancer: &Object<Balancer>) {
    if !balancer.is_timed() && !balancer.is_eventful() {
        return;
    }
    let Some(driven) = balancer.adopt() else {
        return;
    };
    balancer.about().refer(Handle::keep(balancer).to_term(env));
    match balancer.clock() {
        Clock::System => BALANCERS.add(driven),
        Clock::Manual(clock) => clock.drive(driven),
    }
}

/// How long it works at a time: others wait for the dirty schedulers, too.
const TURN: Duration = Duration::from_millis(1);

/// A look at all balancers, in turns.
static ROUND: Mutex<Round> = Mutex::new(Round {
    left: Vec::new(),
    next: None,
});

struct Round {
    /// Those that have still to be looked at.
    left: Vec<Driven>,
    /// When there is more to do in the others.
    next: Option<Time>,
}

/// Does what is due in the balancers, as far as it comes in a turn. Returns in how long there is more,
/// no time if the turn was over; `None` as long as there is nothing.
pub(crate) fn tick() -> Option<Duration> {
    let mut round = ROUND.lock();
    if round.left.is_empty() {
        ALARM.begin_look();
        *round = Round {
            left: BALANCERS.known(),
            next: None,
        };
    }
    let end = clock::now() + TURN;
    while let Some(balancer) = round.left.pop() {
        let due = balancer.upgrade().and_then(|balancer| tick_one(&balancer));
        round.next = [round.next, due].into_iter().flatten().min();
        if !round.left.is_empty() && clock::now() >= end {
            return Some(Duration::ZERO);
        }
    }
    let now = clock::now();
    let next = round.next.map_or(Time::NEVER, |next| next.max(now + NAP));
    // A ticker that has ended within the round has taken with it what it was told.
    let next = ALARM.end_look(next);
    (next != Time::NEVER).then(|| next.since(now))
}

fn tick_one(balancer: &Live) -> Option<Time> {
    let now = clock::now();
    match balancer.core.due() {
        Some(due) if due <= now => match timed::try_tick(balancer, now) {
            Ok(Ok(next)) => next,
            // It is due still.
            Ok(Err(Busy)) => Some(now),
            Err(_panic) => Some(now + AFTER_PANIC),
        },
        due => due,
    }
}

/// Wakes the ticker for what cannot wait.
#[cold]
pub(crate) fn wake_now(env: Env) {
    wake_at(Time(0), |name, message| notify(env, name, message));
}

/// Wakes the ticker when a balancer has something due before it would look.
pub(crate) fn wake(env: Env, balancer: &Balancer) {
    if let (Clock::System, Some(due)) = (balancer.clock(), balancer.due()) {
        wake_at(due, |name, message| notify(env, name, message));
    }
}

/// `listen(boolean) -> :ok`, to all builds.
pub(crate) fn listen<'a>(env: Env<'a>, [listens]: [Term<'a>; 1]) -> Answer<'a> {
    decode_listens(listens)?;
    ask_all(env, c"listen_to_build", &[listens]);
    Ok(atoms::ok().to_term(env))
}

/// `listen_to_build(boolean) -> :ok`
pub(crate) fn listen_to_build<'a>(env: Env<'a>, [listens]: [Term<'a>; 1]) -> Answer<'a> {
    let listens = decode_listens(listens)?;
    events::listen_to(listens);
    for balancer in BALANCERS.known() {
        if let Some(core) = balancer.core.upgrade() {
            core.listen(listens);
        }
    }
    Ok(atoms::ok().to_term(env))
}

fn decode_listens(listens: Term) -> Result<bool, ArgumentError> {
    listens
        .decode()
        .map_err(|_| ArgumentError("argument 1 must be true or false".into()))
}
