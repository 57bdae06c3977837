//! Short bursts of picks of all in turn, again and again, so that what slows the machine down for a
//! while slows all of them down.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// What picks, and is measured.
pub trait Peer: Sync + Send + 'static {
    const NAME: &'static str;

    /// What a thread that picks keeps.
    type Thread;

    fn new(backends: u64) -> Self;
    fn thread(&self) -> Self::Thread;
    /// Something of the backend, so that it is looked at.
    fn pick(&self, thread: &mut Self::Thread) -> u64;
}

/// A peer with so many backends.
pub struct Case {
    name: &'static str,
    backends: u64,
    burst: Box<dyn Fn(usize, u64) -> f64>,
}

pub struct Row {
    pub name: &'static str,
    pub backends: u64,
    pub threads: usize,
    /// In nanoseconds, wall clock of each thread.
    pub median: f64,
    /// From the first quartile to the third.
    pub spread: f64,
    pub least: f64,
}

const ROUNDS: usize = 41;
/// So short that few are interrupted; as many picks before it warm the caches up.
const BURST: Duration = Duration::from_micros(500);

pub fn case<P: Peer>(backends: u64) -> Case {
    let peer = P::new(backends);
    Case {
        name: P::NAME,
        backends,
        burst: Box::new(move |threads, picks| burst(&peer, threads, picks)),
    }
}

/// Nanoseconds of a pick, where so many threads make so many each.
fn burst<P: Peer>(peer: &P, threads: usize, picks: u64) -> f64 {
    let start = Barrier::new(threads);
    let run = || {
        let mut own = peer.thread();
        let mut pick = || black_box(black_box(peer).pick(&mut own));
        for _ in 0..picks {
            pick();
        }
        start.wait();
        let begun = Instant::now();
        for _ in 0..picks {
            pick();
        }
        begun.elapsed()
    };
    let took: Duration = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let own = run();
        let others = others.into_iter();
        own + others
            .map(|other| other.join().expect("a pick does not panic"))
            .sum::<Duration>()
    });
    took.as_nanos() as f64 / (picks * threads as u64) as f64
}

pub fn measure(cases: &[Case], threads: &[usize]) -> Vec<Row> {
    let mut runs: Vec<(&Case, usize, u64, Vec<f64>)> = Vec::new();
    for threads in threads {
        for case in cases {
            let picks = BURST.as_nanos() as f64 / (case.burst)(*threads, 1_000);
            runs.push((case, *threads, (picks as u64).max(16), Vec::new()));
        }
    }
    for _ in 0..ROUNDS {
        for (case, threads, picks, times) in &mut runs {
            times.push((case.burst)(*threads, *picks));
        }
    }
    let rows = runs.into_iter().map(|(case, threads, _, mut times)| {
        times.sort_by(f64::total_cmp);
        let at = |part: usize| times[(times.len() - 1) * part / 4];
        Row {
            name: case.name,
            backends: case.backends,
            threads,
            median: at(2),
            spread: at(3) - at(1),
            least: at(0),
        }
    });
    rows.collect()
}
