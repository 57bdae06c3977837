//! Values that are not copied: the NIFs that have them interned, and erased.

use grpc_lb_core::{Offers, Seen};
use rustler::{Encoder, Env, Term};

use crate::balancer::{remove_dead, Balancer};
use crate::decode::{Backends, TURN};
use crate::error::ArgumentError;
use crate::page::Reserved;
use crate::turns::{charge, look, look_on, Purpose};
use crate::value::Offered;
use crate::vm::dispatch::on_object;
use crate::vm::function::{nif, Function};
use crate::vm::go_on::go_on_copied;
use crate::vm::library::ask_all;
use crate::vm::literal::{forget, live_words, retired, Page, Words};
use crate::vm::owner::Monitors;
use crate::vm::{Answer, Handle, Object};
use crate::{atoms, decode};

/// `reserve_page(number, words, most) -> page | :full`, for a balancer that is to be made. It is full where
/// the pages of all builds would have more words than `most`.
pub(crate) fn reserve_page<'a>(env: Env<'a>, [number, words, most]: [Term<'a>; 3]) -> Answer<'a> {
    let refused = |_| ArgumentError("a page has a number, and a number of words".into());
    let number = number.decode().map_err(refused)?;
    let most: u64 = most.decode().map_err(refused)?;
    // Counted first: of those that take what is left at the same time, one sees it gone.
    let words = Words::count(words.decode().map_err(refused)?);
    let builds = ask_all(env, c"interned_words_of_build", &[]);
    let builds: Vec<u64> = builds.decode().map_err(refused)?;
    if builds.into_iter().fold(0, u64::saturating_add) > most {
        return Ok(atoms::full().encode(env));
    }
    Ok(Handle::new(Reserved::new(Page::new(number, words))).to_term(env))
}

/// `reserve_page_of(balancer, number, words, most) -> page | :full`, by the build that is to list its values.
pub(crate) fn reserve_page_of<'a>(
    env: Env<'a>,
    _balancer: &Object<Balancer>,
    arguments: [Term<'a>; 3],
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

/// `extents(backends) -> [{position, value, words}]`: the values that are worth a page, and the words that each
/// takes.
pub(crate) fn extents<'a>(env: Env<'a>, [backends]: [Term<'a>; 1]) -> Answer<'a> {
    let pairs = decode::pairs(backends, 1)?;
    let values = pairs.into_iter().map(|(_id, value)| value);
    Ok(encode_extents(env, values.enumerate()))
}

/// `extents_of_new(balancer, backends) -> [{position, value, words}]`, without those that are listed with the
/// same value.
pub(crate) fn extents_of_new<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Answer<'a> {
    let pairs = decode::pairs(backends, 2)?;
    let listed = balancer.lists(&pairs, &Monitors::new(env, balancer));
    Ok(encode_new(env, 0.., pairs, listed))
}

/// `extents_of_new` on a normal scheduler, for a list of which little is new, if nobody is changing the
/// balancer meanwhile.
pub(crate) fn try_extents_of_new<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    [backends]: [Term<'a>; 1],
) -> Option<Answer<'a>> {
    let offered = Backends::of_at_most(Seen::LONGEST, balancer, backends, 2)?.ok()?;
    let total = offered.total();
    if total > TURN {
        return Some(look::<ExtentsOfNew>(env, balancer, backends, total));
    }
    charge(env, total);
    let died = || remove_dead(balancer, &Monitors::new(env, balancer));
    let mut seen = Seen::default();
    // Where it is refused, a dirty scheduler finds out why.
    balancer
        .try_look(&mut offered.brief(), &mut seen, died)
        .ok()?;
    extents_of_seen(env, balancer, backends, &seen)
}

/// `extents_of_new` of a long list.
enum ExtentsOfNew {}

impl Purpose for ExtentsOfNew {
    const LOOK_ON: Function = nif!(
        Normal,
        extents_of_new,
        4,
        |env, [balancer, list, rest, state]| {
            let go_on = look_on::<ExtentsOfNew>;
            on_object::<Balancer, 3>(env, Self::NAME, balancer, [list, rest, state], go_on)
        }
    );
    const LISTED: bool = false;

    fn finish<'a>(
        env: Env<'a>,
        balancer: &Object<Balancer>,
        list: Term<'a>,
        seen: &Seen,
    ) -> Option<Answer<'a>> {
        // Each turn has let in as much as takes one.
        let is_brief = decode::are_brief(differing(list, seen)?.map(|(_, backend)| backend));
        is_brief
            .then(|| extents_of_seen(env, balancer, list, seen))
            .flatten()
    }

    fn give_up<'a>(env: Env<'a>, balancer: &Object<Balancer>, list: Term<'a>) -> Answer<'a> {
        const EXTENTS: Function = nif!(DirtyCpu, extents_of_new, 2, |env, [balancer, list]| {
            on_object::<Balancer, 1>(env, Self::NAME, balancer, [list], extents_of_new)
        });
        Ok(go_on_copied(env, &EXTENTS, balancer, &[list]).to_term(env))
    }
}

/// The backends that were seen not to be as they are listed, and their positions.
fn differing<'a: 'b, 'b>(
    list: Term<'a>,
    seen: &'b Seen,
) -> Option<impl Iterator<Item = (usize, Term<'a>)> + 'b> {
    let differs = move |position: usize| seen.differ.binary_search(&(position as u32)).is_ok();
    let list = list.into_list_iterator().ok()?.enumerate();
    Some(list.filter(move |(position, _)| differs(*position)))
}

fn extents_of_seen<'a>(
    env: Env<'a>,
    balancer: &Object<Balancer>,
    list: Term<'a>,
    seen: &Seen,
) -> Option<Answer<'a>> {
    let pairs = decode::pairs_of(differing(list, seen)?).ok()?;
    let died = || remove_dead(balancer, &Monitors::new(env, balancer));
    let listed = balancer.try_lists(&pairs, died).ok()?;
    let positions = seen.differ.iter().map(|position| *position as usize);
    Some(Ok(encode_new(env, positions, pairs, listed)))
}

/// The extents of those that are not listed with their value.
fn encode_new<'a>(
    env: Env<'a>,
    positions: impl Iterator<Item = usize>,
    pairs: Vec<(Offered<'a>, Offered<'a>)>,
    listed: Vec<bool>,
) -> Term<'a> {
    let values = pairs.into_iter().map(|(_id, value)| value);
    let new = positions.zip(values).zip(listed);
    let new = new.filter_map(|(extent, listed)| (!listed).then_some(extent));
    encode_extents(env, new)
}

/// A value that is too large for one is refused later, and a backend that has none as yet is not worth a page.
/// Neither is what comes after those that were looked at for as long as a list may take.
fn encode_extents<'a>(
    env: Env<'a>,
    values: impl Iterator<Item = (usize, Offered<'a>)>,
) -> Term<'a> {
    let given = values.filter(|(_, value)| atoms::nil() != value.term);
    let mut left = decode::LIST;
    let extents = given.map_while(|(position, value)| {
        let words = decode::extent(&value, &mut left)?;
        Some(words.map(|words| (position, value.term, words).encode(env)))
    });
    extents.flatten().collect::<Vec<Term>>().encode(env)
}

/// How many pages are named at once, on a normal scheduler: who wants to know of more asks again.
const NAMED: usize = 512;

/// `retired_pages(at_most) -> [{pages, words, [{number, words}]}]`: how much waits in each build, and the
/// first of it: some hundreds of pages at most.
pub(crate) fn retired_pages<'a>(env: Env<'a>, [at_most]: [Term<'a>; 1]) -> Answer<'a> {
    Ok(ask_all(env, c"retired_pages_of_build", &[at_most]))
}

pub(crate) fn retired_pages_of_build<'a>(env: Env<'a>, [at_most]: [Term<'a>; 1]) -> Answer<'a> {
    let refused = |_| ArgumentError("argument 1 must be an integer from 0".into());
    let at_most: usize = at_most.decode().map_err(refused)?;
    Ok(retired(at_most.min(NAMED)).encode(env))
}

/// `interned_words_of_build() -> words`: what there is in this build, waiting or not.
pub(crate) fn interned_words_of_build<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    Ok(live_words().encode(env))
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
