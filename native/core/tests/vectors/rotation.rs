//! round_robin.json and random.json, as far as a balancer shows it: picks of real ones.

use std::collections::BTreeSet;

use grpc_lb_core::policy::{random, round_robin, Policy};
use grpc_lb_core::{Backend, Balancer, Caller, State, Time, Unavailable, Unowned};
use serde_json::Value;

use crate::given::{integer, integer_or, list, only, same, text, Vector, Vectors};
use crate::Outcome;

pub fn run(op: &str, vector: &Vector, _all: &Vectors) -> Outcome {
    let (input, expect) = (&vector.input, &vector.expect);
    Some(match op {
        "rr_index" => index(input, expect),
        "rr_rotation" => rotation(input, expect),
        "random_pick" => random(input, expect),
        _ => return None,
    })
}

/// A balancer whose backends are their numbers.
struct Picks {
    balancer: Balancer<usize>,
    caller: Caller,
}

impl Picks {
    fn new(policy: Policy, seed: u64) -> Picks {
        Picks {
            balancer: Balancer::new(policy, seed, Time(0)),
            caller: Caller::new(seed),
        }
    }

    /// Lists as many backends, all of them ready.
    fn list(&self, backends: usize) {
        self.list_states(&vec![true; backends]);
    }

    /// Lists a backend for each, which is ready or not.
    fn list_states(&self, ready: &[bool]) {
        let offered: Vec<_> = (0..)
            .zip(ready)
            .map(|(i, _ready)| Backend::new(i, i))
            .collect();
        self.balancer
            .reconcile(&offered, &Unowned, Time(0))
            .expect("a list of different ids");
        for (i, ready) in ready.iter().enumerate() {
            let state = match ready {
                true => State::Ready,
                false => State::TransientFailure,
            };
            self.balancer
                .set_state(&i, state, &Unowned, Time(0))
                .expect("it is listed");
        }
    }

    fn pick(&self) -> Option<usize> {
        let picked = self
            .balancer
            .pick(&self.caller, &Unowned, |backend| *backend);
        match picked {
            Ok(backend) => Some(backend),
            Err(Unavailable::NoBackends) => None,
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Envoy's index: it starts at the seed and goes on from list to list. A balancer goes on with the
/// backend whose turn it is, so each list has one that has had as many turns.
fn index(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["stages", "seed"])?;
    only(expect, &["picks"])?;
    let mut turns = integer_or(&input["seed"], 0);
    let mut got: Vec<Vec<Option<usize>>> = Vec::new();
    for stage in list(&input["stages"]) {
        let (hosts, n) = (integer(&stage["hosts"]), integer(&stage["n"]));
        let picks = Picks::new(Policy::RoundRobin(Default::default()), 0);
        picks.list(hosts as usize);
        (0..turns % hosts.max(1)).for_each(|_| {
            picks.pick();
        });
        got.push((0..n).map(|_| picks.pick()).collect());
        turns += if hosts > 0 { n } else { 0 };
    }
    let expected: Vec<Vec<Option<usize>>> = list(&expect["picks"])
        .iter()
        .map(|stage| list(stage).iter().map(optional).collect())
        .collect();
    same("picks", &got, &expected)
}

/// gRPC's rotation: over those that are ready, in list order, from anywhere.
fn rotation(input: &Value, expect: &Value) -> Result<(), String> {
    only(input, &["ready", "states"])?;
    only(expect, &["property", "picks_over"])?;
    let backends: Vec<(&str, bool)> = match input["states"].as_object() {
        None => list(&input["ready"])
            .iter()
            .map(|name| (text(name), true))
            .collect(),
        Some(states) => states
            .iter()
            .map(|(name, state)| (name.as_str(), text(state) == "READY"))
            .collect(),
    };
    let states: Vec<bool> = backends.iter().map(|(_, ready)| *ready).collect();
    let over: Vec<usize> = (0..backends.len()).filter(|i| states[*i]).collect();
    if let Some(expected) = expect.get("picks_over") {
        let over: BTreeSet<&str> = over.iter().map(|i| backends[*i].0).collect();
        same(
            "picks over",
            &over,
            &list(expected).iter().map(text).collect(),
        )?;
    }
    let n = over.len();
    let mut starts = vec![false; n];
    for seed in 0..32 * n as u64 {
        let picks = Picks::new(
            Policy::RoundRobin(round_robin::Config {
                start: round_robin::Start::Random,
                on_reconcile: round_robin::OnReconcile::Reset,
                ..round_robin::Config::default()
            }),
            seed,
        );
        picks.list_states(&states);
        let got: Vec<Option<usize>> = (0..3 * n).map(|_| picks.pick()).collect();
        let start = over
            .iter()
            .position(|i| Some(*i) == got[0])
            .ok_or("picked one not ready")?;
        let rotated: Vec<_> = (start..start + 3 * n)
            .map(|turn| Some(over[turn % n]))
            .collect();
        same("picks", &got, &rotated)?;
        starts[start] = true;
    }
    same("starts everywhere", &starts, &vec![true; n])
}

/// Envoy takes the remainder of one number. A balancer draws its own: it has to come upon that
/// backend, and upon no other than those that there are.
fn random(input: &Value, expect: &Value) -> Result<(), String> {
    only(
        input,
        &["hosts", "healthy", "fail_traffic_on_panic", "random"],
    )?;
    only(expect, &["pick"])?;
    let hosts = integer(&input["hosts"]);
    let healthy = integer_or(&input["healthy"], hosts);
    // Envoy, without any healthy host: all of them, unless it is told to fail.
    let fails = input["fail_traffic_on_panic"] == Value::Bool(true);
    let n = if healthy == 0 && !fails {
        hosts
    } else {
        healthy
    };

    let pick = integer(&input["random"])
        .checked_rem(n)
        .map(|pick| pick as usize);
    let expected = optional(&expect["pick"]);
    same("pick", &pick, &expected)?;

    let picks = Picks::new(Policy::Random(random::Config), 7);
    picks.list(n as usize);
    let got: Vec<Option<usize>> = (0..100 * n.max(1)).map(|_| picks.pick()).collect();
    same("ever picked", &got.contains(&expected), &true)?;
    let inside = |pick: &Option<usize>| pick.map_or(n == 0, |pick| (pick as u64) < n);
    same("all picked are there", &got.iter().all(inside), &true)
}

fn optional(value: &Value) -> Option<usize> {
    match value {
        Value::Null => None,
        value => Some(integer(value) as usize),
    }
}
