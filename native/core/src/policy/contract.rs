//! Traits of a policy's parts, and of what it sees of the backends.

use crate::backend::HashKey;
use crate::caller::Caller;
use crate::load::{reported_weight, Load, Measuring};

/// The backends among which a pick chooses, numbered from 0.
pub(crate) trait Candidates {
    fn len(&self) -> usize;

    /// What is measured of one.
    fn load(&self, index: usize) -> &Load;

    /// How many calls are in flight to all backends of the balancer, see [`PolicyConfig::counts_calls`].
    fn calls_in_flight(&self) -> u32;
}

/// A backend of the list, whether it can be picked or not.
pub(crate) struct Listed<'a> {
    pub(crate) hash_key: &'a HashKey,
    pub(crate) weight: u32,
    /// Which candidate it is, if it can be picked.
    pub(crate) index: Option<u32>,
}

/// The same, as a picker is built for them.
pub(crate) trait CandidateList: Candidates {
    /// Its place in the list that users gave: the lower, the earlier.
    fn rank(&self, index: usize) -> u32;

    /// Its place in a shuffled list.
    fn shuffle_place(&self, index: usize) -> u32;

    /// The backend that had this index in the list before this one, or the first after it that is
    /// still there.
    fn follower(&self, last_index: usize) -> usize;

    /// All backends of the list in its order, for a table that is not built anew when one cannot be
    /// picked for a while. With a policy that hashes only.
    fn listed(&self) -> Vec<Listed<'_>>;
}

/// Why a picker is built; some policies begin anew with a list, others go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A list that a user gave or changed.
    Reconcile,
    /// A change of state, weight or configuration; the backends stay listed.
    StateChange,
}

/// What a picker is built with, beside the backends.
pub(crate) struct Build<'a, P> {
    /// The picker that this one replaces.
    pub(crate) last: Option<&'a P>,
    pub(crate) cause: Cause,
    /// Whether some weight is not 1, or may soon not be.
    pub(crate) weighted: bool,
    pub(crate) random: &'a mut fastrand::Rng,
}

/// The options of a policy: all that the rest of the balancer has to know of it.
pub(crate) trait PolicyConfig {
    /// As users write it.
    const NAME: &'static str;

    /// Whether the picker holds a table of weights, and is built anew when one changes.
    const TABULATES_WEIGHTS: bool = false;

    /// Whether it chooses by the key of a call, and needs a text of every backend to do so.
    const HASHES: bool = false;

    type Picker: PolicyPicker;

    /// Prepares a picker, off the hot path.
    fn build(&self, list: &impl CandidateList, with: Build<Self::Picker>) -> Self::Picker;

    /// How latencies are to be averaged, if the policy chooses by them.
    fn measuring(&self) -> Option<Measuring> {
        None
    }

    /// Whether it begins anew with every list, also with one in which nothing has changed.
    fn restarts(&self) -> bool {
        false
    }

    /// Whether picks ask how many calls are in flight to all backends together: then that is counted.
    fn counts_calls(&self) -> bool {
        false
    }

    /// How weights come out of load reports, if they do.
    fn reported_weights(&self) -> Option<&reported_weight::Config> {
        None
    }
}

/// How large the table of a policy that hashes is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSize {
    /// Entries of a ring, or slots.
    pub entries: usize,
    /// Memory that it takes, with what is kept of the backends for it.
    pub bytes: usize,
}

/// A policy, prepared for one snapshot.
pub(crate) trait PolicyPicker {
    /// Whether it knows how often each backend was picked. A policy without a cursor would have to
    /// write to a shared counter at every pick to know.
    const COUNTS_PICKS: bool = false;

    /// How often it is asked again where what it has chosen cannot take a call, before others are
    /// looked for without it.
    const MORE_CHOICES: usize = 16;

    /// Chooses, on the hot path: does not allocate, lock or read a clock. There is a candidate, and
    /// the candidates are those that the picker was built for.
    fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize;

    /// Chooses in the place of what was chosen for the same call so many times before, and could not take
    /// it.
    fn pick_again(&self, candidates: &impl Candidates, caller: &Caller, attempt: usize) -> usize {
        let _ = attempt;
        self.pick(candidates, caller)
    }

    /// The table that it looks calls up in, if it has one.
    fn table(&self) -> Option<TableSize> {
        None
    }

    /// Shows for each entry of that table which candidate it leads to, and the part of all keys that
    /// leads to it. Those of backends that are no candidates are left out.
    fn for_each_entry(&self, add: impl FnMut(usize, f64)) {
        let _ = add;
    }

    /// Where among `n` candidates, of which there is one at least, to begin to look for one that can
    /// take a call, when those that `pick` chooses cannot. Anywhere, so that none takes the calls of
    /// all that are before it.
    fn search_from(&self, n: usize, caller: &Caller) -> usize {
        caller.random_below(n)
    }

    /// Shows which of `n` backends, of which there is one at least, were picked and how often,
    /// possibly in parts.
    fn for_each_picked(&self, n: usize, add: impl FnMut(usize, u64)) {
        let _ = (n, add);
    }
}
