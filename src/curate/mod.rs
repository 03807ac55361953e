//! Curation: what becomes of a document before it is encoded.
//!
//! ```text
//! normalize -> empty -> filter -> contaminated -> duplicate
//! ```
//! Each stage is off unless the recipe names it. The first that refuses a
//! document gives the reason, and the manifest counts reasons. All but the last
//! judge the text alone, so equal documents have equal fates until one of them
//! is a duplicate.

pub mod contamination;
pub mod dedup;
pub mod filter;
mod ngram;
pub mod normalize;
mod sort;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::corpus::{self, Reach};
use crate::document::{Document, Text};
use crate::fs;

pub use contamination::{Decontaminate, Evaluation, Hit, Pieces};
pub use dedup::{Dedup, Duplicates};
pub use filter::Filter;
pub use normalize::Normalize;

/// The keys of a stage that decide what its documents are, as a recipe or the
/// recipe in a manifest has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// What is done to a text before it is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// Limits that a text must keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// What is done about evaluation sets in the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontaminate: Option<Decontaminate>,
    /// Which documents are duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<Dedup>,
    /// Whether dropped documents are kept in a file.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rejects: bool,
}

impl Rules {
    /// The rules that judge a text by itself, with limits spelt out.
    pub fn of_texts(self) -> Self {
        Self {
            filter: self.filter.map(Filter::spelt_out),
            decontaminate: self.decontaminate.filter(|settings| settings.drop),
            dedup: None,
            rejects: false,
            ..self
        }
    }
}

/// For serde: whether a key that is off by default is left out.
pub fn is_false(value: &bool) -> bool {
    !value
}

/// Why a document could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The list of duplicates could not be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A text with numbers about its characters would change under them.
    #[error(
        "`normalize` changes the text, but the source has scores or positions of the text as it was"
    )]
    Shifted,
}

/// Judges documents.
#[derive(Default)]
pub struct Curator {
    normalize: Normalize,
    filter: Option<Filter>,
    contamination: Option<(Pieces, Contaminated)>,
    duplicates: Option<Duplicates>,
}

/// What becomes of documents that hold pieces of an evaluation set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contaminated {
    Kept,
    Dropped,
}

/// A document that was judged.
pub struct Judged {
    /// The document, normalised.
    pub document: Document,
    /// Pieces of evaluation sets in it, the first of each set.
    pub hits: Vec<Hit>,
    /// Why it is dropped; none where it is kept.
    pub reason: Option<Reason>,
}

/// Why a document is dropped, as the manifest calls it.
pub type Reason = Cow<'static, str>;

impl Curator {
    /// Reads what the rules need.
    /// Duplicates are found by a pass of their own: [`Curator::with_duplicates`].
    pub fn new(rules: &Rules, reach: impl Into<Reach>) -> Result<Self, corpus::Error> {
        let reach = reach.into();
        let contamination = rules.decontaminate.as_ref();
        let contamination = contamination.map(|settings| {
            let fate = match settings.drop {
                true => Contaminated::Dropped,
                false => Contaminated::Kept,
            };
            Pieces::read(settings, &reach).map(|pieces| (pieces, fate))
        });
        Ok(Self {
            normalize: rules.normalize.unwrap_or_default(),
            filter: rules.filter.clone().map(Filter::spelt_out),
            contamination: contamination.transpose()?,
            duplicates: None,
        })
    }

    /// Drops these documents, too.
    pub fn with_duplicates(self, duplicates: Duplicates) -> Self {
        Self {
            duplicates: Some(duplicates),
            ..self
        }
    }

    /// Whether it may drop a document that holds text, or reports of any.
    pub fn drops(&self) -> bool {
        self.filter.is_some() || self.contamination.is_some() || self.duplicates.is_some()
    }

    /// The pieces of evaluation sets that are looked for.
    pub fn pieces(&self) -> Option<&Pieces> {
        self.contamination.as_ref().map(|(pieces, _)| pieces)
    }

    /// Normalises a document and decides whether it is kept.
    ///
    /// Depends on the document and the rules alone, and for duplicates on the corpus.
    pub fn judge(&self, document: Document) -> Result<Judged, Error> {
        let document = self.normalized(document)?;
        let mut judged = Judged {
            document,
            hits: Vec::new(),
            reason: None,
        };
        judged.reason = self.reason(&judged.document.text, &mut judged.hits);
        if judged.reason.is_none()
            && let Some(duplicates) = &self.duplicates
            && duplicates.contains(judged.document.id)?
        {
            judged.reason = Some("duplicate".into());
        }
        Ok(judged)
    }

    /// Why a text is dropped, whatever else the corpus holds.
    fn reason(&self, text: &Text, hits: &mut Vec<Hit>) -> Option<Reason> {
        if is_empty(text) {
            return Some("empty".into());
        }
        let filter = self.filter.as_ref();
        if let Some(rule) = filter.and_then(|filter| filter::judge(filter, &whole(text))) {
            return Some(rule.into());
        }
        let (pieces, fate) = self.contamination.as_ref()?;
        *hits = pieces.find(text);
        let (name, ..) = pieces.sets().get(hits.first()?.set)?;
        match fate {
            Contaminated::Kept => None,
            Contaminated::Dropped => Some(format!("contaminated:{name}").into()),
        }
    }

    fn normalized(&self, document: Document) -> Result<Document, Error> {
        if self.normalize.does_nothing() {
            return Ok(document);
        }
        let notes = &document.notes;
        let before = (!notes.scores.is_empty() || !notes.positions.is_empty())
            .then(|| document.text.clone());
        let text = self.normalize.apply(document.text);
        match before {
            Some(before) if before != text => Err(Error::Shifted),
            _ => Ok(Document { text, ..document }),
        }
    }
}

/// Running text without text, or an example without a target: nothing to learn.
fn is_empty(text: &Text) -> bool {
    match text {
        Text::Plain(text) => text.is_empty(),
        Text::Example { target, .. } => target.is_empty(),
    }
}

fn whole(text: &Text) -> Cow<'_, str> {
    match text {
        Text::Plain(text) => text.into(),
        Text::Example { prefix, target } => format!("{prefix}{target}").into(),
    }
}
