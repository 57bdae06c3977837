//! The policies, each a file with the same three parts.
//!
//! A `Config` says what a user can choose. Its `build` prepares a `Picker` for a list of backends,
//! off the hot path. The picker's `pick` says which backend is next: it does not allocate, lock or
//! read a clock, and takes its randomness from the caller. `contract` has the traits of both, and
//! of what policies see of the backends: their loads.
//!
//! | policy | chooses |
//! | --- | --- |
//! | [`pick_first`] | the first backend that is ready |
//! | [`round_robin`] | one after the other |
//! | [`random`] | any, by weight |
//! | [`weighted_round_robin`] | one after the other, by weight |
//! | [`least_request`] | the one of a few with the fewest calls in flight |
//! | [`peak_ewma`] | the one of two that will probably answer sooner |
//! | [`ring_hash`] | the one that a call's key leads to on a ring of hashes |
//! | [`maglev`] | the one that a call's key leads to in a table |

pub(crate) mod alias;
mod contract;
pub(crate) mod draw;
mod hashing;
pub mod least_request;
pub mod maglev;
pub mod peak_ewma;
pub mod pick_first;
pub mod random;
pub mod ring_hash;
pub mod round_robin;
pub(crate) mod scale;
mod schedule;
pub mod weighted_round_robin;

pub use self::contract::TableSize;
pub(crate) use self::contract::{Build, CandidateList, Candidates, Cause, Listed};
use self::contract::{PolicyConfig, PolicyPicker};
pub use self::hashing::BalanceFactor;
use crate::caller::Caller;
use crate::load::{reported_weight, Measuring};

/// Makes the two enums of all policies, and passes what is asked of them on to the one there is.
macro_rules! policies {
    ($($(#[$doc:meta])* $name:ident($module:ident),)+) => {
        /// The rule that chooses.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Policy {
            $($(#[$doc])* $name($module::Config),)+
        }

        /// A policy, prepared for one snapshot.
        pub(crate) enum Picker {
            $($name($module::Picker),)+
        }

        impl Policy {
            /// The policy's name, as users write it.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Policy::$name(_) => $module::Config::NAME,)+
                }
            }

            /// See [`PolicyConfig::restarts`].
            pub(crate) fn restarts(&self) -> bool {
                match self {
                    $(Policy::$name(config) => config.restarts(),)+
                }
            }

            /// See [`PolicyConfig::TABULATES_WEIGHTS`].
            pub(crate) fn tabulates_weights(&self) -> bool {
                match self {
                    $(Policy::$name(_) => $module::Config::TABULATES_WEIGHTS,)+
                }
            }

            /// Whether it chooses by the key of a call, and needs a text of every backend to do so.
            pub fn hashes(&self) -> bool {
                match self {
                    $(Policy::$name(_) => $module::Config::HASHES,)+
                }
            }

            /// See [`PolicyConfig::counts_calls`].
            pub(crate) fn counts_calls(&self) -> bool {
                match self {
                    $(Policy::$name(config) => config.counts_calls(),)+
                }
            }

            /// See [`PolicyPicker::COUNTS_PICKS`].
            pub(crate) fn counts_picks(&self) -> bool {
                match self {
                    $(Policy::$name(_) => $module::Picker::COUNTS_PICKS,)+
                }
            }

            /// See [`PolicyConfig::measuring`].
            pub(crate) fn measuring(&self) -> Option<Measuring> {
                match self {
                    $(Policy::$name(config) => config.measuring(),)+
                }
            }

            /// See [`PolicyConfig::reported_weights`].
            pub(crate) fn reported_weights(&self) -> Option<&reported_weight::Config> {
                match self {
                    $(Policy::$name(config) => config.reported_weights(),)+
                }
            }

            /// See [`PolicyConfig::build`].
            pub(crate) fn build(&self, list: &impl CandidateList, with: Build<Picker>) -> Picker {
                let Build { last, cause, weighted, random } = with;
                match self {
                    $(Policy::$name(config) => {
                        let last = match last {
                            Some(Picker::$name(last)) => Some(last),
                            _ => None,
                        };
                        let with = Build { last, cause, weighted, random };
                        Picker::$name(config.build(list, with))
                    })+
                }
            }
        }

        impl Picker {
            /// See [`PolicyPicker::pick`].
            ///
            /// Always: where it is called from several places, the compiler would make a call of it.
            #[inline(always)]
            pub(crate) fn pick(&self, candidates: &impl Candidates, caller: &Caller) -> usize {
                match self {
                    $(Picker::$name(picker) => picker.pick(candidates, caller),)+
                }
            }

            /// See [`PolicyPicker::pick_again`].
            pub(crate) fn pick_again(
                &self,
                candidates: &impl Candidates,
                caller: &Caller,
                attempt: usize,
            ) -> usize {
                match self {
                    $(Picker::$name(picker) => picker.pick_again(candidates, caller, attempt),)+
                }
            }

            /// See [`PolicyPicker::table`].
            pub(crate) fn table(&self) -> Option<TableSize> {
                match self {
                    $(Picker::$name(picker) => picker.table(),)+
                }
            }

            /// See [`PolicyPicker::for_each_entry`].
            pub(crate) fn for_each_entry(&self, add: impl FnMut(usize, f64)) {
                match self {
                    $(Picker::$name(picker) => picker.for_each_entry(add),)+
                }
            }

            /// See [`PolicyPicker::MORE_CHOICES`].
            pub(crate) fn more_choices(&self) -> usize {
                match self {
                    $(Picker::$name(_) => $module::Picker::MORE_CHOICES,)+
                }
            }

            /// See [`PolicyPicker::search_from`].
            pub(crate) fn search_from(&self, n: usize, caller: &Caller) -> usize {
                match self {
                    $(Picker::$name(picker) => picker.search_from(n, caller),)+
                }
            }

            /// See [`PolicyPicker::COUNTS_PICKS`].
            pub(crate) fn counts_picks(&self) -> bool {
                match self {
                    $(Picker::$name(_) => $module::Picker::COUNTS_PICKS,)+
                }
            }

            /// See [`PolicyPicker::for_each_picked`]. There may be no backend.
            pub(crate) fn for_each_picked(&self, n: usize, add: impl FnMut(usize, u64)) {
                match self {
                    _ if n == 0 => {}
                    $(Picker::$name(picker) => picker.for_each_picked(n, add),)+
                }
            }
        }
    };
}

policies! {
    /// The first backend that is ready.
    PickFirst(pick_first),
    /// One after the other.
    RoundRobin(round_robin),
    /// Any, by weight.
    Random(random),
    /// One after the other, by weight.
    WeightedRoundRobin(weighted_round_robin),
    /// The one of a few with the fewest calls in flight.
    LeastRequest(least_request),
    /// The one of two that will probably answer sooner.
    PeakEwma(peak_ewma),
    /// The one that a call's key leads to on a ring of hashes.
    RingHash(ring_hash),
    /// The one that a call's key leads to in a table.
    Maglev(maglev),
}

impl Picker {
    /// Before there is a list. Has no cursor, which would be as large as all the rest of the snapshot:
    /// the one for the first list begins anew.
    pub(crate) fn unstarted() -> Self {
        Picker::PickFirst(pick_first::Picker::default())
    }
}
