//! The charts of a dataset's page, each with its numbers as a table.

use maud::{Markup, html};

use super::plot::{Axis, Bar, Chart, Mark, Tick};
use crate::manifest::{Split, Stage};
use crate::stats::bins::{Bin, Sizes};
use crate::stats::{SplitStats, Stats, Stretch};
use crate::units::{bytes, grouped, percent, share};

/// Labels that fit under a chart.
const TICKS: usize = 9;

/// The section of charts; `asked` is the share of pauses that the recipe asks for.
pub fn section(stats: &Stats, asked: Option<f64>) -> Markup {
    let pauses = stats.splits.values().any(|split| 0 < split.totals.pauses);
    let both = 1 < filled(stats).count();
    html! {
        section {
            h2 { "Shapes" }
            p.note {
                "Heights are shares of a split. "
                @if both { "Bars are the train split, dashes the validation split." }
            }
            div.charts {
                (row_lengths(stats).figure())
                (document_lengths(stats).figure())
                @if pauses {
                    (pauses_a_row(stats).figure())
                    (runs(stats).figure())
                    (along(stats, "Pauses along the row", "share of pauses", asked, |at| at.pauses))
                }
                @if stats.stage == Stage::Finetune {
                    (along(stats, "Scored targets along the row", "share of scored ids", None, |at| at.scored))
                }
            }
        }
    }
}

/// The splits that hold rows.
fn filled(stats: &Stats) -> impl Iterator<Item = (Split, &SplitStats)> {
    let splits = stats.splits.iter();
    splits
        .filter(|(_, split)| 0 < split.totals.rows)
        .map(|(split, stats)| (*split, stats))
}

fn row_lengths(stats: &Stats) -> Histogram {
    Histogram {
        title: "Length of rows",
        unit: "ids a row",
        items: "rows",
        label: grouped,
        splits: filled(stats)
            .map(|(split, stats)| (split, stats.lengths.clone()))
            .collect(),
    }
}

fn document_lengths(stats: &Stats) -> Histogram {
    Histogram {
        title: "Length of documents",
        unit: "bytes of text a document, on a logarithmic scale",
        items: "documents",
        label: bytes,
        splits: filled(stats)
            .map(|(split, stats)| (split, stats.document_bytes.clone()))
            .collect(),
    }
}

fn pauses_a_row(stats: &Stats) -> Histogram {
    Histogram {
        title: "Pauses a row",
        unit: "pauses a row",
        items: "rows",
        label: grouped,
        splits: filled(stats)
            .map(|(split, stats)| (split, stats.pauses_a_row.clone()))
            .collect(),
    }
}

fn runs(stats: &Stats) -> Histogram {
    let sizes = |split: &SplitStats| {
        let mut sizes = Sizes::default();
        for (length, count) in (1..).zip(&split.totals.pause_runs) {
            if 0 < *count {
                sizes.add(length, *count);
            }
        }
        sizes
    };
    let mut all = Sizes::default();
    filled(stats).for_each(|(_, split)| all.merge(&sizes(split)));
    Histogram {
        title: "Runs of pauses",
        unit: "pauses one after another",
        items: "runs",
        label: grouped,
        splits: filled(stats)
            .map(|(split, stats)| (split, sizes(stats).bins(&all.ranges())))
            .collect(),
    }
}

/// A histogram of each split, all over the same bins.
struct Histogram {
    title: &'static str,
    /// What the horizontal axis measures.
    unit: &'static str,
    /// What is counted.
    items: &'static str,
    /// A size in words.
    label: fn(u64) -> String,
    splits: Vec<(Split, Vec<Bin>)>,
}

impl Histogram {
    fn figure(&self) -> Markup {
        html! {
            figure {
                figcaption { h3 { (self.title) } }
                @match self.only() {
                    Some((size, count)) => p.only {
                        "All " (grouped(count)) " " (self.items) ": " b { (size) } " " (self.unit) "."
                    },
                    None => (self.chart().svg()),
                }
                (self.table())
            }
        }
    }

    /// The size of all items and their number, where there is but one.
    fn only(&self) -> Option<(String, u64)> {
        let bins = self.splits.iter().flat_map(|(_, bins)| bins);
        let mut filled = bins.clone().filter(|bin| 0 < bin.count);
        let first = filled.next()?;
        let same = first.from == first.to && filled.all(|bin| bin.from == first.from);
        let count = bins.map(|bin| bin.count).sum();
        same.then(|| ((self.label)(first.from), count))
    }

    fn chart(&self) -> Chart {
        let bars: Vec<Vec<Bar>> = (self.splits.iter())
            .map(|(split, bins)| self.bars(*split, bins))
            .collect();
        let heights = bars.iter().flatten().map(|bar| bar.y);
        let largest = heights.fold(0.0, f64::max);
        let marks = bars.into_iter().enumerate().map(|(n, bars)| match n {
            0 => Mark::Bars(bars),
            _ => Mark::Dashes(bars),
        });
        Chart {
            description: format!(
                "Histogram of {}: share of {} by {}. The table below has the numbers.",
                self.title.to_lowercase(),
                self.items,
                self.unit
            ),
            x: self.x_axis(),
            y: Axis::from_zero(&format!("share of {}", self.items), largest, tick_percent),
            marks: marks.collect(),
        }
    }

    fn bars(&self, split: Split, bins: &[Bin]) -> Vec<Bar> {
        let total = total(bins);
        let bar = |(index, bin): (f64, &Bin)| Bar {
            from: index,
            to: index + 1.0,
            y: share(bin.count, total),
            title: format!(
                "{}: {} of {} {} ({split})",
                self.range(bin),
                grouped(bin.count),
                grouped(total),
                self.items
            ),
        };
        indices().zip(bins).map(bar).collect()
    }

    /// A place for each bin; single sizes are named under their bar, others at
    /// the border where they begin.
    fn x_axis(&self) -> Axis {
        let bins = self.splits.first().map(|(_, bins)| bins.as_slice());
        let bins = bins.unwrap_or_default();
        let step = bins.len().div_ceil(TICKS).max(1);
        let tick = |(index, bin): (f64, &Bin)| Tick {
            at: if bin.from == bin.to {
                index + 0.5
            } else {
                index
            },
            label: (self.label)(bin.from),
        };
        let ends = indices().skip(bins.len()).zip(bins.last());
        let end = ends.filter(|(_, bin)| bin.from != bin.to && (bins.len()).is_multiple_of(step));
        let end = end.map(|(index, bin)| Tick {
            at: index,
            label: (self.label)(bin.to),
        });
        let ticks = indices().zip(bins).step_by(step).map(tick);
        Axis {
            title: self.unit.into(),
            from: 0.0,
            to: indices().nth(bins.len()).unwrap_or_default(),
            ticks: ticks.chain(end).collect(),
        }
    }

    fn range(&self, bin: &Bin) -> String {
        match bin.from == bin.to {
            true => (self.label)(bin.from),
            false => format!("{} to {}", (self.label)(bin.from), (self.label)(bin.to)),
        }
    }

    fn table(&self) -> Markup {
        let first = self.splits.first().map(|(_, bins)| bins.as_slice());
        let heads: Vec<String> = (self.splits.iter())
            .map(|(split, _)| format!("{} of {split}", self.items))
            .collect();
        let rows = first.unwrap_or_default().iter().enumerate();
        let rows = rows.map(|(index, bin)| {
            let counts = self.splits.iter().map(|(_, bins)| {
                let count = bins.get(index).map_or(0, |bin| bin.count);
                (grouped(count), percent(share(count, total(bins))))
            });
            (self.range(bin), counts.collect())
        });
        numbers(self.unit, &heads, &rows.collect::<Vec<_>>())
    }
}

/// A share at each place of the row; the chart shows the first split.
fn along(
    stats: &Stats,
    title: &str,
    what: &str,
    asked: Option<f64>,
    count: impl Fn(&Stretch) -> u64,
) -> Markup {
    let splits: Vec<(Split, Vec<&Stretch>)> = filled(stats)
        .map(|(split, stats)| (split, stats.along.iter().filter(|at| 0 < at.ids).collect()))
        .collect();
    let height = |at: &Stretch| share(count(at), at.ids);
    let shown: &[&Stretch] = splits.first().map_or(&[], |(_, along)| along);
    let largest = shown
        .iter()
        .map(|at| height(at))
        .chain(asked)
        .fold(0.0, f64::max);
    let end = shown.last().map_or(0, |at| at.to + 1);
    // A level line over each stretch, so that one stretch is a line too.
    let corners = |at: &&Stretch| {
        [
            (at.from as f64, height(at)),
            ((at.to + 1) as f64, height(at)),
        ]
    };
    let mut marks = vec![Mark::Area(shown.iter().flat_map(corners).collect())];
    marks.extend(asked.map(|y| Mark::Level {
        y,
        label: format!("asked for: {}", percent(y)),
    }));
    let chart = Chart {
        description: format!(
            "{title}: {what} at each place of the row. The table below has the numbers."
        ),
        x: Axis::fitted("position in the row", end as f64, |at| format!("{at:.0}")),
        y: Axis::from_zero(what, largest, tick_percent),
        marks,
    };
    let heads: Vec<String> = splits
        .iter()
        .map(|(split, _)| format!("of {split}"))
        .collect();
    let rows = stats
        .splits
        .values()
        .next()
        .map_or(&[][..], |split| &split.along);
    let rows = rows.iter().enumerate().map(|(index, at)| {
        let counts = filled(stats).map(|(_, split)| {
            let at = split.along.get(index).copied().unwrap_or_default();
            (grouped(count(&at)), percent(share(count(&at), at.ids)))
        });
        (format!("{} to {}", at.from, at.to), counts.collect())
    });
    let rows: Vec<_> = rows.take(shown.len()).collect();
    html! {
        figure {
            figcaption { h3 { (title) } }
            (chart.svg())
            (numbers("position", &heads, &rows))
        }
    }
}

/// The numbers of a chart: a size, then count and share for each split.
fn numbers(size: &str, heads: &[String], rows: &[(String, Vec<(String, String)>)]) -> Markup {
    html! {
        details {
            summary { "Numbers" }
            table {
                thead { tr {
                    th scope="col" { (size) }
                    @for head in heads { th.n scope="col" { (head) } th.n scope="col" { "share" } }
                } }
                tbody { @for (size, counts) in rows { tr {
                    th scope="row" { (size) }
                    @for (count, share) in counts { td.n { (count) } td.n { (share) } }
                } } }
            }
        }
    }
}

fn total(bins: &[Bin]) -> u64 {
    bins.iter().map(|bin| bin.count).sum()
}

/// 0, 1, 2 and so on, as places of an axis.
fn indices() -> impl Iterator<Item = f64> {
    (0u32..).map(f64::from)
}

/// A share at a tick, which is a round number.
fn tick_percent(share: f64) -> String {
    let percent = (share * 1e7).round() / 1e5;
    format!("{percent} %")
}
