//! Prints the table, and writes the chart with `--svg`.

use std::process::ExitCode;

use grpc_lb_simulate::options::{Options, USAGE};
use grpc_lb_simulate::{chart, run, table};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("{message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let rows = run(&options);
    print!("{}", table::markdown(&rows));
    let Some(path) = &options.svg else {
        return ExitCode::SUCCESS;
    };
    match std::fs::write(path, chart::svg(&rows)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}
