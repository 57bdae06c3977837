//! The command line.

use std::ops::RangeInclusive;
use std::path::PathBuf;

/// What `--help` says.
pub const USAGE: &str = "\
Simulates a fleet with a slow and a flaky backend, with each policy, and prints a table.

  --seed N       seed of all random numbers; one seed gives one output (default 1)
  --calls N      how many calls are measured for each policy (default 200000)
  --backends N   how many backends there are, 5 to 1000 (default 10)
  --svg PATH     also draws a chart, to this file
";

/// What a run can vary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The seed of all random numbers.
    pub seed: u64,
    /// How many calls are measured.
    pub calls: u64,
    /// How many backends there are.
    pub backends: usize,
    /// Where the chart goes.
    pub svg: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            seed: 1,
            calls: 200_000,
            backends: 10,
            svg: None,
        }
    }
}

impl Options {
    /// Parses the arguments. `None` asks for help; an error says what is wrong and what is allowed.
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
        let mut options = Options::default();
        while let Some(name) = args.next() {
            let mut value = || args.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "--seed" => options.seed = number(&name, &value()?, 0..=u64::MAX)?,
                "--calls" => options.calls = number(&name, &value()?, 1..=100_000_000)?,
                // Outlier detection wants 5 to compare.
                "--backends" => options.backends = number(&name, &value()?, 5..=1_000)? as usize,
                "--svg" => options.svg = Some(PathBuf::from(value()?)),
                "--help" => return Ok(None),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        Ok(Some(options))
    }
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
        assert_eq!(parse(""), Ok(Some(Options::default())));
        let given = Options {
            seed: 7,
            calls: 100,
            backends: 5,
            svg: Some(PathBuf::from("a.svg")),
        };
        let line = "--svg a.svg --backends 5 --calls 100 --seed 7";
        assert_eq!(parse(line), Ok(Some(given)));
        assert_eq!(parse("--seed 7 --help"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("--speed 1", "unknown option --speed"),
            ("--seed", "--seed needs a value"),
            (
                "--backends 4",
                "--backends must be a number from 5 to 1000, got: 4",
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
