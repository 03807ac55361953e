//! What becomes of a document: curation, ids, and whether they fit; on any thread.

use std::borrow::Cow;

use super::encode::{self, Encoded, Ids};
use super::{Error, rows};
use crate::corpus::Corpus;
use crate::curate::{self, Curator, Hit, Reason};
use crate::document::{Document, DocumentId, Text};
use crate::pause::Insertion;
use crate::token::TokenId;
use crate::tokenize::Tokenizer;

/// What documents are judged with.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Which texts are kept.
    pub curator: &'a Curator,
    /// Makes ids of them.
    pub tokenizer: &'a Tokenizer,
    /// The share of documents held out.
    pub validation: f64,
    /// All files.
    pub corpus: &'a Corpus,
    /// What rows must have room for.
    pub insertion: &'a Insertion,
}

/// A document that was judged.
pub struct Judged {
    /// Where it came from.
    pub id: DocumentId,
    /// Bytes of its text in the source.
    pub bytes: u64,
    /// Pieces of evaluation sets in it.
    pub hits: Vec<Hit>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of a document.
pub enum Verdict {
    /// It goes into rows.
    Keep(Encoded),
    /// It is left out.
    Drop {
        /// Why.
        reason: Reason,
        /// Its text, normalised.
        text: Text,
    },
}

impl Judge<'_> {
    /// Judges a document: normalize, empty, filter, contaminated, duplicate, too-long.
    pub fn judge(&self, document: Document) -> Result<Judged, Error> {
        let bytes = document.text.bytes() as u64;
        let id = document.id;
        let curated = self
            .curator
            .judge(document)
            .map_err(|source| match source {
                curate::Error::File(error) => Error::File(error),
                source @ curate::Error::Shifted => Error::Curate {
                    file: encode::file_name(id, self.corpus),
                    row: id.row + 1,
                    source,
                },
            })?;
        let verdict = match curated.reason {
            Some(reason) => Verdict::Drop {
                reason,
                text: curated.document.text,
            },
            None => self.encode(curated.document)?,
        };
        Ok(Judged {
            id,
            bytes,
            hits: curated.hits,
            verdict,
        })
    }

    fn encode(&self, document: Document) -> Result<Verdict, Error> {
        let encoded = encode::encode(&document, self.tokenizer, self.validation, self.corpus)?;
        Ok(
            match unfit(&encoded, self.insertion, self.tokenizer.reserved().end) {
                None => Verdict::Keep(encoded),
                Some(reason) => Verdict::Drop {
                    reason: Cow::Borrowed(reason),
                    text: document.text,
                },
            },
        )
    }
}

/// Why a document cannot stand in the dataset. An example must fit with the most
/// pauses it could draw, so that its fate does not depend on the draw.
fn unfit(encoded: &Encoded, insertion: &Insertion, end: TokenId) -> Option<&'static str> {
    match &encoded.ids {
        Ids::Plain(ids) => ids.is_empty().then_some("empty"),
        Ids::Example { target, .. } if target.is_empty() => Some("empty"),
        Ids::Example { prefix, target } => {
            let row = rows::example(prefix, target, &encoded.marks, end);
            (insertion.row_length() < insertion.longest(&row)).then_some("too-long")
        }
    }
}
