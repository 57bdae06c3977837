//! The NIF library behind `GrpcLb.Native`: decodes terms, calls `grpc_lb_core`, encodes what
//! comes back. Nothing in here decides.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `pick` | the hot NIF, registered raw |
//! | `call` | the NIFs around each call, checkout and complete, registered raw |
//! | `raw` | what raw NIFs have in common |
//! | `control` | all other NIFs, registered through rustler |
//! | `dirty` | the way into those of `control` that are dirty |
//! | `decode` | policies and backends out of terms |
//! | `value` | a term that outlives the call that brought it |
//! | `resource` | the balancer as a term, and its process monitors |
//! | `ticket` | the ticket as a term |
//! | `ticker` | the balancers with work that time drives, and who has it done |
//! | `clock` | the clock that is given to the core |
//! | `library` | the library's entry: load, and upgrade while balancers live |
//! | `error` | ArgumentError |

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod call;
#[allow(unsafe_code)]
mod clock;
#[allow(unsafe_code)] // `rustler::nif` expands to it.
mod control;
mod decode;
#[allow(unsafe_code)]
mod dirty;
mod error;
#[allow(unsafe_code)]
mod library;
#[allow(unsafe_code)]
mod pick;
#[allow(unsafe_code)]
mod raw;
#[allow(unsafe_code)]
mod resource;
#[allow(unsafe_code)]
mod ticker;
#[allow(unsafe_code)]
mod ticket;
#[allow(unsafe_code)]
mod value;

mod atoms {
    rustler::atoms! {
        added,
        already_completed,
        backends,
        balancers,
        cancelled,
        closed,
        connecting,
        down,
        draining,
        ejected_until,
        error,
        failures,
        first,
        generation,
        id,
        in_flight,
        infinity,
        keep,
        kept,
        latency_ns,
        least_request,
        malformed_reports,
        max_requests,
        max_requests_per_backend,
        message,
        nif_panicked,
        nil,
        no_backends,
        not_found,
        ok,
        on_owner_death,
        out_of_band,
        outlier_detection,
        overloaded,
        owner,
        panic_threshold,
        peak_ewma,
        per_call,
        per_scheduler,
        pick_first,
        picks,
        policy,
        random,
        ready,
        remove,
        removed,
        reset,
        round_robin,
        shared,
        slow_start,
        snapshots,
        state,
        static_weights = "static",
        successes,
        tick_due,
        tickets,
        times_ejected,
        transient_failure,
        value,
        values,
        weight,
        weighted_round_robin,
        argument_error = "Elixir.ArgumentError",
        exception_mark = "__exception__",
        struct_mark = "__struct__",
        ticker = "Elixir.GrpcLb.Ticker",
    }
}
