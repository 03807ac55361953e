//! Best-fit packing with a bounded number of open rows.

use std::collections::BTreeMap;

use super::{Open, Part, Row};

/// Rows that are open at once, at most.
const ROWS_MAX: usize = 1024;
/// And at least, however long they are.
const ROWS_MIN: usize = 64;
/// Ids of all open rows together, where that allows [`ROWS_MIN`] rows.
const IDS_MAX: usize = 1 << 22;

/// The rows that still have room.
#[derive(Clone, Debug)]
pub(super) struct BestFit<T> {
    /// Ids of a full row.
    room: usize,
    rows_max: usize,
    /// By the room that is left, then by age.
    open: BTreeMap<(usize, u64), Open<T>>,
    opened: u64,
}

impl<T: Copy> BestFit<T> {
    pub(super) fn new(room: usize) -> Self {
        Self::with_rows(room, (IDS_MAX / room).clamp(ROWS_MIN, ROWS_MAX))
    }

    pub(super) fn with_rows(room: usize, rows_max: usize) -> Self {
        Self {
            room,
            rows_max,
            open: BTreeMap::new(),
            opened: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn n_open(&self) -> usize {
        self.open.len()
    }

    /// Full rows first, then the rest: so the pieces of a document leave in order.
    pub(super) fn push(&mut self, mut rest: Part, tag: T, emit: &mut impl FnMut(Row<T>)) {
        while self.room <= rest.len() {
            let (full, later) = rest.split_at(self.room);
            emit(Open::with(full, tag).close());
            rest = later;
        }
        if 0 < rest.len() {
            self.place(rest, tag, emit);
        }
    }

    /// The oldest rows first.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Row<T>)) {
        let mut rows: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        rows.sort_unstable_by_key(|((_, age), _)| *age);
        for (_, row) in rows {
            emit(row.close());
        }
    }

    /// Puts a part that is shorter than a row into the row that it fits best.
    fn place(&mut self, part: Part, tag: T, emit: &mut impl FnMut(Row<T>)) {
        let best = self.open.range((part.len(), 0)..).next();
        let (row, age) = match best.map(|(key, _)| *key) {
            Some(key) => match self.open.remove(&key) {
                Some(mut row) => {
                    row.start(tag);
                    row.extend(part);
                    (row, key.1)
                }
                None => return,
            },
            None => {
                if self.rows_max <= self.open.len()
                    && let Some((_, fullest)) = self.open.pop_first()
                {
                    emit(fullest.close());
                }
                self.opened += 1;
                (Open::with(part, tag), self.opened)
            }
        };
        match self.room.saturating_sub(row.ids.len()) {
            0 => emit(row.close()),
            left => drop(self.open.insert((left, age), row)),
        }
    }
}
