//! Sorting more records than memory holds.
//!
//! Records are byte strings of one length, compared as such. They are sorted in
//! runs that fit into memory, each written to a file of its own; the runs are
//! merged as they are read; where they are many, they are merged into one before.
//! What is held is one run and a buffer for each file, whatever the records are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use crate::fs;

/// What sorting may use at a time.
#[derive(Clone, Copy)]
pub struct Limits {
    /// Bytes of records that are sorted in memory.
    pub run_bytes: usize,
    /// Files that are merged; at least 2.
    pub files: usize,
}

impl Limits {
    /// 64 MiB, and far fewer files than a process may open.
    pub const USUAL: Self = Self {
        run_bytes: 64 << 20,
        files: 128,
    };
}

/// Bytes read from a run at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// Takes records in, in any order.
pub struct Sorter<const N: usize> {
    folder: PathBuf,
    records: Vec<[u8; N]>,
    most: usize,
    most_runs: usize,
    runs: Vec<PathBuf>,
    /// Files written so far, which names them.
    written: usize,
}

impl<const N: usize> Sorter<N> {
    /// Sorts with files in `folder`, which is the caller's to remove.
    pub fn new(folder: &Path, limits: Limits) -> Self {
        Self {
            folder: folder.into(),
            records: Vec::new(),
            most: (limits.run_bytes / N.max(1)).max(1),
            most_runs: limits.files.max(2),
            runs: Vec::new(),
            written: 0,
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
        Sorted::of(&self.runs, std::mem::take(&mut self.records))
    }

    fn spill(&mut self) -> Result<(), fs::Error> {
        self.records.sort_unstable();
        let (path, mut output) = self.next_run()?;
        for record in self.records.drain(..) {
            output.write_all(&record)?;
        }
        output.publish()?;
        self.runs.push(path);
        if self.runs.len() < self.most_runs {
            return Ok(());
        }
        let (path, mut output) = self.next_run()?;
        let mut sorted = Sorted::<N>::of(&self.runs, Vec::new())?;
        while let Some(record) = sorted.next()? {
            output.write_all(&record)?;
        }
        output.publish()?;
        let merged = std::mem::replace(&mut self.runs, vec![path]);
        merged.iter().try_for_each(|run| fs::remove_file(run))
    }

    fn next_run(&mut self) -> Result<(PathBuf, fs::Output), fs::Error> {
        let path = self.folder.join(format!("{N}-{}", self.written));
        self.written += 1;
        let output = fs::Output::create(&path)?;
        Ok((path, output))
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
    /// Merges files and records that are each sorted.
    fn of(runs: &[PathBuf], memory: Vec<[u8; N]>) -> Result<Self, fs::Error> {
        let run = |path: &PathBuf| -> Result<Run, fs::Error> {
            Ok(Run {
                reader: BufReader::with_capacity(BUFFER_BYTES, fs::open(path)?),
                path: path.clone(),
            })
        };
        let mut sorted = Self {
            memory: memory.into_iter(),
            runs: runs.iter().map(run).collect::<Result<_, _>>()?,
            next: BinaryHeap::new(),
        };
        for run in 0..=runs.len() {
            sorted.refill(run)?;
        }
        Ok(sorted)
    }

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
            files in 2usize..8,
        ) {
            let folder = tempfile::tempdir().unwrap();
            let mut sorter = Sorter::new(folder.path(), Limits { run_bytes, files });
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
