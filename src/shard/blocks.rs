//! A file written in blocks, each with its checksum.

use std::io;
use std::path::Path;

use super::layout::BLOCK_BYTES;
use crate::digest::checksum;
use crate::fs::{self, Output};

/// Writes bytes and takes the checksum of each block of [`BLOCK_BYTES`].
#[derive(Debug)]
pub struct Blocks {
    output: Output,
    /// Bytes after the last full block.
    block: Vec<u8>,
    sums: Vec<u64>,
    /// Why writing failed, for those who know only [`io::Error`].
    failure: Option<fs::Error>,
}

impl Blocks {
    /// Starts a file; `before` stands before the first block.
    pub fn create(path: &Path, before: &[u8]) -> Result<Self, fs::Error> {
        let mut output = Output::create(path)?;
        output.write_all(before)?;
        Ok(Self {
            output,
            block: Vec::with_capacity(2 * BLOCK_BYTES),
            sums: Vec::new(),
            failure: None,
        })
    }

    /// Where the next bytes go; [`Blocks::write_full`] must follow.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.block
    }

    /// Writes the blocks that are full.
    pub fn write_full(&mut self) -> Result<(), fs::Error> {
        let mut written = 0;
        while let Some(block) = self.block.get(written..written + BLOCK_BYTES) {
            self.sums.push(checksum(block));
            self.output.write_all(block)?;
            written += BLOCK_BYTES;
        }
        self.block.drain(..written);
        Ok(())
    }

    /// Writes what is left, puts `start` in the place of the first bytes, and makes the
    /// file durable; returns the checksums of all blocks.
    pub fn publish(&mut self, start: &[u8]) -> Result<Vec<u64>, fs::Error> {
        if !self.block.is_empty() {
            self.sums.push(checksum(&self.block));
            self.output.write_all(&self.block)?;
        }
        if !start.is_empty() {
            self.output.overwrite_start(start)?;
        }
        self.output.publish()?;
        Ok(std::mem::take(&mut self.sums))
    }

    /// Why a write through [`io::Write`] failed, if one did.
    pub fn take_failure(&mut self) -> Option<fs::Error> {
        self.failure.take()
    }
}

impl io::Write for Blocks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block.extend_from_slice(bytes);
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
