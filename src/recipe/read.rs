//! From a file and `--set` overrides to a recipe.
//!
//! Overrides are laid into the parsed file before it becomes a [`Recipe`], each
//! with its own place, so that one set of errors serves both.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::check;
use super::diagnose::{Diagnosis, Error, Text};
use super::locate::{explain, locate, refuse_keys_beside_none};
use super::{Recipe, reword};
use crate::fs;

/// The most bytes that a recipe may have.
const BYTES_MAX: u64 = 16 << 20;

impl Recipe {
    /// Reads a recipe, with `key.path=value` overrides on top.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self, Error> {
        let text = fs::read_text_or_pipe(path, BYTES_MAX)?;
        Self::parse(&text, path, overrides)
    }

    /// Reads a recipe from `text`, which errors call `name`.
    pub fn parse(text: &str, name: &Path, overrides: &[String]) -> Result<Self, Error> {
        let text = Text::new(name, text, overrides);
        parse(&text, overrides).map_err(|diagnosis| Error::Invalid(Box::new(diagnosis)))
    }
}

fn parse(text: &Text<'_>, overrides: &[String]) -> Result<Recipe, Diagnosis> {
    let settings = settings(text, overrides)?;
    let table = DeTable::parse(text.recipe()).map_err(|error| {
        let span = error.span().unwrap_or_default();
        text.diagnose(reword::syntax(error.message()), span)
    })?;
    let mut tree = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    for setting in &settings {
        set(&mut tree, &setting.keys, setting.value()?)
            .map_err(|(message, span)| text.diagnose(message, span))?;
    }
    let recipe = Recipe::deserialize(ValueDeserializer::from(tree.clone()))
        .map_err(|error| explain(&error, &tree, text))?;
    refuse_keys_beside_none(&tree, text)?;
    check::check(&recipe).map_err(|finding| locate(finding, &tree, text))?;
    Ok(recipe)
}

/// One override: where to, and text whose spans are those of the whole [`Text`].
struct Setting<'a> {
    keys: Vec<Spanned<String>>,
    padded: String,
    raw: &'a str,
    span: Range<usize>,
    text: &'a Text<'a>,
}

fn settings<'a>(
    text: &'a Text<'a>,
    overrides: &'a [String],
) -> Result<Vec<Setting<'a>>, Diagnosis> {
    let mut length = 0;
    let mut settings = Vec::new();
    for line in overrides {
        let offset = text.override_offset(length);
        length += line.len() + 1;
        let whole = offset..offset + line.len();
        let Some((path, raw)) = line.split_once('=') else {
            let message = format!("expected `--set key=value`, found `{line}`");
            return Err(text.diagnose(message, whole));
        };
        let mut keys = Vec::new();
        let mut start = offset;
        for key in path.split('.') {
            let span = start..start + key.len();
            start = span.end + 1;
            if key.trim().is_empty() {
                return Err(text.diagnose("a key of `--set` is empty", span));
            }
            keys.push(Spanned::new(span, key.trim().to_string()));
        }
        // A key is not empty, so at least two bytes and a newline stand before the value.
        let value_offset = offset + path.len() + 1;
        settings.push(Setting {
            keys,
            padded: format!("{}v={raw}", " ".repeat(value_offset.saturating_sub(2))),
            raw,
            span: value_offset..value_offset + raw.len(),
            text,
        });
    }
    Ok(settings)
}

impl Setting<'_> {
    /// The value as TOML, or else as the string it is.
    fn value(&self) -> Result<Spanned<DeValue<'_>>, Diagnosis> {
        let problem = match DeTable::parse(&self.padded) {
            Ok(table) if table.get_ref().len() == 1 => {
                if let Some((_, value)) = table.into_inner().into_iter().next() {
                    return Ok(value);
                }
                None
            }
            Ok(_) => None,
            Err(error) => Some(error),
        };
        match problem {
            // What opens like TOML was meant to be TOML.
            Some(error) if self.raw.starts_with(['[', '{', '"', '\'']) => {
                let span = error.span().unwrap_or(self.span.clone());
                Err(self.text.diagnose(reword::syntax(error.message()), span))
            }
            _ => {
                let string = DeValue::String(self.raw.into());
                Ok(Spanned::new(self.span.clone(), string))
            }
        }
    }
}

fn set<'i>(
    node: &mut Spanned<DeValue<'i>>,
    keys: &[Spanned<String>],
    value: Spanned<DeValue<'i>>,
) -> Result<(), (String, Range<usize>)> {
    let Some((key, rest)) = keys.split_first() else {
        *node = value;
        return Ok(());
    };
    let name = key.get_ref();
    match node.get_mut() {
        DeValue::Table(table) => {
            let entry = table.entry(Spanned::new(key.span(), name.clone().into()));
            let empty = || Spanned::new(key.span(), DeValue::Table(DeTable::new()));
            set(entry.or_insert_with(empty), rest, value)
        }
        DeValue::Array(array) => {
            let length = array.len();
            let index: Result<usize, _> = name.parse();
            match index.ok().and_then(|index| array.get_mut(index)) {
                Some(element) => set(element, rest, value),
                None => {
                    let message = format!("expected an index below {length}, found `{name}`");
                    Err((message, key.span()))
                }
            }
        }
        _ => Err((
            format!("`{name}` would be inside a value that is no table"),
            key.span(),
        )),
    }
}
