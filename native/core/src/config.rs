//! Configuration of a balancer: everything but its backends.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::backend::OnOwnerDeath;
use crate::health::{outlier_detection, slow_start};
use crate::limit::Limits;
use crate::policy::Policy;
use crate::subset;

/// Everything that can be chosen of a balancer. All but the kind of the policy can be changed while
/// it lives, see [`Balancer::configure`](crate::Balancer::configure).
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The rule that chooses.
    pub policy: Policy,
    /// What becomes of a backend whose owner dies.
    pub on_owner_death: OnOwnerDeath,
    /// Which backends are left out for how their calls end (gRFC A50).
    pub outlier_detection: Option<Box<outlier_detection::Config>>,
    /// How a backend that has just become ready comes to its full weight (Envoy).
    pub slow_start: Option<Box<slow_start::Config>>,
    /// Below so many percent of healthy backends, those that are not healthy are picked, too
    /// (Envoy). 0 is never.
    pub panic_threshold: u32,
    /// How much more than its part a backend can serve, in percent (Envoy). Without it the first priority with a healthy backend has all picks, as in
    /// gRPC. With it a priority has them as long as its share of healthy backends times this is 100
    /// percent, and then those after it take over what is missing; localities are left picks in the
    /// same way; and each priority panics for itself.
    pub overprovisioning_factor: Option<NonZeroU32>,
    /// How the localities of one priority share its picks: numbers from 0. One that is not among them
    /// weighs 1; one of weight 0 is picked while no other can be. The key of those backends that have
    /// no locality is empty.
    pub locality_weights: BTreeMap<Box<str>, f64>,
    /// Of each priority so many backends are used, and the others are listed only (gRFC A68). Does not
    /// change while the balancer lives. `None` uses all.
    pub subset: Option<subset::Config>,
    /// How many calls may be in flight (gRFC A32). `None` is any number. Only calls that began
    /// under such a limit count.
    pub max_requests: Option<u32>,
    /// How many calls each backend may have in flight. `None` is any number.
    pub max_requests_per_backend: Option<u32>,
    /// How long a caller may wait in line for room under these limits. Zero is not at all.
    pub checkout_wait: Duration,
    /// How long what is known of a backend that was removed is kept for its id. Zero is not at all.
    pub remember: Duration,
}

impl Config {
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_requests: self.max_requests,
            max_requests_per_backend: self.max_requests_per_backend,
            counts_all: self.max_requests.is_some() || self.policy.counts_calls(),
        }
    }

    /// Whether each backend needs a text that can be hashed.
    pub fn hashes(&self) -> bool {
        self.policy.hashes() || self.subset.is_some()
    }

    /// Whether there is ever work that time drives.
    pub fn is_timed(&self) -> bool {
        let reports = self.policy.reported_weights();
        let remembers = !self.remember.is_zero();
        self.outlier_detection.is_some()
            || self.slow_start.is_some()
            || reports.is_some()
            || remembers
    }

    /// Whether there can be [events](crate::Event) although nothing is timed.
    pub fn is_eventful(&self) -> bool {
        self.panic_threshold > 0
            || self.on_owner_death == OnOwnerDeath::Remove
            || self.max_requests.is_some()
            || self.max_requests_per_backend.is_some()
    }
}

impl From<Policy> for Config {
    /// The policy, and nothing around it.
    fn from(policy: Policy) -> Self {
        Config {
            policy,
            on_owner_death: OnOwnerDeath::default(),
            outlier_detection: None,
            slow_start: None,
            panic_threshold: 0,
            overprovisioning_factor: None,
            locality_weights: BTreeMap::new(),
            subset: None,
            max_requests: None,
            max_requests_per_backend: None,
            checkout_wait: Duration::ZERO,
            remember: Duration::ZERO,
        }
    }
}
