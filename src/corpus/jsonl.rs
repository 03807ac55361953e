//! JSON lines: one object a line.
//!
//! Lines of white space alone are no records, but count as lines. A byte-order
//! mark before the first object is no part of it and is skipped.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::document::{Notes, Text};

use super::DOCUMENT_BYTES_MAX;
use super::columns::Columns;
use super::decompress::Input;
use super::error::Error;
use super::lines::{Line, LineBlock, LineBlocks, Owner};
use super::member;
use super::template::{FieldError, Found, Record, Scalar, Shape, walk};

/// The documents of a block of JSON lines, with their row: the line's number from 0.
pub struct Documents {
    lines: LineBlock,
    owner: Arc<Owner>,
    shape: Arc<Shape>,
    roots: Arc<HashSet<String>>,
}

impl Documents {
    /// Reads `lines` as records of `shape`.
    pub fn new(lines: LineBlock, shape: Arc<Shape>, roots: Arc<HashSet<String>>) -> Self {
        Self {
            owner: lines.owner.clone(),
            lines,
            shape,
            roots,
        }
    }

    fn read(&mut self) -> Result<Option<(u64, Text, Notes)>, Error> {
        let (owner, shape) = (&self.owner, self.shape.as_ref());
        while let Some(line) = self.lines.next()? {
            let row = line.number - 1;
            // Most lines are what they should be; the others are read again with care.
            if let Shape::Plain(field) = shape
                && let Some(text) = member::string(line.text, field)
            {
                return Ok(Some((row, Text::Plain(text), Notes::default())));
            }
            let keep = |key: &str| self.roots.contains(key);
            let Some(object) = object(&line, owner, &keep)? else {
                continue;
            };
            return match shape.read(&object) {
                Ok((text, notes)) => Ok(Some((row, text, notes))),
                Err(problem) => Err(wrong_field(owner, line.number, problem)),
            };
        }
        Ok(None)
    }
}

impl Iterator for Documents {
    type Item = Result<(u64, Text, Notes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The members that the fields of `shape` can be in.
pub fn roots(shape: &Shape) -> HashSet<String> {
    let roots = shape.fields().into_iter().flat_map(prefixes);
    roots.map(String::from).collect()
}

/// Reads all records of a file into columns.
pub fn collect(input: Input, columns: &mut Columns) -> Result<(), Error> {
    for block in LineBlocks::new(input, DOCUMENT_BYTES_MAX) {
        let mut lines = block?;
        let owner = lines.owner.clone();
        while let Some(line) = lines.next()? {
            let Some(object) = object(&line, &owner, &|key| columns.wants(key))? else {
                continue;
            };
            object.names.iter().for_each(|name| columns.note(name));
            for (key, value) in &object.members {
                flatten(key, value, columns)
                    .map_err(|problem| wrong_field(&owner, line.number, problem))?;
            }
            columns.end_row();
        }
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
        Value::Array(values) => {
            let number = |value: &Value| match value {
                Value::Null => Some(f64::NAN),
                value => value.as_f64(),
            };
            let numbers: Option<Vec<f64>> = values.iter().map(number).collect();
            numbers.map_or(Found::Other("an array"), Found::Numbers)
        }
        Value::Object(_) => Found::Other("an object"),
    }
}

fn scalar(number: &Number) -> Scalar {
    let int = number.as_i64().map(Scalar::Int);
    int.or_else(|| number.as_u64().map(Scalar::UInt))
        .unwrap_or_else(|| Scalar::Float64(number.as_f64().unwrap_or(f64::NAN)))
}

/// The object on a line with the members that `keep` names; none on a line of white space.
fn object(
    line: &Line<'_>,
    owner: &Owner,
    keep: &dyn Fn(&str) -> bool,
) -> Result<Option<Object>, Error> {
    const MARK: char = '\u{feff}';
    let text = match line.text.strip_prefix(MARK) {
        Some(text) if line.number == 1 && owner.is_start() => text,
        _ => line.text,
    };
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let skipped = line.text.len() - text.len();
    match parse(text, keep) {
        Ok(object) => Ok(Some(object)),
        Err(error) => Err(Error::Json {
            file: owner.name.clone(),
            place: owner.place(line.number),
            // An error at the first character has column 0.
            column: error.column().max(1) + skipped,
            message: message(&error),
        }),
    }
}

fn wrong_field(owner: &Owner, number: u64, problem: FieldError) -> Error {
    Error::Field {
        file: owner.name.clone(),
        place: owner.place(number),
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
    match text.strip_suffix(&position).unwrap_or(&text) {
        "recursion limit exceeded" => "more than 127 arrays and objects inside one another".into(),
        other => other.to_owned(),
    }
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
