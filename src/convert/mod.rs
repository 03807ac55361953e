//! The same rows in other files: between the formats of shards, and to what other programs
//! read and back.
//!
//! What a form cannot hold stands beside it in `pausedata/`: the manifest, the tokenizer, the
//! index of each shard, and its stored targets and weights. So nothing is lost: converted there and back, a dataset has the
//! digest that it had. Every conversion is read back and compared before it gets its name.

mod export;
mod sink;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use self::sink::{Compact, Flat, Nothing, Shards, Sink};
use self::source::{Source, Walked};
use crate::content::Content;
use crate::digest::Digest;
use crate::manifest::{self, ShardFormat, Split};
use crate::progress::{Progress, Stop, Unit};
use crate::token::IdWidth;
use crate::{dataset, fs, shard};

/// What rows can be converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A dataset with binary shards.
    Binary,
    /// A dataset with Parquet shards.
    Parquet,
    /// Parquet files as small as they get; their ids are not mapped.
    ParquetCompact,
    /// `train.bin` and `train.idx`, as Megatron's `IndexedDataset` reads them; a row is a
    /// sequence and a document.
    Megatron,
    /// `train.bin` and `val.bin`: ids of two bytes and nothing else, as nanoGPT reads them.
    Nanogpt,
}

impl Form {
    /// The format of shards, where the form is a dataset.
    fn shards(self) -> Option<ShardFormat> {
        match self {
            Self::Binary => Some(ShardFormat::Binary),
            Self::Parquet => Some(ShardFormat::Parquet),
            Self::ParquetCompact | Self::Megatron | Self::Nanogpt => None,
        }
    }
}

/// What was converted.
#[derive(Clone, Debug, Serialize)]
pub struct Converted {
    /// What it was.
    pub from: Form,
    /// What it is now.
    pub to: Form,
    /// Where it lies.
    pub folder: PathBuf,
    /// The digest of the dataset: of the new one, or of the one that was exported.
    pub dataset: Digest,
    /// Rows of each split.
    pub rows: BTreeMap<Split, u64>,
    /// The digest of each split's rows, the same before and after.
    pub content: BTreeMap<Split, Content>,
}

/// Why rows were not converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The dataset cannot be read.
    #[error(transparent)]
    Dataset(#[from] dataset::Error),
    /// The manifest cannot be read or written.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A shard cannot be read or written.
    #[error(transparent)]
    Shard(#[from] shard::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// Something stands where the result should.
    #[error("`{}` is there already", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// The rows are not on disk as they are read.
    #[error(
        "the rows of `{}` get their pauses when they are read (`when = \"at-load\"`), which other programs do not",
        folder.display()
    )]
    AtLoad {
        /// The dataset.
        folder: PathBuf,
    },
    /// The folder is neither a dataset nor something that was converted from one.
    #[error("`{}` is no dataset, and nothing that `pausedata convert` made: it has neither `{}` nor `{}`",
        folder.display(), manifest::FILE, export::FILE)]
    Strange {
        /// The folder.
        folder: PathBuf,
    },
    /// The record of an export cannot be read.
    #[error("`{}` is damaged: {reason}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of an export is not what was written.
    #[error("`{}` is damaged or another file: expected BLAKE3 {expected}, found {found}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was written.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// Ids do not fit.
    #[error("nanoGPT reads ids of two bytes, and the vocabulary of {vocab_size} ids needs four")]
    WideIds {
        /// How many ids there are.
        vocab_size: u32,
    },
    /// What was written is not what was read.
    #[error("the conversion of `{}` is not exact: {what}: expected {expected}, found {found}", from.display())]
    Inexact {
        /// What was converted.
        from: PathBuf,
        /// What differs.
        what: String,
        /// What was read.
        expected: String,
        /// What was written.
        found: String,
    },
    /// A signal asked to stop.
    #[error("stopped before the conversion was complete")]
    Stopped,
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Dataset(error) => error.hint(),
            Self::Manifest(error) => error.hint(),
            Self::Shard(error) => error.hint(),
            Self::File(_) | Self::Stopped => None,
            Self::Exists { .. } => {
                Some("name a folder that does not exist, as in `--out converted`")
            }
            Self::Strange { .. } => Some("`pausedata prepare RECIPE` makes datasets"),
            Self::Record { .. } | Self::Changed { .. } => {
                Some("bring the file back from a copy, or convert the dataset again")
            }
            Self::AtLoad { .. } => Some(
                "prepare it with `when = \"prepare\"`, or with `policy = \"none\"` to export its text without pauses",
            ),
            Self::WideIds { .. } => Some("convert to `megatron` or `parquet-compact`"),
            Self::Inexact { .. } => Some("please report it: nothing was written"),
        }
    }
}

/// Converts the dataset or export in `from` and puts the result at `out`.
///
/// Nothing stands at `out` before all of it does, proved against `from`.
pub fn run(
    from: &Path,
    to: Form,
    out: &Path,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Converted, Error> {
    if std::fs::symlink_metadata(out).is_ok() {
        let folder = out.to_path_buf();
        return Err(Error::Exists { folder });
    }
    let source = Source::open(from)?;
    if source.manifest.pause.is_at_load() && to.shards().is_none() {
        let folder = from.to_path_buf();
        return Err(Error::AtLoad { folder });
    }
    if to == Form::Nanogpt && source.manifest.id_width == IdWidth::U32 {
        let vocab_size = source.manifest.tokenizer.vocab_size;
        return Err(Error::WideIds { vocab_size });
    }
    let draft = fs::Draft::create(out)?;
    let work = Work {
        source: &source,
        folder: draft.folder(),
        progress,
        stop,
    };
    progress.start("convert", Some(2 * source.rows()), Unit::Rows);
    let (dataset, content) = match to.shards() {
        Some(format) => work.dataset(format)?,
        None => (source.digest, work.export(to)?),
    };
    work.prove(to, dataset, &content)?;
    progress.finish();
    draft.publish(out)?;
    Ok(Converted {
        from: source.form,
        to,
        folder: out.to_path_buf(),
        dataset,
        rows: source.rows_by_split(),
        content: (content.into_iter())
            .map(|(split, rows)| (split, rows.content))
            .collect(),
    })
}

/// A conversion under way.
struct Work<'a> {
    source: &'a Source,
    /// Where the result is written.
    folder: &'a Path,
    progress: &'a dyn Progress,
    stop: &'a Stop,
}

type Contents = BTreeMap<Split, Walked>;

impl Work<'_> {
    /// Writes a dataset; its manifest is the source's but for the files of shards.
    fn dataset(&self, format: ShardFormat) -> Result<(Digest, Contents), Error> {
        let mut manifest = self.source.manifest.clone();
        manifest.shard_format = format;
        let mut contents = Contents::new();
        let mut written = BTreeMap::new();
        for split in manifest.splits.keys() {
            let mut shards = Shards::new(self.folder, &manifest);
            contents.insert(*split, self.walk(*split, &mut shards)?);
            written.insert(*split, shards.records);
        }
        for (split, record) in &mut manifest.splits {
            record.shards = written.remove(split).unwrap_or_default();
        }
        self.source.copy_beside(self.folder)?;
        Ok((manifest.seal(self.folder)?, contents))
    }

    /// Writes what another program reads, and beside it what that cannot hold.
    fn export(&self, form: Form) -> Result<Contents, Error> {
        let mut contents = Contents::new();
        for (split, record) in &self.source.manifest.splits {
            let width = self.source.manifest.id_width;
            let mut sink: Box<dyn Sink> = match form {
                _ if record.shards.is_empty() => Box::new(Nothing),
                Form::Megatron | Form::Nanogpt => {
                    let path = self.folder.join(export::bin(form, *split));
                    Box::new(Flat::create(&path, width)?)
                }
                _ => Box::new(Compact::new(
                    self.folder,
                    self.source.manifest.tokenizer.reserved,
                )),
            };
            contents.insert(*split, self.walk(*split, sink.as_mut())?);
            sink.finish()?;
            if form == Form::Megatron && !record.shards.is_empty() {
                let path = self.folder.join(export::idx(*split));
                sink::megatron_index(self.source, *split, &path)?;
            }
        }
        if form == Form::Nanogpt {
            sink::nanogpt_meta(self.source, self.folder)?;
        }
        let beside = self.folder.join(export::BESIDE);
        self.source.copy_records(&beside)?;
        export::Record::write(self.folder, form, self.source.digest, &contents)?;
        Ok(contents)
    }

    /// Reads the result back and compares it with what was read.
    fn prove(&self, to: Form, dataset: Digest, content: &Contents) -> Result<(), Error> {
        let inexact = |what: &str, expected: String, found: String| Error::Inexact {
            from: self.source.folder.clone(),
            what: what.into(),
            expected,
            found,
        };
        let result = Source::open(self.folder)?;
        let work = Work {
            source: &result,
            ..*self
        };
        for (split, expected) in content {
            let found = work.walk(*split, &mut Nothing)?;
            if found != *expected {
                let what = format!("rows of the {split} split");
                return Err(inexact(&what, expected.to_string(), found.to_string()));
            }
            if !self.source.same_documents(&result, *split)? {
                let what = format!("documents of the {split} split");
                return Err(inexact(
                    &what,
                    "those that were read".into(),
                    "others".into(),
                ));
            }
        }
        result.check_columns()?;
        // The same form again must be the same dataset, but for shards of an older version.
        let same_form = to.shards() == Some(self.source.manifest.shard_format)
            && self.source.version() == result.version();
        if same_form && dataset != self.source.digest {
            let (expected, found) = (self.source.digest, dataset);
            return Err(inexact("dataset", expected.to_string(), found.to_string()));
        }
        if let Some(expected) = self.source.content.as_ref() {
            let found = content
                .iter()
                .map(|(split, rows)| (*split, rows.content.to_string()));
            let found: BTreeMap<_, _> = found.collect();
            if *expected != found {
                let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
                return Err(inexact("rows since they were exported", expected, found));
            }
        }
        Ok(())
    }

    fn walk(&self, split: Split, sink: &mut dyn Sink) -> Result<Walked, Error> {
        self.source.walk(split, sink, self.progress, self.stop)
    }
}
