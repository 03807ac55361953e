//! Copies: one folder for each version of an object.
//!
//! `data` is the object, `record.json` says what it is and is written last, `part` is
//! what a fetch that was cut short left. Who fetches holds a lock on the folder, so
//! that two processes do not fetch the same.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

#[cfg(feature = "cloud")]
use super::link::Link;
use super::{Error, Object};
use crate::digest::Digest;
use crate::fs;
use crate::progress::{Progress, Stop};

/// An object and where its copy lies, or will.
#[derive(Debug)]
pub struct Copy {
    /// What the store says about it.
    pub object: Object,
    pub(super) folder: PathBuf,
    /// Set when the copy was read from end to end in this process.
    proved: OnceLock<()>,
    /// Where it is fetched from; none where nothing may be.
    #[cfg(feature = "cloud")]
    link: Option<Arc<Link>>,
}

/// What a copy is; it counts once this is written.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub object: Object,
    /// BLAKE3 of the copy.
    pub digest: Digest,
}

impl Copy {
    /// The copy of an object of a server in a cache.
    pub(super) fn new(object: Object, server: &str, cache: &Path) -> Self {
        let version = object.version.as_deref().unwrap_or_default();
        let identity = [server, &object.url, &object.bytes.to_string(), version].join("\0");
        let folder = Digest::of(identity.as_bytes()).to_string();
        Self {
            folder: cache.join("objects").join(folder),
            object,
            proved: OnceLock::new(),
            #[cfg(feature = "cloud")]
            link: None,
        }
    }

    #[cfg(feature = "cloud")]
    pub(super) fn over(self, link: Arc<Link>) -> Self {
        let link = Some(link);
        Self { link, ..self }
    }

    /// Where the copy lies, or will.
    pub fn path(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Makes sure of the copy: fetched if it has to be, and read from end to end once a process.
    pub fn fetch(self: &Arc<Self>) -> Result<(), Error> {
        fetch_all(&[self], &crate::progress::Silent, &Stop::default())
    }

    pub(super) fn is_proved(&self) -> bool {
        self.proved.get().is_some()
    }

    /// Whether there is a copy, as far as names and sizes tell.
    pub(super) fn is_there(&self) -> bool {
        let size = fs::size(&self.path());
        self.record_path().is_file() && size.is_ok_and(|size| size == self.object.bytes)
    }

    pub(super) fn record_path(&self) -> PathBuf {
        self.folder.join("record.json")
    }

    /// Whether there is a copy that is what was fetched.
    pub(super) fn prove(&self) -> Result<bool, Error> {
        if !self.is_there() {
            return Ok(false);
        }
        let path = self.record_path();
        let record: Record =
            serde_json::from_slice(&fs::read(&path)?).map_err(|error| Error::Record {
                path,
                message: error.to_string(),
            })?;
        let sound = Digest::of_file(&self.path())? == record.digest;
        if sound {
            self.set_proved();
        }
        Ok(sound)
    }

    pub(super) fn set_proved(&self) {
        self.proved.get_or_init(|| ());
    }

    fn prove_offline(&self) -> Result<(), Error> {
        match self.prove()? {
            true => Ok(()),
            false => Err(Error::Damaged {
                address: self.object.url.clone(),
                path: self.path(),
            }),
        }
    }
}

/// Fetches copies, or proves those that are here.
pub(super) fn fetch_all(
    copies: &[&Arc<Copy>],
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    #[cfg(feature = "cloud")]
    let same = |a: &&Arc<Copy>, b: &&Arc<Copy>| match (&a.link, &b.link) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    #[cfg(not(feature = "cloud"))]
    let same = |_: &&Arc<Copy>, _: &&Arc<Copy>| true;
    for copies in copies.chunk_by(same) {
        #[cfg(feature = "cloud")]
        if let Some(link) = copies.first().and_then(|copy| copy.link.as_ref()) {
            link.fetch(copies, progress, stop)?;
            continue;
        }
        for copy in copies.iter().filter(|copy| !copy.is_proved()) {
            if stop.requested() {
                return Err(Error::Stopped);
            }
            copy.prove_offline()?;
            progress.advance(copy.object.bytes);
        }
    }
    Ok(())
}
