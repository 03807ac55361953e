//! The bytes of a binary shard, format version 1.
//!
//! A shard is two files that other programs read as they are: `.bin` is a
//! header whose first words are those of llm.c, then raw little-endian ids;
//! `.idx` is the index of Megatron-LM, then a tail of ours that it ignores.
//! Nothing here opens a file: bytes go in, checked values come out.

use crate::digest::{Digest, checksum};
use crate::document::DocumentId;
use crate::manifest::{FORMAT, Stage};
use crate::token::{IdWidth, Reserved, TokenId};

/// Bytes before the ids; llm.c's header has as many.
pub const HEADER_BYTES: usize = 1024;
/// Ids are checksummed in blocks of so many bytes.
pub const BLOCK_BYTES: usize = 1 << 20;
/// A shard holds fewer ids than this: llm.c counts them in an i32.
pub const IDS_MAX: u64 = 1 << 31;

const HEADER_MAGIC: [u8; 16] = *b"PAUSEDATASHARD01";
const HEADER_CHECKED: usize = HEADER_BYTES - 8;
const INDEX_MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
const INDEX_VERSION: u64 = 1;
const INDEX_HEAD_BYTES: usize = 9 + 8 + 1 + 8 + 8;
const TAIL_MAGIC: [u8; 16] = *b"PAUSEDATAINDEX01";
const FOOTER_BYTES: usize = 16 + 8 * 8;
const DOCUMENT_BYTES: usize = 4 + 8 + 8 + 8;

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

/// One document of a shard: where it came from and what its text was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DocumentRecord {
    /// Where it came from.
    pub id: DocumentId,
    /// Length of its text in UTF-8 bytes.
    pub text_bytes: u64,
    /// XXH3-64 of its text.
    pub checksum: u64,
}

/// A checked header: every field has a value that a writer may have written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
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
        put(&FORMAT.to_le_bytes());
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
        bytes.resize(HEADER_CHECKED, 0);
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    }

    /// The checksum that stands at the end of the header.
    pub fn checksum(&self) -> u64 {
        let bytes = self.to_bytes();
        checksum(bytes.get(..HEADER_CHECKED).unwrap_or_default())
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
    zeros: bool,
    checksum: u64,
    actual: u64,
}

impl RawHeader {
    /// Takes the fields apart; fails where there are too few bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let short = || fault("length of the header", HEADER_BYTES, bytes.len());
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
        ensure("format version", FORMAT, self.format)?;
        ensure("checksum of the header", self.checksum, self.actual)?;
        ensure("zeros before the header's checksum", true, self.zeros)?;
        let id_width = match width {
            2 => IdWidth::U16,
            4 => IdWidth::U32,
            other => return Err(fault("bytes of an id", "2 or 4", other)),
        };
        let stage = match stage {
            0 => Stage::Pretrain,
            1 => Stage::Finetune,
            other => return Err(fault("stage", "0 or 1", other)),
        };
        ensure(
            "llm.c magic and version",
            llm_c(id_width),
            (self.magic, self.version),
        )?;
        ensure("llm.c count of ids", self.ids, u64::from(self.llm_c_ids))?;
        let header = Header {
            ids: self.ids,
            rows: self.rows,
            id_width,
            vocab_size,
            reserved: Reserved {
                pause: TokenId(pause),
                end: TokenId(end),
                pad: TokenId(pad),
            },
            row_length,
            stage,
            unit,
            part,
            tokenizer: Digest(self.tokenizer),
        };
        check_values(&header)?;
        Ok(header)
    }
}

/// Checks what the fields say about one another.
pub fn check_values(header: &Header) -> Result<(), Fault> {
    if IDS_MAX <= header.ids {
        return Err(fault("count of ids", "fewer than 2^31", header.ids));
    }
    if header.id_width == IdWidth::U16 && 1 << 16 < header.vocab_size {
        let expected = "at most 65536 for ids of two bytes";
        return Err(fault("vocabulary size", expected, header.vocab_size));
    }
    let Reserved { pause, end, pad } = header.reserved;
    if pause == end || end == pad || pad == pause {
        let found = format!("{}, {}, {}", pause.0, end.0, pad.0);
        return Err(fault("reserved ids", "three different ones", found));
    }
    for (field, id) in [("pause id", pause), ("end id", end), ("pad id", pad)] {
        if header.vocab_size <= id.0 {
            return Err(fault(
                field,
                format!("an id below {}", header.vocab_size),
                id.0,
            ));
        }
    }
    if header.row_length == 0 {
        return Err(fault("row length", "at least 1", 0));
    }
    Ok(())
}

/// What an index says, before it is bytes.
#[derive(Clone, Debug, Default)]
pub struct IndexParts {
    /// Ids of every row.
    pub lengths: Vec<u32>,
    /// XXH3-64 of every block of ids.
    pub blocks: Vec<u64>,
    /// Prefix of every row; empty in pretraining.
    pub prefixes: Vec<u32>,
    /// Documents whose first id lies in the shard.
    pub documents: Vec<DocumentRecord>,
}

impl IndexParts {
    /// The `.idx` file of a shard with this header.
    pub fn to_bytes(&self, header: &Header) -> Vec<u8> {
        let mut bytes = INDEX_MAGIC.to_vec();
        let mut put = |field: &[u8]| bytes.extend_from_slice(field);
        put(&INDEX_VERSION.to_le_bytes());
        put(&[megatron_code(header.id_width)]);
        put(&header.rows.to_le_bytes());
        put(&(header.rows + 1).to_le_bytes());
        for length in &self.lengths {
            put(&length.to_le_bytes());
        }
        let mut at = HEADER_BYTES as u64;
        for length in &self.lengths {
            put(&at.to_le_bytes());
            at += u64::from(*length) * u64::from(id_bytes(header.id_width));
        }
        for row in 0..=header.rows {
            put(&row.to_le_bytes());
        }
        for block in &self.blocks {
            put(&block.to_le_bytes());
        }
        for prefix in &self.prefixes {
            put(&prefix.to_le_bytes());
        }
        for document in &self.documents {
            put(&document.id.file.to_le_bytes());
            put(&document.id.row.to_le_bytes());
            put(&document.text_bytes.to_le_bytes());
            put(&document.checksum.to_le_bytes());
        }
        put(&TAIL_MAGIC);
        let counts = [
            header.rows,
            header.ids,
            self.blocks.len() as u64,
            self.prefixes.len() as u64,
            self.documents.len() as u64,
            header.checksum(),
        ];
        for count in counts {
            put(&count.to_le_bytes());
        }
        let length = bytes.len() as u64 + 16;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes
    }
}

/// Where the sections of a checked `.idx` file lie; its bytes stay outside.
#[derive(Clone, Debug)]
pub struct Index {
    rows: usize,
    id_bytes: u64,
    lengths: usize,
    pointers: usize,
    blocks: usize,
    prefixes: Option<usize>,
    documents: usize,
    n_documents: usize,
}

impl Index {
    /// How long the `.idx` file of a shard is; `None` where no file is so long.
    pub fn length(header: &Header, n_documents: u64) -> Option<u64> {
        let per_row = 4
            + 8
            + 8
            + if header.stage == Stage::Finetune {
                4
            } else {
                0
            };
        let rows = header.rows.checked_mul(per_row)?.checked_add(8)?;
        let blocks = header.ids_bytes().div_ceil(BLOCK_BYTES as u64) * 8;
        let documents = n_documents.checked_mul(DOCUMENT_BYTES as u64)?;
        (INDEX_HEAD_BYTES as u64 + FOOTER_BYTES as u64)
            .checked_add(rows)?
            .checked_add(blocks)?
            .checked_add(documents)
    }

    /// Checks the whole file against the header of its `.bin`.
    pub fn parse(bytes: &[u8], header: &Header) -> Result<Self, Fault> {
        let n_documents = check_footer(bytes, header)?;
        let too_large = || fault("count of rows", "one that memory can hold", header.rows);
        let rows = usize::try_from(header.rows).map_err(|_| too_large())?;
        let n_blocks = usize::try_from(header.ids_bytes()).map_err(|_| too_large())?;
        // The file's length is right, so the sections, which add up to it, lie inside.
        let lengths = INDEX_HEAD_BYTES;
        let pointers = lengths + 4 * rows;
        let documents_of_megatron = pointers + 8 * rows;
        let blocks = documents_of_megatron + 8 * (rows + 1);
        let after_blocks = blocks + 8 * n_blocks.div_ceil(BLOCK_BYTES);
        let finetune = header.stage == Stage::Finetune;
        let documents = after_blocks + if finetune { 4 * rows } else { 0 };
        let index = Self {
            rows,
            id_bytes: u64::from(id_bytes(header.id_width)),
            lengths,
            pointers,
            blocks,
            prefixes: finetune.then_some(after_blocks),
            documents,
            n_documents,
        };
        index.check_head(bytes, header)?;
        index.check_rows(bytes, header, documents_of_megatron)?;
        Ok(index)
    }

    /// Where the ids of a row start in the `.bin` file, how many there are, and its prefix.
    pub fn row(&self, bytes: &[u8], row: u64) -> Option<(usize, usize, Option<u32>)> {
        let row = usize::try_from(row).ok().filter(|row| *row < self.rows)?;
        let start = u64_at(bytes, self.pointers + 8 * row)?;
        let length = u32_at(bytes, self.lengths + 4 * row)?;
        let prefix = match self.prefixes {
            Some(prefixes) => Some(u32_at(bytes, prefixes + 4 * row)?),
            None => None,
        };
        Some((
            usize::try_from(start).ok()?,
            usize::try_from(length).ok()?,
            prefix,
        ))
    }

    /// The checksum that a block of ids must have.
    pub fn block(&self, bytes: &[u8], block: usize) -> Option<u64> {
        u64_at(bytes, self.blocks + 8 * block)
    }

    /// The documents, in stream order.
    pub fn documents(&self, bytes: &[u8]) -> Vec<DocumentRecord> {
        let mut cursor = Cursor(bytes.get(self.documents..).unwrap_or_default());
        let mut next = || {
            Some(DocumentRecord {
                id: DocumentId {
                    file: cursor.u32()?,
                    row: cursor.u64()?,
                },
                text_bytes: cursor.u64()?,
                checksum: cursor.u64()?,
            })
        };
        (0..self.n_documents).map_while(|_| next()).collect()
    }

    fn check_head(&self, bytes: &[u8], header: &Header) -> Result<(), Fault> {
        let mut cursor = Cursor(bytes);
        let short = || fault("length", INDEX_HEAD_BYTES, bytes.len());
        let magic: [u8; 9] = cursor.take().ok_or_else(short)?;
        let version = cursor.u64().ok_or_else(short)?;
        let [code] = cursor.take().ok_or_else(short)?;
        let sequences = cursor.u64().ok_or_else(short)?;
        let documents = cursor.u64().ok_or_else(short)?;
        ensure("Megatron magic", text(&INDEX_MAGIC), text(&magic))?;
        ensure("Megatron version", INDEX_VERSION, version)?;
        ensure("Megatron type code", megatron_code(header.id_width), code)?;
        ensure("Megatron count of sequences", header.rows, sequences)?;
        ensure("Megatron count of documents", header.rows + 1, documents)
    }

    /// Every row lies where the row before it ended, and they fill the file.
    fn check_rows(&self, bytes: &[u8], header: &Header, documents: usize) -> Result<(), Fault> {
        let mut ids = 0u64;
        let named = |what: &str, row: u64| format!("{what} of row {row}");
        let short = |row: u64| fault(&named("index", row), "an entry", "the end of the file");
        for (row, at) in (0..header.rows).zip(0..) {
            let (start, length, prefix) = self.row(bytes, row).ok_or_else(|| short(row))?;
            let expected = HEADER_BYTES as u64 + ids * self.id_bytes;
            if start as u64 != expected {
                return Err(fault(&named("byte pointer", row), expected, start));
            }
            if length as u64 > u64::from(header.row_length) {
                let most = format!("at most {}", header.row_length);
                return Err(fault(&named("length", row), most, length));
            }
            if let Some(prefix) = prefix.filter(|prefix| u64::from(*prefix) > length as u64) {
                let most = format!("at most {length}");
                return Err(fault(&named("prefix", row), most, prefix));
            }
            let document = u64_at(bytes, documents + 8 * at);
            if document != Some(row) {
                return Err(fault(
                    &named("Megatron document", row),
                    row,
                    Shown(document),
                ));
            }
            ids += length as u64;
        }
        let last = u64_at(bytes, documents + 8 * self.rows);
        if last != Some(header.rows) {
            return Err(fault("last Megatron document", header.rows, Shown(last)));
        }
        ensure("sum of row lengths", header.ids, ids)
    }
}

/// The Megatron type code: `uint16`, or `int32`, which it uses for larger ids.
fn megatron_code(width: IdWidth) -> u8 {
    match width {
        IdWidth::U16 => 8,
        IdWidth::U32 => 4,
    }
}

/// The magic number and version that llm.c expects.
fn llm_c(width: IdWidth) -> (u32, u32) {
    match width {
        IdWidth::U16 => (20_240_520, 1),
        IdWidth::U32 => (20_240_801, 7),
    }
}

fn id_bytes(width: IdWidth) -> u8 {
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

/// Checks the footer and, by its checksum, every byte; returns the count of documents.
fn check_footer(bytes: &[u8], header: &Header) -> Result<usize, Fault> {
    let least = INDEX_HEAD_BYTES + 8 + FOOTER_BYTES;
    let short = || fault("length", format!("at least {least}"), bytes.len());
    let at = bytes.len().checked_sub(FOOTER_BYTES).ok_or_else(short)?;
    let (checked, _) = bytes.split_at_checked(bytes.len() - 8).ok_or_else(short)?;
    let mut cursor = Cursor(bytes.get(at..).unwrap_or_default());
    let magic: [u8; 16] = cursor.take().ok_or_else(short)?;
    let mut next = || cursor.u64().ok_or_else(short);
    let [
        rows,
        ids,
        blocks,
        prefixes,
        documents,
        header_sum,
        length,
        sum,
    ] = [
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
        next()?,
    ];
    ensure("magic of the footer", text(&TAIL_MAGIC), text(&magic))?;
    ensure("length", length, bytes.len() as u64)?;
    ensure("checksum of the index", sum, checksum(checked))?;
    ensure("count of rows", header.rows, rows)?;
    ensure("count of ids", header.ids, ids)?;
    let expected = header.ids_bytes().div_ceil(BLOCK_BYTES as u64);
    ensure("count of blocks", expected, blocks)?;
    let expected = if header.stage == Stage::Finetune {
        rows
    } else {
        0
    };
    ensure("count of prefixes", expected, prefixes)?;
    ensure(
        "checksum of the header of the `.bin`",
        header.checksum(),
        header_sum,
    )?;
    let expected = Index::length(header, documents);
    ensure("length", Shown(expected), Shown(Some(length)))?;
    usize::try_from(documents).map_err(|_| fault("count of documents", "fewer", documents))
}

fn fault(field: &str, expected: impl ToString, found: impl ToString) -> Fault {
    Fault {
        field: field.into(),
        expected: expected.to_string(),
        found: found.to_string(),
    }
}

fn ensure<T: PartialEq + std::fmt::Debug>(field: &str, expected: T, found: T) -> Result<(), Fault> {
    match expected == found {
        true => Ok(()),
        false => Err(fault(field, format!("{expected:?}"), format!("{found:?}"))),
    }
}

/// Bytes as a person reads them.
fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A number that may be missing.
#[derive(PartialEq)]
struct Shown(Option<u64>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Cursor(bytes.get(at..)?).u32()
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Cursor(bytes.get(at..)?).u64()
}

/// Reads little-endian values one after another.
struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*value)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
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
