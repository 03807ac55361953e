//! Opening plain, gzip and Zstandard files as one kind of stream.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

use crate::fs;

use super::error::Error;

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// It is not.
    None,
    /// One or more gzip members.
    Gzip,
    /// One or more Zstandard frames.
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "not compressed",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

impl Compression {
    /// The compression that a name tells, and the name without that ending.
    pub fn of_name(name: &str) -> (Self, &str) {
        let endings = [(".gz", Self::Gzip), (".zst", Self::Zstd)];
        endings
            .into_iter()
            .find_map(|(ending, compression)| Some((compression, name.strip_suffix(ending)?)))
            .unwrap_or((Self::None, name))
    }
}

/// A decompressed stream that knows its file.
pub struct Input {
    /// The file's name in messages.
    pub name: String,
    path: PathBuf,
    compression: Compression,
    reader: Box<dyn BufRead + Send>,
    /// How many bytes of the file were read.
    read: Arc<AtomicU64>,
}

/// A compressed file that counts what is read of it.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

/// Bytes read from the disk at once, and kept of the decompressed text.
const BUFFER_BYTES: usize = 1 << 17;

/// Zstandard frames may ask for windows of up to 128 MiB, as `zstd -19 --long` and
/// `zstd --ultra -22` write them. A window is kept in memory as a whole.
const WINDOW_LOG_MAX: u32 = 27;

impl Input {
    /// Opens a file.
    pub fn open(path: &Path, name: &str, compression: Compression) -> Result<Self, Error> {
        Self::open_at(path, name, compression, 0)
    }

    /// Opens a file and begins `start` bytes into it.
    pub fn open_at(
        path: &Path,
        name: &str,
        compression: Compression,
        start: u64,
    ) -> Result<Self, Error> {
        let mut file = fs::open(path)?;
        if 0 < start {
            file.seek(SeekFrom::Start(start))
                .map_err(fs::Error::new("read", path))?;
        }
        let read = Arc::new(AtomicU64::new(0));
        let counted = |file| {
            let read = read.clone();
            BufReader::with_capacity(BUFFER_BYTES, Counted { file, read })
        };
        let reader: Box<dyn BufRead + Send> = match compression {
            // Nearly all reads are larger than its buffer, and go past it.
            Compression::None => Box::new(BufReader::new(file)),
            Compression::Gzip => Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                MultiGzDecoder::new(counted(file)),
            )),
            Compression::Zstd => {
                let wrong = fs::Error::new("decompress", path);
                let decoder = zstd::Decoder::with_buffer(counted(file)).and_then(|mut decoder| {
                    decoder.window_log_max(WINDOW_LOG_MAX)?;
                    Ok(decoder)
                });
                Box::new(BufReader::with_capacity(
                    BUFFER_BYTES,
                    decoder.map_err(wrong)?,
                ))
            }
        };
        Ok(Self {
            name: name.into(),
            path: path.into(),
            compression,
            reader,
            read,
        })
    }

    /// How many bytes of the file, as it lies on the disk, were read.
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Appends `most` bytes, or the fewer that are left; returns how many.
    pub fn read(&mut self, most: usize, buffer: &mut Vec<u8>) -> Result<usize, Error> {
        buffer.reserve_exact(most);
        self.read_rest(most as u64, buffer)
    }

    /// Appends bytes up to and with the next `\n`, or `limit` bytes; returns how many.
    pub fn read_line(&mut self, limit: u64, buffer: &mut Vec<u8>) -> Result<usize, Error> {
        let read = (&mut self.reader).take(limit).read_until(b'\n', buffer);
        self.counted(read)
    }

    /// Appends the rest of the stream, or `limit` bytes; returns how many.
    pub fn read_rest(&mut self, limit: u64, buffer: &mut Vec<u8>) -> Result<usize, Error> {
        let read = (&mut self.reader).take(limit).read_to_end(buffer);
        self.counted(read)
    }

    /// Counts what was read where that is what the file holds.
    fn counted(&self, read: io::Result<usize>) -> Result<usize, Error> {
        if let (Ok(read), Compression::None) = (&read, self.compression) {
            self.read.fetch_add(*read as u64, Ordering::Relaxed);
        }
        read.map_err(|error| self.error(error))
    }

    fn error(&self, source: io::Error) -> Error {
        match self.compression {
            Compression::None => fs::Error::new("read", &self.path)(source).into(),
            compression => Error::Decompress {
                file: self.name.clone(),
                compression,
                source,
            },
        }
    }
}
