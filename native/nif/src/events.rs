//! What balancers have decided, for the library's process that tells others of it.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use grpc_lb_core::{Cause, Event, Events, Rule};
use once_cell::race::OnceBox;
use parking_lot::Mutex;
use rustler::{Atom, Encoder, Env, Term};

use crate::atoms;
use crate::value::Value;
use crate::vm::library::ask_all;
use crate::vm::scheduler::notify;
use crate::vm::Answer;

/// What is told of a balancer beside what it has decided. It does not keep the balancer.
pub(crate) struct About {
    /// Tells it from every other of this build, also from those that have gone.
    pub(crate) number: u64,
    pub(crate) name: Option<Value>,
    /// What tells its reference from others in the external format. The VM makes the reference again out
    /// of that and its own name, as long as the balancer lives.
    reference: OnceBox<Box<[u8]>>,
}

impl About {
    pub(crate) fn new(number: u64, name: Option<Value>) -> Self {
        About {
            number,
            name,
            reference: OnceBox::new(),
        }
    }

    /// To be known before the first event.
    pub(crate) fn refer(&self, balancer: Term) {
        let external = balancer.to_binary();
        if let Some((_node, ids)) = split(external.as_slice()) {
            self.reference.get_or_init(|| Box::new(ids.into()));
        }
    }

    fn reference<'a>(&self, env: Env<'a>) -> Option<Term<'a>> {
        // The name that the node has now, which may have got one since: only so it is a local reference.
        let local = Term::from(env.make_ref()).to_binary();
        let (node, _ids) = split(local.as_slice())?;
        let ids = self.reference.get()?;
        let words = u16::try_from(ids.len() / ID).ok()?.to_be_bytes();
        let external = [&[VERSION, NEWER_REFERENCE][..], &words, node, ids].concat();
        let (reference, _length) = env.binary_to_term(&external)?;
        Some(reference)
    }

    fn encode<'a>(&self, env: Env<'a>) -> Term<'a> {
        let of = [
            (atoms::balancer(), self.reference(env).encode(env)),
            (
                atoms::name(),
                self.name.as_ref().map(|it| it.to_term(env)).encode(env),
            ),
            (atoms::number(), self.number.encode(env)),
        ];
        fields(env, &of)
    }
}

/// The first bytes of a reference in the external format: its version, and NEWER_REFERENCE_EXT. Then come
/// the number of identifiers, the node's name and its creation, and the identifiers, each of so many bytes.
const VERSION: u8 = 131;
const NEWER_REFERENCE: u8 = 90;
const ID: usize = 4;

/// Node and creation of a reference in the external format, and its identifiers.
fn split(external: &[u8]) -> Option<(&[u8], &[u8])> {
    let [VERSION, NEWER_REFERENCE, high, low, rest @ ..] = external else {
        return None;
    };
    let ids = usize::from(u16::from_be_bytes([*high, *low])) * ID;
    rest.len().checked_sub(ids).map(|node| rest.split_at(node))
}

/// Whether anybody wants to know.
static LISTENED_TO: AtomicBool = AtomicBool::new(false);

pub(crate) fn are_listened_to() -> bool {
    // Relaxed: whether one event more or less is told orders nothing.
    LISTENED_TO.load(Ordering::Relaxed)
}

/// Those that nobody has fetched yet.
static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    told: VecDeque::new(),
    lost: 0,
    rung: false,
});

struct Queue {
    told: VecDeque<(Arc<About>, Event<Value>)>,
    lost: u64,
    /// Whether the process that fetches them was told.
    rung: bool,
}

/// So many wait at most.
const MOST: usize = 1_024;

/// So many are fetched at a time.
const AT_A_TIME: usize = 64;

/// Has events of a balancer wait to be fetched.
pub(crate) fn keep(about: &Arc<About>, events: Events<Value>) {
    if events.is_empty() {
        return;
    }
    let mut queue = QUEUE.lock();
    queue.lost += events.lost;
    for event in events.events {
        match queue.told.len() < MOST {
            true => queue.told.push_back((Arc::clone(about), event)),
            false => queue.lost += 1,
        }
    }
}

/// Lets the process know that fetches them, if there are any of which it does not.
pub(crate) fn ring(env: Env) {
    let mut queue = QUEUE.lock();
    if !queue.told.is_empty() && !queue.rung {
        queue.rung = true;
        drop(queue);
        // Where there is none, its supervisor starts one, which fetches first of all.
        notify(env, atoms::herald(), atoms::events());
    }
}

/// The same of what has come in all builds.
pub(crate) fn ring_all(env: Env) {
    ask_all(env, c"ring_of_build", &[]);
}

/// `ring_of_build() -> :ok`
pub(crate) fn ring_of_build<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    ring(env);
    Ok(atoms::ok().to_term(env))
}

/// From now on, for balancers that are made. Whether there are others to be told is for the caller.
pub(crate) fn listen_to(listens: bool) {
    // Relaxed: see `are_listened_to`.
    LISTENED_TO.store(listens, Ordering::Relaxed);
}

/// `listened_to() -> boolean`: whether anybody wants to know of the balancers of this build.
pub(crate) fn listened_to<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    Ok(are_listened_to().encode(env))
}

/// Who wants to know of the build before wants to know of this one.
pub(crate) fn take_over(ask_last: &dyn Fn(&CStr) -> Option<bool>) {
    if let Some(listens) = ask_last(c"listened_to") {
        listen_to(listens);
    }
}

/// `events() -> {[{about, event, fields}], lost}`: some of those that wait, of each build the oldest first.
/// `[]` when there is none left.
pub(crate) fn events<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    let builds: Vec<Term> = ask_all(env, c"events_of_build", &[])
        .decode()
        .unwrap_or_default();
    let (mut all, mut all_lost) = (Vec::new(), 0);
    // One that tells of them in another way keeps nobody from hearing of the others.
    for (told, lost) in builds
        .iter()
        .filter_map(|build| build.decode::<(Vec<Term>, u64)>().ok())
    {
        all.extend(told);
        all_lost += lost;
    }
    Ok((all, all_lost).encode(env))
}

/// `events_of_build() -> {[{about, event, fields}], lost}`
pub(crate) fn events_of_build<'a>(env: Env<'a>, []: [Term<'a>; 0]) -> Answer<'a> {
    let mut queue = QUEUE.lock();
    let some = queue.told.len().min(AT_A_TIME);
    let told: Vec<_> = queue.told.drain(..some).collect();
    let lost = std::mem::take(&mut queue.lost);
    // Who had some asks again. Who has not been told and had some has not either.
    queue.rung &= !told.is_empty();
    drop(queue);
    let told: Vec<Term> = told.iter().map(|told| encode(env, told)).collect();
    Ok((told, lost).encode(env))
}

fn encode<'a>(env: Env<'a>, (about, event): &(Arc<About>, Event<Value>)) -> Term<'a> {
    let (event, of_event) = match event {
        Event::Ejected { id, cause, lasts } => (atoms::ejected(), ejected(env, id, cause, *lasts)),
        Event::Unejected { id, lasted } => (atoms::unejected(), of_backend(env, id, *lasted)),
        Event::SlowStart { id, lasts } => (atoms::slow_start(), of_backend(env, id, *lasts)),
        Event::Warm { id } => (
            atoms::slow_start_left(),
            fields(env, &[(atoms::id(), id.to_term(env))]),
        ),
        Event::Died { id } => (
            atoms::died(),
            fields(env, &[(atoms::id(), id.to_term(env))]),
        ),
        Event::Panic {
            priority,
            begins,
            healthy,
            counted,
        } => {
            let event = match begins {
                true => atoms::panic_entered(),
                false => atoms::panic_left(),
            };
            let of = [
                (atoms::priority(), priority.encode(env)),
                (atoms::healthy(), healthy.encode(env)),
                (atoms::backends(), counted.encode(env)),
            ];
            (event, fields(env, &of))
        }
        Event::Overloaded { refused } => {
            let of = [(atoms::count(), refused.encode(env))];
            (atoms::overloaded(), fields(env, &of))
        }
    };
    (about.encode(env), event, of_event).encode(env)
}

fn ejected<'a>(env: Env<'a>, id: &Value, cause: &Cause, lasts: Duration) -> Term<'a> {
    let of = [
        (atoms::id(), id.to_term(env)),
        (atoms::rule(), encode_rule(cause.rule).encode(env)),
        (atoms::successes(), cause.successes.encode(env)),
        (atoms::failures(), cause.failures.encode(env)),
        (atoms::limit(), cause.limit.encode(env)),
        (atoms::duration(), nanoseconds(lasts).encode(env)),
    ];
    fields(env, &of)
}

fn of_backend<'a>(env: Env<'a>, id: &Value, duration: Duration) -> Term<'a> {
    let of = [
        (atoms::id(), id.to_term(env)),
        (atoms::duration(), nanoseconds(duration).encode(env)),
    ];
    fields(env, &of)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn fields<'a>(env: Env<'a>, fields: &[(Atom, Term<'a>)]) -> Term<'a> {
    Term::map_from_pairs(env, fields).expect("the keys differ")
}

pub(crate) fn encode_rule(rule: Rule) -> Atom {
    match rule {
        Rule::SuccessRate => atoms::success_rate(),
        Rule::FailurePercentage => atoms::failure_percentage(),
        Rule::ConsecutiveFailures => atoms::consecutive_failures(),
        Rule::ConsecutiveTransportFailures => atoms::consecutive_transport_failures(),
    }
}
