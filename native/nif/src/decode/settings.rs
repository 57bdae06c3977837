//! What a balancer is made of beside its policy and its backends.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{
    self, ConsecutiveFailures, FailurePercentage, Recovery, SuccessRate,
};
use grpc_lb_core::health::slow_start;
use grpc_lb_core::policy::Policy;
use grpc_lb_core::subset;
use grpc_lb_core::{Config, OnOwnerDeath, Owner};
use rustler::{Atom, Term};

use super::fields::{Fields, Malformed};
use super::policy::policy;
use crate::atoms;
use crate::clock::{Clock, ClockReference};
use crate::error::ArgumentError;
use crate::value::Value;
use crate::vm::dispatch::own_object;
use crate::vm::extent::{Bytes, Extent};

pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) owner: Option<Owner>,
    /// Where random choices come from, if they are to repeat.
    pub(crate) seed: Option<u64>,
    pub(crate) clock: Clock,
    pub(crate) name: Option<Value>,
    /// Whether values are interned, and not copied.
    pub(crate) interns: bool,
}

/// See `t:GrpcLb.Native.settings/0`.
pub(crate) fn settings(policy: Policy, term: Term) -> Result<Settings, ArgumentError> {
    let settings = Fields::of(term).and_then(|settings| read(policy, settings));
    settings.map_err(|malformed| malformed.of("argument 3, the settings,"))
}

fn read<'a>(policy: Policy, settings: Fields<'a>) -> Result<Settings, Malformed<'a>> {
    let on_owner_death = [
        (atoms::keep(), OnOwnerDeath::Keep),
        (atoms::remove(), OnOwnerDeath::Remove),
    ];
    let mut config = Config::from(policy);
    Changes::read(settings)?.apply(&mut config);
    let given = settings.if_given(atoms::on_owner_death(), |settings, name| {
        settings.one_of(name, &on_owner_death)
    })?;
    config.on_owner_death = given.unwrap_or_default();
    let subset = settings.if_given(atoms::subset(), |settings, name| {
        settings.optional(name, subset)
    })?;
    config.subset = subset.flatten();
    let owner = settings.if_given(atoms::owner(), Fields::owner)?;
    let seed: Option<Option<u64>> = settings.if_given(atoms::seed(), Fields::get)?;
    let clock = settings.if_given(atoms::clock(), clock)?;
    let name = settings.given(atoms::name()).map(name).transpose()?;
    let interns = [(atoms::interned(), true), (atoms::copied(), false)];
    let interns = settings.if_given(atoms::values(), |settings, name| {
        settings.one_of(name, &interns)
    })?;
    Ok(Settings {
        config,
        owner: owner.flatten(),
        seed: seed.flatten(),
        clock: clock.unwrap_or(Clock::System),
        name,
        interns: interns.unwrap_or(false),
    })
}

/// The words that a name may take, as many as an id.
const NAME: usize = 1 << 21;

/// Any term, measured before it is kept.
fn name<'a>(term: Term<'a>) -> Result<Value, Malformed<'a>> {
    match Extent::new(NAME, Bytes::Copied).take(term) {
        true => Ok(Value::keep(term)),
        false => Err(Malformed::LargeName(NAME)),
    }
}

/// `nil`, or a clock of this build: another one has balancers of its own.
fn clock<'a>(settings: Fields<'a>, name: Atom) -> Result<Clock, Malformed<'a>> {
    let clock: Term = settings.get(name)?;
    if atoms::nil() == clock {
        return Ok(Clock::System);
    }
    let own = own_object::<ClockReference>(clock).ok_or(settings.malformed(name))?;
    Ok(Clock::Manual(Arc::clone(own.clock())))
}

/// What is given of the configuration; the rest stays as it is.
pub(crate) struct Changes {
    policy: Option<Policy>,
    outlier_detection: Option<Option<outlier_detection::Config>>,
    slow_start: Option<Option<slow_start::Config>>,
    panic_threshold: Option<u32>,
    overprovisioning_factor: Option<Option<NonZeroU32>>,
    locality_weights: Option<BTreeMap<Box<str>, f64>>,
    max_requests: Option<Option<u32>>,
    max_requests_per_backend: Option<Option<u32>>,
    checkout_wait: Option<Duration>,
    remember: Option<Duration>,
}

/// See `t:GrpcLb.Native.changes/0`.
pub(crate) fn changes(term: Term) -> Result<Changes, ArgumentError> {
    let refused = |malformed: Malformed| malformed.of("argument 2, the changes,");
    let fields = Fields::of(term).map_err(refused)?;
    let policy = fields.given(atoms::policy()).map(policy).transpose()?;
    let changes = Changes::read(fields).map_err(refused)?;
    Ok(Changes { policy, ..changes })
}

impl Changes {
    /// All but the policy.
    fn read<'a>(settings: Fields<'a>) -> Result<Changes, Malformed<'a>> {
        Ok(Changes {
            policy: None,
            outlier_detection: settings
                .if_given(atoms::outlier_detection(), |settings, name| {
                    settings.optional(name, outlier_detection)
                })?,
            slow_start: settings.if_given(atoms::slow_start(), |settings, name| {
                settings.optional(name, slow_start)
            })?,
            panic_threshold: settings.if_given(atoms::panic_threshold(), |settings, name| {
                settings.within(name, ..=100)
            })?,
            overprovisioning_factor: settings.if_given(
                atoms::overprovisioning_factor(),
                |settings, name| {
                    let factor: Option<u32> = settings.get(name)?;
                    factor.map(|_| count(settings, name)).transpose()
                },
            )?,
            locality_weights: settings.if_given(atoms::locality_weights(), locality_weights)?,
            max_requests: settings.if_given(atoms::max_requests(), Fields::get)?,
            max_requests_per_backend: settings
                .if_given(atoms::max_requests_per_backend(), Fields::get)?,
            checkout_wait: settings.if_given(atoms::checkout_wait(), |settings, name| {
                settings.milliseconds(name, ..)
            })?,
            remember: settings.if_given(atoms::remember(), |settings, name| {
                settings.milliseconds(name, ..)
            })?,
        })
    }

    pub(crate) fn apply(self, config: &mut Config) {
        fn replace<T>(field: &mut T, given: Option<T>) {
            if let Some(given) = given {
                *field = given;
            }
        }

        replace(&mut config.policy, self.policy);
        let outlier_detection = self.outlier_detection.map(|given| given.map(Box::new));
        replace(&mut config.outlier_detection, outlier_detection);
        let slow_start = self.slow_start.map(|given| given.map(Box::new));
        replace(&mut config.slow_start, slow_start);
        replace(&mut config.panic_threshold, self.panic_threshold);
        replace(
            &mut config.overprovisioning_factor,
            self.overprovisioning_factor,
        );
        replace(&mut config.locality_weights, self.locality_weights);
        replace(&mut config.max_requests, self.max_requests);
        replace(
            &mut config.max_requests_per_backend,
            self.max_requests_per_backend,
        );
        replace(&mut config.checkout_wait, self.checkout_wait);
        replace(&mut config.remember, self.remember);
    }
}

fn subset<'a>(options: Fields<'a>) -> Result<subset::Config, Malformed<'a>> {
    Ok(subset::Config {
        size: count(options, atoms::size())?,
        seed: options.get(atoms::seed())?,
    })
}

/// A map of names to numbers from 0.
fn locality_weights<'a>(
    settings: Fields<'a>,
    name: Atom,
) -> Result<BTreeMap<Box<str>, f64>, Malformed<'a>> {
    let weights: HashMap<&str, f64> = settings.get(name)?;
    let can_have = |weight: &f64| (0.0..=f64::from(u32::MAX)).contains(weight);
    match weights.values().all(can_have) {
        true => Ok(weights
            .into_iter()
            .map(|(name, weight)| (name.into(), weight))
            .collect()),
        false => Err(settings.malformed(name)),
    }
}

fn slow_start<'a>(options: Fields<'a>) -> Result<slow_start::Config, Malformed<'a>> {
    Ok(slow_start::Config {
        window: options.milliseconds(atoms::window(), 1..)?,
        aggression: options.within(atoms::aggression(), f64::MIN_POSITIVE..)?,
        min_weight_percent: options.within(atoms::min_weight_percent(), 0.0..=100.0)?,
    })
}

fn outlier_detection<'a>(options: Fields<'a>) -> Result<outlier_detection::Config, Malformed<'a>> {
    let recoveries = [
        (atoms::time(), Recovery::Time),
        (atoms::success(), Recovery::Success),
    ];
    Ok(outlier_detection::Config {
        interval: options.milliseconds(atoms::interval(), 1..)?,
        base_ejection_time: options.milliseconds(atoms::base_ejection_time(), ..)?,
        max_ejection_time: options.milliseconds(atoms::max_ejection_time(), ..)?,
        max_ejection_percent: options.within(atoms::max_ejection_percent(), ..=100)?,
        strict: options.get(atoms::strict())?,
        backoff_recovery: options.one_of(atoms::backoff_recovery(), &recoveries)?,
        success_rate: options.optional(atoms::success_rate(), |options| {
            Ok(SuccessRate {
                stdev_factor: options.get(atoms::stdev_factor())?,
                enforcement_percentage: options.get(atoms::enforcement_percentage())?,
                minimum_hosts: options.get(atoms::minimum_hosts())?,
                request_volume: options.get(atoms::request_volume())?,
            })
        })?,
        failure_percentage: options.optional(atoms::failure_percentage(), |options| {
            Ok(FailurePercentage {
                threshold: options.get(atoms::threshold())?,
                enforcement_percentage: options.get(atoms::enforcement_percentage())?,
                minimum_hosts: options.get(atoms::minimum_hosts())?,
                request_volume: options.get(atoms::request_volume())?,
            })
        })?,
        consecutive_failures: options.optional(atoms::consecutive_failures(), |options| {
            Ok(ConsecutiveFailures {
                failures: count(options, atoms::failures())?,
                minimum_hosts: options.get(atoms::minimum_hosts())?,
            })
        })?,
        consecutive_transport_failures: options
            .get::<Option<u32>>(atoms::consecutive_transport_failures())?
            .map(|_| count(options, atoms::consecutive_transport_failures()))
            .transpose()?,
    })
}

fn count<'a>(options: Fields<'a>, name: Atom) -> Result<NonZeroU32, Malformed<'a>> {
    NonZeroU32::new(options.get(name)?).ok_or(options.malformed(name))
}
