//! Byte-level vocabularies: each byte is written as one printable character.

use tokenizers::Tokenizer as Engine;

use crate::token::TokenId;

/// The character that stands for `byte` in a byte-level vocabulary.
///
/// Printable bytes of Latin-1 stand for themselves; the others follow from
/// U+0100 on, in order (the convention of GPT-2).
pub fn character(byte: u8) -> char {
    match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => {
            let before = match byte {
                0..=0x20 => u32::from(byte),
                0x7f..=0xa0 => 33 + u32::from(byte) - 0x7f,
                _ => 67,
            };
            char::from_u32(0x100 + before).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    }
}

/// The byte that `character` stands for.
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
    pub fn new(engine: &Engine, vocab_size: u32) -> Self {
        let added = engine.get_added_tokens_decoder();
        let bytes_of = |id: u32| {
            let token = engine.id_to_token(id)?;
            let verbatim = added.get(&id).is_some_and(|added| added.content == token);
            let mapped = match verbatim {
                true => None,
                false => token.chars().map(byte).collect::<Option<Vec<u8>>>(),
            };
            Some(mapped.unwrap_or_else(|| token.into_bytes()).into())
        };
        Self((0..vocab_size).map(bytes_of).collect())
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

    use super::*;

    #[test]
    fn bytes_and_characters_are_the_librarys() {
        let ours: BTreeSet<char> = (0..=255).map(character).collect();
        let library: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
        assert_eq!(ours, library);
        for value in 0..=255 {
            assert_eq!(byte(character(value)), Some(value));
        }
        for other in [' ', '\n', '\u{ad}', '\u{144}', '€', '⏸'] {
            assert_eq!(byte(other), None);
        }
    }
}
