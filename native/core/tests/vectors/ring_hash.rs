//! ring_hash.json.

use grpc_lb_core::hash::{shares, xxh64};
use grpc_lb_core::policy::ring_hash::{Config, Ring};
use grpc_lb_core::policy::Policy;
use serde_json::{json, Value};

use crate::given::{integer, integer_or, list, near, number, same, text, Vector, Vectors};
use crate::hashing::{murmur2_64, MURMUR2_SEED};
use crate::hosts::{same_counts, Hosts};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, all: &Vectors) -> Outcome {
    match op {
        "build_ring" | "build_ring_spot" | "build_ring_property" => Some(built(vector, all)),
        "ring_pick" => Some(picked(vector, all)),
        "ring_pick_string" => Some(picked(vector, all)),
        "ring_pick_histogram" => Some(histogram(vector, all)),
        _ => None,
    }
}

/// A ring and the hosts that it is of.
struct Built {
    hosts: Hosts,
    ring: Ring,
}

impl Built {
    fn of(input: &Value) -> Result<Built, String> {
        let hosts = Hosts::of(input)?;
        let size = |size: &Value, default| integer_or(size, default) as u32;
        let config = Config::new(
            size(&input["min_ring_size"], 1_024),
            size(&input["max_ring_size"], u64::from(Config::LIMIT)),
        );
        let config = config.map_err(|error| error.to_string())?;
        let murmur2 = match input["hash_function"].as_str() {
            None | Some("xxh64" | "XX_HASH") => false,
            Some("murmur2_64" | "MURMUR_HASH_2") => true,
            Some(name) => return Err(format!("unknown hash_function {name:?}")),
        };
        let hash = |bytes: &[u8]| match murmur2 {
            true => murmur2_64(bytes, MURMUR2_SEED),
            false => xxh64(bytes, 0),
        };
        let ring = hosts.build(
            |own| match murmur2 {
                true => Ring::of_shares(&config, &shares(own), hash),
                false => Ring::build(&config, own),
            },
            |shares| Ring::of_shares(&config, shares, hash),
        );
        if !murmur2 && !ring.is_empty() {
            let entries = (0..ring.len()).map(|index| ring.entry(index));
            let (hashes, backends): (Vec<u64>, Vec<usize>) = entries.unzip();
            let led_to = hosts.led_to(Policy::RingHash(config), hashes.into_iter());
            same(
                "through the policy",
                &led_to.as_ref().unwrap_or(&backends),
                &&backends,
            )?;
        }
        Ok(Built { hosts, ring })
    }

    /// The ring that a vector names, or builds.
    fn for_vector(vector: &Vector, all: &Vectors) -> Result<Built, String> {
        match vector.input["ring"]
            .as_str()
            .or(vector.input["same_as"].as_str())
        {
            None => Built::of(&vector.input),
            Some(id) => match (all.referred(vector, id), well_known(id)) {
                (Ok(built), _) => Built::of(&built.input),
                (Err(_), Some(input)) => Built::of(&input),
                (Err(problem), None) => Err(problem),
            },
        }
    }

    fn key(&self, index: usize) -> &str {
        let (_, backend) = self.ring.entry(index);
        &self.hosts.keys()[self.hosts.place(backend)]
    }

    /// An entry as the files have it.
    fn entry(&self, index: usize) -> Value {
        json!([self.ring.entry(index).0.to_string(), self.key(index)])
    }

    fn entries(&self, range: std::ops::Range<usize>) -> Value {
        range.map(|index| self.entry(index)).collect()
    }
}

/// Rings that vectors name and that are not always in the file with them.
fn well_known(id: &str) -> Option<Value> {
    let hosts = |address: &str, ports: std::ops::Range<u32>| -> Value {
        let hosts = ports.map(|port| json!({ "key": format!("{address}:{port}") }));
        hosts.collect()
    };
    let weighted = |weights: [u32; 3]| -> Value {
        let hosts = weights.iter().zip(1..);
        let host = |(weight, n)| json!({ "key": format!("10.0.0.{n}:443"), "weight": weight });
        hosts.map(host).collect()
    };
    Some(match id {
        "basic-12" => json!({ "min_ring_size": 12, "hosts": hosts("127.0.0.1", 90..96) }),
        "murmur2-12" => json!({
            "min_ring_size": 12,
            "hash_function": "murmur2_64",
            "hosts": hosts("127.0.0.1", 80..86),
        }),
        "large-fractional" => json!({
            "min_ring_size": 1_023,
            "max_ring_size": 1_023,
            "hosts": hosts("127.0.0.1", 90..92),
        }),
        "grpc-default-3hosts" => json!({ "max_ring_size": 4_096, "hosts": weighted([1, 1, 1]) }),
        "grpc-weighted-3hosts" => json!({ "max_ring_size": 4_096, "hosts": weighted([1, 2, 7]) }),
        _ => return None,
    })
}

fn built(vector: &Vector, all: &Vectors) -> Result<(), String> {
    let built = Built::for_vector(vector, all)?;
    let len = built.ring.len();
    let places = (0..len).map(|index| built.hosts.place(built.ring.entry(index).1));
    let counts = built.hosts.counts(places);

    let expect = vector.expect.as_object().ok_or("nothing is expected")?;
    expect
        .iter()
        .try_for_each(|(what, value)| match what.as_str() {
            "size" | "derived_size" => same(what, &(len as u64), &integer(value)),
            "stats" => {
                let stats = json!({
                    "size": len,
                    "min_hashes_per_host": counts.values().min(),
                    "max_hashes_per_host": counts.values().max(),
                });
                same(what, &stats, value)
            }
            "entries_per_host" | "derived_counts" => same_counts(&counts, value),
            "ring" => same(what, &built.entries(0..len), value),
            "ring_head" => same(what, &built.entries(0..list(value).len()), value),
            "ring_tail" => same(what, &built.entries(len - list(value).len()..len), value),
            "xxh64_of_hashes_le_u64" => {
                let hashes = (0..len).flat_map(|index| built.ring.entry(index).0.to_le_bytes());
                let hash = xxh64(&hashes.collect::<Vec<_>>(), 0);
                same(what, &hash, &integer(value))
            }
            "spot" => list(value).iter().try_for_each(|entry| {
                let index = built.ring.find(integer(&entry[0]));
                same(what, &built.entry(index), entry)
            }),
            "size_between" => {
                let allowed = integer(&value[0])..=integer(&value[1]);
                same(what, &allowed.contains(&(len as u64)), &true)
            }
            "share_within_relative" => {
                let hosts = list(&vector.input["hosts"]);
                let sum: f64 = hosts.iter().map(|host| number(&host["weight"])).sum();
                hosts.iter().try_for_each(|host| {
                    let share = counts[text(&host["key"])] as f64 / len as f64;
                    near(what, share, number(&host["weight"]) / sum, number(value))
                })
            }
            _ => match what.strip_prefix("entries_of_") {
                Some(key) => same(what, &counts.get(key).copied(), &Some(integer(value))),
                None => Err(format!("{what} is not known")),
            },
        })
}

fn picked(vector: &Vector, all: &Vectors) -> Result<(), String> {
    let (input, expect) = (&vector.input, &vector.expect);
    let built = Built::for_vector(vector, all)?;
    let hash = match input["hash_of"].as_str() {
        Some(text) => xxh64(text.as_bytes(), 0),
        None => integer(&input["hash"]),
    };
    if built.ring.is_empty() {
        return same("key", &expect["key"], &Value::Null);
    }
    // An attempt after the first is Envoy's: it goes on by one entry.
    let index = built.ring.find(hash) + integer_or(&input["attempt"], 0) as usize;
    let index = index % built.ring.len();
    let expect = expect.as_object().ok_or("nothing is expected")?;
    expect
        .iter()
        .try_for_each(|(what, value)| match what.as_str() {
            "hash" => same(what, &hash, &integer(value)),
            "index" => same(what, &(index as u64), &integer(value)),
            "key" => same(what, &Some(built.key(index)), &value.as_str()),
            _ => Err(format!("{what} is not known")),
        })
}

fn histogram(vector: &Vector, all: &Vectors) -> Result<(), String> {
    let built = Built::for_vector(vector, all)?;
    let hashes = match &vector.input["hashes"] {
        Value::String(rule) => by_rule(rule)?,
        hashes => list(hashes).iter().map(integer).collect(),
    };
    if let Some(n) = vector.input["n"].as_u64() {
        same("number of hashes", &(hashes.len() as u64), &n)?;
    }
    let walks = hashes.iter().map(|hash| built.ring.walk(*hash).next());
    let places = walks.flatten().map(|backend| built.hosts.place(backend));
    same_counts(&built.hosts.counts(places), &vector.expect["counts"])
}

/// `i * floor((2^64-1)/6000), i in 0..5999`, with both ends.
fn by_rule(rule: &str) -> Result<Vec<u64>, String> {
    let parse = || {
        let rest = rule.strip_prefix("i * floor((2^64-1)/")?;
        let (parts, range) = rest.split_once("), i in ")?;
        let (first, last) = range.split_once("..")?;
        let step = u64::MAX / parts.trim().parse::<u64>().ok()?;
        let range = first.trim().parse::<u64>().ok()?..=last.trim().parse().ok()?;
        Some(range.map(|i| i.wrapping_mul(step)).collect())
    };
    parse().ok_or_else(|| format!("cannot read the rule {rule:?}"))
}
