//! Documents: the text a corpus yields, and where it came from.

use serde::{Deserialize, Serialize};

/// Where a document stands: documents are ordered by (source, file, row), so
/// their order never depends on threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentId {
    /// Index into the corpus's files, which are ordered by (source, path).
    pub file: u32,
    /// Row in that file: line, paragraph, record or generated item, from 0.
    pub row: u64,
}

/// What a document says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// Running text, for pretraining.
    Plain(String),
    /// A prefix and the target to be learnt after it, for finetuning.
    Example {
        /// What the model reads.
        prefix: String,
        /// What the model must say.
        target: String,
    },
}

impl Text {
    /// Length in UTF-8 bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Example { prefix, target } => prefix.len() + target.len(),
        }
    }
}

/// What a source says about a document beside its text; policies read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// A number for each token of the text, from the source's `scores` column; empty without one.
    pub scores: Vec<f32>,
    /// Character offsets into the text, rising, from its `positions` column; empty without one.
    pub positions: Vec<u32>,
    /// What the pauses are trained to say, from its `hint` template; none without one.
    pub hint: Option<String>,
}

/// One document of a corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it came from.
    pub id: DocumentId,
    /// What it says.
    pub text: Text,
    /// What the source says about it.
    pub notes: Notes,
}
