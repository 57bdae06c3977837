//! A fleet of servers of which one is slow and one is flaky, with the clients that call it, simulated
//! with each policy of `grpc_lb_core`.
//!
//! The balancers are the library's own. Only the world around them is made up: the core reads no clock
//! and opens no socket, so time can be an event in a queue.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | what can be chosen on the command line |
//! | [`contenders`] | the policies, and what is put around them |
//! | `server` | a backend: a queue, a few workers, its load reports |
//! | [`simulation`] | the clients and the clock: what happens when |
//! | [`measured`] | shares, percentiles and errors of one run |
//! | [`table`], [`chart`] | the same to read and to look at |

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

/// A contender and how it did.
pub type Row = (Contender, Measured);

/// Simulates all contenders, each with the same calls.
pub fn run(options: &Options) -> Vec<Row> {
    let contenders = contenders::all();
    let run = |contender| {
        let measured = simulation::run(&contender, options);
        (contender, measured)
    };
    contenders.into_iter().map(run).collect()
}
