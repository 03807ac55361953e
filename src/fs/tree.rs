//! The BLAKE3 digest of a file that is written in pieces, of which the first may change.
//!
//! BLAKE3 is a tree over chunks of 1,024 bytes, so that pieces of the file, each a whole
//! subtree, are digested while they are in the cache, and joined at the end.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

/// Bytes of a piece: enough that BLAKE3 takes many chunks at once, few enough to be in the
/// cache still; a power of two.
const PIECE_BYTES: usize = 128 << 10;

/// What is known of the digest.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The first piece of the file.
    first: Vec<u8>,
    /// Of every other piece; the last may have fewer bytes.
    others: Vec<ChainingValue>,
}

impl Tree {
    /// Takes the whole pieces of bytes that stand at `at`, but for those that it has; returns
    /// the bytes behind them. What stands before them was taken.
    pub fn take<'a>(&mut self, at: u64, bytes: &'a [u8]) -> &'a [u8] {
        let before = usize::try_from(self.taken().saturating_sub(at)).unwrap_or(usize::MAX);
        let (pieces, last) = (bytes.get(before..).unwrap_or_default()).as_chunks::<PIECE_BYTES>();
        pieces.iter().for_each(|piece| self.push(piece));
        last
    }

    /// Takes the bytes that the file ends with.
    pub fn end(&mut self, at: u64, bytes: &[u8]) {
        let last = self.take(at, bytes);
        if !last.is_empty() {
            self.push(last);
        }
    }

    /// Other bytes stand at the start now: in the first piece.
    pub fn overwrite_start(&mut self, bytes: &[u8]) {
        for (old, new) in self.first.iter_mut().zip(bytes) {
            *old = *new;
        }
    }

    /// The digest of the whole file, once it ended.
    pub fn finish(&self) -> [u8; 32] {
        let Some((last, others)) = self.others.split_last() else {
            return *blake3::hash(&self.first).as_bytes();
        };
        let first = Hasher::new().update(&self.first).finalize_non_root();
        let mut all = vec![first];
        all.extend_from_slice(others);
        all.push(*last);
        let (left, right) = all.split_at(left(all.len()));
        let root = merge_subtrees_root(&merged(left), &merged(right), Mode::Hash);
        *root.as_bytes()
    }

    /// How many bytes were taken, all of them whole pieces.
    fn taken(&self) -> u64 {
        self.first.len() as u64 + (self.others.len() * PIECE_BYTES) as u64
    }

    fn push(&mut self, piece: &[u8]) {
        if self.first.is_empty() {
            self.first.extend_from_slice(piece);
            return;
        }
        let mut hasher = Hasher::new();
        hasher.set_input_offset(self.taken()).update(piece);
        self.others.push(hasher.finalize_non_root());
    }
}

/// How many of some pieces are on the left of a tree: the largest power of two below.
fn left(n: usize) -> usize {
    n.div_ceil(2).next_power_of_two()
}

/// The value of a subtree of pieces.
fn merged(pieces: &[ChainingValue]) -> ChainingValue {
    match pieces {
        [] => ChainingValue::default(),
        [one] => *one,
        several => {
            let (left, right) = several.split_at(left(several.len()));
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_bytes_however_many_and_of_the_last_start() {
        let p = PIECE_BYTES;
        let bytes: Vec<u8> = (0..250).cycle().take(9 * p + 5).collect();
        let lengths = [0, 1, 1024, p - 1, p, p + 1, 2 * p, 3 * p + 7, 4 * p, 5 * p];
        // How many bytes are shown at once, and how many of those for good.
        let ways = [
            (p, p),
            (3 * p, 2 * p),
            (2 * p + 100, p),
            (100, 0),
            (9 * p, 4 * p),
        ];
        for length in lengths.into_iter().chain([7 * p - 1, 9 * p + 5]) {
            for (shown, kept) in ways {
                let whole = &bytes[..length];
                let (mut tree, mut at) = (Tree::default(), 0);
                while at + shown < length && 0 < kept {
                    tree.take(at as u64, &whole[at..at + shown]);
                    at += kept;
                }
                tree.end(at as u64, &whole[at..]);
                let found = tree.finish();
                assert_eq!(found, *blake3::hash(whole).as_bytes(), "{length} {shown}");
                let mut changed = whole.to_vec();
                let start = length.min(1024);
                changed[..start].fill(9);
                tree.overwrite_start(&changed[..start]);
                let found = tree.finish();
                assert_eq!(found, *blake3::hash(&changed).as_bytes(), "{length}");
            }
        }
    }
}
