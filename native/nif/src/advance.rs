//! The NIFs that move a manual clock on, in turns of a dirty scheduler.
//!
//! How much falls due on the way is up to who moves it, and may be work for hours. The VM frees nothing that was
//! in `:persistent_term` as long as a NIF does not return, and has few dirty schedulers: so it comes back.

use std::time::Duration;

use rustler::{Encoder, Env, Term};

use crate::clock::{Clock, ClockReference};
use crate::error::{kind, ArgumentError};
use crate::vm::dispatch::on_object;
use crate::vm::function::{nif, Function};
use crate::vm::go_on::{go_on, go_on_again};
use crate::vm::term::Word;
use crate::vm::{Answer, Handle, Object};
use crate::{atoms, events, ticker};

/// How long it works at a time.
const TURN: Duration = Duration::from_millis(1);

/// `advance(clock, milliseconds) -> :ok`
pub(crate) fn advance<'a>(
    env: Env<'a>,
    clock: &Object<ClockReference>,
    [milliseconds]: [Term<'a>; 1],
) -> Answer<'a> {
    let milliseconds: u32 = milliseconds.decode().map_err(|_| {
        ArgumentError(format!(
            "argument 2 must be a number of milliseconds from 0 to {}, got {}",
            u32::MAX,
            kind(milliseconds)
        ))
    })?;
    let by = Duration::from_millis(milliseconds.into());
    Ok(take_turn(env, clock, by, |left| {
        go_on(env, &ADVANCE_ON, clock, &[encode(env, left)])
    }))
}

/// `advance_on(clock, nanoseconds) -> :ok`
const ADVANCE_ON: Function = nif!(DirtyCpu, advance_on, 2, |env, [reference, left]| {
    let go_on = |left| {
        go_on_again(
            env,
            &ADVANCE_ON,
            &[reference.to_term(env), encode(env, left)],
        )
    };
    on_object::<ClockReference, 1>(env, Self::NAME, reference, [left], |env, clock, [left]| {
        let by = Duration::from_nanos(left.decode().expect("it was put down"));
        Ok(take_turn(env, clock, by, go_on))
    })
});

fn take_turn<'a>(
    env: Env<'a>,
    clock: &Object<ClockReference>,
    by: Duration,
    go_on: impl FnOnce(Duration) -> Word<'a>,
) -> Term<'a> {
    let left = clock.clock().advance(by, TURN);
    events::ring(env);
    match left {
        None => atoms::ok().to_term(env),
        Some(left) => go_on(left).to_term(env),
    }
}

/// At most some weeks, for that is what a clock is moved by: so it is a small integer, which takes no memory.
fn encode(env: Env, left: Duration) -> Term {
    (left.as_nanos() as u64).encode(env)
}

/// Has the work done at once that has become urgent, and answers `:ok`: by the ticker, or in the caller's next
/// turn where a test moves the clock.
#[cold]
#[inline(never)]
pub(crate) fn settle<'a>(env: Env<'a>, clock: &Clock) -> Word<'a> {
    match clock {
        Clock::System => {
            ticker::wake_now(env);
            atoms::ok().to_term(env).into()
        }
        Clock::Manual(clock) => {
            let clock = Handle::new(ClockReference::of(clock));
            go_on(env, &ADVANCE_ON, &clock, &[encode(env, Duration::ZERO)])
        }
    }
}
