//! A row of token ids, and where its prefix ends.

use crate::token::TokenId;

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

    /// The prefix and what follows it; a pretraining row has no prefix.
    pub fn parts(&self) -> (&[TokenId], &[TokenId]) {
        let boundary = self.prefix.unwrap_or(0) as usize;
        self.ids.split_at(boundary.min(self.ids.len()))
    }
}

/// Rows drawn as text, for tests: `the ⏸ cat | sat ⏸`.
///
/// `⏸` is a pause, `|` ends a document, `_` is padding and `>` ends the prefix;
/// a word of at most six small letters is a token whose id spells it.
#[cfg(test)]
pub(crate) mod drawing {
    use super::Sequence;
    use crate::token::{Reserved, TokenId};

    /// The reserved ids of drawn rows.
    pub const RESERVED: Reserved = Reserved {
        pause: TokenId(1),
        end: TokenId(2),
        pad: TokenId(3),
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
