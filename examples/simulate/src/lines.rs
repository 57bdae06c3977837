//! Draws what changes with time: an SVG of panels one above the other, with a line for each contender.

use crate::chart::Svg;

const LEFT: f64 = 64.0;
const WIDTH: f64 = 640.0;
const TOP: f64 = 70.0;
const HEIGHT: f64 = 180.0;
const GAP: f64 = 64.0;

/// The classes of the lines, in the order of the contenders: a colour each.
const CLASSES: [&str; 4] = ["slow", "flaky", "given_up", "failed"];

/// What is drawn against the seconds.
pub struct Panel<'a> {
    /// What it shows, and in what.
    pub title: &'a str,
    /// A value a second of each contender, in percent.
    pub lines: Vec<Vec<f64>>,
}

/// The chart. There are four contenders at most.
pub fn svg(title: &str, contenders: &[&str], panels: &[Panel<'_>]) -> String {
    let bottom = |panel: usize| TOP + HEIGHT + (HEIGHT + GAP) * panel as f64;
    let mut svg = Svg::default();
    svg.open(bottom(panels.len() - 1) + 52.0, title);
    svg.text("head", 16.0, 26.0, title);
    for (index, panel) in panels.iter().enumerate() {
        let bottom = bottom(index);
        let top = bottom - HEIGHT;
        svg.text("head", LEFT, top - 14.0, panel.title);
        for percent in [0, 25, 50, 75, 100] {
            let y = bottom - HEIGHT * f64::from(percent) / 100.0;
            svg.line("grid", (LEFT, y), (LEFT + WIDTH, y));
            svg.text("small end", LEFT - 8.0, y + 4.0, percent);
        }
        let seconds = panel.lines.iter().map(Vec::len).max().unwrap_or(0).max(2);
        let x = |second: usize| LEFT + WIDTH * second as f64 / (seconds - 1) as f64;
        for second in (0..seconds).step_by(10) {
            svg.text("small middle", x(second), bottom + 18.0, second);
        }
        for (line, class) in panel.lines.iter().zip(CLASSES) {
            let points = line.iter().enumerate().map(|(second, percent)| {
                (
                    x(second),
                    bottom - HEIGHT * percent.clamp(0.0, 100.0) / 100.0,
                )
            });
            svg.polyline(class, points);
        }
    }
    let middle = LEFT + WIDTH / 2.0;
    svg.text(
        "small middle",
        middle,
        bottom(panels.len() - 1) + 38.0,
        "seconds",
    );
    for (line, (name, class)) in contenders.iter().zip(CLASSES).enumerate() {
        let y = TOP + 8.0 + 24.0 * line as f64;
        svg.rect(class, LEFT + WIDTH + 24.0, y, 14.0);
        svg.text("", LEFT + WIDTH + 46.0, y + 9.0, name);
    }
    svg.close()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_from_second_to_second_and_stays_in_its_panel() {
        let panel = Panel {
            title: "far, %",
            lines: vec![vec![0.0, 50.0, 120.0]],
        };
        let drawn = svg("Two regions", &["strict"], &[panel]);
        let line = r#"<polyline class="slow line" points="64.0,250.0 384.0,160.0 704.0,70.0"/>"#;
        assert!(drawn.contains(line), "{drawn}");
        assert!(drawn.contains(">strict</text>") && drawn.contains(">far, %</text>"));
    }
}
