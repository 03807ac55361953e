//! The pages of a Parquet file, before they are decompressed.
//!
//! The reader makes room for a page's contents as large as its header says, so
//! a few hundred bytes can ask for gigabytes. Headers are read here first: they
//! are structs in Thrift's compact protocol, one before each page.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// The most bytes that the contents of a page may have. Writers aim at 1 MiB;
/// what holds one document of the greatest length fits twice.
pub const PAGE_BYTES_MAX: u64 = 128 << 20;

/// More than any header has: statistics of long strings are part of it.
const HEADER_BYTES_MAX: usize = 16 << 20;

/// Structs inside structs; those of a page header are three deep.
const DEPTH_MAX: u32 = 16;

/// What is wrong with a page.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its contents are too large.
    #[error(
        "the page at byte {at} holds {found} bytes, and {PAGE_BYTES_MAX} are the most that a page may hold"
    )]
    Large {
        /// Where its header stands.
        at: u64,
        /// How long its contents are.
        found: u64,
    },
    /// It has no header.
    #[error("there is no page header at byte {at}")]
    Header {
        /// Where it should stand.
        at: u64,
    },
    /// Its header could not be read.
    #[error("cannot read the page header at byte {at}")]
    Read {
        /// Where it stands.
        at: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Checks the headers of the pages that stand in `span` of a file.
pub fn check(file: &File, span: Range<u64>) -> Result<(), Error> {
    let mut at = span.start;
    while at < span.end {
        let header = read(file, at)?;
        let size = |bytes: i64| u64::try_from(bytes).map_err(|_| Error::Header { at });
        let contents = size(header.contents)?;
        if PAGE_BYTES_MAX < contents {
            return Err(Error::Large {
                at,
                found: contents,
            });
        }
        // A header has at least one byte, so this ends.
        at = (at + header.length as u64).saturating_add(size(header.compressed)?);
    }
    Ok(())
}

/// A page's sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Header {
    length: usize,
    contents: i64,
    compressed: i64,
}

fn read(file: &File, at: u64) -> Result<Header, Error> {
    let mut bytes = vec![0; 1 << 10];
    loop {
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { at, source }),
            }
        }
        if let Some(header) = parse(bytes.get(..filled).unwrap_or_default()) {
            return Ok(header);
        }
        // What does not parse is cut off or none; the first is cured by more of it.
        if filled < bytes.len() || HEADER_BYTES_MAX <= bytes.len() {
            return Err(Error::Header { at });
        }
        let longer = 16 * bytes.len();
        bytes.resize(longer, 0);
    }
}

fn parse(bytes: &[u8]) -> Option<Header> {
    const CONTENTS: i64 = 2;
    const COMPRESSED: i64 = 3;
    let mut cursor = Cursor { bytes, at: 0 };
    let mut header = Header::default();
    let mut id = 0;
    while let Some(kind) = cursor.field(&mut id)? {
        match (id, kind) {
            (CONTENTS, INT) => header.contents = cursor.int()?,
            (COMPRESSED, INT) => header.compressed = cursor.int()?,
            (_, kind) => cursor.skip(kind, DEPTH_MAX)?,
        }
    }
    header.length = cursor.at;
    Some(header)
}

/// The code of a 32-bit integer.
const INT: u8 = 5;

/// Thrift's compact protocol, as far as it is needed to step over a struct.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A signed integer: 0, -1, 1, -2 are written as 0, 1, 2, 3.
    fn int(&mut self) -> Option<i64> {
        let value = self.varint()?;
        let half = i64::try_from(value >> 1).ok()?;
        Some(if value & 1 == 0 { half } else { -half - 1 })
    }

    /// The kind of the next field, whose number is put into `id`; `Some(None)` at the end.
    fn field(&mut self, id: &mut i64) -> Option<Option<u8>> {
        let byte = self.byte()?;
        let (step, kind) = (byte >> 4, byte & 0xf);
        if kind == 0 {
            return Some(None);
        }
        *id = match step {
            0 => self.int()?,
            step => *id + i64::from(step),
        };
        Some(Some(kind))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        let deeper = depth.checked_sub(1)?;
        match kind {
            1 | 2 => {} // The kind is the truth value.
            3 => drop(self.byte()?),
            4..=6 => drop(self.varint()?),
            7 => self.step(8)?,
            8 => {
                let length = self.varint()?;
                self.step(length)?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let (short, kind) = (u64::from(head >> 4), head & 0xf);
                let length = if short == 15 { self.varint()? } else { short };
                for _ in 0..length {
                    // In a list, truth values are bytes.
                    self.skip(if kind <= 2 { 3 } else { kind }, deeper)?;
                }
            }
            12 => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, deeper)?;
                }
            }
            _ => return None, // Page headers hold no maps.
        }
        Some(())
    }

    fn step(&mut self, length: u64) -> Option<()> {
        let end = self.at.checked_add(usize::try_from(length).ok()?)?;
        self.at = (end <= self.bytes.len()).then_some(end)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data page of 7 bytes, 5 compressed, then its own header: 3 values.
    const PAGE: [u8; 16] = [
        0x15, 0x00, 0x15, 14, 0x15, 10, 0x2c, 0x15, 6, 0x15, 0, 0x15, 6, 0x15, 6, 0,
    ];

    #[test]
    fn a_header_is_stepped_over() {
        let mut bytes = PAGE.to_vec();
        bytes.extend([0, 1, 2, 3, 4, 5]);
        let header = parse(&bytes).unwrap();
        let expected = Header {
            length: 17,
            contents: 7,
            compressed: 5,
        };
        assert_eq!(header, expected);
        for cut in 0..17 {
            assert_eq!(parse(&bytes[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn a_page_that_asks_for_gigabytes_is_refused() {
        use std::io::Write;
        let span = |bytes: &[u8]| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            check(&file, 0..bytes.len() as u64)
        };
        let mut pages = [&PAGE[..], &[0, 9, 9, 9, 9, 9]].concat();
        pages.extend(pages.clone());
        span(&pages).unwrap();
        // 2^31 - 1 as Thrift writes it, in place of the 7.
        pages.splice(25..26, [0xfe, 0xff, 0xff, 0xff, 0x0f]);
        let error = span(&pages).unwrap_err().to_string();
        assert_eq!(
            error,
            "the page at byte 22 holds 2147483647 bytes, and 134217728 are the most that a page may hold"
        );
        let error = span(&[0x1b]).unwrap_err().to_string();
        assert_eq!(error, "there is no page header at byte 0");
    }
}
