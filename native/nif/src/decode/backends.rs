//! Lists of backends, read one by one while the core compares them with those that are listed.

use grpc_lb_core::{Backend, Busy, ChangeError, Offers, Seen, State};
use rustler::{Atom, Term};

use super::fields::{Fields, Malformed};
use super::lists::{is_longer, proper_list, ID};
use crate::atoms;
use crate::balancer::Balancer;
use crate::error::ArgumentError;
use crate::page::Reserved;
use crate::value::{Offered, Value};
use crate::vm::dispatch::own_object;
use crate::vm::extent::{Bytes, Extent};
use crate::vm::term::{bytes, untuple};

/// The words that a value may take: each pick copies it.
pub(super) const VALUE: usize = 1 << 21;

/// The words that the ids and values of a list may take, as far as they are new.
pub(crate) const LIST: usize = 1 << 27;

/// The bytes of a text for policies that hash: each entry of a ring is a hash of it.
const TEXT: usize = 1 << 16;

/// The bytes of the name of a locality.
const LOCALITY: usize = 255;

/// How many backends of a list are compared in one turn on a normal scheduler, which takes a tenth of a
/// millisecond.
pub(crate) const TURN: usize = 2_048;

/// The words of what is new, and those that are compared, in one turn: some tenths of a millisecond.
pub(super) const WORDS: (usize, usize) = (1 << 13, 1 << 18);

/// The bytes of texts that are copied in one turn on a normal scheduler.
const TEXTS: usize = 1 << 21;

/// Why a list is not taken.
pub(crate) enum Refused {
    Argument(ArgumentError),
    Change(ChangeError),
    /// On a normal scheduler: it is to be taken on a dirty one.
    Busy,
}

impl From<ArgumentError> for Refused {
    fn from(error: ArgumentError) -> Self {
        Refused::Argument(error)
    }
}

impl From<ChangeError> for Refused {
    fn from(error: ChangeError) -> Self {
        Refused::Change(error)
    }
}

impl From<Busy> for Refused {
    fn from(_busy: Busy) -> Self {
        Refused::Busy
    }
}

/// A list of backends that is offered to a balancer, or a part of one.
pub(crate) struct Backends<'a, 'b> {
    balancer: &'b Balancer,
    hashes: bool,
    rest: Term<'a>,
    position: usize,
    end: usize,
    /// The words that are left for what is new.
    left: usize,
    /// The bytes that are left for texts.
    texts: usize,
    /// The words that the largest takes of what was let in.
    largest: usize,
    /// On a normal scheduler, as long as none was looked at: how many are to be compared.
    compared: Option<usize>,
    /// Whether it is too much as soon as nothing is left.
    is_brief: bool,
    /// Whether it is too much as soon as one is not as it is listed.
    is_listed: bool,
}

impl<'a, 'b> Backends<'a, 'b> {
    /// `argument` is its number among the arguments.
    pub(crate) fn new(
        balancer: &'b Balancer,
        term: Term<'a>,
        argument: usize,
    ) -> Result<Self, ArgumentError> {
        let (len, _) = proper_list(term, argument, "backends")?;
        Ok(Self::rest(balancer, term, 0, len))
    }

    /// The same, of a list of so many at most. `None` if it is longer, which takes no longer to find out.
    pub(crate) fn of_at_most(
        most: usize,
        balancer: &'b Balancer,
        term: Term<'a>,
        argument: usize,
    ) -> Option<Result<Self, ArgumentError>> {
        (!is_longer(term, most)).then(|| Self::new(balancer, term, argument))
    }

    /// What is left of a list from a position on, up to another.
    pub(crate) fn rest(
        balancer: &'b Balancer,
        rest: Term<'a>,
        position: usize,
        end: usize,
    ) -> Self {
        Backends {
            balancer,
            hashes: balancer.hashes(),
            rest,
            position,
            end,
            left: LIST,
            texts: usize::MAX,
            largest: 0,
            compared: None,
            is_brief: false,
            is_listed: false,
        }
    }

    /// The same, to be compared on a normal scheduler.
    pub(crate) fn brief(self) -> Self {
        Backends {
            left: WORDS.0,
            texts: TEXTS,
            compared: Some(self.end - self.position),
            is_brief: true,
            ..self
        }
    }

    /// The same, of which nothing is let in.
    pub(crate) fn listed(self) -> Self {
        Backends {
            is_listed: true,
            ..self.brief()
        }
    }

    /// The same, of which most were compared before.
    pub(crate) fn known(self) -> Self {
        Backends {
            compared: Some(Seen::FEW),
            ..self.brief()
        }
    }

    /// What is left of the list.
    pub(crate) fn left(&self) -> Term<'a> {
        self.rest
    }

    /// Whether it takes too long to compare what is to be compared, as is known under the writer's lock.
    fn takes_long(&mut self) -> bool {
        let compared = self.compared.take();
        compared.is_some_and(|compared| compared.saturating_mul(self.balancer.largest()) > WORDS.1)
    }

    /// Takes what a term takes off what is left for all. Whether it may take so much.
    fn take(&mut self, term: Term, allowed: usize, bytes: Bytes) -> bool {
        let mut extent = Extent::new(allowed.min(self.left), bytes);
        let fits = extent.take(term);
        self.left -= extent.taken();
        self.largest = self.largest.max(extent.read());
        fits
    }

    /// Takes what the text of a backend takes off what is left for all. Whether it may take so much.
    fn take_text(&mut self, backend: &Backend<Offered>) -> bool {
        let text = backend.hash_key.as_ref().map_or(0, |text| text.slice.len());
        let left = self.texts.checked_sub(text);
        self.texts = left.unwrap_or(0);
        left.is_some()
    }
}

impl<'a> Offers<Value> for Backends<'a, '_> {
    type Offer = Offered<'a>;
    type Item = Backend<Offered<'a>>;
    type Refusal = Refused;

    fn total(&self) -> usize {
        self.end - self.position
    }

    fn take_next(&mut self) -> Option<Result<Self::Item, Refused>> {
        if self.takes_long() {
            return Some(Err(Refused::Busy));
        }
        let position = self.position;
        if position == self.end {
            // Nothing of it was refused.
            self.balancer.note_size(self.largest);
            return None;
        }
        let (first, rest) = self.rest.list_get_cell().expect("the list is so long");
        self.rest = rest;
        self.position += 1;
        // Most are such, and to move one takes as long as to make it.
        if let (Some([id, value]), false) = (untuple(first), self.hashes) {
            return Some(Ok(Backend::new(Offered::new(id), Offered::new(value))));
        }
        let backend = backend(first, self.hashes);
        Some(match backend {
            Ok(backend) if self.take_text(&backend) => Ok(backend),
            Ok(_) => Err(Refused::Busy),
            Err(malformed) => Err(refused(malformed, position)),
        })
    }

    fn let_in(&mut self, position: usize, offered: &Self::Item) -> Result<(), Refused> {
        if self.is_listed {
            return Err(Refused::Busy);
        }
        let (id, value) = (offered.id.term, offered.value.term);
        let before = self.left;
        let malformed = if !self.take(id, ID, Bytes::Read) {
            Malformed::LargeId(ID)
        // A bare value is its own id. The id has been measured, and so the two can be compared.
        } else if value != id && !self.take(value, VALUE, Bytes::Copied) {
            Malformed::LargeValue(VALUE)
        } else if value.is_ref() && is_itself(self.balancer, value) {
            let itself = format!(
                "backend {position} has the balancer itself as its value, which would keep it alive"
            );
            return Err(Refused::Argument(ArgumentError(itself)));
        } else {
            return Ok(());
        };
        if self.is_brief {
            return Err(Refused::Busy);
        }
        let malformed = match before <= ID.max(VALUE) && self.left == 0 {
            true => Malformed::LargeList(LIST),
            false => malformed,
        };
        Err(refused(malformed, position))
    }
}

#[cold]
fn refused(malformed: Malformed, position: usize) -> Refused {
    Refused::Argument(malformed.of(&format!("backend {position}")))
}

/// Whether a value is the balancer that it would be a value of, which would keep it for ever.
fn is_itself(balancer: &Balancer, value: Term) -> bool {
    own_object::<Balancer>(value).is_some_and(|object| std::ptr::eq(&**object, balancer))
}

/// `{id, value}` for a policy that hashes, or `{id, value, options}`
fn backend(term: Term, hashes: bool) -> Result<Backend<Offered>, Malformed> {
    if let Some([id, value]) = untuple(term) {
        let backend = Backend::new(Offered::new(id), Offered::new(value));
        return Ok(keyed(backend, bytes(id)));
    }
    let Some([id, value, options]) = untuple(term) else {
        return Err(Malformed::NoBackend(term));
    };
    let options = Fields::of(options)?;
    let hash_key = options.given(atoms::hash_key());
    let hash_key = hash_key.filter(|text| atoms::nil() != *text);
    let text = hash_key.map(bytes);
    if text.is_some_and(|text| text.is_none_or(|text| text.len() > TEXT)) {
        return Err(options.malformed(atoms::hash_key()));
    }
    let mut backend = Backend::new(Offered::new(id), Offered::new(value));
    if hashes {
        backend = keyed(backend, text.unwrap_or_else(|| bytes(id)));
    }
    if options.is_empty() {
        return Ok(backend);
    }
    if options.given(atoms::interned()).is_some() {
        backend.value = interned(options)?;
    }
    if options.given(atoms::owner()).is_some() {
        backend.owner = options.owner(atoms::owner())?;
    }
    if options.given(atoms::priority()).is_some() {
        backend.priority = options.get(atoms::priority())?;
    }
    if options.given(atoms::locality()).is_some() {
        let locality: Option<&str> = options.get(atoms::locality())?;
        if locality.is_some_and(|name| name.len() > LOCALITY) {
            return Err(options.malformed(atoms::locality()));
        }
        backend.locality = locality.map(Box::from);
    }
    if options.given(atoms::weight()).is_some() {
        backend.weight = options.get(atoms::weight())?;
    }
    let state = options.given(atoms::state());
    if state.is_some_and(|state| atoms::nil() != state) {
        backend.state = Some(options.one_of(atoms::state(), &states())?);
    }
    Ok(backend)
}

/// The value in a page of this build, given as `{page, index}`.
fn interned(options: Fields) -> Result<Offered, Malformed> {
    let (page, index): (Term, usize) = options.get(atoms::interned())?;
    let slot = own_object::<Reserved>(page).and_then(|page| page.slot(index));
    let slot = slot.ok_or(options.malformed(atoms::interned()))?;
    Ok(Offered::interned(page.get_env(), slot))
}

/// With this text, if it is one.
fn keyed<'a>(backend: Backend<Offered<'a>>, text: Option<&[u8]>) -> Backend<Offered<'a>> {
    match text.filter(|text| text.len() <= TEXT) {
        Some(text) => backend.keyed(text),
        None => backend,
    }
}

/// What can be said of a backend.
pub(super) fn states() -> [(Atom, State); 4] {
    [
        (atoms::ready(), State::Ready),
        (atoms::connecting(), State::Connecting),
        (atoms::transient_failure(), State::TransientFailure),
        (atoms::draining(), State::Draining),
    ]
}
