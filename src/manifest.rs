//! The manifest: what a dataset is, written last; without it a folder is no dataset.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::curate::contamination::EvaluationFile;
use crate::digest::Digest;
use crate::fs;
use crate::pause;
use crate::token::{IdWidth, Reserved};

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
    /// Evaluation sets that were looked for in the documents, in the recipe's order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contamination: Vec<ContaminationRecord>,
    /// Files of dropped documents, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejects: Vec<RejectsRecord>,
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
    /// What each policy of a mixture got, in their order; empty for other policies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
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

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// There is no manifest: the folder is none of ours, or was not finished.
    #[error("`{}` is not a sealed dataset: there is no `{FILE}` in it", folder.display())]
    NotSealed {
        /// The folder.
        folder: PathBuf,
    },
    /// Another version of this program wrote it.
    #[error("`{}` has format version {found}, and this program reads version {expected}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// [`FORMAT`].
        expected: u32,
        /// The version it has.
        found: u64,
    },
    /// It does not end in a seal.
    #[error("`{}` is damaged: it does not end in its seal", path.display())]
    NoSeal {
        /// The manifest.
        path: PathBuf,
    },
    /// It was changed after it was sealed.
    #[error("`{}` was changed after it was sealed: expected digest {expected}, found {found}", path.display())]
    Edited {
        /// The manifest.
        path: PathBuf,
        /// What its seal says.
        expected: String,
        /// The digest of what it holds.
        found: Digest,
    },
    /// It is sealed, and no manifest.
    #[error("`{}` is not a manifest of format version {FORMAT}", path.display())]
    Json {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Documents got lost in the count.
    #[error("the ledger does not add up: {read} documents read, {kept} kept and {dropped} dropped")]
    Ledger {
        /// Documents read.
        read: u64,
        /// Documents kept.
        kept: u64,
        /// Documents dropped.
        dropped: u64,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotSealed { .. } => Some(
                "`pausedata prepare RECIPE` makes a dataset and seals it last; if one was stopped, run it again",
            ),
            Self::Version { .. } => {
                Some("prepare the dataset again, or use the version of pausedata that wrote it")
            }
            Self::NoSeal { .. } | Self::Edited { .. } | Self::Json { .. } => Some(
                "bring the manifest back from a copy, or remove the dataset's folder and run `pausedata prepare` again",
            ),
            Self::File(_) | Self::Ledger { .. } => None,
        }
    }
}

impl Manifest {
    /// Reads and checks the manifest of the dataset in `folder`; the digest names the dataset.
    pub fn open(folder: &Path) -> Result<(Self, Digest), Error> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.is_missing() => {
                let folder = folder.to_path_buf();
                return Err(Error::NotSealed { folder });
            }
            other => other?,
        };
        let no_seal = || Error::NoSeal { path: path.clone() };
        let text = std::str::from_utf8(&bytes).map_err(|_| no_seal())?;
        check_version(text, &path)?;
        let (body, seal) = split_seal(text).ok_or_else(no_seal)?;
        let found = Digest::of(body.as_bytes());
        if found.to_string() != seal {
            return Err(Error::Edited {
                path,
                expected: seal.into(),
                found,
            });
        }
        match serde_json::from_str(&format!("{body}\n}}")) {
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
        let json = serde_json::to_string_pretty(self).map_err(|source| Error::Json {
            path: path.clone(),
            source,
        })?;
        let body = json.strip_suffix("\n}").unwrap_or(&json);
        let seal = Digest::of(body.as_bytes());
        let text = format!("{body}{SEAL_BEFORE}{seal}{SEAL_AFTER}");
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
        let length = self.pause_runs.len().max(other.pause_runs.len());
        self.pause_runs.resize(length, 0);
        for (sum, more) in self.pause_runs.iter_mut().zip(&other.pause_runs) {
            *sum += more;
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
    }
}

/// What stands before the digits of the seal: the last field of the object.
const SEAL_BEFORE: &str = ",\n  \"seal\": \"";
/// What stands after them: the end of the file.
const SEAL_AFTER: &str = "\"\n}\n";

/// What the seal covers, and its digits.
fn split_seal(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_suffix(SEAL_AFTER)?;
    let (rest, seal) = text.split_at_checked(text.len().checked_sub(64)?)?;
    Some((rest.strip_suffix(SEAL_BEFORE)?, seal))
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
