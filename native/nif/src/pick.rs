//! The hot NIF.

use grpc_lb_core::Unavailable;
use rustler::{Env, Term};

use crate::atoms;
use crate::balancer::Balancer;
use crate::vm::dispatch::on_object;
use crate::vm::function::{nif, Function};
use crate::vm::go_on::go_on;
use crate::vm::owner::Monitors;
use crate::vm::term::tuple;
use crate::vm::{Answer, Object};

/// `pick(balancer) -> {:ok, value} | {:error, :no_backends | :closed}`
#[inline]
pub(crate) fn pick<'a>(env: Env<'a>, balancer: &Object<Balancer>, []: [Term<'a>; 0]) -> Answer<'a> {
    let monitors = Monitors::new(env, balancer);
    let picked =
        balancer.as_caller(|caller| balancer.pick(caller, &monitors, |value| value.to_term(env)));
    Ok(match picked {
        Ok(value) => tuple(env, [atoms::ok().to_term(env), value]),
        Err(Unavailable::Unfinished) => go_on(env, &PICK_THOROUGHLY, balancer),
        Err(unavailable) => reason(env, unavailable),
    })
}

const PICK_THOROUGHLY: Function = nif!(DirtyCpu, pick, 1, |_env, [balancer]| {
    on_object::<Balancer, 0>(Self::NAME, balancer, [], pick_thoroughly)
});

/// `pick`, where most of a long list are dead and have not been taken out yet.
fn pick_thoroughly<'a>(env: Env<'a>, balancer: &Object<Balancer>, []: [Term<'a>; 0]) -> Answer<'a> {
    let monitors = Monitors::new(env, balancer);
    let picked = balancer.as_caller(|caller| {
        balancer.pick_thoroughly(caller, &monitors, |value| value.to_term(env))
    });
    Ok(match picked {
        Ok(value) => tuple(env, [atoms::ok().to_term(env), value]),
        Err(unavailable) => reason(env, unavailable),
    })
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
