//! Prints the table of a scenario, and writes the chart with `--svg`.

use std::process::ExitCode;

use grpc_lb_simulate::chart;
use grpc_lb_simulate::options::{Options, USAGE};
use grpc_lb_simulate::scenarios::{canary, hung, newcomer, slow_and_flaky, Scenario};

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
    let Options {
        scenario,
        seed,
        calls,
        backends,
        ..
    } = options;
    let results = match scenario {
        Scenario::SlowAndFlaky => slow_and_flaky::run(seed, calls, backends),
        Scenario::Hung => return show(&hung::table(&hung::run(seed, backends))),
        Scenario::Newcomer => return show(&newcomer::table(&newcomer::run(seed, backends))),
        Scenario::Canary => return show(&canary::table(&canary::run(seed, calls, backends))),
    };
    show(&slow_and_flaky::table(&results));
    let Some(path) = &options.svg else {
        return ExitCode::SUCCESS;
    };
    match std::fs::write(path, chart::svg(&results)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn show(table: &str) -> ExitCode {
    print!("{table}");
    ExitCode::SUCCESS
}
