//! Parquet shards: standard columns that any reader decodes, with ids that are mapped.
//!
//! `input_ids` is written plain and uncompressed, one page a row group, so that the ids of a
//! row group stand in the file as one run of little-endian numbers; the `.idx` says where.

use std::path::{Path, PathBuf};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::UInt32Type;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use serde_json::json;

use super::Error;
use super::blocks::Blocks;
use super::bytes::{Bytes, Reading};
use super::columns::{self, Columns, DOC_IDS, INPUT_IDS, LABELS};
use super::layout::{BLOCK_BYTES_MAX, Fault, Header};
use crate::digest::{Digest, checksum};
use crate::fs;
use crate::manifest::FORMAT;
use crate::panics::caught;
use crate::sequence::Sequence;

/// A row group is closed when it has so many ids: what a reader decodes at once.
const ROW_GROUP_IDS: usize = 1 << 20;
/// A row group is closed when it has so many rows, however short.
const ROW_GROUP_ROWS: usize = 1 << 16;
/// Rows that are decoded at a time where only ids are wanted.
const DECODED_ROWS: usize = 64;
/// Rows may be so long: a page takes less than 2^31 bytes, and a row lies in one page.
pub const ROW_LENGTH_MAX: u32 = 1 << 27;
/// More than any page has rows or bytes.
const PAGE_MAX: usize = 1 << 31;
/// Labels are signed.
pub const VOCAB_SIZE_MAX: u32 = 1 << 31;
/// The key of the file's metadata that is ours.
pub const METADATA_KEY: &str = "pausedata";
/// Names the writer. Never a version of the program, which would change bytes.
const CREATED_BY: &str = "pausedata version 1";

/// How columns other programs decode are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Plain and uncompressed: mapped.
    Mapped,
    /// Byte-stream-split and zstd: small.
    Compact,
}

/// A run of ids in the file: those of one row group.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: u64,
    rows: u64,
    ids: usize,
    checksum: u64,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The first byte of the ids of each row group, and how many rows it has.
    pub runs: Vec<(u64, u64)>,
    /// XXH3-64 of every block of the file.
    pub blocks: Vec<u64>,
    /// The file's digest.
    pub digest: Option<Digest>,
    /// The length of the file.
    pub bytes: u64,
}

/// Writes one file; dropped before [`Writer::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    writer: ArrowWriter<Blocks>,
    columns: Columns,
    ids: Ids,
    runs: Vec<Run>,
}

impl Writer {
    /// Starts a file with rows of this kind.
    pub fn create(path: &Path, header: &Header, ids: Ids) -> Result<Self, Error> {
        let options = ArrowWriterOptions::new()
            .with_skip_arrow_metadata(true)
            .with_properties(properties(header, ids)?);
        let blocks = Blocks::create(path, &[], BLOCK_BYTES_MAX)?;
        let schema = columns::schema(header.stage);
        let writer = ArrowWriter::try_new_with_options(blocks, schema, options);
        Ok(Self {
            writer: writer.map_err(refused(path, "write"))?,
            path: path.to_path_buf(),
            columns: Columns::new(header.stage, header.reserved),
            ids,
            runs: Vec::new(),
        })
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Sequence) -> Result<(), Error> {
        self.columns.push(row);
        match ROW_GROUP_IDS <= self.columns.ids().len() || ROW_GROUP_ROWS <= self.columns.rows() {
            true => self.close_row_group(),
            false => Ok(()),
        }
    }

    /// Makes the file durable and proves that the ids lie where they are said to.
    pub fn finish(mut self) -> Result<Written, Error> {
        if 0 < self.columns.rows() {
            self.close_row_group()?;
        }
        let finished = self.writer.finish();
        self.check(finished)?;
        let bytes = self.writer.bytes_written() as u64;
        let (blocks, digest) = self.writer.inner_mut().publish(&[])?;
        if self.ids == Ids::Mapped {
            prove(&self.path, &self.runs)?;
        }
        Ok(Written {
            runs: self.runs.iter().map(|run| (run.start, run.rows)).collect(),
            blocks,
            digest,
            bytes,
        })
    }

    fn close_row_group(&mut self) -> Result<(), Error> {
        let rows = self.columns.rows() as u64;
        let ids = self.columns.ids().len();
        let bytes: Vec<u8> = (self.columns.ids().iter())
            .flat_map(|id| id.to_le_bytes())
            .collect();
        let batch = self.columns.take();
        let batch = batch.map_err(|error| refused(&self.path, "write")(error.into()))?;
        let written = self.writer.write(&batch).and_then(|()| self.writer.flush());
        self.check(written)?;
        // The values end the only page of the first column.
        let chunk = self.writer.flushed_row_groups().last();
        let chunk = chunk.and_then(|group| group.columns().first());
        let (start, length) = chunk.map_or((0, 0), |chunk| chunk.byte_range());
        self.runs.push(Run {
            start: (start + length).saturating_sub(bytes.len() as u64),
            rows,
            ids,
            checksum: checksum(&bytes),
        });
        Ok(())
    }

    /// Gives the error of the file, where that is why writing failed.
    fn check<T>(&mut self, result: Result<T, ParquetError>) -> Result<T, Error> {
        result.map_err(|error| match self.writer.inner_mut().take_failure() {
            Some(failure) => failure.into(),
            None => refused(&self.path, "write")(error),
        })
    }
}

/// Checks that a Parquet shard can hold such rows.
pub fn check_limits(header: &Header) -> Result<(), Fault> {
    if VOCAB_SIZE_MAX < header.vocab_size {
        let expected = "at most 2^31 for labels of four bytes";
        return Err(Fault::new("vocabulary size", expected, header.vocab_size));
    }
    if ROW_LENGTH_MAX < header.row_length {
        let expected = "at most 2^27 for rows that lie in one page";
        return Err(Fault::new("row length", expected, header.row_length));
    }
    Ok(())
}

/// Checks that the columns of a file are those of `rows`, as any other reader decodes them.
pub fn check_columns(
    path: &Path,
    header: &Header,
    rows: &mut dyn Iterator<Item = Result<Sequence, Error>>,
) -> Result<(), Error> {
    let damaged = |fault: Fault| super::bytes::damaged(path)(fault);
    let file = fs::open(path)?;
    let builder = decoded(path, || ParquetRecordBatchReaderBuilder::try_new(file))?;
    let expected = columns::schema(header.stage);
    if builder.schema().fields() != expected.fields() {
        let found = builder.schema().to_string();
        return Err(damaged(Fault::new("columns", expected.to_string(), found)));
    }
    let metadata = builder.metadata().file_metadata().key_value_metadata();
    if metadata != Some(&key_values(header)) {
        let (expected, found) = (key_values(header), metadata);
        return Err(damaged(Fault::new(
            "metadata",
            format!("{expected:?}"),
            format!("{found:?}"),
        )));
    }
    let row_length = usize::try_from(header.row_length).unwrap_or(ROW_GROUP_IDS);
    let batch_rows = (ROW_GROUP_IDS / row_length.max(1)).clamp(1, ROW_GROUP_ROWS);
    let mut reader = decoded(path, || builder.with_batch_size(batch_rows).build())?;
    let mut columns = Columns::new(header.stage, header.reserved);
    let mut first = 0;
    while let Some(batch) = decoded(path, || reader.next().transpose())? {
        for row in rows.take(batch.num_rows()) {
            columns.push(&row?);
        }
        let expected = columns.take();
        let expected = expected.map_err(|error| refused(path, "read")(error.into()))?;
        if let Some(fault) = difference(&expected, &batch, first) {
            return Err(damaged(fault));
        }
        first += batch.num_rows() as u64;
    }
    match first == header.rows {
        true => Ok(()),
        false => Err(damaged(Fault::new("count of rows", header.rows, first))),
    }
}

/// The ids of every row of a file, decoded as other readers do.
pub struct IdRows {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
    rows: std::vec::IntoIter<Vec<u32>>,
}

impl IdRows {
    /// Opens a file that has a column `input_ids` like ours.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = fs::open(path)?;
        let builder = decoded(path, || ParquetRecordBatchReaderBuilder::try_new(file))?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), [INPUT_IDS]);
        let builder = builder.with_projection(mask).with_batch_size(DECODED_ROWS);
        Ok(Self {
            reader: decoded(path, || builder.build())?,
            path: path.to_path_buf(),
            rows: Vec::new().into_iter(),
        })
    }

    fn decode(&self, batch: &RecordBatch) -> Result<Vec<Vec<u32>>, Error> {
        let lists = batch.column(0).as_list_opt::<i32>();
        let values = lists.and_then(|lists| lists.values().as_primitive_opt::<UInt32Type>());
        let (Some(lists), Some(values)) = (lists, values) else {
            let found = batch.schema().to_string();
            let fault = Fault::new("column `input_ids`", "list of uint32", found);
            return Err(super::bytes::damaged(&self.path)(fault));
        };
        let ends = lists.value_offsets().windows(2);
        let row = |ends: &[i32]| {
            let [start, end] = ends else {
                return Vec::new();
            };
            let range = usize::try_from(*start).ok().zip(usize::try_from(*end).ok());
            let ids = range.and_then(|(start, end)| values.values().get(start..end));
            ids.unwrap_or_default().to_vec()
        };
        Ok(ends.map(row).collect())
    }
}

impl Iterator for IdRows {
    type Item = Result<Vec<u32>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            let batch = decoded(&self.path, || self.reader.next().transpose());
            match batch.and_then(|batch| batch.map(|batch| self.decode(&batch)).transpose()) {
                Ok(Some(rows)) => self.rows = rows.into_iter(),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The first column and row in which two batches differ.
fn difference(expected: &RecordBatch, found: &RecordBatch, first: u64) -> Option<Fault> {
    if expected == found {
        return None;
    }
    let rows = expected.num_rows().min(found.num_rows());
    let schema = expected.schema();
    let names = schema.fields().iter().map(|field| field.name());
    let columns = names.zip(expected.columns().iter().zip(found.columns()));
    for (name, (expected, found)) in columns {
        let differs = |row: &usize| expected.slice(*row, 1) != found.slice(*row, 1);
        if let Some(row) = (0..rows).find(differs) {
            let field = format!("column `{name}` of row {}", first + row as u64);
            return Some(Fault::new(
                field,
                "what follows from the ids",
                "other values",
            ));
        }
    }
    Some(Fault::new(
        format!("rows from row {first}"),
        expected.num_rows(),
        found.num_rows(),
    ))
}

/// Compares the runs of ids in the file with what was written.
fn prove(path: &Path, runs: &[Run]) -> Result<(), Error> {
    let file = Bytes::open(path, None, Reading::Mmap)?;
    for (group, run) in runs.iter().enumerate() {
        let start = usize::try_from(run.start).unwrap_or(usize::MAX);
        let end = start.saturating_add(4 * run.ids);
        let found = file.see(start..end, |bytes| Ok(checksum(bytes)))?;
        if found != run.checksum {
            let field = format!("ids of row group {group} at byte {start}");
            let expected = format!("{:016x}", run.checksum);
            let fault = Fault::new(field, expected, format!("{found:016x}"));
            return Err(file.damaged(fault));
        }
    }
    Ok(())
}

fn properties(header: &Header, ids: Ids) -> Result<WriterProperties, Error> {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    let list = |name: &str| ColumnPath::from(vec![name.into(), "list".into(), "element".into()]);
    let split = |builder: WriterPropertiesBuilder, name: &str| {
        builder
            .set_column_dictionary_enabled(list(name), false)
            .set_column_encoding(list(name), Encoding::BYTE_STREAM_SPLIT)
    };
    let builder = WriterProperties::builder()
        .set_created_by(CREATED_BY.into())
        .set_key_value_metadata(Some(key_values(header)))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_compression(Compression::ZSTD(level))
        // One page a row group; rows are counted here.
        .set_max_row_group_row_count(None)
        .set_data_page_row_count_limit(PAGE_MAX)
        .set_data_page_size_limit(PAGE_MAX)
        .set_column_dictionary_enabled(list(DOC_IDS), true);
    let builder = split(builder, LABELS);
    let builder = match ids {
        Ids::Compact => split(builder, INPUT_IDS),
        Ids::Mapped => builder
            .set_column_dictionary_enabled(list(INPUT_IDS), false)
            .set_column_encoding(list(INPUT_IDS), Encoding::PLAIN)
            .set_column_compression(list(INPUT_IDS), Compression::UNCOMPRESSED),
    };
    Ok(builder.build())
}

/// What the file says about itself, as JSON under one key.
fn key_values(header: &Header) -> Vec<KeyValue> {
    let reserved = header.reserved;
    let value = json!({
        "format": FORMAT,
        "stage": header.stage,
        "tokenizer": header.tokenizer,
        "vocab_size": header.vocab_size,
        "reserved": reserved,
        "row_length": header.row_length,
        "unit": header.unit,
        "part": header.part,
    });
    vec![KeyValue::new(METADATA_KEY.into(), value.to_string())]
}

/// What the library reads of a file; it panics on some that are damaged.
fn decoded<T, E>(path: &Path, read: impl FnOnce() -> Result<T, E>) -> Result<T, Error>
where
    E: Into<ParquetError>,
{
    let read = caught(|| read().map_err(Into::into));
    read.map_err(|error| match error.downcast::<ParquetError>() {
        Ok(error) => refused(path, "read")(*error),
        Err(panic) => refused(path, "read")(ParquetError::External(panic)),
    })
}

fn refused(path: &Path, action: &'static str) -> impl FnOnce(ParquetError) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Parquet {
        path,
        action,
        source,
    }
}
