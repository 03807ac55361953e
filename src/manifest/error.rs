//! Why there is no manifest.

use std::path::PathBuf;

use super::{FILE, FORMAT};
use crate::digest::Digest;
use crate::fs;

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// There is no manifest: the folder is none of ours, or was not finished.
    #[error("`{}` is not a sealed dataset: there is no `{FILE}` in it", folder.display())]
    NotSealed {
        /// The folder.
        folder: PathBuf,
    },
    /// Another version of this program wrote it.
    #[error("`{}` has format version {found}, and this program reads version {expected}", path.display())]
    Version {
        /// The manifest.
        path: PathBuf,
        /// [`FORMAT`].
        expected: u32,
        /// The version it has.
        found: u64,
    },
    /// It does not end in a seal.
    #[error("`{}` is damaged: it does not end in its seal", path.display())]
    NoSeal {
        /// The manifest.
        path: PathBuf,
    },
    /// It was changed after it was sealed.
    #[error("`{}` was changed after it was sealed: expected digest {expected}, found {found}", path.display())]
    Edited {
        /// The manifest.
        path: PathBuf,
        /// What its seal says.
        expected: String,
        /// The digest of what it holds.
        found: Digest,
    },
    /// It is sealed, and no manifest.
    #[error("`{}` is not a manifest of format version {FORMAT}", path.display())]
    Json {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Documents got lost in the count.
    #[error("the ledger does not add up: {read} documents read, {kept} kept and {dropped} dropped")]
    Ledger {
        /// Documents read.
        read: u64,
        /// Documents kept.
        kept: u64,
        /// Documents dropped.
        dropped: u64,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotSealed { .. } => Some(
                "`pausedata prepare RECIPE` makes a dataset and seals it last; if one was stopped, run it again",
            ),
            Self::Version { .. } => {
                Some("prepare the dataset again, or use the version of pausedata that wrote it")
            }
            Self::NoSeal { .. } | Self::Edited { .. } | Self::Json { .. } => Some(
                "bring the manifest back from a copy, or remove the dataset's folder and run `pausedata prepare` again",
            ),
            Self::File(_) | Self::Ledger { .. } => None,
        }
    }
}
