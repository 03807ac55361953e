//! How much of a text repeats itself.

use std::collections::HashSet;

use crate::curate::ngram::{self, Map, Set};

/// Pieces that stood before in the same text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Repeated {
    /// All pieces.
    pub of: u64,
    /// Those that stood before.
    pub count: u64,
    /// Characters in them.
    pub chars: u64,
}

impl Repeated {
    pub(super) fn among<'a>(pieces: impl Iterator<Item = &'a str>) -> Self {
        let mut repeated = Self::default();
        let mut seen = HashSet::new();
        for piece in pieces {
            repeated.of += 1;
            if !seen.insert(piece) {
                repeated.count += 1;
                repeated.chars += piece.chars().count() as u64;
            }
        }
        repeated
    }
}

/// The words of a text as numbers, with their lengths.
pub(super) struct Words {
    words: Vec<u64>,
    /// `starts[i]`: characters in the words before word `i`; one entry more than words.
    starts: Vec<u64>,
}

impl Words {
    pub(super) fn of(text: &str) -> Self {
        let (mut words, mut starts, mut chars) = (Vec::new(), vec![0], 0);
        for word in text.split_whitespace() {
            words.push(ngram::word(word));
            chars += word.chars().count() as u64;
            starts.push(chars);
        }
        Self { words, starts }
    }

    /// Characters in the words `from..to`.
    fn chars(&self, from: usize, to: usize) -> u64 {
        let at = |index: usize| self.starts.get(index).copied().unwrap_or_default();
        at(to) - at(from)
    }

    /// Characters in the run of `n` words that comes most often, all its
    /// occurrences together and a space between two words; of several such runs
    /// the longest. 0 where none comes twice.
    pub(super) fn top(&self, n: usize) -> u64 {
        let mut counts = Map::<(u64, u64)>::default();
        counts.reserve(self.words.len());
        let mut most = (1, 0);
        for (index, run) in ngram::runs(&self.words, n).enumerate() {
            let chars = self.chars(index, index + n) + (n as u64 - 1);
            let (count, _) = counts
                .entry(run)
                .and_modify(|(count, _)| *count += 1)
                .or_insert((1, chars));
            if 1 < *count {
                most = most.max((*count, chars));
            }
        }
        match most {
            (1, _) => 0,
            (count, chars) => count * chars,
        }
    }

    /// Characters in the runs of `n` words that stood before. After such a run
    /// the next one begins behind it, so that no character counts twice.
    pub(super) fn duplicate(&self, n: usize) -> u64 {
        let mut seen = Set::default();
        seen.reserve(self.words.len());
        let (mut chars, mut next) = (0, 0);
        for (index, run) in ngram::runs(&self.words, n).enumerate() {
            if next <= index && !seen.insert(run) {
                chars += self.chars(index, index + n);
                next = index + n;
            }
        }
        chars
    }
}
