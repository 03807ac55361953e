//! Blocks: stretches of a file, read one after the other and parsed on any thread.
//!
//! Reading is what has to be done in order: bytes of whole lines, decompressed,
//! or a batch of a table. What is in them is found when a block is iterated.

use crate::document::{Document, DocumentId, Notes, Text};

use super::error::Error;
use super::{File, source};

/// Text that one block holds, about: a block ends with the record that fills it.
pub const BLOCK_BYTES: usize = 1 << 20;
/// Records that a block holds at most where they are made one at a time.
const BLOCK_RECORDS: usize = 4096;

/// Rows of one file, their text, and what the file says about it; found as they are asked for.
pub type Records = Box<dyn Iterator<Item = Record> + Send>;
/// A row, its text, and what the file says about it.
pub type Record = Result<(u64, Text, Notes), Error>;

/// What is read of a file at once.
pub struct Chunk {
    /// How much of the file was read for it.
    pub read: u64,
    /// What it holds in memory.
    pub bytes: usize,
    /// What is in it; nothing is parsed before the first is asked for.
    pub records: Records,
}

/// The chunks of one file, in order; after an error there are none.
pub type Chunks = Box<dyn Iterator<Item = Result<Chunk, Error>> + Send>;

/// Some documents of one file, in order, parsed as they are asked for. Empty
/// documents are among them; after an error there are none.
pub struct Block {
    file: u32,
    chunk: Chunk,
}

impl Block {
    /// How many bytes of the input files were read for it.
    pub fn read(&self) -> u64 {
        self.chunk.read
    }

    /// About how many bytes it holds in memory.
    pub fn bytes(&self) -> usize {
        self.chunk.bytes
    }
}

impl Iterator for Block {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.chunk.records.next()?;
        if record.is_err() {
            self.chunk.records = Box::new(std::iter::empty());
        }
        let file = self.file;
        Some(record.map(|(row, text, notes)| Document {
            id: DocumentId { file, row },
            text,
            notes,
        }))
    }
}

/// The blocks of some files, read as they are asked for; after an error there are none.
pub struct Blocks {
    files: std::vec::IntoIter<(u32, File)>,
    current: Option<(u32, Chunks)>,
}

impl Blocks {
    pub(super) fn new(files: Vec<(u32, File)>) -> Self {
        Self {
            files: files.into_iter(),
            current: None,
        }
    }

    fn read(&mut self) -> Result<Option<Block>, Error> {
        loop {
            if let Some((file, chunks)) = &mut self.current
                && let Some(chunk) = chunks.next()
            {
                let (file, chunk) = (*file, chunk?);
                return Ok(Some(Block { file, chunk }));
            }
            let Some((number, file)) = self.files.next() else {
                self.current = None;
                return Ok(None);
            };
            self.current = None;
            self.current = Some((number, source::open(&file)?));
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<Block, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let block = self.read().transpose();
        if matches!(block, Some(Err(_))) {
            self.files = Vec::new().into_iter();
            self.current = None;
        }
        block
    }
}

/// The documents of some files, read as they are asked for.
pub struct Documents {
    blocks: Blocks,
    block: Option<Block>,
}

impl Documents {
    pub(super) fn new(blocks: Blocks) -> Self {
        let block = None;
        Self { blocks, block }
    }
}

impl Iterator for Documents {
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let document = self.block.as_mut().and_then(Block::next);
            match document {
                Some(Ok(document)) => return Some(Ok(document)),
                Some(Err(error)) => {
                    *self = Self::new(Blocks::new(Vec::new()));
                    return Some(Err(error));
                }
                None => {}
            }
            match self.blocks.next()? {
                Ok(block) => self.block = Some(block),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Chunks of records that are made in order, one at a time.
pub struct Gathered<R> {
    records: R,
    position: fn(&R) -> u64,
    told: u64,
}

impl<R: Iterator<Item = Record>> Gathered<R> {
    /// `position` tells how much of the file was read.
    pub fn new(records: R, position: fn(&R) -> u64) -> Self {
        Self {
            records,
            position,
            told: 0,
        }
    }
}

impl<R: Iterator<Item = Record>> Iterator for Gathered<R> {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut gathered, mut bytes, mut failed) = (Vec::new(), 0, false);
        while bytes < BLOCK_BYTES && gathered.len() < BLOCK_RECORDS && !failed {
            let Some(record) = self.records.next() else {
                break;
            };
            failed = record.is_err();
            bytes += record.as_ref().map_or(0, |(_, text, _)| text.bytes());
            gathered.push(record);
        }
        (!gathered.is_empty()).then(|| {
            let position = (self.position)(&self.records);
            let read = position - self.told;
            self.told = position;
            Ok(Chunk {
                read,
                bytes,
                records: Box::new(gathered.into_iter()),
            })
        })
    }
}
