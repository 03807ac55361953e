//! A file written in blocks, each with its checksum.

use std::io;
use std::path::Path;

use crate::digest::{Checksum, Digest, checksum};
use crate::fs::{self, CHUNK_BYTES, Output};

/// Writes bytes and takes the checksum of each block.
#[derive(Debug)]
pub struct Blocks {
    output: Output,
    /// Bytes of a block; the last one may have fewer.
    block_bytes: usize,
    /// How many of the bytes that are not written yet are in a checksum.
    summed: usize,
    /// The checksum of the block that is not full, and how many bytes it has.
    sum: Checksum,
    in_block: usize,
    sums: Vec<u64>,
    /// Why writing failed, for those who know only [`io::Error`].
    failure: Option<fs::Error>,
}

impl Blocks {
    /// Starts a file; `before` stands before the first block, each of which has so many bytes.
    pub fn create(path: &Path, before: &[u8], block_bytes: usize) -> Result<Self, fs::Error> {
        let mut output = Output::create(path)?.digested();
        output.rest().reserve(CHUNK_BYTES + block_bytes);
        output.rest().extend_from_slice(before);
        Ok(Self {
            output,
            block_bytes,
            summed: before.len(),
            sum: Checksum::default(),
            in_block: 0,
            sums: Vec::new(),
            failure: None,
        })
    }

    /// Where the next bytes go; [`Blocks::write_full`] must follow.
    pub fn end(&mut self) -> &mut Vec<u8> {
        self.output.rest()
    }

    /// Takes the checksums of what was put at the end, while it is in the cache, and writes
    /// as much as goes without a copy.
    pub fn write_full(&mut self) -> Result<(), fs::Error> {
        let mut rest = (self.output.rest()).get(self.summed..).unwrap_or_default();
        while !rest.is_empty() {
            let left = self.block_bytes - self.in_block;
            let (piece, others) = rest.split_at(rest.len().min(left));
            rest = others;
            if piece.len() == self.block_bytes {
                self.sums.push(checksum(piece));
                continue;
            }
            self.sum.update(piece);
            self.in_block += piece.len();
            if self.in_block == self.block_bytes {
                self.sums.push(std::mem::take(&mut self.sum).finish());
                self.in_block = 0;
            }
        }
        self.output.write_full()?;
        self.summed = self.output.rest().len();
        Ok(())
    }

    /// Writes what is left, puts `start` in the place of the first bytes, and makes the
    /// file durable; returns the checksums of all blocks, and the digest of the file.
    pub fn publish(&mut self, start: &[u8]) -> Result<(Vec<u64>, Option<Digest>), fs::Error> {
        self.write_full()?;
        if 0 < self.in_block {
            self.sums.push(self.sum.finish());
        }
        if !start.is_empty() {
            self.output.overwrite_start(start)?;
        }
        self.output.publish()?;
        Ok((
            std::mem::take(&mut self.sums),
            self.output.digest().map(Digest),
        ))
    }

    /// Why a write through [`io::Write`] failed, if one did.
    pub fn take_failure(&mut self) -> Option<fs::Error> {
        self.failure.take()
    }
}

impl io::Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.end().extend_from_slice(bytes);
        match self.write_full() {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let text = error.to_string();
                self.failure = Some(error);
                Err(io::Error::other(text))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
