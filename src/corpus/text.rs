//! Plain text: documents that are lines, paragraphs or whole files.
//!
//! Text is never normalised. A document is a stretch of the file's own bytes:
//! a byte-order mark stays, and inside a paragraph so do line terminators. A
//! terminator is `\n` or `\r\n`; the one that ends a line document, and the
//! last one of a paragraph, belong to no document.

use crate::document::{Notes, Text};

use super::decompress::Input;
use super::error::{Error, Place};
use super::lines::{Line, LineBlock, Owner};
use super::template::{Found, Record, Shape};
use super::{DOCUMENT_BYTES_MAX, TextUnit};

/// The one field of a plain-text document.
pub const FIELD: &str = "text";

/// The documents of a text file that are whole files or paragraphs, with their row.
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

    /// How many bytes of the file were read.
    pub fn bytes_read(&self) -> u64 {
        self.lines.input.bytes_read()
    }

    fn read(&mut self) -> Result<Option<(u64, Text, Notes)>, Error> {
        let text = match self.unit {
            TextUnit::File if self.row == 0 => self.lines.rest()?,
            TextUnit::File => return Ok(None),
            TextUnit::Line | TextUnit::Paragraph => match self.lines.paragraph()? {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        let row = self.row;
        self.row += 1;
        document(&self.shape, row, text, &self.lines.owner.name).map(Some)
    }
}

/// The lines of a block that are not empty, as documents.
pub struct LineDocuments {
    block: LineBlock,
    shape: Shape,
}

impl LineDocuments {
    /// The documents of `block`.
    pub fn new(block: LineBlock, shape: Shape) -> Self {
        Self { block, shape }
    }

    fn read(&mut self) -> Result<Option<(u64, Text, Notes)>, Error> {
        while let Some(line) = self.block.next()? {
            if !line.text.is_empty() {
                let (row, text) = (line.number - 1, line.text.into());
                return document(&self.shape, row, text, &self.block.owner.name).map(Some);
            }
        }
        Ok(None)
    }
}

impl Iterator for LineDocuments {
    type Item = Result<(u64, Text, Notes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn document(
    shape: &Shape,
    row: u64,
    text: String,
    file: &str,
) -> Result<(u64, Text, Notes), Error> {
    let (text, notes) = match shape {
        Shape::Plain(_) => (Text::Plain(text), Notes::default()),
        shape => shape.read(&Whole(&text)).map_err(|problem| Error::Field {
            file: file.into(),
            place: Place::Row(row),
            problem,
        })?,
    };
    Ok((row, text, notes))
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
    owner: Owner,
    number: u64,
    offset: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Reads lines of at most `limit` bytes.
    pub fn new(input: Input, limit: usize) -> Self {
        Self {
            owner: Owner::whole(&input, limit),
            input,
            number: 0,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    /// The next line; none at the end of the stream. A line borrows the buffer,
    /// so this is no `Iterator`.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, Error> {
        self.buffer.clear();
        // One byte more than the longest line with its terminator.
        let most = (self.owner.limit as u64).saturating_add(3);
        if self.input.read_line(most, &mut self.buffer)? == 0 {
            return Ok(None);
        }
        self.number += 1;
        let start = self.offset;
        self.offset += self.buffer.len() as u64;
        let line = self.owner.line(&self.buffer, self.number, start);
        line.map(Some)
    }

    /// The lines up to the next empty one, as they stand in the file.
    fn paragraph(&mut self) -> Result<Option<String>, Error> {
        let limit = self.owner.limit;
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
                return Err(self.owner.long(Place::Line(first)));
            }
        }
        Ok((first != 0).then_some(text))
    }

    /// Everything that is left.
    fn rest(&mut self) -> Result<String, Error> {
        let mut bytes = Vec::new();
        let most = (self.owner.limit as u64).saturating_add(1);
        self.input.read_rest(most, &mut bytes)?;
        if self.owner.limit < bytes.len() {
            return Err(self.owner.long(Place::File));
        }
        String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let before = error.as_bytes().iter().take(valid);
            let line = 1 + before.filter(|byte| **byte == b'\n').count() as u64;
            Error::NotUtf8 {
                file: self.owner.name.clone(),
                place: Place::Line(line),
                byte: valid as u64,
            }
        })
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
