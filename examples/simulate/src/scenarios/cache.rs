//! Backends are caches, and a call's key says what it asks for. One goes and comes back empty, another one
//! joins, and at last one key gets hot: how many calls find what they ask for, and how many of them go
//! to the busiest backend?

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::time::Duration;

use fastrand::Rng;
use grpc_lb_core::hash::xxh64;
use grpc_lb_core::policy::{maglev, ring_hash, BalanceFactor, Policy};
use grpc_lb_core::{Backend, Balancer, Caller, Outcome, State, Ticket, Time, Unowned};

use crate::lines::{self, Panel};
use crate::table::{self, Row};

/// So many different things are asked for, the n-th most popular one a n-th as often as the first (Zipf).
const THINGS: usize = 20_000;

/// Each backend has room for so many.
const ROOM: usize = 1_000;

/// The time between two calls.
const GAP: Duration = Duration::from_micros(500);

/// What an answer takes that is there, and one that must be fetched.
const HIT: Duration = Duration::from_millis(20);
const MISS: Duration = Duration::from_millis(200);

/// Calls are measured from then on: the caches are full.
const WARM: u64 = 20;

/// The seconds, from then on, in which one goes and comes back, another one joins, and one key is hot.
const GONE: u64 = 10;
const BACK: u64 = 20;
const JOINED: u64 = 30;
const HOT: u64 = 45;
const END: u64 = 60;

/// So many of the calls ask for one thing while it is hot, in percent.
const HEAT: u8 = 20;

const COLUMNS: [&str; 6] = [
    "hits, %",
    "in the 2 seconds after one has gone, %",
    "after it is back, %",
    "after one has joined, %",
    "with a hot key, %",
    "of these calls to the busiest, %",
];

/// The results of one contender.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Calls that found what they asked for, in percent: before anything happens.
    pub steady: f64,
    /// In the two seconds after a backend has gone.
    pub gone: f64,
    /// After it is back.
    pub back: f64,
    /// After another one has joined.
    pub joined: f64,
    /// While one key is hot.
    pub hot: f64,
    /// The busiest backend's part of the calls meanwhile, in percent.
    pub busiest: f64,
    /// Hits, and the part of the busiest backend, in percent, second by second.
    pub by_second: Vec<[f64; 2]>,
}

/// Simulates all contenders with the same calls, to so many backends.
pub fn run(seed: u64, backends: usize) -> Vec<(&'static str, Measured)> {
    let factor = BalanceFactor::new(125);
    let mut bounded = ring_hash::Config::default();
    bounded.hash_balance_factor = factor;
    let contenders = [
        ("modulo", None),
        ("ring_hash", Some(Policy::RingHash(Default::default()))),
        ("maglev", Some(Policy::Maglev(maglev::Config::default()))),
        ("ring_hash, bounded", Some(Policy::RingHash(bounded))),
    ];
    contenders
        .map(|(name, policy)| (name, Fleet::new(policy, seed, backends).run()))
        .into()
}

/// The results to read.
pub fn table(results: &[(&'static str, Measured)]) -> String {
    let row = |(name, measured): &(&'static str, Measured)| Row {
        name,
        cells: [
            measured.steady,
            measured.gone,
            measured.back,
            measured.joined,
            measured.hot,
            measured.busiest,
        ]
        .map(|cell| format!("{cell:.1}"))
        .into(),
    };
    table::markdown(&COLUMNS, results.iter().map(row))
}

/// The chart.
pub fn svg(results: &[(&'static str, Measured)]) -> String {
    let names: Vec<&str> = results.iter().map(|(name, _)| *name).collect();
    let panel = |title, column: usize| {
        let of_one = |(_, measured): &(_, Measured)| {
            let seconds = measured.by_second.iter();
            seconds.map(|second| second[column]).collect()
        };
        Panel {
            title,
            lines: results.iter().map(of_one).collect(),
        }
    };
    lines::svg(
        "Caches: one goes (10), is back empty (20), one joins (30), a key is hot (45)",
        &names,
        &[
            panel("Calls that find what they ask for, %", 0),
            panel("Calls to the busiest backend, %", 1),
        ],
    )
}

/// Who is to be asked for a thing.
enum Choice {
    /// The hash modulo the number of those that are up, by which many caches are chosen without a library.
    Modulo,
    By(Box<Balancer<usize>>, Caller),
}

struct Fleet {
    choice: Choice,
    caches: Vec<Cache>,
    up: Vec<bool>,
    /// How often a thing or a more popular one is asked for, of [`THINGS`].
    popularity: Vec<f64>,
    random: Rng,
    /// Calls in flight by their end.
    ends: BinaryHeap<Reverse<(Time, usize)>>,
    tickets: Vec<Option<Ticket>>,
}

/// What was asked for last.
#[derive(Default)]
struct Cache {
    last_asked: HashMap<usize, u64>,
    by_age: BTreeMap<u64, usize>,
    asked: u64,
}

impl Cache {
    /// Whether it is there; it is from now on, in the place of what was not asked for longest.
    fn ask(&mut self, thing: usize) -> bool {
        self.asked += 1;
        let last = self.last_asked.insert(thing, self.asked);
        if let Some(last) = last {
            self.by_age.remove(&last);
        }
        self.by_age.insert(self.asked, thing);
        if self.by_age.len() > ROOM {
            let (_, oldest) = self.by_age.pop_first().expect("it is full");
            self.last_asked.remove(&oldest);
        }
        last.is_some()
    }
}

impl Fleet {
    /// The last backend is not there yet.
    fn new(policy: Option<Policy>, seed: u64, backends: usize) -> Fleet {
        let mut sum = 0.0;
        let parts = (1..=THINGS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        let popularity = parts.collect();
        let choice = match policy {
            None => Choice::Modulo,
            Some(policy) => Choice::By(Box::new(Balancer::new(policy, 0, Time(0))), Caller::new(0)),
        };
        let mut fleet = Fleet {
            choice,
            caches: (0..=backends).map(|_| Cache::default()).collect(),
            up: vec![false; backends + 1],
            popularity,
            random: Rng::with_seed(seed),
            ends: BinaryHeap::new(),
            tickets: Vec::new(),
        };
        fleet.list(backends);
        fleet
    }

    fn list(&mut self, backends: usize) {
        (0..backends).for_each(|backend| self.up[backend] = true);
        if let Choice::By(balancer, _) = &self.choice {
            let backend = |it: usize| Backend::new(it, it).keyed(format!("10.0.0.{it}:11211"));
            let list: Vec<_> = (0..backends).map(backend).collect();
            let listed = balancer.reconcile(&list, &Unowned, Time(0));
            listed.expect("it is open, and all have a text");
        }
    }

    fn set(&mut self, backend: usize, up: bool) {
        self.up[backend] = up;
        if let Choice::By(balancer, _) = &self.choice {
            let state = if up {
                State::Ready
            } else {
                State::TransientFailure
            };
            let set = balancer.set_state(&backend, state, &Unowned, Time(0));
            set.expect("it is listed");
        }
    }

    fn run(mut self) -> Measured {
        let last = self.caches.len() - 1;
        let mut seconds = Vec::new();
        for second in 0..WARM + END {
            match second.checked_sub(WARM) {
                Some(GONE) => self.set(0, false),
                Some(BACK) => {
                    self.caches[0] = Cache::default();
                    self.set(0, true);
                }
                Some(JOINED) => self.list(last + 1),
                _ => {}
            }
            seconds.push(self.second(second));
        }
        Measured::of(&seconds[WARM as usize..])
    }

    /// How many calls found what they asked for, and how many each backend got.
    fn second(&mut self, second: u64) -> (u64, Vec<u64>) {
        let begin = Duration::from_secs(second);
        let calls = (Duration::from_secs(1).as_nanos() / GAP.as_nanos()) as u32;
        let (mut hits, mut of_each) = (0, vec![0; self.caches.len()]);
        for call in 0..calls {
            let now = Time((begin + GAP * call).as_nanos() as u64);
            self.end_until(now);
            let thing = self.thing(second >= WARM + HOT);
            let (backend, ticket) = self.choose(thing, now);
            let hit = self.caches[backend].ask(thing);
            hits += u64::from(hit);
            of_each[backend] += 1;
            let took = if hit { HIT } else { MISS };
            self.ends.push(Reverse((now + took, self.tickets.len())));
            self.tickets.push(ticket);
        }
        (hits, of_each)
    }

    fn thing(&mut self, hot: bool) -> usize {
        if hot && self.random.u8(..100) < HEAT {
            // One that was seldom asked for.
            return THINGS - 1;
        }
        let all = self.popularity[THINGS - 1];
        let drawn = self.random.f64() * all;
        self.popularity.partition_point(|part| *part <= drawn)
    }

    fn choose(&mut self, thing: usize, now: Time) -> (usize, Option<Ticket>) {
        let hash = xxh64(&thing.to_le_bytes(), 0);
        match &self.choice {
            Choice::Modulo => {
                let up = self.up.iter().enumerate().filter(|(_, up)| **up);
                let up: Vec<usize> = up.map(|(backend, _)| backend).collect();
                (up[(hash % up.len() as u64) as usize], None)
            }
            Choice::By(balancer, caller) => {
                let _keyed = caller.with_key(hash);
                let begun = balancer.checkout(caller, &Unowned, now, |backend| *backend);
                let (backend, ticket) = begun.expect("some are up");
                (backend, Some(ticket))
            }
        }
    }

    fn end_until(&mut self, now: Time) {
        while let Some(Reverse((end, call))) = self.ends.peek().copied() {
            if end > now {
                return;
            }
            self.ends.pop();
            if let Some(ticket) = self.tickets[call].take() {
                let ended = ticket.complete(Outcome::Success, None, end);
                ended.expect("it ends once");
            }
        }
    }
}

impl Measured {
    fn of(seconds: &[(u64, Vec<u64>)]) -> Measured {
        let percent = |of: u64, all: u64| 100.0 * of as f64 / all as f64;
        let all = |seconds: &[(u64, Vec<u64>)]| -> u64 {
            seconds.iter().flat_map(|(_, of_each)| of_each).sum()
        };
        let hits = |from: u64, to: u64| {
            let seconds = &seconds[from as usize..to as usize];
            percent(seconds.iter().map(|(hits, _)| hits).sum(), all(seconds))
        };
        let busiest = |seconds: &[(u64, Vec<u64>)]| {
            let of = |backend| seconds.iter().map(|(_, of_each)| of_each[backend]).sum();
            let backends = 0..seconds[0].1.len();
            percent(
                backends.map(of).max().expect("there are some"),
                all(seconds),
            )
        };
        let second = |second: u64| {
            let one = second as usize..second as usize + 1;
            [hits(second, second + 1), busiest(&seconds[one])]
        };
        Measured {
            steady: hits(0, GONE),
            gone: hits(GONE, GONE + 2),
            back: hits(BACK, BACK + 2),
            joined: hits(JOINED, JOINED + 2),
            hot: hits(HOT, END),
            busiest: busiest(&seconds[HOT as usize..]),
            by_second: (0..END).map(second).collect(),
        }
    }
}
