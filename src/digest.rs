//! Digests: BLAKE3 names contents, XXH3 finds damage quickly.

use std::fmt;
use std::hash::Hasher as _;
use std::path::Path;

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

use crate::fs;

/// A BLAKE3 digest, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file, which is read in pieces.
    pub fn of_file(path: &Path) -> Result<Self, fs::Error> {
        let mut hasher = blake3::Hasher::new();
        hasher
            .update_reader(fs::open(path)?)
            .map_err(fs::Error::new("read", path))?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The first twelve digits: enough for a person to tell two apart.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("expected 64 hexadecimal digits, found `{text}`");
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// Takes the [`checksum`] of bytes piece by piece.
#[derive(Clone, Default)]
pub struct Checksum(XxHash3_64);

impl Checksum {
    /// Takes the bytes that follow.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The checksum of all bytes.
    pub fn finish(&self) -> u64 {
        self.0.finish()
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checksum({:016x} until now)", self.finish())
    }
}

/// The 64-bit XXH3 checksum of `bytes`, for blocks and documents, as fast as memory gives
/// them: AVX2 is taken where the processor has it.
pub fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is on disk was written by another library, which is the oracle here.
        #[test]
        fn checksums_are_xxh3_64_however_bytes_are_cut(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..600),
                prop::collection::vec(any::<u8>(), 4000..9000),
            ],
            piece in 1usize..3000,
        ) {
            let expected = xxhash_rust::xxh3::xxh3_64(&bytes);
            prop_assert_eq!(checksum(&bytes), expected);
            let mut sum = Checksum::default();
            bytes.chunks(piece).for_each(|piece| sum.update(piece));
            prop_assert_eq!(sum.finish(), expected);
        }
    }
}
