//! The BLAKE3 digest of a file that is written in pieces, of which the first may change.
//!
//! BLAKE3 is a tree over chunks of 1,024 bytes, so that pieces of the file, each a whole
//! subtree, are digested while they are in the cache, and joined at the end.

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};

use super::CHUNK_BYTES;

/// What is known of the digest.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The first [`CHUNK_BYTES`] of the file.
    first: Vec<u8>,
    /// Of every other piece of as many bytes; the last may have fewer.
    others: Vec<ChainingValue>,
}

impl Tree {
    /// Takes bytes that stand at `at`. Pieces begin at multiples of [`CHUNK_BYTES`], and only
    /// the last may be shorter; but the first may come in parts.
    pub fn push(&mut self, at: u64, bytes: &[u8]) {
        let room = CHUNK_BYTES - self.first.len().min(CHUNK_BYTES);
        let (first, others) = bytes.split_at(room.min(bytes.len()));
        self.first.extend_from_slice(first);
        let starts = (at + first.len() as u64..).step_by(CHUNK_BYTES);
        for (start, piece) in starts.zip(others.chunks(CHUNK_BYTES)) {
            let mut hasher = Hasher::new();
            hasher.set_input_offset(start).update(piece);
            self.others.push(hasher.finalize_non_root());
        }
    }

    /// Other bytes stand at the start now.
    pub fn overwrite_start(&mut self, bytes: &[u8]) {
        for (old, new) in self.first.iter_mut().zip(bytes) {
            *old = *new;
        }
    }

    /// The digest of the whole file.
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
        let c = CHUNK_BYTES;
        let bytes: Vec<u8> = (0..250).cycle().take(9 * c + 5).collect();
        let lengths = [0, 1, 1024, c - 1, c, c + 1, 2 * c, 3 * c + 7, 4 * c, 5 * c];
        for length in lengths.into_iter().chain([7 * c - 1, 9 * c + 5]) {
            let mut tree = Tree::default();
            let mut at = 0;
            for piece in bytes[..length].chunks(c) {
                tree.push(at, piece);
                at += piece.len() as u64;
            }
            assert_eq!(
                tree.finish(),
                *blake3::hash(&bytes[..length]).as_bytes(),
                "{length}"
            );
            let mut changed = bytes[..length].to_vec();
            let start = length.min(1024);
            changed[..start].fill(9);
            tree.overwrite_start(&changed[..start]);
            assert_eq!(
                tree.finish(),
                *blake3::hash(&changed).as_bytes(),
                "{length}"
            );
        }
    }
}
