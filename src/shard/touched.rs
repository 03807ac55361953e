//! Blocks of a file, checked when they are first touched.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use super::bytes::Bytes;
use super::layout::{BLOCK_BYTES, Fault};
use crate::digest::Checksum;
use crate::row::Ids;
use crate::token::{IdWidth, TokenId};

/// Of a block, as many bytes as are checked at once; ids do not cross their ends.
const PIECE_BYTES: usize = 8 << 10;

/// What the system is asked to get from its disk before rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Blocks that no row has touched: each is read whole to be checked. What was read once
    /// is mostly still in memory, where asking takes longer than reading.
    Blocks,
    /// Rows too: what was read once is in memory no more.
    Rows,
}

/// Which blocks of a file were found right; threads may share it.
#[derive(Debug)]
pub struct Touched {
    /// Where the blocks lie in the file.
    blocks: Range<usize>,
    /// One bit a block.
    checked: Vec<AtomicU64>,
    /// What the blocks are made of, where that is ids alone: their width, and the number
    /// that all are below.
    ids: Option<(IdWidth, u32)>,
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
            ids: None,
        }
    }

    /// The same of blocks that are ids below `vocab_size`, which is checked, too.
    pub fn of_ids(self, width: IdWidth, vocab_size: u32) -> Self {
        let ids = Some((width, vocab_size));
        Self { ids, ..self }
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

    /// Takes all blocks for right, and their ids.
    pub fn trust(&self) {
        for word in &self.checked {
            word.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Says that a range of the file will be read soon, and the blocks that are checked then.
    pub fn will_need(&self, file: &Bytes, range: &Range<usize>, ahead: Ahead) {
        let unchecked = |block: &usize| self.unchecked(*block).is_some();
        for block in self.blocks_of(range).filter(unchecked) {
            file.will_need(&self.range_of(block));
        }
        if ahead == Ahead::Rows {
            file.will_need(range);
        }
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
        let (found, largest) = file.see(range.clone(), |bytes| {
            let (mut sum, mut largest) = (Checksum::default(), None);
            // A piece is looked at twice while it is in the nearest cache.
            for piece in bytes.chunks(PIECE_BYTES) {
                sum.update(piece);
                if let Some((width, _)) = self.ids {
                    largest = largest.max(Ids::from_bytes(piece, width).largest());
                }
            }
            Ok((sum.finish(), largest))
        })?;
        let Range { start, end } = range;
        if found != expected {
            let field = format!("checksum of block {block} (bytes {start} to {end})");
            let [expected, found] = [expected, found].map(|sum| format!("{sum:016x}"));
            return Err(file.damaged(Fault::new(field, expected, found)));
        }
        match (largest, self.ids) {
            (Some(TokenId(largest)), Some((_, vocab_size))) if vocab_size <= largest => {
                let field = format!("largest id of block {block} (bytes {start} to {end})");
                let below = format!("an id below {vocab_size}");
                Err(file.damaged(Fault::new(field, below, largest)))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::checksum;
    use crate::fs;
    use crate::shard::Reading;

    #[test]
    fn an_id_outside_the_vocabulary_is_found_wherever_it_stands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        for bad in [None, Some(0), Some(PIECE_BYTES / 2), Some(29_999)] {
            let id = |place| if Some(place) == bad { 300u16 } else { 299 };
            let bytes: Vec<u8> = (0..30_000).flat_map(|n| id(n).to_le_bytes()).collect();
            fs::write(&path, &bytes).unwrap();
            for reading in [Reading::Mmap, Reading::Pread] {
                let file = Bytes::open(&path, None, reading).unwrap();
                let touched = Touched::new(0..bytes.len()).of_ids(IdWidth::U16, 300);
                let checked = touched.check(&file, &(10..20), |_| Ok(checksum(&bytes)));
                let said = checked.map_err(|error| error.to_string());
                match bad {
                    None => assert_eq!(said, Ok(())),
                    Some(_) => assert!(said.unwrap_err().contains("largest id of block 0")),
                }
            }
        }
    }
}
