//! What is converted: rows shard by shard, whatever files they lie in.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::export::{self, BESIDE, Record};
use super::sink::Sink;
use super::{Error, Form};
use crate::content::{Content, Hasher};
use crate::dataset::Dataset;
use crate::digest::Digest;
use crate::fs;
use crate::manifest::{self, Manifest, ShardFormat, Split, TOKENIZER_FILE};
use crate::prepare::ORIGIN;
use crate::progress::{Progress, Stop};
use crate::sequence::{Sequence, Stored};
use crate::shard::layout::{Header, Version};
use crate::shard::parquet;
use crate::shard::{Outline, Shard};
use crate::token::{IdWidth, TokenId};

/// A dataset, or what was exported from one.
pub struct Source {
    /// What it is.
    pub form: Form,
    /// Where it lies.
    pub folder: PathBuf,
    /// The manifest of the dataset.
    pub manifest: Manifest,
    /// The digest of the dataset.
    pub digest: Digest,
    /// What the record of an export says of its rows.
    pub content: Option<BTreeMap<Split, String>>,
    /// Where the manifest, the tokenizer and the indexes lie.
    records: PathBuf,
    outlines: BTreeMap<Split, Vec<Outline>>,
    dataset: Option<Dataset>,
}

impl Source {
    /// Recognises what is in `folder`, and checks everything but ids.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        if folder.join(manifest::FILE).exists() {
            let dataset = Dataset::open(folder)?;
            let form = match dataset.manifest.shard_format {
                ShardFormat::Binary => Form::Binary,
                ShardFormat::Parquet => Form::Parquet,
            };
            let found = (dataset.manifest.clone(), dataset.digest);
            let source = Self::new(form, folder, folder.to_path_buf(), found)?;
            return Ok(Self {
                dataset: Some(dataset),
                ..source
            });
        }
        let Some(record) = Record::open(folder)? else {
            let folder = folder.to_path_buf();
            return Err(Error::Strange { folder });
        };
        let records = folder.join(BESIDE);
        let found = Manifest::open(&records)?;
        if found.1 != record.dataset {
            let (expected, found) = (record.dataset, found.1);
            let path = records.join(manifest::FILE);
            return Err(Error::Changed {
                path,
                expected,
                found,
            });
        }
        let source = Self::new(record.form, folder, records, found)?;
        Ok(Self {
            content: Some(record.content),
            ..source
        })
    }

    fn new(
        form: Form,
        folder: &Path,
        records: PathBuf,
        (manifest, digest): (Manifest, Digest),
    ) -> Result<Self, Error> {
        let mut outlines = BTreeMap::new();
        for (split, record) in &manifest.splits {
            let open = |shard| Outline::open(&records, shard, &manifest);
            let shards: Result<Vec<_>, _> = record.shards.iter().map(open).collect();
            outlines.insert(*split, shards?);
        }
        Ok(Self {
            form,
            folder: folder.to_path_buf(),
            manifest,
            digest,
            content: None,
            records,
            outlines,
            dataset: None,
        })
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.rows_by_split().values().sum()
    }

    /// How many rows each split has.
    pub fn rows_by_split(&self) -> BTreeMap<Split, u64> {
        let splits = self.manifest.splits.iter();
        splits
            .map(|(split, record)| (*split, record.totals.rows))
            .collect()
    }

    /// The oldest format version of its shards; none where it has none.
    pub fn version(&self) -> Option<Version> {
        let outlines = self.outlines.values().flatten();
        outlines.map(|outline| outline.header().version).min()
    }

    /// The shards of a split without their ids.
    pub fn outlines(&self, split: Split) -> &[Outline] {
        self.outlines.get(&split).map_or(&[], Vec::as_slice)
    }

    /// Whether another source lists the same documents in the same shards.
    pub fn same_documents(&self, other: &Self, split: Split) -> Result<bool, Error> {
        let documents = |source: &Self| {
            let outlines = source.outlines(split).iter();
            outlines
                .map(Outline::documents)
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(documents(self)? == documents(other)?)
    }

    /// Gives all rows of a split to `sink`, and returns their digests.
    pub fn walk(
        &self,
        split: Split,
        sink: &mut dyn Sink,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<Walked, Error> {
        let mut hasher = Hasher::default();
        let mut stored = blake3::Hasher::new();
        let reserved = self.manifest.tokenizer.reserved;
        let mut reader = Reader::open(self, split)?;
        let records = self.manifest.splits.get(&split);
        let records = records.map_or(&[][..], |record| &record.shards);
        for (number, (record, outline)) in records.iter().zip(self.outlines(split)).enumerate() {
            sink.open(&record.name, outline)?;
            reader.shard(number, &record.name)?;
            let mut ids = 0;
            for row in 0..record.rows {
                let row = reader.row(outline, row, ids)?;
                ids += row.len();
                hasher.push(&row, reserved);
                row.stored
                    .iter()
                    .for_each(|beside| digest(beside, &mut stored));
                sink.row(&row)?;
                progress.advance(1);
                if stop.requested() {
                    return Err(Error::Stopped);
                }
            }
            sink.close()?;
        }
        Ok(Walked {
            content: hasher.finish(),
            stored: Digest(*stored.finalize().as_bytes()),
        })
    }

    /// Checks that every column of compact Parquet files holds what follows from the rows;
    /// other forms have none, or prove them when they are written.
    pub fn check_columns(&self) -> Result<(), Error> {
        if self.form != Form::ParquetCompact {
            return Ok(());
        }
        for (split, record) in &self.manifest.splits {
            let mut reader = Reader::open(self, *split)?;
            let shards = record.shards.iter().zip(self.outlines(*split));
            for (number, (shard, outline)) in shards.enumerate() {
                reader.shard(number, &shard.name)?;
                let (mut ids, mut failed) = (0, None);
                let mut rows = (0..shard.rows).map_while(|row| {
                    let row = reader.row(outline, row, ids);
                    let row = row.map_err(|error| failed = Some(error)).ok()?;
                    ids += row.len();
                    Some(Ok(row))
                });
                let header = Header {
                    reserved: self.manifest.tokenizer.reserved,
                    ..outline.header().clone()
                };
                let path = self.folder.join(export::compact(&shard.name));
                let checked = parquet::check_columns(&path, &header, &mut rows);
                failed.map_or(Ok(()), Err)?;
                checked?;
            }
        }
        Ok(())
    }

    /// Copies what a dataset has beside its shards and its manifest.
    pub fn copy_beside(&self, to: &Path) -> Result<(), Error> {
        let copy = |name: &Path| fs::copy(&self.records.join(name), &to.join(name));
        copy(Path::new(TOKENIZER_FILE))?;
        if self.records.join(ORIGIN).exists() {
            copy(Path::new(ORIGIN))?;
        }
        for path in fs::list(&self.records.join(manifest::REJECTS))? {
            let name = path.file_name().unwrap_or_default();
            copy(&Path::new(manifest::REJECTS).join(name))?;
        }
        Ok(())
    }

    /// Copies all of the dataset but the ids.
    pub fn copy_records(&self, to: &Path) -> Result<(), Error> {
        self.copy_beside(to)?;
        let ids = format!(".{}", self.manifest.shard_format.ending());
        let shards = self
            .manifest
            .splits
            .values()
            .flat_map(|split| &split.shards);
        let files = shards.flat_map(manifest::ShardRecord::files);
        for (name, _) in files.filter(|(name, _)| !name.ends_with(&ids)) {
            let name = Path::new(manifest::SHARDS).join(name);
            fs::copy(&self.records.join(&name), &to.join(&name))?;
        }
        let name = manifest::FILE;
        Ok(fs::copy(&self.records.join(name), &to.join(name))?)
    }
}

/// The rows of a split in digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// Their ids and labels.
    pub content: Content,
    /// What they say beside their ids: pauses that are text, targets, weights.
    pub stored: Digest,
}

impl fmt::Display for Walked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {} beside the ids", self.content, self.stored)
    }
}

/// Reads the ids of a split from the first row to the last.
enum Reader<'a> {
    Dataset {
        shards: &'a [Shard],
        shard: Option<&'a Shard>,
    },
    Flat {
        path: PathBuf,
        file: Option<BufReader<File>>,
        width: IdWidth,
    },
    Compact {
        folder: &'a Path,
        rows: Option<parquet::IdRows>,
    },
}

impl<'a> Reader<'a> {
    fn open(source: &'a Source, split: Split) -> Result<Self, Error> {
        if let Some(dataset) = &source.dataset {
            let shards = dataset.shards(split);
            return Ok(Self::Dataset {
                shards,
                shard: None,
            });
        }
        let folder = source.folder.as_path();
        if source.form == Form::ParquetCompact {
            return Ok(Self::Compact { folder, rows: None });
        }
        let path = folder.join(export::bin(source.form, split));
        let file = match source.outlines(split) {
            [] => None,
            _ => Some(BufReader::with_capacity(1 << 20, fs::open(&path)?)),
        };
        Ok(Self::Flat {
            path,
            file,
            width: source.manifest.id_width,
        })
    }

    /// Goes to the next shard, which is the `number`th.
    fn shard(&mut self, number: usize, name: &str) -> Result<(), Error> {
        match self {
            Self::Dataset { shards, shard } => *shard = shards.get(number),
            Self::Flat { .. } => {}
            Self::Compact { folder, rows } => {
                let path = folder.join(export::compact(name));
                *rows = Some(parquet::IdRows::open(&path)?);
            }
        }
        Ok(())
    }

    /// Row `index` of the shard, which stands behind `before` ids; rows are asked for in
    /// order.
    fn row(&mut self, outline: &Outline, index: u64, before: usize) -> Result<Sequence, Error> {
        let (length, prefix) = outline.row(index)?;
        let ids = match self {
            Self::Dataset { shard, .. } => match shard {
                Some(shard) => return Ok(shard.row(index)?),
                None => Vec::new(),
            },
            Self::Flat { path, file, width } => {
                let mut bytes = vec![0; length * width.bytes()];
                if let Some(file) = file {
                    file.read_exact(&mut bytes)
                        .map_err(fs::Error::new("read", path))?;
                }
                ids_of(&bytes, *width)
            }
            Self::Compact { rows, .. } => match rows.as_mut().and_then(Iterator::next) {
                Some(ids) => ids?.into_iter().map(TokenId).collect(),
                None => Vec::new(),
            },
        };
        let stored = outline.stored(before..before + ids.len())?;
        Ok(Sequence {
            ids,
            prefix,
            stored: stored.map(Box::new),
            ..Sequence::default()
        })
    }
}

/// Adds what a row says beside its ids.
fn digest(stored: &Stored, hasher: &mut blake3::Hasher) {
    for inserted in &stored.inserted {
        hasher.update(&[u8::from(*inserted)]);
    }
    for target in &stored.targets {
        hasher.update(&target.0.to_le_bytes());
    }
    for weight in &stored.weights {
        hasher.update(&weight.to_le_bytes());
    }
}

fn ids_of(bytes: &[u8], width: IdWidth) -> Vec<TokenId> {
    match width {
        IdWidth::U16 => (bytes.as_chunks().0.iter())
            .map(|id| TokenId(u16::from_le_bytes(*id).into()))
            .collect(),
        IdWidth::U32 => (bytes.as_chunks().0.iter())
            .map(|id| TokenId(u32::from_le_bytes(*id)))
            .collect(),
    }
}
