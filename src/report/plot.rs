//! Charts as SVG: bars, lines and levels over two axes.
//!
//! A chart is a value; [`Chart::svg`] draws it. Colours and fonts are those of the
//! page's style sheet, by class, so that a chart follows light, dark and print.

use maud::{Markup, html};

/// A chart over two axes.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// What it shows, for those who do not see it.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// What is drawn, the first at the back.
    pub marks: Vec<Mark>,
}

/// One axis: its range, and what is written along it.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// What it measures, with the unit.
    pub title: String,
    /// The value at its start.
    pub from: f64,
    /// The value at its end.
    pub to: f64,
    /// The labelled values.
    pub ticks: Vec<Tick>,
}

/// A labelled value of an axis.
#[derive(Clone, Debug)]
pub struct Tick {
    /// The value.
    pub at: f64,
    /// What is written there.
    pub label: String,
}

/// Something drawn in a chart.
#[derive(Clone, Debug)]
pub enum Mark {
    /// A bar from zero for each; empty ones are not drawn.
    Bars(Vec<Bar>),
    /// A short level line for each, over the width of its bar.
    Dashes(Vec<Bar>),
    /// The area under a line through points, and the line.
    Area(Vec<(f64, f64)>),
    /// A line through points.
    Line(Vec<(f64, f64)>),
    /// A thin line with a dot at each point.
    Dotted(Vec<(f64, f64)>),
    /// A level line across the chart with a word at its end.
    Level {
        /// Its height.
        y: f64,
        /// The word.
        label: String,
    },
}

/// A bar of a histogram.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Where it begins.
    pub from: f64,
    /// Where it ends.
    pub to: f64,
    /// Its height.
    pub y: f64,
    /// What a pointer that rests on it is told.
    pub title: String,
}

/// The size of a chart and the room for what is written around it, in pixels.
const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 54.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 42.0;
/// What is not nothing is seen.
const BAR_HEIGHT_MIN: f64 = 1.5;

impl Axis {
    /// An axis from zero to a round number that is not below `largest`, with
    /// round numbers along it.
    pub fn from_zero(title: &str, largest: f64, label: impl Fn(f64) -> String) -> Self {
        let step = round_step(largest / 5.0);
        let steps = (largest / step - 1e-9).ceil().max(1.0);
        let ticks = (0..=4096).map(f64::from).take_while(|n| *n <= steps);
        let tick = |n: f64| Tick {
            at: n * step,
            label: label(n * step),
        };
        Self {
            title: title.into(),
            from: 0.0,
            to: steps * step,
            ticks: ticks.map(tick).collect(),
        }
    }

    /// An axis from zero to `end`, with round numbers along it.
    pub fn fitted(title: &str, end: f64, label: impl Fn(f64) -> String) -> Self {
        let mut axis = Self::from_zero(title, end, label);
        axis.ticks.retain(|tick| tick.at <= end);
        axis.to = end;
        axis
    }

    /// An axis of round numbers that holds `least` and `largest`; from zero, where one of
    /// them is no number.
    pub fn between(title: &str, least: f64, largest: f64, label: impl Fn(f64) -> String) -> Self {
        if !(least.is_finite() && largest.is_finite()) {
            return Self::from_zero(title, 1.0, label);
        }
        let step = round_step((largest - least) / 5.0);
        let (first, last) = (
            (least / step + 1e-9).floor(),
            (largest / step - 1e-9).ceil(),
        );
        let last = last.max(first + 1.0);
        let ticks = (0..=4096)
            .map(|n| first + f64::from(n))
            .take_while(|n| *n <= last);
        // What is written is a round number, and so is what stands there.
        let round = |n: f64| (n * step * 1e9).round() / 1e9;
        Self {
            title: title.into(),
            from: round(first),
            to: round(last),
            ticks: ticks
                .map(|n| Tick {
                    at: round(n),
                    label: label(round(n)),
                })
                .collect(),
        }
    }

    /// Where a value lies between the start, 0, and the end, 1.
    fn part(&self, value: f64) -> f64 {
        let length = self.to - self.from;
        let part = (value - self.from) / if length == 0.0 { 1.0 } else { length };
        part.clamp(0.0, 1.0)
    }
}

/// The smallest of 1, 2 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    if !least.is_finite() || least <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let fits = |step: &f64| least <= *step * (1.0 + 1e-9);
    steps.into_iter().find(fits).unwrap_or(10.0 * power)
}

impl Chart {
    /// The chart as an `svg` element.
    pub fn svg(&self) -> Markup {
        html! {
            svg.chart viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(self.description) {
                (self.y_axis())
                @for mark in &self.marks { (self.mark(mark)) }
                (self.x_axis())
            }
        }
    }

    fn x_axis(&self) -> Markup {
        let bottom = HEIGHT - BOTTOM;
        html! {
            line.axis x1=(LEFT) x2=(WIDTH - RIGHT) y1=(bottom) y2=(bottom) {}
            @for tick in &self.x.ticks {
                @let x = self.x_of(tick.at);
                line.axis x1=(x) x2=(x) y1=(bottom) y2=(bottom + 4.0) {}
                text x=(x) y=(bottom + 17.0) text-anchor=(Self::anchor(&tick.label, x)) { (tick.label) }
            }
            text.title x=(WIDTH - RIGHT) y=(HEIGHT - 5.0) text-anchor="end" { (self.x.title) }
        }
    }

    /// What stands at the end of the axis must not stick out.
    fn anchor(label: &str, x: f64) -> &'static str {
        let half = 3.5 * label.chars().count() as f64;
        match WIDTH < x + half {
            true => "end",
            false => "middle",
        }
    }

    fn y_axis(&self) -> Markup {
        html! {
            text.title x="0" y="10" { (self.y.title) }
            @for tick in &self.y.ticks {
                @let y = self.y_of(tick.at);
                line.grid x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y) y2=(y) {}
                text x=(LEFT - 7.0) y=(pixel(y + 4.0)) text-anchor="end" { (tick.label) }
            }
        }
    }

    fn mark(&self, mark: &Mark) -> Markup {
        match mark {
            Mark::Bars(bars) => html! { @for bar in bars { (self.bar(bar)) } },
            Mark::Dashes(bars) => html! { @for bar in bars { (self.dash(bar)) } },
            Mark::Area(points) => {
                let ends = points.first().zip(points.last());
                let Some((first, last)) = ends else {
                    return html! {};
                };
                let foot = [(last.0, self.y.from), (first.0, self.y.from)];
                let outline: Vec<_> = points.iter().copied().chain(foot).collect();
                html! {
                    polygon.area points=(self.path(&outline)) {}
                    polyline.line points=(self.path(points)) {}
                }
            }
            Mark::Line(points) => html! { polyline.line points=(self.path(points)) {} },
            Mark::Dotted(points) => html! {
                polyline.second points=(self.path(points)) {}
                @for (x, y) in points {
                    circle.second cx=(self.x_of(*x)) cy=(self.y_of(*y)) r="2.4" { title { (x) ": " (pixel(*y)) } }
                }
            },
            Mark::Level { y, label } => {
                let y = self.y_of(*y);
                html! {
                    line.level x1=(LEFT) x2=(WIDTH - RIGHT) y1=(y) y2=(y) {}
                    text.level x=(WIDTH - RIGHT) y=(pixel(y - 5.0)) text-anchor="end" { (label) }
                }
            }
        }
    }

    fn bar(&self, bar: &Bar) -> Markup {
        let (left, right) = (self.x_of(bar.from), self.x_of(bar.to));
        let gap = ((right - left) * 0.12).min(2.0);
        let bottom = HEIGHT - BOTTOM;
        let height = (bottom - self.y_of(bar.y)).max(BAR_HEIGHT_MIN);
        html! {
            @if 0.0 < bar.y {
                rect.bar x=(pixel(left + gap / 2.0)) width=(pixel(right - left - gap))
                    y=(pixel(bottom - height)) height=(pixel(height)) { title { (bar.title) } }
            }
        }
    }

    fn dash(&self, bar: &Bar) -> Markup {
        let y = self.y_of(bar.y);
        html! {
            @if 0.0 < bar.y {
                line.dash x1=(self.x_of(bar.from)) x2=(self.x_of(bar.to)) y1=(y) y2=(y) {
                    title { (bar.title) }
                }
            }
        }
    }

    fn path(&self, points: &[(f64, f64)]) -> String {
        let points = points.iter();
        let points: Vec<String> = points
            .map(|(x, y)| format!("{},{}", self.x_of(*x), self.y_of(*y)))
            .collect();
        points.join(" ")
    }

    fn x_of(&self, value: f64) -> f64 {
        pixel(LEFT + self.x.part(value) * (WIDTH - LEFT - RIGHT))
    }

    fn y_of(&self, value: f64) -> f64 {
        pixel(HEIGHT - BOTTOM - self.y.part(value) * (HEIGHT - TOP - BOTTOM))
    }
}

/// Two places are finer than any screen.
fn pixel(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let labels = |largest: f64| {
            let axis = Axis::from_zero("", largest, |value| format!("{value:.3}"));
            let labels: Vec<_> = axis.ticks.into_iter().map(|tick| tick.label).collect();
            labels.join(" ")
        };
        assert_eq!(labels(1.0), "0.000 0.200 0.400 0.600 0.800 1.000");
        assert_eq!(labels(0.113), "0.000 0.050 0.100 0.150");
        assert_eq!(labels(8000.0), "0.000 2000.000 4000.000 6000.000 8000.000");
        assert_eq!(labels(0.0), "0.000 1.000");
        assert_eq!(labels(f64::NAN), "0.000 1.000");
        let between = |least: f64, largest: f64| {
            let axis = Axis::between("", least, largest, |value| {
                format!("{}", (value * 10.0).round() / 10.0)
            });
            let labels: Vec<_> = axis.ticks.into_iter().map(|tick| tick.label).collect();
            labels.join(" ")
        };
        assert_eq!(between(3.12, 5.55), "3 3.5 4 4.5 5 5.5 6");
        assert_eq!(between(2.0, 2.0), "2 3");
        assert_eq!(between(f64::INFINITY, 2.0), "0 0.2 0.4 0.6 0.8 1");
    }

    #[test]
    fn a_chart_is_drawn_inside_its_box() {
        let bar = Bar {
            from: 0.0,
            to: 1.0,
            y: 2.0,
            title: "two & <more>".into(),
        };
        let level = Mark::Level {
            y: 9.0,
            label: "above".into(),
        };
        let chart = Chart {
            description: "A \"test\"".into(),
            x: Axis {
                title: "rows".into(),
                to: 1.0,
                ..Axis::default()
            },
            y: Axis::from_zero("share", 2.0, |value| value.to_string()),
            marks: vec![Mark::Bars(vec![bar]), level],
        };
        let drawn = chart.svg().into_string().replace("><", ">\n<");
        expect![[r#"
            <svg class="chart" viewBox="0 0 560 236" role="img" aria-label="A &quot;test&quot;">
            <text class="title" x="0" y="10">share</text>
            <line class="grid" x1="54" x2="550" y1="194" y2="194">
            </line>
            <text x="47" y="198" text-anchor="end">0</text>
            <line class="grid" x1="54" x2="550" y1="151" y2="151">
            </line>
            <text x="47" y="155" text-anchor="end">0.5</text>
            <line class="grid" x1="54" x2="550" y1="108" y2="108">
            </line>
            <text x="47" y="112" text-anchor="end">1</text>
            <line class="grid" x1="54" x2="550" y1="65" y2="65">
            </line>
            <text x="47" y="69" text-anchor="end">1.5</text>
            <line class="grid" x1="54" x2="550" y1="22" y2="22">
            </line>
            <text x="47" y="26" text-anchor="end">2</text>
            <rect class="bar" x="55" width="494" y="22" height="172">
            <title>two &amp; &lt;more&gt;</title>
            </rect>
            <line class="level" x1="54" x2="550" y1="22" y2="22">
            </line>
            <text class="level" x="550" y="17" text-anchor="end">above</text>
            <line class="axis" x1="54" x2="550" y1="194" y2="194">
            </line>
            <text class="title" x="550" y="231" text-anchor="end">rows</text>
            </svg>"#]]
        .assert_eq(&drawn);
    }
}
