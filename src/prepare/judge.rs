//! What becomes of a document: curation, ids, and whether they fit; on any thread.

use super::Error;
use super::encode::{self, Encoded};
use crate::corpus::Corpus;
use crate::curate::{self, Curator, Hit, Reason};
use crate::document::{Document, DocumentId, Text};
use crate::pause::Insertion;
use crate::recipe;
use crate::sequence::Sequence;
use crate::tokenize::Tokenizer;

/// Why an example that does not fit into a row is dropped.
pub const TOO_LONG: &str = "too-long";

/// What documents are judged with.
#[derive(Clone, Copy)]
pub struct Judge<'a> {
    /// Which texts are kept.
    pub curator: &'a Curator,
    /// Makes ids of them.
    pub tokenizer: &'a Tokenizer,
    /// What the recipe says about them.
    pub stage: &'a recipe::Stage,
    /// All files.
    pub corpus: &'a Corpus,
    /// What the rows of each dataset must have room for.
    pub insertions: &'a [&'a Insertion],
}

/// A document that was judged.
pub struct Judged {
    /// Where it came from.
    pub id: DocumentId,
    /// Bytes of its text in the source.
    pub bytes: u64,
    /// Pieces of evaluation sets in it.
    pub hits: Vec<Hit>,
    fate: Fate,
}

/// What becomes of a document, in all datasets.
enum Fate {
    /// It was curated out.
    Dropped { reason: Reason, text: Text },
    /// It was encoded.
    Encoded(Encoded),
    /// It was encoded, and some datasets have no place for it: why, by dataset.
    Unfit {
        encoded: Encoded,
        text: Text,
        why: Vec<Option<&'static str>>,
    },
}

/// What becomes of a document in one dataset.
pub enum Verdict<'a> {
    /// It goes into rows.
    Keep(&'a Encoded),
    /// It is left out.
    Drop {
        /// Why.
        reason: &'a str,
        /// Its text, normalised.
        text: &'a Text,
    },
}

impl Judged {
    /// What becomes of it in the dataset that stands at `place` among those that it
    /// was judged for.
    pub fn verdict(&self, place: usize) -> Verdict<'_> {
        match &self.fate {
            Fate::Dropped { reason, text } => Verdict::Drop { reason, text },
            Fate::Encoded(encoded) => Verdict::Keep(encoded),
            Fate::Unfit { encoded, text, why } => match why.get(place) {
                Some(Some(reason)) => Verdict::Drop { reason, text },
                _ => Verdict::Keep(encoded),
            },
        }
    }
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
                    row: self.corpus.row_in_file(id.file, id.row) + 1,
                    source,
                },
            })?;
        let fate = match curated.reason {
            Some(reason) => Fate::Dropped {
                reason,
                text: curated.document.text,
            },
            None => self.encode(curated.document)?,
        };
        Ok(Judged {
            id,
            bytes,
            hits: curated.hits,
            fate,
        })
    }

    fn encode(&self, document: Document) -> Result<Fate, Error> {
        let encoded = encode::encode(&document, self.tokenizer, self.stage, self.corpus)?;
        let unfit = |insertion: &&Insertion| unfit(&encoded.sequence, insertion);
        if self
            .insertions
            .iter()
            .all(|insertion| unfit(insertion).is_none())
        {
            return Ok(Fate::Encoded(encoded));
        }
        Ok(Fate::Unfit {
            why: self.insertions.iter().map(unfit).collect(),
            text: document.text,
            encoded,
        })
    }
}

/// Why a document cannot stand in the dataset. An example must fit with the most
/// pauses it could draw, so that its fate does not depend on the draw.
fn unfit(document: &Sequence, insertion: &Insertion) -> Option<&'static str> {
    let (_, target) = document.parts();
    if target.len() <= 1 {
        // The end is all there is.
        return Some("empty");
    }
    let is_long = || insertion.row_length() < insertion.longest(document);
    (document.prefix.is_some() && is_long()).then_some(TOO_LONG)
}
