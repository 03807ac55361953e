//! Sorting more records than memory holds.
//!
//! Records are byte strings of one length, compared as such. They are sorted in
//! runs that fit into memory, each written to a file of its own; the runs are
//! merged as they are read. What is held is one run while records come, and a
//! buffer a run afterwards, whatever the records are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::fs;

/// Bytes of records that are sorted in memory at a time.
pub const RUN_BYTES: usize = 64 << 20;
/// Bytes read from a run at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// Takes records in, in any order.
pub struct Sorter<const N: usize> {
    folder: PathBuf,
    records: Vec<[u8; N]>,
    most: usize,
    runs: Vec<PathBuf>,
}

impl<const N: usize> Sorter<N> {
    /// Sorts with files in `folder`, which is the caller's to remove, and
    /// `run_bytes` of memory.
    pub fn new(folder: &Path, run_bytes: usize) -> Self {
        Self {
            folder: folder.into(),
            records: Vec::new(),
            most: (run_bytes / N.max(1)).max(1),
            runs: Vec::new(),
        }
    }

    /// Takes a record.
    pub fn push(&mut self, record: [u8; N]) -> Result<(), fs::Error> {
        self.records.push(record);
        if self.most <= self.records.len() {
            self.spill()?;
        }
        Ok(())
    }

    /// All records in order.
    pub fn finish(mut self) -> Result<Sorted<N>, fs::Error> {
        self.records.sort_unstable();
        let mut sorted = Sorted {
            memory: std::mem::take(&mut self.records).into_iter(),
            runs: Vec::new(),
            next: BinaryHeap::new(),
        };
        for path in &self.runs {
            sorted.runs.push(Run {
                reader: BufReader::with_capacity(BUFFER_BYTES, fs::open(path)?),
                path: path.clone(),
            });
        }
        for run in 0..=sorted.runs.len() {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }

    fn spill(&mut self) -> Result<(), fs::Error> {
        self.records.sort_unstable();
        let path = self.folder.join(format!("{N}-{}", self.runs.len()));
        let mut output = fs::Output::create(&path)?;
        for record in self.records.drain(..) {
            output.write_all(&record)?;
        }
        output.publish()?;
        self.runs.push(path);
        Ok(())
    }
}

struct Run {
    reader: BufReader<std::fs::File>,
    path: PathBuf,
}

/// Records in order, as they are asked for.
pub struct Sorted<const N: usize> {
    memory: std::vec::IntoIter<[u8; N]>,
    runs: Vec<Run>,
    /// The next record of each run; the last run is the one in memory.
    next: BinaryHeap<Reverse<([u8; N], usize)>>,
}

impl<const N: usize> Sorted<N> {
    /// The next record.
    pub fn next(&mut self) -> Result<Option<[u8; N]>, fs::Error> {
        let Some(Reverse((record, run))) = self.next.pop() else {
            return Ok(None);
        };
        self.refill(run)?;
        Ok(Some(record))
    }

    fn refill(&mut self, run: usize) -> Result<(), fs::Error> {
        let record = match self.runs.get_mut(run) {
            None => self.memory.next(),
            Some(run) => run.read()?,
        };
        self.next
            .extend(record.map(|record| Reverse((record, run))));
        Ok(())
    }
}

impl Run {
    fn read<const N: usize>(&mut self) -> Result<Option<[u8; N]>, fs::Error> {
        let mut record = [0; N];
        let mut filled = 0;
        while let Some(rest) = record.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self
                .reader
                .read(rest)
                .map_err(fs::Error::new("read", &self.path))?
            {
                0 if filled == 0 => return Ok(None),
                0 => {
                    let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Err(fs::Error::new("read", &self.path)(cut));
                }
                bytes => filled += bytes,
            }
        }
        Ok(Some(record))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn records_come_back_in_order(
            records in prop::collection::vec(any::<[u8; 3]>(), 0..60),
            run_bytes in 1usize..64,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), run_bytes);
            for record in &records {
                sorter.push(*record).unwrap();
            }
            let mut sorted = sorter.finish().unwrap();
            let mut found = Vec::new();
            while let Some(record) = sorted.next().unwrap() {
                found.push(record);
            }
            let mut expected = records;
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
