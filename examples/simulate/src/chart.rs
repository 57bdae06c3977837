//! The results to look at: an SVG of three panels side by side, with a line for each contender.
//!
//! It brings its own background and two sets of colours, for readers of light and of dark pages.

use std::fmt::{Display, Write};

use crate::measured::Measured;
use crate::Row;

const WIDTH: f64 = 1_000.0;
const TOP: f64 = 104.0;
const LINE: f64 = 34.0;
const BAR: f64 = 9.0;

// Colours come without variables, which not every viewer knows.
const STYLE: &str = "\
  text { font: 13px system-ui, sans-serif; fill: #1f2328; }
  .head { font-weight: 600; } .end { text-anchor: end; } .middle { text-anchor: middle; }
  .page { fill: #ffffff; } .grid { stroke: #d8dee4; } .span { stroke: #59636e; }
  .small { font-size: 11px; fill: #59636e; } .slow { fill: #2a78d6; } .flaky { fill: #d4581c; }
  .dot { fill: #1f2328; stroke: #ffffff; } .hollow { fill: #ffffff; stroke: #1f2328; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .page { fill: #0d1117; } .grid { stroke: #30363d; } .span { stroke: #9198a1; }
    .small { fill: #9198a1; } .slow { fill: #5a9ff0; } .flaky { fill: #f0854a; }
    .dot { fill: #e6edf3; stroke: #0d1117; } .hollow { fill: #0d1117; stroke: #e6edf3; }
  }
";

/// Where a value stands in a panel.
struct Axis {
    left: f64,
    width: f64,
    ticks: Vec<f64>,
    /// Whether each step multiplies.
    is_log: bool,
}

impl Axis {
    /// From 0 to the first of some round numbers that is not below `most`.
    fn linear(left: f64, width: f64, most: f64) -> Axis {
        let steps = [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 25.0];
        let step = steps.into_iter().find(|step| step * 4.0 >= most);
        let step = step.unwrap_or(25.0);
        let count = (most / step).ceil().max(1.0) as u32;
        Axis {
            left,
            width,
            ticks: (0..=count).map(|tick| step * f64::from(tick)).collect(),
            is_log: false,
        }
    }

    /// 1, 3, 10, 30, and so on, as far as they are needed to hold both values.
    fn log(left: f64, width: f64, least: f64, most: f64) -> Axis {
        let all = (-4..8).flat_map(|power| [10.0_f64.powi(power), 3.0 * 10.0_f64.powi(power)]);
        let all: Vec<f64> = all.collect();
        let first = all.iter().rposition(|tick| *tick <= least).unwrap_or(0);
        let last = all.iter().position(|tick| *tick >= most);
        let last = last.unwrap_or(all.len() - 1).max(first + 1);
        Axis {
            left,
            width,
            ticks: all[first..=last].to_vec(),
            is_log: true,
        }
    }

    fn x(&self, value: f64) -> f64 {
        let place = |value: f64| if self.is_log { value.ln() } else { value };
        let (first, last) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let share = (place(value) - place(first)) / (place(last) - place(first));
        self.left + self.width * share.clamp(0.0, 1.0)
    }
}

/// The chart.
pub fn svg(rows: &[Row]) -> String {
    let bottom = TOP + LINE * rows.len() as f64;
    let most = |value: fn(&Measured) -> f64| {
        let values = rows.iter().map(|(_, measured)| value(measured));
        values.fold(0.0, f64::max)
    };
    let least = rows.iter().map(|(_, measured)| measured.p50);
    let share = Axis::linear(264.0, 190.0, most(|m| m.slow.max(m.flaky)));
    let latency = Axis::log(
        498.0,
        250.0,
        least.fold(f64::INFINITY, f64::min),
        most(|m| m.p999),
    );
    let errors = Axis::linear(792.0, 150.0, most(|m| m.timed_out.max(m.failed)));

    let mut svg = Svg::default();
    svg.open(bottom + 52.0);
    svg.text(
        "head",
        16.0,
        26.0,
        "One slow and one flaky backend, policy by policy",
    );
    svg.panel(&share, bottom, "Shares", "% of the calls");
    svg.key_of_bars(&share, ["slow", "flaky"]);
    svg.panel(&latency, bottom, "Latency", "ms, logarithmic");
    svg.key_of_dots(&latency);
    svg.panel(&errors, bottom, "Errors", "% of the calls");
    svg.key_of_bars(&errors, ["timed out", "failed"]);
    for (line, (contender, measured)) in rows.iter().enumerate() {
        let y = TOP + LINE * (line as f64 + 0.5);
        svg.text("end", 248.0, y + 4.0, contender.name);
        svg.bars(&share, y, measured.slow, measured.flaky);
        svg.dots(&latency, y, measured);
        svg.bars(&errors, y, measured.timed_out, measured.failed);
    }
    svg.close()
}

#[derive(Default)]
struct Svg(String);

impl Svg {
    fn add(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }

    fn open(&mut self, height: f64) {
        self.add(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">"#
        ));
        self.add("<title>Shares, latency and errors of each policy</title>");
        self.add(format_args!("<style>\n{STYLE}</style>"));
        self.add(format_args!(
            r#"<rect class="page" width="{WIDTH}" height="{height}"/>"#
        ));
    }

    fn close(mut self) -> String {
        self.add("</svg>");
        self.0
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: impl Display) {
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        ));
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    fn rect(&mut self, class: &str, x: f64, y: f64, width: f64) {
        self.add(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="1"/>"#
        ));
    }

    fn dot(&mut self, class: &str, x: f64, y: f64) {
        self.add(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="5" stroke-width="1.5"/>"#
        ));
    }

    fn diamond(&mut self, x: f64, y: f64) {
        let (left, right, top, bottom) = (x - 6.0, x + 6.0, y - 6.0, y + 6.0);
        self.add(format_args!(
            r#"<path class="dot" d="M{left:.1} {y:.1} L{x:.1} {top:.1} L{right:.1} {y:.1} L{x:.1} {bottom:.1} Z"/>"#
        ));
    }

    /// A panel's title, its grid, and the numbers and the unit under it.
    fn panel(&mut self, axis: &Axis, bottom: f64, title: &str, unit: &str) {
        self.text("head", axis.left, 58.0, title);
        for tick in &axis.ticks {
            let x = axis.x(*tick);
            self.line("grid", (x, TOP), (x, bottom));
            self.text("small middle", x, bottom + 16.0, tick);
        }
        let middle = axis.left + axis.width / 2.0;
        self.text("small middle", middle, bottom + 36.0, unit);
    }

    fn key_of_bars(&mut self, axis: &Axis, [upper, lower]: [&str; 2]) {
        self.rect("slow", axis.left, 73.0, BAR);
        self.text("small", axis.left + 14.0, 82.0, upper);
        self.rect("flaky", axis.left + 80.0, 73.0, BAR);
        self.text("small", axis.left + 94.0, 82.0, lower);
    }

    fn key_of_dots(&mut self, axis: &Axis) {
        self.dot("hollow", axis.left + 6.0, 78.0);
        self.text("small", axis.left + 16.0, 82.0, "p50");
        self.dot("dot", axis.left + 66.0, 78.0);
        self.text("small", axis.left + 76.0, 82.0, "p99");
        self.diamond(axis.left + 126.0, 78.0);
        self.text("small", axis.left + 137.0, 82.0, "p99.9");
    }

    fn bars(&mut self, axis: &Axis, y: f64, upper: f64, lower: f64) {
        self.rect("slow", axis.left, y - BAR - 1.0, axis.x(upper) - axis.left);
        self.rect("flaky", axis.left, y + 1.0, axis.x(lower) - axis.left);
    }

    fn dots(&mut self, axis: &Axis, y: f64, measured: &Measured) {
        let [p50, p99, p999] = [measured.p50, measured.p99, measured.p999].map(|ms| axis.x(ms));
        self.line("span", (p50, y), (p999, y));
        self.dot("hollow", p50, y);
        self.diamond(p999, y);
        self.dot("dot", p99, y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_holds_what_it_is_for() {
        let linear = Axis::linear(100.0, 50.0, 11.7);
        assert_eq!(linear.ticks, [0.0, 5.0, 10.0, 15.0]);
        assert_eq!((linear.x(0.0), linear.x(15.0)), (100.0, 150.0));
        assert_eq!(Axis::linear(0.0, 1.0, 100.0).ticks.len(), 5);
        assert_eq!(Axis::linear(0.0, 1.0, 0.0).ticks, [0.0, 0.5]);

        let log = Axis::log(0.0, 100.0, 14.2, 1_000.0);
        assert_eq!(log.ticks, [10.0, 30.0, 100.0, 300.0, 1_000.0]);
        assert_eq!((log.x(10.0), log.x(1_000.0)), (0.0, 100.0));
        assert!((log.x(100.0) - 50.0).abs() < 1e-9);
        assert_eq!(Axis::log(0.0, 1.0, 10.0, 10.0).ticks, [10.0, 30.0]);
    }
}
