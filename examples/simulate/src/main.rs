//! Prints the table of a scenario, and writes the chart with `--svg`.

use std::process::ExitCode;

use grpc_lb_simulate::chart;
use grpc_lb_simulate::options::{Options, USAGE};
use grpc_lb_simulate::scenarios::{
    cache, canary, failover, hung, newcomer, slow_and_flaky, Scenario,
};

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
    let (table, chart) = match scenario {
        Scenario::SlowAndFlaky => {
            let results = slow_and_flaky::run(seed, calls, backends);
            (slow_and_flaky::table(&results), chart::svg(&results))
        }
        Scenario::Failover => {
            let results = failover::run(seed, backends);
            (failover::table(&results), failover::svg(&results))
        }
        Scenario::Cache => {
            let results = cache::run(seed, backends);
            (cache::table(&results), cache::svg(&results))
        }
        Scenario::Hung => return show(&hung::table(&hung::run(seed, backends))),
        Scenario::Newcomer => return show(&newcomer::table(&newcomer::run(seed, backends))),
        Scenario::Canary => return show(&canary::table(&canary::run(seed, calls, backends))),
    };
    show(&table);
    let Some(path) = &options.svg else {
        return ExitCode::SUCCESS;
    };
    match std::fs::write(path, chart) {
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
