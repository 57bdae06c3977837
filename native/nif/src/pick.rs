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
        false => pick_by::<false>(env, balancer),
        true => pick_seeded(env, balancer).to_term(env),
    })
}

#[cold]
#[inline(never)]
fn pick_seeded<'a>(env: Env<'a>, balancer: &Object<Balancer>) -> Word<'a> {
    pick_by::<true>(env, balancer).into()
}

#[inline]
fn pick_by<'a, const SEEDED: bool>(env: Env<'a>, balancer: &Object<Balancer>) -> Term<'a> {
    let monitors = Monitors::new(env, balancer);
    let picked = as_caller::<SEEDED, _>(balancer, |caller| {
        balancer.pick(caller, &monitors, |value| value.to_term(env))
    });
    match picked {
        Ok(value) => tuple(env, [atoms::ok().to_term(env), value]),
        Err(unavailable) => not_picked(env, balancer, unavailable).to_term(env),
    }
}

/// The answer to a pick that found nobody, as yet.
#[cold]
#[inline(never)]
fn not_picked<'a>(env: Env<'a>, balancer: &Object<Balancer>, unavailable: Unavailable) -> Word<'a> {
    match unavailable {
        Unavailable::Unfinished => pick_on(env, balancer, None),
        unavailable => reason(env, unavailable).into(),
    }
}

/// Goes on where most of a long list are dead and have not been taken out yet.
pub(crate) fn pick_on<'a>(env: Env<'a>, balancer: &Object<Balancer>, key: Option<u64>) -> Word<'a> {
    go_on(env, &PICK_THOROUGHLY, balancer, &[key.encode(env)])
}

const PICK_THOROUGHLY: Function = nif!(DirtyCpu, pick, 2, |_env, [balancer, key]| {
    on_object::<Balancer, 1>(Self::NAME, balancer, [key], pick_thoroughly)
});

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
    Ok(picked(env, found))
}

/// The answer to a pick that is finished.
#[inline]
pub(crate) fn picked<'a>(env: Env<'a>, found: Result<Term<'a>, Unavailable>) -> Term<'a> {
    match found {
        Ok(value) => tuple(env, [atoms::ok().to_term(env), value]),
        Err(unavailable) => reason(env, unavailable),
    }
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
