//! Which positions of its row a position attends to: one range of keys each.

use std::ops::Range;
use std::sync::Arc;

use super::config::{Attention, Config};
use crate::batch::Batch;

/// What one position sees of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The first key.
    first: u32,
    /// The key after the last.
    end: u32,
    /// Where the position stands in its document, from 0.
    place: u32,
}

impl Reach {
    /// What position `at` sees whose document begins at `start`: what lies between, and
    /// itself; all of a prefix that it is part of; nothing that the window leaves behind.
    pub fn new(at: u32, start: u32, prefix: u32, window: Option<u32>) -> Self {
        let left_behind = window.map_or(0, |window| (at + 1).saturating_sub(window));
        Self {
            first: start.max(left_behind),
            end: prefix.max(at + 1),
            place: at - start,
        }
    }

    /// The keys that it attends to; its own is among them.
    pub fn keys(self) -> Range<usize> {
        self.first as usize..self.end as usize
    }

    /// What tells its position to the model.
    pub fn place(self) -> usize {
        self.place as usize
    }
}

/// What every position of a batch sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// Of each position, row by row; none where each sees itself and all before it.
    reaches: Option<Arc<[Reach]>>,
    /// Positions a row.
    length: usize,
}

impl Mask {
    /// Rows of `length` positions, each of which sees itself and all before it.
    pub fn causal(length: usize) -> Self {
        Self {
            reaches: None,
            length,
        }
    }

    /// What a model sees of a batch.
    pub fn new(config: &Config, batch: &Batch) -> Self {
        let length = batch.length;
        if config.attention == Attention::Causal && config.window.is_none() {
            return Self::causal(length);
        }
        let starts = match config.attention {
            Attention::Document => batch.starts(),
            Attention::Causal | Attention::PrefixLm => vec![0; batch.rows * length],
        };
        let prefix = |row: usize| match (config.attention, batch.prefixes.get(row)) {
            // A row is shorter than 2^31 ids.
            (Attention::PrefixLm, Some(prefix)) => {
                (*prefix).min(u32::try_from(length).unwrap_or(u32::MAX))
            }
            _ => 0,
        };
        let window = config.window();
        let rows = starts.chunks(length.max(1)).enumerate();
        let reaches = rows.flat_map(|(row, starts)| {
            let prefix = prefix(row);
            let reach = move |(at, start): (u32, &u32)| Reach::new(at, *start, prefix, window);
            (0..).zip(starts).map(reach)
        });
        Self {
            reaches: Some(reaches.collect()),
            length,
        }
    }

    /// What one position of the batch sees.
    pub fn reach(&self, position: usize) -> Reach {
        // The caller asks for positions of the batch, of which there are fewer than 2^31 a row.
        let at = u32::try_from(position % self.length.max(1)).unwrap_or(u32::MAX - 1);
        match &self.reaches {
            Some(reaches) => {
                (reaches.get(position).copied()).unwrap_or(Reach::new(at, at, 0, None))
            }
            None => Reach::new(at, 0, 0, None),
        }
    }

    /// Whether each position sees itself and all before it.
    pub fn is_causal(&self) -> bool {
        self.reaches.is_none()
    }

    /// The keys that at least one of some neighbours in a row attends to: in a row, both
    /// ends of a range never fall from one position to the next.
    pub fn span(&self, positions: Range<usize>) -> Range<usize> {
        let last = positions.end.saturating_sub(1);
        self.reach(positions.start).keys().start..self.reach(last).keys().end
    }
}
