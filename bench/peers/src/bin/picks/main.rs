//! A pick of grpc_lb_core beside those of other balancers, and beside what one would write by hand: with
//! lists of every length, by one thread and by two, with nothing changing meanwhile.
//!
//!     cargo run --release --locked --features picks --bin picks [FILE]
//!
//! Prints a table, and writes the same as JSON to the file. With `CHECK=1` exits with 1 where the core
//! misses its budget.

mod budget;
mod measure;
mod own;
mod peers;

use std::process::ExitCode;
use std::{env, fs};

use self::measure::{case, measure, Case, Row};

const BACKENDS: [u64; 5] = [1, 10, 100, 1_000, 10_000];
const THREADS: [usize; 2] = [1, 2];

fn cases(backends: u64) -> Vec<Case> {
    vec![
        case::<own::RoundRobin>(backends),
        case::<own::SharedRoundRobin>(backends),
        case::<own::Random>(backends),
        case::<own::RingHash>(backends),
        case::<own::PeakEwma>(backends),
        case::<own::PeakEwmaCall>(backends),
        case::<peers::PingoraRoundRobin>(backends),
        case::<peers::PingoraRandom>(backends),
        case::<peers::PingoraKetama>(backends),
        case::<peers::TowerPeakEwma>(backends),
        case::<peers::ArcSwapVec>(backends),
        case::<peers::Haphazard>(backends),
        case::<peers::Seize>(backends),
        case::<peers::Papaya>(backends),
    ]
}

fn main() -> ExitCode {
    let cases: Vec<Case> = BACKENDS.into_iter().flat_map(cases).collect();
    let rows = measure(&cases, &THREADS);
    println!("{}", table(&rows));
    let missed = budget::missed(&rows);
    for what in &missed {
        println!("MISSED: {what}");
    }
    if let Some(file) = env::args().nth(1) {
        fs::write(&file, json(&rows)).expect("the file can be written");
    }
    match env::var_os("CHECK").is_some_and(|check| check == "1") && !missed.is_empty() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

/// Markdown: a line a balancer, a column a number of backends, for each number of threads.
fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for threads in THREADS {
        text += &format!("\nns a pick of each thread, {threads} at once\n\n|");
        text += &[" backends".to_string()]
            .into_iter()
            .chain(BACKENDS.map(|backends| backends.to_string()))
            .collect::<Vec<_>>()
            .join(" | ");
        text += &format!(" |\n| --- |{}", " ---: |".repeat(BACKENDS.len()));
        let of = |row: &&Row| row.threads == threads;
        for first in rows
            .iter()
            .filter(|row| of(row) && row.backends == BACKENDS[0])
        {
            let line = rows.iter().filter(|row| of(row) && row.name == first.name);
            let cells = line.map(|row| format!(" {:.1} |", row.median));
            text += &format!("\n| {} |{}", first.name, cells.collect::<String>());
        }
        text += "\n";
    }
    text
}

fn json(rows: &[Row]) -> String {
    let rows = rows.iter().map(|row| {
        let Row {
            name,
            backends,
            threads,
            median,
            spread,
            least,
        } = row;
        format!(
            "  {{\"name\": \"{name}\", \"backends\": {backends}, \"threads\": {threads}, \
             \"ns_median\": {median:.2}, \"spread\": {spread:.2}, \"ns_min\": {least:.2}}}"
        )
    });
    format!("[\n{}\n]\n", rows.collect::<Vec<_>>().join(",\n"))
}
