//! Simulates a fleet with a slow and a flaky server, and its clients, with each policy of
//! `grpc_lb_core`.
//!
//! The balancers are the library's own; only the world around them is made up. The core reads no clock
//! and opens no socket, so time is an event in a queue.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | the command line |
//! | [`contenders`] | the policies, with and without outlier detection |
//! | `server` | a backend: a queue, a few workers, its load reports |
//! | [`simulation`] | the clients and the clock: what happens when |
//! | [`measured`] | shares, percentiles and errors of one run |
//! | [`table`], [`chart`] | the output |

pub mod chart;
pub mod contenders;
pub mod measured;
pub mod options;
mod server;
pub mod simulation;
pub mod table;

use contenders::Contender;
use measured::Measured;
use options::Options;

/// A contender and its results.
pub type Row = (Contender, Measured);

/// Simulates all contenders with the same calls.
pub fn run(options: &Options) -> Vec<Row> {
    let contenders = contenders::all();
    let run = |contender| {
        let measured = simulation::run(&contender, options);
        (contender, measured)
    };
    contenders.into_iter().map(run).collect()
}
