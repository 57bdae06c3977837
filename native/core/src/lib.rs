//! Client-side load balancing: which backend takes the next call.
//!
//! A [`Balancer`] holds a list of backends and a [policy]. A pick reads one immutable snapshot,
//! built off the hot path and published whole, and never locks, allocates or frees. A reconcile
//! replaces the list: backends are known by their id, and what is counted for one belongs to its
//! id and survives.
//!
//! ```
//! use grpc_lb_core::policy::{round_robin, Policy};
//! use grpc_lb_core::{Backend, Balancer, Caller, Unowned};
//!
//! let balancer = Balancer::new(Policy::RoundRobin(round_robin::Config::default()), 0);
//! balancer.reconcile(&[Backend::new("a", "10.0.0.1"), Backend::new("b", "10.0.0.2")], &Unowned)?;
//!
//! let caller = Caller::claim(0).expect("fewer than 1,024 threads pick");
//! assert_eq!(balancer.pick(&caller, &Unowned, |address| *address), Ok("10.0.0.1"));
//! assert_eq!(balancer.pick(&caller, &Unowned, |address| *address), Ok("10.0.0.2"));
//! # Ok::<(), grpc_lb_core::ChangeError>(())
//! ```
//!
//! The crate knows no BEAM: it is generic over the term type `T` that names and stands for a
//! backend, takes its random seeds as arguments, and hears of dead owners through [`Owners`].
//!
//! | module | what is in it |
//! | --- | --- |
//! | [`balancer`](Balancer) | the writer's side: reconcile, add, remove, owner death, close, info |
//! | `members`, `watched` | the backends that are listed, and their owners |
//! | `snapshot`, `rows` | what a pick reads |
//! | [policy] | one policy a file: config, `build`, `pick` |
//! | `cursor` | the counter of the rotating policies |
//! | [load] | what is measured of a backend, apart from the policies that choose by it |
//! | `reclaim` | how snapshots are read without a lock and freed; the only `unsafe` |
//! | `sync` | the only importer of atomics and locks |

#![deny(unsafe_code)]

mod backend;
mod balancer;
mod caller;
mod cursor;
pub mod hash;
pub mod health;
pub mod limit;
mod live;
pub mod load;
mod members;
pub mod policy;
#[allow(unsafe_code)]
mod reclaim;
mod rows;
mod snapshot;
pub mod subset;
mod sync;
mod time;
mod watched;

#[cfg(all(test, loom))]
mod models;

pub use backend::{Backend, Offer, OnOwnerDeath, Owner, Owners, State, Unowned};
pub use balancer::{BackendInfo, Balancer, ChangeError, Changes, Config, Info};
pub use caller::Caller;
pub use live::{live_counts, LiveCounts};
pub use snapshot::Unavailable;
pub use time::Time;
