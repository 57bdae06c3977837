//! Load reports of backends: ORCA (gRFC A51).

use std::collections::HashMap;

use prost::Message;

/// A load report as it comes.
#[derive(Clone, Copy, Debug)]
pub enum LoadReport<'a> {
    /// As it is sent.
    Bytes(&'a [u8]),
    /// As it is meant.
    Decoded(&'a Report),
}

/// What a backend says of its load: `xds.data.orca.v3.OrcaLoadReport`, which is also what the
/// trailer `endpoint-load-metrics-bin` of a call carries.
///
/// What a backend did not say is 0 or empty.
#[derive(Clone, PartialEq, Message)]
pub struct Report {
    /// Share of the processors in use; above 1 where more is wanted than there is.
    #[prost(double, tag = "1")]
    pub cpu_utilization: f64,
    /// Share of the memory in use, 0 to 1.
    #[prost(double, tag = "2")]
    pub mem_utilization: f64,
    /// Deprecated by the format in favour of [`rps_fractional`](Report::rps_fractional), and never
    /// used here.
    #[prost(uint64, tag = "3")]
    pub rps: u64,
    /// Costs of this one request, by name.
    #[prost(map = "string, double", tag = "4")]
    pub request_cost: HashMap<String, f64>,
    /// Shares in use of further resources, 0 to 1, by name.
    #[prost(map = "string, double", tag = "5")]
    pub utilization: HashMap<String, f64>,
    /// Calls per second, which gRPC calls qps.
    #[prost(double, tag = "6")]
    pub rps_fractional: f64,
    /// Failed calls per second.
    #[prost(double, tag = "7")]
    pub eps: f64,
    /// Whatever else the backend measures, by name.
    #[prost(map = "string, double", tag = "8")]
    pub named_metrics: HashMap<String, f64>,
    /// Share in use of what the backend knows to be its bottleneck; may exceed 1.
    #[prost(double, tag = "9")]
    pub application_utilization: f64,
}

impl Report {
    /// The longest report that is read: what gRPC takes by default for all metadata of a call. It is
    /// decoded where no other work may be held up for long, and its sender may mean no good.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// How much there is in its maps, in bytes: the names, and the numbers.
    pub fn map_bytes(&self) -> usize {
        let maps = [&self.request_cost, &self.utilization, &self.named_metrics];
        let names = maps.into_iter().flat_map(HashMap::keys);
        names.map(|name| name.len() + size_of::<f64>()).sum()
    }

    /// Reads a serialized report. `None` when it is malformed or too long; A51 wants such a report
    /// ignored.
    ///
    /// ```
    /// use grpc_lb_core::load::orca::Report;
    ///
    /// let report = Report::decode(b"\x09\0\0\0\0\0\0\xe0\x3f").unwrap();
    /// assert_eq!(report.cpu_utilization, 0.5);
    /// assert_eq!(Report::decode(b"not a report"), None);
    /// ```
    pub fn decode(bytes: &[u8]) -> Option<Report> {
        if bytes.len() > Report::MAX_BYTES {
            return None;
        }
        Message::decode(bytes).ok()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report() -> Report {
        Report {
            cpu_utilization: 0.5,
            rps: 7,
            rps_fractional: 100.0,
            named_metrics: HashMap::from([("queue".to_string(), 0.25)]),
            ..Report::default()
        }
    }

    #[test]
    fn a_report_survives_the_wire() {
        assert_eq!(Report::decode(&report().encode_to_vec()), Some(report()));
    }

    #[test]
    fn a_cut_report_is_malformed() {
        let bytes = report().encode_to_vec();
        assert_eq!(Report::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn the_size_of_its_maps_is_that_of_names_and_numbers() {
        assert_eq!(Report::default().map_bytes(), 0);
        assert_eq!(report().map_bytes(), "queue".len() + 8);
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        // Field 100, unknown and skipped: a valid report of exactly that many bytes.
        let padded = |bytes: usize| {
            let mut padded = vec![0xa2, 0x06, 0, 0, 0];
            let rest = bytes - padded.len();
            padded[2] = (rest & 0x7f) as u8 | 0x80;
            padded[3] = (rest >> 7 & 0x7f) as u8 | 0x80;
            padded[4] = (rest >> 14) as u8;
            padded.resize(bytes, 0);
            padded
        };
        let empty = Some(Report::default());
        assert_eq!(Report::decode(&padded(Report::MAX_BYTES)), empty);
        assert_eq!(Report::decode(&padded(Report::MAX_BYTES + 1)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_report_or_none(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Report::decode(&bytes);
        }
    }
}
