//! How a snapshot is read without a lock and freed without a reader noticing.
//!
//! # The problem
//!
//! A pick reads the current snapshot while a reconcile may replace it. The old one can be freed
//! only when no pick can still hold it, and the one who finds that out must never be the pick: a
//! pick may not free, allocate, wait or run a destructor.
//!
//! # The way
//!
//! Hazard pointers, one a thread. A reader writes the pointer it is about to follow into its
//! [slot](slots), makes sure that this write is seen before it looks again, and looks again: if
//! the current snapshot is still the same one, a writer that replaces it from now on must find
//! the pointer in the slot. A writer replaces the snapshot, makes sure that this is seen before
//! it reads the slots, and keeps every retired snapshot that a slot still names. Readers do
//! nothing for reclamation but clear their slot.
//!
//! "Makes sure that this is seen before" is a store-load barrier on both sides, the one barrier
//! that costs tens of cycles. Picks happen a million times for each reconcile, so
//! [`barrier`] moves the whole cost to the writer where the operating system can do that.
//!
//! # Why not crossbeam-epoch
//!
//! Its `pin` runs a collection at every 128th call: that walks all threads, runs deferred
//! destructors and may allocate, on the thread that picks. `bench/peers` counts it.

mod barrier;
mod published;
mod slots;

pub(crate) use published::Published;
pub(crate) use slots::Reader;
