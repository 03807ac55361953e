//! What training gave, as a person reads it.

use pausedata::eval::{Results, TaskResult};
use pausedata::recipe::Plan;
use pausedata::report::training::Curves;
use pausedata::run::training::{StageSummary, Summary};
use pausedata::units::percent;

use super::ui::{NAME, PASSED, grouped};

/// A whole run.
pub fn text(plan: &Plan, summary: &Summary) -> String {
    let mut text = format!("\n{NAME}{}{NAME:#}\n", plan.name);
    for (stage, _) in plan.stages() {
        text += &format!("  data      {}\n", plan.data_dir(stage).display());
    }
    text += &format!(
        "            {PASSED}proved{PASSED:#}: {} checks passed, 0 failed\n\n",
        summary.checks
    );
    text += &stages(&summary.stages);
    if let Some(sample) = &summary.sample {
        let continued = sample.text.trim_end().replace('\n', "\n            ");
        text += &format!("\n  sample    {NAME}{}{NAME:#}{continued}\n", sample.prompt);
    }
    if let Some(results) = &summary.results {
        text += &format!("\n{}", self::results(results));
    }
    text + &next(plan, summary)
}

/// The losses of each stage.
pub fn stages(stages: &[StageSummary]) -> String {
    stages.iter().map(stage).collect()
}

/// The curves of a run.
pub fn curves(curves: &Curves) -> String {
    let mut text = String::new();
    for stage in &curves.stages {
        let losses: Vec<f64> = stage.train.iter().map(|point| point.loss).collect();
        text += &format!(
            "  {:<9} {}  {} steps, {} tokens, {:.0} s\n",
            stage.stage,
            sparkline(&losses),
            grouped(stage.steps),
            grouped(stage.tokens),
            stage.seconds,
        );
        if let (Some(first), Some(last)) = (stage.validation.first(), stage.validation.last()) {
            text += &format!(
                "            validation loss {:.3} after {} steps, {:.3} after {}\n",
                first.loss, first.step, last.loss, last.step
            );
        }
        if !stage.anomalies.is_empty() {
            let n = stage.anomalies.len();
            text += &format!("            {n} steps were skipped or rolled back\n");
        }
    }
    if let Some(results) = &curves.evaluation {
        text += &format!("\n{}", self::results(results));
    }
    text
}

fn stage(summary: &StageSummary) -> String {
    let (Some(first), Some(last)) = (summary.losses.first(), summary.losses.last()) else {
        return String::new();
    };
    let rate = summary.tokens as f64 / summary.seconds.max(1e-9);
    let mut text = format!(
        "  {:<9} {}  loss {first:.3} to {last:.3} in {} steps, {:.0} s, {rate:.0} tokens/s, {:.1} % of it waiting for data\n",
        summary.stage,
        sparkline(&summary.losses),
        summary.losses.len(),
        summary.seconds,
        100.0 * summary.data_wait,
    );
    if 0.0 < summary.padding {
        let padding = percent(summary.padding);
        text += &format!("            {padding} of positions were padding\n");
    }
    for part in &summary.epochs_of {
        let (epochs, dataset) = (part.epochs, part.dataset.display());
        text += &format!("            {epochs:.2} epochs of {dataset}\n");
    }
    if 0 < summary.anomalies {
        let n = summary.anomalies;
        text += &format!("            {n} steps were skipped or rolled back\n");
    }
    if let (Some(first), Some(last)) = (summary.validation.first(), summary.validation.last()) {
        text += &format!(
            "            validation loss {:.3} after {} steps, {:.3} after {}\n",
            first.1, first.0, last.1, last.0
        );
    }
    text
}

/// Accuracy at each number of pauses.
pub fn results(results: &Results) -> String {
    results.tasks.iter().map(task).collect()
}

fn task(task: &TaskResult) -> String {
    let mut text = format!(
        "  {:<9} pauses at inference   accuracy   95 % interval    of {}\n",
        task.task,
        grouped(task.n),
    );
    for score in &task.scores {
        text += &format!(
            "            {:>19}   {:>6.1} %   {:>5.1} to {:.1} %\n",
            score.pauses,
            100.0 * score.accuracy,
            100.0 * score.interval[0],
            100.0 * score.interval[1],
        );
        if score.unfinished + score.too_long > 0 {
            text += &format!(
                "            {:>19}   {} cut off, {} too long for the context\n",
                "", score.unfinished, score.too_long
            );
        }
    }
    let own: u64 = task.scores.iter().map(|score| score.paused).sum();
    if 0 < own {
        let answers = grouped(task.scores.iter().map(|score| score.n).sum());
        text += &format!(
            "            {:>19}   {} pauses that the model gave itself in {answers} answers\n",
            "",
            grouped(own)
        );
    }
    text + &format!(
        "            {:>19}   {:>6.1} %   always answering {:?}\n",
        "constant",
        100.0 * task.constant.share,
        task.constant.text
    )
}

fn next(plan: &Plan, summary: &Summary) -> String {
    let out = summary.out.display();
    let mut text = format!("\n  all of it lies in {NAME}{out}{NAME:#}\n  next\n");
    for (stage, _) in plan.stages() {
        text += &format!("    pausedata inspect {}\n", plan.data_dir(stage).display());
    }
    if let Some(last) = summary.stages.last() {
        let model = last.folder.display();
        let pauses = plan
            .eval_pauses()
            .into_iter()
            .find(|pauses| 0 < *pauses)
            .unwrap_or(0);
        text += &format!("    pausedata generate {model} --prompt 'your text' --pauses {pauses}\n");
    }
    if !summary.stages.is_empty() {
        text += &format!("    pausedata report {out}\n");
    }
    if summary.results.is_some() {
        text += &format!("    pausedata eval {out}/recipe.toml --out {out} --pauses 0,1,2,5,50\n");
    }
    text
}

/// A curve in twenty-four characters.
fn sparkline(values: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const WIDTH: usize = 24;
    let chunk = values.len().div_ceil(WIDTH).max(1);
    let means: Vec<f64> = values
        .chunks(chunk)
        .map(|part| part.iter().sum::<f64>() / part.len() as f64)
        .collect();
    let (low, high) = means
        .iter()
        .fold((f64::MAX, f64::MIN), |(low, high), mean| {
            (low.min(*mean), high.max(*mean))
        });
    let level = |mean: &f64| {
        let share = (mean - low) / (high - low).max(1e-12);
        LEVELS
            .iter()
            .rev()
            .enumerate()
            .find(|(i, _)| 1.0 - (*i as f64 + 1.0) / 8.0 <= share)
            .map_or(' ', |(_, c)| *c)
    };
    means.iter().map(level).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_falls_with_its_values() {
        assert_eq!(
            sparkline(&[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]),
            "█▇▆▅▄▃▂▁"
        );
        assert_eq!(sparkline(&[1.0]), "▁");
        assert_eq!(
            sparkline(&(0..240).map(f64::from).collect::<Vec<_>>())
                .chars()
                .count(),
            24
        );
    }
}
