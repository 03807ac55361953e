//! Where converted rows go.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::source::Source;
use super::{Error, export};
use crate::fs::{self, Output};
use crate::manifest::{Manifest, ShardRecord, Split};
use crate::sequence::Sequence;
use crate::shard::index::megatron_head;
use crate::shard::layout::Header;
use crate::shard::parquet::{Ids, Writer};
use crate::shard::{Outline, ShardSpec, ShardWriter, append_ids};
use crate::token::{IdWidth, Reserved};

/// Takes the rows of a split, shard by shard.
pub trait Sink {
    /// The next shard begins.
    fn open(&mut self, name: &str, outline: &Outline) -> Result<(), Error>;
    /// Its next row.
    fn row(&mut self, row: &Sequence) -> Result<(), Error>;
    /// The shard ends.
    fn close(&mut self) -> Result<(), Error>;
    /// The split ends.
    fn finish(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Keeps nothing.
pub struct Nothing;

impl Sink for Nothing {
    fn open(&mut self, _: &str, _: &Outline) -> Result<(), Error> {
        Ok(())
    }

    fn row(&mut self, _: &Sequence) -> Result<(), Error> {
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Writes shards of a dataset.
pub struct Shards<'a> {
    folder: PathBuf,
    /// The dataset's, whose format is that of the shards.
    manifest: &'a Manifest,
    writer: Option<ShardWriter>,
    /// What was written.
    pub records: Vec<ShardRecord>,
}

impl<'a> Shards<'a> {
    /// No shards yet.
    pub fn new(folder: &Path, manifest: &'a Manifest) -> Self {
        Self {
            folder: folder.to_path_buf(),
            manifest,
            writer: None,
            records: Vec::new(),
        }
    }
}

impl Sink for Shards<'_> {
    fn open(&mut self, name: &str, outline: &Outline) -> Result<(), Error> {
        let spec = ShardSpec::of(outline.header(), self.manifest);
        let mut writer = ShardWriter::create(&self.folder, name, &spec)?;
        for document in outline.documents()? {
            writer.document(document);
        }
        self.writer = Some(writer);
        Ok(())
    }

    fn row(&mut self, row: &Sequence) -> Result<(), Error> {
        match &mut self.writer {
            Some(writer) => Ok(writer.push(row)?),
            None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        if let Some(writer) = self.writer.take() {
            self.records.push(writer.finish()?);
        }
        Ok(())
    }
}

/// Writes a compact Parquet file for each shard.
pub struct Compact {
    folder: PathBuf,
    /// The reserved ids, extra pauses included: labels depend on them.
    reserved: Reserved,
    writer: Option<Writer>,
}

impl Compact {
    /// No files yet.
    pub fn new(folder: &Path, reserved: Reserved) -> Self {
        Self {
            folder: folder.to_path_buf(),
            reserved,
            writer: None,
        }
    }
}

impl Sink for Compact {
    fn open(&mut self, name: &str, outline: &Outline) -> Result<(), Error> {
        let path = self.folder.join(export::compact(name));
        let header = Header {
            reserved: self.reserved,
            ..outline.header().clone()
        };
        self.writer = Some(Writer::create(&path, &header, Ids::Compact)?);
        Ok(())
    }

    fn row(&mut self, row: &Sequence) -> Result<(), Error> {
        match &mut self.writer {
            Some(writer) => Ok(writer.push(row)?),
            None => Ok(()),
        }
    }

    fn close(&mut self) -> Result<(), Error> {
        match self.writer.take() {
            Some(writer) => Ok(writer.finish().map(drop)?),
            None => Ok(()),
        }
    }
}

/// Writes ids and nothing else.
pub struct Flat {
    output: Output,
    width: IdWidth,
    bytes: Vec<u8>,
}

impl Flat {
    /// Starts a file.
    pub fn create(path: &Path, width: IdWidth) -> Result<Self, Error> {
        Ok(Self {
            output: Output::create(path)?,
            width,
            bytes: Vec::new(),
        })
    }
}

impl Sink for Flat {
    fn open(&mut self, _: &str, _: &Outline) -> Result<(), Error> {
        Ok(())
    }

    fn row(&mut self, row: &Sequence) -> Result<(), Error> {
        self.bytes.clear();
        append_ids(&mut self.bytes, row, self.width);
        Ok(self.output.write_all(&self.bytes)?)
    }

    fn close(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        Ok(self.output.publish()?)
    }
}

/// Writes the index of a split's ids for Megatron: a row is a sequence and a document.
pub fn megatron_index(source: &Source, split: Split, path: &Path) -> Result<(), Error> {
    let width = source.manifest.id_width;
    let outlines = source.outlines(split);
    let rows: u64 = outlines.iter().map(|outline| outline.header().rows).sum();
    let lengths = || {
        outlines.iter().flat_map(|outline| {
            let rows = 0..outline.header().rows;
            rows.map(move |row| Ok::<_, Error>(outline.row(row)?.0 as u64))
        })
    };
    let mut output = Output::create(path)?;
    output.write_all(&megatron_head(width, rows))?;
    for length in lengths() {
        let length = u32::try_from(length?).unwrap_or(u32::MAX);
        output.write_all(&length.to_le_bytes())?;
    }
    let mut at = 0u64;
    for length in lengths() {
        output.write_all(&at.to_le_bytes())?;
        at += length? * width.bytes() as u64;
    }
    for row in 0..=rows {
        output.write_all(&row.to_le_bytes())?;
    }
    Ok(output.publish()?)
}

/// Writes what a script that trains nanoGPT may want to know.
pub fn nanogpt_meta(source: &Source, folder: &Path) -> Result<(), Error> {
    let manifest = &source.manifest;
    let meta = json!({
        "vocab_size": manifest.tokenizer.vocab_size,
        "dtype": "uint16",
        "stage": manifest.stage,
        "row_length": manifest.row_length,
        "reserved": manifest.tokenizer.reserved,
        "rows": source.rows_by_split(),
    });
    Ok(fs::write(
        &folder.join("meta.json"),
        format!("{meta:#}\n").as_bytes(),
    )?)
}
