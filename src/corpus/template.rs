//! From a record's fields to a document's text.

use std::borrow::Cow;
use std::fmt;

use crate::document::{Notes, Text};

use super::error::{Problem, list};

/// Text with fields in it: `Q: {question}\nA:`; `{{` and `}}` are braces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field(String),
}

/// How records of a source become documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The string in one field.
    Plain(String),
    /// Two templates.
    Example {
        /// What the model reads.
        prefix: Template,
        /// What the model must say.
        target: Template,
    },
    /// One of these, with what the record says about it for pause policies.
    Noted {
        /// The document.
        document: Box<Self>,
        /// Where the rest is.
        notes: NoteFields,
    },
}

/// Where a record says more about its document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoteFields {
    /// The field of [`Notes::scores`].
    pub scores: Option<String>,
    /// The field of [`Notes::positions`].
    pub positions: Option<String>,
    /// The template of [`Notes::hint`].
    pub hint: Option<Template>,
}

/// A row of named fields.
pub trait Record {
    /// The field called `field`, or, where there is none, the one that its
    /// dotted path leads to.
    fn find(&self, field: &str) -> Found<'_>;
    /// The names of the fields there are.
    fn fields(&self) -> Vec<String>;
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Found<'a> {
    /// A string.
    Text(Cow<'a, str>),
    /// A number or truth value.
    Plain(Scalar),
    /// A list of numbers; those that are null are NaN.
    Numbers(Vec<f64>),
    /// Nothing, expressly.
    Null,
    /// There is no such field.
    Missing,
    /// Something that is no text: "an array".
    Other(&'static str),
}

/// A number or truth value; shows as templates write it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that may be above `i64::MAX`.
    UInt(u64),
    /// Shown with the digits that tell it from other `f32`s: `0.1`.
    Float32(f32),
    /// Shown with the digits that tell it from other `f64`s: `2.5`, `1.0`, `1e300`.
    Float64(f64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(f, "{value}"),
            Self::Int(value) => write!(f, "{value}"),
            Self::UInt(value) => write!(f, "{value}"),
            Self::Float32(value) => write!(f, "{value:?}"),
            Self::Float64(value) => write!(f, "{value:?}"),
        }
    }
}

/// A field that does not hold what a document needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// There is no such field.
    #[error("no field `{field}`; the fields are {}", list(fields))]
    Missing {
        /// The field asked for.
        field: String,
        /// The fields there are.
        fields: Vec<String>,
    },
    /// The field holds something else.
    #[error("field `{field}`: expected {expected}, found {found}")]
    Wrong {
        /// The field.
        field: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
}

impl FieldError {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => Some(
                "`text = \"FIELD\"` names the field to pretrain on; templates name theirs as `{FIELD}`"
                    .into(),
            ),
            Self::Wrong { found, field, .. } if found == "null" => Some(format!(
                "leave such records out: `select = 'SELECT * FROM source WHERE \"{field}\" IS NOT NULL'`"
            )),
            Self::Wrong { .. } => None,
        }
    }
}

impl Shape {
    /// The document that a record makes, and what the record says about it.
    pub fn read(&self, record: &impl Record) -> Result<(Text, Notes), FieldError> {
        let text = match self {
            Self::Plain(field) => match record.find(field) {
                Found::Text(text) => Text::Plain(text.into_owned()),
                other => return Err(refuse(field, &other, "a string", record)),
            },
            Self::Example { prefix, target } => Text::Example {
                prefix: prefix.render(record)?,
                target: target.render(record)?,
            },
            Self::Noted { document, notes } => {
                let (text, _) = document.read(record)?;
                return Ok((text, notes.read(record)?));
            }
        };
        Ok((text, Notes::default()))
    }

    /// The same documents with what records say about them, where they say anything.
    pub fn noted(self, notes: NoteFields) -> Self {
        match notes == NoteFields::default() {
            true => self,
            false => Self::Noted {
                document: Box::new(self),
                notes,
            },
        }
    }

    /// The fields that documents are made of, each once.
    pub fn fields(&self) -> Vec<&str> {
        let mut fields: Vec<&str> = match self {
            Self::Plain(field) => vec![field],
            Self::Example { prefix, target } => prefix.fields().chain(target.fields()).collect(),
            Self::Noted { document, notes } => {
                let lists = [&notes.scores, &notes.positions].into_iter().flatten();
                let hint = notes.hint.iter().flat_map(Template::fields);
                let own = lists.map(String::as_str).chain(hint);
                document.fields().into_iter().chain(own).collect()
            }
        };
        fields.sort_unstable();
        fields.dedup();
        fields
    }
}

impl NoteFields {
    fn read(&self, record: &impl Record) -> Result<Notes, FieldError> {
        let numbers = |field: &Option<String>| match field {
            None => Ok(Vec::new()),
            Some(field) => match record.find(field) {
                Found::Numbers(numbers) => Ok(numbers),
                other => Err(refuse(field, &other, "a list of numbers", record)),
            },
        };
        let mut positions = Vec::new();
        for number in numbers(&self.positions)? {
            let whole = (0.0..f64::from(u32::MAX)).contains(&number) && number.fract() == 0.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a whole number in the range of a u32"
            )]
            positions.push(match whole {
                true => number as u32,
                false => {
                    return Err(FieldError::Wrong {
                        field: self.positions.clone().unwrap_or_default(),
                        expected: "character offsets: whole numbers of 0 or more",
                        found: format!("`{number}`"),
                    });
                }
            });
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "scores are compared as f32"
        )]
        let scores = numbers(&self.scores)?.into_iter().map(|score| score as f32);
        Ok(Notes {
            scores: scores.collect(),
            positions,
            hint: (self.hint.as_ref())
                .map(|hint| hint.render(record))
                .transpose()?,
        })
    }
}

impl Template {
    /// Reads the template that stands under `key` in the recipe.
    pub fn parse(key: &'static str, template: &str) -> Result<Self, Problem> {
        let wrong = |at: usize, message| Problem::Template {
            key,
            template: template.into(),
            at,
            message,
        };
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            let position = template.len() - brace.len();
            literal.push_str(before);
            rest = if let Some(after) = brace.strip_prefix("{{") {
                literal.push('{');
                after
            } else if let Some(after) = brace.strip_prefix("}}") {
                literal.push('}');
                after
            } else if let Some(inner) = brace.strip_prefix('{') {
                let (field, after) = inner
                    .split_once('}')
                    .filter(|(field, _)| !field.contains('{'))
                    .ok_or_else(|| wrong(position, "`{` without its `}`"))?;
                if field.is_empty() {
                    return Err(wrong(position, "`{}` names no field"));
                }
                parts.push(Part::Literal(std::mem::take(&mut literal)));
                parts.push(Part::Field(field.into()));
                after
            } else {
                return Err(wrong(position, "`}` without its `{`"));
            };
        }
        literal.push_str(rest);
        parts.push(Part::Literal(literal));
        parts.retain(|part| *part != Part::Literal(String::new()));
        Ok(Self { parts })
    }

    /// The template with the record's fields in their places.
    pub fn render(&self, record: &impl Record) -> Result<String, FieldError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(field) => match record.find(field) {
                    Found::Text(value) => text.push_str(&value),
                    Found::Plain(value) => text.push_str(&value.to_string()),
                    other => {
                        let expected = "a string, number or truth value";
                        return Err(refuse(field, &other, expected, record));
                    }
                },
            }
        }
        Ok(text)
    }

    fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field.as_str()),
            Part::Literal(_) => None,
        })
    }
}

/// Follows a dotted path into nested objects: a key may itself hold dots, and
/// the longest key that fits the start of the path is taken.
pub fn walk<'a, T: ?Sized>(
    object: &'a T,
    path: &str,
    child: impl Fn(&'a T, &str) -> Option<&'a T>,
) -> Option<&'a T> {
    let mut object = object;
    let mut rest = path;
    loop {
        if let Some(found) = child(object, rest) {
            return Some(found);
        }
        let (key, found) = rest
            .rmatch_indices('.')
            .filter_map(|(dot, _)| rest.get(..dot))
            .find_map(|key| child(object, key).map(|found| (key, found)))?;
        rest = rest.get(key.len() + 1..)?;
        object = found;
    }
}

fn refuse(
    field: &str,
    found: &Found<'_>,
    expected: &'static str,
    record: &impl Record,
) -> FieldError {
    let found = match found {
        Found::Missing => {
            return FieldError::Missing {
                field: field.into(),
                fields: record.fields(),
            };
        }
        Found::Null => "null".into(),
        Found::Plain(value) => format!("`{value}`"),
        Found::Text(_) => "a string".into(),
        Found::Numbers(_) => "a list of numbers".into(),
        Found::Other(what) => (*what).into(),
    };
    FieldError::Wrong {
        field: field.into(),
        expected,
        found,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    impl Record for BTreeMap<String, String> {
        fn find(&self, field: &str) -> Found<'_> {
            self.get(field)
                .map_or(Found::Missing, |value| Found::Text(value.into()))
        }

        fn fields(&self) -> Vec<String> {
            self.keys().cloned().collect()
        }
    }

    fn record() -> BTreeMap<String, String> {
        [("a", "1"), ("b.c", "{2}")]
            .map(|(key, value)| (key.into(), value.into()))
            .into()
    }

    fn check(template: &str, expect: Expect) {
        let text = match Template::parse("prefix", template) {
            Ok(template) => match template.render(&record()) {
                Ok(text) => text,
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn templates() {
        check("", expect![[""]]);
        check("x{a}y{b.c}", expect!["x1y{2}"]);
        check("{{a}} {{{a}}}", expect!["{a} {1}"]);
        check("{d}", expect!["no field `d`; the fields are `a`, `b.c`"]);
        check(
            "ä{",
            expect!["template `prefix`: `{` without its `}` at byte 2 of `ä{`"],
        );
        check(
            "{a{b}",
            expect!["template `prefix`: `{` without its `}` at byte 0 of `{a{b}`"],
        );
        check(
            "a}",
            expect!["template `prefix`: `}` without its `{` at byte 1 of `a}`"],
        );
        check(
            "{}",
            expect!["template `prefix`: `{}` names no field at byte 0 of `{}`"],
        );
    }

    #[test]
    fn fields_of_both_templates_are_listed_once() {
        let parse = |template| Template::parse("prefix", template).unwrap();
        let shape = Shape::Example {
            prefix: parse("{b}{a}"),
            target: parse("{b}"),
        };
        assert_eq!(shape.fields(), ["a", "b"]);
    }

    proptest! {
        /// Escaped text comes back, whatever it holds.
        #[test]
        fn escaped_text_is_itself(text in "[{}ab.]{0,20}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let template = Template::parse("prefix", &escaped).unwrap();
            prop_assert_eq!(template.render(&record()).unwrap(), text);
        }

        /// Rendering is concatenation of literals and values; values are not read as templates.
        #[test]
        fn rendering_concatenates(pieces in proptest::collection::vec(("[{}xy]{0,4}", 0..2usize), 0..6)) {
            let mut template = String::new();
            let mut expected = String::new();
            for (literal, field) in &pieces {
                template += &literal.replace('{', "{{").replace('}', "}}");
                template += ["{a}", "{b.c}"][*field];
                expected += literal;
                expected += ["1", "{2}"][*field];
            }
            let parsed = Template::parse("target", &template).unwrap();
            prop_assert_eq!(parsed.render(&record()).unwrap(), expected);
        }
    }
}
