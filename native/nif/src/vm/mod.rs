//! The border to the VM. All `unsafe` of this crate is in here; what it offers to the other modules
//! is safe.
//!
//! | module | what is in it |
//! | --- | --- |
//! | `entry` | the library's entry: load, and upgrade while objects live |
//! | `dispatch` | where a call finds its object, or the build that made it |
//! | `library` | the builds that are loaded, and what they know of each other |
//! | `function`, `nif`, `dirty` | NIFs as the VM is told of them, as it calls them, and by which way |
//! | `extent` | how much a term takes when nothing in it is shared |
//! | `go_on` | the way from a NIF on a normal scheduler to one on another, in the middle of a call |
//! | `resource`, `object` | Rust values behind references: made, found, ended |
//! | `monotonic` | the system's clock |
//! | `owned` | values that one process alone may use |
//! | `owner` | processes that own something, and monitors on them |
//! | `literal` | answers that lie outside of all heaps, and are returned as they are |
//! | `term` | terms that outlive their call, and terms without a detour |
//! | `scheduler` | messages, turns and schedulers |
//! | `worker` | the library's own thread |

#![allow(unsafe_code)]

mod dirty;
pub(crate) mod dispatch;
pub(crate) mod entry;
pub(crate) mod extent;
pub(crate) mod function;
pub(crate) mod go_on;
pub(crate) mod library;
pub(crate) mod literal;
pub(crate) mod monotonic;
pub(crate) mod nif;
mod object;
pub(crate) mod owned;
pub(crate) mod owner;
pub(crate) mod resource;
pub(crate) mod scheduler;
pub(crate) mod term;
pub(crate) mod worker;

pub(crate) use self::entry::library;
pub(crate) use self::library::ABI;
pub(crate) use self::nif::Answer;
pub(crate) use self::object::Object;
pub(crate) use self::resource::{Handle, Resource, ResourceType};
