//! Table of the owners that are watched, and of what each owns.

use hashbrown::hash_map::Entry as Slot;
use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::backend::{Owner, Owners};
use crate::members::MemberKey;

/// Owners that are alive as far as is known. Most balancers have none: so their table is made when
/// the first is watched.
pub(crate) struct Watched<W>(Option<Box<HashMap<Owner, Owned<W>>>>);

/// Most owners own one member.
pub(crate) type Keys = SmallVec<[MemberKey; 2]>;

struct Owned<W> {
    watch: W,
    members: Keys,
}

impl<W> Watched<W> {
    pub(crate) fn new() -> Self {
        Watched(None)
    }

    /// Watches an owner that may be watched already. `None` when it is dead.
    pub(crate) fn watch(
        &mut self,
        owner: Owner,
        owners: &impl Owners<Watch = W>,
    ) -> Option<&mut Keys> {
        let owned = match self.0.get_or_insert_default().entry(owner) {
            Slot::Occupied(slot) => slot.into_mut(),
            Slot::Vacant(slot) => slot.insert(Owned {
                watch: owners.watch(owner)?,
                members: Keys::new(),
            }),
        };
        Some(&mut owned.members)
    }

    /// Takes a member from its owner, which is watched on until `unwatch_idle`.
    pub(crate) fn release(&mut self, owner: Owner, key: MemberKey) {
        // An owner that died is not here any more.
        if let Some(owned) = self.0.as_mut().and_then(|owners| owners.get_mut(&owner)) {
            let index = owned.members.iter().position(|other| *other == key);
            owned.members.swap_remove(index.expect("it owns it"));
        }
    }

    /// Stops watching an owner that owns no member.
    pub(crate) fn unwatch_idle(&mut self, owner: Owner, owners: &impl Owners<Watch = W>) {
        let watched = self.0.as_mut().map(|watched| watched.entry(owner));
        if let Some(Slot::Occupied(slot)) = watched {
            if slot.get().members.is_empty() {
                owners.unwatch(slot.remove().watch);
            }
        }
    }

    /// Removes an owner that died. What it owned; `None` if it was not watched.
    pub(crate) fn remove(&mut self, owner: Owner) -> Option<Keys> {
        self.0.as_mut()?.remove(&owner).map(|owned| owned.members)
    }
}
