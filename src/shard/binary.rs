//! Binary shards as files: written in one pass, mapped, checked where touched.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::Mmap;

use super::index::{DocumentRecord, Index, IndexParts};
use super::layout::{BLOCK_BYTES, Fault, HEADER_BYTES, Header, IDS_MAX, RawHeader, check_values};
use super::{Error, RowFault};
use crate::digest::{Digest, checksum};
use crate::fs::{self, Output};
use crate::manifest::{Manifest, SHARDS, ShardRecord, Stage};
use crate::sequence::Sequence;
use crate::token::{IdWidth, Reserved, TokenId};

/// What a shard will hold.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardSpec {
    /// Bytes of one id.
    pub id_width: IdWidth,
    /// Ids must be below this.
    pub vocab_size: u32,
    /// The reserved ids.
    pub reserved: Reserved,
    /// Longest row in ids, pauses included.
    pub row_length: usize,
    /// What the rows are for: finetuning rows have a prefix, pretraining rows none.
    pub stage: Stage,
    /// BLAKE3 of the tokenizer.
    pub tokenizer: Digest,
    /// The group of input files that the rows come from.
    pub unit: u32,
    /// Which of that unit's shards this is.
    pub part: u32,
}

/// Writes one shard; dropped before [`ShardWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct ShardWriter {
    name: String,
    bin: PathBuf,
    idx: PathBuf,
    output: Output,
    header: Header,
    row_length: usize,
    /// Bytes of ids after the last full block.
    block: Vec<u8>,
    index: IndexParts,
}

impl ShardWriter {
    /// Starts `shards/<name>.bin` and `.idx` in the dataset folder `folder`.
    pub fn create(folder: &Path, name: &str, spec: &ShardSpec) -> Result<Self, Error> {
        let refuse = |fault: Fault| Error::Spec {
            shard: name.into(),
            field: fault.field,
            expected: fault.expected,
            found: fault.found,
        };
        let header = Header {
            ids: 0,
            rows: 0,
            id_width: spec.id_width,
            vocab_size: spec.vocab_size,
            reserved: spec.reserved,
            row_length: u32::try_from(spec.row_length).unwrap_or(u32::MAX),
            stage: spec.stage,
            unit: spec.unit,
            part: spec.part,
            tokenizer: spec.tokenizer,
        };
        check_values(&header).map_err(refuse)?;
        let [bin, idx] = paths(folder, name).map_err(refuse)?;
        let mut output = Output::create(&bin)?;
        // The counts follow when they are known.
        output.write_all(&header.to_bytes())?;
        Ok(Self {
            name: name.into(),
            bin,
            idx,
            output,
            header,
            row_length: spec.row_length,
            block: Vec::with_capacity(BLOCK_BYTES + 4 * spec.row_length.min(BLOCK_BYTES)),
            index: IndexParts::default(),
        })
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Sequence) -> Result<(), Error> {
        self.check(row).map_err(|fault| Error::Row {
            shard: self.name.clone(),
            row: self.header.rows,
            fault,
        })?;
        let before = self.block.len();
        let width = self.header.id_width.bytes();
        self.block.resize(before + width * row.len(), 0);
        let places = self.block.get_mut(before..).unwrap_or_default();
        match self.header.id_width {
            IdWidth::U16 => {
                for (place, id) in places.chunks_exact_mut(2).zip(&row.ids) {
                    #[expect(clippy::cast_possible_truncation, reason = "checked above")]
                    place.copy_from_slice(&(id.0 as u16).to_le_bytes());
                }
            }
            IdWidth::U32 => {
                for (place, id) in places.chunks_exact_mut(4).zip(&row.ids) {
                    place.copy_from_slice(&id.0.to_le_bytes());
                }
            }
        }
        self.header.ids += row.len() as u64;
        self.header.rows += 1;
        // `check` keeps rows below 2^31 ids.
        self.index
            .lengths
            .push(u32::try_from(row.len()).unwrap_or(u32::MAX));
        self.index.prefixes.extend(row.prefix);
        self.write_full_blocks()
    }

    /// Notes a document whose first id lies in this shard, in stream order.
    pub fn document(&mut self, record: DocumentRecord) {
        self.index.documents.push(record);
    }

    /// Ids written so far.
    pub fn ids(&self) -> u64 {
        self.header.ids
    }

    /// Documents noted so far.
    pub fn documents(&self) -> usize {
        self.index.documents.len()
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// Makes both files durable under their names.
    pub fn finish(mut self) -> Result<ShardRecord, Error> {
        if !self.block.is_empty() {
            self.index.blocks.push(checksum(&self.block));
            self.output.write_all(&self.block)?;
        }
        self.output.overwrite_start(&self.header.to_bytes())?;
        self.output.publish()?;
        let index = self.index.to_bytes(&self.header);
        fs::write(&self.idx, &index)?;
        Ok(ShardRecord {
            name: self.name,
            rows: self.header.rows,
            ids: self.header.ids,
            documents: self.index.documents.len() as u64,
            // Read back, because the header at the file's start was known last.
            bin: Digest::of_file(&self.bin)?,
            idx: Digest::of(&index),
        })
    }

    fn check(&self, row: &Sequence) -> Result<(), RowFault> {
        let length = row.len();
        let ids = self.header.ids + length as u64;
        if self.row_length < length {
            let row_length = self.row_length;
            return Err(RowFault::Long { length, row_length });
        }
        if IDS_MAX <= ids {
            return Err(RowFault::Full { ids });
        }
        let vocab_size = self.header.vocab_size;
        if let Some((position, id)) = outside(&row.ids, vocab_size) {
            return Err(RowFault::Id {
                id: id.0,
                position,
                vocab_size,
            });
        }
        match (self.header.stage, row.prefix) {
            (Stage::Pretrain, Some(_)) => Err(RowFault::UnexpectedPrefix),
            (Stage::Finetune, None) => Err(RowFault::MissingPrefix),
            (Stage::Finetune, Some(prefix)) if (length as u64) < u64::from(prefix) => {
                Err(RowFault::LongPrefix { prefix, length })
            }
            _ => Ok(()),
        }
    }

    fn write_full_blocks(&mut self) -> Result<(), Error> {
        let mut written = 0;
        while let Some(block) = self.block.get(written..written + BLOCK_BYTES) {
            self.index.blocks.push(checksum(block));
            self.output.write_all(block)?;
            written += BLOCK_BYTES;
        }
        self.block.drain(..written);
        Ok(())
    }
}

/// A mapped shard; threads may share it.
#[derive(Debug)]
pub struct Shard {
    record: ShardRecord,
    bin: PathBuf,
    idx: PathBuf,
    header: Header,
    ids: Mmap,
    index_bytes: Mmap,
    index: Index,
    /// One bit a block of ids: whether its checksum was found right.
    checked: Vec<AtomicU64>,
    n_files: usize,
}

impl Shard {
    /// Maps a shard of the dataset in `folder` after checking lengths, header and index.
    ///
    /// The manifest vouches for the index by its digest, and the index for the
    /// header and every block of ids by their checksums; blocks are checked
    /// when a row first touches them.
    pub fn open(folder: &Path, record: &ShardRecord, manifest: &Manifest) -> Result<Self, Error> {
        let [bin, idx] = paths(folder, &record.name).map_err(damaged(folder))?;
        let width = manifest.id_width.bytes() as u64;
        let length = record
            .ids
            .saturating_mul(width)
            .saturating_add(HEADER_BYTES as u64);
        let mut file = open_of_length(&bin, length)?;
        let header = read_header(&mut file, &bin, record, manifest)?;
        let ids = map(&file, &bin)?;
        let too_many = || Fault::new("count of documents", "fewer", record.documents);
        let length = Index::length(&header, record.documents)
            .ok_or_else(too_many)
            .map_err(damaged(&idx))?;
        let index_bytes = map(&open_of_length(&idx, length)?, &idx)?;
        let digest = Digest::of(&index_bytes);
        // The structure first: it tells better what is wrong.
        let index = Index::parse(&index_bytes, &header).map_err(damaged(&idx))?;
        if digest != record.idx {
            let fault = Fault::new("BLAKE3 of the file", record.idx, digest);
            return Err(damaged(&idx)(fault));
        }
        let n_blocks = ids.len().saturating_sub(HEADER_BYTES).div_ceil(BLOCK_BYTES);
        Ok(Self {
            record: record.clone(),
            bin,
            idx,
            header,
            ids,
            index_bytes,
            index,
            checked: (0..n_blocks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            n_files: manifest.corpus.len(),
        })
    }

    /// What the manifest says about the shard.
    pub fn record(&self) -> &ShardRecord {
        &self.record
    }

    /// The header of the `.bin` file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// One row; reads and checks only the blocks it lies in.
    pub fn row(&self, row: u64) -> Result<Sequence, Error> {
        let no_row = || Error::NoRow {
            path: self.bin.clone(),
            row,
            rows: self.header.rows,
        };
        let (start, length, prefix) = self.index.row(&self.index_bytes, row).ok_or_else(no_row)?;
        let bytes = start..start + length * self.header.id_width.bytes();
        self.check_blocks(&bytes)?;
        let bytes = self.ids.get(bytes).ok_or_else(no_row)?;
        let ids: Vec<TokenId> = match self.header.id_width {
            IdWidth::U16 => (bytes.as_chunks().0.iter())
                .map(|id| TokenId(u16::from_le_bytes(*id).into()))
                .collect(),
            IdWidth::U32 => (bytes.as_chunks().0.iter())
                .map(|id| TokenId(u32::from_le_bytes(*id)))
                .collect(),
        };
        if let Some((position, id)) = outside(&ids, self.header.vocab_size) {
            let below = format!("an id below {}", self.header.vocab_size);
            let fault = Fault::new(format!("position {position} of row {row}"), below, id.0);
            return Err(damaged(&self.bin)(fault));
        }
        Ok(Sequence {
            ids,
            prefix,
            ..Sequence::default()
        })
    }

    /// The documents whose first id lies here, in stream order.
    pub fn documents(&self) -> Result<Vec<DocumentRecord>, Error> {
        let documents = self.index.documents(&self.index_bytes);
        for (n, document) in documents.iter().enumerate() {
            if self.n_files <= document.id.file as usize {
                let expected = format!("below {}", self.n_files);
                let fault = Fault::new(format!("file of document {n}"), expected, document.id.file);
                return Err(damaged(&self.idx)(fault));
            }
        }
        Ok(documents)
    }

    /// Checks every block of ids, then the whole `.bin` file against the manifest.
    pub fn verify(&self) -> Result<(), Error> {
        self.check_blocks(&(HEADER_BYTES..self.ids.len()))?;
        let digest = Digest::of(&self.ids);
        if digest != self.record.bin {
            let fault = Fault::new("BLAKE3 of the file", self.record.bin, digest);
            return Err(damaged(&self.bin)(fault));
        }
        Ok(())
    }

    /// Checks the blocks that a range of the `.bin` file touches, once each.
    fn check_blocks(&self, bytes: &Range<usize>) -> Result<(), Error> {
        let Some(last) = bytes.end.checked_sub(1).filter(|last| bytes.start <= *last) else {
            return Ok(());
        };
        let block_of = |byte: usize| byte.saturating_sub(HEADER_BYTES) / BLOCK_BYTES;
        for block in block_of(bytes.start)..=block_of(last) {
            let bit = 1u64 << (block % 64);
            let Some(word) = self.checked.get(block / 64) else {
                continue;
            };
            // Two threads may both check a block; the bit only saves the third the work.
            if word.load(Ordering::Relaxed) & bit == 0 {
                self.check_block(block)?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn check_block(&self, block: usize) -> Result<(), Error> {
        let start = HEADER_BYTES + block * BLOCK_BYTES;
        let end = self.ids.len().min(start + BLOCK_BYTES);
        let found = checksum(self.ids.get(start..end).unwrap_or_default());
        let expected = self
            .index
            .block(&self.index_bytes, block)
            .unwrap_or_default();
        if found != expected {
            let field = format!("checksum of block {block} (bytes {start} to {end})");
            let fault = Fault::new(field, format!("{expected:016x}"), format!("{found:016x}"));
            return Err(damaged(&self.bin)(fault));
        }
        Ok(())
    }
}

/// The header of a `.bin` file that agrees with the manifest.
fn read_header(
    file: &mut File,
    path: &Path,
    record: &ShardRecord,
    manifest: &Manifest,
) -> Result<Header, Error> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact(&mut bytes)
        .map_err(fs::Error::new("read", path))?;
    let header = RawHeader::parse(&bytes)
        .and_then(RawHeader::check)
        .map_err(damaged(path))?;
    let expected = Header {
        ids: record.ids,
        rows: record.rows,
        id_width: manifest.id_width,
        vocab_size: manifest.tokenizer.vocab_size,
        reserved: manifest.tokenizer.reserved,
        row_length: u32::try_from(manifest.row_length).unwrap_or(u32::MAX),
        stage: manifest.stage,
        tokenizer: manifest.tokenizer.digest,
        ..header.clone()
    };
    match difference(&expected, &header) {
        Some(fault) => Err(damaged(path)(fault)),
        None => Ok(header),
    }
}

/// The first field in which a header differs from what the manifest says.
fn difference(expected: &Header, found: &Header) -> Option<Fault> {
    let pairs = [
        (
            "count of ids",
            expected.ids.to_string(),
            found.ids.to_string(),
        ),
        (
            "count of rows",
            expected.rows.to_string(),
            found.rows.to_string(),
        ),
        (
            "tokenizer",
            expected.tokenizer.to_string(),
            found.tokenizer.to_string(),
        ),
        ("fields", format!("{expected:?}"), format!("{found:?}")),
    ];
    pairs
        .into_iter()
        .find(|(_, expected, found)| expected != found)
        .map(|(field, expected, found)| {
            Fault::new(format!("{field} in the header"), expected, found)
        })
}

/// The two files of a shard; its name must be one that this program would give.
fn paths(folder: &Path, name: &str) -> Result<[PathBuf; 2], Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(allowed) {
        let expected = "letters, digits, `-` and `_`";
        return Err(Fault::new("name of the shard", expected, name));
    }
    let shards = folder.join(SHARDS);
    Ok([
        shards.join(format!("{name}.bin")),
        shards.join(format!("{name}.idx")),
    ])
}

fn open_of_length(path: &Path, expected: u64) -> Result<File, Error> {
    let file = fs::open(path)?;
    let found = file.metadata().map_err(fs::Error::new("read", path))?.len();
    if found != expected {
        return Err(damaged(path)(Fault::new(
            "length in bytes",
            expected,
            found,
        )));
    }
    Ok(file)
}

/// Maps a whole file for reading.
fn map(file: &File, path: &Path) -> Result<Mmap, Error> {
    // SAFETY: published shards are never written to again: this program
    // replaces files by rename, which leaves the mapped ones as they were.
    // Bytes that another program changes meanwhile are caught by the checksums
    // at first touch (`a_flipped_byte_or_a_cut_is_found` defends them); a file
    // that it shortens while it is mapped ends the process with SIGBUS.
    let map = unsafe { Mmap::map(file) };
    Ok(map.map_err(fs::Error::new("map", path))?)
}

/// The first id that is not in the vocabulary, and where it stands.
fn outside(ids: &[TokenId], vocab_size: u32) -> Option<(usize, TokenId)> {
    // Without an early end this is a few instructions for sixteen ids.
    let largest = ids.iter().fold(0, |largest, id| id.0.max(largest));
    if ids.is_empty() || largest < vocab_size {
        return None;
    }
    let mut found = ids.iter().copied().enumerate();
    found.find(|(_, id)| vocab_size <= id.0)
}

fn damaged(path: &Path) -> impl FnOnce(Fault) -> Error {
    let path = path.to_path_buf();
    move |fault| Error::Damaged {
        path,
        field: fault.field,
        expected: fault.expected,
        found: fault.found,
    }
}

#[cfg(test)]
mod tests;
