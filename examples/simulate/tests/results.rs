//! What the simulation is to show, with several seeds and sizes of the fleet.

use std::sync::LazyLock;

use grpc_lb_simulate::scenarios::slow_and_flaky::Measured;
use grpc_lb_simulate::scenarios::{cache, canary, failover, hung, newcomer, slow_and_flaky};

struct Fleet {
    /// What each backend would get if all were alike, in percent.
    fair: f64,
    results: Vec<(&'static str, Measured)>,
}

static FLEETS: LazyLock<Vec<Fleet>> = LazyLock::new(|| {
    let fleets = [(1, 10), (2, 10), (3, 12), (4, 30)];
    let fleet = |(seed, backends)| Fleet {
        fair: 100.0 / backends as f64,
        results: slow_and_flaky::run(seed, 50_000, backends),
    };
    fleets.map(fleet).into()
});

impl Fleet {
    fn with(&self, name: &str) -> &Measured {
        of(&self.results, name)
    }
}

/// What was measured of a contender.
fn of<'a, M>(results: &'a [(&'static str, M)], name: &str) -> &'a M {
    let result = results.iter().find(|(contender, _)| *contender == name);
    &result.expect("it is one of the contenders").1
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

#[test]
fn who_hangs_is_left_alone_by_those_that_can_tell() {
    for (seed, backends) in [(1, 3), (2, 3), (3, 10)] {
        let fair = 100.0 / backends as f64;
        let results = hung::run(seed, backends);
        let with = |name| of(&results, name);

        // Turns go on, and outlier detection knows of failures only.
        for name in ["round_robin", "round_robin + outlier detection"] {
            assert!(is_near(with(name).later, fair, 0.3), "{:?}", with(name));
            assert!(is_near(with(name).given_up, fair, 0.3), "{:?}", with(name));
            assert_eq!(with(name).again, Some(0));
        }
        // What hangs is busy.
        let least_request = with("least_request");
        assert!(least_request.later < 0.6 * fair, "{least_request:?}");
        assert_eq!(least_request.again, Some(0));

        // A call that was given up took at least as long as it lasted.
        let peak_ewma = with("peak_ewma");
        assert!(peak_ewma.later < 3.0, "{peak_ewma:?}");
        assert!(peak_ewma.again.is_some(), "{peak_ewma:?}");

        for policy in ["round_robin", "least_request", "peak_ewma"] {
            let name = format!("{policy} + outlier detection, told");
            let told = of(&results, &name);
            assert!(told.later < 0.5, "{told:?}");
            assert!(told.again.is_some(), "{told:?}");
        }
    }
}

#[test]
fn a_newcomer_gets_its_share() {
    for (seed, backends) in [(1, 10), (2, 10), (3, 4)] {
        let results = newcomer::run(seed, backends);
        let with = |name| of(&results, name);
        for name in [
            "round_robin",
            "random",
            "weighted_round_robin, static",
            "least_request",
        ] {
            let newcomer = with(name);
            let first = newcomer.first.expect("it was called");
            assert!(first.as_millis() < 250, "{name}: {newcomer:?}");
            assert!(is_near(newcomer.soon, 100.0, 12.0), "{name}: {newcomer:?}");
            assert!(is_near(newcomer.later, 100.0, 5.0), "{name}: {newcomer:?}");
        }
        // It is tried before anything is known of it.
        let peak_ewma = with("peak_ewma");
        let first = peak_ewma.first.expect("it was called");
        assert!(first.as_millis() < 250, "{peak_ewma:?}");
        assert!(is_near(peak_ewma.later, 100.0, 50.0), "{peak_ewma:?}");
        // Its latency counts besides.
        let slowly = with("peak_ewma + slow start");
        assert!(slowly.soon < 0.5 * peak_ewma.soon, "{slowly:?}");

        for name in [
            "random",
            "weighted_round_robin, static",
            "weighted_round_robin, reported",
            "least_request",
        ] {
            let newcomer = of(&results, &format!("{name} + slow start"));
            let [soon, later] = [10, 60].map(|seconds| warming(backends, seconds));
            assert!(is_near(newcomer.soon, soon, 5.0), "{name}: {newcomer:?}");
            assert!(is_near(newcomer.later, later, 5.0), "{name}: {newcomer:?}");
        }
    }
}

/// What is due to a newcomer in its first seconds, in percent of its share beside so many: Envoy's
/// curve over a window of 30 seconds, from a tenth on.
fn warming(others: usize, seconds: u32) -> f64 {
    let others = others as f64;
    let at = |tick: u32| {
        let weight = (f64::from(tick) / 3_000.0).clamp(0.1, 1.0);
        weight / (others + weight)
    };
    let ticks = seconds * 100;
    (0..ticks).map(at).sum::<f64>() / f64::from(ticks) * (others + 1.0) * 100.0
}

#[test]
fn a_canary_gets_what_is_due_to_it() {
    const CALLS: u64 = 50_000;
    // Of so many draws, each as likely to be its as is due.
    let is_due = |share: f64, due: f64| {
        let deviation = (due * (100.0 - due) / CALLS as f64).sqrt();
        is_near(share, due, 4.0 * deviation)
    };
    for (seed, backends) in [(1, 10), (2, 10), (3, 3)] {
        let results = canary::run(seed, CALLS, backends);
        for name in ["random", "weighted_round_robin, static"] {
            let canary = of(&results, name);
            assert!(is_due(canary.small_idle, 0.1), "{name}: {canary:?}");
            assert!(is_due(canary.small_loaded, 0.1), "{name}: {canary:?}");
            assert!(is_due(canary.idle, 1.0), "{name}: {canary:?}");
            assert!(is_due(canary.loaded, 1.0), "{name}: {canary:?}");
        }
        // Under load it is calls in flight that are due.
        let least_request = of(&results, "least_request");
        assert!(is_due(least_request.small_idle, 0.1), "{least_request:?}");
        assert!(is_due(least_request.idle, 1.0), "{least_request:?}");
        assert!(
            is_near(least_request.small_loaded, 0.1, 0.05),
            "{least_request:?}"
        );
        assert!(is_near(least_request.loaded, 1.0, 0.2), "{least_request:?}");
        // It takes calls from those that have just been slow, as often as it is drawn beside them.
        let peak_ewma = of(&results, "peak_ewma");
        for small in [peak_ewma.small_idle, peak_ewma.small_loaded] {
            assert!((0.05..0.3).contains(&small), "{peak_ewma:?}");
        }
        for share in [peak_ewma.idle, peak_ewma.loaded] {
            assert!((0.8..2.5).contains(&share), "{peak_ewma:?}");
        }
        // Servers report what they can do, and this one can do as much as the others.
        let reported = of(&results, "weighted_round_robin, reported");
        assert!(
            is_near(reported.loaded, 100.0 / backends as f64, 1.0),
            "{reported:?}"
        );
    }
}

#[test]
fn a_region_that_loses_its_backends_is_helped_out_in_time() {
    for (seed, backends) in [(1, 10), (2, 10), (3, 6), (4, 20)] {
        let results = failover::run(seed, backends);
        let one_list = of(&results, "one list");
        assert!(is_near(one_list.all_up, 50.0, 2.0), "{one_list:?}");
        let strict = of(&results, "priorities");
        let limited = of(&results, "priorities, at most 2 calls each");
        let factor = of(&results, "priorities, factor 140");
        for near_first in [strict, limited, factor] {
            assert!(near_first.all_up < 1.0, "{near_first:?}");
            assert_eq!(near_first.none_up, 100.0, "{near_first:?}");
        }
        // Whoever is left near gets all calls, and is overrun.
        assert_eq!(strict.half_up, 0.0);
        assert!(strict.given_up > 20.0, "{strict:?}");
        // Half of them, times 1.4, is 70 %.
        assert!(is_near(factor.half_up, 30.0, 0.5), "{factor:?}");
        assert!(factor.given_up < 0.5, "{factor:?}");
        assert!(limited.given_up < 0.5, "{limited:?}");
        assert!((5.0..30.0).contains(&limited.half_up), "{limited:?}");
    }
}

#[test]
fn tables_keep_hits_where_modulo_loses_them_and_a_bound_shares_out_a_hot_key() {
    for seed in 1..=3 {
        let results = cache::run(seed, 10);
        let of = |name| {
            let found = results.iter().find(|(it, _)| *it == name);
            &found.expect("it is one of them").1
        };
        let [modulo, bounded] = [of("modulo"), of("ring_hash, bounded")];
        for table in [of("ring_hash"), of("maglev"), bounded] {
            assert!(modulo.steady - table.steady < 5.0, "{results:?}");
            assert!(table.gone > modulo.gone + 20.0, "{results:?}");
            assert!(table.joined > modulo.joined + 15.0, "{results:?}");
        }
        // Modulo's keys come back, too: to caches that have forgotten them.
        assert!(of("maglev").back > modulo.back + 5.0, "{results:?}");
        assert!(
            bounded.busiest < of("ring_hash").busiest - 5.0,
            "{results:?}"
        );
    }
}
