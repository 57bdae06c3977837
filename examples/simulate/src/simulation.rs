//! Runs the clients and the clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use grpc_lb_core::load::orca::LoadReport;
use grpc_lb_core::{Backend, Balancer, Caller, Config, Outcome, State, Ticket, Time, Unowned};

use crate::server::Server;

/// Each has its own balancer, which knows of its own calls only.
const CLIENTS: usize = 5;

/// How long a flaky server takes to fail a call.
const REFUSAL: Duration = Duration::from_millis(1);

/// Calls are measured from then on: reported weights apply, and outlier detection has looked twice.
pub(crate) const WARM: Time = Time(25_000_000_000);

/// A fleet, its callers, and what happens to them.
pub(crate) struct Setup {
    /// Of the balancer of each client.
    pub(crate) config: Config,
    pub(crate) backends: Vec<Behaviour>,
    /// The average time between two calls of all clients together.
    pub(crate) gap: Duration,
    /// How many calls are measured.
    pub(crate) calls: u64,
    /// When a caller gives up.
    pub(crate) deadline: Duration,
    /// What a client says of a call that it gave up.
    pub(crate) given_up: Outcome,
    /// The first backend works on nothing meanwhile.
    pub(crate) hangs: Option<Range<Time>>,
    /// When the last backend joins the list.
    pub(crate) joins: Option<Time>,
    /// The priorities of the backends; 0, where there are none.
    pub(crate) priorities: Vec<u32>,
    /// When a backend gets into which state, as all clients learn at once. It works as before.
    pub(crate) states: Vec<(Time, usize, State)>,
}

/// What a backend is like.
#[derive(Clone, Copy)]
pub(crate) struct Behaviour {
    /// Its weight in the list.
    pub(crate) weight: u32,
    /// What its work on a call takes on average.
    pub(crate) work: Duration,
    /// How often it fails, without any work.
    pub(crate) fails: f64,
}

/// A call.
pub(crate) struct Call {
    pub(crate) backend: usize,
    pub(crate) started: Time,
    pub(crate) took: Duration,
    pub(crate) end: End,
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
    GivenUp,
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
    GivenUp(usize),
    /// The last backend joins.
    Join,
    /// A backend gets into another state: which of those that are to come.
    State(usize),
}

struct Simulation<'a> {
    setup: &'a Setup,
    now: Time,
    /// Future events by time, and at one time in the order of scheduling.
    agenda: BinaryHeap<Reverse<(Time, u64, Event)>>,
    scheduled: u64,
    clients: Vec<Client>,
    servers: Vec<Server>,
    calls: Vec<Call>,
    /// How many calls are left to measure.
    left: u64,
    /// Draws calls only, so that all contenders get the same.
    random: Rng,
}

/// Simulates a fleet. Returns the calls that are measured, in the order of their start.
pub(crate) fn run(setup: &Setup, seed: u64) -> Vec<Call> {
    let mut simulation = Simulation::new(setup, seed);
    simulation.schedule(Duration::ZERO, Event::Call);
    if let Some(joins) = setup.joins {
        simulation.schedule(joins.since(simulation.now), Event::Join);
    }
    for (index, (time, _, _)) in setup.states.iter().enumerate() {
        simulation.schedule(time.since(simulation.now), Event::State(index));
    }
    while let Some(Reverse((now, _number, event))) = simulation.agenda.pop() {
        simulation.now = now;
        simulation.tick();
        simulation.happens(event);
    }
    let first = simulation.calls.partition_point(|call| call.started < WARM);
    simulation.calls.split_off(first)
}

impl<'a> Simulation<'a> {
    fn new(setup: &'a Setup, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let listed = setup.backends.len() - usize::from(setup.joins.is_some());
        let clients = (0..CLIENTS).map(|_| Client::new(&setup.config, &mut random));
        let mut simulation = Simulation {
            setup,
            now: Time(0),
            agenda: BinaryHeap::new(),
            scheduled: 0,
            clients: clients.collect(),
            servers: setup.backends.iter().map(|_| Server::default()).collect(),
            calls: Vec::new(),
            left: setup.calls,
            random,
        };
        simulation.list(listed);
        simulation
    }

    /// Has all clients know so many of the backends.
    fn list(&mut self, backends: usize) {
        let backends: Vec<Backend<usize>> = (0..backends)
            .map(|backend| Backend {
                weight: self.setup.backends[backend].weight,
                priority: self.setup.priorities.get(backend).copied().unwrap_or(0),
                ..Backend::new(backend, backend)
            })
            .collect();
        for Client { balancer, .. } in &self.clients {
            balancer
                .reconcile(&backends, &Unowned, self.now)
                .expect("it is open, and no backend is there twice");
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
            Event::GivenUp(call) => self.end(call, End::GivenUp),
            Event::Join => self.list(self.setup.backends.len()),
            Event::State(index) => self.set_state(index),
        }
    }

    fn set_state(&self, index: usize) {
        let (_, backend, state) = self.setup.states[index];
        for Client { balancer, .. } in &self.clients {
            let set = balancer.set_state(&backend, state, &Unowned, self.now);
            set.expect("it is listed");
        }
    }

    fn call(&mut self) {
        let client = self.random.usize(..CLIENTS);
        let work = exponential(&mut self.random);
        let luck = self.random.f64();
        let gap = self.setup.gap.mul_f64(exponential(&mut self.random));

        if self.now >= WARM {
            self.left -= 1;
        }
        if self.left > 0 {
            self.schedule(gap, Event::Call);
        }
        self.send(client, work, luck);
    }

    fn send(&mut self, client: usize, work: f64, luck: f64) {
        let number = self.calls.len();
        let (backend, ticket) = self.clients[client].checkout(self.now);
        self.calls.push(Call {
            backend,
            started: self.now,
            took: self.setup.deadline,
            end: End::GivenUp,
            work,
            ticket: Some(ticket),
        });
        self.schedule(self.setup.deadline, Event::GivenUp(number));
        let server = &mut self.servers[backend];
        if luck < self.setup.backends[backend].fails {
            server.refuse();
            self.schedule(REFUSAL, Event::Refused(number));
        } else if server.accept(number, self.now) {
            self.work_on(number);
        }
    }

    fn work_on(&mut self, number: usize) {
        let call = &self.calls[number];
        let takes = self.setup.backends[call.backend].work.mul_f64(call.work);
        self.schedule(takes, Event::Worked(number));
    }

    fn worked(&mut self, number: usize) {
        let backend = self.calls[number].backend;
        let hangs = self.setup.hangs.as_ref();
        if let Some(hangs) = hangs.filter(|it| backend == 0 && it.contains(&self.now)) {
            // Its workers stand still, and go on when it answers again.
            return self.schedule(hangs.end.since(self.now), Event::Worked(number));
        }
        let next = self.servers[backend].next(self.now, |call| self.calls[call].ticket.is_some());
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
            End::Refused => Outcome::Failure,
            End::GivenUp => self.setup.given_up,
        };
        let report = match end {
            End::Answered | End::Refused => self.servers[call.backend].report(self.now),
            End::GivenUp => None,
        };
        ticket
            .complete(outcome, report.map(LoadReport::Decoded), self.now)
            .expect("it is completed once");
    }
}

impl Client {
    fn new(config: &Config, random: &mut Rng) -> Self {
        Client {
            balancer: Balancer::new(config.clone(), random.u64(..), Time(0)),
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
