//! Answers measured: every task at every number of pauses.

pub mod metric;
pub mod tasks;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::document::DocumentId;
use crate::eval::tasks::{Example, Task};
use crate::fs;
use crate::generate::{self, Answer, Ended, Generator, Request, Sampling};
use crate::progress::{Progress, Stop, Unit};
use crate::recipe::Metric;
use crate::rng::{Key, Stream};

/// The file with the results, in the evaluation's folder.
pub const RESULTS_FILE: &str = "results.json";

/// An evaluation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task cannot be measured.
    #[error(transparent)]
    Task(#[from] tasks::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// An answer could not be generated.
    #[error("cannot answer example {} of file {} in task `{task}`", id.row, id.file)]
    Answer {
        /// The task.
        task: String,
        /// The example.
        id: DocumentId,
        /// Why.
        #[source]
        source: Box<generate::Error>,
    },
    /// Results could not be written as JSON.
    #[error("cannot write the results as JSON")]
    Json(#[from] serde_json::Error),
    /// Somebody asked to stop; nothing was written but whole tasks.
    #[error("stopped before task `{task}` was measured")]
    Stopped {
        /// The task.
        task: String,
    },
}

/// What to measure, and where results go.
pub struct Job<'a> {
    /// Answers.
    pub generator: &'a Generator,
    /// The checkpoint's name, for the results.
    pub checkpoint: String,
    /// The tasks.
    pub tasks: Vec<Task>,
    /// Numbers of pauses (M_inf); 0 is always added.
    pub pauses: Vec<u32>,
    /// Receives `results.json` and a `<task>.jsonl` with every answer.
    pub folder: PathBuf,
}

/// What was measured: `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The checkpoint that answered.
    pub checkpoint: String,
    /// In the recipe's order.
    pub tasks: Vec<TaskResult>,
}

/// One task at every number of pauses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The task.
    pub task: String,
    /// How answers were judged.
    pub metric: Metric,
    /// Examples.
    pub n: u64,
    /// What always giving the most common target would score: an accuracy
    /// that is not above its share shows no skill.
    pub constant: Share,
    /// By number of pauses, fewest first.
    pub scores: Vec<Score>,
}

/// One task at one number of pauses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Pauses after the prefix (M_inf).
    pub pauses: u32,
    /// Examples; those that did not fit count as wrong.
    pub n: u64,
    /// Correct answers.
    pub correct: u64,
    /// `correct / n`.
    pub accuracy: f64,
    /// The accuracy's 95 % interval, by Wilson.
    pub interval: [f64; 2],
    /// The most common answer; a share near 1 shows a model that always says the same.
    pub most_common: Share,
    /// Answers that were cut off before their end token.
    pub unfinished: u64,
    /// Examples whose prefix and pauses do not fit into the model's context.
    pub too_long: u64,
    /// Pauses that the model gave itself, in all answers; 0 but after `pause.target = "emit"`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paused: u64,
}

/// A text, and the share of examples that have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The text, as the metric sees it.
    pub text: String,
    /// The share of all examples.
    pub share: f64,
}

/// One answer: a line of `<task>.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Pauses after the prefix (M_inf).
    pub pauses: u32,
    /// Where the example came from.
    pub example: DocumentId,
    /// What the model read.
    pub prefix: String,
    /// What it should have said.
    pub target: String,
    /// What it said; absent where the prefix did not fit.
    pub answer: Option<String>,
    /// Whether that is correct.
    pub correct: bool,
    /// Why the answer ended.
    pub ended: Option<Ended>,
    /// Pauses that the model gave itself; 0 but after `pause.target = "emit"`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub paused: u64,
}

/// Whether a count need not be written.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Measures every task at every number of pauses, by greedy answers, and
/// writes the results. Depends on the checkpoint and the examples alone.
pub fn run(job: &Job<'_>, progress: &dyn Progress, stop: &Stop) -> Result<Results, Error> {
    tasks::check_names(&job.tasks)?;
    let mut pauses = job.pauses.clone();
    pauses.push(0);
    pauses.sort_unstable();
    pauses.dedup();
    let mut results = Results {
        checkpoint: job.checkpoint.clone(),
        tasks: Vec::new(),
    };
    for task in &job.tasks {
        let total = (task.examples.len() * pauses.len()) as u64;
        progress.start(&task.declared.name, Some(total), Unit::Answers);
        let answer = |example: &Example, pauses| {
            if stop.requested() {
                return Ok(Reply::Stopped);
            }
            progress.advance(1);
            greedy(job.generator, task, example, pauses)
        };
        let records = records(task, &pauses, &answer)?;
        progress.finish();
        if stop.requested() {
            let task = task.declared.name.clone();
            return Err(Error::Stopped { task });
        }
        write_records(job, task, &records)?;
        results.tasks.push(summary(task, &pauses, &records));
    }
    let mut text = serde_json::to_vec_pretty(&results)?;
    text.push(b'\n');
    fs::write(&job.folder.join(RESULTS_FILE), &text)?;
    Ok(results)
}

/// What came of a question.
enum Reply {
    Answered(Answer),
    /// Prefix and pauses do not fit into the context.
    TooLong,
    /// Somebody asked to stop.
    Stopped,
}

/// The greedy answer.
fn greedy(
    generator: &Generator,
    task: &Task,
    example: &Example,
    pauses: u32,
) -> Result<Reply, Error> {
    let request = Request {
        pauses,
        max_tokens: task.declared.max_tokens,
        sampling: Sampling::Greedy,
        key: Key::new(0).stream(Stream::Sampling),
    };
    match generator.answer(&example.prefix, &request) {
        Ok(answer) => Ok(Reply::Answered(answer)),
        Err(generate::Error::TooLong { .. }) => Ok(Reply::TooLong),
        Err(source) => Err(Error::Answer {
            task: task.declared.name.clone(),
            id: example.id,
            source: Box::new(source),
        }),
    }
}

/// Answers every example at every number of pauses on all threads; the order
/// is by pauses, then by example. Those that were not asked are left out.
fn records(
    task: &Task,
    pauses: &[u32],
    answer: &(dyn Fn(&Example, u32) -> Result<Reply, Error> + Sync),
) -> Result<Vec<Record>, Error> {
    let questions: Vec<(u32, &Example)> = pauses
        .iter()
        .flat_map(|&pauses| task.examples.iter().map(move |example| (pauses, example)))
        .collect();
    let record = |&(pauses, example): &(u32, &Example)| {
        let answer = match answer(example, pauses) {
            Err(error) => return Some(Err(error)),
            Ok(Reply::Stopped) => return None,
            Ok(Reply::TooLong) => None,
            Ok(Reply::Answered(answer)) => Some(answer),
        };
        let ended = answer.as_ref().map(|answer| answer.ended);
        let paused = answer.as_ref().map_or(0, |answer| answer.paused as u64);
        let answer = answer.map(|answer| answer.text);
        let is_match =
            |answer: &String| metric::matches(task.declared.metric, answer, &example.target);
        Some(Ok(Record {
            pauses,
            example: example.id,
            prefix: example.prefix.clone(),
            target: example.target.clone(),
            correct: answer.as_ref().is_some_and(is_match),
            answer,
            ended,
            paused,
        }))
    };
    questions.par_iter().filter_map(record).collect()
}

fn summary(task: &Task, pauses: &[u32], records: &[Record]) -> TaskResult {
    let metric = task.declared.metric;
    let targets = task.examples.iter().map(|example| example.target.as_str());
    let score = |&pauses: &u32| {
        let records: Vec<&Record> = records.iter().filter(|r| r.pauses == pauses).collect();
        let count = |is: &dyn Fn(&Record) -> bool| {
            records.iter().filter(|record| is(record)).count() as u64
        };
        let (n, correct) = (records.len() as u64, count(&|record| record.correct));
        let answers = records.iter().map(|r| r.answer.as_deref().unwrap_or(""));
        Score {
            pauses,
            n,
            correct,
            accuracy: correct as f64 / n as f64,
            interval: metric::wilson(correct, n),
            most_common: most_common(metric, answers),
            unfinished: count(&|record| record.ended.is_some_and(|ended| ended != Ended::End)),
            too_long: count(&|record| record.answer.is_none()),
            paused: records.iter().map(|record| record.paused).sum(),
        }
    };
    TaskResult {
        task: task.declared.name.clone(),
        metric,
        n: task.examples.len() as u64,
        constant: most_common(metric, targets),
        scores: pauses.iter().map(score).collect(),
    }
}

/// The most common of at least one text; the first in order among equals.
fn most_common<'a>(metric: Metric, texts: impl Iterator<Item = &'a str>) -> Share {
    let mut counts = BTreeMap::<String, u64>::new();
    for text in texts {
        *counts.entry(metric::essence(metric, text)).or_default() += 1;
    }
    let n: u64 = counts.values().sum();
    let most = counts.into_iter().rev().max_by_key(|(_, count)| *count);
    let (text, count) = most.unwrap_or_default();
    Share {
        text,
        share: count as f64 / n as f64,
    }
}

fn write_records(job: &Job<'_>, task: &Task, records: &[Record]) -> Result<(), Error> {
    let path = job.folder.join(format!("{}.jsonl", task.declared.name));
    let mut output = fs::Output::create(&path)?;
    for record in records {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        output.write_all(&line)?;
    }
    Ok(output.publish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(metric: &str, targets: &[&str]) -> Task {
        let text = format!("name = 'colours'\nsources = []\nmetric = '{metric}'");
        let example = |(row, target): (u64, &&str)| Example {
            id: DocumentId { file: 0, row },
            prefix: format!("{row}?"),
            target: (*target).into(),
        };
        Task {
            declared: toml::from_str(&text).unwrap(),
            examples: (0..).zip(targets).map(example).collect(),
        }
    }

    fn says(text: &str, ended: Ended) -> Reply {
        Reply::Answered(Answer {
            text: text.into(),
            ids: Vec::new(),
            read: Vec::new(),
            paused: 2,
            ended,
        })
    }

    #[test]
    fn answers_are_scored_by_number_of_pauses() {
        let task = task("exact-match", &["red", "blue", "red", "green"]);
        let answer = |example: &Example, pauses: u32| {
            Ok(match (pauses, example.id.row) {
                (0, _) => says("red", Ended::MaxTokens),
                (_, 3) => Reply::TooLong,
                (_, _) => says(&format!(" {}", example.target), Ended::End),
            })
        };
        let records = records(&task, &[0, 5], &answer).unwrap();
        let order: Vec<_> = records.iter().map(|r| (r.pauses, r.example.row)).collect();
        assert_eq!(
            order,
            [0, 5].map(|m| [0, 1, 2, 3].map(|row| (m, row))).concat()
        );
        let result = summary(&task, &[0, 5], &records);
        let share = |text: &str, share| Share {
            text: text.into(),
            share,
        };
        assert_eq!((result.n, result.constant), (4, share("red", 0.5)));
        let [none, five] = result.scores.try_into().unwrap();
        assert_eq!((none.correct, none.accuracy), (2, 0.5));
        assert_eq!(none.most_common, share("red", 1.0));
        assert_eq!((none.unfinished, none.too_long, none.paused), (4, 0, 8));
        assert_eq!((five.n, five.correct, five.accuracy), (4, 3, 0.75));
        assert_eq!(five.interval, metric::wilson(3, 4));
        assert_eq!(five.most_common, share("red", 0.5));
        assert_eq!((five.unfinished, five.too_long, five.paused), (0, 1, 6));
    }

    #[test]
    fn answers_that_mean_the_same_number_are_the_same_answer() {
        let task = task("final-number", &["#### 7", "seven: 7.0"]);
        let answer = |example: &Example, _| {
            Ok(match example.id.row {
                0 => says("it is 7", Ended::End),
                _ => says("$7", Ended::End),
            })
        };
        let records = records(&task, &[0], &answer).unwrap();
        let result = summary(&task, &[0], &records);
        assert_eq!(result.constant.share, 1.0);
        assert_eq!(result.scores[0].most_common.share, 1.0);
        assert_eq!(result.scores[0].correct, 2);
    }

    #[test]
    fn results_are_written_and_depend_on_nothing_else() {
        use crate::generate::tests::{model, tokenizer};
        use crate::progress::Silent;

        let generator = Generator::new(&model(259), tokenizer());
        let evaluate = |pauses: &[u32], stop: &Stop| {
            let folder = tempfile::tempdir().unwrap();
            let mut tasks = vec![task("exact-match", &["red"; 9])];
            // The context is 40 positions.
            tasks[0].examples[8].prefix = "long ".repeat(7);
            let job = Job {
                generator: &generator,
                checkpoint: "step-000001".into(),
                tasks,
                pauses: pauses.to_vec(),
                folder: folder.path().to_path_buf(),
            };
            let results = run(&job, &Silent, stop);
            let read = |name: &str| fs::read_text(&folder.path().join(name));
            (results, read("colours.jsonl"), read(RESULTS_FILE))
        };
        let (results, records, file) = evaluate(&[20, 3, 20], &Stop::default());
        let (results, records, file) = (results.unwrap(), records.unwrap(), file.unwrap());
        let scores = &results.tasks[0].scores;
        let pauses: Vec<_> = scores.iter().map(|s| (s.pauses, s.n, s.too_long)).collect();
        assert_eq!(pauses, [(0, 9, 0), (3, 9, 0), (20, 9, 1)]);
        assert_eq!(records.lines().count(), 27);
        let written: Results = serde_json::from_str(&file).unwrap();
        assert_eq!(written, results);
        let (_, again, file_again) = evaluate(&[0, 3, 20], &Stop::default());
        assert_eq!((again.unwrap(), file_again.unwrap()), (records, file));

        let stop = Stop::default();
        stop.request();
        let (stopped, records, file) = evaluate(&[3], &stop);
        assert!(matches!(stopped, Err(Error::Stopped { .. })));
        assert!(records.is_err() && file.is_err());
    }
}
