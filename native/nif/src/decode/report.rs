//! A load report that was decoded already.

use std::collections::HashMap;

use grpc_lb_core::load::orca::Report;
use rustler::{Atom, MapIterator, Term};

use super::fields::{Fields, Malformed};
use crate::atoms;
use crate::error::ArgumentError;

/// See `t:GrpcLb.Native.load_report/0`; `argument` is its number among the arguments.
pub(crate) fn report(term: Term, argument: usize) -> Result<Report, ArgumentError> {
    let report = Fields::of(term).and_then(read);
    report.map_err(|malformed| malformed.of(&format!("argument {argument}, the load report,")))
}

fn read<'a>(report: Fields<'a>) -> Result<Report, Malformed<'a>> {
    let number = |name| match report.given(name) {
        Some(_) => report.get(name),
        None => Ok(0.0),
    };
    // As much as there could be in an encoded one, which is decoded on a normal scheduler, too.
    let mut room = Report::MAX_BYTES;
    let mut metrics = |name: Atom| {
        let Some(metrics) = report.given(name) else {
            return Ok(HashMap::new());
        };
        let metrics = MapIterator::new(metrics).and_then(|metrics| {
            metrics
                .map(|(name, metric)| {
                    let name: &str = name.decode().ok()?;
                    room = room.checked_sub(name.len() + size_of::<f64>())?;
                    Some((name.to_owned(), metric.decode().ok()?))
                })
                .collect()
        });
        metrics.ok_or(report.malformed(name))
    };
    Ok(Report {
        cpu_utilization: number(atoms::cpu_utilization())?,
        mem_utilization: number(atoms::mem_utilization())?,
        rps_fractional: number(atoms::rps_fractional())?,
        eps: number(atoms::eps())?,
        application_utilization: number(atoms::application_utilization())?,
        request_cost: metrics(atoms::request_cost())?,
        utilization: metrics(atoms::utilization())?,
        named_metrics: metrics(atoms::named_metrics())?,
        ..Report::default()
    })
}
