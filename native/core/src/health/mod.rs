//! What wraps any policy: which backends may be picked at all, and how much of their weight counts.
//!
//! All of it is arithmetic on arguments, the time among them.

pub mod outlier_detection;
pub mod panic;
pub mod slow_start;
