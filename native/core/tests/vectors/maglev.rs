//! maglev.json.

use grpc_lb_core::hash::xxh64;
use grpc_lb_core::policy::maglev::{Config, Table};
use grpc_lb_core::policy::Policy;
use serde_json::{json, Value};

use crate::given::{integer, integer_or, list, only, same, Vector, Vectors};
use crate::hosts::{same_counts, Hosts};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, all: &Vectors) -> Outcome {
    match op {
        "build_table" | "build_table_counts" | "build_table_spot" => Some(built(vector, all)),
        "pick" if vector.file.starts_with("maglev") => Some(picked(vector, all)),
        "disruption" => Some(disruption(vector, all)),
        _ => None,
    }
}

/// A table and the hosts that it is of.
struct Built {
    hosts: Hosts,
    table: Table,
    /// Whose the slots are, as the files number the hosts.
    slots: Vec<usize>,
}

impl Built {
    fn of(input: &Value) -> Result<Built, String> {
        Self::with_hosts(input, Hosts::of(input)?)
    }

    fn with_hosts(input: &Value, hosts: Hosts) -> Result<Built, String> {
        let size = integer_or(&input["table_size"], 65_537) as u32;
        let config = Config::new(size).map_err(|error| error.to_string())?;
        let table = hosts.build(
            |own| Table::build(&config, own),
            |shares| Table::of_shares(&config, shares),
        );
        let slots: Vec<_> = table.slots().map(|backend| hosts.place(backend)).collect();
        if !slots.is_empty() {
            let led_to = hosts.led_to(Policy::Maglev(config), 0..slots.len() as u64);
            same(
                "through the policy",
                &led_to.as_ref().unwrap_or(&slots),
                &&slots,
            )?;
        }
        Ok(Built {
            hosts,
            table,
            slots,
        })
    }

    fn key(&self, slot: usize) -> &str {
        &self.hosts.keys()[self.slots[slot]]
    }
}

/// What a vector builds from: its own input, or that of another.
fn input<'a>(vector: &'a Vector, all: &'a Vectors) -> Result<&'a Value, String> {
    match vector.input["same_as"].as_str() {
        Some(id) => Ok(&all.referred(vector, id)?.input),
        None => Ok(&vector.input),
    }
}

fn built(vector: &Vector, all: &Vectors) -> Result<(), String> {
    let built = Built::of(input(vector, all)?)?;
    let slots = &built.slots;
    let counts = built.hosts.counts(slots.iter().copied());

    let expect = vector.expect.as_object().ok_or("nothing is expected")?;
    expect
        .iter()
        .try_for_each(|(what, value)| match what.as_str() {
            "size" => same(what, &(slots.len() as u64), &integer(value)),
            "counts" if value.is_array() => {
                let keys = built.hosts.keys().iter();
                let counts: Value = keys.map(|key| counts[key.as_str()]).collect();
                same(what, &counts, value)
            }
            "counts" => same_counts(&counts, value),
            "table" => same(what, &json!(slots), value),
            "table_head" => same(what, &json!(slots[..list(value).len()]), value),
            "table_tail" => same(
                what,
                &json!(slots[slots.len() - list(value).len()..]),
                value,
            ),
            "xxh64_of_table_le_u16" => {
                let bytes = slots.iter().flat_map(|host| (*host as u16).to_le_bytes());
                let hash = xxh64(&bytes.collect::<Vec<_>>(), 0);
                same(what, &hash, &integer(value))
            }
            "offset_skip" => {
                let size = slots.len() as u64;
                let keys = built.hosts.keys().iter().map(|key| (key, key.as_bytes()));
                let got = keys.map(|(key, bytes)| {
                    let skip = xxh64(bytes, 1) % (size - 1) + 1;
                    (key.clone(), json!([xxh64(bytes, 0) % size, skip]))
                });
                same(what, &Value::Object(got.collect()), value)
            }
            "slot_of" => {
                let slot_of = value.as_object().ok_or("expected slots by key")?;
                slot_of.iter().try_for_each(|(key, slot)| {
                    same(what, &built.key(integer(slot) as usize), &key.as_str())
                })
            }
            _ => Err(format!("{what} is not known")),
        })
}

fn picked(vector: &Vector, all: &Vectors) -> Result<(), String> {
    let built = Built::of(input(vector, all)?)?;
    let pick = |hash: u64, attempt: u64| -> Value {
        let backend = built.table.lookup(hash, attempt as u32);
        json!(backend.map(|backend| built.hosts.place(backend)))
    };
    only(&vector.expect, &["pick"])?;
    let (hashes, expected) = (&vector.input["hashes"], &vector.expect["pick"]);
    // One attempt for all, or one for each.
    let attempts = match &vector.input["attempts"] {
        Value::Null => &vector.input["attempt"],
        attempts => attempts,
    };
    let got = match (hashes, attempts) {
        (Value::Null, _) => pick(
            integer_or(&vector.input["hash"], 0),
            integer_or(attempts, 0),
        ),
        (hashes, Value::Array(attempts)) => {
            let pairs = list(hashes).iter().zip(attempts);
            pairs
                .map(|(hash, attempt)| pick(integer(hash), integer(attempt)))
                .collect()
        }
        (hashes, attempt) => {
            let hashes = list(hashes).iter();
            hashes
                .map(|hash| pick(integer(hash), integer_or(attempt, 0)))
                .collect()
        }
    };
    same("pick", &got, expected)
}

fn disruption(vector: &Vector, all: &Vectors) -> Result<(), String> {
    let named = |which: &str| {
        let id = vector.input[which].as_str().unwrap_or_default();
        all.referred(vector, id)
    };
    let removed = integer(&vector.input["removed_index"]) as usize;
    let from = &named("before")?.input;
    let before = Built::of(from)?;
    // What comes after is not always in the file, but is the same without the removed host.
    let after = match named("after") {
        Ok(after) => Built::of(&after.input)?,
        Err(_) => Built::with_hosts(from, Hosts::of(from)?.without(removed))?,
    };
    let (of_removed, others): (Vec<usize>, Vec<usize>) =
        (0..before.slots.len()).partition(|slot| before.slots[*slot] == removed);
    let changed = others
        .into_iter()
        .filter(|slot| before.key(*slot) != after.key(*slot));
    let got = json!({
        "slots_of_removed": of_removed.len(),
        "other_slots_changed": changed.count(),
    });
    same("disruption", &got, &vector.expect)
}
