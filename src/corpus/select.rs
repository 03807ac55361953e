//! `select`: a polars SQL query over one file, as the table `source`.
//!
//! What is held in memory is the columns of one file that the query names (all
//! where it has a `*`), and its result. Columns are strings, 64-bit integers,
//! 64-bit floats and truth values; a nested member is a column called by its
//! dotted path, so that the query writes `"question.stem"`, in quotes.
//!
//! A file without rows gives none, whatever the query.
//!
//! A filter or projection keeps the file's order. Grouping, joining and set
//! operations do not, so they need `ORDER BY`; rows that are equal there come
//! in no fixed order, so a query should order by what tells its rows apart.

use std::path::Path;

use polars::prelude::{AnyValue, DataFrame, IntoLazy, PolarsResult};
use polars::sql::SQLContext;

use crate::document::{Notes, Text};
use crate::panics::caught;

use super::columns::Columns;
use super::decompress::{Compression, Input};
use super::error::{Error, Place, Problem};
use super::template::{Found, Record, Scalar, Shape};
use super::{jsonl, parquet};

/// The table that a query reads.
const TABLE: &str = "source";

/// What a query runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// JSON lines.
    Jsonl(Compression),
    /// Parquet.
    Parquet,
}

/// The documents that a query's result makes, with their row in it.
pub struct Documents {
    name: String,
    shape: Shape,
    frame: DataFrame,
    row: usize,
}

impl Documents {
    /// Runs `query` on a file.
    pub fn open(
        path: &Path,
        name: &str,
        table: Table,
        query: &str,
        shape: Shape,
    ) -> Result<Self, Error> {
        let mut columns = Columns::new(query);
        match table {
            Table::Jsonl(compression) => {
                jsonl::collect(Input::open(path, name, compression)?, &mut columns)?;
            }
            Table::Parquet => parquet::collect(path, name, &mut columns)?,
        }
        let fields = columns.names();
        if columns.is_empty() {
            // Types are told by values: without rows there are no columns to ask for.
            return Ok(Self {
                name: name.into(),
                shape,
                frame: DataFrame::empty(),
                row: 0,
            });
        }
        // Polars panics on what was left out of its build; a query may ask for that.
        match caught(|| run(columns, query)) {
            Ok(frame) => Ok(Self {
                name: name.into(),
                shape,
                frame,
                row: 0,
            }),
            Err(error) => Err(Error::Select {
                file: name.into(),
                fields,
                message: explain(error.as_ref()),
            }),
        }
    }

    fn read(&mut self) -> Result<Option<(u64, Text, Notes)>, Error> {
        if self.frame.height() <= self.row {
            return Ok(None);
        }
        let row = self.row;
        self.row += 1;
        let record = Row {
            frame: &self.frame,
            row,
        };
        match self.shape.read(&record) {
            Ok((text, notes)) => Ok(Some((row as u64, text, notes))),
            Err(problem) => Err(Error::Field {
                file: self.name.clone(),
                place: Place::Row(row as u64),
                problem,
            }),
        }
    }
}

impl Iterator for Documents {
    type Item = Result<(u64, Text, Notes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Refuses a query whose rows come in no fixed order.
pub fn check(query: &str) -> Result<(), Problem> {
    let words = words(query);
    let has = |phrase: &str| {
        let phrase: Vec<_> = phrase.split(' ').collect();
        words.windows(phrase.len()).any(|window| window == phrase)
    };
    let unordered = ["GROUP BY", "JOIN", "UNION", "INTERSECT", "EXCEPT"];
    let found = unordered.into_iter().find(|keyword| has(keyword));
    match found {
        Some(keyword) if !has("ORDER BY") => Err(Problem::Unordered { keyword }),
        _ => Ok(()),
    }
}

/// The query's words in upper case, without what stands in quotes.
fn words(query: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for character in query.chars() {
        let ends_word = match (quote, character) {
            (Some(open), _) => {
                if character == open {
                    quote = None;
                }
                true
            }
            (None, '\'' | '"' | '`') => {
                quote = Some(character);
                true
            }
            _ => !character.is_alphanumeric() && character != '_',
        };
        match words.last_mut() {
            Some(word) if !ends_word => word.extend(character.to_uppercase()),
            Some(word) if word.is_empty() => {}
            _ => words.push(String::new()),
        }
    }
    words
}

fn run(columns: Columns, query: &str) -> PolarsResult<DataFrame> {
    let mut context = SQLContext::new();
    context.register(TABLE, columns.finish()?.lazy());
    context.execute(query)?.collect()
}

fn explain(error: &dyn std::error::Error) -> String {
    // What follows the first line is polars's plan of the query, and its list
    // of columns is short of those that were not read.
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let end = line.find("; valid columns").unwrap_or(line.len());
    line.get(..end).unwrap_or(line).to_owned()
}

/// One row of a result.
struct Row<'a> {
    frame: &'a DataFrame,
    row: usize,
}

impl Record for Row<'_> {
    fn find(&self, field: &str) -> Found<'_> {
        let Ok(column) = self.frame.column(field) else {
            return Found::Missing;
        };
        match column.get(self.row) {
            Err(_) | Ok(AnyValue::Null) => Found::Null,
            Ok(AnyValue::String(text)) => Found::Text(text.into()),
            Ok(AnyValue::StringOwned(text)) => Found::Text(text.to_string().into()),
            Ok(AnyValue::Boolean(value)) => Found::Plain(Scalar::Bool(value)),
            Ok(AnyValue::Float32(value)) => Found::Plain(Scalar::Float32(value)),
            Ok(AnyValue::Float64(value)) => Found::Plain(Scalar::Float64(value)),
            Ok(AnyValue::UInt32(value)) => Found::Plain(Scalar::UInt(value.into())),
            Ok(AnyValue::UInt64(value)) => Found::Plain(Scalar::UInt(value)),
            Ok(AnyValue::Int32(value)) => Found::Plain(Scalar::Int(value.into())),
            Ok(AnyValue::Int64(value)) => Found::Plain(Scalar::Int(value)),
            Ok(AnyValue::List(_)) => Found::Other("a list"),
            Ok(AnyValue::Binary(_) | AnyValue::BinaryOwned(_)) => Found::Other("bytes"),
            Ok(_) => Found::Other("a type that is no text"),
        }
    }

    fn fields(&self) -> Vec<String> {
        let names = self.frame.get_column_names();
        names.into_iter().map(|name| name.to_string()).collect()
    }
}
