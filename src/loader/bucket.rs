//! Rows of about one length in one batch, so that little of it is padding.
//!
//! The global batches are taken in windows of so many. A window has the rows that it has
//! without buckets; they are sorted by length and cut into batches, and the batches are
//! shuffled. So the order stays a function of the batch's number, and every row comes as
//! often as it did. A window does not reach beyond an epoch of one dataset, nor beyond a
//! change of weights.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::mixture::Phase;
use super::order::Pick;
use crate::permutation::Permutation;
use crate::rng::{Key, Stream};

/// Windows that are kept: threads that make batches ahead may be in two.
const KEPT: usize = 2;

/// What is sorted: the rows of each global batch in random order, and how long they are.
pub trait Unsorted {
    /// The rows of a global batch.
    fn rows(&self, k: u64) -> Vec<Pick>;
    /// How many ids a row has.
    fn length(&self, pick: Pick) -> usize;
}

/// Puts rows of one length together.
#[derive(Debug)]
pub struct Buckets {
    /// Batches of a window, at most.
    window: u64,
    rows_per_batch: u64,
    key: Key,
    /// First batches of the mixture's phases.
    phases: Vec<u64>,
    /// Rows of an epoch, where epochs end at the same time for all rows.
    epoch: Option<u64>,
    /// How many batches there are, where they end.
    end: u64,
    last: Mutex<Vec<Arc<Window>>>,
}

/// Some batches and their rows, sorted.
#[derive(Debug)]
struct Window {
    batches: Range<u64>,
    /// By length.
    rows: Vec<Pick>,
}

impl Buckets {
    /// Windows of `window` batches of `rows_per_batch` rows, at least one.
    pub fn new([window, rows_per_batch]: [u64; 2], seed: u64) -> Self {
        Self {
            window: window.max(1),
            rows_per_batch: rows_per_batch.max(1),
            key: Key::new(seed).stream(Stream::Bucket),
            phases: Vec::new(),
            epoch: None,
            end: u64::MAX,
            last: Mutex::default(),
        }
    }

    /// With windows that end where an epoch of `n_rows` rows or a phase does, and after
    /// `end` batches, of which the last may be short.
    pub fn ending(self, n_rows: Option<u64>, phases: &[Phase], end: Option<u64>) -> Self {
        Self {
            phases: phases.iter().map(|phase| phase.from).collect(),
            epoch: n_rows.filter(|n_rows| 0 < *n_rows),
            end: end.unwrap_or(u64::MAX),
            ..self
        }
    }

    /// The rows of global batch `k`, sorted by length.
    pub fn rows(&self, k: u64, unsorted: &dyn Unsorted) -> Vec<Pick> {
        if self.end <= k {
            return Vec::new();
        }
        let window = self.window(k, unsorted);
        let (n, from) = (
            window.batches.end - window.batches.start,
            window.batches.start,
        );
        let shuffled = Permutation::new(n, self.key.item(from));
        // The last batch may be short, and so may any part of the sorted rows be.
        let missing = (n * self.rows_per_batch).saturating_sub(window.rows.len() as u64);
        let short = shuffled.at(n - 1);
        let part = shuffled.at(k - from);
        let start = part * self.rows_per_batch - if short < part { missing } else { 0 };
        let end = start + self.rows_per_batch - if short == part { missing } else { 0 };
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let rows = window.rows.get(place(start)..place(end));
        rows.unwrap_or_default().to_vec()
    }

    /// The window of a batch, from memory if it was met before.
    fn window(&self, k: u64, unsorted: &dyn Unsorted) -> Arc<Window> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(window) = last.iter().find(|window| window.batches.contains(&k)) {
            return window.clone();
        }
        let batches = self.batches(k);
        let rows = batches.clone().flat_map(|k| unsorted.rows(k));
        let mut rows: Vec<(usize, Pick)> = rows.map(|row| (unsorted.length(row), row)).collect();
        // Stable: rows of one length stay in their random order.
        rows.sort_by_key(|(length, _)| *length);
        let window = Arc::new(Window {
            batches,
            rows: rows.into_iter().map(|(_, row)| row).collect(),
        });
        last.truncate(KEPT - 1);
        last.insert(0, window.clone());
        window
    }

    /// The batches of the window that has batch `k`.
    fn batches(&self, k: u64) -> Range<u64> {
        let phase = self.phases.iter().rev().find(|from| **from <= k);
        let next = self.phases.iter().find(|from| k < **from);
        let (mut start, mut end) = (
            phase.map_or(0, |from| *from),
            next.map_or(self.end, |next| self.end.min(*next)),
        );
        if let Some(n_rows) = self.epoch {
            // The epoch of the batch's last row; it begins in this batch or before.
            let last = (k + 1).saturating_mul(self.rows_per_batch) - 1;
            let first = |epoch: u64| epoch.saturating_mul(n_rows) / self.rows_per_batch;
            start = start.max(first(last / n_rows));
            end = end.min(first(last / n_rows + 1));
        }
        let start = start + (k - start) / self.window * self.window;
        start..end.min(start.saturating_add(self.window))
    }
}
