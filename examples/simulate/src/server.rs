//! A backend: a queue, and a few workers that serve it.

use std::collections::VecDeque;
use std::time::Duration;

use grpc_lb_core::load::orca::Report;
use grpc_lb_core::Time;

/// How many calls a server works on at the same time. The others wait.
pub(crate) const WORKERS: usize = 4;

/// The least time that a load report covers.
const REPORTED: Duration = Duration::from_secs(1);

/// A server. Calls are known by their numbers.
#[derive(Default)]
pub(crate) struct Server {
    waiting: VecDeque<usize>,
    working: usize,
    meter: Meter,
}

impl Server {
    /// Takes a call in. Returns whether a worker starts on it at once.
    pub(crate) fn accept(&mut self, call: usize, now: Time) -> bool {
        if self.working == WORKERS {
            self.waiting.push_back(call);
            return false;
        }
        self.meter.advance(self.working, now);
        self.working += 1;
        true
    }

    /// Frees a worker of its call. Returns the call that the worker takes next: the first that nobody
    /// has given up.
    pub(crate) fn next(&mut self, now: Time, is_open: impl Fn(usize) -> bool) -> Option<usize> {
        self.meter.advance(self.working, now);
        self.meter.answered += 1;
        while let Some(call) = self.waiting.pop_front() {
            if is_open(call) {
                return Some(call);
            }
        }
        self.working -= 1;
        None
    }

    /// Counts a refused call, which costs nothing.
    pub(crate) fn refuse(&mut self) {
        self.meter.answered += 1;
        self.meter.refused += 1;
    }

    /// The load report of an answer.
    pub(crate) fn report(&mut self, now: Time) -> Option<&Report> {
        self.meter.advance(self.working, now);
        self.meter.report(now)
    }
}

/// Counts for the load report.
#[derive(Default)]
struct Meter {
    since: Time,
    last: Time,
    /// The workers' time at work, added up.
    worked: Duration,
    answered: u32,
    refused: u32,
    report: Option<Report>,
}

impl Meter {
    /// Notes that so many have worked until now.
    fn advance(&mut self, working: usize, now: Time) {
        self.worked += now.since(self.last) * working as u32;
        self.last = now;
    }

    fn report(&mut self, now: Time) -> Option<&Report> {
        let seconds = now.since(self.since).as_secs_f64();
        if seconds >= REPORTED.as_secs_f64() {
            self.report = Some(Report {
                cpu_utilization: self.worked.as_secs_f64() / (seconds * WORKERS as f64),
                rps_fractional: f64::from(self.answered) / seconds,
                eps: f64::from(self.refused) / seconds,
                ..Report::default()
            });
            self.since = now;
            self.worked = Duration::ZERO;
            self.answered = 0;
            self.refused = 0;
        }
        self.report.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_waits_until_a_worker_is_free() {
        let mut server = Server::default();
        let accepted: Vec<bool> = (0..6).map(|call| server.accept(call, Time(0))).collect();
        assert_eq!(accepted, [true, true, true, true, false, false]);
        // The caller of the first that waits has given up.
        assert_eq!(server.next(Time(1), |call| call != 4), Some(5));
        assert_eq!(server.next(Time(2), |_| true), None);
        assert!(server.accept(6, Time(3)));
    }

    #[test]
    fn a_report_is_about_the_last_second() {
        let second = 1_000_000_000;
        let mut server = Server::default();
        server.accept(0, Time(0));
        server.accept(1, Time(0));
        assert_eq!(server.next(Time(second / 2), |_| true), None);
        assert_eq!(server.report(Time(second / 2)), None);
        server.refuse();

        let report = server.report(Time(second)).unwrap();
        assert_eq!(report.cpu_utilization, 1.5 / WORKERS as f64);
        assert_eq!((report.rps_fractional, report.eps), (2.0, 1.0));
    }
}
