//! A file that appears whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::tree::Tree;
use super::{Error, allocate, create_dir, publish, remove_file, temporary};

/// A file being written; dropped without [`Output::publish`], it leaves nothing.
#[derive(Debug)]
pub struct Output {
    file: File,
    /// Bytes that were not handed to the system yet.
    rest: Vec<u8>,
    /// Bytes that were: whole chunks, until the last.
    written: u64,
    /// The digest of all bytes, where it is wanted.
    digest: Option<Tree>,
    temporary: PathBuf,
    path: PathBuf,
    published: bool,
}

/// Files are written in pieces that begin and end at multiples of so many bytes, as many as
/// a huge page has: systems that keep such a piece in one piece of memory map it by one
/// entry of a table, where they would need 512.
pub const CHUNK_BYTES: usize = 2 << 20;

impl Output {
    /// Starts a file that will stand at `path`; makes its folder.
    pub fn create(path: &Path) -> Result<Self, Error> {
        create_dir(path.parent().unwrap_or(Path::new(".")))?;
        let temporary = temporary(path);
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&temporary)
            .map_err(Error::new("create", path))?;
        Ok(Self {
            file,
            rest: Vec::new(),
            written: 0,
            digest: None,
            temporary,
            path: path.to_path_buf(),
            published: false,
        })
    }

    /// The same, which takes the digest of what is written: [`Output::digest`].
    pub fn digested(mut self) -> Self {
        self.digest = Some(Tree::default());
        self
    }

    /// The BLAKE3 digest of all bytes, once the file is published.
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest.as_ref().map(Tree::finish)
    }

    /// Appends bytes.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let mut bytes = bytes;
        while let Some((fitting, others)) =
            bytes.split_at_checked(CHUNK_BYTES.saturating_sub(self.rest.len()))
        {
            if self.rest.is_empty() {
                self.put(fitting)?;
            } else {
                self.rest.extend_from_slice(fitting);
                self.write_full()?;
            }
            bytes = others;
        }
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// What was appended and not written yet; more may be put at its end, after which
    /// [`Output::write_full`] must follow.
    pub fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.rest
    }

    /// Takes the digest of what was put at the end, while it is in the cache, and hands whole
    /// chunks to the system.
    pub fn write_full(&mut self) -> Result<(), Error> {
        if let Some(digest) = &mut self.digest {
            digest.take(self.written, &self.rest);
        }
        let whole = self.rest.len() / CHUNK_BYTES * CHUNK_BYTES;
        if 0 < whole {
            let mut rest = std::mem::take(&mut self.rest);
            self.put(rest.get(..whole).unwrap_or_default())?;
            rest.drain(..whole);
            self.rest = rest;
        }
        Ok(())
    }

    /// Replaces the first bytes, such as a header whose counts are known last.
    pub fn overwrite_start(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if let Some(digest) = &mut self.digest {
            digest.overwrite_start(bytes);
        }
        if self.written == 0 {
            self.rest.resize(self.rest.len().max(bytes.len()), 0);
            self.rest
                .iter_mut()
                .zip(bytes)
                .for_each(|(old, new)| *old = *new);
            return Ok(());
        }
        std::os::unix::fs::FileExt::write_all_at(&self.file, bytes, 0)
            .map_err(Error::new("write", &self.path))
    }

    /// Makes the file durable under its name.
    pub fn publish(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.file
            .sync_all()
            .map_err(Error::new("sync", &self.path))?;
        publish(&self.temporary, &self.path)?;
        self.published = true;
        Ok(())
    }

    /// Hands what is left to the system.
    fn flush(&mut self) -> Result<(), Error> {
        if let Some(digest) = &mut self.digest {
            digest.end(self.written, &self.rest);
        }
        self.file
            .write_all(&self.rest)
            .map_err(Error::new("write", &self.path))?;
        self.written += self.rest.len() as u64;
        self.rest.clear();
        Ok(())
    }

    /// Hands whole chunks to the system.
    fn put(&mut self, chunks: &[u8]) -> Result<(), Error> {
        if let Some(digest) = &mut self.digest {
            digest.take(self.written, chunks);
        }
        allocate(&self.file, self.written, chunks.len());
        self.file
            .write_all(chunks)
            .map_err(Error::new("write", &self.path))?;
        self.written += chunks.len() as u64;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.published {
            // The file is no data under this name; a leftover is removed at the next seal.
            drop(remove_file(&self.temporary));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{list, read, write};

    #[test]
    fn an_unpublished_output_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"half").unwrap();
        drop(output);
        assert_eq!(list(folder.path()).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_published_output_replaces_the_old_one_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write(&path, b"old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.write_all(b"..ew").unwrap();
        assert_eq!(read(&path).unwrap(), b"old");
        output.overwrite_start(b"nn").unwrap();
        output.publish().unwrap();
        assert_eq!(read(&path).unwrap(), b"nnew");
    }

    /// Appended, or put at the end; with a start that is known last.
    #[test]
    fn pieces_of_any_length_are_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let chunk = CHUNK_BYTES;
        let bytes: Vec<u8> = (0..251).cycle().take(3 * chunk + 5).collect();
        let ways = [
            vec![bytes.len()],
            vec![chunk, 2 * chunk],
            vec![1, chunk - 1, 7, 2 * chunk],
            vec![chunk - 1, 2, chunk + 1, 0, chunk],
            vec![1000; 9000],
        ];
        for (lengths, appended) in ways.iter().flat_map(|way| [(way, true), (way, false)]) {
            for whole in [&bytes[..], &bytes[..chunk / 5]] {
                let mut output = Output::create(&path).unwrap().digested();
                let start = [0; 9];
                output.write_all(&start).unwrap();
                let mut rest = &whole[start.len()..];
                for length in lengths.iter().chain([&bytes.len()]) {
                    let (piece, others) = rest.split_at((*length).min(rest.len()));
                    match appended {
                        true => output.write_all(piece).unwrap(),
                        false => {
                            output.rest().extend_from_slice(piece);
                            output.write_full().unwrap();
                        }
                    }
                    assert!(output.rest.len() < chunk);
                    assert!(output.written.is_multiple_of(chunk as u64));
                    rest = others;
                }
                output.overwrite_start(&whole[..start.len()]).unwrap();
                output.publish().unwrap();
                assert!(read(&path).unwrap() == whole);
                assert_eq!(output.digest(), Some(*blake3::hash(whole).as_bytes()));
            }
        }
    }

    #[test]
    fn two_writers_of_one_file_do_not_meet() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        let mut outputs = [b"one", b"two"].map(|text| {
            let mut output = Output::create(&path).unwrap();
            output.write_all(text).unwrap();
            output
        });
        for (output, text) in outputs.iter_mut().zip([b"one", b"two"]) {
            output.publish().unwrap();
            assert_eq!(read(&path).unwrap(), text);
        }
    }
}
