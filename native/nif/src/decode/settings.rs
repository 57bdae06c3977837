//! What a balancer is made of beside its policy and its backends.

use std::num::NonZeroU32;
use std::time::Duration;

use grpc_lb_core::health::outlier_detection::{self, FailurePercentage, SuccessRate};
use grpc_lb_core::health::slow_start;
use grpc_lb_core::policy::Policy;
use grpc_lb_core::{Config, OnOwnerDeath, Owner};
use rustler::{Atom, Term};

use super::{is, optional, optional_owner};
use crate::atoms;
use crate::error::{kind, ArgumentError};

pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) owner: Option<Owner>,
}

/// See `t:GrpcLb.Native.settings/0`.
pub(crate) fn settings(policy: Policy, term: Term) -> Result<Settings, ArgumentError> {
    let get = |key: Atom, name: &str| {
        term.map_get(key).map_err(|_| {
            ArgumentError(format!(
                "argument 3, the settings, must be a map with {name}, got {}",
                kind(term)
            ))
        })
    };
    let owner = get(atoms::owner(), "owner")?;
    let Some(owner) = optional_owner(owner) else {
        return Err(ArgumentError(format!(
            "the owner must be nil or a pid of this node, got {}",
            kind(owner)
        )));
    };
    let detection = get(atoms::outlier_detection(), "outlier_detection")?;
    let config = Config {
        policy,
        on_owner_death: on_owner_death(get(atoms::on_owner_death(), "on_owner_death")?)?,
        outlier_detection: optional(detection, outlier_detection)?.map(Box::new),
        slow_start: optional(get(atoms::slow_start(), "slow_start")?, slow_start)?.map(Box::new),
        panic_threshold: percent(get(atoms::panic_threshold(), "panic_threshold")?)?,
        max_requests: optional(get(atoms::max_requests(), "max_requests")?, count)?,
        max_requests_per_backend: optional(
            get(
                atoms::max_requests_per_backend(),
                "max_requests_per_backend",
            )?,
            count,
        )?,
    };
    Ok(Settings { config, owner })
}

fn on_owner_death(term: Term) -> Result<OnOwnerDeath, ArgumentError> {
    if is(term, atoms::keep()) {
        Ok(OnOwnerDeath::Keep)
    } else if is(term, atoms::remove()) {
        Ok(OnOwnerDeath::Remove)
    } else {
        Err(ArgumentError(
            "on_owner_death must be :keep or :remove".into(),
        ))
    }
}

fn percent(term: Term) -> Result<u32, ArgumentError> {
    match term.decode::<u32>() {
        Ok(percent) if percent <= 100 => Ok(percent),
        _ => Err(ArgumentError(
            "panic_threshold must be an integer from 0 to 100".into(),
        )),
    }
}

fn count(term: Term) -> Result<u32, ArgumentError> {
    term.decode::<u32>().map_err(|_| {
        ArgumentError(
            "max_requests and max_requests_per_backend must be nil or an integer from 0 to \
             4294967295"
                .into(),
        )
    })
}

/// `{window, aggression, min_weight_percent}`
fn slow_start(term: Term) -> Result<slow_start::Config, ArgumentError> {
    match term.decode::<(u64, f64, f64)>() {
        Ok((window, aggression, min_weight_percent))
            if window > 0 && aggression > 0.0 && (0.0..=100.0).contains(&min_weight_percent) =>
        {
            Ok(slow_start::Config {
                window: Duration::from_millis(window),
                aggression,
                min_weight_percent,
            })
        }
        _ => Err(ArgumentError(
            "slow_start must be nil or {window, aggression, min_weight_percent}: an integer above \
             0, a float above 0.0 and one from 0.0 to 100.0"
                .into(),
        )),
    }
}

/// Milliseconds, a percentage, two algorithms and a number of failures.
type OutlierDetection<'a> = (u64, u64, u64, u32, Term<'a>, Term<'a>, Term<'a>);

/// `{interval, base, max, max_percent, success_rate, failure_percentage, consecutive_failures}`
fn outlier_detection(term: Term) -> Result<outlier_detection::Config, ArgumentError> {
    let decoded = term.decode::<OutlierDetection>();
    let Ok((interval, base, max, max_ejection_percent, rate, percentage, failures)) = decoded
    else {
        return Err(malformed_detection());
    };
    if interval == 0 || max_ejection_percent > 100 {
        return Err(malformed_detection());
    }
    Ok(outlier_detection::Config {
        interval: Duration::from_millis(interval),
        base_ejection_time: Duration::from_millis(base),
        max_ejection_time: Duration::from_millis(max),
        max_ejection_percent,
        success_rate: optional(rate, |term| {
            let (stdev_factor, enforcement_percentage, minimum_hosts, request_volume) =
                numbers(term)?;
            Ok(SuccessRate {
                stdev_factor,
                enforcement_percentage,
                minimum_hosts,
                request_volume,
            })
        })?,
        failure_percentage: optional(percentage, |term| {
            let (threshold, enforcement_percentage, minimum_hosts, request_volume) = numbers(term)?;
            Ok(FailurePercentage {
                threshold,
                enforcement_percentage,
                minimum_hosts,
                request_volume,
            })
        })?,
        consecutive_failures: optional(failures, |term| {
            let failures = term.decode::<u32>().ok().and_then(NonZeroU32::new);
            failures.ok_or_else(malformed_detection)
        })?,
    })
}

fn numbers(term: Term) -> Result<(u32, u32, u32, u32), ArgumentError> {
    term.decode().map_err(|_| malformed_detection())
}

fn malformed_detection() -> ArgumentError {
    ArgumentError(
        "outlier_detection must be nil or {interval, base, max, max_percent, success_rate, \
         failure_percentage, consecutive_failures}: milliseconds, the interval above 0; a \
         percentage; twice nil or {factor or threshold, enforcement, minimum_hosts, \
         request_volume}; nil or an integer above 0"
            .into(),
    )
}
