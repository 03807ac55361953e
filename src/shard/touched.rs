//! Blocks of a file, checked when they are first touched.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;
use super::bytes::Bytes;
use super::layout::Fault;
use crate::digest::{Checksum, checksum};
use crate::row::Ids;
use crate::token::{IdWidth, TokenId};

/// Of a block, as many bytes as are checked at once; ids do not cross their ends.
const PIECE_BYTES: usize = 8 << 10;
/// What no row has touched is asked for in stretches of so many bytes: a disk gives them
/// nearly as fast as one row.
const STRETCH_BYTES: usize = 1 << 20;

/// What the system is asked to get from its disk before rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ahead {
    /// Stretches of the file in which no row was asked for. What was read once is mostly
    /// still in memory, where asking takes longer than reading.
    Stretches,
    /// Rows too: what was read once is in memory no more.
    Rows,
}

/// Which blocks of a file were found right; threads may share it.
#[derive(Debug)]
pub struct Touched {
    /// Where the blocks lie in the file.
    blocks: Range<usize>,
    /// Bytes of a block; the last one may have fewer.
    block_bytes: usize,
    checked: Bits,
    /// Of which stretches rows were asked for.
    asked: Bits,
    /// What the blocks are made of, where that is ids alone: their width, and the number
    /// that all are below.
    ids: Option<(IdWidth, u32)>,
}

/// Bits that threads share and only set.
#[derive(Debug)]
struct Bits(Vec<AtomicU64>);

impl Bits {
    /// So many, none of them set.
    fn new(n: usize) -> Self {
        let words = (0..n.div_ceil(64)).map(|_| AtomicU64::new(0));
        Self(words.collect())
    }

    /// Whether a bit is there that is not set.
    fn lacks(&self, n: usize) -> bool {
        let word = self.0.get(n / 64);
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (n % 64) & 1 == 0)
    }

    fn set(&self, n: usize) {
        if let Some(word) = self.0.get(n / 64) {
            word.fetch_or(1 << (n % 64), Ordering::Relaxed);
        }
    }

    fn set_all(&self) {
        for word in &self.0 {
            word.store(u64::MAX, Ordering::Relaxed);
        }
    }
}

impl Touched {
    /// None of the blocks that fill `blocks` of the file was looked at.
    pub fn new(blocks: Range<usize>, block_bytes: usize) -> Self {
        Self {
            checked: Bits::new(blocks.len().div_ceil(block_bytes)),
            asked: Bits::new(blocks.len().div_ceil(STRETCH_BYTES)),
            blocks,
            block_bytes,
            ids: None,
        }
    }

    /// The same of blocks that are ids below `vocab_size`, which is checked, too.
    pub fn of_ids(self, width: IdWidth, vocab_size: u32) -> Self {
        let ids = Some((width, vocab_size));
        Self { ids, ..self }
    }

    /// Shows a range of the file to `see`, after the blocks that it touches were checked,
    /// once each; `expected` tells a block's XXH3-64. As [`Bytes::see`].
    pub fn see<T>(
        &self,
        file: &Bytes,
        range: Range<usize>,
        expected: impl Fn(usize) -> Result<u64, Error>,
        see: impl FnOnce(&[u8]) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let blocks = self.pieces_of(&range, self.block_bytes);
        if !blocks.clone().any(|block| self.checked.lacks(block)) {
            return file.see(range, see);
        }
        // The range is not read again: where blocks are rows, it is in the cache now.
        let whole = self.range_of(&blocks, self.block_bytes);
        let inner = range.start.saturating_sub(whole.start)..range.end.saturating_sub(whole.start);
        file.see(whole, |bytes| {
            for (block, bytes) in blocks.zip(bytes.chunks(self.block_bytes)) {
                // Two threads may both check a block; the bit only saves the third the work.
                if self.checked.lacks(block) {
                    self.check_block(file, block, bytes, expected(block)?)?;
                    self.checked.set(block);
                }
            }
            let outside = || {
                let field = format!("bytes {} to {}", range.start, range.end);
                Fault::new(field, "some of its blocks", "others")
            };
            see(bytes.get(inner).ok_or_else(|| file.damaged(outside()))?)
        })
    }

    /// The first block that a range of the file touches and no row has touched.
    pub fn first_unchecked(&self, range: &Range<usize>) -> Option<usize> {
        let mut blocks = self.pieces_of(range, self.block_bytes);
        blocks.find(|block| self.checked.lacks(*block))
    }

    /// Checks every block that no row has touched.
    pub fn check_all(
        &self,
        file: &Bytes,
        expected: impl Fn(usize) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        // A block may be small, and a look at the file costs more than a few of them.
        for stretch in self.pieces_of(&self.blocks, STRETCH_BYTES) {
            let range = self.range_of(&(stretch..stretch + 1), STRETCH_BYTES);
            self.see(file, range, &expected, |_| Ok(()))?;
        }
        Ok(())
    }

    /// Takes all blocks for right, and their ids.
    pub fn trust(&self) {
        self.checked.set_all();
    }

    /// Says that a range of the file will be read soon.
    pub fn will_need(&self, file: &Bytes, range: &Range<usize>, ahead: Ahead) {
        for stretch in self.pieces_of(range, STRETCH_BYTES) {
            if self.asked.lacks(stretch) {
                self.asked.set(stretch);
                file.will_need(&self.range_of(&(stretch..stretch + 1), STRETCH_BYTES));
            }
        }
        if ahead == Ahead::Rows {
            file.will_need(range);
        }
    }

    /// Which pieces of so many bytes a range of the file touches.
    fn pieces_of(&self, range: &Range<usize>, bytes: usize) -> Range<usize> {
        let piece_of = |byte: usize| byte.saturating_sub(self.blocks.start) / bytes;
        match range.end.checked_sub(1) {
            Some(last) if range.start <= last => piece_of(range.start)..piece_of(last) + 1,
            _ => 0..0,
        }
    }

    /// Where some pieces of so many bytes lie in the file.
    fn range_of(&self, pieces: &Range<usize>, bytes: usize) -> Range<usize> {
        let start_of = |piece: usize| self.blocks.start.saturating_add(piece * bytes);
        start_of(pieces.start)..start_of(pieces.end).min(self.blocks.end)
    }

    fn check_block(
        &self,
        file: &Bytes,
        block: usize,
        bytes: &[u8],
        expected: u64,
    ) -> Result<(), Error> {
        let (found, largest) = self.sum(bytes);
        let Range { start, end } = self.range_of(&(block..block + 1), self.block_bytes);
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

    /// The checksum of a block, and its largest id.
    fn sum(&self, bytes: &[u8]) -> (u64, Option<TokenId>) {
        let largest = |bytes: &[u8]| {
            let (width, _) = self.ids?;
            Ids::from_bytes(bytes, width).largest()
        };
        if bytes.len() <= PIECE_BYTES {
            return (checksum(bytes), largest(bytes));
        }
        let (mut sum, mut most) = (Checksum::default(), None);
        // A piece is looked at twice while it is in the nearest cache.
        for piece in bytes.chunks(PIECE_BYTES) {
            sum.update(piece);
            most = most.max(largest(piece));
        }
        (sum.finish(), most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
                let touched = Touched::new(0..bytes.len(), 1 << 20).of_ids(IdWidth::U16, 300);
                let sum = |_| Ok(checksum(&bytes));
                let checked = touched.see(&file, 10..20, sum, |bytes| Ok(bytes.len()));
                let said = checked.map_err(|error| error.to_string());
                match bad {
                    None => assert_eq!(said, Ok(10)),
                    Some(_) => assert!(said.unwrap_err().contains("largest id of block 0")),
                }
            }
        }
    }
}
