//! What the simulation is to show, with several seeds and sizes of the fleet.

use std::sync::LazyLock;

use grpc_lb_simulate::measured::Measured;
use grpc_lb_simulate::options::Options;
use grpc_lb_simulate::{run, Row};

struct Fleet {
    /// What each backend would get if all were alike, in percent.
    fair: f64,
    rows: Vec<Row>,
}

static FLEETS: LazyLock<Vec<Fleet>> = LazyLock::new(|| {
    let fleets = [(1, 10), (2, 10), (3, 12), (4, 30)];
    let fleet = |(seed, backends)| Fleet {
        fair: 100.0 / backends as f64,
        rows: run(&Options {
            seed,
            backends,
            calls: 50_000,
            svg: None,
        }),
    };
    fleets.map(fleet).into()
});

impl Fleet {
    fn with(&self, name: &str) -> &Measured {
        let row = self
            .rows
            .iter()
            .find(|(contender, _)| contender.name == name);
        &row.expect("it is one of the contenders").1
    }
}

fn is_near(value: f64, expected: f64, off: f64) -> bool {
    (value - expected).abs() <= off
}

#[test]
fn each_policy_does_what_it_is_for() {
    for fleet in FLEETS.iter() {
        let fair = fleet.fair;
        // Turns are turns. 30 % of what the flaky backend gets fails, and nearly all that the slow
        // one gets comes too late.
        let round_robin = fleet.with("round_robin");
        assert!(is_near(round_robin.slow, fair, 0.02), "{round_robin:?}");
        assert!(is_near(round_robin.flaky, fair, 0.02), "{round_robin:?}");
        assert!(
            is_near(round_robin.failed, 0.3 * fair, 0.3),
            "{round_robin:?}"
        );
        assert!(round_robin.timed_out > 0.7 * fair, "{round_robin:?}");
        assert_eq!(round_robin.p99, 1_000.0);

        let random = fleet.with("random");
        assert!(is_near(random.slow, fair, 0.5), "{random:?}");
        assert!(is_near(random.flaky, fair, 0.5), "{random:?}");

        // Weights of 10 to 1, given or found out. What fails is reported, too, and counts.
        let ours = fair / (100.0 - fair + fair / 10.0) * 100.0;
        let given = fleet.with("weighted_round_robin, static");
        assert!(is_near(given.slow, ours / 10.0, 0.05), "{given:?}");
        assert!(is_near(given.flaky, ours, 0.05), "{given:?}");
        let reported = fleet.with("weighted_round_robin, reported");
        assert!(
            is_near(reported.slow, ours / 10.0, 0.1 * ours),
            "{reported:?}"
        );
        assert!(reported.flaky < 0.9 * ours, "{reported:?}");

        // Who is slow is busy; who fails fast is not.
        let least_request = fleet.with("least_request");
        assert!(least_request.slow < 0.4 * fair, "{least_request:?}");
        assert!(least_request.flaky > 1.05 * fair, "{least_request:?}");

        let peak_ewma = fleet.with("peak_ewma");
        assert!(peak_ewma.p99 < round_robin.p99 / 3.0, "{peak_ewma:?}");
        assert!(peak_ewma.slow < 0.5 * fair, "{peak_ewma:?}");
        assert!(peak_ewma.flaky < 0.2 * fair, "{peak_ewma:?}");
    }
}

#[test]
fn outlier_detection_keeps_failures_away() {
    for fleet in FLEETS.iter() {
        let fair = fleet.fair;
        for policy in ["round_robin", "least_request", "peak_ewma"] {
            let alone = fleet.with(policy);
            let guarded = fleet.with(&format!("{policy} + outlier detection"));
            assert!(guarded.errors() < 2.0, "{guarded:?}");
            assert!(guarded.errors() < alone.errors() + 0.2, "{guarded:?}");
            assert!(guarded.flaky < 0.3 * fair, "{guarded:?}");
        }
        // What comes too late has failed, so that who is slow enough goes, too.
        let round_robin = fleet.with("round_robin + outlier detection");
        assert!(round_robin.slow < 0.1 * fair, "{round_robin:?}");
        assert!(round_robin.p99 < 1_000.0 / 3.0, "{round_robin:?}");
    }
}
