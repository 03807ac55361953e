//! Runs of words as numbers: a word is hashed once, a run of `n` words in a
//! constant number of operations for each word.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::digest::checksum;

/// Odd, so that no power of it loses bits (the multiplier of Knuth's MMIX).
const BASE: u64 = 6_364_136_223_846_793_005;

/// The number of a word.
pub fn word(word: &str) -> u64 {
    checksum(word.as_bytes())
}

/// The number of the last `n` words: a polynomial over their numbers, moved on a
/// word at a time.
#[derive(Clone, Debug)]
pub struct Rolling {
    n: usize,
    /// BASE^n: what a word has been multiplied with when it leaves.
    power: u64,
    seen: usize,
    sum: u64,
}

impl Rolling {
    /// No words yet.
    pub fn new(n: usize) -> Self {
        let power = (0..n).fold(1u64, |power, _| power.wrapping_mul(BASE));
        Self {
            n,
            power,
            seen: 0,
            sum: 0,
        }
    }

    /// How many words one number stands for.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Takes a word in; `leaving` is the word `n` before it, if there is one.
    /// Returns the number of the last `n` words once there are so many.
    pub fn push(&mut self, word: u64, leaving: Option<u64>) -> Option<u64> {
        let kept = self.sum.wrapping_mul(BASE).wrapping_add(word);
        let gone = leaving.unwrap_or(0).wrapping_mul(self.power);
        self.sum = kept.wrapping_sub(gone);
        self.seen += 1;
        (self.n <= self.seen).then(|| mix(self.sum ^ self.n as u64))
    }
}

/// The numbers of all runs of `n` words, in order.
pub fn runs(words: &[u64], n: usize) -> impl Iterator<Item = u64> {
    let mut rolling = Rolling::new(n);
    words.iter().enumerate().filter_map(move |(index, word)| {
        let leaving = index.checked_sub(n).and_then(|index| words.get(index));
        rolling.push(*word, leaving.copied())
    })
}

/// Spreads every bit over all (SplitMix64's finaliser).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A map from mixed numbers, which need no further hashing.
pub type Map<V> = HashMap<u64, V, BuildHasherDefault<Mixed>>;
/// A set of mixed numbers.
pub type Set = HashSet<u64, BuildHasherDefault<Mixed>>;

/// Hands a number on as its own hash.
#[derive(Default)]
pub struct Mixed(u64);

impl Hasher for Mixed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = checksum(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_the_same_number_wherever_it_stands() {
        let words: Vec<u64> = "a b c a b c d a b".split(' ').map(word).collect();
        for n in 1..4 {
            let numbers: Vec<u64> = runs(&words, n).collect();
            assert_eq!(numbers.len(), words.len() + 1 - n);
            for (i, a) in numbers.iter().enumerate() {
                for (j, b) in numbers.iter().enumerate() {
                    assert_eq!(a == b, words[i..i + n] == words[j..j + n], "{n} {i} {j}");
                }
            }
        }
        assert_eq!(runs(&words, 10).count(), 0);
    }
}
