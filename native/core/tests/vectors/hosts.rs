//! The hosts of ring_hash.json and maglev.json: a list, or localities with weights of their own,
//! which Envoy turns into parts of the whole. Localities may be written as a sentence.

use std::collections::BTreeMap;

use grpc_lb_core::policy::Policy;
use grpc_lb_core::{Backend, Balancer, Caller, Time, Unowned};
use serde_json::Value;

use crate::given::{integer, integer_or, list, same, text};

/// A host: its key and weight.
type Host = (String, u32);

/// The hosts of one vector, in order of the file; vectors know them by their place.
pub struct Hosts {
    keys: Vec<String>,
    weights: Weights,
}

enum Weights {
    /// The hosts' own.
    Own(Vec<u32>),
    /// The places of the hosts that count, and their parts of the whole.
    Shares(Vec<(usize, f64)>),
}

impl Hosts {
    pub fn of(input: &Value) -> Result<Hosts, String> {
        match (&input["localities"], &input["hosts"]) {
            (Value::Null, hosts) => {
                let (keys, weights) = listed(hosts).into_iter().unzip();
                Ok(Hosts {
                    keys,
                    weights: Weights::Own(weights),
                })
            }
            (Value::String(sentence), _) => {
                let localities: Result<Vec<_>, _> = sentence.split(';').map(locality).collect();
                Ok(Hosts::of_localities(localities?))
            }
            (localities, _) => {
                let localities = list(localities).iter();
                let localities = localities.map(|l| (integer(&l["weight"]), listed(&l["hosts"])));
                Ok(Hosts::of_localities(localities.collect()))
            }
        }
    }

    fn of_localities(localities: Vec<(u64, Vec<Host>)>) -> Hosts {
        let sum: u64 = localities.iter().map(|(weight, _)| weight).sum();
        let (mut keys, mut shares) = (Vec::new(), Vec::new());
        for (weight, hosts) in localities {
            let part = weight as f64 / sum as f64;
            let sum: u64 = hosts.iter().map(|(_, weight)| u64::from(*weight)).sum();
            for (key, own) in hosts {
                if weight > 0 {
                    shares.push((keys.len(), part * f64::from(own) / sum as f64));
                }
                keys.push(key);
            }
        }
        Hosts {
            keys,
            weights: Weights::Shares(shares),
        }
    }

    /// The same without one.
    pub fn without(mut self, place: usize) -> Hosts {
        let Weights::Own(weights) = &mut self.weights else {
            panic!("only hosts without localities can be taken away from");
        };
        weights.remove(place);
        self.keys.remove(place);
        self
    }

    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Builds with the hosts' own weights, if they have such, or else with their shares. `places`
    /// of what was built are then those of the file.
    pub fn build<B>(
        &self,
        own: impl FnOnce(&[(&str, u32)]) -> B,
        of_shares: impl FnOnce(&[(&str, f64)]) -> B,
    ) -> B {
        match &self.weights {
            Weights::Own(weights) => {
                let keys = self.keys.iter().map(String::as_str);
                own(&keys.zip(weights.iter().copied()).collect::<Vec<_>>())
            }
            Weights::Shares(shares) => {
                let shares = shares.iter();
                let shares = shares.map(|(place, share)| (self.keys[*place].as_str(), *share));
                of_shares(&shares.collect::<Vec<_>>())
            }
        }
    }

    /// Where hashes lead with this policy, in a balancer of these hosts. `None`: a balancer does not weigh
    /// as localities do.
    pub fn led_to(&self, policy: Policy, hashes: impl Iterator<Item = u64>) -> Option<Vec<usize>> {
        let Weights::Own(weights) = &self.weights else {
            return None;
        };
        let hosts = self.keys.iter().zip(weights).enumerate();
        let backend = |(place, (key, weight)): (usize, (&String, &u32))| Backend {
            weight: *weight,
            ..Backend::new(place, place).keyed(key)
        };
        let balancer = Balancer::new(policy, 0, Time(0));
        let list: Vec<_> = hosts.map(backend).collect();
        balancer
            .reconcile(&list, &Unowned, Time(0))
            .expect("it is open");
        let caller = Caller::new(0);
        let pick = |hash| {
            let _keyed = caller.with_key(hash);
            balancer.pick(&caller, &Unowned, |place| *place)
        };
        Some(
            hashes
                .map(|hash| pick(hash).expect("all are ready"))
                .collect(),
        )
    }

    /// The place in the file of what is at this place in what was built.
    pub fn place(&self, built: usize) -> usize {
        match &self.weights {
            Weights::Own(_) => built,
            Weights::Shares(shares) => shares[built].0,
        }
    }

    /// How often each key is among these places.
    pub fn counts(&self, places: impl Iterator<Item = usize>) -> BTreeMap<&str, u64> {
        let mut counts: BTreeMap<_, _> = self.keys.iter().map(|key| (key.as_str(), 0)).collect();
        places.for_each(|place| *counts.entry(&self.keys[place]).or_default() += 1);
        counts
    }
}

/// Fails unless the keys are in number as expected. What is not named is expected not to be there,
/// or as often as `each other`.
pub fn same_counts(got: &BTreeMap<&str, u64>, expected: &Value) -> Result<(), String> {
    let named = expected.as_object().ok_or("expected counts by key")?;
    let other = integer_or(&expected["each other"], 0);
    let unknown = named
        .keys()
        .find(|key| *key != "each other" && !got.contains_key(key.as_str()));
    same("key without a host", &unknown, &None)?;
    got.iter().try_for_each(|(key, count)| {
        same(
            &format!("count of {key}"),
            count,
            &integer_or(&expected[*key], other),
        )
    })
}

fn listed(hosts: &Value) -> Vec<Host> {
    let host = |host: &Value| {
        let weight = integer_or(&host["weight"], 1);
        (
            text(&host["key"]).to_string(),
            u32::try_from(weight).expect("a weight is of 32 bits"),
        )
    };
    list(hosts).iter().map(host).collect()
}

/// `weight 127: one host 127.0.0.1:0` or `weight 1: hosts 127.0.0.1:1 .. 127.0.0.1:1023, all
/// weight 1`, also without the words, and with a port alone behind the dots.
fn locality(sentence: &str) -> Result<(u64, Vec<Host>), String> {
    let parse = || {
        let (weight, rest) = sentence.trim().strip_prefix("weight ")?.split_once(':')?;
        let (range, own) = match rest.split_once(", all weight ") {
            Some((range, own)) => (range, own.trim().parse().ok()?),
            None => (rest, 1),
        };
        let (first, last) = range.split_once("..").unwrap_or((range, range));
        let (address, first) = first.split_whitespace().last()?.rsplit_once(':')?;
        let last = last.trim().rsplit(':').next()?;
        let ports = first.parse::<u32>().ok()?..=last.parse().ok()?;
        let hosts = ports.map(|port| (format!("{address}:{port}"), own));
        Some((weight.parse().ok()?, hosts.collect()))
    };
    parse().ok_or_else(|| format!("cannot read the locality {sentence:?}"))
}
