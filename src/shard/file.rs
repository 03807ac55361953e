//! Shards as files: written in one pass, mapped, checked where touched.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::aux::Aux;
use super::index::{DocumentRecord, Home, Index};
use super::layout::{Fault, HEADER_BYTES, Header, RawHeader};
use super::touched::Touched;
use super::{Error, parquet};
use crate::digest::Digest;
use crate::fs;
use crate::manifest::{Manifest, SHARDS, ShardFormat, ShardRecord};
use crate::row::{Ids, RowView};
use crate::sequence::Sequence;
use crate::token::{Reserved, TokenId};

/// A mapped shard; threads may share it.
#[derive(Debug)]
pub struct Shard {
    record: ShardRecord,
    /// The file with the ids.
    data: PathBuf,
    idx: PathBuf,
    header: Header,
    home: Home,
    ids: Mmap,
    index_bytes: Mmap,
    index: Index,
    touched: Touched,
    n_files: usize,
    /// The reserved ids, extra pauses included.
    reserved: Reserved,
    aux: Option<Aux>,
    /// Ids before each row, where pointers do not tell it: in a Parquet shard with stored targets.
    before: Vec<usize>,
}

impl Shard {
    /// Maps a shard of the dataset in `folder` after checking lengths, header and index.
    ///
    /// The manifest vouches for the index by its digest, and the index for the
    /// header and every block of ids by their checksums; blocks are checked
    /// when a row first touches them.
    pub fn open(folder: &Path, record: &ShardRecord, manifest: &Manifest) -> Result<Self, Error> {
        let format = manifest.shard_format;
        let [data, idx, aux] = paths(folder, &record.name, format).map_err(damaged(folder))?;
        let (index_bytes, header, home, index, ids) = match format {
            ShardFormat::Binary => {
                let (header, ids) = open_bin(&data, record, manifest)?;
                let too_many = || Fault::new("count of documents", "fewer", record.documents);
                let length = Index::length(&header, Home::Binary, record.documents)
                    .ok_or_else(too_many)
                    .map_err(damaged(&idx))?;
                let bytes = map(&open_of_length(&idx, length)?, &idx)?;
                let index = read_index(&bytes, &idx, (&header, Home::Binary), record)?;
                (bytes, header, Home::Binary, index, ids)
            }
            ShardFormat::Parquet => {
                let bytes = map(&fs::open(&idx)?, &idx)?;
                let (header, home) = Index::parquet_home(&bytes).map_err(damaged(&idx))?;
                agrees(&header, record, manifest).map_err(damaged(&idx))?;
                let index = read_index(&bytes, &idx, (&header, home), record)?;
                let ids = map(&open_of_length(&data, home.length(&header))?, &data)?;
                (bytes, header, home, index, ids)
            }
        };
        let touched = Touched::new(home.blocks_start()..ids.len());
        let fields = manifest.pause.on_disk().fields();
        let aux = Aux::open(aux, (fields, record.aux), &header)?;
        let mut before = Vec::new();
        if aux.is_some() && format == ShardFormat::Parquet {
            let rows = (0..header.rows).map_while(|row| index.row(&index_bytes, row));
            before.extend(rows.scan(0, |sum, (_, length, _)| {
                *sum += length;
                Some(*sum - length)
            }));
        }
        Ok(Self {
            record: record.clone(),
            data,
            idx,
            header,
            home,
            ids,
            index_bytes,
            index,
            touched,
            n_files: manifest.corpus.len(),
            reserved: manifest.tokenizer.reserved,
            aux,
            before,
        })
    }

    /// What the manifest says about the shard.
    pub fn record(&self) -> &ShardRecord {
        &self.record
    }

    /// The header of the `.bin` file, or the one that it would have.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How many rows there are.
    pub fn rows(&self) -> u64 {
        self.header.rows
    }

    /// A copy of one row; reads and checks only the blocks it lies in.
    pub fn row(&self, row: u64) -> Result<Sequence, Error> {
        self.see(row, |row| row.to_sequence())
    }

    /// How many ids a row holds, and how many of them are prefix; reads the index alone.
    pub fn shape(&self, row: u64) -> Result<(usize, Option<u32>), Error> {
        let found = self.index.row(&self.index_bytes, row);
        let shape = found.map(|(_, length, prefix)| (length, prefix));
        shape.ok_or_else(|| Error::NoRow {
            path: self.data.clone(),
            row,
            rows: self.header.rows,
        })
    }

    /// Shows one row to `see`, without a copy.
    pub fn see<T>(&self, row: u64, see: impl FnOnce(RowView<'_>) -> T) -> Result<T, Error> {
        let no_row = || Error::NoRow {
            path: self.data.clone(),
            row,
            rows: self.header.rows,
        };
        let (start, length, prefix) = self.index.row(&self.index_bytes, row).ok_or_else(no_row)?;
        let width = self.home.id_width(&self.header);
        let bytes = start..start + length * width.bytes();
        self.check_blocks(&bytes)?;
        let bytes = self.ids.get(bytes).ok_or_else(no_row)?;
        let ids = Ids::from_bytes(bytes, width);
        let vocab_size = self.header.vocab_size;
        if ids.largest().is_some_and(|id| vocab_size <= id.0)
            && let Some((position, id)) = outside(&ids.to_vec(), vocab_size)
        {
            let below = format!("an id below {}", self.header.vocab_size);
            let fault = Fault::new(format!("position {position} of row {row}"), below, id.0);
            return Err(damaged(&self.data)(fault));
        }
        let place = usize::try_from(row).ok();
        let first = match place.and_then(|row| self.before.get(row)) {
            Some(first) => *first,
            None => start.saturating_sub(HEADER_BYTES) / self.header.id_width.bytes(),
        };
        let stored = self.aux.as_ref().map(|aux| aux.row(first..first + length));
        let stored = stored.transpose()?;
        Ok(see(RowView {
            ids,
            prefix,
            stored: stored.as_ref(),
        }))
    }

    /// The documents whose first id lies here, in stream order.
    pub fn documents(&self) -> Result<Vec<DocumentRecord>, Error> {
        let documents = self.index.documents(&self.index_bytes);
        for (n, document) in documents.iter().enumerate() {
            if self.n_files <= document.id.file as usize {
                let expected = format!("below {}", self.n_files);
                let fault = Fault::new(format!("file of document {n}"), expected, document.id.file);
                return Err(damaged(&self.idx)(fault));
            }
        }
        Ok(documents)
    }

    /// Checks every block, then the whole file with the ids against the manifest, and
    /// in a Parquet shard that every column holds what follows from the ids.
    pub fn verify(&self) -> Result<(), Error> {
        self.check_blocks(&(self.home.blocks_start()..self.ids.len()))?;
        let digest = Digest::of(&self.ids);
        let expected = self.record.bin.or(self.record.parquet);
        if expected != Some(digest) {
            let expected = expected.map_or_else(String::new, |digest| digest.to_string());
            let fault = Fault::new("BLAKE3 of the file", expected, digest);
            return Err(damaged(&self.data)(fault));
        }
        self.verify_columns()?;
        self.aux.as_ref().map_or(Ok(()), Aux::verify)
    }

    /// Checks that every column of a Parquet shard holds what follows from the ids, as other
    /// readers decode it; a binary shard has none.
    pub fn verify_columns(&self) -> Result<(), Error> {
        match self.home {
            Home::Binary => Ok(()),
            Home::Parquet { .. } => {
                let mut rows = (0..self.rows()).map(|row| self.row(row));
                let header = Header {
                    reserved: self.reserved,
                    ..self.header.clone()
                };
                parquet::check_columns(&self.data, &header, &mut rows)
            }
        }
    }

    /// Checks the blocks that a range of the file with the ids touches, once each.
    fn check_blocks(&self, bytes: &Range<usize>) -> Result<(), Error> {
        let expected = |block| self.index.block(&self.index_bytes, block);
        self.touched
            .check(&self.ids, bytes, |block| {
                expected(block).unwrap_or_default()
            })
            .map_err(damaged(&self.data))
    }
}

/// Maps a `.bin` file whose length and header agree with the manifest.
fn open_bin(
    path: &Path,
    record: &ShardRecord,
    manifest: &Manifest,
) -> Result<(Header, Mmap), Error> {
    let width = manifest.id_width.bytes() as u64;
    let length = record
        .ids
        .saturating_mul(width)
        .saturating_add(HEADER_BYTES as u64);
    let mut file = open_of_length(path, length)?;
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact(&mut bytes)
        .map_err(fs::Error::new("read", path))?;
    let header = RawHeader::parse(&bytes)
        .and_then(RawHeader::check)
        .map_err(damaged(path))?;
    agrees(&header, record, manifest).map_err(damaged(path))?;
    Ok((header, map(&file, path)?))
}

/// The index of a shard, if it is the one that the manifest means.
pub(super) fn read_index(
    bytes: &[u8],
    path: &Path,
    (header, home): (&Header, Home),
    record: &ShardRecord,
) -> Result<Index, Error> {
    // The structure first: it tells better what is wrong.
    let index = Index::parse(bytes, header, home).map_err(damaged(path))?;
    let digest = Digest::of(bytes);
    if digest != record.idx {
        let fault = Fault::new("BLAKE3 of the file", record.idx, digest);
        return Err(damaged(path)(fault));
    }
    Ok(index)
}

/// Checks that a header says what the manifest does.
pub(super) fn agrees(
    header: &Header,
    record: &ShardRecord,
    manifest: &Manifest,
) -> Result<(), Fault> {
    let expected = Header {
        ids: record.ids,
        rows: record.rows,
        id_width: manifest.id_width,
        vocab_size: manifest.tokenizer.vocab_size,
        reserved: manifest.tokenizer.reserved.basic(),
        row_length: u32::try_from(manifest.row_length).unwrap_or(u32::MAX),
        stage: manifest.stage,
        tokenizer: manifest.tokenizer.digest,
        ..header.clone()
    };
    match difference(&expected, header) {
        Some(fault) => Err(fault),
        None => Ok(()),
    }
}

/// The first field in which a header differs from what the manifest says.
fn difference(expected: &Header, found: &Header) -> Option<Fault> {
    let pairs = [
        (
            "count of ids",
            expected.ids.to_string(),
            found.ids.to_string(),
        ),
        (
            "count of rows",
            expected.rows.to_string(),
            found.rows.to_string(),
        ),
        (
            "tokenizer",
            expected.tokenizer.to_string(),
            found.tokenizer.to_string(),
        ),
        ("fields", format!("{expected:?}"), format!("{found:?}")),
    ];
    pairs
        .into_iter()
        .find(|(_, expected, found)| expected != found)
        .map(|(field, expected, found)| {
            Fault::new(format!("{field} in the header"), expected, found)
        })
}

/// The files of a shard; its name must be one that this program would give.
pub(super) fn paths(folder: &Path, name: &str, format: ShardFormat) -> Result<[PathBuf; 3], Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(allowed) {
        let expected = "letters, digits, `-` and `_`";
        return Err(Fault::new("name of the shard", expected, name));
    }
    let shards = folder.join(SHARDS);
    Ok([
        shards.join(format!("{name}.{}", format.ending())),
        shards.join(format!("{name}.idx")),
        shards.join(format!("{name}.aux")),
    ])
}

pub(super) fn open_of_length(path: &Path, expected: u64) -> Result<File, Error> {
    let file = fs::open(path)?;
    let found = file.metadata().map_err(fs::Error::new("read", path))?.len();
    if found != expected {
        return Err(damaged(path)(Fault::new(
            "length in bytes",
            expected,
            found,
        )));
    }
    Ok(file)
}

/// Maps a whole file for reading.
pub(super) fn map(file: &File, path: &Path) -> Result<Mmap, Error> {
    // SAFETY: published shards are never written to again: this program
    // replaces files by rename, which leaves the mapped ones as they were.
    // Bytes that another program changes meanwhile are caught by the checksums
    // at first touch (`a_flipped_byte_or_a_cut_is_found` defends them); a file
    // that it shortens while it is mapped ends the process with SIGBUS.
    let map = unsafe { Mmap::map(file) };
    Ok(map.map_err(fs::Error::new("map", path))?)
}

/// The first id that is not in the vocabulary, and where it stands.
pub(super) fn outside(ids: &[TokenId], vocab_size: u32) -> Option<(usize, TokenId)> {
    // Without an early end this is a few instructions for sixteen ids.
    let largest = ids.iter().fold(0, |largest, id| id.0.max(largest));
    if ids.is_empty() || largest < vocab_size {
        return None;
    }
    let mut found = ids.iter().copied().enumerate();
    found.find(|(_, id)| vocab_size <= id.0)
}

pub(super) fn damaged(path: &Path) -> impl FnOnce(Fault) -> Error {
    let path = path.to_path_buf();
    move |fault| Error::Damaged {
        path,
        field: fault.field,
        expected: fault.expected,
        found: fault.found,
    }
}

#[cfg(test)]
mod tests;
