//! What an experiment found, as a person reads it.

use pausedata::experiment::Survey;
use pausedata::experiment::findings::{Comparison, Findings, TaskFindings};
use pausedata::report::experiment::{points, range, sentence};

use super::ui::NAME;

/// What would be done.
pub fn survey(survey: &Survey) -> String {
    let mut text = String::from("\n  arms      pauses at inference\n");
    for at in &survey.arms {
        text += &format!("    {:<24} {:>4}\n", at.arm, at.pauses);
    }
    text += "\n  datasets\n";
    for folder in &survey.datasets {
        text += &format!("    {}\n", folder.display());
    }
    let (n, trainings) = (survey.seeds.len(), survey.trainings);
    text + &format!(
        "\n  {trainings} trainings with {n} seeds: {:?}\n",
        survey.seeds
    )
}

/// All tasks, the verdict of each at its end.
pub fn text(findings: &Findings) -> String {
    findings
        .tasks
        .iter()
        .map(|task| self::task(findings, task))
        .collect()
}

fn task(findings: &Findings, task: &TaskFindings) -> String {
    let n = findings.seeds.len();
    let mut text = format!(
        "\n{NAME}{}{NAME:#}  {} questions, {n} seeds\n\n  {:<28} mean accuracy   by seed\n",
        task.task, task.questions, "arm, pauses at inference"
    );
    for accuracy in &task.accuracies {
        let by_seed: Vec<String> = (accuracy.by_seed.iter())
            .map(|share| format!("{:.1}", 100.0 * share))
            .collect();
        text += &format!(
            "  {:<28} {:>11.1} %   {}\n",
            format!("{}, {}", accuracy.at.arm, accuracy.at.pauses),
            100.0 * accuracy.mean,
            by_seed.join("  ")
        );
    }
    let constant = 100.0 * task.constant.share;
    let always = format!("always answering {:?}", task.constant.text);
    text += &format!("  {always:<28} {constant:>11.1} %\n");
    text += &format!("\n  {:<52} difference   95 % interval\n", "compared");
    text += &task.comparisons.iter().map(comparison).collect::<String>();
    text + &format!("\n  {NAME}verdict{NAME:#}  {}\n", sentence(findings, task))
}

fn comparison(comparison: &Comparison) -> String {
    let pair = format!("{} against {}", comparison.arm, comparison.with);
    let interval = match comparison.interval {
        Some(interval) => range(interval),
        None => "none: one seed".into(),
    };
    format!(
        "  {pair:<52} {:>10}   {interval}\n",
        points(comparison.mean)
    )
}
