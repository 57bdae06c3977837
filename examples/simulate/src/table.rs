//! The results to read.

/// What a table says of one contender.
pub(crate) struct Row<'a> {
    pub(crate) name: &'a str,
    pub(crate) cells: Vec<String>,
}

/// A table in Markdown.
pub(crate) fn markdown<'a>(columns: &[&str], rows: impl Iterator<Item = Row<'a>>) -> String {
    let head = format!("| policy | {} |\n", columns.join(" | "));
    let rule = format!("| --- |{}\n", " ---: |".repeat(columns.len()));
    let rows = rows.map(|row| format!("| {} | {} |\n", row.name, row.cells.join(" | ")));
    head + &rule + &rows.collect::<String>()
}
