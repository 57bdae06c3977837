//! What a balancer is made of beside its policy and its backends.

use std::num::NonZeroU32;

use grpc_lb_core::health::outlier_detection::{self, FailurePercentage, SuccessRate};
use grpc_lb_core::health::slow_start;
use grpc_lb_core::policy::Policy;
use grpc_lb_core::{Config, OnOwnerDeath, Owner};
use rustler::Term;

use super::fields::{Fields, Malformed};
use crate::atoms;
use crate::error::ArgumentError;

pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) owner: Option<Owner>,
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
    let outlier_detection = settings.optional(atoms::outlier_detection(), outlier_detection)?;
    let slow_start = settings.optional(atoms::slow_start(), slow_start)?;
    Ok(Settings {
        owner: settings.owner(atoms::owner())?,
        config: Config {
            policy,
            on_owner_death: settings.one_of(atoms::on_owner_death(), &on_owner_death)?,
            outlier_detection: outlier_detection.map(Box::new),
            slow_start: slow_start.map(Box::new),
            panic_threshold: settings.within(atoms::panic_threshold(), ..=100)?,
            max_requests: settings.get(atoms::max_requests())?,
            max_requests_per_backend: settings.get(atoms::max_requests_per_backend())?,
        },
    })
}

fn slow_start<'a>(options: Fields<'a>) -> Result<slow_start::Config, Malformed<'a>> {
    Ok(slow_start::Config {
        window: options.milliseconds(atoms::window(), 1..)?,
        aggression: options.within(atoms::aggression(), f64::MIN_POSITIVE..)?,
        min_weight_percent: options.within(atoms::min_weight_percent(), 0.0..=100.0)?,
    })
}

fn outlier_detection<'a>(options: Fields<'a>) -> Result<outlier_detection::Config, Malformed<'a>> {
    let failures: Option<u32> = options.get(atoms::consecutive_failures())?;
    let in_a_row = failures.map(|failures| {
        NonZeroU32::new(failures).ok_or(options.malformed(atoms::consecutive_failures()))
    });
    Ok(outlier_detection::Config {
        interval: options.milliseconds(atoms::interval(), 1..)?,
        base_ejection_time: options.milliseconds(atoms::base_ejection_time(), ..)?,
        max_ejection_time: options.milliseconds(atoms::max_ejection_time(), ..)?,
        max_ejection_percent: options.within(atoms::max_ejection_percent(), ..=100)?,
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
        consecutive_failures: in_a_row.transpose()?,
    })
}
