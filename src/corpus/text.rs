//! Plain text: lines, and documents made of them.
//!
//! Text is never normalised. A document is a stretch of the file's own bytes:
//! a byte-order mark stays, and inside a paragraph so do line terminators. A
//! terminator is `\n` or `\r\n`; the one that ends a line document, and the
//! last one of a paragraph, belong to no document.

use crate::document::{Notes, Text};

use super::decompress::Input;
use super::error::{Error, Place};
use super::template::{Found, Record, Shape};
use super::{DOCUMENT_BYTES_MAX, TextUnit};

/// The one field of a plain-text document.
pub const FIELD: &str = "text";

/// The documents of a text file, with their row.
pub struct Documents {
    lines: Lines,
    unit: TextUnit,
    shape: Shape,
    row: u64,
}

impl Documents {
    /// Reads `input` as documents of `unit`.
    pub fn new(input: Input, unit: TextUnit, shape: Shape) -> Self {
        Self {
            lines: Lines::new(input, DOCUMENT_BYTES_MAX),
            unit,
            shape,
            row: 0,
        }
    }

    fn read(&mut self) -> Result<Option<(u64, Text, Notes)>, Error> {
        let (row, text) = match self.unit {
            TextUnit::File if self.row == 0 => (0, self.lines.rest()?),
            TextUnit::File => return Ok(None),
            TextUnit::Line => match self.line()? {
                Some(found) => found,
                None => return Ok(None),
            },
            TextUnit::Paragraph => match self.lines.paragraph()? {
                Some(text) => (self.row, text),
                None => return Ok(None),
            },
        };
        self.row += 1;
        let (text, notes) = match &self.shape {
            Shape::Plain(_) => (Text::Plain(text), Notes::default()),
            shape => shape.read(&Whole(&text)).map_err(|problem| Error::Field {
                file: self.lines.input.name.clone(),
                place: Place::Row(row),
                problem,
            })?,
        };
        Ok(Some((row, text, notes)))
    }

    fn line(&mut self) -> Result<Option<(u64, String)>, Error> {
        while let Some(line) = self.lines.next()? {
            if !line.text.is_empty() {
                return Ok(Some((line.number - 1, line.text.into())));
            }
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

/// The lines of a stream, one at a time.
pub struct Lines {
    input: Input,
    limit: usize,
    number: u64,
    offset: u64,
    buffer: Vec<u8>,
}

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number, from 1.
    pub number: u64,
    /// What it says, without its terminator.
    pub text: &'a str,
    /// `\n`, `\r\n`, or nothing at the end of the file.
    pub terminator: &'a str,
}

impl Lines {
    /// Reads lines of at most `limit` bytes.
    pub fn new(input: Input, limit: usize) -> Self {
        Self {
            input,
            limit,
            number: 0,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.input.name
    }

    /// The next line; none at the end of the stream. A line borrows the buffer,
    /// so this is no `Iterator`.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, Error> {
        self.buffer.clear();
        // One byte more than the longest line with its terminator.
        let most = (self.limit as u64).saturating_add(3);
        if self.input.read_line(most, &mut self.buffer)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let start = self.offset;
        self.offset += self.buffer.len() as u64;
        let place = Place::Line(self.number);
        let text = std::str::from_utf8(&self.buffer);
        let length = self.buffer.len();
        let text = match text {
            Ok(text) => text,
            Err(_) if self.limit + 2 < length => return Err(self.long(place)),
            Err(error) => {
                return Err(Error::NotUtf8 {
                    file: self.input.name.clone(),
                    place,
                    byte: start + error.valid_up_to() as u64,
                });
            }
        };
        let content = text
            .strip_suffix('\n')
            .map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        if self.limit < content.len() {
            return Err(self.long(place));
        }
        Ok(Some(Line {
            number: self.number,
            text: content,
            terminator: text.get(content.len()..).unwrap_or_default(),
        }))
    }

    /// The lines up to the next empty one, as they stand in the file.
    fn paragraph(&mut self) -> Result<Option<String>, Error> {
        let limit = self.limit;
        let mut text = String::new();
        let mut first = 0;
        // The terminator of the line before, which is text only if a line follows.
        let mut terminator = String::new();
        while let Some(line) = self.next()? {
            if line.text.is_empty() {
                match first {
                    0 => continue,
                    _ => break,
                }
            }
            if first == 0 {
                first = line.number;
            }
            text.push_str(&terminator);
            text.push_str(line.text);
            terminator.clear();
            terminator.push_str(line.terminator);
            if limit < text.len() {
                return Err(self.long(Place::Line(first)));
            }
        }
        Ok((first != 0).then_some(text))
    }

    /// Everything that is left.
    fn rest(&mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let most = (self.limit as u64).saturating_add(1);
        self.input.read_rest(most, &mut bytes)?;
        if self.limit < bytes.len() {
            return Err(self.long(Place::File));
        }
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = error.as_bytes().iter().take(valid);
            let line = 1 + before.filter(|byte| **byte == b'\n').count() as u64;
            Error::NotUtf8 {
                file: self.input.name.clone(),
                place: Place::Line(line),
                byte: valid as u64,
            }
        })
    }

    fn long(&self, place: Place) -> Error {
        Error::Long {
            file: self.input.name.clone(),
            place,
            limit: self.limit,
        }
    }
}

/// A plain-text document as a record.
struct Whole<'a>(&'a str);

impl Record for Whole<'_> {
    fn find(&self, field: &str) -> Found<'_> {
        match field {
            FIELD => Found::Text(self.0.into()),
            _ => Found::Missing,
        }
    }

    fn fields(&self) -> Vec<String> {
        vec![FIELD.into()]
    }
}
