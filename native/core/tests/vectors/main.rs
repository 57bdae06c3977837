//! Known answers: every vector of every `*.json` below one folder, run against the crate.
//!
//! `GRPC_LB_VECTORS` names the folder; without it, it is our own copy in `native/core/vectors`. A
//! file holds `{policy, source, notes, vectors}`, and a vector is
//! `{id, op, kind, source, check, input, expect, note?}`, where `op` says how it is run. The areas
//! are asked for it one after the other. An `op` that none of them knows is a failure, and so is a
//! folder without vectors.
//!
//! What is only another implementation's rule lives in the areas, never in the crate.

mod ewma;
mod given;
mod hashing;
mod health;
mod hosts;
mod least_request;
mod limit;
mod maglev;
mod orca;
mod outlier;
mod pick_first;
mod ring_hash;
mod rotation;
mod stride;
mod wrr;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use given::{Vector, Vectors};

/// What became of a vector: as expected, or what is wrong. `None`: not this area's `op`.
type Outcome = Option<Result<(), String>>;

/// The areas, in the order in which they are asked.
const AREAS: &[fn(&str, &Vector, &Vectors) -> Outcome] = &[
    stride::run,
    wrr::run,
    orca::run,
    rotation::run,
    least_request::run,
    ewma::run,
    health::run,
    outlier::run,
    limit::run,
    hashing::run,
    ring_hash::run,
    maglev::run,
    pick_first::run,
];

#[test]
fn vectors() {
    let folder = folder();
    let all = Vectors::read(&folder);
    assert!(all.iter().len() > 0, "no vectors in {}", folder.display());

    let failures: Vec<String> = all
        .iter()
        .filter_map(|vector| failure(vector, &all))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} vectors failed:\n{}",
        failures.len(),
        all.iter().len(),
        failures.join("\n")
    );
}

/// A relative path counts from the root of the repository, where cargo is called.
fn folder() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    match std::env::var_os("GRPC_LB_VECTORS") {
        Some(folder) => package.join("../..").join(folder),
        None => package.join("vectors"),
    }
}

/// One line for a vector that failed.
fn failure(vector: &Vector, all: &Vectors) -> Option<String> {
    let op = vector.op.as_str();
    // An area may panic at an input that it does not understand: that is one failure among others.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        AREAS.iter().find_map(|run| run(op, vector, all))
    }));
    let problem = match outcome {
        Ok(Some(Ok(()))) => return None,
        Ok(Some(Err(problem))) => problem,
        Ok(None) => "no area knows this op".to_string(),
        Err(panic) => format!("panicked: {}", message(panic.as_ref())),
    };
    Some(format!("{} {} ({op}): {problem}", vector.file, vector.id))
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("not a text")
}
