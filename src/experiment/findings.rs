//! What the answers of all arms say.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::statistics::{crossed, mean};
use crate::eval::{Record, Results, Share};
use crate::fs;
use crate::train::record::Totals;

/// What an experiment found: `experiment.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Findings {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// The arms, the one that all others are compared with first.
    pub arms: Vec<ArmSummary>,
    /// The tasks, in the recipe's order.
    pub tasks: Vec<TaskFindings>,
}

/// An arm and what its training took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArmSummary {
    /// Its name.
    pub name: String,
    /// Pauses at inference (M_inf) by which it is compared.
    pub pauses: u32,
    /// Whether it is one of the recipe's controls.
    pub is_control: bool,
    /// What its training with one seed took, all stages together.
    pub cost: Cost,
}

/// What a training took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Positions that were trained on.
    pub tokens: u64,
    /// Those that are text.
    pub real: u64,
    /// Floating-point operations, where they were counted.
    pub flops: f64,
}

impl Cost {
    /// The same and what some more steps took.
    pub fn and(self, totals: &Totals) -> Self {
        Self {
            tokens: self.tokens + totals.tokens,
            real: self.real + totals.real,
            flops: self.flops + totals.flops.unwrap_or_default(),
        }
    }
}

/// What one task says of the arms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskFindings {
    /// The task.
    pub task: String,
    /// Questions.
    pub questions: u64,
    /// What always giving the most common target would score.
    pub constant: Share,
    /// How often each arm was right, at each number of pauses.
    pub accuracies: Vec<Accuracy>,
    /// Differences between arms, the one that decides the verdict first.
    pub comparisons: Vec<Comparison>,
    /// What the first of them says.
    pub verdict: Verdict,
}

/// How often an arm was right with so many pauses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Which.
    #[serde(flatten)]
    pub at: At,
    /// The share of right answers with each seed.
    pub by_seed: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// The 95 % interval of the mean, over seeds and questions.
    pub interval: Option<[f64; 2]>,
}

/// An arm with so many pauses at inference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The arm.
    pub arm: String,
    /// Its pauses (M_inf).
    pub pauses: u32,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.arm, self.pauses)
    }
}

/// One arm beside another: how much more often it was right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The arm.
    pub arm: At,
    /// What it is compared with.
    pub with: At,
    /// The difference of their shares of right answers with each seed.
    pub by_seed: Vec<f64>,
    /// The mean difference; more than 0 where the first arm is better.
    pub mean: f64,
    /// Its 95 % interval, over seeds and questions; absent where there is one seed.
    pub interval: Option<[f64; 2]>,
}

/// What an experiment says of pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The whole interval is above 0.
    Benefit,
    /// The whole interval is below 0.
    Harm,
    /// The interval holds 0.
    NoEvidence,
    /// There is no interval: one seed, or one question.
    Undecided,
}

impl Verdict {
    /// What an interval of a difference says.
    pub fn of(interval: Option<[f64; 2]>) -> Self {
        match interval {
            None => Self::Undecided,
            Some([low, _]) if 0.0 < low => Self::Benefit,
            Some([_, high]) if high < 0.0 => Self::Harm,
            Some(_) => Self::NoEvidence,
        }
    }
}

/// The answers of one arm: whether each was right.
pub struct Answers {
    /// The arm's name.
    pub arm: String,
    /// Its own pauses at inference.
    pub own: u32,
    /// Numbers of pauses that were asked with.
    pub pauses: Vec<u32>,
    /// By number of pauses, then by seed, then by question: 1 where it was right.
    pub right: Vec<Vec<Vec<f64>>>,
}

impl Answers {
    fn asked(&self, pauses: u32) -> At {
        At {
            arm: self.arm.clone(),
            pauses,
        }
    }

    fn at(&self, pauses: u32) -> Option<&[Vec<f64>]> {
        let index = self.pauses.iter().position(|found| *found == pauses)?;
        self.right.get(index).map(Vec::as_slice)
    }
}

/// What one task says of some arms; `main` is the arm that decides the verdict.
pub fn task(task: &str, constant: Share, arms: &[Answers], main: usize) -> TaskFindings {
    let accuracies = arms.iter().flat_map(|arm| {
        let asked = arm.pauses.iter().zip(&arm.right);
        asked.map(|(pauses, right)| accuracy(arm, *pauses, right))
    });
    let pairs = pairs(arms, main);
    let comparisons: Vec<Comparison> = pairs
        .into_iter()
        .filter_map(|(arm, pauses, with)| compare((arm, pauses), (with, with.own)))
        .collect();
    let decides = comparisons.first().and_then(|first| first.interval);
    let seeds = arms.iter().flat_map(|arm| arm.right.first());
    let questions = seeds.flat_map(|seeds| seeds.first()).map(Vec::len).max();
    TaskFindings {
        task: task.into(),
        questions: questions.unwrap_or(0) as u64,
        constant,
        accuracies: accuracies.collect(),
        verdict: Verdict::of(decides),
        comparisons,
    }
}

/// What is compared: the main arm with the first, every other arm with the first, those that
/// pause without their pauses with the first, and the main arm with each control.
fn pairs(arms: &[Answers], main: usize) -> Vec<(&Answers, u32, &Answers)> {
    let Some((first, others)) = arms.split_first() else {
        return Vec::new();
    };
    let Some(decides) = arms.get(main) else {
        return Vec::new();
    };
    let mut pairs = vec![(decides, decides.own, first)];
    let rest = others.iter().filter(|arm| arm.arm != decides.arm);
    pairs.extend(rest.map(|arm| (arm, arm.own, first)));
    let delayed = others.iter().filter(|arm| 0 < arm.own);
    pairs.extend(delayed.map(|arm| (arm, 0, first)));
    let controls = arms.iter().skip(main + 1);
    pairs.extend(controls.map(|control| (decides, decides.own, control)));
    pairs
}

fn accuracy(arm: &Answers, pauses: u32, right: &[Vec<f64>]) -> Accuracy {
    let estimate = crossed(right);
    Accuracy {
        at: arm.asked(pauses),
        by_seed: right.iter().map(|row| mean(row)).collect(),
        mean: estimate.mean,
        interval: estimate.interval,
    }
}

fn compare(
    (arm, pauses): (&Answers, u32),
    (with, with_pauses): (&Answers, u32),
) -> Option<Comparison> {
    let rows = arm.at(pauses)?.iter().zip(with.at(with_pauses)?);
    let less = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a - b).collect();
    let table: Vec<Vec<f64>> = rows.map(less).collect();
    let estimate = crossed(&table);
    Some(Comparison {
        arm: arm.asked(pauses),
        with: with.asked(with_pauses),
        by_seed: table.iter().map(|row| mean(row)).collect(),
        mean: estimate.mean,
        interval: estimate.interval,
    })
}

/// Whether each answer to a task was right, for each of `pauses`, as an evaluation in `folder`
/// wrote it down.
pub fn read_answers(folder: &Path, task: &str, pauses: &[u32]) -> Result<Vec<Vec<f64>>, Error> {
    let path = folder.join(format!("{task}.jsonl"));
    let text = fs::read_text(&path)?;
    let mut right = vec![Vec::new(); pauses.len()];
    for (line, record) in (1..).zip(text.lines()) {
        let unreadable = |source| Error::Answers {
            path: path.clone(),
            line,
            source,
        };
        let record: Record = serde_json::from_str(record).map_err(unreadable)?;
        let at = pauses.iter().position(|pauses| *pauses == record.pauses);
        if let Some(list) = at.and_then(|at| right.get_mut(at)) {
            list.push(f64::from(u8::from(record.correct)));
        }
    }
    Ok(right)
}

/// The share of the most common target of each task, as an evaluation in `folder` found it.
pub fn read_results(folder: &Path) -> Result<Results, Error> {
    let path = folder.join(crate::eval::RESULTS_FILE);
    read_json(&path)
}

/// A file that this program wrote.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let unreadable = |source| Error::Unreadable {
        path: PathBuf::from(path),
        source,
    };
    serde_json::from_slice(&fs::read(path)?).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &str, own: u32, right: &[&[&[f64]]]) -> Answers {
        Answers {
            arm: name.into(),
            own,
            pauses: vec![0, 10],
            right: right
                .iter()
                .map(|seeds| seeds.iter().map(|row| row.to_vec()).collect())
                .collect(),
        }
    }

    fn found() -> TaskFindings {
        let (none, all) = (&[0.0, 0.0, 1.0, 0.0][..], &[1.0, 1.0, 1.0, 0.0][..]);
        let arms = [
            arm("Std", 0, &[&[none, none], &[none, none]]),
            arm("Pause", 10, &[&[none, none], &[all, none]]),
            arm("dots", 10, &[&[none, none], &[all, all]]),
        ];
        let constant = Share {
            text: "red".into(),
            share: 0.25,
        };
        task("colours", constant, &arms, 1)
    }

    #[test]
    fn the_first_comparison_is_that_of_the_main_arm_with_the_first() {
        let found = found();
        let pairs: Vec<String> = (found.comparisons.iter())
            .map(|comparison| format!("{} {}", comparison.arm, comparison.with))
            .collect();
        let expected = [
            "Pause at 10 Std at 0",
            "dots at 10 Std at 0",
            "Pause at 0 Std at 0",
            "dots at 0 Std at 0",
            "Pause at 10 dots at 10",
        ];
        assert_eq!(pairs, expected);
        let means: Vec<f64> = found.comparisons.iter().map(|found| found.mean).collect();
        assert_eq!(means, [0.25, 0.5, 0.0, 0.0, -0.25]);
        assert_eq!(found.comparisons[0].by_seed, [0.5, 0.0]);
        assert_eq!((found.questions, found.verdict), (4, Verdict::NoEvidence));
        let last = &found.accuracies[5];
        assert_eq!(
            (last.at.to_string(), last.mean),
            ("dots at 10".into(), 0.75)
        );
    }

    #[test]
    fn a_verdict_is_what_the_interval_leaves_out() {
        assert_eq!(Verdict::of(Some([0.01, 0.2])), Verdict::Benefit);
        assert_eq!(Verdict::of(Some([-0.2, -0.01])), Verdict::Harm);
        assert_eq!(Verdict::of(Some([-0.01, 0.2])), Verdict::NoEvidence);
        assert_eq!(Verdict::of(Some([0.0, 0.2])), Verdict::NoEvidence);
        assert_eq!(Verdict::of(None), Verdict::Undecided);
    }
}
