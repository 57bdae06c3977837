//! The program as its users run it, and what of it stands in the guide.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// With the guide that shows each, and its chart.
const SCENARIOS: [(&str, &str, Option<&str>); 6] = [
    (
        "slow-and-flaky",
        "choosing_a_policy.md",
        Some("policies.svg"),
    ),
    ("hung", "choosing_a_policy.md", None),
    ("newcomer", "choosing_a_policy.md", None),
    ("canary", "choosing_a_policy.md", None),
    ("failover", "sticky_routing.md", Some("failover.svg")),
    ("cache", "sticky_routing.md", Some("cache.svg")),
];

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

    for (scenario, _guide, _chart) in SCENARIOS {
        let run = |seed| {
            let args = ["--scenario", scenario, "--calls", "5000", "--seed", seed];
            printed(&simulate(&args))
        };
        assert_eq!(run("1"), run("1"), "{scenario}");
        assert_ne!(run("1"), run("2"), "{scenario}");
    }
}

#[test]
fn the_chart_says_what_it_shows() {
    let (table, chart) = run("3");
    assert!(chart.starts_with("<svg ") && chart.ends_with("</svg>\n"));
    for (policy, _numbers) in rows(table.lines()) {
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
    let output = simulate(&["--backends", "2"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("--backends must be a number from 3 to 1000, got: 2\n"));

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
    for (scenario, guide, chart) in SCENARIOS {
        let guide = fs::read_to_string(guides.join(guide)).unwrap();
        let chart = chart.map(|name| fs::read_to_string(guides.join("assets").join(name)).unwrap());
        let table = printed(&simulate(&["--scenario", scenario]));
        let head = table.lines().next().expect("there is a table");
        let shown = rows(guide.lines().skip_while(|line| *line != head));
        let now = rows(table.lines());
        let names = |rows: &[Row]| {
            rows.iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&shown), names(&now), "{scenario}");
        for ((policy, numbers), (_, shown)) in now.iter().zip(&shown) {
            let is_time = head
                .split(" | ")
                .skip(1)
                .map(|it| it.contains(", ms") || it.contains(", s"));
            let is_near = |((now, shown), is_time): ((&f64, &f64), bool)| {
                let off = if is_time {
                    1.0 + 0.5 * now
                } else {
                    0.3 + 0.15 * now
                };
                now == shown || (now - shown).abs() <= off
            };
            let all_near = numbers.iter().zip(shown).zip(is_time).all(is_near);
            assert!(all_near, "{scenario}, {policy}: {numbers:?}, {shown:?}");
            let is_drawn = |chart: &String| chart.contains(&format!(">{policy}</text>"));
            assert!(chart.as_ref().is_none_or(is_drawn), "{policy}");
        }
    }
}

type Row = (String, Vec<f64>);

/// The rows of the table that begins here: names, and numbers. To the left of an arrow is a number
/// of before, which nothing can print any more.
fn rows<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Row> {
    let row = |line: &str| {
        let cells = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let mut cells = cells.split(" | ");
        let name = cells.next()?.to_string();
        let number = |cell: &str| match cell.rsplit(" → ").next()? {
            "never" => Some(f64::INFINITY),
            number => number.parse().ok(),
        };
        Some((name, cells.map(number).collect::<Option<_>>()?))
    };
    lines.skip(2).map_while(row).collect()
}
