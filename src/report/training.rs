//! What a run's training gave: its curves, as numbers and as a page.

use std::path::{Path, PathBuf};

use maud::{Markup, html};
use serde::Serialize;

use super::plot::{Axis, Chart, Mark};
use crate::eval::{RESULTS_FILE, Results};
use crate::fs;
use crate::train::record::{self, Anomaly, Line, Validation};
use crate::units::{grouped, percent};

/// Points of a curve at most: more than a screen shows, fewer than a page should hold.
const POINTS_MAX: usize = 500;

/// A run whose curves cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The metrics cannot be read.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The results of the evaluation are no JSON of ours.
    #[error("cannot read `{}`", path.display())]
    Results {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Nothing was trained here.
    #[error("`{}` holds no metrics of training: expected `{}` in it, or `train/pretrain` or `train/finetune` with one", folder.display(), record::FILE)]
    Nothing {
        /// The folder.
        folder: PathBuf,
    },
}

/// The curves of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Curves {
    /// The stages that were trained, in order.
    pub stages: Vec<Stage>,
    /// The evaluation, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Results>,
}

/// The curves of one stage.
#[derive(Clone, Debug, Serialize)]
pub struct Stage {
    /// The name of its folder: `pretrain` or `finetune`.
    pub stage: String,
    /// Steps done.
    pub steps: u64,
    /// Positions trained on.
    pub tokens: u64,
    /// Pauses among them.
    pub pauses: u64,
    /// Targets that counted in the loss.
    pub scored: u64,
    /// Floating-point operations, where they were counted.
    pub flops: Option<f64>,
    /// Seconds of steps and of waiting for data.
    pub seconds: f64,
    /// Means over stretches of steps, one after the other.
    pub train: Vec<Point>,
    /// Losses on rows held out.
    pub validation: Vec<Validation>,
    /// Steps that were not taken.
    pub anomalies: Vec<Anomaly>,
}

/// Means over a stretch of steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// The last step of it.
    pub step: u64,
    /// Mean loss in nats.
    pub loss: f64,
    /// Learning rate.
    pub lr: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
    /// Positions a second.
    pub tokens_per_s: f64,
}

/// Reads the curves of a run's folder, or of one training folder.
pub fn read(folder: &Path) -> Result<Curves, Error> {
    let mut folders = vec![folder.to_path_buf()];
    folders.extend(["pretrain", "finetune"].map(|stage| folder.join("train").join(stage)));
    let mut stages = Vec::new();
    for folder in folders {
        if folder.join(record::FILE).is_file() {
            let name = folder.file_name().unwrap_or_default();
            stages.push(stage(
                &name.to_string_lossy(),
                record::read(&folder)?.as_slice(),
            ));
        }
    }
    if stages.is_empty() {
        return Err(Error::Nothing {
            folder: folder.to_path_buf(),
        });
    }
    let path = folder.join("eval").join(RESULTS_FILE);
    let evaluation = match path.is_file() {
        false => None,
        true => {
            let read = serde_json::from_slice(&fs::read(&path)?);
            Some(read.map_err(|source| Error::Results { path, source })?)
        }
    };
    Ok(Curves { stages, evaluation })
}

fn stage(name: &str, lines: &[Line]) -> Stage {
    let (mut steps, mut validation, mut anomalies) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        match line {
            Line::Train(line) => steps.push(line),
            Line::Validation(line) => validation.push(line.clone()),
            Line::Anomaly(line) => anomalies.push(line.clone()),
        }
    }
    let last = steps.last();
    let took = |line: &record::Step| (line.step_ms + line.data_wait_ms) / 1e3;
    let stretch = steps.len().div_ceil(POINTS_MAX).max(1);
    let point = |some: &[&record::Step]| {
        let n = some.len().max(1) as f64;
        let mean = |of: fn(&record::Step) -> f64| some.iter().map(|line| of(line)).sum::<f64>() / n;
        let seconds: f64 = some.iter().map(|line| took(line)).sum();
        let tokens: u64 = some.iter().map(|line| line.tokens).sum();
        Point {
            step: some.last().map_or(0, |line| line.step),
            loss: mean(|line| line.loss),
            lr: mean(|line| line.lr),
            grad_norm: mean(|line| line.grad_norm),
            tokens_per_s: tokens as f64 / seconds.max(1e-9),
        }
    };
    Stage {
        stage: name.into(),
        steps: lines.iter().map(Line::step).max().unwrap_or(0),
        tokens: last.map_or(0, |line| line.totals.tokens),
        pauses: last.map_or(0, |line| line.totals.pauses),
        scored: last.map_or(0, |line| line.totals.scored),
        flops: last.and_then(|line| line.totals.flops),
        seconds: steps.iter().map(|line| took(line)).sum(),
        train: steps.chunks(stretch).map(point).collect(),
        validation,
        anomalies,
    }
}

/// The page of a run; `title` is what it is called.
pub fn page(title: &str, curves: &Curves) -> String {
    let body = html! {
        header {
            p.eyebrow { "Training" }
            h1 { (title) }
        }
        main {
            @for stage in &curves.stages { (section(stage)) }
            @if let Some(results) = &curves.evaluation { (evaluation(results)) }
        }
        footer { "Made by pausedata " (env!("CARGO_PKG_VERSION")) "." }
    };
    super::document(title, &body).into_string()
}

fn section(stage: &Stage) -> Markup {
    let best = stage
        .validation
        .iter()
        .min_by(|a, b| a.loss.total_cmp(&b.loss));
    let last = stage.validation.last();
    let loss = stage.train.last().map(|point| point.loss);
    html! {
        section {
            h2 { (stage.stage) }
            p.note {
                (grouped(stage.steps)) " steps on " (grouped(stage.tokens)) " positions, "
                (grouped(stage.pauses)) " of them pauses, " (grouped(stage.scored))
                " scored targets"
                @if let Some(flops) = stage.flops { ", " (format!("{flops:.2e}")) " floating-point operations" }
                ", in " (format!("{:.0}", stage.seconds)) " s. "
                @if let Some(loss) = loss { "Training loss at the end " (format!("{loss:.4}")) ". " }
                @if let (Some(last), Some(best)) = (last, best) {
                    "Validation loss at the end " (format!("{:.4}", last.loss)) ", best "
                    (format!("{:.4}", best.loss)) " after step " (grouped(best.step)) ". "
                }
                @if !stage.anomalies.is_empty() {
                    (stage.anomalies.len()) " steps were not taken; they are listed below. "
                }
            }
            div.charts {
                (losses(stage))
                (chart(stage, "Learning rate", "learning rate", |point| point.lr, |y| format!("{y:.1e}")))
                (chart(stage, "Gradient norm", "norm before clipping", |point| point.grad_norm, plain))
                (chart(stage, "Speed", "positions a second", |point| point.tokens_per_s, plain))
            }
            @if !stage.validation.is_empty() { (validation(stage)) }
            @if !stage.anomalies.is_empty() { (anomalies(stage)) }
        }
    }
}

fn losses(stage: &Stage) -> Markup {
    let train: Vec<_> = points(stage, |point| point.loss);
    let held_out = stage.validation.iter();
    let held_out: Vec<_> = held_out.map(|line| (line.step as f64, line.loss)).collect();
    let all = || train.iter().chain(&held_out).map(|(_, y)| *y);
    let finite = |y: &f64| y.is_finite();
    let least = all().filter(finite).fold(f64::INFINITY, f64::min);
    let largest = all().filter(finite).fold(f64::NEG_INFINITY, f64::max);
    let both = !held_out.is_empty();
    let chart = Chart {
        description: format!("Loss of {} by step", stage.stage),
        x: steps(stage),
        y: Axis::between("loss in nats", least, largest, plain),
        marks: vec![Mark::Line(train), Mark::Dotted(held_out)],
    };
    html! {
        figure {
            figcaption {
                h3 { "Loss" }
                @if both { p.note { "The line is training, the dots are rows held out." } }
            }
            (chart.svg())
        }
    }
}

fn chart(
    stage: &Stage,
    title: &str,
    what: &str,
    of: impl Fn(&Point) -> f64,
    label: impl Fn(f64) -> String,
) -> Markup {
    let points = points(stage, of);
    let largest = points.iter().map(|(_, y)| *y).fold(0.0, f64::max);
    let chart = Chart {
        description: format!("{title} of {} by step", stage.stage),
        x: steps(stage),
        y: Axis::from_zero(what, largest, label),
        marks: vec![Mark::Line(points)],
    };
    html! { figure { figcaption { h3 { (title) } } (chart.svg()) } }
}

/// A round number, without the digits that doubles add to it.
fn plain(value: f64) -> String {
    format!("{}", (value * 1e9).round() / 1e9)
}

fn points(stage: &Stage, of: impl Fn(&Point) -> f64) -> Vec<(f64, f64)> {
    let points = stage.train.iter();
    points.map(|point| (point.step as f64, of(point))).collect()
}

fn steps(stage: &Stage) -> Axis {
    Axis::fitted("step", stage.steps as f64, |at| format!("{at:.0}"))
}

fn validation(stage: &Stage) -> Markup {
    html! {
        details {
            summary { "Validation losses" }
            table {
                thead { tr { th scope="col" { "step" } th.n scope="col" { "loss" } th.n scope="col" { "perplexity" } th.n scope="col" { "scored targets" } } }
                tbody { @for line in &stage.validation { tr {
                    th scope="row" { (grouped(line.step)) }
                    td.n { (format!("{:.4}", line.loss)) }
                    td.n { (format!("{:.2}", line.loss.exp())) }
                    td.n { (grouped(line.scored)) }
                } } }
            }
        }
    }
}

fn anomalies(stage: &Stage) -> Markup {
    let number =
        |value: Option<f64>| value.map_or("no number".into(), |value| format!("{value:.4}"));
    html! {
        details {
            summary { "Steps that were not taken" }
            table {
                thead { tr { th scope="col" { "step" } th.n scope="col" { "batch" } th scope="col" { "what" } th.n scope="col" { "was" } th.n scope="col" { "limit" } th scope="col" { "done" } } }
                tbody { @for line in &stage.anomalies { tr {
                    th scope="row" { (grouped(line.step)) }
                    td.n { (grouped(line.batch)) }
                    td { (line.quantity) }
                    td.n { (number(line.value)) }
                    td.n { (number(line.limit)) }
                    td { (serde_json::to_value(line.policy).ok().and_then(|name| name.as_str().map(String::from)).unwrap_or_default()) }
                } } }
            }
        }
    }
}

fn evaluation(results: &Results) -> Markup {
    html! {
        section {
            h2 { "Evaluation" }
            p.note { "By number of pauses after the prompt; intervals are of 95 %." }
            @for task in &results.tasks {
                h3 { (task.task) }
                table {
                    thead { tr { th scope="col" { "pauses" } th.n scope="col" { "correct" } th.n scope="col" { "of" } th.n scope="col" { "accuracy" } th.n scope="col" { "interval" } } }
                    tbody { @for score in &task.scores { tr {
                        th scope="row" { (score.pauses) }
                        td.n { (grouped(score.correct)) }
                        td.n { (grouped(score.n)) }
                        td.n { (percent(score.accuracy)) }
                        td.n { (percent(score.interval[0])) " to " (percent(score.interval[1])) }
                    } } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_means_of_stretches() {
        let line = |step: u64| {
            let text = format!(
                r#"{{"kind":"train","step":{step},"epochs":1.0,"loss":{step}.0,"lr":0.1,"grad_norm":1.0,"tokens":10,"real":9,"pauses":1,"scored":8,"totals":{{"tokens":{},"real":1,"pauses":1,"scored":1}},"tokens_per_s":1.0,"data_wait_ms":0.0,"step_ms":1000.0}}"#,
                10 * step
            );
            serde_json::from_str::<Line>(&text).unwrap()
        };
        let lines: Vec<Line> = (1..=1000).map(line).collect();
        let stage = stage("pretrain", &lines);
        assert_eq!(
            (stage.steps, stage.tokens, stage.seconds),
            (1000, 10_000, 1000.0)
        );
        assert_eq!(stage.train.len(), 500);
        let first = stage.train[0];
        assert_eq!((first.step, first.loss, first.tokens_per_s), (2, 1.5, 10.0));
    }
}
