//! A sealed dataset: its manifest, its tokenizer and its rows.

pub mod online;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::fs;
use crate::fs::mapped::Lines;
use crate::manifest::{self, Manifest, Split, TOKENIZER_FILE};
use crate::pause::{self, Insertion};
use crate::row::{Ids, RowView};
use crate::sequence::Sequence;
use crate::shard::{self, Ahead, Reading, Shard};
use crate::tokenize::{self, SpecialText, Tokenizer};
use online::Online;

/// A dataset that was opened: manifest, tokenizer and shards belong together.
#[derive(Debug)]
pub struct Dataset {
    /// What it is.
    pub manifest: Manifest,
    /// Its name: BLAKE3 of the manifest's bytes.
    pub digest: Digest,
    /// Where it lies.
    pub folder: PathBuf,
    train: Rows,
    validation: Rows,
    /// How rows get their pauses, where they are not on disk.
    online: Option<Online>,
}

/// Names a row of a run: the same row may differ from epoch to epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The split.
    pub split: Split,
    /// Which pass over the split.
    pub epoch: u64,
    /// The row's index in the split.
    pub index: u64,
}

/// The shards of a split as one list of rows.
#[derive(Debug, Default)]
struct Rows {
    shards: Vec<Shard>,
    /// Index of the first row after each shard.
    ends: Vec<u64>,
}

/// Why there is no dataset, or no row.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no sound manifest.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A shard is missing or damaged.
    #[error(transparent)]
    Shard(#[from] shard::Error),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The tokenizer beside the manifest is another one.
    #[error(
        "`{}` is not the tokenizer of this dataset: expected digest {expected}, found {found}",
        path.display()
    )]
    OtherTokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// What the manifest says.
        expected: Digest,
        /// What the file has.
        found: Digest,
    },
    /// The tokenizer cannot be used.
    #[error("cannot use tokenizer `{}`", path.display())]
    Tokenizer {
        /// The `tokenizer.json`.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: tokenize::Error,
    },
    /// Its vocabulary or the length of its rows does not go with a pause policy.
    #[error("the pauses cannot be placed in rows of `{}`", folder.display())]
    Policy {
        /// The dataset.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: pause::Error,
    },
    /// Its rows cannot get the pauses that were asked for.
    #[error("the rows of `{}` cannot get their pauses when they are read", folder.display())]
    Online {
        /// The dataset.
        folder: PathBuf,
        /// Why not.
        #[source]
        source: online::Error,
    },
    /// Two statements about the dataset contradict each other.
    #[error("`{}`: {what}: the manifest says {expected}, found {found}", path.display())]
    Contradiction {
        /// The manifest or the tokenizer.
        path: PathBuf,
        /// What is counted.
        what: String,
        /// What the manifest says.
        expected: u64,
        /// What is there.
        found: u64,
    },
    /// A row was asked for that the split lacks.
    #[error("the {split} split has {rows} rows, so none with index {row}")]
    NoRow {
        /// The split.
        split: Split,
        /// The index asked for.
        row: u64,
        /// How many rows there are.
        rows: u64,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Manifest(error) => error.hint(),
            Self::Shard(error) => error.hint(),
            Self::File(_) | Self::NoRow { .. } => None,
            Self::Online { source, .. } => Some(source.hint()),
            Self::Policy { .. } => Some("change the policy"),
            Self::OtherTokenizer { .. } | Self::Tokenizer { .. } | Self::Contradiction { .. } => {
                Some(
                    "bring the dataset's own files back, or remove its folder and run `pausedata prepare` again",
                )
            }
        }
    }
}

impl Dataset {
    /// Opens the dataset in `folder`, whose shards are mapped; see [`Dataset::open_by`].
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_by(Reading::Mmap, folder)
    }

    /// Opens the dataset in `folder`: checks its manifest, its tokenizer's
    /// digest, and the lengths, headers and indexes of all shards.
    pub fn open_by(reading: Reading, folder: &Path) -> Result<Self, Error> {
        let (manifest, digest) = Manifest::open(folder)?;
        read_tokenizer(folder, &manifest)?;
        let config = manifest.pause.clone();
        let rows = |split| Rows::open(reading, folder, &manifest, split);
        let dataset = Self {
            train: rows(Split::Train)?,
            validation: rows(Split::Validation)?,
            folder: folder.to_path_buf(),
            manifest,
            digest,
            online: None,
        };
        match config.is_at_load() {
            true => dataset.with_pause(config),
            false => Ok(dataset),
        }
    }

    /// The same dataset with other pauses: its manifest then names them.
    ///
    /// # Errors
    /// Where its rows are not on disk as these pauses need them.
    pub fn with_pause(mut self, config: pause::Config) -> Result<Self, Error> {
        let online = match config == self.manifest.pause && !config.is_at_load() {
            true => return Ok(self),
            false => Online::new(&self, &config)?,
        };
        self.online = config.is_at_load().then_some(online);
        self.manifest.pause = config;
        Ok(self)
    }

    /// What a pause policy does with the rows of this dataset.
    pub fn insertion(&self, config: &pause::Config) -> Result<Insertion, Error> {
        let row_length = self.manifest.row_length;
        let reads = config.policy.reads_text() || config.fields().inserted;
        let made = match reads {
            true => self.tokenizer()?.insertion(config, row_length),
            false => Insertion::new(config.clone(), self.manifest.tokenizer.reserved, row_length)
                .map_err(tokenize::Error::Pause),
        };
        made.map_err(|error| match error {
            tokenize::Error::Pause(source) => Error::Policy {
                folder: self.folder.clone(),
                source,
            },
            source => Error::Tokenizer {
                path: self.folder.join(TOKENIZER_FILE),
                source,
            },
        })
    }

    /// The tokenizer that made the rows.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let path = self.folder.join(TOKENIZER_FILE);
        let bytes = read_tokenizer(&self.folder, &self.manifest)?;
        let record = &self.manifest.tokenizer;
        let loaded = Tokenizer::from_json(&bytes, record.reserved, SpecialText::Ordinary);
        let tokenizer = loaded.map_err(|source| Error::Tokenizer {
            path: path.clone(),
            source,
        })?;
        let tokenizer = tokenizer.beginning_with(record.begin);
        match tokenizer.vocab_size() == record.vocab_size {
            true => Ok(tokenizer),
            false => Err(Error::Contradiction {
                path,
                what: "ids of the vocabulary".into(),
                expected: record.vocab_size.into(),
                found: tokenizer.vocab_size().into(),
            }),
        }
    }

    /// How many rows a split has; where pauses are not on disk, with them.
    pub fn rows(&self, split: Split) -> u64 {
        match &self.online {
            Some(online) => online.rows(split),
            None => self.rows_on_disk(split),
        }
    }

    /// How many rows of a split are on disk.
    pub fn rows_on_disk(&self, split: Split) -> u64 {
        self.split(split).ends.last().copied().unwrap_or(0)
    }

    /// A copy of one row of a split in epoch 0.
    pub fn row(&self, split: Split, index: u64) -> Result<Sequence, Error> {
        let epoch = 0;
        self.row_at(At {
            split,
            epoch,
            index,
        })
    }

    /// A copy of one row.
    pub fn row_at(&self, at: At) -> Result<Sequence, Error> {
        let mut copy = Sequence::default();
        self.read(at, &mut |row| copy = row.to_sequence())?;
        Ok(copy)
    }

    /// A copy of one row of a split as it is on disk.
    pub fn row_on_disk(&self, split: Split, index: u64) -> Result<Sequence, Error> {
        let (shard, row) = self.place(split, index)?;
        Ok(shard.row(row)?)
    }

    /// How many ids a row has, with the pauses that it gets when it is read: by the index
    /// alone, unless their policy reads text.
    pub fn length(&self, at: At) -> Result<usize, Error> {
        let (length, _) = match &self.online {
            Some(online) => return online.length(self, at),
            None => self.shape(at.split, at.index)?,
        };
        Ok(length)
    }

    /// How many ids a row on disk has, and how many of them are prefix.
    fn shape(&self, split: Split, index: u64) -> Result<(usize, Option<u32>), Error> {
        let (shard, row) = self.place(split, index)?;
        Ok(shard.shape(row)?)
    }

    /// Shows one row to `see`, without a copy where shards are mapped and hold its pauses.
    ///
    /// What `see` was shown does not count where this fails.
    pub fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), Error> {
        match &self.online {
            Some(online) => online.see(self, at, see),
            None => self.see(at.split, at.index, see),
        }
    }

    /// What decides its rows but for pauses that they get when they are read: where they get
    /// none, the digest.
    pub fn name(&self) -> Digest {
        let pause = self.manifest.pause.deciding(self.manifest.row_length);
        let manifest = Manifest {
            pause,
            ..self.manifest.clone()
        };
        match (&self.online, serde_json::to_vec(&manifest)) {
            (Some(_), Ok(manifest)) => Digest::of(&manifest),
            _ => self.digest,
        }
    }

    /// How rows get their pauses, where they are not on disk.
    pub fn online(&self) -> Option<&Online> {
        self.online.as_ref()
    }

    /// The rows on disk that a row is made of.
    fn on_disk(&self, at: At) -> Result<Range<u64>, Error> {
        match &self.online {
            Some(online) => online.on_disk(at),
            None => Ok(at.index..at.index.saturating_add(1)),
        }
    }

    /// The rows on disk that a row begins in, and where those have one length, which ids
    /// behind one another it is from there on: the first, and how many.
    fn runs(&self, at: At) -> Result<(Range<u64>, Option<online::Run>), Error> {
        let run = self.online.as_ref().map(|online| online.run(at));
        match run.transpose()?.flatten() {
            Some((row, run)) => Ok((row..row + 1, Some(run))),
            None => Ok((self.on_disk(at)?, None)),
        }
    }

    /// Shows one row of a split to `see` as it is on disk; as [`Dataset::read`].
    pub fn see<T>(
        &self,
        split: Split,
        index: u64,
        see: impl FnOnce(RowView<'_>) -> T,
    ) -> Result<T, Error> {
        let (shard, row) = self.place(split, index)?;
        Ok(shard.see(row, see)?)
    }

    /// Shows `n` ids of a row on disk to `see`, from a position on, and how many the row has;
    /// as [`Dataset::read`].
    fn see_part<T>(
        &self,
        split: Split,
        index: u64,
        part: (usize, usize),
        see: impl FnOnce(Ids<'_>, usize) -> T,
    ) -> Result<T, Error> {
        let (shard, row) = self.place(split, index)?;
        Ok(shard.see_part(row, part, see)?)
    }

    /// Shows ids on disk that stand behind one another to `see`, as far as their shard goes; as
    /// [`Shard::see_run`].
    fn see_run<T>(
        &self,
        split: Split,
        index: u64,
        run: online::Run,
        see: impl FnOnce(Ids<'_>) -> T,
    ) -> Result<T, Error> {
        let (shard, row) = self.place(split, index)?;
        Ok(shard.see_run(row, run, see)?)
    }

    /// Takes all blocks for right that no row has touched yet: their checksums are not
    /// compared, nor are their ids with the vocabulary. For files that were just verified.
    pub fn trust_blocks(&self) {
        let shards = self.train.shards.iter().chain(&self.validation.shards);
        shards.for_each(Shard::trust_blocks);
    }

    /// Says that a row will be read soon, so that the system may get it from its disk.
    pub fn will_need(&self, at: At, ahead: Ahead) {
        // A row that is not there is an error when it is read.
        for row in self.on_disk(at).unwrap_or_default() {
            if let Ok((shard, row)) = self.place(at.split, row) {
                shard.will_need(row, ahead);
            }
        }
    }

    /// The ids of a row, for the processor to get them from memory; of several that it is made
    /// of, the last, after it was told of the others.
    pub fn lines(&self, at: At) -> Lines<'_> {
        let (rows, run) = self.runs(at).unwrap_or_default();
        let mut lines = Lines::default();
        for index in rows {
            if let Ok((shard, row)) = self.place(at.split, index) {
                std::mem::replace(&mut lines, shard.lines(row, run)).fetch();
            }
        }
        lines
    }

    /// The shard that holds a row, and the row's index in it.
    fn place(&self, split: Split, index: u64) -> Result<(&Shard, u64), Error> {
        let rows = self.split(split);
        let no_row = || Error::NoRow {
            split,
            row: index,
            rows: self.rows_on_disk(split),
        };
        let at = rows.ends.partition_point(|end| *end <= index);
        let shard = rows.shards.get(at).ok_or_else(no_row)?;
        let start = match at.checked_sub(1) {
            Some(before) => rows.ends.get(before).copied().unwrap_or(0),
            None => 0,
        };
        Ok((shard, index - start))
    }

    /// The shards of a split, in the order of their rows.
    pub fn shards(&self, split: Split) -> &[Shard] {
        &self.split(split).shards
    }

    fn split(&self, split: Split) -> &Rows {
        match split {
            Split::Train => &self.train,
            Split::Validation => &self.validation,
        }
    }
}

impl Rows {
    fn open(
        reading: Reading,
        folder: &Path,
        manifest: &Manifest,
        split: Split,
    ) -> Result<Self, Error> {
        let Some(record) = manifest.splits.get(&split) else {
            return Ok(Self::default());
        };
        let mut rows = Self::default();
        let mut end = 0u64;
        for shard in &record.shards {
            let shard = Shard::open_by(reading, folder, shard, manifest)?;
            end = end.saturating_add(shard.rows());
            rows.shards.push(shard);
            rows.ends.push(end);
        }
        match end == record.totals.rows {
            true => Ok(rows),
            false => Err(Error::Contradiction {
                path: folder.join(manifest::FILE),
                what: format!("rows in the shards of the {split} split"),
                expected: record.totals.rows,
                found: end,
            }),
        }
    }
}

/// The bytes of the tokenizer that the manifest means.
fn read_tokenizer(folder: &Path, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    let path = folder.join(TOKENIZER_FILE);
    let bytes = fs::read(&path)?;
    let (expected, found) = (manifest.tokenizer.digest, Digest::of(&bytes));
    match expected == found {
        true => Ok(bytes),
        false => Err(Error::OtherTokenizer {
            path,
            expected,
            found,
        }),
    }
}

#[cfg(test)]
mod tests;
