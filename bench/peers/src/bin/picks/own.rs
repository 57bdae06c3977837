//! grpc_lb_core.

use std::time::Instant;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::policy::round_robin::{Config, CursorKind};
use grpc_lb_core::policy::{random, Policy};
use grpc_lb_core::{Backend, Balancer, Caller, Outcome, Time, Unowned};

use crate::measure::Peer;

fn balancer(policy: Policy, backends: u64) -> Balancer<u64> {
    let balancer = Balancer::new(policy, 0, Time(0));
    let list: Vec<_> = (0..backends)
        .map(|id| Backend::new(id, id).keyed(id.to_string()))
        .collect();
    balancer
        .reconcile(&list, &Unowned, Time(0))
        .expect("an open balancer and distinct ids");
    balancer
}

fn pick(balancer: &Balancer<u64>, caller: &Caller) -> u64 {
    balancer
        .pick(caller, &Unowned, |value| *value)
        .expect("there is a backend")
}

/// A balancer of each policy, all picked from alike.
macro_rules! policies {
    ($($type:ident: $name:literal, $policy:expr;)*) => {$(
        pub struct $type(Balancer<u64>);

        impl Peer for $type {
            const NAME: &'static str = concat!("grpc_lb_core, ", $name);
            type Thread = Caller;

            fn new(backends: u64) -> Self {
                $type(balancer($policy, backends))
            }

            fn thread(&self) -> Caller {
                Caller::new(7)
            }

            #[inline]
            fn pick(&self, caller: &mut Caller) -> u64 {
                pick(&self.0, caller)
            }
        }
    )*};
}

policies! {
    RoundRobin: "round_robin", Policy::RoundRobin(Config {
        cursor: CursorKind::PerCaller(64),
        ..Config::default()
    });
    SharedRoundRobin: "round_robin, shared cursor", Policy::RoundRobin(Config::default());
    Random: "random", Policy::Random(random::Config);
    PeakEwma: "peak_ewma", Policy::PeakEwma(Default::default());
}

/// By a key, of which the hash is part of the pick.
pub struct RingHash(Balancer<u64>);

impl Peer for RingHash {
    const NAME: &'static str = "grpc_lb_core, ring_hash";
    type Thread = (Caller, u64);

    fn new(backends: u64) -> Self {
        RingHash(balancer(Policy::RingHash(Default::default()), backends))
    }

    fn thread(&self) -> Self::Thread {
        (Caller::new(7), 0)
    }

    #[inline]
    fn pick(&self, (caller, key): &mut Self::Thread) -> u64 {
        *key += 1;
        let _keyed = caller.with_key(xxh64(&key.to_ne_bytes(), 0));
        pick(&self.0, caller)
    }
}

/// A call that ends at once, with two looks at the clock: what tower's balancer does for each.
pub struct PeakEwmaCall(Balancer<u64>, Instant);

impl PeakEwmaCall {
    fn now(&self) -> Time {
        Time(0) + Instant::now().duration_since(self.1)
    }
}

impl Peer for PeakEwmaCall {
    const NAME: &'static str = "grpc_lb_core, peak_ewma, a call";
    type Thread = Caller;

    fn new(backends: u64) -> Self {
        PeakEwmaCall(
            balancer(Policy::PeakEwma(Default::default()), backends),
            Instant::now(),
        )
    }

    fn thread(&self) -> Caller {
        Caller::new(7)
    }

    #[inline]
    fn pick(&self, caller: &mut Caller) -> u64 {
        let checkout = self
            .0
            .checkout(caller, &Unowned, self.now(), |value| *value);
        let (value, ticket) = checkout.expect("there is room");
        let ended = ticket.complete(Outcome::Success, None, self.now());
        ended.expect("it was in flight");
        value
    }
}
