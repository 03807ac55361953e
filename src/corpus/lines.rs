//! Lines: whole ones are read in blocks, and taken apart on any thread.
//!
//! A terminator is `\n` or `\r\n`; a line is text without it.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memrchr};

use crate::fs;

use super::block::BLOCK_BYTES;
use super::decompress::Input;
use super::error::{Error, Place};

/// Bytes read at once to end a line that goes beyond the part of the file that is read.
const SPILL_BYTES: usize = 1 << 16;

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its number from where reading began, from 1.
    pub number: u64,
    /// What it says, without its terminator.
    pub text: &'a str,
    /// `\n`, `\r\n`, or nothing at the end of the file.
    pub terminator: &'a str,
}

/// Whose lines they are, for messages.
#[derive(Debug)]
pub struct Owner {
    /// The file's name.
    pub name: String,
    /// The most bytes that a line may have.
    pub limit: usize,
    /// From which byte on lines are read, if not from the start of the file.
    pub begin: Option<(PathBuf, u64)>,
}

impl Owner {
    /// Whose lines `input` has, from its start.
    pub fn whole(input: &Input, limit: usize) -> Self {
        Self {
            name: input.name.clone(),
            limit,
            begin: None,
        }
    }

    /// Where the line with `number` stands in the whole file. What stands before
    /// the part that was read is counted now: only messages ask.
    pub fn place(&self, number: u64) -> Place {
        let before = self.begin.as_ref();
        // The line that holds the byte before the beginning was begun before it.
        let before = before.map_or(0, |(path, begin)| lines_before(path, begin - 1) + 1);
        Place::Line(before + number)
    }

    /// Whether reading began at the start of the file.
    pub fn is_start(&self) -> bool {
        self.begin.is_none()
    }

    /// A line is longer than lines may be.
    pub fn long(&self, place: Place) -> Error {
        Error::Long {
            file: self.name.clone(),
            place,
            limit: self.limit,
        }
    }

    /// Takes a line apart; `bytes` ends with its terminator, if it has one, and
    /// `offset` is where in the file it begins.
    pub fn line<'a>(&self, bytes: &'a [u8], number: u64, offset: u64) -> Result<Line<'a>, Error> {
        let text = match simdutf8::compat::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) if self.limit + 2 < bytes.len() => return Err(self.long(self.place(number))),
            Err(error) => {
                return Err(Error::NotUtf8 {
                    file: self.name.clone(),
                    place: self.place(number),
                    byte: offset + error.valid_up_to() as u64,
                });
            }
        };
        self.cut(text, number)
    }

    fn cut<'a>(&self, line: &'a str, number: u64) -> Result<Line<'a>, Error> {
        let text = line
            .strip_suffix('\n')
            .map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
        if self.limit < text.len() {
            return Err(self.long(self.place(number)));
        }
        Ok(Line {
            number,
            text,
            terminator: line.get(text.len()..).unwrap_or_default(),
        })
    }
}

/// How many lines end in the first bytes of a file; 0 where it cannot be read.
pub fn lines_before(path: &Path, bytes: u64) -> u64 {
    let Ok(file) = fs::open(path) else {
        return 0;
    };
    let (mut file, mut buffer, mut lines) = (file.take(bytes), vec![0; BLOCK_BYTES], 0);
    while let Ok(read) = file.read(&mut buffer)
        && 0 < read
    {
        lines += memchr_iter(b'\n', buffer.get(..read).unwrap_or_default()).count() as u64;
    }
    lines
}

/// Some whole lines, as they stand in the file.
pub struct LineBlock {
    /// Whose they are.
    pub owner: Arc<Owner>,
    bytes: Vec<u8>,
    /// Where the next line begins in `bytes`.
    at: usize,
    /// How many lines were before it.
    before: u64,
    /// Where in the file `bytes` begins.
    offset: u64,
}

impl LineBlock {
    /// The next line. It borrows the block, so this is no `Iterator`.
    pub fn next(&mut self) -> Result<Option<Line<'_>>, Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let length = memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
        let (start, number) = (self.at, self.before + 1);
        self.at += length;
        self.before = number;
        let line = self.bytes.get(start..self.at).unwrap_or_default();
        let offset = self.offset + start as u64;
        self.owner.line(line, number, offset).map(Some)
    }

    /// Bytes in memory.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// Reads a stream in blocks of whole lines.
pub struct LineBlocks {
    input: Input,
    owner: Arc<Owner>,
    /// Where in the file the next block begins, in decompressed bytes.
    offset: u64,
    /// Lines that begin here or later are none of ours.
    end: u64,
    /// How many lines were read.
    before: u64,
    /// The start of a line that was read with the lines before it.
    carry: Vec<u8>,
    failed: Option<Error>,
    ended: bool,
}

impl LineBlocks {
    /// Lines of at most `limit` bytes, all that there are.
    pub fn new(input: Input, limit: usize) -> Self {
        Self {
            owner: Arc::new(Owner::whole(&input, limit)),
            input,
            offset: 0,
            end: u64::MAX,
            before: 0,
            carry: Vec::new(),
            failed: None,
            ended: false,
        }
    }

    /// Lines that begin in `span`, bytes of a file that is not compressed;
    /// `input` begins a byte before it, unless it is the start.
    pub fn of_span(
        mut input: Input,
        limit: usize,
        path: &Path,
        span: Range<u64>,
    ) -> Result<Self, Error> {
        let mut begin = span.start;
        if 0 < span.start {
            begin = span.start - 1;
            let mut skipped = Vec::new();
            loop {
                // A line that does not end before the span does leaves nothing for it.
                let most =
                    BLOCK_BYTES.min(usize::try_from(span.end - begin).unwrap_or(BLOCK_BYTES));
                skipped.clear();
                let read = input.read_line(most as u64, &mut skipped)?;
                begin += read as u64;
                if read == 0 || skipped.last() == Some(&b'\n') {
                    break;
                }
            }
        }
        let lines = Self::new(input, limit);
        let owner = Owner {
            name: lines.owner.name.clone(),
            limit,
            begin: (0 < span.start).then(|| (path.into(), span.start)),
        };
        Ok(Self {
            owner: Arc::new(owner),
            offset: begin,
            end: span.end,
            ..lines
        })
    }

    /// How many bytes of the file were read.
    pub fn bytes_read(&self) -> u64 {
        self.input.bytes_read()
    }

    fn read(&mut self) -> Result<Option<LineBlock>, Error> {
        if self.end <= self.offset {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(self.carry.len() + BLOCK_BYTES);
        bytes.append(&mut self.carry);
        let mut whole = 0;
        while !self.ended && whole == 0 {
            let searched = bytes.len();
            let left = self.end.saturating_sub(self.offset + searched as u64);
            let most = match usize::try_from(left).unwrap_or(usize::MAX) {
                0 => SPILL_BYTES,
                left => left.min(BLOCK_BYTES),
            };
            let read = self.input.read(most, &mut bytes);
            let fresh = bytes.get(searched..).unwrap_or_default();
            whole = memrchr(b'\n', fresh).map_or(0, |end| searched + end + 1);
            match read {
                Ok(read) if read < most => {
                    self.ended = true;
                    whole = bytes.len();
                }
                Ok(_) => {}
                // The lines before the damage come first.
                Err(error) => {
                    self.ended = true;
                    self.failed = Some(error);
                }
            }
            if whole == 0 && self.owner.limit + 2 < bytes.len() {
                self.ended = true;
                self.failed = Some(self.owner.long(self.owner.place(self.before + 1)));
            }
        }
        self.carry = bytes.get(whole..).unwrap_or_default().to_vec();
        bytes.truncate(whole);
        self.cut_at_end(&mut bytes);
        if bytes.is_empty() {
            return self.failed.take().map_or(Ok(None), Err);
        }
        let block = LineBlock {
            owner: self.owner.clone(),
            at: 0,
            before: self.before,
            offset: self.offset,
            bytes: Vec::new(),
        };
        self.before += memchr_iter(b'\n', &bytes).count() as u64;
        self.offset += bytes.len() as u64;
        Ok(Some(LineBlock { bytes, ..block }))
    }

    /// Leaves out the lines that begin at `end` or later; the first is ours.
    fn cut_at_end(&self, bytes: &mut Vec<u8>) {
        let ours = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX);
        if ours < bytes.len() {
            // The last of our lines is the one that holds the byte before `end`.
            let before = ours.saturating_sub(1);
            let last = bytes.get(before..).unwrap_or_default();
            let end = memchr(b'\n', last).map_or(bytes.len(), |end| before + end + 1);
            bytes.truncate(end);
        }
    }
}

impl Iterator for LineBlocks {
    type Item = Result<LineBlock, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}
