//! Documents to ids: one document at a time, on any thread.

use super::Error;
use crate::corpus::Corpus;
use crate::digest::checksum;
use crate::document::{Document, DocumentId, Text};
use crate::manifest::Split;
use crate::shard::DocumentRecord;
use crate::token::TokenId;
use crate::tokenize::{self, Tokenizer};

/// A document as ids.
pub struct Encoded {
    /// Where it came from, and what its text was.
    pub record: DocumentRecord,
    /// Which part of the dataset it belongs to.
    pub split: Split,
    /// Its ids.
    pub ids: Ids,
    /// A number for each id that a pause policy reads, the target's for an example,
    /// and one for the end; empty where none does.
    pub marks: Vec<f32>,
}

/// The ids of a document, without pauses and without the end-of-document id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Running text.
    Plain(Vec<TokenId>),
    /// A prefix and its target, encoded apart so that the border is exact.
    Example {
        /// What is read.
        prefix: Vec<TokenId>,
        /// What is scored.
        target: Vec<TokenId>,
    },
}

/// Encodes a document and decides its split.
pub fn encode(
    document: &Document,
    tokenizer: &Tokenizer,
    validation: f64,
    corpus: &Corpus,
) -> Result<Encoded, Error> {
    let ids = |text: &str| {
        let mut ids = Vec::with_capacity(text.len() / 3);
        tokenizer.encode(text, &mut ids).map(|()| ids)
    };
    let ids = match &document.text {
        Text::Plain(text) => ids(text).map(Ids::Plain),
        Text::Example { prefix, target } => {
            ids(prefix).and_then(|prefix| ids(target).map(|target| Ids::Example { prefix, target }))
        }
    };
    let ids = ids.map_err(|source| refused(document.id, corpus, source))?;
    let checksum = text_checksum(&document.text);
    let text_bytes = document.text.bytes() as u64;
    Ok(Encoded {
        record: DocumentRecord {
            id: document.id,
            text_bytes,
            checksum,
        },
        split: split(checksum, validation),
        ids,
        marks: Vec::new(),
    })
}

/// The checksum that stands for a document's text; examples join prefix and
/// target with a zero byte.
pub fn text_checksum(text: &Text) -> u64 {
    match text {
        Text::Plain(text) => checksum(text.as_bytes()),
        Text::Example { prefix, target } => checksum(format!("{prefix}\0{target}").as_bytes()),
    }
}

/// The split of a document: a function of its text, so equal documents never
/// stand on both sides.
pub fn split(checksum: u64, validation: f64) -> Split {
    let share = (checksum & u64::from(u32::MAX)) as f64 / 2f64.powi(32);
    if share < validation {
        Split::Validation
    } else {
        Split::Train
    }
}

fn refused(id: DocumentId, corpus: &Corpus, source: tokenize::Error) -> Error {
    Error::Document {
        file: file_name(id, corpus),
        row: id.row + 1,
        source,
    }
}

/// The name of a document's file.
pub fn file_name(id: DocumentId, corpus: &Corpus) -> String {
    let file = corpus.files.get(id.file as usize);
    file.map_or_else(String::new, |file| file.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_follows_the_text_and_the_share() {
        let texts: Vec<u64> = (0..20_000u32).map(|i| checksum(&i.to_le_bytes())).collect();
        assert!(texts.iter().all(|&sum| split(sum, 0.0) == Split::Train));
        assert!(
            texts
                .iter()
                .all(|&sum| split(sum, 1.0) == Split::Validation)
        );
        let held_out = texts
            .iter()
            .filter(|&&sum| split(sum, 0.1) == Split::Validation)
            .count();
        // Binomial with mean 2,000 and deviation 42.
        assert!((1_830..2_170).contains(&held_out), "{held_out}");
    }

    #[test]
    fn the_border_of_an_example_is_part_of_its_checksum() {
        let example = |prefix: &str, target: &str| {
            text_checksum(&Text::Example {
                prefix: prefix.into(),
                target: target.into(),
            })
        };
        assert_ne!(example("ab", "c"), example("a", "bc"));
    }
}
