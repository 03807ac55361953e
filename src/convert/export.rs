//! What stands beside exported rows: everything that makes them a dataset again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Contents, Error, Form};
use crate::digest::Digest;
use crate::fs;
use crate::manifest::{FORMAT, Split};

/// The record of an export, written last.
pub const FILE: &str = "pausedata.json";
/// The folder of what the form itself cannot hold.
pub const BESIDE: &str = "pausedata";

/// What an export is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The format version.
    pub format: u32,
    /// What the files are.
    pub form: Form,
    /// The dataset that was exported.
    pub dataset: Digest,
    /// The digest of each split's rows.
    pub content: BTreeMap<Split, String>,
    /// BLAKE3 of every other file, by its path in the folder.
    pub files: BTreeMap<String, Digest>,
}

impl Record {
    /// Describes the files in `folder`, which are all there.
    pub fn write(
        folder: &Path,
        form: Form,
        dataset: Digest,
        content: &Contents,
    ) -> Result<(), Error> {
        let mut files = BTreeMap::new();
        for path in files_below(folder)? {
            let name = path.strip_prefix(folder).unwrap_or(&path);
            files.insert(name.display().to_string(), Digest::of_file(&path)?);
        }
        let content = content
            .iter()
            .map(|(split, rows)| (*split, rows.content.to_string()));
        let record = Self {
            format: FORMAT,
            form,
            dataset,
            content: content.collect(),
            files,
        };
        let path = folder.join(FILE);
        let json = serde_json::to_string_pretty(&record).map_err(|error| Error::Record {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(fs::write(&path, format!("{json}\n").as_bytes())?)
    }

    /// Reads the record of the export in `folder`, if it is one, and checks every file.
    pub fn open(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let damaged = |reason: String| Error::Record {
            path: path.clone(),
            reason,
        };
        let record: Self =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            let reason = format!("expected format version {FORMAT}, found {}", record.format);
            return Err(damaged(reason));
        }
        for (name, expected) in &record.files {
            let path = folder.join(name);
            let found = Digest::of_file(&path)?;
            if found != *expected {
                let expected = *expected;
                return Err(Error::Changed {
                    path,
                    expected,
                    found,
                });
            }
        }
        Ok(Some(record))
    }
}

/// The file of a split's ids, one row after another.
pub fn bin(form: Form, split: Split) -> &'static str {
    match (form, split) {
        (_, Split::Train) => "train.bin",
        (Form::Nanogpt, Split::Validation) => "val.bin",
        (_, Split::Validation) => "validation.bin",
    }
}

/// The file of a split's index for Megatron.
pub fn idx(split: Split) -> String {
    format!("{split}.idx")
}

/// The compact Parquet file of a shard.
pub fn compact(name: &str) -> String {
    format!("{name}.parquet")
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    for path in fs::list(folder)? {
        match path.is_dir() {
            true => files.extend(files_below(&path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}
