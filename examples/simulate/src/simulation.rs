//! Runs the clients and the clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use grpc_lb_core::load::orca::LoadReport;
use grpc_lb_core::{Backend, Balancer, Caller, Outcome, Ticket, Time, Unowned};

use crate::contenders::Contender;
use crate::measured::Measured;
use crate::options::Options;
use crate::server::{Kind, Server, FAILS, WORK, WORKERS};

/// Each has its own balancer, which knows of its own calls only.
const CLIENTS: usize = 5;

/// The clients' calls, as a share of what the healthy servers can do.
const LOAD: f64 = 0.6;

/// When a caller gives up.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// How long a flaky server takes to fail a call.
const REFUSAL: Duration = Duration::from_millis(1);

/// Calls count from then on: reported weights apply, and outlier detection has looked twice.
const MEASURED_FROM: Time = Time(25_000_000_000);

/// A call.
pub(crate) struct Call {
    pub(crate) kind: Kind,
    pub(crate) took: Duration,
    pub(crate) end: End,
    backend: usize,
    started: Time,
    /// How much work it is, where 1 is the average.
    work: f64,
    /// Completes it. `None` once it has ended.
    ticket: Option<Ticket>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    Refused,
    TimedOut,
}

struct Client {
    balancer: Balancer<usize>,
    caller: Caller,
}

/// An event. Calls are known by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Some client makes a call.
    Call,
    /// A worker is done with a call.
    Worked(usize),
    /// A client hears that the server failed.
    Refused(usize),
    /// A client gives up.
    TimedOut(usize),
}

struct Simulation {
    now: Time,
    /// Future events by time, and at one time in the order of scheduling.
    agenda: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    clients: Vec<Client>,
    servers: Vec<Server>,
    calls: Vec<Call>,
    /// How many calls are left to measure.
    left: u64,
    /// The average time between two calls.
    gap: Duration,
    /// Draws calls only, so that all contenders get the same.
    random: Rng,
}

/// Simulates a fleet with this contender at all its clients.
pub fn run(contender: &Contender, options: &Options) -> Measured {
    let mut simulation = Simulation::new(contender, options);
    simulation.schedule(Duration::ZERO, Event::Call);
    while let Some(Reverse((now, _number, event))) = simulation.agenda.pop() {
        simulation.now = now;
        simulation.tick();
        simulation.happens(event);
    }
    let calls = &simulation.calls;
    Measured::of(calls.iter().filter(|call| call.started >= MEASURED_FROM))
}

impl Simulation {
    fn new(contender: &Contender, options: &Options) -> Self {
        let mut random = Rng::with_seed(options.seed);
        let backends: Vec<Backend<usize>> = (0..options.backends)
            .map(|backend| Backend {
                weight: contender.weight(Kind::of(backend)),
                ..Backend::new(backend, backend)
            })
            .collect();
        let clients = (0..CLIENTS).map(|_| Client::new(contender, &backends, &mut random));
        let kinds = (0..options.backends).map(Kind::of);
        let healthy = kinds.filter(|kind| *kind == Kind::Healthy).count();
        Simulation {
            now: Time(0),
            agenda: BinaryHeap::new(),
            scheduled: 0,
            clients: clients.collect(),
            servers: backends.iter().map(|_| Server::default()).collect(),
            calls: Vec::new(),
            left: options.calls,
            gap: WORK.div_f64(LOAD * (healthy * WORKERS) as f64),
            random,
        }
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        self.agenda
            .push(Reverse((self.now + after, self.scheduled, event)));
    }

    /// Does what a timer would.
    fn tick(&self) {
        for Client { balancer, .. } in &self.clients {
            if balancer.due().is_some_and(|due| due <= self.now) {
                balancer.tick(&Unowned, self.now);
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Call => self.call(),
            Event::Worked(call) => self.worked(call),
            Event::Refused(call) => self.end(call, End::Refused),
            Event::TimedOut(call) => self.end(call, End::TimedOut),
        }
    }

    fn call(&mut self) {
        let client = self.random.usize(..CLIENTS);
        let work = exponential(&mut self.random);
        let is_unlucky = self.random.f64() < FAILS;
        let gap = self.gap.mul_f64(exponential(&mut self.random));

        if self.now >= MEASURED_FROM {
            self.left -= 1;
        }
        if self.left > 0 {
            self.schedule(gap, Event::Call);
        }
        self.send(client, work, is_unlucky);
    }

    fn send(&mut self, client: usize, work: f64, is_unlucky: bool) {
        let number = self.calls.len();
        let (backend, ticket) = self.clients[client].checkout(self.now);
        let kind = Kind::of(backend);
        self.calls.push(Call {
            kind,
            took: DEADLINE,
            end: End::TimedOut,
            backend,
            started: self.now,
            work,
            ticket: Some(ticket),
        });
        self.schedule(DEADLINE, Event::TimedOut(number));
        let server = &mut self.servers[backend];
        if kind == Kind::Flaky && is_unlucky {
            server.refuse();
            self.schedule(REFUSAL, Event::Refused(number));
        } else if server.accept(number, self.now) {
            self.work_on(number);
        }
    }

    fn work_on(&mut self, number: usize) {
        let call = &self.calls[number];
        let takes = call.kind.work().mul_f64(call.work);
        self.schedule(takes, Event::Worked(number));
    }

    fn worked(&mut self, number: usize) {
        let server = &mut self.servers[self.calls[number].backend];
        let next = server.next(self.now, |call| self.calls[call].ticket.is_some());
        if let Some(next) = next {
            self.work_on(next);
        }
        self.end(number, End::Answered);
    }

    /// Ends a call, unless it has ended before.
    fn end(&mut self, number: usize, end: End) {
        let call = &mut self.calls[number];
        let Some(ticket) = call.ticket.take() else {
            return;
        };
        call.end = end;
        call.took = self.now.since(call.started);
        let outcome = match end {
            End::Answered => Outcome::Success,
            End::Refused | End::TimedOut => Outcome::Failure,
        };
        let report = match end {
            End::Answered | End::Refused => self.servers[call.backend].report(self.now),
            End::TimedOut => None,
        };
        ticket
            .complete(outcome, report.map(LoadReport::Decoded), self.now)
            .expect("it is completed once");
    }
}

impl Client {
    fn new(contender: &Contender, backends: &[Backend<usize>], random: &mut Rng) -> Self {
        let balancer = Balancer::new(contender.config.clone(), random.u64(..), Time(0));
        balancer
            .reconcile(backends, &Unowned, Time(0))
            .expect("it is open, and no backend is there twice");
        Client {
            balancer,
            caller: Caller::new(random.u64(..)),
        }
    }

    fn checkout(&self, now: Time) -> (usize, Ticket) {
        self.balancer
            .checkout(&self.caller, &Unowned, now, |backend| *backend)
            .expect("not all are ever ejected, and there is no limit")
    }
}

/// A draw from the exponential distribution of mean 1.
fn exponential(random: &mut Rng) -> f64 {
    -(1.0 - random.f64()).ln()
}
