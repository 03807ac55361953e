//! Rows as a person reads them: what is prefix, pause, scored, or read only.

use serde::Serialize;

use crate::dataset::{self, At, Dataset};
use crate::manifest::Split;
use crate::pause;
use crate::sequence::Sequence;
use crate::token::TokenId;
use crate::tokenize::{self, Tokenizer};

/// A stretch of a row whose ids are all of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// What the ids are.
    pub kind: Kind,
    /// How many ids.
    pub ids: usize,
    /// Their text; characters cut by the border of a piece are shown as U+FFFD.
    pub text: String,
}

/// What ids of a row are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Read, never scored.
    Prefix,
    /// A pause.
    Pause,
    /// A target of the loss.
    Scored,
    /// The first id of a pretraining row, which nothing predicts.
    Unscored,
    /// The end of a document, scored.
    End,
}

/// Why a row could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The ids cannot be decoded.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// There is no such row.
    #[error("row {row} does not exist: the {split} split holds {rows} rows, counted from 0")]
    NoRow {
        /// The row asked for.
        row: u64,
        /// Where.
        split: Split,
        /// How many there are.
        rows: u64,
    },
}

/// A row, cut into pieces.
pub fn row(dataset: &Dataset, tokenizer: &Tokenizer, at: At) -> Result<Vec<Piece>, Error> {
    let rows = dataset.rows(at.split);
    if rows <= at.index {
        return Err(Error::NoRow {
            row: at.index,
            split: at.split,
            rows,
        });
    }
    pieces(&dataset.row_at(at)?, tokenizer)
}

/// Cuts a row into pieces of one kind.
pub fn pieces(row: &Sequence, tokenizer: &Tokenizer) -> Result<Vec<Piece>, Error> {
    let kinds = kinds(row, tokenizer);
    let mut pieces = Vec::new();
    let mut start = 0;
    for run in kinds.chunk_by(|a, b| a == b) {
        let ids = row.ids.get(start..start + run.len()).unwrap_or_default();
        start += run.len();
        if let Some(kind) = run.first() {
            pieces.push(Piece {
                kind: *kind,
                ids: ids.len(),
                text: tokenizer.decode(ids)?,
            });
        }
    }
    Ok(pieces)
}

/// What each id of a row is.
pub fn kinds(row: &Sequence, tokenizer: &Tokenizer) -> Vec<Kind> {
    let reserved = tokenizer.reserved();
    let weights = pause::target::weights(row, reserved);
    let prefix = row.prefix.map_or(0, |prefix| prefix as usize);
    let kind = |(position, id): (usize, &TokenId)| {
        let scored = position
            .checked_sub(1)
            .and_then(|before| weights.get(before));
        match scored {
            _ if row.is_pause(position, reserved.into()) => Kind::Pause,
            _ if position < prefix => Kind::Prefix,
            Some(weight) if 0.0 < *weight && *id == reserved.end => Kind::End,
            Some(weight) if 0.0 < *weight => Kind::Scored,
            _ => Kind::Unscored,
        }
    };
    row.ids.iter().enumerate().map(kind).collect()
}
