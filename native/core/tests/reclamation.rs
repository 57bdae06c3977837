//! When what a change retires is freed, and by whom. The epoch is that of the whole process, so
//! these run one at a time.
#![cfg(not(loom))]

use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};

use grpc_lb_core::policy::{round_robin, Policy};
use grpc_lb_core::{live_counts, Backend, Balancer, Caller, State, Time, Unowned};

static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn balancer(ids: std::ops::Range<u32>) -> Balancer<u32> {
    let policy = Policy::RoundRobin(round_robin::Config::default());
    let balancer = Balancer::new(policy, 0, Time(0));
    list(&balancer, ids);
    balancer
}

fn list(balancer: &Balancer<u32>, ids: std::ops::Range<u32>) {
    let backends: Vec<_> = ids.map(|id| Backend::new(id, id)).collect();
    balancer.reconcile(&backends, &Unowned, Time(0)).unwrap();
}

fn snapshots() -> usize {
    live_counts().snapshots
}

/// A thread that is in the middle of a pick until it is told to go on, and then lives on until it is
/// told to end.
struct Picker<'s> {
    go_on: Sender<()>,
    picked: Receiver<u32>,
    thread: ScopedJoinHandle<'s, ()>,
}

impl<'s> Picker<'s> {
    fn start<'e>(scope: &'s Scope<'s, 'e>, balancer: &'s Balancer<u32>) -> Self {
        let (go_on, told) = channel();
        let (tell, picked) = channel();
        let (begin, begun) = channel();
        let thread = scope.spawn(move || {
            let caller = Caller::new(0);
            let id = balancer.pick(&caller, &Unowned, |id| {
                begin.send(()).unwrap();
                told.recv().unwrap();
                *id
            });
            tell.send(id.unwrap()).unwrap();
            told.recv().unwrap();
        });
        begun.recv().unwrap();
        Picker {
            go_on,
            picked,
            thread,
        }
    }

    /// Lets it finish its pick, and says what it picked.
    fn finish(&self) -> u32 {
        self.go_on.send(()).unwrap();
        self.picked.recv().unwrap()
    }

    fn end(self) {
        self.go_on.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

#[test]
fn what_a_change_retires_is_free_when_it_returns() {
    let _alone = alone();
    let balancer = balancer(0..3);
    thread::scope(|scope| {
        // Registered, and idle from then on.
        let idle = Picker::start(scope, &balancer);
        idle.finish();
        list(&balancer, 1..4);
        assert_eq!(snapshots(), 1, "a reconcile");
        let one = [Backend::new(7, 7)];
        balancer.add(&one, &Unowned, Time(0)).unwrap();
        assert_eq!(snapshots(), 1, "an addition");
        balancer.remove(&[7], &Unowned, Time(0)).unwrap();
        assert_eq!(snapshots(), 1, "a removal");
        balancer
            .set_state(&1, State::Draining, &Unowned, Time(0))
            .unwrap();
        assert_eq!(snapshots(), 1, "a state");
        balancer.close(&Unowned);
        assert_eq!(snapshots(), 1, "a close");
        idle.end();
    });
    drop(balancer);
    assert_eq!(snapshots(), 0);
}

#[test]
fn what_a_pick_holds_is_freed_by_the_next_look_after_it() {
    let _alone = alone();
    let balancer = balancer(0..1);
    thread::scope(|scope| {
        let picker = Picker::start(scope, &balancer);
        list(&balancer, 1..2);
        list(&balancer, 2..3);
        assert_eq!(
            snapshots(),
            3,
            "those before the pick ends, and the current one"
        );
        assert_eq!(picker.finish(), 0);
        balancer.info(&Unowned);
        assert_eq!(snapshots(), 1);
        picker.end();
    });
}

#[test]
fn what_is_retired_is_freed_though_the_thread_that_did_it_has_ended() {
    let _alone = alone();
    let balancer = balancer(0..1);
    thread::scope(|scope| {
        let picker = Picker::start(scope, &balancer);
        scope.spawn(|| list(&balancer, 1..2)).join().unwrap();
        assert_eq!(snapshots(), 2);
        assert_eq!(picker.finish(), 0);
        balancer.info(&Unowned);
        assert_eq!(snapshots(), 1);
        picker.end();
    });
}

#[test]
fn a_balancer_goes_at_once_while_a_pick_of_another_holds_the_epoch() {
    let _alone = alone();
    let held = balancer(0..1);
    thread::scope(|scope| {
        let picker = Picker::start(scope, &held);
        let other = balancer(0..5);
        list(&other, 5..9);
        assert!(snapshots() > 2, "what it has retired waits for the pick");
        drop(other);
        assert_eq!(snapshots(), 1);
        picker.finish();
        // What was still to run for the balancer that is gone runs now, on this thread.
        let caller = Caller::new(0);
        for _ in 0..1_000 {
            held.pick(&caller, &Unowned, |_| ()).unwrap();
        }
        list(&held, 1..2);
        assert_eq!(snapshots(), 1);
        picker.end();
    });
}
