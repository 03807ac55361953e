//! Parquet: record batches of the needed columns alone.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    Schema, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader,
    ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;

use crate::document::{Notes, Text};
use crate::fs;
use crate::panics::caught;

use super::DOCUMENT_BYTES_MAX;
use super::block::{BLOCK_BYTES, Chunk};
use super::columns::Columns;
use super::error::{Error, Place};
use super::pages;
use super::template::{FieldError, Found, Record, Scalar, Shape};
use super::{File, Span};

/// Rows decoded at once: documents can be whole chapters.
const BATCH_ROWS: usize = 64;

/// The record batches of a Parquet file, to be made documents of.
pub struct Batches {
    rows: Rows,
    shape: Arc<Shape>,
    /// Size of the file, or the part of it, on disk, and its rows.
    whole: (u64, u64),
    /// Rows of the file before this part of it.
    first_row: u64,
}

impl Batches {
    /// Opens a file; its columns must hold the fields of `shape`.
    pub fn open(file: &File, path: &Path, shape: Arc<Shape>) -> Result<Self, Error> {
        let name = file.name.as_str();
        let rows = Rows::open(path, name, file.span, |schema| {
            let column = |field| {
                root(schema, field).ok_or_else(|| Error::Field {
                    file: name.into(),
                    place: Place::File,
                    problem: FieldError::Missing {
                        field: field.into(),
                        fields: names(schema),
                    },
                })
            };
            shape.fields().into_iter().map(column).collect()
        })?;
        Ok(Self {
            whole: (file.bytes, rows.n_rows),
            first_row: file.first_row,
            rows,
            shape,
        })
    }

    /// About how many bytes of the file were read when so many rows were.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of the bytes is not negative and not more than all of them"
    )]
    fn bytes_at(&self, rows: u64) -> u64 {
        let (bytes, n_rows) = self.whole;
        (bytes as f64 * (rows as f64 / n_rows.max(1) as f64)) as u64
    }
}

impl Iterator for Batches {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = self.rows.row;
        match self.rows.next_rows()? {
            Err(error) => Some(Err(error)),
            Ok((batch, bytes)) => {
                self.rows.row += batch.num_rows() as u64;
                Some(Ok(Chunk {
                    read: self.bytes_at(self.rows.row) - self.bytes_at(first),
                    bytes,
                    records: Box::new(Documents {
                        name: self.rows.name.clone(),
                        fields: self.rows.fields.clone(),
                        shape: self.shape.clone(),
                        batch,
                        at: 0,
                        first,
                        before: self.first_row,
                    }),
                }))
            }
        }
    }
}

/// The documents of a batch, with their row.
struct Documents {
    name: String,
    fields: Arc<[String]>,
    shape: Arc<Shape>,
    batch: RecordBatch,
    at: usize,
    /// The row that the batch begins with.
    first: u64,
    /// Rows of the file before the part of it that is read.
    before: u64,
}

impl Iterator for Documents {
    type Item = Result<(u64, Text, Notes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.batch.num_rows() <= self.at {
            return None;
        }
        let row = Row {
            batch: &self.batch,
            row: self.at,
            fields: &self.fields,
        };
        let number = self.first + self.at as u64;
        if DOCUMENT_BYTES_MAX < text_bytes(&self.batch, self.at) {
            return Some(Err(Error::Long {
                file: self.name.clone(),
                place: Place::Row(number),
                limit: DOCUMENT_BYTES_MAX,
            }));
        }
        self.at += 1;
        Some(match self.shape.read(&row) {
            Ok((text, notes)) => Ok((number, text, notes)),
            Err(problem) => Err(Error::Field {
                file: self.name.clone(),
                place: Place::Row(self.before + number),
                problem,
            }),
        })
    }
}

/// Reads all records of a file into columns.
pub fn collect(path: &Path, name: &str, columns: &mut Columns) -> Result<(), Error> {
    let mut cells = Vec::new();
    let mut rows = Rows::open(path, name, None, |schema| {
        for field in schema.fields() {
            leaves(field.name(), field.data_type(), &mut cells);
        }
        cells.iter().for_each(|cell| columns.note(cell));
        cells.retain(|cell| columns.wants(cell));
        if cells.is_empty() {
            // Rows count even where the query names no column of the file.
            return Ok((0..schema.fields().len()).take(1).collect());
        }
        Ok(cells.iter().filter_map(|cell| root(schema, cell)).collect())
    })?;
    while let Some((number, row)) = rows.next()? {
        for cell in &cells {
            columns
                .cell(cell, row.find(cell))
                .map_err(|problem| Error::Field {
                    file: name.into(),
                    place: Place::Row(number),
                    problem,
                })?;
        }
        columns.end_row();
    }
    Ok(())
}

/// The dotted paths of the columns inside a column, or its name.
fn leaves(path: &str, kind: &DataType, found: &mut Vec<String>) {
    match kind {
        DataType::Struct(members) => {
            for member in members {
                leaves(
                    &format!("{path}.{}", member.name()),
                    member.data_type(),
                    found,
                );
            }
        }
        _ => found.push(path.into()),
    }
}

fn names(schema: &Schema) -> Vec<String> {
    schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect()
}

/// The rows of some columns of a file.
struct Rows {
    name: String,
    reader: ParquetRecordBatchReader,
    fields: Arc<[String]>,
    n_rows: u64,
    batch: RecordBatch,
    at: usize,
    row: u64,
}

impl Rows {
    fn open(
        path: &Path,
        name: &str,
        span: Option<Span>,
        columns: impl FnOnce(&Schema) -> Result<Vec<usize>, Error>,
    ) -> Result<Self, Error> {
        let file = fs::open(path)?;
        let pages = file.try_clone().map_err(fs::Error::new("read", path))?;
        let builder = caught(|| builder(file)).map_err(refused(name))?;
        let schema = builder.schema().clone();
        let groups = builder.metadata().row_groups();
        let chosen = match span {
            Some(Span::RowGroups { start, end }) => start..end,
            _ => 0..groups.len(),
        };
        let n_rows = groups.get(chosen.clone()).unwrap_or_default();
        let n_rows = n_rows.iter().map(|group| group.num_rows()).sum::<i64>();
        let mask = ProjectionMask::roots(builder.parquet_schema(), columns(&schema)?);
        for group in groups.get(chosen.clone()).unwrap_or_default() {
            caught(|| check_pages(&pages, group, &mask)).map_err(refused(name))?;
        }
        let reader = caught(|| {
            builder
                .with_projection(mask)
                .with_row_groups(chosen.collect())
                .with_batch_size(BATCH_ROWS)
                .build()
        })
        .map_err(refused(name))?;
        Ok(Self {
            name: name.into(),
            reader,
            fields: names(&schema).into(),
            n_rows: u64::try_from(n_rows).unwrap_or_default(),
            batch: RecordBatch::new_empty(schema),
            at: 0,
            row: 0,
        })
    }

    fn next_batch(&mut self) -> Option<Result<RecordBatch, Error>> {
        let mut next = || self.reader.next().transpose();
        match caught(|| next()?.map(decode_dictionaries).transpose()) {
            Ok(batch) => batch.map(Ok),
            Err(error) => Some(Err(refused(&self.name)(error))),
        }
    }

    /// Rows with about a block's text, and the bytes of that: a batch can be of
    /// rows that share one large value.
    fn next_rows(&mut self) -> Option<Result<(RecordBatch, usize), Error>> {
        while self.batch.num_rows() == 0 {
            match self.next_batch()? {
                Ok(batch) => self.batch = batch,
                Err(error) => return Some(Err(error)),
            }
        }
        let (mut rows, mut bytes) = (0, 0);
        while rows < self.batch.num_rows() && (rows == 0 || bytes < BLOCK_BYTES) {
            bytes += text_bytes(&self.batch, rows);
            rows += 1;
        }
        let rest = self.batch.num_rows() - rows;
        let taken = self.batch.slice(0, rows);
        self.batch = self.batch.slice(rows, rest);
        Some(Ok((taken, bytes)))
    }

    fn next(&mut self) -> Result<Option<(u64, Row<'_>)>, Error> {
        while self.batch.num_rows() <= self.at {
            let Some(batch) = self.next_batch() else {
                return Ok(None);
            };
            self.batch = batch?;
            self.at = 0;
        }
        let row = Row {
            batch: &self.batch,
            row: self.at,
            fields: &self.fields,
        };
        let number = self.row;
        self.at += 1;
        self.row += 1;
        Ok(Some((number, row)))
    }
}

pub(super) fn refused(
    name: &str,
) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> Error {
    let file = name.to_owned();
    move |source| Error::Parquet { file, source }
}

/// A reader that shows text as views: rows with the same value share its bytes.
fn builder(
    file: std::fs::File,
) -> Result<ParquetRecordBatchReaderBuilder<std::fs::File>, parquet::errors::ParquetError> {
    let metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())?;
    let schema = metadata.schema();
    let fields: Vec<FieldRef> = schema.fields().iter().map(viewed).collect();
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    let options = ArrowReaderOptions::new().with_schema(Arc::new(schema));
    let metadata = ArrowReaderMetadata::try_new(metadata.metadata().clone(), options)?;
    Ok(ParquetRecordBatchReaderBuilder::new_with_metadata(
        file, metadata,
    ))
}

fn viewed(field: &FieldRef) -> FieldRef {
    let is_text = |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8);
    let kind = match field.data_type() {
        DataType::Struct(members) => DataType::Struct(members.iter().map(viewed).collect()),
        DataType::Dictionary(_, values) if is_text(values) => DataType::Utf8View,
        kind if is_text(kind) => DataType::Utf8View,
        _ => return field.clone(),
    };
    let field =
        Field::new(field.name(), kind, field.is_nullable()).with_metadata(field.metadata().clone());
    Arc::new(field)
}

/// Checks the pages of the columns that are read.
fn check_pages(
    file: &std::fs::File,
    group: &RowGroupMetaData,
    mask: &ProjectionMask,
) -> Result<(), pages::Error> {
    let columns = group.columns().iter().enumerate();
    for (_, column) in columns.filter(|(leaf, _)| mask.leaf_included(*leaf)) {
        let (start, length) = column.byte_range();
        pages::check(file, start..start.saturating_add(length))?;
    }
    Ok(())
}

/// The bytes of the text in a row.
fn text_bytes(batch: &RecordBatch, row: usize) -> usize {
    let columns = batch.columns().iter();
    columns.map(|column| text_bytes_of(column, row)).sum()
}

fn text_bytes_of(array: &dyn Array, row: usize) -> usize {
    if let Some(members) = array.as_struct_opt() {
        let columns = members.columns().iter();
        return columns.map(|column| text_bytes_of(column, row)).sum();
    }
    match array.as_string_view_opt() {
        // Nulls are short too.
        Some(texts) => texts.value(row).len(),
        None => 0,
    }
}

/// The top-level column that a field is in.
fn root(schema: &Schema, field: &str) -> Option<usize> {
    let column = |name: &str| schema.index_of(name).ok();
    column(field).or_else(|| {
        field
            .rmatch_indices('.')
            .filter_map(|(dot, _)| field.get(..dot))
            .find_map(column)
    })
}

/// Replaces dictionary columns, as pandas writes categories, by their values.
fn decode_dictionaries(batch: RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Dictionary(_, values) => cast(column, values).map(|c| (c, true)),
            _ => Ok((column.clone(), false)),
        });
    let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
    if columns.iter().all(|(_, decoded)| !decoded) {
        return Ok(batch);
    }
    let schema = batch.schema();
    RecordBatch::try_from_iter_with_nullable(
        schema
            .fields()
            .iter()
            .zip(columns)
            .map(|(field, (column, _))| (field.name().clone(), column, true)),
    )
}

/// One row of a batch.
struct Row<'a> {
    batch: &'a RecordBatch,
    row: usize,
    fields: &'a [String],
}

impl Record for Row<'_> {
    fn find(&self, field: &str) -> Found<'_> {
        let (name, path) = match root(&self.batch.schema(), field)
            .and_then(|index| self.batch.schema().fields().get(index).cloned())
        {
            Some(column) => match field.strip_prefix(column.name().as_str()) {
                Some(path) => (column.name().clone(), path),
                None => return Found::Missing,
            },
            None => return Found::Missing,
        };
        match self.batch.column_by_name(&name) {
            Some(column) => value(column.as_ref(), self.row, path),
            None => Found::Missing,
        }
    }

    fn fields(&self) -> Vec<String> {
        self.fields.to_vec()
    }
}

/// The value in `row`, or what `path` (empty, or `.name...`) leads to inside it.
fn value<'a>(array: &'a dyn Array, row: usize, path: &str) -> Found<'a> {
    if let Some(path) = path.strip_prefix('.') {
        return match array.as_struct_opt() {
            Some(members) => member(members, row, path),
            None => Found::Missing,
        };
    }
    if array.is_null(row) {
        return Found::Null;
    }
    macro_rules! number {
        ($scalar:path, $kind:ty) => {
            Found::Plain($scalar(array.as_primitive::<$kind>().value(row).into()))
        };
    }
    match array.data_type() {
        DataType::Utf8 => Found::Text(array.as_string::<i32>().value(row).into()),
        DataType::LargeUtf8 => Found::Text(array.as_string::<i64>().value(row).into()),
        DataType::Utf8View => Found::Text(array.as_string_view().value(row).into()),
        DataType::Boolean => Found::Plain(Scalar::Bool(array.as_boolean().value(row))),
        DataType::Int8 => number!(Scalar::Int, Int8Type),
        DataType::Int16 => number!(Scalar::Int, Int16Type),
        DataType::Int32 => number!(Scalar::Int, Int32Type),
        DataType::Int64 => number!(Scalar::Int, Int64Type),
        DataType::UInt8 => number!(Scalar::UInt, UInt8Type),
        DataType::UInt16 => number!(Scalar::UInt, UInt16Type),
        DataType::UInt32 => number!(Scalar::UInt, UInt32Type),
        DataType::UInt64 => number!(Scalar::UInt, UInt64Type),
        DataType::Float32 => number!(Scalar::Float32, Float32Type),
        DataType::Float64 => number!(Scalar::Float64, Float64Type),
        DataType::Null => Found::Null,
        DataType::Struct(_) => Found::Other("a struct"),
        DataType::List(_) => numbers(&array.as_list::<i32>().value(row)),
        DataType::LargeList(_) => numbers(&array.as_list::<i64>().value(row)),
        DataType::FixedSizeList(..) => numbers(&array.as_fixed_size_list().value(row)),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Found::Other("bytes"),
        _ => Found::Other("a type that is no text"),
    }
}

/// A list, where it is one of numbers.
fn numbers<'a>(list: &dyn Array) -> Found<'a> {
    let number = |row| match value(list, row, "") {
        Found::Null => Some(f64::NAN),
        Found::Plain(Scalar::Int(value)) => Some(value as f64),
        Found::Plain(Scalar::UInt(value)) => Some(value as f64),
        Found::Plain(Scalar::Float32(value)) => Some(value.into()),
        Found::Plain(Scalar::Float64(value)) => Some(value),
        _ => None,
    };
    let numbers: Option<Vec<f64>> = (0..list.len()).map(number).collect();
    numbers.map_or(Found::Other("a list"), Found::Numbers)
}

fn member<'a>(members: &'a StructArray, row: usize, path: &str) -> Found<'a> {
    if members.is_null(row) {
        return Found::Null;
    }
    if let Some(column) = members.column_by_name(path) {
        return value(column.as_ref(), row, "");
    }
    path.rmatch_indices('.')
        .filter_map(|(dot, _)| Some((members.column_by_name(path.get(..dot)?)?, path.get(dot..)?)))
        .map(|(column, rest)| value(column.as_ref(), row, rest))
        .next()
        .unwrap_or(Found::Missing)
}
