//! The NIF library behind `GrpcLb.Native`: decodes terms, calls `grpc_lb_core`, encodes what
//! comes back. Nothing in here decides.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `pick` | the hot NIF, registered raw |
//! | `control` | all other NIFs, registered through rustler |
//! | `dirty` | the way into those of `control` that are dirty |
//! | `decode` | policies and backends out of terms |
//! | `value` | a term that outlives the call that brought it |
//! | `resource` | the balancer as a term, and its process monitors |
//! | `library` | the library's entry: load, and upgrade while balancers live |
//! | `error` | ArgumentError |

#![deny(unsafe_code)]

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
mod resource;
#[allow(unsafe_code)]
mod value;

mod atoms {
    rustler::atoms! {
        added,
        backends,
        balancers,
        closed,
        down,
        error,
        first,
        generation,
        id,
        keep,
        kept,
        message,
        nif_panicked,
        nil,
        no_backends,
        ok,
        owner,
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
        snapshots,
        state,
        value,
        values,
        weight,
        argument_error = "Elixir.ArgumentError",
        exception_mark = "__exception__",
        struct_mark = "__struct__",
    }
}
