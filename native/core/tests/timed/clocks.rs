//! Which calls read the clock, and what is known where they do not.

use std::cell::Cell;
use std::time::Duration;

use grpc_lb_core::policy::{least_request, peak_ewma, round_robin, Policy};
use grpc_lb_core::{
    Backend, BackendInfo, Balancer, Caller, Clock, LatencySample, Outcome, Recent, Time, Unowned,
};

use crate::ms;

const TICK: u64 = 4_000_000;

/// A clock that counts how often it is read, but for its ticks.
#[derive(Default)]
struct Counting {
    now: Cell<u64>,
    reads: Cell<u32>,
}

impl Counting {
    fn go_on(&self, by: Duration) {
        self.now.set(self.now.get() + by.as_nanos() as u64);
    }

    fn reads(&self) -> u32 {
        self.reads.replace(0)
    }
}

impl Clock for Counting {
    fn now(&self) -> Time {
        self.reads.set(self.reads.get() + 1);
        Time(self.now.get())
    }

    fn last_tick(&self) -> Option<Time> {
        Some(Time(self.now.get() / TICK * TICK))
    }
}

struct Calls {
    balancer: Balancer<u32>,
    caller: Caller,
    clock: Counting,
}

impl Calls {
    fn new(policy: Policy, backends: u32) -> Self {
        let clock = Counting::default();
        clock.go_on(Duration::from_secs(1));
        let balancer = Balancer::new(policy, 0, Time(clock.now.get()));
        let backends: Vec<_> = (0..backends).map(|id| Backend::new(id, id)).collect();
        let now = Time(clock.now.get());
        balancer.reconcile(&backends, &Unowned, now).unwrap();
        let caller = Caller::new(0);
        Calls {
            balancer,
            caller,
            clock,
        }
    }

    fn run(&self, outcome: Outcome, took: Duration) {
        let (clock, latency) = (&self.clock, LatencySample::Measured);
        let begun = self.balancer.begin_call(
            &self.caller,
            &mut Recent::new(),
            &Unowned,
            clock,
            |_, call| call,
        );
        let call = begun.unwrap();
        clock.go_on(took);
        call.end(&self.caller, outcome, latency, None, clock);
    }

    fn first(&self) -> BackendInfo<u32> {
        self.balancer.info(&Unowned).backends.remove(0)
    }
}

fn policies() -> [Policy; 2] {
    [
        Policy::RoundRobin(round_robin::Config::default()),
        Policy::LeastRequest(least_request::Config::default()),
    ]
}

#[test]
fn where_only_people_look_one_call_a_tick_to_each_backend_is_timed() {
    for policy in policies() {
        let calls = Calls::new(policy, 2);
        // 40 ms, which are ten ticks, with both ends eleven.
        for _ in 0..4_000 {
            calls.run(Outcome::Success, Duration::from_micros(10));
        }
        let reads = calls.clock.reads();
        assert!((2 * 2 * 10..=2 * 2 * 11).contains(&reads), "{reads}");
        for backend in calls.balancer.info(&Unowned).backends {
            let latency = backend.latency_ns.unwrap();
            assert!((0.99e4..1.01e4).contains(&latency), "{latency}");
        }
    }
}

#[test]
fn calls_that_last_longer_than_a_tick_are_all_timed() {
    for policy in policies() {
        let calls = Calls::new(policy, 1);
        for _ in 0..5_000 {
            calls.run(Outcome::Success, Duration::from_millis(5));
            calls.run(Outcome::Success, Duration::from_millis(15));
        }
        assert_eq!(calls.clock.reads(), 20_000);
        // A mean over time: the longer ones count as so much longer.
        let latency = calls.first().latency_ns.unwrap();
        assert!((12.4e6..12.6e6).contains(&latency), "{latency}");
    }
}

#[test]
fn the_first_call_that_succeeds_is_timed() {
    let calls = Calls::new(policies()[0].clone(), 1);
    for outcome in [Outcome::Failure, Outcome::Cancelled, Outcome::Success] {
        assert_eq!(calls.first().latency_ns, None);
        calls.run(outcome, Duration::from_nanos(300));
    }
    let latency = calls.first().latency_ns.unwrap();
    assert!((latency - 300.0).abs() < 1e-3, "{latency}");
}

#[test]
fn a_call_that_is_not_timed_tells_no_latency_and_its_age_to_a_tick() {
    let calls = Calls::new(policies()[0].clone(), 1);
    calls.run(Outcome::Success, Duration::from_micros(1));
    let latency = calls.first().latency_ns;
    let clock = &calls.clock;
    assert_eq!(clock.reads(), 2);
    clock.go_on(Duration::from_millis(3));
    let begun = calls.balancer.begin_call(
        &calls.caller,
        &mut Recent::new(),
        &Unowned,
        clock,
        |_, call| call,
    );
    let call = begun.unwrap();
    let oldest = calls.first().oldest_in_flight.unwrap();
    assert!(Time(clock.now.get()).since(oldest) < Duration::from_nanos(TICK));
    clock.go_on(Duration::from_secs(5));
    call.end(
        &calls.caller,
        Outcome::Success,
        LatencySample::Measured,
        None,
        clock,
    );
    assert_eq!(clock.reads(), 0);
    assert_eq!(calls.first().latency_ns, latency);
    // What its caller has measured counts, and that takes the time.
    let begun = calls.balancer.begin_call(
        &calls.caller,
        &mut Recent::new(),
        &Unowned,
        ms(6_000),
        |_, call| call,
    );
    let given = LatencySample::Given(Duration::from_secs(60));
    begun
        .unwrap()
        .end(&calls.caller, Outcome::Success, given, None, clock);
    assert_eq!(clock.reads(), 1);
    assert!(calls.first().latency_ns > latency);
}

#[test]
fn a_policy_that_goes_by_latencies_has_every_call_timed() {
    let calls = Calls::new(Policy::PeakEwma(peak_ewma::Config::default()), 2);
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Cancelled] {
        for _ in 0..10 {
            calls.run(outcome, Duration::from_micros(10));
        }
        assert_eq!(calls.clock.reads(), 20);
    }
}
