//! Other balancers, and what one would write by hand: a list that another thread may replace, and a
//! counter.

use std::convert::Infallible;
use std::future::{ready, Future, Ready};
use std::pin::pin;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use haphazard::HazardPointer;
use pingora_load_balancing::selection::{
    BackendIter, BackendSelection, Consistent, Random, RoundRobin,
};
use pingora_load_balancing::LoadBalancer;
use seize::{Collector, Guard};
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwma};
use tower_service::Service;

use crate::measure::Peer;

/// As its documentation has it.
const MAX_ITERATIONS: usize = 256;

fn pingora<S>(backends: u64) -> LoadBalancer<S>
where
    S: BackendSelection + 'static,
    S::Iter: BackendIter,
{
    let address = |id: u64| format!("10.0.{}.{}:443", id / 250, id % 250);
    LoadBalancer::try_from_iter((0..backends).map(address)).expect("these are addresses")
}

/// Each way of pingora's to select, by a key that only one of them looks at.
macro_rules! pingora {
    ($($type:ident: $name:literal, $selection:ty;)*) => {$(
        pub struct $type(LoadBalancer<$selection>);

        impl Peer for $type {
            const NAME: &'static str = concat!("pingora, ", $name);
            type Thread = u64;

            fn new(backends: u64) -> Self {
                $type(pingora(backends))
            }

            fn thread(&self) -> u64 {
                0
            }

            #[inline]
            fn pick(&self, key: &mut u64) -> u64 {
                *key += 1;
                let selected = self.0.select(&key.to_ne_bytes(), MAX_ITERATIONS);
                selected.expect("there is a backend").weight as u64
            }
        }
    )*};
}

pingora! {
    PingoraRoundRobin: "round robin", RoundRobin;
    PingoraRandom: "random", Random;
    PingoraKetama: "ketama", Consistent;
}

/// A service that answers at once.
pub struct Backend(u64);

impl Service<()> for Backend {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(self.0))
    }
}

type Balanced = Balance<ServiceList<Vec<PeakEwma<Backend>>>, ()>;

/// tower's power of two choices by peak EWMA. A call, since there is no other way to pick: it is made
/// ready, begun and ended. It cannot be shared: each thread has one of its own.
pub struct TowerPeakEwma(u64);

impl Peer for TowerPeakEwma {
    const NAME: &'static str = "tower, p2c with peak EWMA, a call";
    type Thread = Balanced;

    fn new(backends: u64) -> Self {
        TowerPeakEwma(backends)
    }

    fn thread(&self) -> Balanced {
        let measured = |id| {
            let (rtt, decay) = (Duration::from_millis(1), Duration::from_secs(10));
            PeakEwma::new(
                Backend(id),
                rtt,
                decay.as_nanos() as f64,
                CompleteOnResponse::default(),
            )
        };
        Balance::new(ServiceList::new((0..self.0).map(measured).collect()))
    }

    #[inline]
    fn pick(&self, balanced: &mut Balanced) -> u64 {
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(())) = balanced.poll_ready(&mut context) else {
            unreachable!("they are ready always");
        };
        match pin!(balanced.call(())).poll(&mut context) {
            Poll::Ready(Ok(id)) => id,
            _ => unreachable!("they answer at once"),
        }
    }
}

fn list(backends: u64) -> Vec<u64> {
    (0..backends).collect()
}

#[inline]
fn next_of(list: &[u64], cursor: &AtomicUsize) -> u64 {
    // Relaxed: every turn is another's, and nothing is read on the strength of it.
    list[cursor.fetch_add(1, Ordering::Relaxed) % list.len()]
}

pub struct ArcSwapVec(ArcSwap<Vec<u64>>, AtomicUsize);

impl Peer for ArcSwapVec {
    const NAME: &'static str = "ArcSwap<Vec> and an atomic";
    type Thread = ();

    fn new(backends: u64) -> Self {
        ArcSwapVec(ArcSwap::from_pointee(list(backends)), AtomicUsize::new(0))
    }

    fn thread(&self) {}

    #[inline]
    fn pick(&self, (): &mut ()) -> u64 {
        next_of(&self.0.load(), &self.1)
    }
}

pub struct Haphazard(haphazard::AtomicPtr<Vec<u64>>, AtomicUsize);

impl Peer for Haphazard {
    const NAME: &'static str = "haphazard and an atomic";
    type Thread = HazardPointer<'static>;

    fn new(backends: u64) -> Self {
        Haphazard(Box::new(list(backends)).into(), AtomicUsize::new(0))
    }

    fn thread(&self) -> Self::Thread {
        HazardPointer::new()
    }

    #[inline]
    fn pick(&self, pointer: &mut Self::Thread) -> u64 {
        let list = self.0.safe_load(pointer).expect("there is a list");
        let value = next_of(list, &self.1);
        pointer.reset_protection();
        value
    }
}

/// The list is never replaced, and goes with the program.
pub struct Seize(Collector, AtomicPtr<Vec<u64>>, AtomicUsize);

impl Peer for Seize {
    const NAME: &'static str = "seize and an atomic";
    type Thread = ();

    fn new(backends: u64) -> Self {
        let list = AtomicPtr::new(Box::into_raw(Box::new(list(backends))));
        Seize(Collector::new(), list, AtomicUsize::new(0))
    }

    fn thread(&self) {}

    #[inline]
    fn pick(&self, (): &mut ()) -> u64 {
        let guard = self.0.enter();
        let list = guard.protect(&self.1, Ordering::Acquire);
        // SAFETY: `new` made it, and nobody frees it.
        next_of(unsafe { &*list }, &self.2)
    }
}

/// A map of places to backends.
pub struct Papaya(papaya::HashMap<usize, u64>, AtomicUsize);

impl Peer for Papaya {
    const NAME: &'static str = "papaya and an atomic";
    type Thread = ();

    fn new(backends: u64) -> Self {
        Papaya(
            list(backends).into_iter().enumerate().collect(),
            AtomicUsize::new(0),
        )
    }

    fn thread(&self) {}

    #[inline]
    fn pick(&self, (): &mut ()) -> u64 {
        let map = self.0.pin();
        // Relaxed: as above.
        let place = self.1.fetch_add(1, Ordering::Relaxed) % map.len();
        *map.get(&place).expect("there is a backend")
    }
}
