//! Blocks of a mapped file, checked when they are first touched.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

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

    /// Checks the blocks that `bytes` of the file touch, once each; `expected` tells a
    /// block's XXH3-64.
    pub fn check(
        &self,
        file: &[u8],
        bytes: &Range<usize>,
        expected: impl Fn(usize) -> u64,
    ) -> Result<(), Fault> {
        let Some(last) = bytes.end.checked_sub(1).filter(|last| bytes.start <= *last) else {
            return Ok(());
        };
        let block_of = |byte: usize| byte.saturating_sub(self.blocks.start) / BLOCK_BYTES;
        for block in block_of(bytes.start)..=block_of(last) {
            let bit = 1u64 << (block % 64);
            let Some(word) = self.checked.get(block / 64) else {
                continue;
            };
            // Two threads may both check a block; the bit only saves the third the work.
            if word.load(Ordering::Relaxed) & bit == 0 {
                self.check_block(file, block, expected(block))?;
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn check_block(&self, file: &[u8], block: usize, expected: u64) -> Result<(), Fault> {
        let start = self.blocks.start + block * BLOCK_BYTES;
        let end = self.blocks.end.min(start + BLOCK_BYTES);
        let found = checksum(file.get(start..end).unwrap_or_default());
        if found == expected {
            return Ok(());
        }
        let field = format!("checksum of block {block} (bytes {start} to {end})");
        Err(Fault::new(
            field,
            format!("{expected:016x}"),
            format!("{found:016x}"),
        ))
    }
}
