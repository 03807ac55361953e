//! Writes shards in one pass.

use std::path::{Path, PathBuf};

use super::aux::AuxWriter;
use super::blocks::Blocks;
use super::file::{outside, paths};
use super::index::{DocumentRecord, Home, IndexParts};
use super::layout::{Fault, Header, IDS_MAX, Version, check_values};
use super::{Error, RowFault, parquet};
use crate::digest::Digest;
use crate::fs;
use crate::manifest::{Manifest, ShardFormat, ShardRecord, Stage};
use crate::pause::Fields;
use crate::row::wide;
use crate::sequence::Sequence;
use crate::token::{IdWidth, Reserved, TokenId};

/// What a shard will hold.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardSpec {
    /// What its files are.
    pub format: ShardFormat,
    /// Bytes of one id.
    pub id_width: IdWidth,
    /// Ids must be below this.
    pub vocab_size: u32,
    /// The reserved ids.
    pub reserved: Reserved,
    /// Longest row in ids, pauses included.
    pub row_length: usize,
    /// What the rows are for: finetuning rows have a prefix, pretraining rows none.
    pub stage: Stage,
    /// BLAKE3 of the tokenizer.
    pub tokenizer: Digest,
    /// The group of input files that the rows come from.
    pub unit: u32,
    /// Which of that unit's shards this is.
    pub part: u32,
    /// What rows hold beside their ids.
    pub fields: Fields,
}

/// Writes one shard; dropped before [`ShardWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct ShardWriter {
    name: String,
    idx: PathBuf,
    body: Body,
    pub(super) header: Header,
    row_length: usize,
    index: IndexParts,
    aux: Option<AuxWriter>,
}

/// The file with the ids, while it is written.
#[derive(Debug)]
enum Body {
    Binary(Box<Blocks>),
    Parquet(Box<parquet::Writer>),
}

impl ShardWriter {
    /// Starts the files `shards/<name>.*` in the dataset folder `folder`.
    pub fn create(folder: &Path, name: &str, spec: &ShardSpec) -> Result<Self, Error> {
        let refuse = |fault: Fault| Error::Spec {
            shard: name.into(),
            field: fault.field,
            expected: fault.expected,
            found: fault.found,
        };
        let header = spec.header();
        check_values(&header).map_err(refuse)?;
        let [data, idx, aux] = paths(folder, name, spec.format).map_err(refuse)?;
        let body = match spec.format {
            // The counts follow when they are known.
            ShardFormat::Binary => {
                let blocks = Blocks::create(&data, &header.to_bytes(), header.block_bytes())?;
                Body::Binary(Box::new(blocks))
            }
            ShardFormat::Parquet => {
                parquet::check_limits(&header).map_err(refuse)?;
                let header = Header {
                    reserved: spec.reserved,
                    ..header.clone()
                };
                let writer = parquet::Writer::create(&data, &header, parquet::Ids::Mapped)?;
                Body::Parquet(Box::new(writer))
            }
        };
        let aux = (spec.fields != Fields::default())
            .then(|| AuxWriter::create(&aux, spec.fields, &header));
        Ok(Self {
            name: name.into(),
            idx,
            body,
            header,
            row_length: spec.row_length,
            index: IndexParts::default(),
            aux: aux.transpose()?,
        })
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Sequence) -> Result<(), Error> {
        let refused = |fault| Error::Row {
            shard: self.name.clone(),
            row: self.header.rows,
            fault,
        };
        self.check(row).map_err(refused)?;
        let vocab_size = self.header.vocab_size;
        match &mut self.body {
            Body::Binary(blocks) => {
                let end = blocks.end();
                let before = end.len();
                // The largest is known when all are written: they are looked at once.
                if append_ids(end, row, self.header.id_width) >= Some(TokenId(vocab_size)) {
                    end.truncate(before);
                    check_ids(row, vocab_size).map_err(refused)?;
                }
                blocks.write_full()?;
            }
            Body::Parquet(writer) => {
                check_ids(row, vocab_size).map_err(refused)?;
                writer.push(row)?;
            }
        }
        self.header.ids += row.len() as u64;
        self.header.rows += 1;
        if let Some(aux) = &mut self.aux {
            aux.push(row)?;
        }
        // `check` keeps rows below 2^31 ids.
        self.index
            .lengths
            .push(u32::try_from(row.len()).unwrap_or(u32::MAX));
        self.index.prefixes.extend(row.prefix);
        Ok(())
    }

    /// Notes a document whose first id lies in this shard, in stream order.
    pub fn document(&mut self, record: DocumentRecord) {
        self.index.documents.push(record);
    }

    /// Ids written so far.
    pub fn ids(&self) -> u64 {
        self.header.ids
    }

    /// Documents noted so far.
    pub fn documents(&self) -> usize {
        self.index.documents.len()
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// Makes both files durable under their names.
    pub fn finish(mut self) -> Result<ShardRecord, Error> {
        let (home, data) = match self.body {
            Body::Binary(mut blocks) => {
                let (sums, digest) = blocks.publish(&self.header.to_bytes())?;
                self.index.blocks = sums;
                (Home::Binary, digest)
            }
            Body::Parquet(writer) => {
                let written = writer.finish()?;
                self.index.runs = written.runs;
                self.index.blocks = written.blocks;
                let bytes = written.bytes;
                (Home::Parquet { bytes }, written.digest)
            }
        };
        let index = self.index.to_bytes(&self.header, home);
        fs::write(&self.idx, &index)?;
        let aux = self
            .aux
            .map(|aux| aux.finish(&self.header))
            .transpose()?
            .flatten();
        Ok(ShardRecord {
            name: self.name,
            rows: self.header.rows,
            ids: self.header.ids,
            documents: self.index.documents.len() as u64,
            bin: data.filter(|_| home == Home::Binary),
            parquet: data.filter(|_| home != Home::Binary),
            idx: Digest::of(&index),
            aux,
        })
    }

    fn check(&self, row: &Sequence) -> Result<(), RowFault> {
        let length = row.len();
        let ids = self.header.ids + length as u64;
        if self.row_length < length {
            let row_length = self.row_length;
            return Err(RowFault::Long { length, row_length });
        }
        if IDS_MAX <= ids {
            return Err(RowFault::Full { ids });
        }
        match (self.header.stage, row.prefix) {
            (Stage::Pretrain, Some(_)) => Err(RowFault::UnexpectedPrefix),
            (Stage::Finetune, None) => Err(RowFault::MissingPrefix),
            (Stage::Finetune, Some(prefix)) if (length as u64) < u64::from(prefix) => {
                Err(RowFault::LongPrefix { prefix, length })
            }
            _ => match &self.aux {
                Some(aux) if !aux.holds(row) => Err(RowFault::Stored),
                None if row.stored.is_some() => Err(RowFault::Stored),
                _ => Ok(()),
            },
        }
    }
}

impl ShardSpec {
    /// The shard of a dataset that has this header.
    pub fn of(header: &Header, manifest: &Manifest) -> Self {
        Self {
            format: manifest.shard_format,
            id_width: header.id_width,
            vocab_size: header.vocab_size,
            reserved: manifest.tokenizer.reserved,
            row_length: usize::try_from(header.row_length).unwrap_or(usize::MAX),
            stage: header.stage,
            tokenizer: header.tokenizer,
            unit: header.unit,
            part: header.part,
            fields: manifest.pause.on_disk().fields(),
        }
    }

    /// The header of a shard without rows.
    fn header(&self) -> Header {
        Header {
            version: match self.format {
                ShardFormat::Binary => Version::NEWEST,
                // Its blocks are those of a file that holds more than rows.
                ShardFormat::Parquet => Version::One,
            },
            ids: 0,
            rows: 0,
            id_width: self.id_width,
            vocab_size: self.vocab_size,
            reserved: self.reserved.basic(),
            row_length: u32::try_from(self.row_length).unwrap_or(u32::MAX),
            stage: self.stage,
            unit: self.unit,
            part: self.part,
            tokenizer: self.tokenizer,
        }
    }
}

/// Checks that every id of a row is in the vocabulary.
fn check_ids(row: &Sequence, vocab_size: u32) -> Result<(), RowFault> {
    match outside(&row.ids, vocab_size) {
        None => Ok(()),
        Some((position, id)) => Err(RowFault::Id {
            id: id.0,
            position,
            vocab_size,
        }),
    }
}

/// Appends the ids of a row as little-endian numbers, which must fit the width; returns the
/// largest.
pub fn append_ids(bytes: &mut Vec<u8>, row: &Sequence, width: IdWidth) -> Option<TokenId> {
    match width {
        IdWidth::U16 => wide::narrow(&row.ids, bytes),
        IdWidth::U32 => {
            let before = bytes.len();
            bytes.resize(before + 4 * row.len(), 0);
            let places = bytes.get_mut(before..).unwrap_or_default();
            for (place, id) in places.as_chunks_mut().0.iter_mut().zip(&row.ids) {
                *place = id.0.to_le_bytes();
            }
            row.ids.iter().max().copied()
        }
    }
}
