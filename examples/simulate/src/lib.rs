//! Simulates fleets that something happens to, and their clients, with each policy of
//! `grpc_lb_core`.
//!
//! The balancers are the library's own; only the world around them is made up. The core reads no clock
//! and opens no socket, so time is an event in a queue.
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`options`] | the command line |
//! | [`scenarios`] | what happens to a fleet, and what is measured of it |
//! | `contenders` | the policies, with and without what can be put around them |
//! | `simulation` | the clients and the clock: what happens when |
//! | `server` | a backend: a queue, a few workers, its load reports |
//! | `table`, [`chart`], [`lines`] | the output |

pub mod chart;
mod contenders;
pub mod lines;
pub mod options;
pub mod scenarios;
mod server;
mod simulation;
mod table;
