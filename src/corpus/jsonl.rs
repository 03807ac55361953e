//! JSON lines: one object a line.
//!
//! Lines of white space alone are no records, but count as lines. A byte-order
//! mark before the first object is no part of it and is skipped.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::document::{Notes, Text};

use super::DOCUMENT_BYTES_MAX;
use super::columns::Columns;
use super::decompress::Input;
use super::error::{Error, Place};
use super::template::{FieldError, Found, Record, Scalar, Shape, walk};
use super::text::Lines;

/// The documents of a JSONL file, with their row: the line's number from 0.
pub struct Documents {
    lines: Lines,
    shape: Shape,
    roots: HashSet<String>,
}

impl Documents {
    /// Reads `input` as records of `shape`.
    pub fn new(input: Input, shape: Shape) -> Self {
        let roots = shape.fields().into_iter().flat_map(prefixes);
        Self {
            lines: Lines::new(input, DOCUMENT_BYTES_MAX),
            roots: roots.map(String::from).collect(),
            shape,
        }
    }

    fn read(&mut self) -> Result<Option<(u64, Text, Notes)>, Error> {
        let keep = |key: &str| self.roots.contains(key);
        let Some((number, object)) = next_object(&mut self.lines, &keep)? else {
            return Ok(None);
        };
        match self.shape.read(&object) {
            Ok((text, notes)) => Ok(Some((number - 1, text, notes))),
            Err(problem) => Err(wrong_field(&self.lines, number, problem)),
        }
    }
}

impl Iterator for Documents {
    type Item = Result<(u64, Text, Notes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Reads all records of a file into columns.
pub fn collect(input: Input, columns: &mut Columns) -> Result<(), Error> {
    let mut lines = Lines::new(input, DOCUMENT_BYTES_MAX);
    while let Some((number, object)) = next_object(&mut lines, &|key| columns.wants(key))? {
        object.names.iter().for_each(|name| columns.note(name));
        for (key, value) in &object.members {
            flatten(key, value, columns).map_err(|problem| wrong_field(&lines, number, problem))?;
        }
        columns.end_row();
    }
    Ok(())
}

/// Sets the cells of a member: one, or one for each leaf of an object.
fn flatten(key: &str, value: &Value, columns: &mut Columns) -> Result<(), FieldError> {
    match value {
        Value::Object(members) => members
            .iter()
            .try_for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, columns)),
        value if columns.wants(key) => columns.cell(key, leaf(value)),
        _ => Ok(()),
    }
}

/// Where the dotted path of a field can start: each prefix that ends before a dot, and the whole.
fn prefixes(field: &str) -> impl Iterator<Item = &str> {
    field
        .match_indices('.')
        .filter_map(|(dot, _)| field.get(..dot))
        .chain([field])
}

/// An object of which only some members are kept, with the names of all.
struct Object {
    members: Map<String, Value>,
    names: Vec<String>,
}

impl Record for Object {
    fn find(&self, field: &str) -> Found<'_> {
        // The object itself is no value, so its members start the walk.
        let start = prefixes(field)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .find_map(|key| Some((self.members.get(key)?, field.get(key.len()..)?)));
        let Some((value, rest)) = start else {
            return Found::Missing;
        };
        let found = match rest.strip_prefix('.') {
            None => Some(value),
            Some(path) => walk(value, path, |value, key| match value {
                Value::Array(items) => items.get(key.parse::<usize>().ok()?),
                value => value.get(key),
            }),
        };
        found.map_or(Found::Missing, leaf)
    }

    fn fields(&self) -> Vec<String> {
        self.names.clone()
    }
}

fn leaf(value: &Value) -> Found<'_> {
    match value {
        Value::Null => Found::Null,
        Value::String(text) => Found::Text(text.into()),
        Value::Number(number) => Found::Plain(scalar(number)),
        Value::Bool(value) => Found::Plain(Scalar::Bool(*value)),
        Value::Array(_) => Found::Other("an array"),
        Value::Object(_) => Found::Other("an object"),
    }
}

fn scalar(number: &Number) -> Scalar {
    let int = number.as_i64().map(Scalar::Int);
    int.or_else(|| number.as_u64().map(Scalar::UInt))
        .unwrap_or_else(|| Scalar::Float64(number.as_f64().unwrap_or(f64::NAN)))
}

/// The next object, with the number of its line and the members that `keep` names.
fn next_object(
    lines: &mut Lines,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Option<(u64, Object)>, Error> {
    const MARK: char = '\u{feff}';
    loop {
        let Some(line) = lines.next()? else {
            return Ok(None);
        };
        let number = line.number;
        let text = match line.text.strip_prefix(MARK) {
            Some(text) if number == 1 => text,
            _ => line.text,
        };
        if text.trim_ascii().is_empty() {
            continue;
        }
        let skipped = line.text.len() - text.len();
        return match parse(text, keep) {
            Ok(object) => Ok(Some((number, object))),
            Err(error) => Err(Error::Json {
                file: lines.name().into(),
                place: Place::Line(number),
                // An error at the first character has column 0.
                column: error.column().max(1) + skipped,
                message: message(&error),
            }),
        };
    }
}

fn wrong_field(lines: &Lines, number: u64, problem: FieldError) -> Error {
    Error::Field {
        file: lines.name().into(),
        place: Place::Line(number),
        problem,
    }
}

fn parse(line: &str, keep: &dyn Fn(&str) -> bool) -> Result<Object, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(line);
    let object = Members(keep).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(object)
}

/// The parser's words without the position, which is that within the line.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position).unwrap_or(&text).to_owned()
}

/// Reads an object, keeping only some members.
struct Members<'a>(&'a dyn Fn(&str) -> bool);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = Object;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Object, A::Error> {
        let mut members = Map::new();
        let mut names = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            if self.0(&key) {
                members.insert(key.clone(), entries.next_value()?);
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
            names.push(key);
        }
        Ok(Object { members, names })
    }
}
