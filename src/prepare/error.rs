//! Why a dataset could not be made.

use std::path::PathBuf;

use crate::manifest;
use crate::{corpus, curate, dataset, fs, pause, remote, shard, tokenize};

/// Why preparing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The sources are wrong.
    #[error(transparent)]
    Corpus(corpus::Error),
    /// The tokenizer could not be made or refused a text.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// A document could not be encoded.
    #[error("cannot encode document {row} of `{file}`")]
    Document {
        /// The source file.
        file: String,
        /// Its row, from 1.
        row: u64,
        /// What the tokenizer said.
        #[source]
        source: tokenize::Error,
    },
    /// What a source says about a document does not fit its text.
    #[error("document {row} of `{file}`: {problem}")]
    Notes {
        /// The source file.
        file: String,
        /// Its row, from 1.
        row: u64,
        /// What is wrong.
        problem: NotesProblem,
    },
    /// A document cannot be curated.
    #[error("cannot curate document {row} of `{file}`")]
    Curate {
        /// The source file.
        file: String,
        /// Its row, from 1.
        row: u64,
        /// Why.
        #[source]
        source: curate::Error,
    },
    /// The pause policy does not fit the rows.
    #[error(transparent)]
    Pause(#[from] pause::Error),
    /// A shard could not be written.
    #[error(transparent)]
    Shard(#[from] shard::Error),
    /// The manifest could not be read or sealed.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A dataset that should be complete is not.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The folder holds a dataset of another recipe.
    #[error(
        "`{}` holds a dataset of another recipe: `{key}` was {old} and is now {new}",
        folder.display()
    )]
    OtherRecipe {
        /// The dataset.
        folder: PathBuf,
        /// Where the recipes differ.
        key: String,
        /// The value it was prepared with.
        old: String,
        /// The value asked for.
        new: String,
    },
    /// The sources yield nothing to train on.
    #[error(
        "the sources of [{stage}] yield no rows: {read} documents read, {dropped} dropped ({reasons})"
    )]
    Empty {
        /// `pretrain` or `finetune`.
        stage: &'static str,
        /// Documents read.
        read: u64,
        /// Documents dropped.
        dropped: u64,
        /// Why, with counts.
        reasons: String,
    },
    /// A record of finished work cannot be read.
    #[error("`{}` is damaged: {reason}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Units are not done.
    #[error(
        "`{}` lacks {} of its {of} units: {}",
        folder.display(),
        units.len(),
        ranges(units)
    )]
    Missing {
        /// The dataset.
        folder: PathBuf,
        /// Which, from 0, rising.
        units: Vec<usize>,
        /// How many there are.
        of: usize,
    },
    /// A signal asked to stop.
    #[error("stopped before the dataset was complete")]
    Stopped,
}

impl From<corpus::Error> for Error {
    fn from(error: corpus::Error) -> Self {
        match error {
            corpus::Error::Remote(remote::Error::Stopped) => Self::Stopped,
            error => Self::Corpus(error),
        }
    }
}

/// What a source says about a document that does not fit its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotesProblem {
    /// Scores are counted by tokens.
    #[error("expected a score for each of the {tokens} tokens of the text, found {scores} scores")]
    Scores {
        /// How many there are.
        scores: usize,
        /// How many there should be.
        tokens: usize,
    },
    /// A position lies past the text.
    #[error(
        "expected positions of at most {characters}, the length of the text in characters, found {position}"
    )]
    Position {
        /// The position.
        position: u32,
        /// Characters of the text.
        characters: usize,
    },
    /// Positions cannot be found among the tokens.
    #[error(
        "positions need a tokenizer that gives back the text byte for byte, and this one does not"
    )]
    NotExact,
}

/// Rising numbers in short: `0, 3-7`.
fn ranges(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a + 1 == *b);
    let shown = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        run => run.iter().map(usize::to_string).collect(),
    });
    shown.collect::<Vec<_>>().join(", ")
}
