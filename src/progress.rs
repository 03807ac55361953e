//! How long work tells how far it is; the terminal belongs to the binary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a stage counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of text or files.
    Bytes,
    /// Files.
    Files,
    /// Documents.
    Documents,
    /// Rows of a dataset.
    Rows,
    /// Optimizer steps.
    Steps,
    /// Answers of an evaluation.
    Answers,
}

/// Receives the progress of long work. Stages follow one another.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` is what it will count to, where that is known.
    fn start(&self, stage: &str, total: Option<u64>, unit: Unit);
    /// `count` more units are done.
    fn advance(&self, count: u64);
    /// A short remark that stands beside the bar, such as the loss.
    fn remark(&self, text: &str);
    /// A line that stays: a stage's result, or a warning.
    fn note(&self, text: &str);
    /// The stage is over.
    fn finish(&self);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn advance(&self, _: u64) {}
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}

/// A request to stop at the next safe point, shared with the signal handler.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks the work to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
