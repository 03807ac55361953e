//! A shard without its ids: what its `.idx` and `.aux` say.

use std::ops::Range;
use std::path::Path;

use super::Error;
use super::aux::Aux;
use super::bytes::{Bytes, Reading, damaged};
use super::file::{agrees, paths, read_index};
use super::index::{DocumentRecord, Home, Index};
use super::layout::{Fault, Header, Version};
use crate::manifest::{Manifest, ShardFormat, ShardRecord};
use crate::sequence::Stored;

/// Rows and documents of a shard whose ids may lie elsewhere.
#[derive(Debug)]
pub struct Outline {
    header: Header,
    bytes: Bytes,
    index: Index,
    aux: Option<Aux>,
}

impl Outline {
    /// Reads and checks `shards/<name>.idx` in `folder`, and `.aux` where there is one; the
    /// file with the ids is not opened.
    pub fn open(folder: &Path, record: &ShardRecord, manifest: &Manifest) -> Result<Self, Error> {
        let [_, path, aux] =
            paths(folder, &record.name, manifest.shard_format).map_err(damaged(folder))?;
        let bytes = Bytes::open(&path, None, Reading::Mmap)?;
        let (header, home) = match manifest.shard_format {
            ShardFormat::Binary => (header(&bytes, record, manifest)?, Home::Binary),
            ShardFormat::Parquet => {
                let (header, home) = bytes.parse(Index::parquet_home)?;
                (Some(header), home)
            }
        };
        let unnamed = || Fault::new("name of the shard", "<split>-<unit>-<part>", &record.name);
        let header = header.ok_or_else(unnamed).map_err(damaged(&path))?;
        agrees(&header, record, manifest).map_err(damaged(&path))?;
        let index = read_index(&bytes, (&header, home), record)?;
        Ok(Self {
            aux: Aux::open(
                aux,
                (manifest.pause.on_disk().fields(), record.aux),
                &header,
                Reading::Mmap,
            )?,
            header,
            bytes,
            index,
        })
    }

    /// The header that the shard's `.bin` has, or would have.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many ids a row has, and its prefix.
    pub fn row(&self, row: u64) -> Result<(usize, Option<u32>), Error> {
        let place = self.index.place(row).ok_or_else(|| Error::NoRow {
            path: self.bytes.path().to_path_buf(),
            row,
            rows: self.header.rows,
        })?;
        let length = u32::from_le_bytes(self.bytes.array(place.length)?) as usize;
        let prefix = place.prefix.map(|at| self.bytes.array(at)).transpose()?;
        Ok((length, prefix.map(u32::from_le_bytes)))
    }

    /// What stands beside some ids of the shard, counted from its first; none where they
    /// tell everything.
    pub fn stored(&self, ids: Range<usize>) -> Result<Option<Stored>, Error> {
        let Some(aux) = &self.aux else {
            return Ok(None);
        };
        let mut stored = Stored::default();
        aux.row(ids, &mut stored)?;
        Ok(Some(stored))
    }

    /// The documents whose first id lies in the shard, in stream order.
    pub fn documents(&self) -> Result<Vec<DocumentRecord>, Error> {
        self.bytes.parse(|bytes| Ok(self.index.documents(bytes)))
    }
}

/// The header of a binary shard, from the manifest and the shard's name, in the version that
/// its index vouches for by the header's checksum.
fn header(
    index: &Bytes,
    record: &ShardRecord,
    manifest: &Manifest,
) -> Result<Option<Header>, Error> {
    let sum = index.parse(|bytes| Ok(Index::header_checksum(bytes)))?;
    let newest = newest(record, manifest);
    let first = newest.clone().map(|header| Header {
        version: Version::One,
        ..header
    });
    let is_first = |header: &Header| Some(header.checksum()) == sum;
    Ok(first.filter(is_first).or(newest))
}

/// As [`header`], in the newest version.
fn newest(record: &ShardRecord, manifest: &Manifest) -> Option<Header> {
    let mut numbers = record.name.split('-').skip(1).map(str::parse);
    let (unit, part) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(Header {
        version: Version::NEWEST,
        ids: record.ids,
        rows: record.rows,
        id_width: manifest.id_width,
        vocab_size: manifest.tokenizer.vocab_size,
        reserved: manifest.tokenizer.reserved.basic(),
        row_length: u32::try_from(manifest.row_length).ok()?,
        stage: manifest.stage,
        unit,
        part,
        tokenizer: manifest.tokenizer.digest,
    })
}
