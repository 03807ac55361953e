//! Exact duplicates: which documents of a corpus say what an earlier one said.
//!
//! The whole corpus is read once before anything is made of it. Each document
//! leaves a record of its text's digest and its place; sorted by both, all but
//! the first of equal digests are duplicates. Their places, sorted again, are a
//! file that looks the same whoever writes it, however many threads or
//! partitions there are.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::normalize::Normalize;
use super::sort::{Limits, Sorter};
use crate::corpus::{self, Corpus};
use crate::digest::Digest;
use crate::document::{Document, DocumentId, Text};
use crate::fs;
use crate::progress::{Progress, Stop};

/// Which documents are duplicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dedup {
    /// Those whose text, after `normalize`, is that of an earlier document of the stage:
    /// the first in the order of the sources stays.
    Exact,
}

/// Why duplicates could not be found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The sources are wrong.
    #[error(transparent)]
    Corpus(#[from] corpus::Error),
    /// A signal asked to stop.
    #[error("stopped before all duplicates were found")]
    Stopped,
}

/// Bytes of a digest: 2^64 texts are needed before two are likely to share one.
const DIGEST_BYTES: usize = 16;
/// A place, as sorted records hold it: file and row, big-endian.
const PLACE_BYTES: usize = 4 + 8;
const RECORD_BYTES: usize = DIGEST_BYTES + PLACE_BYTES;
/// The BLAKE3 of the places before it, which ends the file.
const SEAL_BYTES: usize = 32;
/// Places read at a time.
const BLOCK: usize = 256;
const BLOCK_BYTES: u64 = (BLOCK * PLACE_BYTES) as u64;

type Place = [u8; PLACE_BYTES];
type Record = [u8; RECORD_BYTES];

/// The duplicates of a corpus, on disk.
#[derive(Debug)]
pub struct Duplicates {
    file: std::fs::File,
    path: std::path::PathBuf,
    /// The first place of each block.
    firsts: Vec<Place>,
    places: u64,
}

impl Duplicates {
    /// Opens the file at `path`; none where it is missing or not whole.
    pub fn open(path: &Path) -> Result<Option<Self>, fs::Error> {
        if !path.is_file() {
            return Ok(None);
        }
        let found = Self {
            file: fs::open(path)?,
            path: path.into(),
            firsts: Vec::new(),
            places: fs::size(path)?.saturating_sub(SEAL_BYTES as u64) / PLACE_BYTES as u64,
        };
        found.index()
    }

    /// How many documents are duplicates.
    pub fn len(&self) -> u64 {
        self.places
    }

    /// Whether no document is.
    pub fn is_empty(&self) -> bool {
        self.places == 0
    }

    /// Whether the document says what an earlier one said.
    pub fn contains(&self, id: DocumentId) -> Result<bool, fs::Error> {
        let place = place(id);
        let after = self.firsts.partition_point(|first| *first <= place);
        match after.checked_sub(1) {
            None => Ok(false),
            Some(block) => Ok(self.block(block as u64)?.contains(&place)),
        }
    }

    /// Reads all once: the seal must hold, and each block's first place is kept.
    fn index(mut self) -> Result<Option<Self>, fs::Error> {
        let mut hasher = blake3::Hasher::new();
        for number in 0..self.places.div_ceil(BLOCK as u64) {
            let block = self.block(number)?;
            hasher.update(block.as_flattened());
            self.firsts.extend(block.first());
        }
        let mut seal = [0; SEAL_BYTES];
        let at = self.places * PLACE_BYTES as u64;
        let read = self.file.read_exact_at(&mut seal, at);
        let whole = fs::size(&self.path)? == at + SEAL_BYTES as u64;
        let sound = whole && read.is_ok() && *hasher.finalize().as_bytes() == seal;
        Ok(sound.then_some(self))
    }

    fn block(&self, number: u64) -> Result<Vec<Place>, fs::Error> {
        let first = number * BLOCK as u64;
        let places = self.places.saturating_sub(first).min(BLOCK as u64);
        let mut block = vec![[0; PLACE_BYTES]; usize::try_from(places).unwrap_or(BLOCK)];
        self.file
            .read_exact_at(block.as_flattened_mut(), number * BLOCK_BYTES)
            .map_err(fs::Error::new("read", &self.path))?;
        Ok(block)
    }
}

/// Reads the corpus and writes its duplicates to `path`.
///
/// `scratch` is the folder of temporary files, the caller's to remove; they take at most
/// 56 bytes a document.
pub fn find(
    corpus: &Corpus,
    normalize: Normalize,
    (path, scratch): (&Path, &Path),
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Duplicates, Error> {
    write(corpus, normalize, (path, scratch), progress, stop)?;
    let damaged = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let opened = Duplicates::open(path)?;
    opened.ok_or_else(|| fs::Error::new("read back", path)(damaged()).into())
}

fn write(
    corpus: &Corpus,
    normalize: Normalize,
    (path, scratch): (&Path, &Path),
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    let records = Mutex::new(Sorter::<RECORD_BYTES>::new(scratch, Limits::USUAL));
    corpus.units().into_par_iter().try_for_each(|files| {
        corpus.blocks(files).par_bridge().try_for_each(|block| {
            if stop.requested() {
                return Err(Error::Stopped);
            }
            let block = block?;
            let read = block.read();
            let record = |document: Result<Document, _>| document.map(|it| record(it, normalize));
            let batch = block.map(record).collect::<Result<Vec<_>, _>>()?;
            hand_over(&records, batch)?;
            progress.advance(read);
            Ok(())
        })
    })?;
    let records = records
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut sorted = records.finish()?;
    let mut places = Sorter::<PLACE_BYTES>::new(scratch, Limits::USUAL);
    let mut before = None;
    while let Some(record) = sorted.next()? {
        let (digest, place) = split(&record);
        if before == Some(digest) {
            places.push(place)?;
        }
        before = Some(digest);
    }
    let (mut places, mut hasher) = (places.finish()?, blake3::Hasher::new());
    let mut output = fs::Output::create(path)?;
    while let Some(place) = places.next()? {
        hasher.update(&place);
        output.write_all(&place)?;
    }
    output.write_all(hasher.finalize().as_bytes())?;
    Ok(output.publish()?)
}

fn hand_over(records: &Mutex<Sorter<RECORD_BYTES>>, batch: Vec<Record>) -> Result<(), fs::Error> {
    let mut records = records
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    batch
        .into_iter()
        .try_for_each(|record| records.push(record))
}

fn record(document: Document, normalize: Normalize) -> Record {
    let digest = digest(&normalize.apply(document.text));
    let mut record = [0; RECORD_BYTES];
    for (to, from) in record
        .iter_mut()
        .zip(digest.into_iter().chain(place(document.id)))
    {
        *to = from;
    }
    record
}

fn split(record: &Record) -> ([u8; DIGEST_BYTES], Place) {
    let (digest, place) = record
        .split_first_chunk()
        .unwrap_or((&[0; DIGEST_BYTES], &[]));
    (*digest, place.first_chunk().copied().unwrap_or_default())
}

fn place(id: DocumentId) -> Place {
    let bytes = id
        .file
        .to_be_bytes()
        .into_iter()
        .chain(id.row.to_be_bytes());
    let mut place = [0; PLACE_BYTES];
    for (to, from) in place.iter_mut().zip(bytes) {
        *to = from;
    }
    place
}

/// The digest of a document's text: the first half of its BLAKE3; examples join
/// prefix and target with a zero byte.
pub fn digest(text: &Text) -> [u8; DIGEST_BYTES] {
    let digest = match text {
        Text::Plain(text) => Digest::of(text.as_bytes()),
        Text::Example { prefix, target } => Digest::of(format!("{prefix}\0{target}").as_bytes()),
    };
    digest.0.first_chunk().copied().unwrap_or_default()
}
