//! Draws the results of *slow and flaky*: an SVG of three panels side by side, with a line for each contender.
//!
//! It brings its own background and two sets of colours, for light and for dark pages.

use std::fmt::{Display, Write};

use crate::scenarios::slow_and_flaky::{Measured, DEADLINE};

const WIDTH: f64 = 1_000.0;
const TOP: f64 = 104.0;
const LINE: f64 = 34.0;
const BAR: f64 = 9.0;
/// Half the width of a marker. A dot fits into a diamond.
const DOT: f64 = 4.5;
const DIAMOND: f64 = 8.0;

/// A colour has one meaning: what the class stands for. To the left as it is on a light page, to the
/// right on a dark one. The hues can be told apart by people who see no red or no green; percentiles
/// are steps of grey, and have a shape each.
const COLOURS: [(&str, &str, &str); 7] = [
    ("slow", "#0b69a3", "#56b4e9"),
    ("flaky", "#a8478e", "#e08cc4"),
    ("given_up", "#bd3b00", "#ff8a4c"),
    ("failed", "#ac7a00", "#ecc14b"),
    ("p50", "#848d97", "#7d8590"),
    ("p99", "#4f5863", "#b1bac4"),
    ("p999", "#1f2328", "#f0f6fc"),
];

// Colours come without variables, which not every viewer knows.
const SHAPES: &str = "\
  text { font: 13px system-ui, sans-serif; }
  .head { font-weight: 600; } .end { text-anchor: end; } .middle { text-anchor: middle; }
  .small { font-size: 11px; } .hollow, .limit { stroke-width: 1.8; } .limit { stroke-dasharray: 4 3; }
  .line { stroke-width: 2; }";

/// What the page is made of, and the text and the lines that stand for nothing.
const LIGHT: [&str; 5] = ["#ffffff", "#1f2328", "#59636e", "#d8dee4", "#afb8c1"];
const DARK: [&str; 5] = ["#0d1117", "#e6edf3", "#9198a1", "#30363d", "#545d68"];

/// The colours of one kind of page.
fn theme([page, text, small, grid, span]: [&str; 5], colours: [(&str, &str); 7]) -> String {
    let mut style = format!(
        "  text {{ fill: {text}; }} .small {{ fill: {small}; }} .page {{ fill: {page}; }}\n  \
         .grid {{ stroke: {grid}; }} .span {{ stroke: {span}; }}\n"
    );
    for (class, colour) in colours {
        writeln!(
            style,
            "  .{class} {{ fill: {colour}; }} \
             .{class}.hollow, .{class}.limit {{ fill: {page}; stroke: {colour}; }} \
             .{class}.line {{ fill: none; stroke: {colour}; }}"
        )
        .expect("a string takes everything");
    }
    style
}

fn style() -> String {
    let light = theme(LIGHT, COLOURS.map(|(class, light, _)| (class, light)));
    let dark = theme(DARK, COLOURS.map(|(class, _, dark)| (class, dark)));
    format!("{SHAPES}\n{light}  @media (prefers-color-scheme: dark) {{\n{dark}  }}\n")
}

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
pub fn svg(rows: &[(&'static str, Measured)]) -> String {
    let bottom = TOP + LINE * rows.len() as f64;
    let most = |value: fn(&Measured) -> f64| {
        let values = rows.iter().map(|(_, measured)| value(measured));
        values.fold(0.0, f64::max)
    };
    let least = rows.iter().map(|(_, measured)| measured.p50);
    let limit = DEADLINE.as_secs_f64() * 1_000.0;
    let share = Axis::linear(264.0, 190.0, most(|m| m.slow.max(m.flaky)));
    let latency = Axis::log(
        498.0,
        250.0,
        least.fold(f64::INFINITY, f64::min),
        most(|m| m.p999).max(limit),
    );
    let errors = Axis::linear(792.0, 150.0, most(|m| m.timed_out.max(m.failed)));

    let mut svg = Svg::default();
    svg.open(bottom + 52.0, "Shares, latency and errors of each policy");
    svg.text(
        "head",
        16.0,
        26.0,
        "One slow and one flaky backend, policy by policy",
    );
    svg.panel(&share, bottom, "Shares", "% of the calls");
    svg.key_of_bars(&share, [("slow", "slow"), ("flaky", "flaky")]);
    svg.panel(&latency, bottom, "Latency", "ms, logarithmic");
    svg.key_of_percentiles(&latency);
    svg.limit(&latency, limit, bottom);
    svg.panel(&errors, bottom, "Errors", "% of the calls");
    svg.key_of_bars(&errors, [("given_up", "given up"), ("failed", "failed")]);
    for (line, (name, measured)) in rows.iter().enumerate() {
        let y = TOP + LINE * (line as f64 + 0.5);
        svg.text("end", 248.0, y + 4.0, name);
        svg.bars(
            &share,
            y,
            [("slow", measured.slow), ("flaky", measured.flaky)],
        );
        svg.percentiles(&latency, y, measured);
        svg.bars(
            &errors,
            y,
            [
                ("given_up", measured.timed_out),
                ("failed", measured.failed),
            ],
        );
    }
    svg.close()
}

#[derive(Default)]
pub(crate) struct Svg(String);

impl Svg {
    fn add(&mut self, line: impl Display) {
        writeln!(self.0, "{line}").expect("a string takes everything");
    }

    pub(crate) fn open(&mut self, height: f64, title: &str) {
        self.add(format_args!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">"#
        ));
        self.add(format_args!("<title>{title}</title>"));
        self.add(format_args!("<style>\n{}</style>", style()));
        self.add(format_args!(
            r#"<rect class="page" width="{WIDTH}" height="{height}"/>"#
        ));
    }

    pub(crate) fn close(mut self) -> String {
        self.add("</svg>");
        self.0
    }

    pub(crate) fn text(&mut self, class: &str, x: f64, y: f64, text: impl Display) {
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        ));
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(format_args!(
            r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
        ));
    }

    pub(crate) fn rect(&mut self, class: &str, x: f64, y: f64, width: f64) {
        self.add(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{BAR}" rx="1"/>"#
        ));
    }

    fn dot(&mut self, class: &str, x: f64, y: f64) {
        self.add(format_args!(
            r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{DOT}"/>"#
        ));
    }

    /// A line through these points.
    pub(crate) fn polyline(&mut self, class: &str, points: impl Iterator<Item = (f64, f64)>) {
        let points: Vec<String> = points.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.add(format_args!(
            r#"<polyline class="{class} line" points="{points}"/>"#
        ));
    }

    fn diamond(&mut self, class: &str, x: f64, y: f64) {
        let (left, right) = (x - DIAMOND, x + DIAMOND);
        let (top, bottom) = (y - DIAMOND, y + DIAMOND);
        self.add(format_args!(
            r#"<path class="{class}" d="M{left:.1} {y:.1} L{x:.1} {top:.1} L{right:.1} {y:.1} L{x:.1} {bottom:.1} Z"/>"#
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

    fn key_of_bars(&mut self, axis: &Axis, series: [(&str, &str); 2]) {
        for ((class, name), x) in series.into_iter().zip([0.0, axis.width / 2.0]) {
            self.rect(class, axis.left + x, 73.0, BAR);
            self.text("small", axis.left + x + 14.0, 82.0, name);
        }
    }

    fn key_of_percentiles(&mut self, axis: &Axis) {
        self.dot("p50 hollow", axis.left + 6.0, 78.0);
        self.text("small", axis.left + 17.0, 82.0, "p50");
        self.dot("p99", axis.left + 66.0, 78.0);
        self.text("small", axis.left + 76.0, 82.0, "p99");
        self.diamond("p999 hollow", axis.left + 128.0, 78.0);
        self.text("small", axis.left + 142.0, 82.0, "p99.9");
    }

    /// Where a call ends that has no answer yet.
    fn limit(&mut self, axis: &Axis, limit: f64, bottom: f64) {
        let x = axis.x(limit);
        self.line("given_up limit", (x, TOP - 4.0), (x, bottom));
        self.text("small middle given_up", x, TOP - 8.0, "callers give up");
    }

    fn bars(&mut self, axis: &Axis, y: f64, series: [(&str, f64); 2]) {
        for ((class, value), top) in series.into_iter().zip([y - BAR - 1.0, y + 1.0]) {
            self.rect(class, axis.left, top, axis.x(value) - axis.left);
        }
    }

    /// Where p99 and p99.9 are the same, the one is seen inside the other.
    fn percentiles(&mut self, axis: &Axis, y: f64, measured: &Measured) {
        let [p50, p99, p999] = [measured.p50, measured.p99, measured.p999].map(|ms| axis.x(ms));
        self.line("span", (p50, y), (p999, y));
        self.dot("p50 hollow", p50, y);
        self.diamond("p999 hollow", p999, y);
        self.dot("p99", p99, y);
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

    #[test]
    fn a_colour_has_one_meaning() {
        let style = style();
        for (class, on_light, on_dark) in COLOURS {
            let count = |colour: &str| {
                let all = COLOURS.iter();
                all.filter(|(_, light, dark)| *light == colour || *dark == colour)
                    .count()
            };
            assert_eq!((count(on_light), count(on_dark)), (1, 1), "{class}");
            for colour in [on_light, on_dark] {
                assert!(style.contains(&format!(".{class} {{ fill: {colour}; }}")));
            }
        }
    }

    /// Bars and markers stand out from the page as WCAG asks of graphics.
    #[test]
    fn a_colour_is_seen_on_its_page() {
        for (class, on_light, on_dark) in COLOURS {
            assert!(contrast(on_light, LIGHT[0]) >= 3.0, "{class}, light");
            assert!(contrast(on_dark, DARK[0]) >= 3.0, "{class}, dark");
        }
    }

    /// WCAG 2.1, 1.4.11.
    fn contrast(one: &str, other: &str) -> f64 {
        let (one, other) = (luminance(one), luminance(other));
        (one.max(other) + 0.05) / (one.min(other) + 0.05)
    }

    fn luminance(colour: &str) -> f64 {
        let weights = [0.2126, 0.7152, 0.0722];
        let channel = |(place, weight): (usize, f64)| {
            let hex = &colour[1 + 2 * place..3 + 2 * place];
            let value = f64::from(u8::from_str_radix(hex, 16).unwrap()) / 255.0;
            let linear = if value <= 0.04045 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            };
            weight * linear
        };
        weights.into_iter().enumerate().map(channel).sum()
    }

    #[test]
    fn p999_is_seen_where_p99_is_the_same() {
        let measured = Measured {
            slow: 1.0,
            flaky: 1.0,
            p50: 10.0,
            p99: 1_000.0,
            p999: 1_000.0,
            timed_out: 1.0,
            failed: 1.0,
        };
        let axis = Axis::log(0.0, 100.0, 10.0, 1_000.0);
        let mut svg = Svg::default();
        svg.percentiles(&axis, 20.0, &measured);
        let drawn = svg.close();
        // Around the dot, which comes later and lies in it.
        let diamond = drawn.find(r#"<path class="p999 hollow" d="M92.0 20.0 L100.0 12.0"#);
        let dot = drawn.find(r#"<circle class="p99" cx="100.0" cy="20.0" r="4.5"/>"#);
        assert!(diamond.unwrap() < dot.unwrap(), "{drawn}");
    }
}
