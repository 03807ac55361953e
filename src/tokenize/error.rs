//! What can be wrong with a tokenizer or a text.

use std::path::PathBuf;

use super::{BoxError, VOCABULARY_MAX};
use crate::{fs, pause};

/// Why there is no tokenizer, or no ids.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// Something is wrong with that file.
    #[error("cannot use tokenizer `{}`", path.display())]
    In {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<Error>,
    },
    /// The file is not JSON.
    #[error("expected the JSON of a Hugging Face tokenizer")]
    Json(#[source] serde_json::Error),
    /// The library cannot load or apply it.
    #[error("the `tokenizers` library refuses it")]
    Library(#[source] BoxError),
    /// A field has a value that would make ids random or wrong.
    #[error("field `{field}`: expected {expected}, found {found}")]
    Field {
        /// Which field of the JSON.
        field: &'static str,
        /// What is needed.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The vocabulary has an id that is too large.
    #[error("expected ids below {VOCABULARY_MAX}, found {found}")]
    TooLarge {
        /// The largest id.
        found: u64,
    },
    /// A pause policy cannot be carried out with this vocabulary.
    #[error(transparent)]
    Pause(#[from] pause::Error),
    /// A reserved token has no name.
    #[error("the name of the {role} token is empty")]
    NoName {
        /// `pause`, `end` or `pad`.
        role: &'static str,
    },
    /// Two reserved tokens are one.
    #[error("the {first} token and the {second} token are the same: `{token}`")]
    SameToken {
        /// One role.
        first: &'static str,
        /// The other.
        second: &'static str,
        /// The token.
        token: String,
    },
    /// Ordinary text yields the token that is to be reserved.
    #[error(
        "the {role} token `{token}` is an ordinary token with id {id}, which text yields; \
         choose a name that is no word of the vocabulary"
    )]
    OrdinaryToken {
        /// `pause`, `end` or `pad`.
        role: &'static str,
        /// Its name.
        token: String,
        /// Its id.
        id: u32,
    },
    /// A reserved id is not one special token of its own.
    #[error("the {role} id {id} is not a special token of its own: {found}")]
    NotReserved {
        /// `pause`, `end` or `pad`.
        role: &'static str,
        /// The id.
        id: u32,
        /// What it is.
        found: String,
    },
    /// Text yielded an id that it must not yield.
    #[error("text yields the special token `{token}` (id {id}) at token {position}")]
    SpecialInText {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// How many tokens stand before it.
        position: usize,
    },
    /// The fast path and the library disagree.
    #[error(
        "token {position} is {} by the fast path and {} by the `tokenizers` library",
        id_or_none(*found), id_or_none(*expected)
    )]
    Differs {
        /// The first token that differs, from 0.
        position: usize,
        /// Its id by the fast path; none behind the last.
        found: Option<u32>,
        /// Its id by the library; none behind the last.
        expected: Option<u32>,
    },
    /// What documents should begin with cannot be had.
    #[error("`begin` names `{token}`, which {problem}")]
    Begin {
        /// The token.
        token: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An id that the vocabulary lacks.
    #[error("id {id} at position {position} is not in the vocabulary of {vocab_size} ids")]
    UnknownId {
        /// The id.
        id: u32,
        /// Where it stands.
        position: usize,
        /// How many ids there are.
        vocab_size: u32,
    },
    /// Training was asked for without saying how.
    #[error("the recipe does not say how to train a tokenizer")]
    NoTraining,
    /// The vocabulary to train has no sensible size.
    #[error(
        "expected a vocabulary of {min} to {VOCABULARY_MAX} tokens, found vocab_size = {found}"
    )]
    VocabularySize {
        /// The least.
        min: u32,
        /// What was asked for.
        found: u32,
    },
    /// The library cannot count so much text.
    #[error("expected sample_bytes of at most {max}, found {found}")]
    SampleSize {
        /// The most.
        max: u64,
        /// What was asked for.
        found: u64,
    },
    /// There was no text to train on.
    #[error("there is no text to train a tokenizer on")]
    NoText,
    /// The text to train on could not be read.
    #[error("cannot read the text to train a tokenizer on")]
    Text(#[source] BoxError),
}

fn id_or_none(id: Option<u32>) -> String {
    id.map_or("missing".into(), |id| id.to_string())
}
