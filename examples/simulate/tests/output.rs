//! The program as its users run it, and what of it stands in the guide.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Shares, latencies and errors.
const COLUMNS: usize = 6;

fn simulate(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_grpc_lb_simulate");
    Command::new(program)
        .args(args)
        .output()
        .expect("it starts")
}

fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("it prints UTF-8")
}

/// What it prints and draws.
fn run(seed: &str) -> (String, String) {
    let svg = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{seed}.svg"));
    let path = svg.to_str().expect("the path is UTF-8");
    let output = simulate(&["--seed", seed, "--calls", "5000", "--svg", path]);
    let drawn = fs::read_to_string(&svg).expect("it has written the chart");
    (printed(&output), drawn)
}

#[test]
fn one_seed_is_one_output() {
    let first = run("1");
    assert_eq!(run("1"), first);
    let other = run("2");
    assert_ne!(other.0, first.0);
    assert_ne!(other.1, first.1);
}

#[test]
fn the_chart_says_what_it_shows() {
    let (table, chart) = run("3");
    assert!(chart.starts_with("<svg ") && chart.ends_with("</svg>\n"));
    for (policy, _numbers) in rows(&table) {
        assert!(chart.contains(&format!(">{policy}</text>")), "{policy}");
    }
    let labels = [
        "Shares",
        "Latency",
        "Errors",
        "ms, logarithmic",
        "slow",
        "p99.9",
        "callers give up",
        "given up",
        "failed",
    ];
    for label in labels {
        assert!(chart.contains(&format!(">{label}</text>")), "{label}");
    }
    assert!(chart.contains(r#"<line class="given_up limit""#));
    assert!(!chart.contains("NaN") && !chart.contains("inf"));
}

#[test]
fn what_cannot_be_done_is_said() {
    let output = simulate(&["--backends", "4"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("--backends must be a number from 5 to 1000, got: 4\n"));

    let output = simulate(&["--calls", "1", "--svg", "no/such/folder/chart.svg"]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("cannot write no/such/folder/chart.svg: "));

    assert!(printed(&simulate(&["--help"])).contains("--svg PATH"));
}

/// Not to the last digit: other processors round other logarithms, and the slowest of the calls to a
/// few backends are few.
#[test]
fn the_guide_shows_what_is_printed() {
    let guides = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guides");
    let guide = fs::read_to_string(guides.join("choosing_a_policy.md")).unwrap();
    let chart = fs::read_to_string(guides.join("assets/policies.svg")).unwrap();
    let shown = rows(&guide);
    let now = rows(&printed(&simulate(&[])));
    assert_eq!(now.len(), 9);
    for (policy, numbers) in now {
        assert!(chart.contains(&format!(">{policy}</text>")), "{policy}");
        let shown = shown.iter().find(|(name, _)| *name == policy);
        let (_, shown) = shown.unwrap_or_else(|| panic!("{policy} is not in the guide"));
        let is_near = |column: usize| {
            let (now, shown) = (numbers[column], shown[column]);
            let is_latency = (2..5).contains(&column);
            let off = if is_latency {
                0.5 * now
            } else {
                0.3 + 0.15 * now
            };
            (now - shown).abs() <= off
        };
        let all_near = (0..COLUMNS).all(is_near);
        assert!(all_near, "{policy}: {numbers:?}, {shown:?}");
    }
}

/// The rows of a table that have a name and as many numbers.
fn rows(text: &str) -> Vec<(String, Vec<f64>)> {
    let row = |line: &str| {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let mut cells = cells.split(" | ");
        let name = cells.next()?.to_string();
        let numbers: Option<Vec<f64>> = cells.map(|cell| cell.parse().ok()).collect();
        Some((name, numbers.filter(|numbers| numbers.len() == COLUMNS)?))
    };
    text.lines().filter_map(row).collect()
}
