//! What is measured of a backend, apart from [policy](crate::policy), which chooses by it.
//!
//! Everything here is told the time and reads no clock.

pub mod latency;
pub mod orca;
pub mod reported_weight;
