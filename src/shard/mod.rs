//! Shards: rows of a dataset on disk.
//!
//! [`layout`] and [`index`] know the bytes and do no IO; [`writer`] writes
//! files, [`file`] maps and checks them; [`parquet`] knows those that other programs
//! read by columns, [`aux`] those that hold what ids do not tell.
//! `schemas/shard-v2.md` and `schemas/parquet-v1.md` have the tables.

pub mod aux;
mod blocks;
mod bytes;
pub mod columns;
pub mod file;
pub mod index;
pub mod layout;
mod outline;
pub mod parquet;
mod touched;
mod writer;

use std::path::PathBuf;

pub use bytes::Reading;
pub use file::Shard;
pub use index::DocumentRecord;
pub use outline::Outline;
pub use touched::Ahead;
pub use writer::{ShardSpec, ShardWriter, append_ids};

use crate::fs;

/// Why a shard could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The file is not what was written, or not the one that the manifest means.
    #[error("`{}` is damaged or another file: {field}: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which field, section or block of it.
        field: String,
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A Parquet file could not be written, or not be decoded.
    #[error("cannot {action} `{}` as Parquet", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb.
        action: &'static str,
        /// What the Parquet library said.
        #[source]
        source: ::parquet::errors::ParquetError,
    },
    /// A row was asked for that the shard lacks.
    #[error("`{}` has {rows} rows, so none with index {row}", path.display())]
    NoRow {
        /// The file.
        path: PathBuf,
        /// The index asked for.
        row: u64,
        /// How many rows there are.
        rows: u64,
    },
    /// A row must not be written.
    #[error("cannot write row {row} of shard `{shard}`: {fault}")]
    Row {
        /// The shard's name.
        shard: String,
        /// Index of the row in the shard.
        row: u64,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// A shard must not be written as asked.
    #[error("cannot write shard `{shard}`: {field}: expected {expected}, found {found}")]
    Spec {
        /// The shard's name.
        shard: String,
        /// Which part of its description.
        field: String,
        /// What is possible.
        expected: String,
        /// What was asked for.
        found: String,
    },
}

/// Why a row must not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowFault {
    /// An id is outside the vocabulary.
    #[error("id {id} at position {position} is outside the vocabulary of {vocab_size} ids")]
    Id {
        /// The id.
        id: u32,
        /// Where in the row.
        position: usize,
        /// How many ids there are.
        vocab_size: u32,
    },
    /// The row is longer than the dataset's rows may be.
    #[error("it has {length} ids, and rows have {row_length} at most")]
    Long {
        /// Ids of the row.
        length: usize,
        /// The most there may be.
        row_length: usize,
    },
    /// The shard would hold 2^31 ids or more.
    #[error("the shard would hold {ids} ids, and shards hold fewer than 2^31")]
    Full {
        /// How many it would hold.
        ids: u64,
    },
    /// A pretraining row has a prefix.
    #[error("it has a prefix, and this is a pretraining shard")]
    UnexpectedPrefix,
    /// A finetuning row has no prefix.
    #[error("it has no prefix boundary, and this is a finetuning shard")]
    MissingPrefix,
    /// What it says beside its ids is not what the shard holds.
    #[error("it does not have the targets, weights or marks of pauses that this shard holds")]
    Stored,
    /// The prefix is longer than the row.
    #[error("its prefix of {prefix} ids is longer than its {length} ids")]
    LongPrefix {
        /// Ids of the prefix.
        prefix: u32,
        /// Ids of the row.
        length: usize,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::File(error) if error.is_missing() => Some(
                "a shard of the dataset is missing: bring it back, or remove the dataset's folder and run `pausedata prepare` again",
            ),
            Self::Damaged { .. } | Self::Parquet { action: "read", .. } => Some(
                "bring the file back from a copy, or remove the dataset's folder and run `pausedata prepare` again; `pausedata verify` checks every file",
            ),
            Self::Row {
                fault: RowFault::Full { .. },
                ..
            } => Some("lower `pack.shard_tokens` in the recipe"),
            _ => None,
        }
    }
}
