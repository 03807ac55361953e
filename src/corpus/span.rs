//! Spans: large files are cut, so that several units can share one.

use std::fmt;

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::lines::lines_before;
use super::{Corpus, File, parquet as table};
use crate::fs;
use crate::panics::caught;

/// Size on disk that a unit grows to, and that files are cut at, where a recipe says nothing.
pub const UNIT_BYTES: u64 = 64 << 20;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Span {
    /// The lines that begin at these bytes.
    Bytes {
        /// The first byte.
        start: u64,
        /// The first byte that is not in it.
        end: u64,
    },
    /// Row groups of a Parquet file.
    RowGroups {
        /// The first.
        start: usize,
        /// The first that is not in it.
        end: usize,
    },
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes { start, end } => write!(f, "bytes {start} to {end}"),
            Self::RowGroups { start, end } => write!(f, "row groups {start} to {end}"),
        }
    }
}

impl Corpus {
    /// Cuts files of more than `unit_bytes` where that can be done without reading
    /// them: lines by bytes, Parquet by row groups. Each part stands in the list of
    /// files for itself, and rows are counted from its start.
    pub fn cut(self, unit_bytes: u64) -> Result<Self, Error> {
        let mut files = Vec::with_capacity(self.files.len());
        for file in self.files {
            if file.bytes <= unit_bytes {
                files.push(file);
            } else if file.reading.is_lines() {
                files.extend(by_bytes(&file, unit_bytes));
            } else if file.reading.is_parquet() {
                files.extend(by_row_groups(&file, unit_bytes)?);
            } else {
                files.push(file);
            }
        }
        Ok(Self { files, unit_bytes })
    }

    /// The row that a document has in the whole file, from 0; documents that are cut
    /// out of a part of it are counted from the part's start.
    pub fn row_in_file(&self, file: u32, row: u64) -> u64 {
        let file = self.files.get(file as usize);
        file.map_or(0, File::rows_before) + row
    }
}

impl File {
    /// How many rows the file has before this part of it.
    fn rows_before(&self) -> u64 {
        match (self.span, &self.path) {
            (Some(Span::Bytes { start, .. }), Some(path)) if 0 < start => {
                // The line that holds the last byte before the span began before it.
                lines_before(path, start - 1) + 1
            }
            _ => self.first_row,
        }
    }
}

fn by_bytes(file: &File, unit_bytes: u64) -> Vec<File> {
    let n_spans = file.bytes.div_ceil(unit_bytes.max(1));
    (0..n_spans)
        .map(|n| {
            let start = n * unit_bytes;
            let end = file.bytes.min(start + unit_bytes);
            File {
                bytes: end - start,
                span: Some(Span::Bytes { start, end }),
                ..file.clone()
            }
        })
        .collect()
}

fn by_row_groups(file: &File, unit_bytes: u64) -> Result<Vec<File>, Error> {
    let opened = fs::open(file.local()?)?;
    let metadata = caught(|| ParquetRecordBatchReaderBuilder::try_new(opened))
        .map_err(table::refused(&file.name))?;
    let (mut parts, mut bytes_before, mut rows_before) = (Vec::new(), 0, 0);
    let (mut start, mut bytes, mut rows) = (0, 0, 0);
    let groups = metadata.metadata().row_groups();
    for (group, of) in groups.iter().enumerate() {
        bytes += u64::try_from(of.compressed_size()).unwrap_or_default();
        rows += u64::try_from(of.num_rows()).unwrap_or_default();
        let last = group + 1 == groups.len();
        if unit_bytes <= bytes || last {
            // What is no row group, such as the footer, counts with the last part.
            let bytes_here = match last {
                true => file.bytes.saturating_sub(bytes_before),
                false => bytes,
            };
            parts.push(File {
                bytes: bytes_here,
                span: Some(Span::RowGroups {
                    start,
                    end: group + 1,
                }),
                first_row: rows_before,
                ..file.clone()
            });
            bytes_before += bytes;
            rows_before += rows;
            (start, bytes, rows) = (group + 1, 0, 0);
        }
    }
    Ok(match parts.len() {
        0 | 1 => vec![file.clone()],
        _ => parts,
    })
}
