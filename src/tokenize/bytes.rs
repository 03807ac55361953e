//! Byte-level vocabularies: each byte is written as one printable character.

use super::tokens::Tokens;
use crate::token::TokenId;

/// The byte that `character` stands for in a byte-level vocabulary.
///
/// Printable bytes of Latin-1 stand for themselves; the others follow from
/// U+0100 on, in order (the convention of GPT-2).
pub fn byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => u8::try_from(code).ok(),
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes of every id.
pub struct Table(Vec<Option<Box<[u8]>>>);

impl Table {
    /// The table of a byte-level vocabulary.
    ///
    /// Added tokens are text as they stand, unless a normalizer rewrote them;
    /// so are tokens with a character that stands for no byte.
    pub fn new(tokens: &Tokens, vocab_size: u32) -> Self {
        let added = tokens.added();
        let mut table = vec![None; vocab_size as usize];
        tokens.each(vocab_size, |id, token| {
            let verbatim = added.get(&id).is_some_and(|added| added.content == token);
            let mapped = match verbatim {
                true => None,
                false => token.chars().map(byte).collect::<Option<Vec<u8>>>(),
            };
            if let Some(place) = table.get_mut(id as usize) {
                *place = Some(mapped.unwrap_or_else(|| token.as_bytes().to_vec()).into());
            }
        });
        Self(table)
    }

    /// What one id spells; nothing where it is unknown.
    pub fn bytes(&self, id: TokenId) -> &[u8] {
        let piece = self.0.get(id.index()).and_then(Option::as_deref);
        piece.unwrap_or_default()
    }

    /// The text of `ids`, or the first id that is none, with its position.
    pub fn decode<'a>(&self, ids: &'a [TokenId]) -> Result<String, (usize, &'a TokenId)> {
        let mut bytes = Vec::with_capacity(4 * ids.len());
        for (position, id) in ids.iter().enumerate() {
            match self.0.get(id.index()) {
                Some(Some(piece)) => bytes.extend_from_slice(piece),
                _ => return Err((position, id)),
            }
        }
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    use super::*;

    #[test]
    fn bytes_and_characters_are_the_librarys() {
        let bytes: BTreeSet<u8> = ByteLevel::alphabet().into_iter().filter_map(byte).collect();
        assert_eq!(bytes.len(), 256);
        let split = |text: &str| {
            let mut split = PreTokenizedString::from(text);
            ByteLevel::new(false, true, false)
                .pre_tokenize(&mut split)
                .unwrap();
            let splits = split.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            splits.iter().map(|(text, _, _)| *text).collect::<String>()
        };
        // These hold every byte that UTF-8 has.
        for text in (0..=0x10ffff)
            .step_by(61)
            .chain(0..0x800)
            .filter_map(char::from_u32)
        {
            let text = String::from(text);
            let found: Option<Vec<u8>> = split(&text).chars().map(byte).collect();
            assert_eq!(found, Some(text.into_bytes()));
        }
        for other in [' ', '\n', '\u{ad}', '\u{144}', '€', '⏸'] {
            assert_eq!(byte(other), None);
        }
    }
}
