//! The hot NIF.

use grpc_lb_core::{Caller, Keyed, Unavailable};
use rustler::{Encoder, Env, Term};

use crate::balancer::Balancer;
use crate::vm::dispatch::on_object;
use crate::vm::function::{nif, Function};
use crate::vm::go_on::go_on;
use crate::vm::owner::Monitors;
use crate::vm::term::{tuple, Word};
use crate::vm::{Answer, Object};
use crate::{atoms, decode};

/// `pick(balancer) -> {:ok, value} | {:error, :no_backends | :closed}`
#[inline]
pub(crate) fn pick<'a>(env: Env<'a>, balancer: &Object<Balancer>, []: [Term<'a>; 0]) -> Answer<'a> {
    Ok(match balancer.draws().is_some() {
        false => pick_by::<false, false>(env, balancer, None),
        true => pick_seeded(env, balancer, None).to_term(env),
    })
}

#[cold]
#[inline(never)]
pub(crate) fn pick_seeded<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    key: Option<u64>,
) -> Word<'a> {
    pick_by::<true, true>(env, balancer, key).into()
}

/// `KEYED` is whether there may be a key: the pick without one has nothing of it, and shares no code with
/// the other, or the compiler would make calls of it.
#[inline]
pub(crate) fn pick_by<'a, const SEEDED: bool, const KEYED: bool>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    key: Option<u64>,
) -> Term<'a> {
    let monitors = Monitors::new(env, balancer);
    let picked = as_caller::<SEEDED, _>(balancer, |caller| {
        let _keyed = with_key(caller, key.filter(|_| KEYED));
        balancer.pick(caller, &monitors, |value| value.to_answer(env))
    });
    match picked {
        Ok(answer) => answer,
        Err(unavailable) => not_picked(env, balancer, unavailable, key).to_term(env),
    }
}

/// The answer to a pick that found nobody, as yet.
#[cold]
#[inline(never)]
fn not_picked<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    unavailable: Unavailable,
    key: Option<u64>,
) -> Word<'a> {
    match unavailable {
        Unavailable::Unfinished => go_on(env, &PICK_THOROUGHLY, balancer, &[key.encode(env)]),
        unavailable => reason(env, unavailable).into(),
    }
}

const PICK_THOROUGHLY: Function = nif!(DirtyCpu, pick, 2, |env, [balancer, key]| {
    on_object::<Balancer, 1>(env, Self::NAME, balancer, [key], pick_thoroughly)
});

/// `pick`, where most of a long list are dead and have not been taken out yet.
fn pick_thoroughly<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [key]: [Term<'a>; 1],
) -> Answer<'a> {
    let key = decode::key(key, 2)?;
    let monitors = Monitors::new(env, balancer);
    let found = as_caller::<true, _>(balancer, |caller| {
        let _keyed = with_key(caller, key);
        balancer.pick_thoroughly(caller, &monitors, |value| value.to_term(env))
    });
    Ok(match found {
        Ok(value) => tuple(env, [atoms::ok().to_term(env), value]),
        Err(unavailable) => reason(env, unavailable),
    })
}

thread_local! {
    static CALLER: Caller = Caller::new(fastrand::u64(..));
}

/// Runs something that picks, as the thread's caller. `SEEDED` is whether it looks if random choices are
/// to repeat. The hot NIFs have looked before: what they do is compiled in one piece only if it is called
/// in one place.
#[inline]
pub(crate) fn as_caller<const SEEDED: bool, R>(
    balancer: &Balancer,
    pick: impl FnOnce(&Caller) -> R,
) -> R {
    CALLER.with(|caller| {
        let draws = balancer.draws().filter(|_| SEEDED);
        let _drawing = draws.map(|draws| caller.drawing_from(draws));
        pick(caller)
    })
}

/// Runs something as the thread's caller that does not pick.
#[inline]
pub(crate) fn calling<R>(run: impl FnOnce(&Caller) -> R) -> R {
    CALLER.with(run)
}

/// Has a caller pick by the hash of a key, if there is one.
#[inline]
pub(crate) fn with_key(caller: &Caller, key: Option<u64>) -> Option<Keyed<'_>> {
    key.map(|hash| caller.with_key(hash))
}

/// `{:error, reason}`
#[inline]
pub(crate) fn reason(env: Env, unavailable: Unavailable) -> Term {
    let reason = match unavailable {
        Unavailable::NoBackends => atoms::no_backends(),
        Unavailable::Closed => atoms::closed(),
        Unavailable::Overloaded => atoms::overloaded(),
        Unavailable::Unfinished => unreachable!("a thorough search finishes"),
    };
    tuple(env, [atoms::error(), reason].map(|atom| atom.to_term(env)))
}
