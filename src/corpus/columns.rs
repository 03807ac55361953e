//! Columns collected from a file for a `select` query.
//!
//! Polars's own readers are left out of this program: they bring an HTTP
//! stack. A file is read by the same readers as without `select`, so that
//! errors name lines and rows in the same way.

use std::collections::{HashMap, HashSet};

use polars::prelude::{
    Column, DataFrame, IntoColumn, NamedFrom, PolarsResult, Series, StringChunkedBuilder,
};

use super::template::{FieldError, Found, Scalar};

/// The columns that a query may name, filled cell by cell.
///
/// Members of nested objects become columns called by their dotted path.
/// Lists, and Parquet types that are neither text, number nor truth value, are
/// no columns.
pub struct Columns {
    query: String,
    everything: bool,
    names: Vec<String>,
    seen: HashSet<String>,
    places: HashMap<String, usize>,
    columns: Vec<Values>,
    rows: usize,
}

struct Values {
    name: String,
    len: usize,
    kind: Kind,
}

enum Kind {
    /// Only nulls so far.
    Unknown,
    Text(StringChunkedBuilder),
    Bool(Vec<Option<bool>>),
    Int(Vec<Option<i64>>),
    Float(Vec<Option<f64>>),
}

impl Columns {
    /// No rows yet; columns that `query` cannot name are not kept.
    pub fn new(query: &str) -> Self {
        let query = query.to_lowercase();
        Self {
            // `*` and `COLUMNS('^t.*')` name columns without saying their names.
            everything: query.contains('*') || query.contains("columns"),
            query,
            names: Vec::new(),
            seen: HashSet::new(),
            places: HashMap::new(),
            columns: Vec::new(),
            rows: 0,
        }
    }

    /// Whether the query may name this column, or one inside it.
    pub fn wants(&self, name: &str) -> bool {
        self.everything || self.query.contains(&name.to_lowercase())
    }

    /// Notes that the file has a column, for messages.
    pub fn note(&mut self, name: &str) {
        if !self.seen.contains(name) {
            self.seen.insert(name.into());
            self.names.push(name.into());
        }
    }

    /// The columns of the file, whether kept or not.
    pub fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    /// Whether the file has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Sets a cell of the present row.
    pub fn cell(&mut self, name: &str, value: Found<'_>) -> Result<(), FieldError> {
        if matches!(value, Found::Missing | Found::Other(_) | Found::Numbers(_)) {
            return Ok(());
        }
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.into(), self.columns.len());
                self.columns.push(Values {
                    name: name.into(),
                    len: 0,
                    kind: Kind::Unknown,
                });
                self.columns.len() - 1
            }
        };
        match self.columns.get_mut(place) {
            Some(column) => column.set(self.rows, value),
            None => Ok(()),
        }
    }

    /// Ends the present row; cells that were not set are null.
    pub fn end_row(&mut self) {
        self.rows += 1;
    }

    /// The table.
    pub fn finish(self) -> PolarsResult<DataFrame> {
        let rows = self.rows;
        let columns = self.columns.into_iter().map(|column| column.finish(rows));
        DataFrame::new(rows, columns.collect())
    }
}

impl Values {
    fn set(&mut self, row: usize, value: Found<'_>) -> Result<(), FieldError> {
        // A key that a JSON object repeats has the last of its values; earlier
        // ones are gone when cells are set, so a row comes at most once.
        self.extend_to(row);
        let int = match value {
            Found::Plain(Scalar::Int(value)) => Some(value),
            Found::Plain(Scalar::UInt(value)) => i64::try_from(value).ok(),
            _ => None,
        };
        let float = match value {
            Found::Plain(Scalar::Float32(value)) => Some(f64::from(value)),
            Found::Plain(Scalar::Float64(value)) => Some(value),
            // Integers among floats, as JSON writes 2.0 now and then.
            _ => int.map(|value| value as f64),
        };
        if matches!(value, Found::Null) {
            return Ok(());
        }
        self.settle(&value, int.is_some());
        match (&mut self.kind, value) {
            (Kind::Text(values), Found::Text(text)) => values.append_value(text),
            (Kind::Bool(values), Found::Plain(Scalar::Bool(value))) => values.push(Some(value)),
            (Kind::Int(values), _) if int.is_some() => values.push(int),
            (Kind::Float(values), _) if float.is_some() => values.push(float),
            (kind, value) => {
                return Err(FieldError::Wrong {
                    field: self.name.clone(),
                    expected: kind.expected(),
                    found: match value {
                        Found::Plain(value) => format!("`{value}`"),
                        _ => "a string".into(),
                    },
                });
            }
        }
        self.len += 1;
        Ok(())
    }

    /// Chooses the column's type by its first value; integers widen to floats.
    fn settle(&mut self, value: &Found<'_>, fits_int: bool) {
        let nulls = self.len;
        let kind = match (&mut self.kind, value) {
            (Kind::Unknown, Found::Text(_)) => {
                let mut builder = StringChunkedBuilder::new(self.name.as_str().into(), nulls);
                (0..nulls).for_each(|_| builder.append_null());
                Kind::Text(builder)
            }
            (Kind::Unknown, Found::Plain(Scalar::Bool(_))) => Kind::Bool(vec![None; nulls]),
            (Kind::Unknown, Found::Plain(_)) if fits_int => Kind::Int(vec![None; nulls]),
            (Kind::Unknown, Found::Plain(Scalar::Float32(_) | Scalar::Float64(_))) => {
                Kind::Float(vec![None; nulls])
            }
            (Kind::Unknown, Found::Plain(Scalar::UInt(_))) => Kind::Int(vec![None; nulls]),
            (Kind::Int(values), Found::Plain(Scalar::Float32(_) | Scalar::Float64(_))) => {
                let widen = |value: &Option<i64>| value.map(|value| value as f64);
                Kind::Float(values.iter().map(widen).collect())
            }
            _ => return,
        };
        self.kind = kind;
    }

    fn extend_to(&mut self, rows: usize) {
        for _ in self.len..rows {
            match &mut self.kind {
                Kind::Unknown => {}
                Kind::Text(values) => values.append_null(),
                Kind::Bool(values) => values.push(None),
                Kind::Int(values) => values.push(None),
                Kind::Float(values) => values.push(None),
            }
        }
        self.len = self.len.max(rows);
    }

    fn finish(mut self, rows: usize) -> Column {
        self.extend_to(rows);
        let name = self.name.as_str().into();
        match self.kind {
            Kind::Unknown => Series::new(name, vec![None::<String>; rows]).into_column(),
            Kind::Text(values) => values.finish().into_column(),
            Kind::Bool(values) => Series::new(name, values).into_column(),
            Kind::Int(values) => Series::new(name, values).into_column(),
            Kind::Float(values) => Series::new(name, values).into_column(),
        }
    }
}

impl Kind {
    fn expected(&self) -> &'static str {
        match self {
            Self::Unknown => "a string, number or truth value",
            Self::Text(_) => "a string, as before in this column",
            Self::Bool(_) => "a truth value, as before in this column",
            Self::Int(_) => "a signed 64-bit integer, as before in this column",
            Self::Float(_) => "a number, as before in this column",
        }
    }
}
