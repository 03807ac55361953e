//! What rows say beside their ids, in a file of its own: `.aux`.
//!
//! A header, one record an id, and a checksum for each block of records.
//! `schemas/shard-v2.md` has the byte table.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Error;
use super::bytes::{Bytes, Reading, damaged};
use super::layout::{BLOCK_BYTES_MAX, Fault, Header, Version};
use super::touched::{Ahead, Touched};
use crate::digest::{Digest, checksum};
use crate::fs::Output;
use crate::pause::Fields;
use crate::sequence::{Sequence, Stored};
use crate::token::TokenId;

const MAGIC: [u8; 16] = *b"PAUSEDATA-AUX-01";
const HEADER: usize = 64;
const HEADER_CHECKED: usize = HEADER - 8;

/// Bytes of one id's record.
fn width(fields: Fields) -> usize {
    usize::from(fields.inserted) + if fields.targets { 8 } else { 0 }
}

/// Bytes of a block of records: in version 2 those of a block of ids.
fn block_bytes(fields: Fields, bin: &Header) -> usize {
    match bin.version {
        Version::One => BLOCK_BYTES_MAX,
        Version::Two => bin.block_bytes() / bin.id_width.bytes() * width(fields),
    }
}

/// The header: the records belong to the ids of one `.bin` file, named by its header's checksum.
fn header(fields: Fields, bin: &Header) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&bin.version.number().to_le_bytes());
    let flags = u32::from(fields.inserted) | u32::from(fields.targets) << 1;
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&bin.ids.to_le_bytes());
    bytes.extend_from_slice(&bin.checksum().to_le_bytes());
    bytes.resize(HEADER_CHECKED, 0);
    bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
    bytes
}

/// Writes one `.aux`; dropped before [`AuxWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub(super) struct AuxWriter {
    fields: Fields,
    output: Output,
    /// Bytes of a block.
    block_bytes: usize,
    block: Vec<u8>,
    checksums: Vec<u8>,
}

impl AuxWriter {
    /// Starts the file of a `.bin` whose header is this, but for its counts.
    pub fn create(path: &Path, fields: Fields, bin: &Header) -> Result<Self, Error> {
        let block_bytes = block_bytes(fields, bin);
        let mut output = Output::create(path)?.digested();
        output.write_all(&[0; HEADER])?;
        Ok(Self {
            fields,
            output,
            block_bytes,
            block: Vec::with_capacity(block_bytes),
            checksums: Vec::new(),
        })
    }

    /// Whether a row has what the file holds, and nothing else.
    pub fn holds(&self, row: &Sequence) -> bool {
        let length = |wanted: bool| if wanted { row.len() } else { 0 };
        let (inserted, targets) = (length(self.fields.inserted), length(self.fields.targets));
        row.stored.as_deref().is_some_and(|stored| {
            stored.inserted.len() == inserted
                && stored.targets.len() == targets
                && stored.weights.len() == targets
        })
    }

    /// Appends the records of a row that the file [holds](Self::holds).
    pub fn push(&mut self, row: &Sequence) -> Result<(), Error> {
        let Some(stored) = row.stored.as_deref() else {
            return Ok(());
        };
        for position in 0..row.len() {
            if let Some(inserted) = stored.inserted.get(position) {
                self.block.push(u8::from(*inserted));
            }
            if let Some((target, weight)) =
                (stored.targets.get(position)).zip(stored.weights.get(position))
            {
                self.block.extend_from_slice(&target.0.to_le_bytes());
                self.block.extend_from_slice(&weight.to_le_bytes());
            }
        }
        let whole = self.block.len() / self.block_bytes * self.block_bytes;
        let blocks = self.block.get(..whole).unwrap_or_default();
        for block in blocks.chunks(self.block_bytes) {
            self.checksums
                .extend_from_slice(&checksum(block).to_le_bytes());
        }
        self.output.write_all(blocks)?;
        self.block.drain(..whole);
        Ok(())
    }

    /// Makes the file durable under its name; returns its digest.
    pub fn finish(mut self, bin: &Header) -> Result<Option<Digest>, Error> {
        if !self.block.is_empty() {
            self.checksums
                .extend_from_slice(&checksum(&self.block).to_le_bytes());
            self.output.write_all(&self.block)?;
        }
        self.output.write_all(&self.checksums)?;
        self.output.overwrite_start(&header(self.fields, bin))?;
        self.output.publish()?;
        Ok(self.output.digest().map(Digest))
    }
}

/// An `.aux` that was opened; threads may share it.
#[derive(Debug)]
pub(super) struct Aux {
    fields: Fields,
    digest: Digest,
    file: Bytes,
    /// Where the checksums of blocks start.
    checksums: usize,
    /// Which blocks were found right.
    touched: Touched,
}

impl Aux {
    /// Opens the file of a shard that has one, after checking its length and header.
    pub fn open(
        path: PathBuf,
        (fields, digest): (Fields, Option<Digest>),
        bin: &Header,
        reading: Reading,
    ) -> Result<Option<Self>, Error> {
        let said = |there: bool| if there { "one" } else { "none" };
        let (wanted, named) = (fields != Fields::default(), digest.is_some());
        let digest = match (wanted, digest) {
            (false, None) => return Ok(None),
            (true, Some(digest)) => digest,
            _ => {
                let fault = Fault::new("digest in the manifest", said(wanted), said(named));
                return Err(damaged(&path)(fault));
            }
        };
        // A shard holds fewer than 2^31 ids.
        let records = usize::try_from(bin.ids).unwrap_or(usize::MAX) * width(fields);
        let block_bytes = block_bytes(fields, bin);
        let n_blocks = records.div_ceil(block_bytes);
        let length = HEADER + records + 8 * n_blocks;
        let file = Bytes::open(&path, Some(length as u64), reading)?;
        let (expected, found) = (header(fields, bin), file.array::<HEADER>(0)?);
        if expected != found {
            let at = expected.iter().zip(&found).position(|(a, b)| a != b);
            let field = format!("byte {} of the header", at.unwrap_or(0));
            let byte = |bytes: &[u8]| at.and_then(|at| bytes.get(at)).copied().unwrap_or(0);
            let fault = Fault::new(field, byte(&expected), byte(&found));
            return Err(file.damaged(fault));
        }
        Ok(Some(Self {
            fields,
            digest,
            file,
            checksums: HEADER + records,
            touched: Touched::new(HEADER..HEADER + records, block_bytes),
        }))
    }

    /// Makes `stored` what stands beside some ids of the shard; checks the blocks that it
    /// lies in.
    pub fn row(&self, ids: Range<usize>, stored: &mut Stored) -> Result<(), Error> {
        let (range, sums) = (self.range(ids), |block| self.sum(block));
        self.touched.see(&self.file, range, sums, |records| {
            self.fill(records, stored);
            Ok(())
        })
    }

    /// Takes all blocks for right that no row has touched yet.
    pub fn trust_blocks(&self) {
        self.touched.trust();
    }

    /// Says that what stands beside some ids will be read soon.
    pub fn will_need(&self, ids: Range<usize>, ahead: Ahead) {
        let range = self.range(ids);
        self.touched.will_need(&self.file, &range, ahead);
    }

    /// Checks the whole file against the manifest.
    pub fn verify(&self) -> Result<(), Error> {
        let sums = |block| self.sum(block);
        self.touched.check_all(&self.file, sums)?;
        let found = self.file.digest()?;
        match found == self.digest {
            true => Ok(()),
            false => {
                let fault = Fault::new("BLAKE3 of the file", self.digest, found);
                Err(self.file.damaged(fault))
            }
        }
    }

    /// The bytes of the records of some ids.
    fn range(&self, ids: Range<usize>) -> Range<usize> {
        let width = width(self.fields);
        HEADER + ids.start * width..HEADER + ids.end * width
    }

    fn fill(&self, records: &[u8], stored: &mut Stored) {
        stored.inserted.clear();
        stored.targets.clear();
        stored.weights.clear();
        for record in records.chunks_exact(width(self.fields).max(1)) {
            let mut rest = record;
            if self.fields.inserted
                && let Some((inserted, after)) = rest.split_first()
            {
                stored.inserted.push(*inserted != 0);
                rest = after;
            }
            if let ([target, weight], []) = rest.as_chunks() {
                stored.targets.push(TokenId(u32::from_le_bytes(*target)));
                stored.weights.push(f32::from_le_bytes(*weight));
            }
        }
    }

    /// The checksum that a block must have.
    fn sum(&self, block: usize) -> Result<u64, Error> {
        let sum = self.file.array(self.checksums + 8 * block)?;
        Ok(u64::from_le_bytes(sum))
    }
}

#[cfg(test)]
mod tests;
