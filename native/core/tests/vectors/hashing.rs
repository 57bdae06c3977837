//! hash.json and random_subsetting.json.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::policy::{round_robin, Policy};
use grpc_lb_core::subset::{self, subset};
use grpc_lb_core::{Backend, Balancer, Caller, Config, Time, Unowned};
use serde_json::Value;

use crate::given::{integer, integer_or, integers, list, only, same, text, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    let (input, expect) = (&vector.input, &vector.expect);
    match op {
        "xxh64" => Some(same(
            "hash",
            &xxh64(
                text(&input["bytes_utf8"]).as_bytes(),
                integer_or(&input["seed"], 0),
            ),
            &integer(&expect["hash"]),
        )),
        "murmur2_64" => Some(same(
            "hash",
            &murmur2_64(
                text(&input["bytes_utf8"]).as_bytes(),
                integer_or(&input["seed"], MURMUR2_SEED),
            ),
            &integer(&expect["hash"]),
        )),
        "subset" => Some(chosen(input, expect)),
        _ => None,
    }
}

fn chosen(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["addresses", "hash_string", "subset_size", "seed"])?;
    // What is hashed: the address, or what grpc-go prints for it, with the address in its place.
    let shape = match input["hash_string"].as_str() {
        None | Some("plain" | "any") => "<addr>",
        Some(shape) => shape
            .strip_prefix("go: ")
            .ok_or_else(|| format!("unknown hash_string {shape:?}"))?,
    };
    let keys: Vec<String> = list(&input["addresses"])
        .iter()
        .map(|address| shape.replace("<addr>", text(address)))
        .collect();
    let size = integer(&input["subset_size"]) as usize;
    let seed = integer_or(&input["seed"], 0);
    let chosen = subset(&keys, seed, size);
    let chosen: Vec<u64> = chosen.into_iter().map(|index| index as u64).collect();
    same("subset", &chosen, &integers(&expect["subset"]))?;
    let expected: BTreeSet<u64> = integers(&expect["subset"]).into_iter().collect();
    same("used by a balancer", &used(&keys, seed, size), &expected)
}

/// Who can be picked of a balancer that takes such a subset.
fn used(keys: &[String], seed: u64, size: usize) -> BTreeSet<u64> {
    let config = Config {
        subset: NonZeroU32::new(size as u32).map(|size| subset::Config { size, seed }),
        ..Config::from(Policy::RoundRobin(round_robin::Config::default()))
    };
    let balancer = Balancer::new(config, 0, Time(0));
    let list = keys
        .iter()
        .zip(0..)
        .map(|(key, index)| Backend::new(index, index).keyed(key));
    let list: Vec<Backend<u64>> = list.collect();
    balancer
        .reconcile(&list, &Unowned, Time(0))
        .expect("each index is there once");
    let caller = Caller::new(0);
    let pick = |_| balancer.pick(&caller, &Unowned, |index| *index).ok();
    keys.iter().filter_map(pick).collect()
}

/// The seed of libstdc++'s `std::hash`, which Envoy takes.
pub const MURMUR2_SEED: u64 = 0xc70f_6907;

/// Envoy's other hash function for rings: MurmurHash2 in the 64-bit form of libstdc++.
pub fn murmur2_64(bytes: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    let mix = |word: u64| word ^ (word >> 47);
    let words = bytes.chunks_exact(8);
    let mut rest = [0; 8];
    rest[..words.remainder().len()].copy_from_slice(words.remainder());

    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    for word in words.clone() {
        let word = u64::from_le_bytes(word.try_into().expect("8 bytes"));
        hash ^= mix(word.wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR);
    }
    if !words.remainder().is_empty() {
        hash = (hash ^ u64::from_le_bytes(rest)).wrapping_mul(FACTOR);
    }
    mix(mix(hash).wrapping_mul(FACTOR))
}
