//! A row of token ids, and where its prefix ends.

use crate::token::{PauseIds, TokenId};

/// Token ids in order; finetuning rows know where their prefix ends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sequence {
    /// The ids.
    pub ids: Vec<TokenId>,
    /// How many of the first ids are prefix, which is read but never scored.
    /// `None` for pretraining rows, where everything is scored.
    pub prefix: Option<u32>,
    /// A number for each id that pause policies read, before pauses are placed;
    /// empty where no policy reads any. Not on disk.
    pub marks: Vec<f32>,
    /// What pauses are trained to say ([`crate::pause::Rule::Hint`]), before pauses are
    /// placed. Not on disk.
    pub hint: Vec<TokenId>,
    /// What does not follow from the ids under the paper's rule.
    pub stored: Option<Box<Stored>>,
}

/// What a row says beside its ids; each list is empty or has an entry an id.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    /// Which ids a policy inserted, where ids that are text are used as pauses.
    pub inserted: Vec<bool>,
    /// What each position must predict; the padding id where the weight is 0.
    pub targets: Vec<TokenId>,
    /// How much that prediction counts.
    pub weights: Vec<f32>,
}

impl Stored {
    /// Nothing.
    pub const NONE: Self = Self {
        inserted: Vec::new(),
        targets: Vec::new(),
        weights: Vec::new(),
    };
}

impl Sequence {
    /// A pretraining row.
    pub fn plain(ids: Vec<TokenId>) -> Self {
        Self {
            ids,
            ..Self::default()
        }
    }

    /// A finetuning row: `prefix`, then `target`.
    pub fn example(prefix: &[TokenId], target: &[TokenId]) -> Self {
        let mut ids = Vec::with_capacity(prefix.len() + target.len());
        ids.extend_from_slice(prefix);
        ids.extend_from_slice(target);
        Self {
            ids,
            prefix: u32::try_from(prefix.len()).ok(),
            ..Self::default()
        }
    }

    /// How many ids the row holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether the row holds no id.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Whether the id at a position was inserted.
    pub fn is_pause(&self, position: usize, pauses: PauseIds) -> bool {
        match self.inserted() {
            Some(inserted) => inserted.get(position).copied().unwrap_or(false),
            None => (self.ids.get(position)).is_some_and(|id| pauses.contains(*id)),
        }
    }

    /// How many ids were inserted.
    pub fn n_pauses(&self, pauses: PauseIds) -> usize {
        self.n_pauses_from(0, pauses)
    }

    /// How many of the ids at `position` and behind it were inserted.
    pub fn n_pauses_from(&self, position: usize, pauses: PauseIds) -> usize {
        let ids = self.ids.get(position..).unwrap_or_default();
        match self.inserted() {
            Some(inserted) => {
                let inserted = inserted.get(position..).unwrap_or_default();
                inserted.iter().take(ids.len()).filter(|is| **is).count()
            }
            None => {
                // Counts as wide as ids, so that many are compared at once.
                let count = |ids: &[TokenId]| -> u32 {
                    ids.iter().map(|id| u32::from(pauses.contains(*id))).sum()
                };
                ids.chunks(1 << 16).map(|ids| count(ids) as usize).sum()
            }
        }
    }

    /// Where the ids stand that were inserted, rising.
    pub fn pause_positions(&self, pauses: PauseIds) -> Vec<usize> {
        let n_pauses = self.n_pauses(pauses);
        match self.inserted() {
            _ if n_pauses == 0 => Vec::new(),
            Some(inserted) => positions(inserted.iter().copied().take(self.len()), n_pauses),
            None => positions(self.ids.iter().map(|id| pauses.contains(*id)), n_pauses),
        }
    }

    /// Which ids were inserted, where the row says so.
    fn inserted(&self) -> Option<&[bool]> {
        let inserted = &self.stored.as_deref()?.inserted;
        (!inserted.is_empty()).then_some(inserted)
    }

    /// The prefix and what follows it; a pretraining row has no prefix.
    pub fn parts(&self) -> (&[TokenId], &[TokenId]) {
        let boundary = self.prefix.unwrap_or(0) as usize;
        self.ids.split_at(boundary.min(self.ids.len()))
    }
}

/// The places of the `n` flags that are set.
fn positions(flags: impl Iterator<Item = bool>, n: usize) -> Vec<usize> {
    // Without a branch, as pauses stand anywhere; the last slot is for what is no pause.
    let (mut positions, mut found) = (vec![0; n + 1], 0);
    for (position, flag) in flags.enumerate() {
        if let Some(slot) = positions.get_mut(found) {
            *slot = position;
        }
        found += usize::from(flag);
    }
    positions.truncate(n);
    positions
}

/// Rows drawn as text, for tests: `the ⏸ cat | sat ⏸`.
///
/// `⏸` is a pause, `|` ends a document, `_` is padding and `>` ends the prefix;
/// a word of at most six small letters is a token whose id spells it.
#[cfg(test)]
pub(crate) mod drawing {
    use super::Sequence;
    use crate::token::{Extra, Reserved, TokenId};

    /// The reserved ids of drawn rows.
    pub const RESERVED: Reserved = Reserved {
        pause: TokenId(1),
        end: TokenId(2),
        pad: TokenId(3),
        extra: Extra::NONE,
    };
    const FIRST_WORD: u32 = 4;

    /// The row that `text` draws.
    pub fn row(text: &str) -> Sequence {
        let mut sequence = Sequence::default();
        for word in text.split_whitespace() {
            match word {
                ">" => sequence.prefix = Some(u32::try_from(sequence.len()).unwrap()),
                _ => sequence.ids.push(id(word)),
            }
        }
        sequence
    }

    /// The ids that `text` draws.
    pub fn ids(text: &str) -> Vec<TokenId> {
        row(text).ids
    }

    /// Draws a row.
    pub fn draw(sequence: &Sequence) -> String {
        let mut words: Vec<String> = sequence.ids.iter().map(|id| word(*id)).collect();
        if let Some(prefix) = sequence.prefix {
            words.insert(prefix as usize, ">".into());
        }
        words.join(" ")
    }

    /// Draws one id.
    pub fn word(id: TokenId) -> String {
        match id {
            id if id == RESERVED.pause => "⏸".into(),
            id if id == RESERVED.end => "|".into(),
            id if id == RESERVED.pad => "_".into(),
            id => {
                let mut rest = id.0 - FIRST_WORD;
                let mut letters = Vec::new();
                while 0 < rest {
                    letters.push(char::from(b'a' - 1 + u8::try_from(rest % 27).unwrap()));
                    rest /= 27;
                }
                letters.iter().rev().collect()
            }
        }
    }

    fn id(word: &str) -> TokenId {
        match word {
            "⏸" => RESERVED.pause,
            "|" => RESERVED.end,
            "_" => RESERVED.pad,
            _ => TokenId(
                word.bytes()
                    .fold(0, |sum, letter| sum * 27 + u32::from(letter - b'a' + 1))
                    + FIRST_WORD,
            ),
        }
    }

    #[test]
    fn a_drawing_reads_back() {
        for text in ["the ⏸ cat | sat ⏸", "a b > ⏸ c | _", "> zzzzzz", ""] {
            assert_eq!(draw(&row(text)), text);
        }
    }
}
