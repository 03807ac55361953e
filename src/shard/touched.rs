//! Blocks of a file, checked when they are first touched.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use super::bytes::Bytes;
use super::layout::{BLOCK_BYTES, Fault};
use crate::digest::checksum;

/// Which blocks of a file were found right; threads may share it.
#[derive(Debug)]
pub struct Touched {
    /// Where the blocks lie in the file.
    blocks: Range<usize>,
    /// One bit a block.
    checked: Vec<AtomicU64>,
}

impl Touched {
    /// None of the blocks that fill `blocks` of the file was looked at.
    pub fn new(blocks: Range<usize>) -> Self {
        let n_blocks = blocks.len().div_ceil(BLOCK_BYTES);
        Self {
            blocks,
            checked: (0..n_blocks.div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
        }
    }

    /// Checks the blocks that a range of the file touches, once each; `expected` tells a
    /// block's XXH3-64.
    pub fn check(
        &self,
        file: &Bytes,
        range: &Range<usize>,
        expected: impl Fn(usize) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        for block in self.blocks_of(range) {
            // Two threads may both check a block; the bit only saves the third the work.
            if let Some((word, bit)) = self.unchecked(block) {
                self.check_block(file, block, expected(block)?)?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The bytes that [`Touched::check`] would read of the blocks that a range touches;
    /// where it would read none, the range itself.
    pub fn reads(&self, range: &Range<usize>) -> Range<usize> {
        let mut unchecked = self
            .blocks_of(range)
            .filter(|block| self.unchecked(*block).is_some());
        let Some(first) = unchecked.next() else {
            return range.clone();
        };
        let last = unchecked.last().unwrap_or(first);
        let (start, end) = (self.range_of(first).start, self.range_of(last).end);
        start.min(range.start)..end.max(range.end)
    }

    /// The blocks that a range of the file touches.
    fn blocks_of(&self, range: &Range<usize>) -> Range<usize> {
        let block_of = |byte: usize| byte.saturating_sub(self.blocks.start) / BLOCK_BYTES;
        match range.end.checked_sub(1) {
            Some(last) if range.start <= last => block_of(range.start)..block_of(last) + 1,
            _ => 0..0,
        }
    }

    /// Where it is noted that a block was found right; none if it was, or is no block.
    fn unchecked(&self, block: usize) -> Option<(&AtomicU64, u64)> {
        let (word, bit) = (self.checked.get(block / 64)?, 1 << (block % 64));
        (word.load(Ordering::Relaxed) & bit == 0).then_some((word, bit))
    }

    fn range_of(&self, block: usize) -> Range<usize> {
        let start = self.blocks.start + block * BLOCK_BYTES;
        start..self.blocks.end.min(start + BLOCK_BYTES)
    }

    fn check_block(&self, file: &Bytes, block: usize, expected: u64) -> Result<(), Error> {
        let range = self.range_of(block);
        let found = file.see(range.clone(), |bytes| Ok(checksum(bytes)))?;
        if found == expected {
            return Ok(());
        }
        let Range { start, end } = range;
        let field = format!("checksum of block {block} (bytes {start} to {end})");
        Err(file.damaged(Fault::new(
            field,
            format!("{expected:016x}"),
            format!("{found:016x}"),
        )))
    }
}
