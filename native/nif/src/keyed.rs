//! The NIFs of a call that has a key: `pick`, and those that check out, with one argument more.

use grpc_lb_core::Search;
use rustler::{Env, Term};

use crate::balancer::Balancer;
use crate::pick::{pick_by, pick_seeded};
use crate::vm::{Answer, Object};
use crate::waiter::Waiter;
use crate::{call, decode, slots};

/// `pick(balancer, key) -> as pick`
#[inline]
pub(crate) fn pick<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [key]: [Term<'a>; 1],
) -> Answer<'a> {
    let hash = decode::hash(key);
    if hash.is_none() {
        decode::no_key(key, 2)?;
    }
    Ok(match balancer.draws().is_some() {
        false => pick_by::<false, true>(env, balancer, hash),
        true => pick_seeded(env, balancer, hash).to_term(env),
    })
}

/// `checkout(balancer, key) -> as checkout`
pub(crate) fn checkout<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [key]: [Term<'a>; 1],
) -> Answer<'a> {
    let key = decode::key(key, 2)?;
    Ok(call::checkout_apart(env, balancer, key).to_term(env))
}

/// `begin_call(balancer, slots, key) -> as begin_call`
pub(crate) fn begin_call<'a>(env: Env<'a>, arguments: [Term<'a>; 3]) -> Answer<'a> {
    slots::begin_with_key(env, arguments)
}

/// `checkout_except(balancer, values, key) -> as checkout_except`
pub(crate) fn checkout_except<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [values, key]: [Term<'a>; 2],
) -> Answer<'a> {
    call::except_with_key(env, balancer, values, decode::key(key, 3)?)
}

/// `checkout_except_thoroughly(balancer, values, key) -> as checkout_except_thoroughly`
pub(crate) fn checkout_except_thoroughly<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [values, key]: [Term<'a>; 2],
) -> Answer<'a> {
    call::except_with_key_thoroughly(env, balancer, values, decode::key(key, 3)?)
}

/// `checkout_in_turn(waiter, values, key) -> as checkout_in_turn`
pub(crate) fn checkout_in_turn<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    [values, key]: [Term<'a>; 2],
) -> Answer<'a> {
    call::in_turn_thoroughly(env, waiter, values, decode::key(key, 3)?)
}

/// On a normal scheduler.
pub(crate) fn try_checkout_in_turn<'a>(
    env: Env<'a>,
    waiter: &Object<Waiter>,
    [values, key]: [Term<'a>; 2],
) -> Option<Answer<'a>> {
    let answer =
        decode::key(key, 3).and_then(|key| call::in_turn(env, waiter, values, key, Search::Brief));
    answer.transpose()
}
