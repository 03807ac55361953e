//! The digest of a split's rows, whatever files hold them.
//!
//! SHA-256, because every language has it: of the SHA-256 of each row one after another, a
//! row being its number of ids, its ids and its labels, in four bytes each, little-endian.

use std::fmt;

use rayon::prelude::*;
use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::dataset::{Dataset, Error};
use crate::manifest::Split;
use crate::sequence::Sequence;
use crate::shard::columns;
use crate::token::Reserved;

/// Rows that are digested in parallel at a time.
const CHUNK: u64 = 4096;

/// The digest of a split's rows, written as 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(pub [u8; 32]);

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Content {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Takes the digest of rows one after another.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// The next row.
    pub fn push(&mut self, row: &Sequence, reserved: Reserved) {
        self.0.update(of_row(row, reserved));
    }

    /// The digest of all rows.
    pub fn finish(self) -> Content {
        Content(self.0.finalize().into())
    }
}

/// The digest of a split's rows.
pub fn of(dataset: &Dataset, split: Split) -> Result<Content, Error> {
    let reserved = dataset.manifest.tokenizer.reserved;
    let mut hasher = Hasher::default();
    let rows = dataset.rows_on_disk(split);
    for first in (0..rows).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
        let digests: Vec<[u8; 32]> = (first..rows.min(first + CHUNK))
            .into_par_iter()
            .map(|row| Ok(of_row(&dataset.row_on_disk(split, row)?, reserved)))
            .collect::<Result<_, Error>>()?;
        digests.iter().for_each(|digest| hasher.0.update(digest));
    }
    Ok(hasher.finish())
}

fn of_row(row: &Sequence, reserved: Reserved) -> [u8; 32] {
    let mut bytes = Vec::with_capacity(4 + 8 * row.len());
    let length = u32::try_from(row.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend(row.ids.iter().flat_map(|id| id.0.to_le_bytes()));
    bytes.extend(columns::labels(row, reserved).flat_map(i32::to_le_bytes));
    Sha256::digest(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::drawing::{RESERVED, row};

    /// Python: `h = hashlib.sha256`, `h(h(pack("<Iiiii", 2, 1, 2, -100, 2)).digest()).hexdigest()`.
    #[test]
    fn the_digest_is_that_of_pythons_hashlib() {
        let mut hasher = Hasher::default();
        hasher.push(&row("\u{23f8} |"), RESERVED);
        let expected = "19b62f6118167c7eea710b44b5891be8b8238c2984c9bcc4437c0b908f6684b5";
        assert_eq!(hasher.finish().to_string(), expected);
    }
}
