//! The bytes of a dataset's file: mapped into memory, or read where they are asked for.

use std::cell::Cell;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;
use super::layout::{BLOCK_BYTES_MAX, Fault};
use crate::digest::Digest;
use crate::fs::mapped::{Lines, Mapped};
use crate::fs::{self, read_at};

/// How the files of a dataset are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reading {
    /// Mapped into memory: the fastest on disks of this machine.
    #[default]
    Mmap,
    /// By calls that read at a position: for network file systems, whose failures are
    /// then errors of the call, and whose pages other machines may change.
    Pread,
}

/// A file whose bytes are not meant to change; threads may share it.
#[derive(Debug)]
pub struct Bytes {
    path: PathBuf,
    file: File,
    length: usize,
    /// The bytes, where they are mapped.
    mapped: Option<Mapped>,
}

impl Bytes {
    /// Opens a file for reading, which must have so many bytes where that is known.
    pub fn open(path: &Path, expected: Option<u64>, reading: Reading) -> Result<Self, Error> {
        let file = fs::open(path)?;
        let found = length(&file, path)?;
        if expected.is_some_and(|expected| expected != found) {
            let expected = expected.unwrap_or_default();
            return Err(damaged(path)(Fault::new(LENGTH, expected, found)));
        }
        let too_long = || Fault::new(LENGTH, "one that memory can hold", found);
        Ok(Self {
            length: usize::try_from(found).map_err(|_| damaged(path)(too_long()))?,
            mapped: match reading {
                Reading::Mmap => Some(Mapped::new(&file).map_err(fs::Error::new("map", path))?),
                Reading::Pread => None,
            },
            path: path.to_path_buf(),
            file,
        })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Shows some of the bytes, without a copy where they are mapped.
    ///
    /// Bytes that cannot be had are an error, after `see` was shown zeros in their place,
    /// or nothing: what it made of them is dropped.
    pub fn see<T>(
        &self,
        range: Range<usize>,
        see: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if range.end < range.start || self.length < range.end {
            return Err(self.damaged(Fault::new(
                format!("bytes {} to {}", range.start, range.end),
                format!("some of {}", self.length),
                "none",
            )));
        }
        let Some(mapped) = &self.mapped else {
            return scratch(range.len(), |bytes| {
                self.read(range.start, bytes)?;
                see(bytes)
            });
        };
        let seen = see(mapped.bytes().get(range).unwrap_or_default());
        match mapped.is_whole() {
            true => seen,
            false => Err(self.lost()),
        }
    }

    /// What `parse` makes of all bytes.
    pub fn parse<T>(&self, parse: impl FnOnce(&[u8]) -> Result<T, Fault>) -> Result<T, Error> {
        self.see(0..self.length, |bytes| {
            parse(bytes).map_err(|fault| self.damaged(fault))
        })
    }

    /// A few of the bytes.
    pub fn array<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        if self.mapped.is_none() {
            self.read(at, &mut bytes)?;
            return Ok(bytes);
        }
        self.see(at..at.saturating_add(N), |seen| {
            bytes.copy_from_slice(seen);
            Ok(bytes)
        })
    }

    /// The digest of all bytes.
    pub fn digest(&self) -> Result<Digest, Error> {
        let mut hasher = blake3::Hasher::new();
        for start in (0..self.length).step_by(BLOCK_BYTES_MAX) {
            let end = self.length.min(start + BLOCK_BYTES_MAX);
            self.see(start..end, |bytes| {
                hasher.update(bytes);
                Ok(())
            })?;
        }
        Ok(Digest(*hasher.finalize().as_bytes()))
    }

    /// Says that some bytes will be read soon, so that the system may fetch them.
    pub fn will_need(&self, range: &Range<usize>) {
        match &self.mapped {
            Some(mapped) => mapped.will_need(range),
            None => fs::will_need(&self.file, range),
        }
    }

    /// Some bytes, for the processor to get them from memory: none where they are not mapped.
    pub fn lines(&self, range: &Range<usize>) -> Lines<'_> {
        (self.mapped.as_ref()).map_or(Lines::default(), |mapped| mapped.lines(range))
    }

    /// An error about this file.
    pub fn damaged(&self, fault: Fault) -> Error {
        damaged(&self.path)(fault)
    }

    fn read(&self, at: usize, bytes: &mut [u8]) -> Result<(), Error> {
        match read_at(&self.file, at as u64, bytes) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(self.lost()),
            Err(error) => Err(fs::Error::new("read", &self.path)(error).into()),
        }
    }

    /// Why bytes are gone: the file is shorter now, or its disk fails.
    fn lost(&self) -> Error {
        match length(&self.file, &self.path) {
            Err(error) => error,
            Ok(found) if found != self.length as u64 => {
                let field = format!("{LENGTH}, while it was read");
                self.damaged(Fault::new(field, self.length, found))
            }
            Ok(_) => {
                let failed = std::io::Error::other("a page of it cannot be had from its disk");
                fs::Error::new("read", &self.path)(failed).into()
            }
        }
    }
}

const LENGTH: &str = "length in bytes";

fn length(file: &File, path: &Path) -> Result<u64, Error> {
    Ok(file.metadata().map_err(fs::Error::new("read", path))?.len())
}

/// An error about a file.
pub fn damaged(path: &Path) -> impl FnOnce(Fault) -> Error {
    let path = path.to_path_buf();
    move |fault| Error::Damaged {
        path,
        field: fault.field,
        expected: fault.expected,
        found: fault.found,
    }
}

/// Lends memory to `work` that this thread keeps, so that rows need none of their own.
fn scratch<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    /// Of larger ones nothing is kept: an index is read whole once.
    const KEPT: usize = 2 * BLOCK_BYTES_MAX;
    thread_local! {
        static MEMORY: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    // Taken out: work that asks again meanwhile gets other memory.
    let mut memory = MEMORY.take();
    if memory.len() < length {
        memory.resize(length, 0);
    }
    let done = work(memory.get_mut(..length).unwrap_or_default());
    if memory.len() <= KEPT {
        MEMORY.set(memory);
    }
    done
}
