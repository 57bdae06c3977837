//! Values that are not copied: the NIFs that have them interned, and erased.

use rustler::{Encoder, Env, Term};

use crate::balancer::Balancer;
use crate::error::ArgumentError;
use crate::page::Reserved;
use crate::vm::library::ask_all;
use crate::vm::literal::{forget, retired, Page};
use crate::vm::owner::Monitors;
use crate::vm::{Answer, Handle, Object};
use crate::{atoms, decode};

/// `reserve_page(number, words) -> page`, for a balancer that is to be made.
pub(crate) fn reserve_page<'a>(env: Env<'a>, [number, words]: [Term<'a>; 2]) -> Answer<'a> {
    let refused = |_| ArgumentError("a page has a number, and a number of words".into());
    let number = number.decode().map_err(refused)?;
    let words = words.decode().map_err(refused)?;
    Ok(Handle::new(Reserved::new(Page::new(number, words))).to_term(env))
}

/// `reserve_page_of(balancer, number, words) -> page`, by the build that is to list its values.
pub(crate) fn reserve_page_of<'a>(
    env: Env<'a>,
    _balancer: &Object<Balancer>,
    arguments: [Term<'a>; 2],
) -> Answer<'a> {
    reserve_page(env, arguments)
}

/// `fill_page(page, answers) -> :ok`
pub(crate) fn fill_page<'a>(
    env: Env<'a>,
    page: &Object<Reserved>,
    [answers]: [Term<'a>; 1],
) -> Answer<'a> {
    page.fill(answers);
    Ok(atoms::ok().encode(env))
}

/// `let_go_of_page(page) -> :ok`
pub(crate) fn let_go_of_page<'a>(
    env: Env<'a>,
    page: &Object<Reserved>,
    []: [Term<'a>; 0],
) -> Answer<'a> {
    page.let_go();
    Ok(atoms::ok().encode(env))
}

/// `extents(backends) -> [words | nil]`: those that the value of each takes, and `nil` where it is too large
/// for one.
pub(crate) fn extents<'a>(env: Env<'a>, [backends]: [Term<'a>; 1]) -> Answer<'a> {
    let pairs = decode::pairs(backends, 1)?;
    let words = pairs.iter().map(|(_id, value)| decode::extent(value));
    Ok(words.collect::<Vec<Option<usize>>>().encode(env))
}

/// `extents_of_new(balancer, backends) -> [words | nil]`, and `nil` for those that are listed with the same
/// value, too.
pub(crate) fn extents_of_new<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Answer<'a> {
    let pairs = decode::pairs(backends, 2)?;
    let listed = balancer.lists(&pairs, &Monitors::new(env, balancer));
    let words = pairs
        .iter()
        .zip(listed)
        .map(|((_id, value), listed)| match listed {
            true => None,
            false => decode::extent(value),
        });
    Ok(words.collect::<Vec<Option<usize>>>().encode(env))
}

/// `retired_pages(at_most) -> [{pages, words, [{number, words}]}]`: how much waits in each build, and the
/// first of it.
pub(crate) fn retired_pages<'a>(env: Env<'a>, [at_most]: [Term<'a>; 1]) -> Answer<'a> {
    Ok(ask_all(env, c"retired_pages_of_build", &[at_most]))
}

pub(crate) fn retired_pages_of_build<'a>(env: Env<'a>, [at_most]: [Term<'a>; 1]) -> Answer<'a> {
    let refused = |_| ArgumentError("argument 1 must be an integer from 0".into());
    let (pages, words, first) = retired(at_most.decode().map_err(refused)?);
    let first = first.into_iter().map(|page| (page.number, page.words));
    Ok((pages, words, first.collect::<Vec<(u64, u64)>>()).encode(env))
}

/// `forget_page(number) -> [:ok]`: it was erased, whichever build it is of.
pub(crate) fn forget_page<'a>(env: Env<'a>, [number]: [Term<'a>; 1]) -> Answer<'a> {
    Ok(ask_all(env, c"forget_page_of_build", &[number]))
}

pub(crate) fn forget_page_of_build<'a>(env: Env<'a>, [number]: [Term<'a>; 1]) -> Answer<'a> {
    let refused = |_| ArgumentError("argument 1 must be the number of a page".into());
    forget(number.decode().map_err(refused)?);
    Ok(atoms::ok().encode(env))
}
