//! The bytes of a binary shard, format versions 1 and 2.
//!
//! A shard is two files that other programs read as they are: `.bin` is a
//! header whose first words are those of llm.c, then raw little-endian ids;
//! `.idx` is in [`super::index`]. Nothing here opens a file: bytes go in,
//! checked values come out.

use crate::digest::{Digest, checksum};
use crate::manifest::Stage;
use crate::token::{IdWidth, Reserved, TokenId};

/// Bytes before the ids; llm.c's header has as many.
pub const HEADER_BYTES: usize = 1024;
/// Blocks with a checksum have at most so many bytes; in [`Version::One`] as many.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Blocks of version 2 have at least so many: below that checksums would take more than two
/// thousandths of the ids.
const BLOCK_BYTES_MIN: usize = 4 << 10;
/// A shard holds fewer ids than this: llm.c counts them in an i32.
pub const IDS_MAX: u64 = 1 << 31;

const HEADER_MAGIC: [u8; 16] = *b"PAUSEDATASHARD01";
const HEADER_CHECKED: usize = HEADER_BYTES - 8;

/// A value in a file that is not what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which field, section or block.
    pub field: String,
    /// What should stand there.
    pub expected: String,
    /// What stands there.
    pub found: String,
}

impl Fault {
    /// A fault in `field`.
    pub fn new(field: impl Into<String>, expected: impl ToString, found: impl ToString) -> Self {
        Self {
            field: field.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// A version of the format, which decides the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Blocks of 1 MiB.
    One,
    /// Blocks of a row, or of several where rows are short: what one row is checked with.
    Two,
}

impl Version {
    /// The one that binary shards are written in.
    pub const NEWEST: Self = Self::Two;

    /// The number in files.
    pub fn number(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }

    fn from_number(number: u32) -> Result<Self, Fault> {
        match number {
            1 => Ok(Self::One),
            2 => Ok(Self::Two),
            other => Err(Fault::new("format version", "1 or 2", other)),
        }
    }
}

/// A checked header: every field has a value that a writer may have written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the format.
    pub version: Version,
    /// Ids in the file.
    pub ids: u64,
    /// Rows they make.
    pub rows: u64,
    /// Bytes of one id.
    pub id_width: IdWidth,
    /// Ids are below this.
    pub vocab_size: u32,
    /// The reserved ids.
    pub reserved: Reserved,
    /// Longest row.
    pub row_length: u32,
    /// What the rows are for.
    pub stage: Stage,
    /// The group of input files that the rows come from.
    pub unit: u32,
    /// Which of that unit's shards this is.
    pub part: u32,
    /// BLAKE3 of the tokenizer.
    pub tokenizer: Digest,
}

impl Header {
    /// The first [`HEADER_BYTES`] bytes of the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (magic, version) = llm_c(self.id_width);
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let mut put = |field: &[u8]| bytes.extend_from_slice(field);
        put(&magic.to_le_bytes());
        put(&version.to_le_bytes());
        put(&u32::try_from(self.ids).unwrap_or(u32::MAX).to_le_bytes());
        put(&HEADER_MAGIC);
        put(&self.version.number().to_le_bytes());
        put(&self.ids.to_le_bytes());
        put(&self.rows.to_le_bytes());
        let words = [
            u32::from(id_bytes(self.id_width)),
            self.vocab_size,
            self.reserved.pause.0,
            self.reserved.end.0,
            self.reserved.pad.0,
            self.row_length,
            stage_code(self.stage),
            self.unit,
            self.part,
        ];
        for word in words {
            put(&word.to_le_bytes());
        }
        put(&self.tokenizer.0);
        if self.version == Version::Two {
            // At most `BLOCK_BYTES_MAX`.
            let block_bytes = u32::try_from(self.block_bytes()).unwrap_or(u32::MAX);
            put(&block_bytes.to_le_bytes());
        }
        bytes.resize(HEADER_CHECKED, 0);
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    }

    /// The checksum that stands at the end of the header.
    pub fn checksum(&self) -> u64 {
        let bytes = self.to_bytes();
        checksum(bytes.get(..HEADER_CHECKED).unwrap_or_default())
    }

    /// Bytes of a block of ids; the last one may have fewer. Whole ids in any case.
    ///
    /// In version 2 a row, if all are as long as the longest may be, lies in one block.
    pub fn block_bytes(&self) -> usize {
        let row_length = usize::try_from(self.row_length).unwrap_or(usize::MAX);
        match (
            self.version,
            row_length.saturating_mul(self.id_width.bytes()),
        ) {
            (Version::One, _) | (Version::Two, BLOCK_BYTES_MAX..) => BLOCK_BYTES_MAX,
            (Version::Two, row) => BLOCK_BYTES_MIN.next_multiple_of(row.max(1)),
        }
    }

    /// Bytes of the ids.
    pub fn ids_bytes(&self) -> u64 {
        self.ids * u64::from(id_bytes(self.id_width))
    }
}

/// A header as it stands in a file, its values not yet believed.
#[derive(Clone, Debug)]
pub struct RawHeader {
    magic: u32,
    version: u32,
    llm_c_ids: u32,
    our_magic: [u8; 16],
    format: u32,
    ids: u64,
    rows: u64,
    words: [u32; 9],
    tokenizer: [u8; 32],
    block_bytes: u32,
    zeros: bool,
    checksum: u64,
    actual: u64,
}

impl RawHeader {
    /// Takes the fields apart; fails where there are too few bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let short = || Fault::new("length of the header", HEADER_BYTES, bytes.len());
        let head = bytes.get(..HEADER_BYTES).ok_or_else(short)?;
        let (checked, _) = head.split_at(HEADER_CHECKED);
        let mut cursor = Cursor(head);
        let mut read = || {
            Some(Self {
                magic: cursor.u32()?,
                version: cursor.u32()?,
                llm_c_ids: cursor.u32()?,
                our_magic: cursor.take()?,
                format: cursor.u32()?,
                ids: cursor.u64()?,
                rows: cursor.u64()?,
                words: [
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                    cursor.u32()?,
                ],
                tokenizer: cursor.take()?,
                block_bytes: cursor.u32()?,
                zeros: cursor.zeros_until_last(8)?,
                checksum: cursor.u64()?,
                actual: checksum(checked),
            })
        };
        read().ok_or_else(short)
    }

    /// Checks every field and the checksum over them.
    pub fn check(self) -> Result<Header, Fault> {
        let [
            width,
            vocab_size,
            pause,
            end,
            pad,
            row_length,
            stage,
            unit,
            part,
        ] = self.words;
        ensure("magic", text(&HEADER_MAGIC), text(&self.our_magic))?;
        let version = Version::from_number(self.format)?;
        ensure("checksum of the header", self.checksum, self.actual)?;
        ensure("zeros before the header's checksum", true, self.zeros)?;
        let id_width = match width {
            2 => IdWidth::U16,
            4 => IdWidth::U32,
            other => return Err(Fault::new("bytes of an id", "2 or 4", other)),
        };
        let stage = match stage {
            0 => Stage::Pretrain,
            1 => Stage::Finetune,
            other => return Err(Fault::new("stage", "0 or 1", other)),
        };
        ensure(
            "llm.c magic and version",
            llm_c(id_width),
            (self.magic, self.version),
        )?;
        ensure("llm.c count of ids", self.ids, u64::from(self.llm_c_ids))?;
        let header = Header {
            version,
            ids: self.ids,
            rows: self.rows,
            id_width,
            vocab_size,
            reserved: Reserved {
                pause: TokenId(pause),
                end: TokenId(end),
                pad: TokenId(pad),
                extra: Default::default(),
            },
            row_length,
            stage,
            unit,
            part,
            tokenizer: Digest(self.tokenizer),
        };
        check_values(&header)?;
        let expected = match version {
            Version::One => 0,
            Version::Two => header.block_bytes(),
        };
        let found = usize::try_from(self.block_bytes).unwrap_or(usize::MAX);
        ensure("bytes of a block", expected, found)?;
        Ok(header)
    }
}

/// Checks what the fields say about one another.
pub fn check_values(header: &Header) -> Result<(), Fault> {
    if IDS_MAX <= header.ids {
        return Err(Fault::new("count of ids", "fewer than 2^31", header.ids));
    }
    if header.id_width == IdWidth::U16 && 1 << 16 < header.vocab_size {
        let expected = "at most 65536 for ids of two bytes";
        return Err(Fault::new("vocabulary size", expected, header.vocab_size));
    }
    let Reserved {
        pause, end, pad, ..
    } = header.reserved;
    if pause == end || end == pad || pad == pause {
        let found = format!("{}, {}, {}", pause.0, end.0, pad.0);
        return Err(Fault::new("reserved ids", "three different ones", found));
    }
    for (field, id) in [("pause id", pause), ("end id", end), ("pad id", pad)] {
        if header.vocab_size <= id.0 {
            return Err(Fault::new(
                field,
                format!("an id below {}", header.vocab_size),
                id.0,
            ));
        }
    }
    if header.row_length == 0 {
        return Err(Fault::new("row length", "at least 1", 0));
    }
    Ok(())
}

/// The magic number and version that llm.c expects.
fn llm_c(width: IdWidth) -> (u32, u32) {
    match width {
        IdWidth::U16 => (20_240_520, 1),
        IdWidth::U32 => (20_240_801, 7),
    }
}

pub(super) fn id_bytes(width: IdWidth) -> u8 {
    match width {
        IdWidth::U16 => 2,
        IdWidth::U32 => 4,
    }
}

fn stage_code(stage: Stage) -> u32 {
    match stage {
        Stage::Pretrain => 0,
        Stage::Finetune => 1,
    }
}

pub(super) fn ensure<T: PartialEq + std::fmt::Debug>(
    field: &str,
    expected: T,
    found: T,
) -> Result<(), Fault> {
    match expected == found {
        true => Ok(()),
        false => Err(Fault::new(
            field,
            format!("{expected:?}"),
            format!("{found:?}"),
        )),
    }
}

/// Bytes as a person reads them.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Reads little-endian values one after another.
pub(super) struct Cursor<'a>(pub &'a [u8]);

impl Cursor<'_> {
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*value)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// Skips to the last `n` bytes; whether all that was skipped was zero.
    fn zeros_until_last(&mut self, n: usize) -> Option<bool> {
        let (zeros, rest) = self.0.split_at_checked(self.0.len().checked_sub(n)?)?;
        self.0 = rest;
        Some(zeros.iter().all(|byte| *byte == 0))
    }
}

#[cfg(test)]
mod tests;
