//! The page of an experiment: its verdict, what it rests on, and what it took.

use maud::{Markup, html};

use crate::experiment::Verdict;
use crate::experiment::findings::{Accuracy, At, Comparison, Findings, TaskFindings};
use crate::units::{grouped, short};

/// With fewer seeds an interval is wide and its degrees of freedom few.
const SEEDS_MIN: usize = 5;

/// The page of an experiment that is called `title`; depends on the findings alone.
pub fn page(title: &str, findings: &Findings) -> String {
    let body = html! {
        header {
            p.eyebrow { "pausedata · experiment" }
            h1 { (title) }
            @for task in &findings.tasks { p.lead { (sentence(findings, task)) } }
        }
        main {
            @for task in &findings.tasks { (section(findings, task)) }
            (costs(findings))
            (method(findings))
        }
        footer { "Made by pausedata " (env!("CARGO_PKG_VERSION")) "." }
    };
    super::document(title, &body).into_string()
}

/// The verdict on a task, and what weakens it.
pub fn sentence(findings: &Findings, task: &TaskFindings) -> String {
    let Some(first) = task.comparisons.first() else {
        return format!("Nothing was compared on {}.", task.task);
    };
    let said = match task.verdict {
        Verdict::Benefit => "pauses helped",
        Verdict::Harm => "pauses did harm",
        Verdict::NoEvidence => "no evidence of benefit",
        Verdict::Undecided => "undecided, as one seed says nothing of others",
    };
    let interval = first.interval.map_or(String::new(), |interval| {
        format!(" (95 % interval {})", range(interval))
    });
    let right = |at: &At| accuracy_of(task, at).map_or(String::new(), |found| percent(found.mean));
    let mut text = format!(
        "On {}: {said}. {} pauses is right for {}, {} for {}: {}{interval}.",
        task.task,
        first.arm,
        right(&first.arm),
        first.with,
        right(&first.with),
        points(first.mean),
    );
    for doubt in doubts(findings, task, first) {
        text += &format!(" {doubt}");
    }
    text
}

/// What a reader should know before believing the verdict.
fn doubts(findings: &Findings, task: &TaskFindings, first: &Comparison) -> Vec<String> {
    let mut doubts = Vec::new();
    let n = findings.seeds.len();
    if 1 < n && n < SEEDS_MIN {
        doubts.push(format!("There are but {n} seeds."));
    }
    let guess = task.constant.share;
    let knows = |at: &At| {
        let found = accuracy_of(task, at);
        found.is_some_and(|found| guess < found.interval.map_or(found.mean, |[low, _]| low))
    };
    if !knows(&first.arm) && !knows(&first.with) {
        doubts.push(format!(
            "Neither is surely better than always answering {:?} ({}).",
            task.constant.text,
            percent(guess)
        ));
    }
    let controls = task
        .comparisons
        .iter()
        .filter(|comparison| comparison.arm == first.arm && comparison.with != first.with);
    for control in controls {
        if task.verdict == Verdict::Benefit && Verdict::of(control.interval) != Verdict::Benefit {
            doubts.push(format!(
                "But it is not shown to be better than the control {}: {}.",
                control.with,
                points(control.mean)
            ));
        }
    }
    doubts
}

fn accuracy_of<'a>(task: &'a TaskFindings, at: &At) -> Option<&'a Accuracy> {
    task.accuracies.iter().find(|found| found.at == *at)
}

/// A share of right answers: `41.3 %`.
fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// An interval of differences in percentage points: `+1.4 to +6.4 pp`.
pub fn range([low, high]: [f64; 2]) -> String {
    let low = points(low);
    format!("{} to {}", low.trim_end_matches(" pp"), points(high))
}

/// A difference of shares in percentage points: `+3.9 pp`.
pub fn points(difference: f64) -> String {
    let points = (1000.0 * difference).round() / 10.0;
    // Neither +0.0 nor -0.0.
    match points == 0.0 {
        true => "0.0 pp".into(),
        false => format!("{points:+.1} pp"),
    }
}

fn section(findings: &Findings, task: &TaskFindings) -> Markup {
    html! {
        section {
            h2 { (task.task) }
            p.note {
                (grouped(task.questions)) " questions, asked of every arm with each of "
                (findings.seeds.len()) " seeds. Always answering "
                (format!("{:?}", task.constant.text)) " would be right for "
                (percent(task.constant.share)) "."
            }
            h3 { "Differences" }
            p.note { "In percentage points, with intervals of 95 % over seeds and questions. The first decides the verdict; the others are many, so that one in twenty is expected to leave out 0 by chance." }
            (differences(&task.comparisons))
            h3.after { "Accuracy" }
            (accuracies(findings, task))
        }
    }
}

/// Intervals on one scale, each a line through its mean.
fn differences(comparisons: &[Comparison]) -> Markup {
    let ends = comparisons.iter().flat_map(|comparison| {
        let interval = comparison.interval.into_iter().flatten();
        interval.chain(comparison.by_seed.iter().copied())
    });
    let reach = ends.map(f64::abs).fold(0.01, f64::max);
    let x = |value: f64| format!("{:.2}", 150.0 + 145.0 * value / reach);
    html! {
        div.wide { table.bars {
            thead { tr { th scope="col" { "compared" } th.n scope="col" { "difference" } th.n scope="col" { "95 % interval" } th.picture scope="col" { "by seed, mean and interval; the line is 0" } } }
            tbody { @for comparison in comparisons { tr {
                th scope="row" { (comparison.arm) " against " (comparison.with) }
                td.n { (points(comparison.mean)) }
                td.n { @match comparison.interval {
                    Some(interval) => (range(interval)),
                    None => "one seed",
                } }
                td.bar {
                    svg.chart viewBox="0 0 300 20" role="img" aria-label={ (points(comparison.mean)) } {
                        line.axis x1=(x(0.0)) x2=(x(0.0)) y1="0" y2="20" {}
                        @if let Some([low, high]) = comparison.interval {
                            line.dash x1=(x(low)) x2=(x(high)) y1="10" y2="10" {}
                        }
                        @for (index, difference) in comparison.by_seed.iter().enumerate() {
                            circle.second cx=(x(*difference)) cy=(5 + 10 * (index % 2)) r="2" {}
                        }
                        circle.mean cx=(x(comparison.mean)) cy="10" r="4" { title { (points(comparison.mean)) } }
                    }
                }
            } } }
        } }
    }
}

fn accuracies(findings: &Findings, task: &TaskFindings) -> Markup {
    html! {
        div.wide { table {
            thead { tr {
                th scope="col" { "arm" } th.n scope="col" { "pauses" } th.n scope="col" { "mean" } th.n scope="col" { "95 % interval" }
                @for seed in &findings.seeds { th.n scope="col" { "seed " (seed) } }
            } }
            tbody { @for accuracy in &task.accuracies { (accuracy_row(accuracy)) } }
        } }
    }
}

fn accuracy_row(accuracy: &Accuracy) -> Markup {
    html! { tr {
        th scope="row" { (accuracy.at.arm) }
        td.n { (accuracy.at.pauses) }
        td.n { (percent(accuracy.mean)) }
        td.n { @if let Some([low, high]) = accuracy.interval {
            (percent(low.max(0.0))) " to " (percent(high.min(1.0)))
        } }
        @for share in &accuracy.by_seed { td.n { (percent(*share)) } }
    } }
}

fn costs(findings: &Findings) -> Markup {
    html! {
        section {
            h2 { "What the arms took" }
            p.note { "Training with one seed, all stages together. Arms have as many steps of as many rows: where pauses fill a part of them, fewer positions are text." }
            div.wide { table {
                thead { tr { th scope="col" { "arm" } th.n scope="col" { "positions" } th.n scope="col" { "of text" } th.n scope="col" { "floating-point operations" } th.n scope="col" { "pauses at inference" } } }
                tbody { @for arm in &findings.arms { tr {
                    th scope="row" { (arm.name) @if arm.is_control { " (control)" } }
                    td.n { (short(arm.cost.tokens)) }
                    td.n { (short(arm.cost.real)) }
                    td.n { (format!("{:.3e}", arm.cost.flops)) }
                    td.n { (arm.pauses) }
                } } }
            } }
        }
    }
}

fn method(findings: &Findings) -> Markup {
    let seeds: Vec<String> = findings.seeds.iter().map(u64::to_string).collect();
    html! {
        section {
            h2 { "How it was compared" }
            p.note {
                "Every arm was trained with the seeds " (seeds.join(", ")) ", which decide its first weights and the order of its rows, on datasets of the same documents, and asked the same questions, answered greedily. A difference is taken for each seed and question. Its interval is that of a mean over seeds and questions that are both samples of more (a two-way analysis of variance, degrees of freedom by Satterthwaite), so that it says what other seeds and other questions of the kind would give."
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::Share;
    use crate::experiment::findings::{Answers, task};

    /// Two arms and a control, asked eight questions with each of five seeds; `control` is
    /// how many of them the control answers.
    fn findings(control: usize) -> Findings {
        let arm = |name: &str, own: u32, known: usize| Answers {
            arm: name.into(),
            own,
            pauses: vec![own],
            right: vec![
                (0..5)
                    .map(|seed| {
                        (0..8)
                            .map(|q| f64::from(u8::from((q + seed) % 8 < known)))
                            .collect()
                    })
                    .collect(),
            ],
        };
        let arms = [
            arm("Std", 0, 1),
            arm("Pause", 10, 7),
            arm("<dots>", 10, control),
        ];
        let constant = Share {
            text: "red".into(),
            share: 0.1,
        };
        Findings {
            seeds: vec![1, 2, 3, 4, 5],
            arms: Vec::new(),
            tasks: vec![task("colours", constant, &arms, 1)],
        }
    }

    #[test]
    fn a_benefit_that_a_control_shares_is_doubted() {
        let told = |control| {
            let findings = findings(control);
            sentence(&findings, &findings.tasks[0])
        };
        let alone = told(1);
        assert!(
            alone.starts_with("On colours: pauses helped. Pause at 10 pauses is right for 87.5 %, Std at 0 for 12.5 %: +75.0 pp"),
            "{alone}"
        );
        assert!(!alone.contains("But"), "{alone}");
        let shared = told(7);
        assert!(
            shared.contains(
                "But it is not shown to be better than the control <dots> at 10: 0.0 pp."
            ),
            "{shared}"
        );
    }

    #[test]
    fn names_are_text_in_the_page() {
        let page = page("a < b", &findings(7));
        assert!(page.contains("&lt;dots&gt; at 10") && !page.contains("<dots>"));
        assert!(page.contains("a &lt; b"));
    }

    #[test]
    fn differences_are_told_in_points() {
        for (difference, text) in [(0.0391, "+3.9 pp"), (-0.5, "-50.0 pp"), (-0.0001, "0.0 pp")] {
            assert_eq!(points(difference), text);
        }
    }
}
