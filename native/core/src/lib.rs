//! Client-side load balancing: which backend takes the next call.
//!
//! A [`Balancer`] holds a list of backends and a [policy]. A pick reads one immutable snapshot,
//! built off the hot path and published whole, and never locks, allocates or frees. A reconcile
//! replaces the list: backends are known by their id, and what is counted for one belongs to its
//! id and survives.
//!
//! ```
//! use grpc_lb_core::policy::{round_robin, Policy};
//! use grpc_lb_core::{Backend, Balancer, Caller, Outcome, Time, Unowned};
//!
//! let balancer = Balancer::new(Policy::RoundRobin(round_robin::Config::default()), 0, Time(0));
//! let backends = [Backend::new("a", "10.0.0.1"), Backend::new("b", "10.0.0.2")];
//! balancer.reconcile(&backends, &Unowned, Time(0))?;
//!
//! let caller = Caller::claim(0).expect("fewer than 1,024 threads pick");
//! assert_eq!(balancer.pick(&caller, &Unowned, |address| *address), Ok("10.0.0.1"));
//!
//! let (address, ticket) = balancer.checkout(&caller, &Unowned, Time(5), |address| *address).unwrap();
//! assert_eq!(address, "10.0.0.2");
//! assert_eq!(balancer.info(&Unowned).backends[1].in_flight, 1);
//! ticket.complete(Outcome::Success, None, Time(9)).unwrap();
//! assert_eq!(balancer.info(&Unowned).backends[1].successes, 1);
//! # Ok::<(), grpc_lb_core::ChangeError>(())
//! ```
//!
//! The crate knows no BEAM: it is generic over the term type `T` that names and stands for a
//! backend, takes its random seeds and the time as arguments, and hears of dead owners through
//! [`Owners`].
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`balancer`](Balancer) | picks and calls; and the writer's side: the list, and all that changes it |
//! | `members`, `watched` | the backends that are listed, and their owners |
//! | `snapshot`, `rows` | what a pick reads |
//! | [policy] | one policy a file: config, `build`, `pick` |
//! | [load] | what is measured of a backend |
//! | [health] | who may be picked at all: outliers, slow start, panic |
//! | [limit], [`ticket`](Ticket) | calls in flight: how many there may be; one of them |
//! | `cursor` | the counter of the rotating policies |
//! | `shared` | what a balancer and its calls in flight share |
//! | [`alarm`](Alarm) | how whoever ticks sleeps, and is woken |
//! | [hash], [subset] | what the tables of the hashing policies are built with; no policy hashes yet |
//! | `reclaim` | how snapshots are read without a lock and freed; the only `unsafe` |
//! | `sync` | the only importer of atomics and locks |

#![deny(unsafe_code)]

mod alarm;
mod backend;
mod balancer;
mod caller;
mod config;
mod cursor;
mod entry;
pub mod hash;
pub mod health;
mod limit;
mod live;
pub mod load;
mod members;
pub mod policy;
#[allow(unsafe_code)]
mod reclaim;
mod rows;
mod shared;
mod snapshot;
pub mod subset;
mod sync;
#[cfg(feature = "testing")]
pub mod testing;
mod ticket;
mod time;
mod watched;

#[cfg(all(test, loom))]
mod models;

pub use alarm::Alarm;
pub use backend::{Backend, Offer, OnOwnerDeath, Owner, Owners, State, Unowned};
pub use balancer::{
    BackendInfo, Balancer, ChangeError, Changes, ConfigureError, Configured, Info, MemberError,
    Summary,
};
pub use caller::Caller;
pub use config::Config;
pub use live::{live_counts, LiveCounts};
pub use load::Outcome;
pub use snapshot::Unavailable;
pub use ticket::{AlreadyCompleted, Ticket};
pub use time::Time;
