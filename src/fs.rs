//! All file access: errors name the path, and outputs appear whole or not at all.
//!
//! A file is written under a temporary name beside its place, synced, renamed,
//! and its folder synced; a crash at any point leaves the old file or the new.

pub mod mapped;
mod output;
mod tree;

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use output::{CHUNK_BYTES, Output};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} `{}`", path.display())]
pub struct Error {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// For `map_err`: an [`io::Error`] met while doing `action` on `path`.
    pub fn new(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self {
            action,
            path,
            source,
        }
    }

    /// Whether the path does not exist.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }

    /// Whether the path is a folder, and a file was wanted.
    pub fn is_folder(&self) -> bool {
        self.source.kind() == io::ErrorKind::IsADirectory
    }

    /// Whether the path cannot exist, as it leads through something that is no folder.
    pub fn is_in_no_folder(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotADirectory
    }
}

/// The prefix of every temporary file; such a file is never data.
pub const TEMPORARY: &str = ".tmp-";

/// Opens a file for reading.
#[expect(clippy::disallowed_methods, reason = "the one place that opens files")]
pub fn open(path: &Path) -> Result<File, Error> {
    let kind = fs::metadata(path).map_err(Error::new("open", path))?;
    if kind.is_dir() {
        let folder = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(Error::new("read", path)(folder));
    }
    // A pipe may never be written to, a device never end.
    if !kind.is_file() {
        let other = io::Error::other("it is a pipe, a socket or a device, not a file");
        return Err(Error::new("read", path)(other));
    }
    File::open(path).map_err(Error::new("open", path))
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path)?
        .read_to_end(&mut bytes)
        .map_err(Error::new("read", path))?;
    Ok(bytes)
}

/// Fills `bytes` from a position of a file; fewer are an error.
pub fn read_at(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

/// Says that some bytes of a file will be read soon; a hint, which may do nothing.
pub fn will_need(file: &File, bytes: &Range<usize>) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let position = |at: usize| libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        let (start, length) = (position(bytes.start), position(bytes.len()));
        // SAFETY: it is asked about an open file, and touches no memory of ours.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), start, length, libc::POSIX_FADV_WILLNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _unused = (file, bytes);
}

/// Takes room on the disk for bytes that will be written to a file; a hint, which does not
/// change the file, and saves looking for room a block of the system at a time.
fn allocate(file: &File, at: u64, length: usize) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let position = |at: u64| libc::off_t::try_from(at).unwrap_or(libc::off_t::MAX);
        let (at, length) = (position(at), position(length as u64));
        // SAFETY: it is asked about an open file, and touches no memory of ours. A disk that
        // is full will say so when bytes are written.
        unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, at, length) };
    }
    #[cfg(not(target_os = "linux"))]
    let _unused = (file, at, length);
}

/// Says that a file need not stay in memory; a hint, which spares what is mapped.
pub fn forget(path: &Path) -> Result<(), Error> {
    let file = open(path)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: it is asked about an open file, and touches no memory of ours.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _unused = file;
    Ok(())
}

/// How often this thread has read from a disk, as far as the system tells.
pub fn disk_reads() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: it fills `usage`, whose numbers may also stay 0.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init()
        };
        u64::try_from(usage.ru_inblock).unwrap_or(0)
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// How long this thread has run on a processor, to the nanosecond, where the system tells.
pub fn thread_time() -> Option<Duration> {
    #[cfg(target_os = "linux")]
    {
        let mut time = std::mem::MaybeUninit::<libc::timespec>::zeroed();
        // SAFETY: it fills `time`, whose numbers may also stay 0.
        let (failed, time) = unsafe {
            let failed = libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr());
            (failed, time.assume_init())
        };
        let seconds = u64::try_from(time.tv_sec).ok().filter(|_| failed == 0)?;
        Some(Duration::new(seconds, u32::try_from(time.tv_nsec).ok()?))
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Reads a whole file, which must have at most `most` bytes.
pub fn read_at_most(path: &Path, most: u64) -> Result<Vec<u8>, Error> {
    let found = size(path)?;
    if most < found {
        let large = format!("it has {found} bytes, and {most} are the most that it may have");
        let large = io::Error::new(io::ErrorKind::FileTooLarge, large);
        return Err(Error::new("read", path)(large));
    }
    read(path)
}

/// Reads UTF-8 text from a file, or from a pipe such as `/dev/stdin`.
#[expect(clippy::disallowed_methods, reason = "the one place that opens pipes")]
pub fn read_text_or_pipe(path: &Path, most: u64) -> Result<String, Error> {
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(Error::new("open", path))?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::new("read", path))?;
    if most < bytes.len() as u64 {
        let large = format!("it has more than {most} bytes");
        let large = io::Error::new(io::ErrorKind::FileTooLarge, large);
        return Err(Error::new("read", path)(large));
    }
    utf8(bytes, path)
}

/// Reads a whole UTF-8 file.
pub fn read_text(path: &Path) -> Result<String, Error> {
    utf8(read(path)?, path)
}

fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, Error> {
    String::from_utf8(bytes).map_err(|error| {
        Error::new("read", path)(io::Error::new(
            io::ErrorKind::InvalidData,
            error.utf8_error(),
        ))
    })
}

/// The size of a file in bytes.
pub fn size(path: &Path) -> Result<u64, Error> {
    Ok(fs::metadata(path).map_err(Error::new("read", path))?.len())
}

/// Creates a folder and those above it.
pub fn create_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(Error::new("create folder", path))
}

/// Removes a folder and what is in it; a missing one is fine.
pub fn remove_dir(path: &Path) -> Result<(), Error> {
    missing_is_fine(fs::remove_dir_all(path)).map_err(Error::new("remove folder", path))
}

/// Removes a file; a missing one is fine.
pub fn remove_file(path: &Path) -> Result<(), Error> {
    missing_is_fine(fs::remove_file(path)).map_err(Error::new("remove", path))
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The entries of a folder, sorted by name; a missing folder has none.
pub fn list(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::new("list", path))?,
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(Error::new("list", path))?;
    paths.sort();
    Ok(paths)
}

/// Removes the temporary files that a killed process left in a folder.
pub fn remove_temporaries(path: &Path) -> Result<(), Error> {
    for entry in list(path)? {
        let temporary = entry
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(TEMPORARY));
        match temporary {
            true if entry.is_dir() => remove_dir(&entry)?,
            true => remove_file(&entry)?,
            false => {}
        }
    }
    Ok(())
}

/// Makes `path` hold exactly `bytes`: old or new, never half.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut output = Output::create(path)?;
    output.write_all(bytes)?;
    output.publish()
}

/// Makes `to` hold what `from` does.
pub fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let (mut input, mut output) = (open(from)?, Output::create(to)?);
    let mut bytes = vec![0; 1 << 20];
    loop {
        let n = input.read(&mut bytes).map_err(Error::new("read", from))?;
        match bytes.get(..n) {
            Some(read) if !read.is_empty() => output.write_all(read)?,
            _ => return output.publish(),
        }
    }
}

/// Renames a finished file or folder to its place and syncs the folder around it.
pub fn publish(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::new("rename into place", to))?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Makes the entries of a folder durable.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens folders"
)]
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(Error::new("sync", path))
}

/// Opens a file for reading and writing; makes an empty one where there is none.
#[cfg(feature = "cloud")]
pub fn open_to_change(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(Error::new("open", path))
}

/// What keeps other processes out; gone when it is dropped, or the process ends.
#[cfg(any(feature = "cloud", feature = "train"))]
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

/// Locks a folder against other processes, as long as the result lives; none where
/// another has it. On a file system without locks nothing is kept out.
#[cfg(any(feature = "cloud", feature = "train"))]
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that opens folders"
)]
pub fn lock_dir(path: &Path) -> Result<Option<Lock>, Error> {
    use std::os::unix::fs::MetadataExt;
    let place = |kind: fs::Metadata| (kind.dev(), kind.ino());
    loop {
        let folder = File::open(path).map_err(Error::new("open", path))?;
        match folder.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                return Ok(Some(Lock { _file: None }));
            }
            Err(fs::TryLockError::Error(error)) => return Err(Error::new("lock", path)(error)),
        }
        let locked = folder.metadata().map(place);
        let stands = fs::metadata(path).map(place);
        // The folder may have been removed and made again since it was opened.
        if locked.map_err(Error::new("lock", path))? == stands.map_err(Error::new("lock", path))? {
            let _file = Some(folder);
            return Ok(Some(Lock { _file }));
        }
    }
}

/// What the system says of this process's memory, in bytes: a field of
/// `/proc/self/status`, such as `VmRSS:`.
pub fn process_memory(field: &str) -> Option<u64> {
    let status = read_text(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

/// Appends `line` and a newline to a log, in one write.
pub fn append_line(path: &Path, line: &str) -> Result<(), Error> {
    append(path, format!("{line}\n").as_bytes())
}

/// Appends bytes to a log, in one write.
pub fn append(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(Error::new("open", path))?;
    file.write_all(bytes).map_err(Error::new("write", path))
}

/// A name beside `path` under which it can be written before it is renamed into place.
///
/// No two calls give the same, nor do two processes of the same number, as containers
/// that share a disk have them.
pub fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The standard library seeds its maps from the system's randomness, each another way.
    let unique = RandomState::new().hash_one(());
    path.with_file_name(format!(
        "{TEMPORARY}{}-{unique:016x}-{name}",
        std::process::id()
    ))
}

/// A folder under a temporary name, removed with what is in it when it is dropped.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
}

impl Draft {
    /// Makes the folder beside `path`, and those above it.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let folder = temporary(path);
        create_dir(&folder)?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Renames it into place, and syncs the folder around it.
    pub fn publish(self, to: &Path) -> Result<(), Error> {
        publish(&self.folder, to)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // A leftover has a temporary name and is never data; after publishing there is none.
        drop(remove_dir(&self.folder));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_temporary_name_is_another() {
        let path = Path::new("a/b.bin");
        let names: std::collections::BTreeSet<_> = (0..100).map(|_| temporary(path)).collect();
        assert_eq!(names.len(), 100);
        for name in names {
            assert_eq!(name.parent(), path.parent());
            let name = name.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                name.starts_with(TEMPORARY) && name.ends_with("-b.bin"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_draft_is_published_or_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let draft = Draft::create(&path).unwrap();
        write(&draft.folder().join("b"), b"half").unwrap();
        drop(draft);
        assert_eq!(list(folder.path()).unwrap(), Vec::<PathBuf>::new());
        let draft = Draft::create(&path).unwrap();
        write(&draft.folder().join("b"), b"whole").unwrap();
        draft.publish(&path).unwrap();
        assert_eq!(list(folder.path()).unwrap(), [path]);
    }

    #[test]
    fn errors_name_the_path() {
        let error = read(Path::new("/nonexistent/file")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open `/nonexistent/file`");
        assert!(error.is_missing());
    }
}
