//! Long lists, compared with what is listed in several turns of the process on a normal scheduler.

use grpc_lb_core::Seen;
use rustler::{Encoder, Env, Term};

use crate::balancer::{remove_dead, Balancer};
use crate::decode::{Backends, TURN};
use crate::vm::function::Function;
use crate::vm::go_on::go_on;
use crate::vm::owner::Monitors;
use crate::vm::scheduler::consume_timeslice;
use crate::vm::{Answer, Object};

/// What a list is compared for.
pub(crate) trait Purpose {
    /// Calls [`look_on`], in another turn.
    const LOOK_ON: Function;

    /// Whether it is given up as soon as one is not as it is listed.
    const LISTED: bool;

    /// Does it once all was seen. `None` where that is not to be done on a normal scheduler.
    fn finish<'a>(
        env: Env<'a>,
        balancer: &Object<Balancer>,
        list: Term<'a>,
        seen: &Seen,
    ) -> Option<Answer<'a>>;

    /// Where it is not to be done on a normal scheduler.
    fn give_up<'a>(env: Env<'a>, balancer: &Object<Balancer>, list: Term<'a>) -> Answer<'a>;
}

/// Begins with a list of so many.
pub(crate) fn look<'a, P: Purpose>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    list: Term<'a>,
    total: usize,
) -> Answer<'a> {
    suspend::<P>(env, balancer, [list, list], total, Seen::default())
}

/// Goes on with it.
pub(crate) fn look_on<'a, P: Purpose>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [list, rest, state]: [Term<'a>; 3],
) -> Answer<'a> {
    let state: (usize, u64, u32, u32, Vec<u32>) = state.decode().expect("it was put down");
    let (total, version, position, next, differ) = state;
    let mut seen = Seen {
        version,
        position,
        next,
        differ,
    };
    let position = position as usize;
    if position == total {
        let done = P::finish(env, balancer, list, &seen);
        return done.unwrap_or_else(|| P::give_up(env, balancer, list));
    }
    let end = total.min(position + TURN / 2);
    let part = Backends::rest(balancer, rest, position, end);
    let mut part = match P::LISTED {
        true => part.listed(),
        false => part.brief(),
    };
    charge(env, end - position);
    let died = || remove_dead(balancer, &Monitors::new(env, balancer));
    match balancer.try_look(&mut part, &mut seen, died) {
        Ok(()) => suspend::<P>(env, balancer, [list, part.left()], total, seen),
        // Where it is done then, it is refused for whatever comes first.
        Err(_) => P::give_up(env, balancer, list),
    }
}

/// Has the VM go on with the rest of a list in another turn.
fn suspend<'a, P: Purpose>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [list, rest]: [Term<'a>; 2],
    total: usize,
    seen: Seen,
) -> Answer<'a> {
    let Seen {
        version,
        position,
        next,
        differ,
    } = seen;
    let state = (total, version, position, next, differ).encode(env);
    Ok(go_on(env, &P::LOOK_ON, balancer, &[list, rest, state]).to_term(env))
}

/// Has a look at so many backends charged to the caller's turn, which is a millisecond.
pub(crate) fn charge(env: Env, backends: usize) {
    consume_timeslice(env, u8::try_from(1 + backends / 50).unwrap_or(100));
}
