//! Client-side load balancing: which backend takes the next call.
//!
//! A [`Balancer`] holds a list of backends and a [policy]. A pick reads one immutable snapshot,
//! built off the hot path and published whole; it never locks, and frees and drops nothing of ours. A
//! reconcile replaces the list: backends are known by their id, and what is counted for one belongs
//! to its id and survives.
//!
//! ```
//! use grpc_lb_core::policy::{round_robin, Policy};
//! use grpc_lb_core::{Backend, Balancer, Caller, Outcome, Time, Unowned};
//!
//! let balancer = Balancer::new(Policy::RoundRobin(round_robin::Config::default()), 0, Time(0));
//! let backends = [Backend::new("a", "10.0.0.1"), Backend::new("b", "10.0.0.2")];
//! balancer.reconcile(&backends, &Unowned, Time(0))?;
//!
//! let caller = Caller::new(0);
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
//! Each floor uses only those above it, and no files use each other in a circle:
//!
//! | floor | what is in it |
//! | --- | --- |
//! | `sync`, [`time`](Time), [`backend`](Backend), [hash], [subset] | words; `sync` alone imports atomics and locks |
//! | `reclaim`, `cursor`, `share`, `limit`, `line`, `live`, [`alarm`](Alarm), [`caller`](Caller) | what threads share; `reclaim` frees snapshots, and has the only `unsafe` |
//! | [load] | measures backends |
//! | [policy], [health] | which backend is picked, and which may be; they see loads |
//! | [`config`](Config), [`events`](Event), `shared`, `drain`, `entry` | what is kept for a balancer, and for a backend |
//! | `rows`, `memory`, `members`, `watched`, `group`, `snapshot`, [`call`](Call), [`ticket`](Ticket) | lists of backends, and calls |
//! | [`balancer`](Balancer) | picks, calls, changes, time, info |

#![deny(unsafe_code)]

mod alarm;
mod backend;
mod balancer;
mod call;
mod caller;
mod config;
mod cursor;
mod drain;
mod entry;
mod events;
mod group;
pub mod hash;
pub mod health;
mod limit;
mod line;
mod live;
pub mod load;
mod members;
mod memory;
pub mod policy;
#[allow(unsafe_code)]
mod reclaim;
mod rows;
mod share;
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
pub use backend::{Backend, HashKey, Offer, OnOwnerDeath, Owner, Owners, State, Unowned};
pub use balancer::{
    BackendInfo, Balancer, Busy, ChangeError, Changes, ConfigureError, Configured, Drained,
    Garbage, Info, LayerInfo, MemberError, Offers, Seen, Summary, Turn,
};
pub use call::{Begun, Call, Ended, LatencySample, Recent};
pub use caller::{Caller, Drawing, Draws, Keyed};
pub use config::Config;
pub use events::{Event, Events};
pub use health::ejection::{Cause, Rule};
pub use live::{live_counts, LiveCounts};
pub use load::Outcome;
pub use snapshot::{Search, Unavailable};
pub use ticket::{AlreadyCompleted, Ticket};
pub use time::{Clock, Time};
