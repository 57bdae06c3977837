//! What a balancer decides, as it is told.

use grpc_lb_core::{Cause, Event, Events, OnOwnerDeath, Rule};

use super::*;

impl Fleet {
    fn listening(config: impl Into<Config>, backends: u32) -> Fleet {
        let fleet = Fleet::new(config, backends);
        fleet.balancer.listen(true);
        fleet
    }

    fn events(&self) -> Vec<Event<u32>> {
        let Events { events, lost } = self.balancer.take_events(&Unowned);
        assert_eq!(lost, 0);
        events
    }
}

fn ejected(id: u32, cause: Cause, seconds: u64) -> Event<u32> {
    Event::Ejected {
        id,
        cause,
        lasts: Duration::from_secs(seconds),
    }
}

#[test]
fn a_sweep_tells_whom_it_ejects_and_lets_back_in() {
    let fleet = Fleet::listening(detecting(round_robin(), detection()), 4);
    fleet.call(80, seconds(1), failures_of(2));
    assert_eq!(fleet.events(), []);
    fleet.tick(seconds(10));
    assert_eq!(fleet.balancer.due(), Some(Time(0)));
    let cause = Cause {
        rule: Rule::FailurePercentage,
        successes: 0,
        failures: 20,
        limit: 50.0,
    };
    assert_eq!(fleet.events(), [ejected(2, cause, 30)]);
    assert_eq!(fleet.events(), []);
    assert_eq!(fleet.balancer.due(), Some(seconds(20)));
    for sweep in [20, 30, 40] {
        fleet.tick(seconds(sweep));
        assert_eq!(fleet.events(), []);
    }
    fleet.tick(seconds(50));
    let lasted = Duration::from_secs(40);
    assert_eq!(fleet.events(), [Event::Unejected { id: 2, lasted }]);
}

#[test]
fn a_success_rate_is_told_with_the_one_that_was_too_far() {
    let detection = outlier_detection::Config {
        success_rate: Some(outlier_detection::SuccessRate {
            stdev_factor: 1_000,
            minimum_hosts: 3,
            request_volume: 10,
            ..Default::default()
        }),
        max_ejection_percent: 50,
        ..Default::default()
    };
    let fleet = Fleet::listening(detecting(round_robin(), detection), 5);
    fleet.call(100, seconds(1), failures_of(4));
    fleet.tick(seconds(10));
    // Rates of 1, 1, 1, 0 and 1: a mean of 0.8 and a deviation of 0.4.
    let [Event::Ejected { id: 4, cause, .. }] = fleet.events()[..] else {
        panic!("one is ejected");
    };
    assert_eq!((cause.rule, cause.failures), (Rule::SuccessRate, 20));
    assert!((cause.limit - 0.4).abs() < 1e-9);
}

#[test]
fn failures_in_a_row_are_told_with_their_number() {
    let detection = outlier_detection::Config {
        consecutive_transport_failures: NonZeroU32::new(2),
        ..consecutive(3)
    };
    let fleet = Fleet::listening(detecting(round_robin(), detection), 4);
    for _ in 0..3 {
        fleet.call_to(1, seconds(1), Outcome::Failure);
    }
    fleet.tick(seconds(1));
    for _ in 0..2 {
        fleet.call_to(3, seconds(2), Outcome::TransportFailure);
    }
    fleet.tick(seconds(2));
    let cause = |rule, failures: u64| Cause {
        rule,
        successes: 0,
        failures,
        limit: failures as f64,
    };
    let told = [
        ejected(1, cause(Rule::ConsecutiveFailures, 3), 30),
        ejected(3, cause(Rule::ConsecutiveTransportFailures, 2), 1),
    ];
    assert_eq!(fleet.events(), told);
    fleet.tick(seconds(3));
    let lasted = Duration::from_secs(1);
    assert_eq!(fleet.events(), [Event::Unejected { id: 3, lasted }]);
    let switched_off = |config: &mut Config| config.outlier_detection = None;
    let configured = fleet.balancer.configure(switched_off, &Unowned, seconds(4));
    configured.unwrap();
    let lasted = Duration::from_secs(3);
    assert_eq!(fleet.events(), [Event::Unejected { id: 1, lasted }]);
}

#[test]
fn a_panic_is_told_when_it_begins_and_when_it_is_over() {
    let config = Config {
        panic_threshold: 50,
        ..Config::from(round_robin())
    };
    assert!(config.is_eventful());
    let panic = |begins, healthy, counted| Event::Panic {
        priority: None,
        begins,
        healthy,
        counted,
    };
    let fleet = Fleet::listening(config, 4);
    fleet.set(1, State::TransientFailure, seconds(1));
    fleet.set(2, State::TransientFailure, seconds(1));
    assert_eq!(fleet.events(), []);
    fleet.set(3, State::TransientFailure, seconds(1));
    fleet.set(4, State::TransientFailure, seconds(1));
    assert_eq!(fleet.events(), [panic(true, 1, 4)]);
    fleet.set(3, State::Ready, seconds(1));
    fleet.set(2, State::Ready, seconds(1));
    assert_eq!(fleet.events(), [panic(false, 2, 4)]);
    // Where nobody counts, or is listed, nobody panics.
    for id in 1..=4 {
        fleet.set(id, State::Draining, seconds(1));
    }
    let told = fleet.events();
    assert_eq!(
        told.last().unwrap_or(&panic(false, 0, 0)),
        &panic(false, 0, 0)
    );
    fleet.reconcile(0, seconds(2));
    assert_eq!(fleet.events(), []);
}

#[test]
fn priorities_panic_each_for_itself() {
    let config = Config {
        panic_threshold: 50,
        overprovisioning_factor: NonZeroU32::new(140),
        ..Config::from(round_robin())
    };
    let fleet = Fleet::listening(config, 0);
    let list: Vec<Backend<u32>> = (0..8)
        .map(|id| Backend {
            priority: id / 4,
            ..Backend::new(id, id)
        })
        .collect();
    fleet.balancer.reconcile(&list, &Unowned, Time(0)).unwrap();
    for id in [0, 1, 2, 4, 5, 6] {
        fleet.set(id, State::TransientFailure, seconds(1));
    }
    let told: Vec<Option<u32>> = fleet
        .events()
        .into_iter()
        .map(|event| match event {
            Event::Panic {
                priority,
                begins: true,
                ..
            } => priority,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [Some(0), Some(1)]);
}

#[test]
fn a_slow_start_is_told_when_it_begins_and_when_it_is_over() {
    let window = Duration::from_secs(10);
    let config = Config {
        slow_start: Some(Box::new(slow_start::Config {
            window,
            ..Default::default()
        })),
        ..Config::from(Policy::Random(random::Config))
    };
    let fleet = Fleet::listening(config, 1);
    let added = fleet
        .balancer
        .add(&[Backend::new(2, 2)], &Unowned, seconds(20));
    added.unwrap();
    assert_eq!(
        fleet.events(),
        [Event::SlowStart {
            id: 2,
            lasts: window
        }]
    );
    fleet.tick(seconds(25));
    // The first one's has begun before anybody listened.
    assert_eq!(fleet.events(), [Event::Warm { id: 1 }]);
    fleet.tick(seconds(30));
    assert_eq!(fleet.events(), [Event::Warm { id: 2 }]);
}

#[test]
fn refusals_are_told_together_and_once_a_second() {
    let config = Config {
        max_requests: Some(1),
        ..Config::from(round_robin())
    };
    assert!(config.is_eventful());
    let fleet = Fleet::listening(config, 2);
    assert!(fleet.balancer.count_refusal());
    assert!(!fleet.balancer.count_refusal());
    assert_eq!(fleet.balancer.due(), Some(Time(0)));
    fleet.tick(seconds(5));
    assert_eq!(fleet.events(), [Event::Overloaded { refused: 2 }]);
    // Nothing is due, for ever, before there is another.
    assert_eq!(fleet.balancer.due(), None);
    assert!(fleet.balancer.count_refusal());
    assert_eq!(fleet.balancer.due(), Some(seconds(6)));
    fleet.tick(ms(5_999));
    assert_eq!(fleet.events(), []);
    fleet.tick(seconds(6));
    assert_eq!(fleet.events(), [Event::Overloaded { refused: 1 }]);
    fleet.balancer.count_refusal();
    fleet.balancer.close(&Unowned);
    fleet.tick(seconds(7));
    fleet.events();
    assert_eq!(fleet.balancer.due(), None);
}

#[test]
fn nothing_is_kept_for_nobody_and_little_for_who_does_not_ask() {
    let fleet = Fleet::new(detecting(round_robin(), consecutive(1)), 200);
    fleet.call_to(1, seconds(1), Outcome::Failure);
    fleet.tick(seconds(1));
    assert!(!fleet.balancer.count_refusal());
    assert!(fleet.balancer.take_events(&Unowned).is_empty());
    assert_ne!(fleet.balancer.due(), Some(Time(0)));

    fleet.balancer.listen(true);
    for id in 2..=100 {
        fleet.call_to(id, seconds(1), Outcome::Failure);
    }
    fleet.tick(seconds(1));
    let told = fleet.balancer.take_events(&Unowned);
    let kept = Events::<u32>::MOST;
    assert_eq!((told.events.len(), told.lost), (kept, 99 - kept as u64));
    assert!(fleet.balancer.take_events(&Unowned).is_empty());
}

#[test]
fn a_death_is_told_where_it_ends_a_backend() {
    for (on_owner_death, told) in [(OnOwnerDeath::Keep, 0), (OnOwnerDeath::Remove, 1)] {
        let config = Config {
            on_owner_death,
            ..Config::from(round_robin())
        };
        assert_eq!(config.is_eventful(), told > 0);
        let fleet = Fleet::listening(config, 0);
        let owner = Owner(NonZeroU64::MIN);
        let owned = Backend {
            owner: Some(owner),
            ..Backend::new(7, 7)
        };
        let list = [Backend::new(6, 6), owned];
        fleet.balancer.reconcile(&list, &Watched, Time(0)).unwrap();
        assert!(fleet.balancer.note_death(owner));
        fleet.balancer.remove_dead(&Unowned);
        assert_eq!(fleet.events(), vec![Event::Died { id: 7 }; told]);
    }
}

/// Watches whoever it is given.
struct Watched;

impl Owners for Watched {
    type Watch = ();

    fn watch(&self, _owner: Owner) -> Option<()> {
        Some(())
    }

    fn unwatch(&self, (): ()) {}

    fn is_alive(&self, _owner: Owner) -> bool {
        true
    }
}
