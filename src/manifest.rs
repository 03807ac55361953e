//! The manifest: what a dataset is, written last; without it a folder is no dataset.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::pause;
use crate::token::{IdWidth, Reserved};

/// The version of the dataset format that this program writes.
pub const FORMAT: u32 = 1;

/// Everything that describes a dataset. Holds no time and no machine: equal
/// inputs and recipes give equal bytes, and their digest names the dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format version: [`FORMAT`].
    pub format: u32,
    /// What the rows are for.
    pub stage: Stage,
    /// The experiment's seed.
    pub seed: u64,
    /// The part of the resolved recipe that decides the data.
    pub recipe: serde_json::Value,
    /// The tokenizer beside the manifest.
    pub tokenizer: TokenizerRecord,
    /// Bytes of one id on disk.
    pub id_width: IdWidth,
    /// Longest row in ids, pauses included.
    pub row_length: usize,
    /// Where pauses went.
    pub pause: pause::Policy,
    /// The input files, in order; [`crate::document::DocumentId::file`] indexes them.
    pub corpus: Vec<FileRecord>,
    /// Shards and counts of each split.
    pub splits: BTreeMap<Split, SplitRecord>,
    /// Documents read, and those dropped, by reason: read = kept + dropped.
    pub ledger: Ledger,
}

/// What the rows of a dataset are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Packed running text; everything but pauses is scored.
    Pretrain,
    /// One example a row; the target alone is scored.
    Finetune,
}

/// A part of a dataset; a document is in exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Trained on.
    Train,
    /// Held out for the validation loss.
    Validation,
}

/// The tokenizer of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerRecord {
    /// BLAKE3 of `tokenizer.json`.
    pub digest: Digest,
    /// Ids, reserved ones included.
    pub vocab_size: u32,
    /// The reserved ids.
    pub reserved: Reserved,
}

/// One input file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// The path as the recipe reaches it from the data root, or `synthetic:<corpus>`.
    pub name: String,
    /// Index into the recipe's sources.
    pub source: usize,
    /// Size in bytes; 0 for generated text.
    pub bytes: u64,
    /// Documents read from it.
    pub documents: u64,
}

/// The shards of one split, in order, and what they hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitRecord {
    /// The shards in the order of their rows.
    pub shards: Vec<ShardRecord>,
    /// Sums over the shards.
    pub totals: Totals,
}

/// One shard: `shards/<name>.bin` and `shards/<name>.idx`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// File name without its ending.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Ids.
    pub ids: u64,
    /// Documents whose first id lies here.
    pub documents: u64,
    /// BLAKE3 of the `.bin` file.
    pub bin: Digest,
    /// BLAKE3 of the `.idx` file.
    pub idx: Digest,
}

/// What rows hold, counted while they are written and counted again by `verify`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Documents.
    pub documents: u64,
    /// Their text in UTF-8 bytes.
    pub text_bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Ids that are text or end-of-document.
    pub real: u64,
    /// Pauses.
    pub pauses: u64,
    /// Targets that count in the loss.
    pub scored: u64,
    /// Real ids that pauses pushed out (`overflow = "drop"`).
    pub overflowed: u64,
    /// `pause_runs[n - 1]`: how many runs of exactly `n` pauses there are.
    pub pause_runs: Vec<u64>,
}

/// What happened to every document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// Documents read.
    pub read: u64,
    /// Documents in the shards.
    pub kept: u64,
    /// Documents left out, by reason.
    pub dropped: BTreeMap<String, u64>,
}
