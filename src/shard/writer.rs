//! Writes shards in one pass.

use std::path::{Path, PathBuf};

use super::aux::AuxWriter;
use super::blocks::Blocks;
use super::file::{outside, paths};
use super::index::{DocumentRecord, Home, IndexParts};
use super::layout::{Fault, Header, IDS_MAX, check_values};
use super::{Error, RowFault, parquet};
use crate::digest::Digest;
use crate::fs;
use crate::manifest::{Manifest, ShardFormat, ShardRecord, Stage};
use crate::pause::Fields;
use crate::sequence::Sequence;
use crate::token::{IdWidth, Reserved};

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
    /// The file with the ids.
    data: PathBuf,
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
                Body::Binary(Box::new(Blocks::create(&data, &header.to_bytes())?))
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
        let aux = (spec.fields != Fields::default()).then(|| AuxWriter::create(aux, spec.fields));
        Ok(Self {
            name: name.into(),
            data,
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
        self.check(row).map_err(|fault| Error::Row {
            shard: self.name.clone(),
            row: self.header.rows,
            fault,
        })?;
        match &mut self.body {
            Body::Binary(blocks) => {
                append_ids(blocks.end(), row, self.header.id_width);
                blocks.write_full()?;
            }
            Body::Parquet(writer) => writer.push(row)?,
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
        let home = match self.body {
            Body::Binary(mut blocks) => {
                self.index.blocks = blocks.publish(&self.header.to_bytes())?;
                Home::Binary
            }
            Body::Parquet(writer) => {
                let written = writer.finish()?;
                self.index.runs = written.runs;
                self.index.blocks = written.blocks;
                Home::Parquet {
                    bytes: written.bytes,
                }
            }
        };
        let index = self.index.to_bytes(&self.header, home);
        fs::write(&self.idx, &index)?;
        let aux = self.aux.map(|aux| aux.finish(&self.header)).transpose()?;
        // Read back, because the header at the start of a `.bin` was known last.
        let data = Digest::of_file(&self.data)?;
        Ok(ShardRecord {
            name: self.name,
            rows: self.header.rows,
            ids: self.header.ids,
            documents: self.index.documents.len() as u64,
            bin: (home == Home::Binary).then_some(data),
            parquet: (home != Home::Binary).then_some(data),
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
        let vocab_size = self.header.vocab_size;
        if let Some((position, id)) = outside(&row.ids, vocab_size) {
            return Err(RowFault::Id {
                id: id.0,
                position,
                vocab_size,
            });
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

/// Appends the ids of a row, which must fit the width, as little-endian numbers.
pub fn append_ids(bytes: &mut Vec<u8>, row: &Sequence, width: IdWidth) {
    let before = bytes.len();
    bytes.resize(before + width.bytes() * row.len(), 0);
    let places = bytes.get_mut(before..).unwrap_or_default();
    match width {
        IdWidth::U16 => {
            for (place, id) in places.chunks_exact_mut(2).zip(&row.ids) {
                #[expect(clippy::cast_possible_truncation, reason = "the caller refuses others")]
                place.copy_from_slice(&(id.0 as u16).to_le_bytes());
            }
        }
        IdWidth::U32 => {
            for (place, id) in places.chunks_exact_mut(4).zip(&row.ids) {
                place.copy_from_slice(&id.0.to_le_bytes());
            }
        }
    }
}
