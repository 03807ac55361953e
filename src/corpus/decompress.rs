//! Opening plain, gzip and Zstandard files as one kind of stream.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

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
}

/// Bytes read from the disk at once, and kept of the decompressed text.
const BUFFER_BYTES: usize = 1 << 17;

/// Zstandard frames may ask for windows of up to 2 GiB (`zstd --ultra --long=31`).
const WINDOW_LOG_MAX: u32 = 31;

impl Input {
    /// Opens a file.
    pub fn open(path: &Path, name: &str, compression: Compression) -> Result<Self, Error> {
        let file = BufReader::with_capacity(BUFFER_BYTES, fs::open(path)?);
        let reader: Box<dyn BufRead + Send> = match compression {
            Compression::None => Box::new(file),
            Compression::Gzip => Box::new(BufReader::with_capacity(
                BUFFER_BYTES,
                MultiGzDecoder::new(file),
            )),
            Compression::Zstd => {
                let wrong = fs::Error::new("decompress", path);
                let decoder = zstd::Decoder::with_buffer(file).and_then(|mut decoder| {
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
        })
    }

    /// Appends bytes up to and with the next `\n`, or `limit` bytes; returns how many.
    pub fn read_line(&mut self, limit: u64, buffer: &mut Vec<u8>) -> Result<usize, Error> {
        let read = (&mut self.reader).take(limit).read_until(b'\n', buffer);
        read.map_err(|error| self.error(error))
    }

    /// Appends the rest of the stream, or `limit` bytes; returns how many.
    pub fn read_rest(&mut self, limit: u64, buffer: &mut Vec<u8>) -> Result<usize, Error> {
        let read = (&mut self.reader).take(limit).read_to_end(buffer);
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
