//! The command line.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::scenarios::Scenario;

/// What `--help` says.
pub const USAGE: &str = "\
Simulates a fleet that something happens to, with each policy, and prints a table.

  --scenario S   slow-and-flaky, hung, newcomer, canary, failover or cache
                 (default slow-and-flaky)
  --seed N       seed of all random numbers; one seed gives one output (default 1)
  --calls N      how many calls are measured for each policy, where time is no limit: of
                 slow-and-flaky and canary (default 200000)
  --backends N   how many backends there are, of failover in each region, 3 to 1000
                 (default 10, of hung and canary 3)
  --svg PATH     also draws a chart, to this file: of slow-and-flaky, failover or cache
";

/// What a run can vary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What happens to the fleet.
    pub scenario: Scenario,
    /// The seed of all random numbers.
    pub seed: u64,
    /// How many calls are measured.
    pub calls: u64,
    /// How many backends there are.
    pub backends: usize,
    /// Where the chart goes.
    pub svg: Option<PathBuf>,
}

impl Options {
    /// Parses the arguments. `None` asks for help; an error says what is wrong and what is allowed.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options {
            scenario: Scenario::SlowAndFlaky,
            seed: 1,
            calls: 200_000,
            backends: 0,
            svg: None,
        };
        let mut backends = None;
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--scenario" => options.scenario = scenario(&value()?)?,
                "--seed" => options.seed = number(&name, &value()?, 0..=u64::MAX)?,
                "--calls" => options.calls = number(&name, &value()?, 1..=100_000_000)?,
                "--backends" => backends = Some(number(&name, &value()?, 3..=1_000)? as usize),
                "--svg" => options.svg = Some(PathBuf::from(value()?)),
                "--help" => return Ok(None),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        if options.svg.is_some() && !options.scenario.is_drawn() {
            return Err("--svg draws slow-and-flaky, failover and cache only".to_string());
        }
        options.backends = backends.unwrap_or(options.scenario.backends());
        Ok(Some(options))
    }
}

fn scenario(name: &str) -> Result<Scenario, String> {
    let named = Scenario::NAMES.iter().find(|(it, _)| *it == name);
    let (_, scenario) = named.ok_or(format!("unknown scenario {name}"))?;
    Ok(*scenario)
}

fn number(name: &str, value: &str, allowed: RangeInclusive<u64>) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| allowed.contains(number));
    let (from, to) = allowed.clone().into_inner();
    number.ok_or(format!(
        "{name} must be a number from {from} to {to}, got: {value}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(str::to_string))
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let default = Options {
            scenario: Scenario::SlowAndFlaky,
            seed: 1,
            calls: 200_000,
            backends: 10,
            svg: None,
        };
        assert_eq!(parse(""), Ok(Some(default.clone())));
        let hung = Options {
            scenario: Scenario::Hung,
            backends: 3,
            ..default.clone()
        };
        assert_eq!(parse("--scenario hung"), Ok(Some(hung)));
        let given = Options {
            seed: 7,
            calls: 100,
            backends: 5,
            svg: Some(PathBuf::from("a.svg")),
            ..default
        };
        let line = "--svg a.svg --backends 5 --calls 100 --seed 7";
        assert_eq!(parse(line), Ok(Some(given)));
        assert_eq!(parse("--seed 7 --help"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("--speed 1", "unknown option --speed"),
            ("--scenario fire", "unknown scenario fire"),
            (
                "--scenario hung --svg a.svg",
                "--svg draws slow-and-flaky, failover and cache only",
            ),
            ("--seed", "--seed needs a value"),
            (
                "--backends 2",
                "--backends must be a number from 3 to 1000, got: 2",
            ),
            (
                "--calls 0",
                "--calls must be a number from 1 to 100000000, got: 0",
            ),
            (
                "--calls many",
                "--calls must be a number from 1 to 100000000, got: many",
            ),
        ];
        for (line, message) in cases {
            assert_eq!(parse(line), Err(message.to_string()));
        }
    }
}
