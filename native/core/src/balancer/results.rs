//! Answers to changes.

use std::fmt;

/// How many backends a change of the list added, removed and kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Ids that were not listed before.
    pub added: usize,
    /// Ids that were listed and are no longer.
    pub removed: usize,
    /// Ids that were listed and still are, whatever else about them changed.
    pub kept: usize,
}

impl Changes {
    /// Of a list of so many that stays as it is.
    pub(super) fn none(kept: usize) -> Self {
        Changes {
            kept,
            ..Changes::default()
        }
    }
}

/// What became of the calls in flight of a backend whose value is to go, as far as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// There are some. When the last has ended [`Ticket::tell_drained`](crate::Ticket::tell_drained)
    /// tells this number, which no other drain of the balancer has.
    Later(u64),
    /// There are none.
    Now,
    /// There are none, and no backend ever had any: calls are not counted, as far as is known.
    Unknown,
}

/// Why a change of the list was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The balancer is closed.
    Closed,
    /// Two backends of the list have the same id; these are their positions.
    DuplicateId {
        /// The position of the first of them, from 0.
        first: usize,
        /// The position of the second.
        second: usize,
    },
    /// The policy hashes, and a backend of the list has no text to be hashed.
    NoHashKey {
        /// The position of the first of them, from 0.
        position: usize,
        /// The policy.
        policy: &'static str,
    },
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Closed => write!(f, "the balancer is closed"),
            ChangeError::DuplicateId { first, second } => {
                write!(f, "backends {first} and {second} have the same id")
            }
            ChangeError::NoHashKey { position, policy } => write!(
                f,
                "backend {position} has no hash_key, by which {policy} finds its place"
            ),
        }
    }
}

impl std::error::Error for ChangeError {}

/// Somebody else is changing the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("somebody else is changing the balancer")
    }
}

impl std::error::Error for Busy {}

/// Why one backend could not be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberError {
    /// The balancer is closed.
    Closed,
    /// No backend with this id is listed.
    NotFound,
}

impl fmt::Display for MemberError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MemberError::Closed => "the balancer is closed",
            MemberError::NotFound => "no backend with this id is listed",
        })
    }
}

impl std::error::Error for MemberError {}

/// What a new configuration was to the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    /// Another one: it is in force.
    Changed,
    /// The same: nothing was done.
    Unchanged,
}

/// Why a configuration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigureError {
    /// The balancer is closed.
    Closed,
    /// It has another policy, not other options of the same one. These are
    /// [names](crate::policy::Policy::name).
    OtherPolicy {
        /// The balancer's policy.
        current: &'static str,
        /// The policy of the configuration.
        wanted: &'static str,
    },
}

impl fmt::Display for ConfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigureError::Closed => write!(f, "the balancer is closed"),
            ConfigureError::OtherPolicy { current, wanted } => {
                write!(f, "the policy is {current} and cannot become {wanted}")
            }
        }
    }
}

impl std::error::Error for ConfigureError {}
