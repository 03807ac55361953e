//! Shards as files: mapped or read, checked where touched.

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::aux::Aux;
use super::bytes::{Bytes, Reading, damaged};
use super::index::{DocumentRecord, Home, Index};
use super::layout::{Fault, HEADER_BYTES, Header, RawHeader};
use super::touched::{Ahead, Touched};
use super::{Error, parquet};
use crate::digest::Digest;
use crate::fs::mapped::Lines;
use crate::manifest::{Manifest, SHARDS, ShardFormat, ShardRecord};
use crate::row::{Ids, RowView};
use crate::sequence::{Sequence, Stored};
use crate::token::{Reserved, TokenId};

/// A shard that was opened; threads may share it.
#[derive(Debug)]
pub struct Shard {
    record: ShardRecord,
    header: Header,
    home: Home,
    /// The file with the ids.
    ids: Bytes,
    idx: Bytes,
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
    /// Maps a shard of the dataset in `folder`; see [`Shard::open_by`].
    pub fn open(folder: &Path, record: &ShardRecord, manifest: &Manifest) -> Result<Self, Error> {
        Self::open_by(Reading::Mmap, folder, record, manifest)
    }

    /// Opens a shard of the dataset in `folder` after checking lengths, header and index.
    ///
    /// The manifest vouches for the index by its digest, and the index for the
    /// header and every block of ids by their checksums; blocks are checked
    /// when a row first touches them.
    pub fn open_by(
        reading: Reading,
        folder: &Path,
        record: &ShardRecord,
        manifest: &Manifest,
    ) -> Result<Self, Error> {
        let format = manifest.shard_format;
        let [data, idx, aux] = paths(folder, &record.name, format).map_err(damaged(folder))?;
        let (idx, header, home, index, ids) = match format {
            ShardFormat::Binary => {
                let (header, ids) = open_bin(&data, record, manifest, reading)?;
                let too_many = || Fault::new("count of documents", "fewer", record.documents);
                let length = Index::length(&header, Home::Binary, record.documents)
                    .ok_or_else(too_many)
                    .map_err(damaged(&idx))?;
                let idx = Bytes::open(&idx, Some(length), reading)?;
                let index = read_index(&idx, (&header, Home::Binary), record)?;
                (idx, header, Home::Binary, index, ids)
            }
            ShardFormat::Parquet => {
                let idx = Bytes::open(&idx, None, reading)?;
                let (header, home) = idx.parse(Index::parquet_home)?;
                agrees(&header, record, manifest).map_err(damaged(idx.path()))?;
                let index = read_index(&idx, (&header, home), record)?;
                let ids = Bytes::open(&data, Some(home.length(&header)), reading)?;
                (idx, header, home, index, ids)
            }
        };
        let blocks = home.blocks_start()..ids.len();
        let mut touched = Touched::new(blocks, home.block_bytes(&header));
        if format == ShardFormat::Binary {
            touched = touched.of_ids(header.id_width, header.vocab_size);
        }
        let stored = (manifest.pause.on_disk().fields(), record.aux);
        let aux = Aux::open(aux, stored, &header, reading)?;
        let mut before = Vec::new();
        if aux.is_some() && format == ShardFormat::Parquet {
            before = idx.parse(|bytes| {
                let rows = (0..header.rows).map_while(|row| index.row(bytes, row));
                let starts = rows.scan(0, |sum, (_, length, _)| {
                    *sum += length;
                    Some(*sum - length)
                });
                Ok(starts.collect())
            })?;
        }
        Ok(Self {
            record: record.clone(),
            header,
            home,
            ids,
            idx,
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
        let (bytes, prefix) = self.place(row)?;
        let width = self.home.id_width(&self.header);
        Ok((bytes.len() / width.bytes(), prefix))
    }

    /// Shows one row to `see`, without a copy where files are mapped.
    ///
    /// What `see` was shown does not count where this fails.
    pub fn see<T>(&self, row: u64, see: impl FnOnce(RowView<'_>) -> T) -> Result<T, Error> {
        let (bytes, prefix) = self.place(row)?;
        let Some(aux) = &self.aux else {
            return self.see_ids((row, 0), bytes, prefix, None, see);
        };
        thread_local! {
            /// What stood beside the ids of the last row, kept for its memory.
            static STORED: Cell<Stored> = const { Cell::new(Stored::NONE) };
        }
        let mut stored = STORED.take();
        aux.row(self.records(row, &bytes), &mut stored)?;
        let seen = self.see_ids((row, 0), bytes, prefix, Some(&stored), see);
        STORED.set(stored);
        seen
    }

    /// Shows `n` of a row's ids to `see`, from a position on, and how many the row has; reads
    /// and checks no others. As [`Shard::see`].
    pub fn see_part<T>(
        &self,
        row: u64,
        (from, n): (usize, usize),
        see: impl FnOnce(Ids<'_>, usize) -> T,
    ) -> Result<T, Error> {
        let (bytes, _) = self.place(row)?;
        let width = self.home.id_width(&self.header).bytes();
        let length = bytes.len() / width;
        let from = from.min(length);
        let start = bytes.start + from * width;
        let bytes = start..start + n.min(length - from) * width;
        self.see_ids((row, from), bytes, None, None, |row| see(row.ids, length))
    }

    /// Shows `n` ids to `see` that stand behind one another from a position of a row on,
    /// whatever rows they are of, or as many as there are to the end of the file: of a shard
    /// that [is one run](Shard::is_run). As [`Shard::see`].
    pub fn see_run<T>(
        &self,
        row: u64,
        (from, n): (usize, usize),
        see: impl FnOnce(Ids<'_>) -> T,
    ) -> Result<T, Error> {
        let bytes = self.run(row, (from, n))?;
        self.see_ids((row, from), bytes, None, None, |row| see(row.ids))
    }

    /// Whether its rows have `length` ids each, but for the last, and stand behind one another.
    pub fn is_run(&self, length: usize) -> bool {
        self.index.even() == Some(length)
    }

    /// The bytes of `n` ids from a position of a row on, as far as the file goes.
    fn run(&self, row: u64, (from, n): (usize, usize)) -> Result<Range<usize>, Error> {
        let (bytes, _) = self.place(row)?;
        let width = self.home.id_width(&self.header).bytes();
        let end = self.ids.len();
        let start = bytes.start.saturating_add(from * width).min(end);
        Ok(start..start.saturating_add(n.saturating_mul(width)).min(end))
    }

    fn see_ids<T>(
        &self,
        at: (u64, usize),
        bytes: Range<usize>,
        prefix: Option<u32>,
        stored: Option<&Stored>,
        see: impl FnOnce(RowView<'_>) -> T,
    ) -> Result<T, Error> {
        let width = self.home.id_width(&self.header);
        let sums = |block| self.sum(block);
        self.touched.see(&self.ids, bytes, sums, |bytes| {
            let ids = Ids::from_bytes(bytes, width);
            if let Home::Parquet { .. } = self.home {
                // Its blocks hold other things, too.
                self.check_ids(at, ids)?;
            }
            Ok(see(RowView {
                ids,
                prefix,
                stored,
            }))
        })
    }

    /// Takes all blocks for right that no row has touched yet.
    pub fn trust_blocks(&self) {
        self.touched.trust();
        self.aux.iter().for_each(Aux::trust_blocks);
    }

    /// Says that a row will be read soon, so that the system may get it from its disk.
    pub fn will_need(&self, row: u64, ahead: Ahead) {
        // A row that cannot be placed is an error when it is read.
        if let Ok((bytes, _)) = self.place(row) {
            self.touched.will_need(&self.ids, &bytes, ahead);
            if let Some(aux) = &self.aux {
                aux.will_need(self.records(row, &bytes), ahead);
            }
        }
    }

    /// The ids of a row, or those of a [run](Shard::see_run) from it on, for the processor to
    /// get them from memory; it is told of the checksum that they are compared with.
    pub fn lines(&self, row: u64, run: Option<(usize, usize)>) -> Lines<'_> {
        let bytes = match run {
            None => self.place(row).map(|(bytes, _)| bytes),
            Some(run) => self.run(row, run),
        };
        // A row that cannot be placed is an error when it is read.
        let bytes = bytes.unwrap_or_default();
        if let Some(block) = self.touched.first_unchecked(&bytes) {
            let sum = self.index.block(block);
            self.idx.lines(&(sum..sum + 8)).fetch();
        }
        self.ids.lines(&bytes)
    }

    /// The bytes of a row's ids, and its prefix.
    fn place(&self, row: u64) -> Result<(Range<usize>, Option<u32>), Error> {
        if let Some(bytes) = self.index.even_row(row, self.ids.len()) {
            return Ok((bytes, None));
        }
        let place = self.index.place(row).ok_or_else(|| Error::NoRow {
            path: self.ids.path().to_path_buf(),
            row,
            rows: self.header.rows,
        })?;
        // The index was checked: what it says lies in the file, and the rows of a `.bin`
        // fill it, each up to the next.
        let position = |bytes| usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        let (start, end) = match self.home {
            Home::Binary if row + 1 < self.header.rows => {
                let both: [u8; 16] = self.idx.array(place.start)?;
                match both.as_chunks().0 {
                    [start, end] => (position(*start), position(*end)),
                    _ => (0, 0),
                }
            }
            Home::Binary => (position(self.idx.array(place.start)?), self.ids.len()),
            Home::Parquet { .. } => {
                let start = position(self.idx.array(place.start)?);
                let length = u32::from_le_bytes(self.idx.array(place.length)?) as usize;
                let width = self.home.id_width(&self.header);
                (start, start.saturating_add(length * width.bytes()))
            }
        };
        let prefix = place.prefix.map(|at| self.idx.array(at)).transpose()?;
        Ok((start..end, prefix.map(u32::from_le_bytes)))
    }

    /// Which records of the `.aux` are a row's: those of its ids, counted over the shard.
    fn records(&self, row: u64, bytes: &Range<usize>) -> Range<usize> {
        let place = usize::try_from(row).ok();
        let first = match place.and_then(|row| self.before.get(row)) {
            Some(first) => *first,
            None => bytes.start.saturating_sub(HEADER_BYTES) / self.header.id_width.bytes(),
        };
        first..first + bytes.len() / self.home.id_width(&self.header).bytes()
    }

    /// Checks that ids of a row, from a position on, are in the vocabulary.
    fn check_ids(&self, (row, from): (u64, usize), ids: Ids<'_>) -> Result<(), Error> {
        let vocab_size = self.header.vocab_size;
        if ids.largest().is_some_and(|id| vocab_size <= id.0)
            && let Some((position, id)) = outside(&ids.to_vec(), vocab_size)
        {
            let below = format!("an id below {vocab_size}");
            let position = from + position;
            let fault = Fault::new(format!("position {position} of row {row}"), below, id.0);
            return Err(self.ids.damaged(fault));
        }
        Ok(())
    }

    /// The documents whose first id lies here, in stream order.
    pub fn documents(&self) -> Result<Vec<DocumentRecord>, Error> {
        let documents = (self.idx).parse(|bytes| Ok(self.index.documents(bytes)))?;
        for (n, document) in documents.iter().enumerate() {
            if self.n_files <= document.id.file as usize {
                let expected = format!("below {}", self.n_files);
                let fault = Fault::new(format!("file of document {n}"), expected, document.id.file);
                return Err(self.idx.damaged(fault));
            }
        }
        Ok(documents)
    }

    /// Checks every block, then the whole file with the ids against the manifest, and
    /// in a Parquet shard that every column holds what follows from the ids.
    pub fn verify(&self) -> Result<(), Error> {
        let sums = |block| self.sum(block);
        self.touched.check_all(&self.ids, sums)?;
        let digest = self.ids.digest()?;
        let expected = self.record.bin.or(self.record.parquet);
        if expected != Some(digest) {
            let expected = expected.map_or_else(String::new, |digest| digest.to_string());
            let fault = Fault::new("BLAKE3 of the file", expected, digest);
            return Err(self.ids.damaged(fault));
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
                parquet::check_columns(self.ids.path(), &header, &mut rows)
            }
        }
    }

    /// The checksum that a block of the file with the ids must have.
    fn sum(&self, block: usize) -> Result<u64, Error> {
        let sum = self.idx.array(self.index.block(block))?;
        Ok(u64::from_le_bytes(sum))
    }
}

/// Opens a `.bin` file whose length and header agree with the manifest.
fn open_bin(
    path: &Path,
    record: &ShardRecord,
    manifest: &Manifest,
    reading: Reading,
) -> Result<(Header, Bytes), Error> {
    let width = manifest.id_width.bytes() as u64;
    let length = record
        .ids
        .saturating_mul(width)
        .saturating_add(HEADER_BYTES as u64);
    let file = Bytes::open(path, Some(length), reading)?;
    let header = RawHeader::parse(&file.array::<HEADER_BYTES>(0)?)
        .and_then(RawHeader::check)
        .map_err(damaged(path))?;
    agrees(&header, record, manifest).map_err(damaged(path))?;
    Ok((header, file))
}

/// The index of a shard, if it is the one that the manifest means.
pub(super) fn read_index(
    file: &Bytes,
    (header, home): (&Header, Home),
    record: &ShardRecord,
) -> Result<Index, Error> {
    file.parse(|bytes| {
        // The structure first: it tells better what is wrong.
        let index = Index::parse(bytes, header, home)?;
        let digest = Digest::of(bytes);
        match digest == record.idx {
            true => Ok(index),
            false => Err(Fault::new("BLAKE3 of the file", record.idx, digest)),
        }
    })
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

#[cfg(test)]
mod tests;
