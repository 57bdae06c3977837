//! How a snapshot is read without a lock and freed without a reader noticing.
//!
//! # The problem
//!
//! A pick reads the current snapshot while a reconcile may replace it. The old one can be freed
//! only when no pick can still hold it, and the one who frees it must never be the pick: a pick may
//! not run a destructor, which could be anything.
//!
//! # The way
//!
//! Epochs, by crossbeam-epoch, with a [collector](reader) of our own. A reader pins its handle,
//! loads the current snapshot and reads it. A writer swaps the snapshot and retires the last one:
//! it begins a [grace period](grace), which is over when everyone who was pinned at the swap has
//! unpinned. What crossbeam-epoch runs then, on whichever thread comes by, is a function that owns
//! nothing: it notes in a static that the grace period is over. The next writer of that
//! [`Published`] sees the note and frees. So a balancer can go at any time: nothing that is still
//! to run points into it.
//!
//! A writer moves the epoch on itself, so that where no read is under way, what it retired is free
//! before it is done. A thread that is registered and not pinned holds nothing back.
//!
//! # What a pick does for it
//!
//! A pick never runs or frees anything of ours: no snapshot, no value, no destructor. At every
//! 128th pin of its thread, crossbeam-epoch looks whether the epoch can move on, which walks all
//! registered threads. There it may run up to eight bags of functions such as the above, each of
//! which stores one number, and it may free or allocate bags of its own (2 KiB; one a
//! change, shared among all threads) and records of threads that have ended. Where nothing was
//! retired and no thread has ended, it does neither. `tests/allocations.rs` holds picks to this, and
//! `bench/peers` counts it.

mod grace;
mod published;
mod reader;

pub(crate) use published::Published;
pub(crate) use reader::Reader;
