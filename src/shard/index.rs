//! The bytes of a shard's `.idx` file, format versions 1 and 2.
//!
//! The index of Megatron-LM, then a tail of ours that it ignores. Nothing here
//! opens a file: bytes go in, checked values come out.

use std::ops::Range;

use super::layout::{
    BLOCK_BYTES_MAX, Cursor, Fault, HEADER_BYTES, Header, RawHeader, ensure, id_bytes, text,
};
use crate::digest::checksum;
use crate::document::DocumentId;
use crate::manifest::Stage;
use crate::token::IdWidth;

const INDEX_MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
const INDEX_VERSION: u64 = 1;
const INDEX_HEAD_BYTES: usize = 9 + 8 + 1 + 8 + 8;
const TAIL_MAGIC: [u8; 16] = *b"PAUSEDATAINDEX01";
const PARQUET_TAIL_MAGIC: [u8; 16] = *b"PAUSEDATAPARQU01";
/// Before the footer of a Parquet shard's index: a header, and the length of the `.parquet`.
const PARQUET_TAIL_BYTES: usize = HEADER_BYTES + 8;
pub(super) const FOOTER_BYTES: usize = 16 + 8 * 8;
const DOCUMENT_BYTES: usize = 4 + 8 + 8 + 8;

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

/// The file that the ids of a shard lie in, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// A `.bin`: the rows follow one another after its header; blocks are counted from there.
    Binary,
    /// A `.parquet` of so many bytes: ids take four bytes, the rows of a row group follow one
    /// another; blocks are counted from the start of the file and cover all of it.
    Parquet {
        /// The length of the file.
        bytes: u64,
    },
}

impl Home {
    /// Bytes of one id.
    pub fn id_width(self, header: &Header) -> IdWidth {
        match self {
            Self::Binary => header.id_width,
            Self::Parquet { .. } => IdWidth::U32,
        }
    }

    /// Where the first block starts.
    pub fn blocks_start(self) -> usize {
        match self {
            Self::Binary => HEADER_BYTES,
            Self::Parquet { .. } => 0,
        }
    }

    /// The length of the file.
    pub fn length(self, header: &Header) -> u64 {
        self.blocks_start() as u64 + self.blocks_bytes(header)
    }

    /// How many bytes the blocks cover.
    fn blocks_bytes(self, header: &Header) -> u64 {
        match self {
            Self::Binary => header.ids_bytes(),
            Self::Parquet { bytes } => bytes,
        }
    }

    /// How many blocks there are.
    fn n_blocks(self, header: &Header) -> u64 {
        let block_bytes = self.block_bytes(header) as u64;
        self.blocks_bytes(header).div_ceil(block_bytes)
    }

    /// Bytes of a block; the last one may have fewer.
    pub fn block_bytes(self, header: &Header) -> usize {
        match self {
            Self::Binary => header.block_bytes(),
            Self::Parquet { .. } => BLOCK_BYTES_MAX,
        }
    }

    fn magic(self) -> [u8; 16] {
        match self {
            Self::Binary => TAIL_MAGIC,
            Self::Parquet { .. } => PARQUET_TAIL_MAGIC,
        }
    }

    /// Bytes between the documents and the footer.
    fn tail_bytes(self) -> u64 {
        match self {
            Self::Binary => 0,
            Self::Parquet { .. } => PARQUET_TAIL_BYTES as u64,
        }
    }
}

/// What an index says, before it is bytes.
#[derive(Clone, Debug, Default)]
pub struct IndexParts {
    /// Ids of every row.
    pub lengths: Vec<u32>,
    /// In a `.parquet`: the first byte of the ids of each row group, and how many rows it has.
    pub runs: Vec<(u64, u64)>,
    /// XXH3-64 of every block of the file with the ids.
    pub blocks: Vec<u64>,
    /// Prefix of every row; empty in pretraining.
    pub prefixes: Vec<u32>,
    /// Documents whose first id lies in the shard.
    pub documents: Vec<DocumentRecord>,
}

impl IndexParts {
    /// The `.idx` file of a shard with this header.
    pub fn to_bytes(&self, header: &Header, home: Home) -> Vec<u8> {
        let mut bytes = megatron_head(home.id_width(header), header.rows);
        let mut put = |field: &[u8]| bytes.extend_from_slice(field);
        for length in &self.lengths {
            put(&length.to_le_bytes());
        }
        for pointer in self.pointers(header, home) {
            put(&pointer.to_le_bytes());
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
        if let Home::Parquet { bytes } = home {
            put(&header.to_bytes());
            put(&bytes.to_le_bytes());
        }
        put(&home.magic());
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

    /// The first byte of each row's ids.
    fn pointers(&self, header: &Header, home: Home) -> Vec<u64> {
        let runs = match home {
            Home::Binary => &vec![(HEADER_BYTES as u64, header.rows)],
            Home::Parquet { .. } => &self.runs,
        };
        let width = home.id_width(header).bytes() as u64;
        let mut lengths = self.lengths.iter();
        let mut pointers = Vec::with_capacity(self.lengths.len());
        for (start, rows) in runs {
            let mut at = *start;
            // In this order: the iterator on the right is not asked for one more.
            for (_, length) in (0..*rows).zip(lengths.by_ref()) {
                pointers.push(at);
                at += u64::from(*length) * width;
            }
        }
        pointers
    }
}

/// Where the sections of a checked `.idx` file lie; its bytes stay outside.
#[derive(Clone, Debug)]
pub struct Index {
    rows: usize,
    home: Home,
    id_bytes: u64,
    lengths: usize,
    pointers: usize,
    blocks: usize,
    prefixes: Option<usize>,
    documents: usize,
    n_documents: usize,
    /// The ids of every row but the last of a `.bin`, where those are as many, and no row
    /// has a prefix.
    even: Option<usize>,
}

/// Where the fields of a row stand.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The first byte of its ids in the file that holds them, in 8 bytes.
    pub start: usize,
    /// How many ids it has, in 4 bytes.
    pub length: usize,
    /// Its prefix in 4 bytes, where rows have one.
    pub prefix: Option<usize>,
}

impl Index {
    /// How long the `.idx` file of a shard is; `None` where no file is so long.
    pub fn length(header: &Header, home: Home, n_documents: u64) -> Option<u64> {
        let per_row = 4
            + 8
            + 8
            + if header.stage == Stage::Finetune {
                4
            } else {
                0
            };
        let rows = header.rows.checked_mul(per_row)?.checked_add(8)?;
        let blocks = home.n_blocks(header) * 8;
        let documents = n_documents.checked_mul(DOCUMENT_BYTES as u64)?;
        (INDEX_HEAD_BYTES as u64 + FOOTER_BYTES as u64 + home.tail_bytes())
            .checked_add(rows)?
            .checked_add(blocks)?
            .checked_add(documents)
    }

    /// What the index of a Parquet shard says about it: the header that its `.bin` would
    /// have, and the length of the `.parquet`.
    pub fn parquet_home(bytes: &[u8]) -> Result<(Header, Home), Fault> {
        let least = INDEX_HEAD_BYTES + 8 + PARQUET_TAIL_BYTES + FOOTER_BYTES;
        let short = || Fault::new("length", format!("at least {least}"), bytes.len());
        let at = bytes.len().checked_sub(PARQUET_TAIL_BYTES + FOOTER_BYTES);
        let tail = at.and_then(|at| bytes.get(at..)).ok_or_else(short)?;
        let magic = tail.get(PARQUET_TAIL_BYTES..).ok_or_else(short)?;
        let magic: [u8; 16] = Cursor(magic).take().ok_or_else(short)?;
        let expected = text(&PARQUET_TAIL_MAGIC);
        ensure("magic of the footer", expected, text(&magic))?;
        let header = RawHeader::parse(tail)?.check()?;
        let bytes = u64_at(tail, HEADER_BYTES).ok_or_else(short)?;
        Ok((header, Home::Parquet { bytes }))
    }

    /// The checksum of the header that an index belongs to, before anything is checked.
    pub fn header_checksum(bytes: &[u8]) -> Option<u64> {
        u64_at(bytes, bytes.len().checked_sub(3 * 8)?)
    }

    /// Checks the whole file against the header of its shard.
    pub fn parse(bytes: &[u8], header: &Header, home: Home) -> Result<Self, Fault> {
        let n_documents = check_footer(bytes, header, home)?;
        let too_large = || Fault::new("count of rows", "one that memory can hold", header.rows);
        let rows = usize::try_from(header.rows).map_err(|_| too_large())?;
        let n_blocks = usize::try_from(home.n_blocks(header)).map_err(|_| too_large())?;
        // The file's length is right, so the sections, which add up to it, lie inside.
        let lengths = INDEX_HEAD_BYTES;
        let pointers = lengths + 4 * rows;
        let documents_of_megatron = pointers + 8 * rows;
        let blocks = documents_of_megatron + 8 * (rows + 1);
        let after_blocks = blocks + 8 * n_blocks;
        let finetune = header.stage == Stage::Finetune;
        let documents = after_blocks + if finetune { 4 * rows } else { 0 };
        let mut index = Self {
            rows,
            home,
            id_bytes: u64::from(id_bytes(home.id_width(header))),
            lengths,
            pointers,
            blocks,
            prefixes: finetune.then_some(after_blocks),
            documents,
            n_documents,
            even: None,
        };
        index.check_head(bytes, header)?;
        let even = index.check_rows(bytes, header, documents_of_megatron)?;
        index.even = even.filter(|_| home == Home::Binary && !finetune);
        Ok(index)
    }

    /// Where the ids of a row start in the file that holds them, how many there are, and its prefix.
    pub fn row(&self, bytes: &[u8], row: u64) -> Option<(usize, usize, Option<u32>)> {
        let place = self.place(row)?;
        let start = u64_at(bytes, place.start)?;
        let length = u32_at(bytes, place.length)?;
        let prefix = match place.prefix {
            Some(prefix) => Some(u32_at(bytes, prefix)?),
            None => None,
        };
        Some((
            usize::try_from(start).ok()?,
            usize::try_from(length).ok()?,
            prefix,
        ))
    }

    /// How many ids all rows of a `.bin` have but the last, where those are as many.
    pub fn even(&self) -> Option<usize> {
        self.even
    }

    /// The bytes of a row of a `.bin` of `length` bytes, where that takes no look into the
    /// index: all but the last are as long.
    pub fn even_row(&self, row: u64, length: usize) -> Option<Range<usize>> {
        let row = usize::try_from(row).ok().filter(|row| *row < self.rows)?;
        let bytes = self.even? * usize::try_from(self.id_bytes).ok()?;
        // The rows fill the file, so this is no number that they could not have.
        let start = HEADER_BYTES + row * bytes;
        Some(start..length.min(start + bytes))
    }

    /// Where the file says what [`Index::row`] does.
    pub fn place(&self, row: u64) -> Option<Place> {
        let row = usize::try_from(row).ok().filter(|row| *row < self.rows)?;
        Some(Place {
            start: self.pointers + 8 * row,
            length: self.lengths + 4 * row,
            prefix: self.prefixes.map(|prefixes| prefixes + 4 * row),
        })
    }

    /// Where the file has the checksum of a block of ids, in 8 bytes.
    pub fn block(&self, block: usize) -> usize {
        self.blocks + 8 * block
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
        let short = || Fault::new("length", INDEX_HEAD_BYTES, bytes.len());
        let magic: [u8; 9] = cursor.take().ok_or_else(short)?;
        let version = cursor.u64().ok_or_else(short)?;
        let [code] = cursor.take().ok_or_else(short)?;
        let sequences = cursor.u64().ok_or_else(short)?;
        let documents = cursor.u64().ok_or_else(short)?;
        ensure("Megatron magic", text(&INDEX_MAGIC), text(&magic))?;
        ensure("Megatron version", INDEX_VERSION, version)?;
        let width = self.home.id_width(header);
        ensure("Megatron type code", megatron_code(width), code)?;
        ensure("Megatron count of sequences", header.rows, sequences)?;
        ensure("Megatron count of documents", header.rows + 1, documents)
    }

    /// Every row lies where the row before it ended, or in a `.parquet` perhaps after that,
    /// and they hold all ids; returns how many each has, if that is the same for all but the
    /// last, which has no more.
    fn check_rows(
        &self,
        bytes: &[u8],
        header: &Header,
        documents: usize,
    ) -> Result<Option<usize>, Fault> {
        let (mut ids, mut first, mut even) = (0u64, None, true);
        let mut end = self.home.blocks_start() as u64;
        let named = |what: &str, row: u64| format!("{what} of row {row}");
        let short = |row: u64| Fault::new(named("index", row), "an entry", "the end of the file");
        for (row, at) in (0..header.rows).zip(0..) {
            let (start, length, prefix) = self.row(bytes, row).ok_or_else(|| short(row))?;
            end = self.check_place(row, start as u64, length as u64, end)?;
            if length as u64 > u64::from(header.row_length) {
                let most = format!("at most {}", header.row_length);
                return Err(Fault::new(named("length", row), most, length));
            }
            if let Some(prefix) = prefix.filter(|prefix| u64::from(*prefix) > length as u64) {
                let most = format!("at most {length}");
                return Err(Fault::new(named("prefix", row), most, prefix));
            }
            let document = u64_at(bytes, documents + 8 * at);
            if document != Some(row) {
                return Err(Fault::new(
                    named("Megatron document", row),
                    row,
                    Shown(document),
                ));
            }
            ids += length as u64;
            let first = *first.get_or_insert(length);
            even &= length == first || length < first && row + 1 == header.rows;
        }
        let last = u64_at(bytes, documents + 8 * self.rows);
        if last != Some(header.rows) {
            return Err(Fault::new(
                "last Megatron document",
                header.rows,
                Shown(last),
            ));
        }
        ensure("sum of row lengths", header.ids, ids)?;
        Ok(first.filter(|_| even))
    }

    /// Where the ids of a row end that may start at `least`.
    fn check_place(&self, row: u64, start: u64, length: u64, least: u64) -> Result<u64, Fault> {
        let end = start.saturating_add(length.saturating_mul(self.id_bytes));
        let good = match self.home {
            Home::Binary => start == least,
            Home::Parquet { bytes } => (least..=bytes).contains(&start) && end <= bytes,
        };
        if good {
            return Ok(end);
        }
        let expected = match self.home {
            Home::Binary => least.to_string(),
            Home::Parquet { bytes } => {
                format!("{least} or more, and the end of the row at {bytes} or less")
            }
        };
        let field = format!("byte pointer of row {row}");
        Err(Fault::new(field, expected, start))
    }
}

/// The start of an index as Megatron has it: rows are sequences, and documents too.
pub fn megatron_head(width: IdWidth, rows: u64) -> Vec<u8> {
    let mut bytes = INDEX_MAGIC.to_vec();
    bytes.extend_from_slice(&INDEX_VERSION.to_le_bytes());
    bytes.push(megatron_code(width));
    bytes.extend_from_slice(&rows.to_le_bytes());
    bytes.extend_from_slice(&(rows + 1).to_le_bytes());
    bytes
}

/// The Megatron type code: `uint16`, or `int32`, which it uses for larger ids.
fn megatron_code(width: IdWidth) -> u8 {
    match width {
        IdWidth::U16 => 8,
        IdWidth::U32 => 4,
    }
}

/// Checks the footer and, by its checksum, every byte; returns the count of documents.
fn check_footer(bytes: &[u8], header: &Header, home: Home) -> Result<usize, Fault> {
    let least = INDEX_HEAD_BYTES + 8 + FOOTER_BYTES;
    let short = || Fault::new("length", format!("at least {least}"), bytes.len());
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
    ensure("magic of the footer", text(&home.magic()), text(&magic))?;
    ensure("length", length, bytes.len() as u64)?;
    ensure("checksum of the index", sum, checksum(checked))?;
    ensure("count of rows", header.rows, rows)?;
    ensure("count of ids", header.ids, ids)?;
    ensure("count of blocks", home.n_blocks(header), blocks)?;
    let expected = if header.stage == Stage::Finetune {
        rows
    } else {
        0
    };
    ensure("count of prefixes", expected, prefixes)?;
    ensure(
        "checksum of the header of the shard",
        header.checksum(),
        header_sum,
    )?;
    let expected = Index::length(header, home, documents);
    ensure("length", Shown(expected), Shown(Some(length)))?;
    usize::try_from(documents).map_err(|_| Fault::new("count of documents", "fewer", documents))
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
