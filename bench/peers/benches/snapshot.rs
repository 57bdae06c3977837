//! The time of a read, by one thread and by one a core, with the list left alone and replaced
//! 1,000 times a second. Figures are wall clock a read of each thread: where threads do not
//! disturb each other, those of many threads equal those of one.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{criterion_group, criterion_main, Criterion};
use grpc_lb_peers::{while_replacing, Core, Epoch, Hazard, Hot, Lock, Rotation, SharedLock, Swap};

const PERIOD: Duration = Duration::from_millis(1);

fn benches(criterion: &mut Criterion) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for rotation in [Rotation::Shared, Rotation::PerReader] {
        for threads in [1, cores] {
            for replacing in [false, true] {
                let case = Case {
                    rotation,
                    threads,
                    replacing,
                };
                case.measure::<Core>(criterion, "grpc_lb_core");
                case.measure::<Hazard>(criterion, "hazard pointers");
                case.measure::<Epoch>(criterion, "crossbeam-epoch");
                case.measure::<Swap>(criterion, "arc-swap");
                case.measure::<SharedLock>(criterion, "RwLock");
                case.measure::<Lock>(criterion, "Mutex");
            }
        }
    }
}

struct Case {
    rotation: Rotation,
    threads: usize,
    replacing: bool,
}

impl Case {
    fn measure<H: Hot>(&self, criterion: &mut Criterion, name: &str) {
        let hot = H::new(self.rotation);
        let group = format!(
            "{} cursor, {} threads, {}",
            match self.rotation {
                Rotation::Shared => "shared",
                Rotation::PerReader => "own",
            },
            self.threads,
            if self.replacing {
                "replaced"
            } else {
                "left alone"
            },
        );
        let mut group = criterion.benchmark_group(group);
        let mut bench = || {
            group.bench_function(name, |bencher| {
                bencher.iter_custom(|reads| read(&hot, self.threads, reads));
            });
        };
        if self.replacing {
            while_replacing(&hot, PERIOD, bench);
        } else {
            bench();
        }
    }
}

/// The time until the last of `threads` has made its `reads`, which begin together.
fn read<H: Hot>(hot: &H, threads: usize, reads: u64) -> Duration {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let reader = hot.reader();
                    barrier.wait();
                    let start = Instant::now();
                    for _ in 0..reads {
                        black_box(hot.pick(&reader));
                    }
                    start.elapsed()
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("a reader does not panic"))
            .max()
            .unwrap_or_default()
    })
}

criterion_group! {
    name = snapshot;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1_200))
        .sample_size(30);
    targets = benches
}
criterion_main!(snapshot);
