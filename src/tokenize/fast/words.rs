//! The words of a vocabulary and their ids, found by their bytes.

use std::hash::{BuildHasher, RandomState};

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Words in an order of their own.
pub struct Words<W> {
    words: Vec<(W, u32)>,
    /// Open addressing: the upper half of the hash, and one more than the place of the word.
    slots: Vec<u64>,
    /// Nobody can write a file whose words all have one hash.
    seed: u64,
}

impl<W: AsRef<[u8]>> Words<W> {
    /// Words with their ids; no two are equal.
    pub fn new(words: Vec<(W, u32)>) -> Option<Self> {
        let mut table = Self {
            slots: vec![0; (2 * words.len() + 1).next_power_of_two()],
            words,
            seed: RandomState::new().hash_one(0),
        };
        for (index, (word, _)) in (1..).zip(&table.words) {
            let (mut at, tag) = table.home(table.hash(word.as_ref()));
            while table.slots.get(at).is_some_and(|slot| *slot != 0) {
                at = (at + 1) & (table.slots.len() - 1);
            }
            *table.slots.get_mut(at)? = tag | index;
        }
        Some(table)
    }

    /// The hash of a word, for [`Words::find_hashed`].
    pub fn hash(&self, word: &[u8]) -> u64 {
        xxh3_64_with_seed(word, self.seed)
    }

    /// Where the search for a word begins, and the upper half of its hash.
    fn home(&self, hash: u64) -> (usize, u64) {
        #[expect(clippy::cast_possible_truncation, reason = "the lower bits")]
        let at = hash as usize & (self.slots.len() - 1);
        (at, hash & !u64::from(u32::MAX))
    }

    /// The place of a word.
    pub fn find(&self, word: &[u8]) -> Option<usize> {
        self.find_hashed(word, self.hash(word))
    }

    /// The place of a word of this hash.
    pub fn find_hashed(&self, word: &[u8], hash: u64) -> Option<usize> {
        let (mut at, tag) = self.home(hash);
        // Half of the slots are vacant, so that this ends.
        loop {
            let slot = *self.slots.get(at)?;
            let index = (slot & u64::from(u32::MAX)).checked_sub(1)?;
            let index = usize::try_from(index).ok()?;
            let same = |(other, _): &(W, u32)| other.as_ref() == word;
            if slot & !u64::from(u32::MAX) == tag && self.words.get(index).is_some_and(same) {
                return Some(index);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// The word at a place.
    pub fn word(&self, at: usize) -> Option<&W> {
        self.words.get(at).map(|(word, _)| word)
    }

    /// The id of the word at a place.
    pub fn id(&self, at: usize) -> Option<u32> {
        self.words.get(at).map(|(_, id)| *id)
    }

    /// All words with their ids.
    pub fn iter(&self) -> impl Iterator<Item = &(W, u32)> {
        self.words.iter()
    }
}
