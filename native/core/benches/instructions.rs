//! Picks for callgrind to count: `scripts/instructions` runs this under it, once for every case. Prints
//! the cases where it is given none.

use std::hint::black_box;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::{Balancer, Caller, Time, Unowned};

use self::support::{balancer, policies};

mod support;

const LENGTHS: [u64; 3] = [1, 100, 10_000];

/// So many that what crossbeam-epoch does once in 128 is among them in its share.
const PICKS: u64 = 128 * 100;

/// Makes the picks that are counted: callgrind knows it by its name.
#[inline(never)]
fn counted_picks(balancer: &Balancer<u64>, caller: &Caller) {
    for _ in 0..PICKS {
        let picked = black_box(balancer).pick(caller, &Unowned, |id| *id);
        black_box(picked).expect("there is a backend");
    }
}

fn main() {
    let policies = policies();
    let named = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let [length, name] = &named.collect::<Vec<_>>()[..] else {
        for (name, _) in policies {
            LENGTHS
                .iter()
                .for_each(|length| println!("{PICKS} {length} {name}"));
        }
        return;
    };
    let length = length.parse().expect("a number of backends");
    let (_, policy) = policies
        .into_iter()
        .find(|(known, _)| known == name)
        .expect("a policy of those that are printed");
    let balancer = balancer(policy, length);
    // So that there is something to compare.
    let _in_flight: Vec<_> = (0..4 * length)
        .map(|_| balancer.checkout(&Caller::new(1), &Unowned, Time(0), |_| ()))
        .collect();
    let caller = Caller::new(0);
    let _keyed = caller.with_key(xxh64(b"a key", 0));
    counted_picks(&balancer, &caller);
}
