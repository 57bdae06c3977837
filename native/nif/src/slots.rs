//! The calls in flight of one process, in one object of that process: a call takes a slot in it, where a
//! ticket would be an object by itself.

use grpc_lb_core::{Call, LatencySample, Outcome, Recent, Unavailable};
use hashbrown::HashMap;
use rustler::{Encoder, Env, OwnedEnv, Term};

use crate::balancer::Balancer;
use crate::call::{
    after_end, already_completed, checkout_on, is_one_of, not_checked_out, unfinished, Ending,
};
use crate::clock::Clock;
use crate::error::{kind, ArgumentError};
use crate::pick::{as_caller, calling, with_key};
use crate::ticket::tell_of_end;
use crate::value::{Value, LARGE};
use crate::vm::dispatch::{argument, on_object};
use crate::vm::owned::{NotOwner, Owned};
use crate::vm::owner::Monitors;
use crate::vm::term::{tuple, Word};
use crate::vm::worker::hand_over;
use crate::vm::{Answer, Handle, Object, Resource, ResourceType};
use crate::{atoms, decode};

/// A process's calls in flight.
pub(crate) struct Slots(Owned<Calls>);

#[derive(Default)]
struct Calls {
    in_flight: InFlight,
    /// What it has called lately it is likely to call again.
    recent: Recent,
}

/// Calls in flight, by their numbers.
#[derive(Default)]
struct InFlight {
    /// How many have begun: each has the number that it was.
    begun: u64,
    /// Most processes make one call at a time.
    only: Option<Running>,
    others: HashMap<u64, Running>,
}

/// A call in flight, and the clock by which it is timed.
struct Running {
    number: u64,
    call: Call,
    clock: Clock,
}

/// So many are not worth the work of giving their memory back.
const FEW: usize = 16;

impl InFlight {
    /// The number that the call has from now on, and no other ever.
    #[inline]
    fn hold(&mut self, call: Call, clock: Clock) -> u64 {
        self.begun += 1;
        let number = self.begun;
        let running = Running {
            number,
            call,
            clock,
        };
        match self.only {
            None => self.only = Some(running),
            Some(_) => self.hold_beside(running),
        }
        number
    }

    #[cold]
    #[inline(never)]
    fn hold_beside(&mut self, running: Running) {
        self.others.insert(running.number, running);
    }

    /// The call with this number, to be ended, if it has not ended.
    #[inline]
    fn take(&mut self, number: u64) -> Option<Running> {
        match self.only.take_if(|only| only.number == number) {
            None => self.take_beside(number),
            only => only,
        }
    }

    #[cold]
    #[inline(never)]
    fn take_beside(&mut self, number: u64) -> Option<Running> {
        let taken = self.others.remove(&number)?;
        let (count, room) = (self.others.len(), self.others.capacity());
        if room > FEW && count < room / 4 {
            self.others.shrink_to(count * 2);
        }
        Some(taken)
    }

    /// Ends all that are in flight.
    fn cancel(self, env: Env) {
        let (outcome, latency) = (Outcome::Cancelled, LatencySample::Measured);
        for Running { call, clock, .. } in self.only.into_iter().chain(self.others.into_values()) {
            let ended = calling(|caller| call.end(caller, outcome, latency, None, clock));
            tell_of_end(env, &ended, ended.has_ended_drain());
        }
    }
}

static TYPE: ResourceType<Slots> = ResourceType::new(c"grpc_lb_slots");

impl Resource for Slots {
    const EXPECTED: &'static str =
        "the slots of calls: expected the reference that GrpcLb.Native.slots/0 returned to this process";

    #[inline]
    fn resource_type() -> &'static ResourceType<Self> {
        &TYPE
    }

    /// The process has died, or has given its slots up: its calls were cancelled, and have lasted until now.
    fn destroy(self, env: Env) {
        let Calls { in_flight, .. } = self.0.into_inner();
        match in_flight.others.len() {
            ..=LARGE => in_flight.cancel(env),
            _ => hand_over(move || OwnedEnv::new().run(|env| in_flight.cancel(env))),
        }
    }
}

/// `slots() -> slots`
pub(crate) fn slots<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    let slots = Slots(Owned::new(env, Calls::default()));
    Ok(Handle::new(slots).to_term(env))
}

/// `begin_call(balancer, slots) -> {:ok, value, slot | ticket} | {:error, :other_build} | as checkout`
#[inline]
pub(crate) fn begin_call<'a>(env: Env<'a>, [balancer, slots]: [Term<'a>; 2]) -> Answer<'a> {
    // The build that made the balancer knows nothing of these slots: a call of it has a ticket.
    on_object::<Balancer, 0>(
        env,
        c"checkout",
        balancer.into(),
        [],
        |env, balancer, []| match balancer.draws().is_some() {
            false => begin_by::<false>(env, balancer, slots, None, |_| true, checkout_on),
            true => begin_apart(env, balancer, slots, None),
        },
    )
}

/// The same, of the backends to which a key leads.
pub(crate) fn begin_with_key<'a>(
    env: Env<'a>,
    [balancer, slots, key]: [Term<'a>; 3],
) -> Answer<'a> {
    let (balancer, key) = (balancer.into(), key.into());
    on_object::<Balancer, 1>(env, c"checkout", balancer, [key], |env, balancer, [key]| {
        begin_apart(env, balancer, slots, decode::key(key, 3)?)
    })
}

/// One that repeats, or is for a key. Apart, so that the plain one is compiled in one piece.
#[cold]
#[inline(never)]
fn begin_apart<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    slots: Term<'a>,
    key: Option<u64>,
) -> Answer<'a> {
    begin_by::<true>(env, balancer, slots, key, |_| true, checkout_on)
}

/// `begin_call_except(balancer, slots, values, key) -> as begin_call, or as checkout_except`
pub(crate) fn begin_call_except<'a>(
    env: Env<'a>,
    [balancer, slots, values, key]: [Term<'a>; 4],
) -> Answer<'a> {
    let hash = decode::key(key, 4)?;
    let begin = |env, balancer| {
        let Some(values) = decode::few_values(values, 3)? else {
            return Ok(unfinished(env, balancer, hash).to_term(env));
        };
        let wanted = |value: &Value| !is_one_of(&values, value);
        begin_by::<true>(env, balancer, slots, hash, wanted, unfinished)
    };
    let (nif, balancer) = (c"checkout_except", balancer.into());
    match hash {
        // An older build may know no keys.
        None => on_object::<Balancer, 1>(env, nif, balancer, [values.into()], |env, it, _| {
            begin(env, it)
        }),
        Some(_) => {
            let rest = [values.into(), key.into()];
            on_object::<Balancer, 2>(env, nif, balancer, rest, |env, it, _| begin(env, it))
        }
    }
}

#[inline]
fn begin_by<'a, const APART: bool>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    slots: Term<'a>,
    key: Option<u64>,
    wanted: impl Fn(&Value) -> bool,
    go_on: impl FnOnce(Env<'a>, &Object<Balancer>, Option<u64>) -> Word<'a>,
) -> Answer<'a> {
    let Some(slots) = argument::<Slots>(slots, 2)? else {
        return Ok(other_build(env).to_term(env));
    };
    let begun = slots.0.with(env, |Calls { in_flight, recent }| {
        let monitors = Monitors::new(env, balancer);
        as_caller::<APART, _>(balancer, |caller| {
            let _keyed = with_key(caller, key.filter(|_| APART));
            let clock = balancer.clock();
            balancer.begin_call_where(caller, recent, &monitors, clock, wanted, |value, call| {
                let number = in_flight.hold(call, clock.clone());
                (Word::from(value.lend(env)), number)
            })
        })
    });
    Ok(match begun {
        Ok(Ok((value, number))) => {
            let slot = number.encode(env);
            tuple(env, [atoms::ok().to_term(env), value.to_term(env), slot])
        }
        Ok(Err(Unavailable::Unfinished)) => go_on(env, balancer, key).to_term(env),
        Ok(Err(unavailable)) => not_checked_out(env, balancer, unavailable).to_term(env),
        Err(NotOwner) => return Err(of_another_process(2)),
    })
}

/// The process goes on with slots of this build.
#[cold]
#[inline(never)]
fn other_build(env: Env) -> Word {
    tuple(
        env,
        [atoms::error(), atoms::other_build()].map(|atom| atom.to_term(env)),
    )
    .into()
}

/// `end_call(slots, slot, outcome, report, latency) -> as end_call of a ticket`
#[inline]
pub(crate) fn end_call<'a>(
    env: Env<'a>,
    slots: &Object<Slots>,
    [slot, outcome, report, latency]: [Term<'a>; 4],
) -> Answer<'a> {
    let Ok(number) = slot.decode::<u64>() else {
        return Err(not_a_slot(slot));
    };
    let ending = Ending::decode(env, [outcome, report, latency], 3)?;
    let ended = slots.0.with(env, |Calls { in_flight, recent }| {
        let Running { call, clock, .. } = in_flight.take(number)?;
        let (outcome, latency, report) = (ending.outcome, ending.latency, ending.report());
        let ended = calling(|caller| call.end(caller, outcome, latency, report, &clock));
        tell_of_end(env, &ended, ended.has_ended_drain());
        let answer = Word::from(after_end(env, &ended, outcome, &clock));
        recent.keep(ended);
        Some(answer)
    });
    match ended {
        Ok(Some(answer)) => Ok(answer.to_term(env)),
        Ok(None) => Ok(already_completed(env).to_term(env)),
        Err(NotOwner) => Err(of_another_process(1)),
    }
}

#[cold]
fn not_a_slot(term: Term) -> ArgumentError {
    ArgumentError(format!(
        "argument 2, the slot, must be an integer that GrpcLb.Native.begin_call/2 returned, got {}",
        kind(term)
    ))
}

#[cold]
fn of_another_process(argument: usize) -> ArgumentError {
    ArgumentError(format!(
        "argument {argument} has the calls of another process: slots are for the process that called \
         GrpcLb.Native.slots/0"
    ))
}
