//! What can go wrong with objects of other machines.

use std::path::PathBuf;

use crate::fs;

/// An object that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A URL that means nothing here.
    #[error("cannot read `{address}`: {problem}")]
    Address {
        /// The URL.
        address: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// This build has no network.
    #[error("cannot fetch `{address}`: this build of pausedata lacks the feature `cloud`")]
    NoFeature {
        /// The URL.
        address: String,
        /// Whether it is a glob.
        glob: bool,
    },
    /// Nobody said where copies go.
    #[error("there is no folder for copies of remote sources")]
    NoCache,
    /// Nothing may be fetched, and what it means is not known.
    #[error("`{address}` was never listed with this cache, and without the network it cannot be")]
    NotListed {
        /// The URL or glob.
        address: String,
    },
    /// Nothing may be fetched, and there is no copy.
    #[error("`{address}` has no copy in `{}`, and without the network it gets none", cache.display())]
    NoCopy {
        /// The URL.
        address: String,
        /// The folder of copies.
        cache: PathBuf,
    },
    /// There is no such object.
    #[error("`{address}` is not there")]
    Missing {
        /// The URL or glob.
        address: String,
    },
    /// The store refuses.
    #[error("access to `{address}` was refused: {message}")]
    Denied {
        /// The URL.
        address: String,
        /// What the store said.
        message: String,
    },
    /// The object is not the one that was listed.
    #[error("`{address}` changed while it was fetched: expected {expected}, found {found}")]
    Changed {
        /// The URL.
        address: String,
        /// What was listed.
        expected: String,
        /// What came.
        found: String,
    },
    /// The object could not be had as a whole.
    #[error("cannot fetch `{address}`, of which {done} of {bytes} bytes are here: {message}")]
    Cut {
        /// The URL.
        address: String,
        /// What is here.
        done: u64,
        /// Its size.
        bytes: u64,
        /// What went wrong last.
        message: String,
    },
    /// A store could not be asked.
    #[error("cannot ask for `{address}`: {message}")]
    Failed {
        /// The URL.
        address: String,
        /// What went wrong last.
        message: String,
    },
    /// A record of the cache is not one.
    #[error("`{}` is damaged: {message}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A copy is not what was fetched.
    #[error("the copy of `{address}` in `{}` is damaged", path.display())]
    Damaged {
        /// The URL.
        address: String,
        /// The copy.
        path: PathBuf,
    },
    /// A signal asked to stop; what was fetched is kept.
    #[error("stopped before all sources were fetched")]
    Stopped,
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoFeature { .. } => {
                "install it with that feature, `cargo install --path . --features cloud`, or copy the files first, for example with `aws s3 cp`, `gcloud storage cp` or `hf download`; `--offline` uses copies that an earlier run fetched"
            }
            Self::NoCache => "name one with `--cache-dir DIR`",
            Self::NotListed { .. } | Self::NoCopy { .. } => {
                "run once without `--offline`, or name the folder of copies with `--cache-dir DIR`"
            }
            Self::Missing { .. } => {
                "correct the path; a private dataset of the hub shows itself only with `HF_TOKEN`"
            }
            Self::Denied { .. } => {
                "set `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` (or `AWS_SKIP_SIGNATURE=true` for a public bucket) and `AWS_REGION`, `GOOGLE_APPLICATION_CREDENTIALS`, or `HF_TOKEN`"
            }
            Self::Changed { .. } => "run the same command again when nobody writes to it",
            Self::Cut { .. } | Self::Failed { .. } => {
                "run the same command again: it goes on with what is here"
            }
            Self::Record { .. } => "remove that file: it is written again",
            Self::Damaged { .. } => "run once without `--offline`: it is fetched again",
            Self::File(_) | Self::Address { .. } | Self::Stopped => return None,
        })
    }
}
