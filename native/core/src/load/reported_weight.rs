//! Options of weights that come out of load reports (gRFC A58, with A114's metric names).

use std::time::Duration;

use super::orca::Report;

/// What can be chosen; the defaults are gRPC's.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How long a backend has to report before its weight counts; 0 is at once.
    pub blackout_period: Duration,
    /// How long a weight counts after the last report.
    pub weight_expiration_period: Duration,
    /// How often weights are read; see [`Config::clamped`].
    pub weight_update_period: Duration,
    /// How much a failed call adds to the utilization, relative to the share of calls that fail.
    pub error_utilization_penalty: f64,
    /// Which metrics say how much a backend is used; the largest counts.
    pub metrics: Vec<Metric>,
    /// Which reports count.
    pub source: Source,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            blackout_period: Duration::from_secs(10),
            weight_expiration_period: Duration::from_secs(180),
            weight_update_period: Duration::from_secs(1),
            error_utilization_penalty: 1.0,
            metrics: Vec::new(),
            source: Source::default(),
        }
    }
}

impl Config {
    /// The shortest time between two updates of the weights (A58).
    pub const MIN_UPDATE_PERIOD: Duration = Duration::from_millis(100);

    /// The same, with an update period below A58's minimum raised to it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use grpc_lb_core::load::reported_weight::Config;
    ///
    /// let eager = Config { weight_update_period: Duration::ZERO, ..Config::default() };
    /// assert_eq!(eager.clamped().weight_update_period, Config::MIN_UPDATE_PERIOD);
    /// ```
    pub fn clamped(self) -> Config {
        Config {
            weight_update_period: self.weight_update_period.max(Self::MIN_UPDATE_PERIOD),
            ..self
        }
    }
}

/// Where the reports that count come from (A58's `enableOobLoadReport`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// With the end of each call.
    #[default]
    PerCall,
    /// Apart from calls.
    OutOfBand,
}

/// A metric of a report, as A114 names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metric {
    /// `application_utilization`
    Application,
    /// `cpu_utilization`
    Cpu,
    /// `mem_utilization`
    Memory,
    /// `utilization.<name>`
    Utilization(String),
    /// `named_metrics.<name>`
    Named(String),
}

impl Metric {
    /// Reads a metric's name. A114 gives other names no value: `None`.
    ///
    /// ```
    /// use grpc_lb_core::load::reported_weight::Metric;
    ///
    /// assert_eq!(Metric::parse("cpu_utilization"), Some(Metric::Cpu));
    /// assert_eq!(Metric::parse("named_metrics.a.b"), Some(Metric::Named("a.b".to_string())));
    /// assert_eq!(Metric::parse("queue"), None);
    /// ```
    pub fn parse(name: &str) -> Option<Metric> {
        match name.split_once('.') {
            None => match name {
                "application_utilization" => Some(Metric::Application),
                "cpu_utilization" => Some(Metric::Cpu),
                "mem_utilization" => Some(Metric::Memory),
                _ => None,
            },
            Some(("utilization", key)) => Some(Metric::Utilization(key.to_string())),
            Some(("named_metrics", key)) => Some(Metric::Named(key.to_string())),
            Some(_) => None,
        }
    }

    pub(crate) fn of(&self, report: &Report) -> Option<f64> {
        match self {
            Metric::Application => Some(report.application_utilization),
            Metric::Cpu => Some(report.cpu_utilization),
            Metric::Memory => Some(report.mem_utilization),
            Metric::Utilization(key) => report.utilization.get(key).copied(),
            Metric::Named(key) => report.named_metrics.get(key).copied(),
        }
    }
}
