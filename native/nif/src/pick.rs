//! The hot NIF.

use grpc_lb_core::Unavailable;
use rustler::{Env, Term};

use crate::atoms;
use crate::balancer::Balancer;
use crate::vm::owner::Monitors;
use crate::vm::term::tuple;
use crate::vm::{Answer, Object};

/// `pick(balancer) -> {:ok, value} | {:error, :no_backends | :closed}`
#[inline]
pub(crate) fn pick<'a>(env: Env<'a>, balancer: &Object<Balancer>, []: [Term<'a>; 0]) -> Answer<'a> {
    let monitors = Monitors::new(env, balancer);
    let picked = balancer.as_caller(|caller| {
        match balancer.pick(caller, &monitors, |value| value.to_term(env)) {
            Err(Unavailable::Unfinished) => {
                balancer.pick_thoroughly(caller, &monitors, |value| value.to_term(env))
            }
            picked => picked,
        }
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
