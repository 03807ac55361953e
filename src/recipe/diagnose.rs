//! What is wrong with a recipe, where it says so, and what was probably meant.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::fs;

/// A recipe that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// What it says is wrong.
    #[error(transparent)]
    Invalid(Box<Diagnosis>),
    /// The resolved recipe cannot be written as text.
    #[error("cannot write the recipe as text")]
    Unwritable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// For `map_err`: what a serializer said.
    pub(super) fn unwritable<E: std::error::Error + Send + Sync + 'static>(error: E) -> Self {
        Self::Unwritable(Box::new(error))
    }
}

/// A mistake in a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What is wrong.
    pub message: String,
    /// Where, as far as that is one place.
    pub place: Option<Place>,
    /// What to do about it.
    pub hints: Vec<String>,
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.place {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnosis {}

/// A place in a recipe or in one of its overrides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The recipe's file; nothing for an override on the command line.
    pub file: Option<PathBuf>,
    /// From 1; 1 in an override.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The whole line.
    pub text: String,
    /// How many characters of it are meant; at least 1.
    pub width: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some(file) => write!(f, "{}:{}:{}", file.display(), self.line, self.column),
            None => write!(f, "--set {}", self.text),
        }
    }
}

impl Place {
    /// The place, its line and a caret below what is meant.
    pub fn excerpt(&self) -> Vec<String> {
        let number = match &self.file {
            Some(_) => self.line.to_string(),
            None => String::new(),
        };
        let gutter = " ".repeat(number.len());
        let indent = " ".repeat(self.column.saturating_sub(1));
        let carets = "^".repeat(self.width.max(1));
        vec![
            format!("{gutter}--> {self}"),
            format!("{gutter} |"),
            format!("{number} | {}", self.text),
            format!("{gutter} | {indent}{carets}"),
        ]
    }
}

/// A recipe's text with its overrides below it, one a line, so that a byte
/// offset names a place in either.
#[derive(Clone, Debug)]
pub(super) struct Text<'a> {
    file: &'a Path,
    recipe_len: usize,
    all: String,
}

impl<'a> Text<'a> {
    pub(super) fn new(file: &'a Path, recipe: &str, overrides: &[String]) -> Self {
        let mut all = recipe.to_string();
        for line in overrides {
            all.push('\n');
            all.push_str(line);
        }
        Self {
            file,
            recipe_len: recipe.len(),
            all,
        }
    }

    pub(super) fn recipe(&self) -> &str {
        self.all.get(..self.recipe_len).unwrap_or_default()
    }

    /// Where the override after the first `length` bytes of overrides begins.
    pub(super) fn override_offset(&self, length: usize) -> usize {
        self.recipe_len + 1 + length
    }

    pub(super) fn diagnose(&self, message: impl Into<String>, span: Range<usize>) -> Diagnosis {
        Diagnosis {
            message: message.into(),
            place: Some(self.place(span)),
            hints: Vec::new(),
        }
    }

    fn place(&self, span: Range<usize>) -> Place {
        let start = floor(&self.all, span.start);
        let end = floor(&self.all, span.end).max(start);
        let before = self.all.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let rest = self.all.get(line_start..).unwrap_or_default();
        let text = rest.lines().next().unwrap_or_default();
        let column = count(&self.all, line_start..start);
        let width = count(&self.all, start..end.min(line_start + text.len()));
        // A recipe may end without a newline: its last place is its length.
        let file = (start <= self.recipe_len).then(|| self.file.to_path_buf());
        let line = match file {
            Some(_) => before.matches('\n').count() + 1,
            None => 1,
        };
        Place {
            file,
            line,
            column: column + 1,
            text: text.to_string(),
            width: width.max(1),
        }
    }
}

/// A hint from a wrong name and the right ones: the nearest, or all of them.
pub(super) fn did_you_mean(wrong: &str, known: &[String]) -> Option<String> {
    let nearest = known
        .iter()
        .map(|name| (distance(wrong, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len().max(wrong.len()) / 4);
    match (nearest, known) {
        (Some((_, name)), _) => Some(format!("did you mean `{name}`?")),
        (None, []) => None,
        (None, _) => Some(format!("known here: {}", list(known))),
    }
}

/// Names in backticks, separated by commas.
pub(super) fn list(names: &[String]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    quoted.join(", ")
}

fn distance(wrong: &str, known: &str) -> usize {
    // Half a name is the most usual way to misremember a long one.
    let is_part = 3 <= wrong.len() && (known.starts_with(wrong) || known.ends_with(wrong));
    match is_part {
        true => 1,
        false => strsim::damerau_levenshtein(wrong, known),
    }
}

/// The last character boundary that is not after `offset`.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn count(text: &str, range: Range<usize>) -> usize {
    text.get(range).unwrap_or_default().chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_characters_and_know_the_overrides() {
        let file = Path::new("r.toml");
        let text = Text::new(
            file,
            "a = 1\né = \"ü\" # x\n",
            &["b=2".into(), "cc=3".into()],
        );
        let at = |span: Range<usize>| {
            let place = text.place(span);
            format!("{place} {} [{}] {}", place.column, place.text, place.width)
        };
        assert_eq!(at(0..1), "r.toml:1:1 1 [a = 1] 1");
        assert_eq!(at(11..15), "r.toml:2:5 5 [é = \"ü\" # x] 3");
        // A span over several lines is clipped to its first.
        assert_eq!(at(0..12), "r.toml:1:1 1 [a = 1] 5");
        assert_eq!(text.override_offset(0), 21);
        assert_eq!(at(21..22), "--set b=2 1 [b=2] 1");
        assert_eq!(at(25..27), "--set cc=3 1 [cc=3] 2");
    }

    #[test]
    fn the_nearest_name_is_offered_or_all_names() {
        let known: Vec<String> = ["fraction", "law", "overflow"].map(String::from).into();
        let hint = |wrong| did_you_mean(wrong, &known).unwrap();
        assert_eq!(hint("fractoin"), "did you mean `fraction`?");
        assert_eq!(hint("over"), "did you mean `overflow`?");
        assert_eq!(hint("count"), "known here: `fraction`, `law`, `overflow`");
        assert_eq!(did_you_mean("count", &[]), None);
    }
}
