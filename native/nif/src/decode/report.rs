//! A load report that was decoded already.

use std::collections::HashMap;

use grpc_lb_core::load::orca::Report;
use rustler::types::tuple::get_tuple;
use rustler::{Error, NifResult, Term};

use crate::error::{kind, ArgumentError};

/// See `t:GrpcLb.Native.load_report/0`; `argument` is its number among the arguments.
pub(crate) fn decoded_report(term: Term, argument: usize) -> Result<Report, ArgumentError> {
    read(term).map_err(|_| {
        ArgumentError(format!(
            "argument {argument}, the load report, must be a binary or {{cpu, mem, \
             rps_fractional, eps, application, request_cost, utilization, named_metrics}}: five \
             floats, and three lists of {{name, float}} of 8 KiB at most; got {}",
            kind(term)
        ))
    })
}

fn read(term: Term) -> NifResult<Report> {
    let fields = get_tuple(term)?;
    let [cpu, mem, rps, eps, application, request_cost, utilization, named] = &fields[..] else {
        return Err(Error::BadArg);
    };
    // As much as there could be in an encoded one, which is decoded on a normal scheduler, too.
    let mut room = Report::MAX_BYTES;
    let mut metrics = |term: &Term| -> NifResult<HashMap<String, f64>> {
        // The length is asked first because the iterator panics at an improper tail.
        term.list_length()?;
        term.into_list_iterator()?
            .map(|metric| {
                let (name, value): (&str, f64) = metric.decode()?;
                let taken = name.len() + size_of::<f64>();
                room = room.checked_sub(taken).ok_or(Error::BadArg)?;
                Ok((name.to_owned(), value))
            })
            .collect()
    };
    Ok(Report {
        cpu_utilization: cpu.decode()?,
        mem_utilization: mem.decode()?,
        rps_fractional: rps.decode()?,
        eps: eps.decode()?,
        application_utilization: application.decode()?,
        request_cost: metrics(request_cost)?,
        utilization: metrics(utilization)?,
        named_metrics: metrics(named)?,
        ..Report::default()
    })
}
