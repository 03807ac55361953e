//! The manifest: what a dataset is, written last; without it a folder is no dataset.

mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::path::Path;

pub use error::Error;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus::Span;
use crate::curate::contamination::EvaluationFile;
use crate::digest::Digest;
use crate::fs;
use crate::pause;
use crate::rng::{Key, Stream};
use crate::seal::{self, Broken};
use crate::token::{IdWidth, Reserved, TokenId};

/// The version of the dataset format that this program writes.
pub const FORMAT: u32 = 1;

/// The manifest's name in the dataset's folder.
pub const FILE: &str = "manifest.json";

/// The folder of shards in the dataset's folder.
pub const SHARDS: &str = "shards";

/// The folder of dropped documents in the dataset's folder, where the recipe keeps them.
pub const REJECTS: &str = "rejects";

/// The tokenizer's name in the dataset's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

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
    /// What the files of shards are.
    #[serde(default, skip_serializing_if = "ShardFormat::is_binary")]
    pub shard_format: ShardFormat,
    /// Longest row in ids, pauses included.
    pub row_length: usize,
    /// Where pauses went, or where they go when a row is read.
    pub pause: pause::Config,
    /// The input files, in order; [`crate::document::DocumentId::file`] indexes them.
    pub corpus: Vec<FileRecord>,
    /// Shards and counts of each split.
    pub splits: BTreeMap<Split, SplitRecord>,
    /// Documents read, and those dropped, by reason: read = kept + dropped.
    pub ledger: Ledger,
    /// Evaluation sets that were looked for in the documents, in the recipe's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contamination: Vec<ContaminationRecord>,
    /// Files of dropped documents, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<RejectsRecord>,
}

/// What the files of shards are. Both hold the same rows, and one can be made from the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ShardFormat {
    /// `.bin` and `.idx`, which llm.c and Megatron read.
    #[default]
    Binary,
    /// `.parquet` and `.idx`: four bytes an id, with labels, loss mask and document numbers
    /// beside them, for pyarrow, polars and Hugging Face `datasets`.
    Parquet,
}

impl ShardFormat {
    /// Whether it is the format that no recipe needs to name.
    pub fn is_binary(&self) -> bool {
        *self == Self::Binary
    }

    /// The ending of the file that holds the ids.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Binary => "bin",
            Self::Parquet => "parquet",
        }
    }
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

/// What draws the pauses of a unit's rows in an epoch: `.item(row)` is the key of one of
/// them, counted in the split of the unit.
pub fn row_key(seed: u64, epoch: u64, split: Split, unit: u64) -> Key {
    Key::new(seed)
        .stream(Stream::Pause)
        .epoch(epoch)
        .item(split as u64)
        .item(unit)
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
    /// The id that every document begins with, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<TokenId>,
}

/// One input file, or a part of a large one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// The path as the recipe reaches it from the data root, `synthetic:<corpus>`, or a URL.
    pub name: String,
    /// Index into the recipe's sources.
    pub source: usize,
    /// Size in bytes; 0 for generated text.
    pub bytes: u64,
    /// Which part of the file this is; none where it is all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
    /// What told this version of an object from others when it was fetched, such as its
    /// ETag; none of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
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

/// One shard: `shards/<name>.bin` or `.parquet`, and `shards/<name>.idx`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardRecord {
    /// File name without its ending.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Ids.
    pub ids: u64,
    /// Document records in its index.
    pub documents: u64,
    /// BLAKE3 of the `.bin` file; of binary shards alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin: Option<Digest>,
    /// BLAKE3 of the `.parquet` file; of Parquet shards alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parquet: Option<Digest>,
    /// BLAKE3 of the `.idx` file.
    pub idx: Digest,
    /// BLAKE3 of the `.aux` file, where rows say more than their ids tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aux: Option<Digest>,
}

impl ShardRecord {
    /// The shard's files in the folder of shards, with their BLAKE3.
    pub fn files(&self) -> impl Iterator<Item = (String, Digest)> {
        let ids = [("bin", self.bin), ("parquet", self.parquet)];
        let ids = ids
            .into_iter()
            .filter_map(|(end, digest)| Some((end, digest?)));
        let aux = self.aux.map(|digest| ("aux", digest));
        ids.chain([("idx", self.idx)])
            .chain(aux)
            .map(|(end, digest)| (format!("{}.{end}", self.name), digest))
    }

    /// BLAKE3 of the file that holds the ids, where it has this format.
    pub fn ids_file(&self, format: ShardFormat) -> Option<Digest> {
        match format {
            ShardFormat::Binary => self.bin.filter(|_| self.parquet.is_none()),
            ShardFormat::Parquet => self.parquet.filter(|_| self.bin.is_none()),
        }
    }
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
    /// Positions that rows are shorter than they may be (packing by `best-fit` or `document`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub padded: u64,
    /// Documents longer than a row's room, which stand in several or not whole (as `padded`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub cut: u64,
    /// Ids of them that were dropped, ends included (`overlong = "drop"`).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trimmed: u64,
    /// `pause_runs[n - 1]`: how many runs of exactly `n` pauses there are.
    pub pause_runs: Vec<u64>,
    /// What each policy of a mixture got, in their order; empty for other policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// How many pauses are which id, where they are not all the shared one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pause_ids: BTreeMap<u32, u64>,
}

/// What one policy of a mixture got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Rows.
    pub rows: u64,
    /// Pauses in them.
    pub pauses: u64,
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
    /// Copies in the shards beside the first of each document kept (a `weight` above 1).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub copies: u64,
    /// The mixture that came out, by index into the recipe's sources, where any has a `weight`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<usize, Share>,
}

/// The reason of documents that their source's weight passes over.
pub const NOT_TAKEN: &str = "weight";

/// What one source gave to the shards, copies counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Documents.
    pub documents: u64,
    /// Their ids with their ends, before any row is cut.
    pub ids: u64,
}

impl AddAssign<&Share> for Share {
    fn add_assign(&mut self, other: &Self) {
        self.documents += other.documents;
        self.ids += other.ids;
    }
}

/// For `skip_serializing_if`: counts that older manifests do not have stay away where they are 0.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What the documents hold of one evaluation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContaminationRecord {
    /// The set.
    pub name: String,
    /// Its files.
    pub files: Vec<EvaluationFile>,
    /// Documents that hold pieces of it, whether dropped or not.
    pub documents: u64,
    /// The first of them, at most [`SHOWN_MAX`].
    pub shown: Vec<Overlap>,
}

/// How many overlaps of a set the manifest shows.
pub const SHOWN_MAX: usize = 3;

/// A piece of an evaluation set in a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// Index into the corpus.
    pub file: u32,
    /// Row in that file, from 0.
    pub row: u64,
    /// The words that they share.
    pub words: String,
}

/// A file of dropped documents: `rejects/<name>.jsonl.zst`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectsRecord {
    /// File name without its endings.
    pub name: String,
    /// Documents in it.
    pub documents: u64,
    /// BLAKE3 of the file.
    pub digest: Digest,
}

impl Manifest {
    /// The share of documents that the recipe holds out.
    pub fn validation(&self) -> f64 {
        let share = self.recipe.get("validation");
        share.and_then(serde_json::Value::as_f64).unwrap_or(0.0)
    }

    /// Reads and checks the manifest of the dataset in `folder`; the digest names the dataset.
    pub fn open(folder: &Path) -> Result<(Self, Digest), Error> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.is_missing() || error.is_in_no_folder() => {
                let folder = folder.to_path_buf();
                return Err(Error::NotSealed { folder });
            }
            other => other?,
        };
        let no_seal = || Error::NoSeal { path: path.clone() };
        let text = std::str::from_utf8(&bytes).map_err(|_| no_seal())?;
        check_version(text, &path)?;
        let json = match seal::open(&bytes) {
            Ok(json) => json,
            Err(Broken::NoSeal) => return Err(no_seal()),
            Err(Broken::Changed { expected, found }) => {
                return Err(Error::Edited {
                    path,
                    expected,
                    found,
                });
            }
        };
        match serde_json::from_str(&json) {
            Ok(manifest) => Ok((manifest, Digest::of(&bytes))),
            Err(source) => Err(Error::Json { path, source }),
        }
    }

    /// Writes the manifest, which makes the folder a dataset; returns the dataset's digest.
    ///
    /// Equal manifests give equal bytes. What killed runs left is removed first.
    pub fn seal(&self, folder: &Path) -> Result<Digest, Error> {
        self.ledger.check()?;
        let path = folder.join(FILE);
        let text = seal::seal(self).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        fs::remove_temporaries(folder)?;
        fs::remove_temporaries(&folder.join(SHARDS))?;
        fs::remove_temporaries(&folder.join(REJECTS))?;
        fs::write(&path, text.as_bytes())?;
        Ok(Digest::of(text.as_bytes()))
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
        })
    }
}

impl AddAssign<&Totals> for Totals {
    fn add_assign(&mut self, other: &Self) {
        self.documents += other.documents;
        self.text_bytes += other.text_bytes;
        self.rows += other.rows;
        self.real += other.real;
        self.pauses += other.pauses;
        self.scored += other.scored;
        self.overflowed += other.overflowed;
        self.padded += other.padded;
        self.cut += other.cut;
        self.trimmed += other.trimmed;
        let length = self.pause_runs.len().max(other.pause_runs.len());
        self.pause_runs.resize(length, 0);
        for (sum, more) in self.pause_runs.iter_mut().zip(&other.pause_runs) {
            *sum += more;
        }
        for (id, count) in &other.pause_ids {
            *self.pause_ids.entry(*id).or_default() += count;
        }
        let parts = self.parts.len().max(other.parts.len());
        self.parts.resize(parts, Part::default());
        for (sum, more) in self.parts.iter_mut().zip(&other.parts) {
            sum.rows += more.rows;
            sum.pauses += more.pauses;
        }
    }
}

impl Totals {
    /// Counts one maximal run of `length` pauses; a run of none is no run.
    pub fn observe_run(&mut self, length: usize) {
        self.pause_runs.resize(self.pause_runs.len().max(length), 0);
        let place = length
            .checked_sub(1)
            .and_then(|at| self.pause_runs.get_mut(at));
        if let Some(count) = place {
            *count += 1;
        }
    }
}

impl Ledger {
    /// Counts a document that goes into the shards.
    pub fn keep(&mut self) {
        self.read += 1;
        self.kept += 1;
    }

    /// Counts a document that is left out.
    pub fn leave_out(&mut self, reason: &str) {
        self.read += 1;
        *self.dropped.entry(reason.into()).or_default() += 1;
    }

    /// Counts a document that goes into the shards as often as its source's weight
    /// says, which may be never.
    pub fn take(&mut self, copies: u64) {
        match copies.checked_sub(1) {
            Some(more) => {
                self.keep();
                self.copies += more;
            }
            None => self.leave_out(NOT_TAKEN),
        }
    }

    /// The same before weights: documents that they pass over are kept, none is copied.
    pub fn before_weights(&self) -> Self {
        let mut dropped = self.dropped.clone();
        let passed_over = dropped.remove(NOT_TAKEN).unwrap_or(0);
        Self {
            read: self.read,
            kept: self.kept + passed_over,
            dropped,
            ..Self::default()
        }
    }

    /// Checks that read = kept + dropped.
    pub fn check(&self) -> Result<(), Error> {
        let dropped = self.dropped.values().sum();
        match self.read == self.kept + dropped {
            true => Ok(()),
            false => Err(Error::Ledger {
                read: self.read,
                kept: self.kept,
                dropped,
            }),
        }
    }
}

impl AddAssign<&Ledger> for Ledger {
    fn add_assign(&mut self, other: &Self) {
        self.read += other.read;
        self.kept += other.kept;
        for (reason, count) in &other.dropped {
            *self.dropped.entry(reason.clone()).or_default() += count;
        }
        self.copies += other.copies;
        for (source, share) in &other.sources {
            *self.sources.entry(*source).or_default() += share;
        }
    }
}

/// Refuses other versions by name, whatever else such a file holds.
fn check_version(text: &str, path: &Path) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Probe {
        format: u64,
    }
    match serde_json::from_str::<Probe>(text) {
        Ok(Probe { format }) if format != u64::from(FORMAT) => Err(Error::Version {
            path: path.to_path_buf(),
            expected: FORMAT,
            found: format,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
