//! The results to read.

use std::fmt::Write;

use crate::Row;

/// A table in Markdown.
pub fn markdown(rows: &[Row]) -> String {
    let mut table = String::from(
        "| policy | to the slow one, % | to the flaky one, % | p50, ms | p99, ms | p99.9, ms | errors, % |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (contender, measured) in rows {
        writeln!(
            table,
            "| {} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {:.2} |",
            contender.name,
            measured.slow,
            measured.flaky,
            measured.p50,
            measured.p99,
            measured.p999,
            measured.errors(),
        )
        .expect("a string takes everything");
    }
    table
}
