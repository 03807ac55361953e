//! `metrics.jsonl`: one line for every step and every validation loss.
//!
//! Lines are appended as steps end. A resumed run first cuts off the lines
//! after its checkpoint, so that the file equals the one of a run that was
//! never interrupted, except for the timings, which stand last in a line.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batch::Counts;
use crate::fs;
use crate::model::flops::Flops;
use crate::recipe::SpikePolicy;

/// The file's name in a training folder.
pub const FILE: &str = "metrics.jsonl";

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A line in the middle is no record; only the last may be half written.
    #[error("cannot read line {line} of `{}`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Line {
    /// An optimizer step.
    Train(Step),
    /// A validation loss.
    Validation(Validation),
    /// A step that must not be taken.
    Anomaly(Anomaly),
}

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The step, from 1.
    pub step: u64,
    /// Passes over the training rows so far.
    pub epochs: f64,
    /// Passes over each dataset of `train.mixture`, in its order, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub epochs_of: Vec<f64>,
    /// Mean cross entropy of the scored targets, in nats, before the update.
    pub loss: f64,
    /// What the z-loss adds to it, its weight included, where there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub z_loss: Option<f64>,
    /// The learning rate of the update.
    pub lr: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Positions that are not padding: `real + pauses`.
    pub tokens: u64,
    /// Ids that are text or end-of-document.
    pub real: u64,
    /// Pauses.
    pub pauses: u64,
    /// Positions beside `tokens` that were computed for nothing: padding.
    #[serde(default)]
    pub padding: u64,
    /// Targets that count in the loss.
    pub scored: u64,
    /// Floating-point operations of forward and backward passes.
    #[serde(default)]
    pub flops: Flops,
    /// Sums since the first step.
    pub totals: Totals,
    /// Positions a second, waiting for data included.
    pub tokens_per_s: f64,
    /// Milliseconds in which the step waited for its batch.
    pub data_wait_ms: f64,
    /// Milliseconds of the step itself.
    pub step_ms: f64,
    /// How much of the device's peak the step used, where that is known.
    #[serde(flatten, default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Utilization>,
}

/// The share of a device's operations a second that a step used: of `train.peak_gflops`, or
/// of what products of matrices reach on all threads of the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Utilization {
    /// By the usual convention for models, `6 N + 12 L T D` a position (PaLM, appendix B).
    pub mfu: f64,
    /// By the operations that were done: attention to the keys that a position sees, the
    /// head on scored positions alone, and what `train.recompute` computes twice.
    pub hfu: f64,
}

/// The loss on rows held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// The step after which it was measured.
    pub step: u64,
    /// Mean cross entropy of the scored targets, in nats.
    pub loss: f64,
    /// Rows looked at.
    pub rows: u64,
    /// Targets that counted.
    pub scored: u64,
}

/// A step that must not be taken, and what was done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Anomaly {
    /// The step.
    pub step: u64,
    /// The loader's global batch.
    pub batch: u64,
    /// `loss` or `gradient norm`.
    pub quantity: String,
    /// What it was, where that is a number.
    pub value: Option<f64>,
    /// The most that it could have been, where that is a number.
    pub limit: Option<f64>,
    /// What was done.
    pub policy: SpikePolicy,
    /// The step of the checkpoint that the run went back to; lines after it are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
    /// The rows of the batch.
    pub rows: Vec<Row>,
}

/// A row of a global batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Its dataset's place in `train.mixture`; 0 where there is one dataset.
    pub member: usize,
    /// The pass over that dataset.
    pub epoch: u64,
    /// Its place in the dataset, as `pausedata inspect` counts.
    pub row: u64,
}

/// What a run has trained on since its first step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Positions that are not padding.
    pub tokens: u64,
    /// Ids that are text or end-of-document.
    pub real: u64,
    /// Pauses.
    pub pauses: u64,
    /// Targets that counted in the loss.
    pub scored: u64,
    /// Floating-point operations, all stages together; absent where the run began before
    /// they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flops: Option<f64>,
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            tokens: 0,
            real: 0,
            pauses: 0,
            scored: 0,
            flops: Some(0.0),
        }
    }
}

impl Totals {
    /// Adds one global batch.
    pub fn add(&mut self, counts: Counts, flops: Flops) {
        self.tokens += counts.real + counts.pauses;
        self.real += counts.real;
        self.pauses += counts.pauses;
        self.scored += counts.scored;
        self.flops = self.flops.map(|sum| sum + flops.sum() as f64);
    }
}

impl Line {
    /// The step that the line belongs to: a run that goes on after a step writes all lines
    /// of later ones again.
    pub fn step(&self) -> u64 {
        match self {
            Self::Train(line) => line.step,
            Self::Validation(line) => line.step,
            Self::Anomaly(line) => line.back_to.map_or(line.step, |step| step + 1),
        }
    }
}

/// Reads the lines of a training folder; a half-written last line is left out.
pub fn read(folder: &Path) -> Result<Vec<Line>, Error> {
    let path = folder.join(FILE);
    let text = fs::read_text(&path)?;
    let parsed = parse(&path, &text)?;
    Ok(parsed.into_iter().map(|(_, line)| line).collect())
}

/// The file being written.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// Opens the file of a run that continues after `step`: later lines, which
    /// will be written again, are cut off.
    pub fn open(folder: &Path, step: u64) -> Result<Self, Error> {
        let path = folder.join(FILE);
        let log = Self { path };
        log.keep(|line| line.step() <= step)?;
        Ok(log)
    }

    /// Cuts off what a run did after the checkpoint of `step`, to which it goes back, but
    /// for why it went back.
    pub fn back_to(&self, step: u64) -> Result<(), Error> {
        self.keep(|line| match line {
            Line::Anomaly(Anomaly {
                back_to: Some(_), ..
            }) => true,
            other => other.step() <= step,
        })
    }

    fn keep(&self, kept: impl Fn(&Line) -> bool) -> Result<(), Error> {
        let text = match fs::read_text(&self.path) {
            Err(error) if error.is_missing() => String::new(),
            other => other?,
        };
        let kept: String = parse(&self.path, &text)?
            .into_iter()
            .filter(|(_, line)| kept(line))
            .flat_map(|(text, _)| [text, "\n"])
            .collect();
        match kept == text {
            true => Ok(()),
            false => Ok(fs::write(&self.path, kept.as_bytes())?),
        }
    }

    /// Appends a line.
    pub fn append(&self, line: &Line) -> Result<(), Error> {
        let text = serde_json::to_string(line).map_err(|source| Error::Line {
            path: self.path.clone(),
            line: 0,
            source,
        })?;
        Ok(fs::append_line(&self.path, &text)?)
    }

    /// Makes the lines durable, so that none before a checkpoint can be lost.
    pub fn sync(&self) -> Result<(), Error> {
        let synced = fs::open(&self.path)?.sync_all();
        Ok(synced.map_err(fs::Error::new("sync", &self.path))?)
    }
}

/// The lines of `text` with their meaning, but for a last one without its end.
fn parse<'a>(path: &Path, text: &'a str) -> Result<Vec<(&'a str, Line)>, Error> {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |(index, text): (usize, &'a str)| {
        let line = serde_json::from_str(text).map_err(|source| Error::Line {
            path: path.to_path_buf(),
            line: index + 1,
            source,
        })?;
        Ok((text, line))
    };
    whole.lines().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn step(step: u64) -> Line {
        Line::Train(Step {
            step,
            epochs: 0.25,
            epochs_of: Vec::new(),
            loss: 0.1 + 0.2,
            z_loss: None,
            lr: 1e-3,
            grad_norm: 1.0,
            tokens: 10,
            real: 8,
            pauses: 2,
            padding: 6,
            scored: 7,
            flops: Flops::default(),
            totals: Totals::default(),
            tokens_per_s: 1e4,
            data_wait_ms: 0.5,
            step_ms: 1.0,
            used: None,
        })
    }

    fn validation(step: u64) -> Line {
        Line::Validation(Validation {
            step,
            loss: 2.5,
            rows: 4,
            scored: 28,
        })
    }

    #[test]
    fn lines_look_so() {
        let text = format!(
            "{}\n{}\n",
            serde_json::to_string(&step(3)).unwrap(),
            serde_json::to_string(&validation(3)).unwrap()
        );
        expect![[r#"
            {"kind":"train","step":3,"epochs":0.25,"loss":0.30000000000000004,"lr":0.001,"grad_norm":1.0,"tokens":10,"real":8,"pauses":2,"padding":6,"scored":7,"flops":{"linear":0,"attention":0,"head":0},"totals":{"tokens":0,"real":0,"pauses":0,"scored":0,"flops":0.0},"tokens_per_s":10000.0,"data_wait_ms":0.5,"step_ms":1.0}
            {"kind":"validation","step":3,"loss":2.5,"rows":4,"scored":28}
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn a_resumed_log_continues_after_its_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let log = Log::open(folder.path(), 0).unwrap();
        for line in [step(1), step(2), validation(2), step(3), validation(3)] {
            log.append(&line).unwrap();
        }
        let whole = fs::read_text(&path).unwrap();
        // A kill in the middle of a line.
        fs::append_line(&path, "{\"kind\":\"tr").unwrap();
        let torn = fs::read_text(&path).unwrap();
        fs::write(&path, torn.trim_end().as_bytes()).unwrap();
        assert_eq!(read(folder.path()).unwrap().len(), 5);

        let log = Log::open(folder.path(), 2).unwrap();
        assert_eq!(
            read(folder.path()).unwrap(),
            [step(1), step(2), validation(2)]
        );
        for line in [step(3), validation(3)] {
            log.append(&line).unwrap();
        }
        log.sync().unwrap();
        assert_eq!(fs::read_text(&path).unwrap(), whole);

        Log::open(folder.path(), 0).unwrap();
        assert_eq!(fs::read_text(&path).unwrap(), "");
    }

    #[test]
    fn a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        fs::write(&path, b"nonsense\n").unwrap();
        let error = Log::open(folder.path(), 1).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot read line 1 of `{}`", path.display())
        );
    }
}
