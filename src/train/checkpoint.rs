//! Checkpoints: everything a run needs to continue as if it had never stopped.
//!
//! A checkpoint is a folder `checkpoints/step-000100`. It is written under a
//! temporary name, synced and renamed, and only then does the file `latest`
//! name it; so `latest` names a whole checkpoint at every moment. With early
//! stopping the file `best` names the one with the best validation loss.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::fs;
use crate::loader;
use crate::model::config::Config;
use crate::model::{folder, hub};
use crate::pause;
use crate::token::{Reserved, TokenId};
use crate::train::record::Totals;
use crate::train::watch::Watch;

pub use crate::model::folder::{BEST_FILE, CONFIG_FILE, LATEST_FILE};

/// The version of the checkpoint format that this program writes; it reads all before,
/// and version 1 had no state of the loader.
pub const FORMAT: u32 = 2;

/// The model's weights, as Hugging Face names them.
pub const WEIGHTS_FILE: &str = hub::tensors::FILE;

/// The weights that training goes on with, where the model is an average of them.
pub const RAW_FILE: &str = "raw.safetensors";

/// The file that says what the others are; see [`State`].
pub const STATE_FILE: &str = "trainer.json";

/// A checkpoint that cannot be written or trusted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// A file is not what was written.
    #[error("checkpoint file `{}` is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        what: String,
        /// Another checkpoint of the same run that is whole.
        intact: Option<PathBuf>,
    },
    /// Another version of this program wrote it.
    #[error("checkpoint `{}` has format {found}, expected 1 to {FORMAT}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The version it says.
        found: u32,
    },
    /// The model's files cannot be read or made.
    #[error("cannot read the model in `{}`", folder.display())]
    Model {
        /// The checkpoint.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: hub::Error,
    },
    /// The path is neither a checkpoint nor a training folder.
    #[error("`{}` holds no checkpoint: neither `{LATEST_FILE}` nor `{CONFIG_FILE}` is there", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
}

impl From<folder::Error> for Error {
    fn from(error: folder::Error) -> Self {
        match error {
            folder::Error::File(error) => Self::File(error),
            folder::Error::Missing { path } => Self::Missing { path },
            folder::Error::Latest { path, found } => Self::Damaged {
                path,
                what: format!("expected a name such as `step-000100`, found {found:?}"),
                intact: None,
            },
        }
    }
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged {
                intact: Some(intact),
                ..
            } => {
                let name = intact.file_name()?.to_string_lossy();
                let latest = intact.parent()?.parent()?.join(LATEST_FILE);
                Some(format!(
                    "`{}` is intact; to continue from it: `echo {name} > {}`",
                    intact.display(),
                    latest.display()
                ))
            }
            Self::Damaged { intact: None, .. } => Some(
                "no other checkpoint is intact; remove the training folder to start again".into(),
            ),
            Self::Missing { path } => Some(match path.join("train").is_dir() {
                true => format!(
                    "it is a run's folder: name `{0}/train/pretrain` or `{0}/train/finetune`",
                    path.display()
                ),
                false => "`pausedata train` makes one".into(),
            }),
            _ => None,
        }
    }
}

/// What a run knows beside its weights and moments: `trainer.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The format version, up to [`FORMAT`].
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// What was trained on so far.
    pub totals: Totals,
    /// The ids that the tokenizer beside it reserves.
    pub reserved: Reserved,
    /// The id that begins every text, where the model expects one: an imported model, as it
    /// was trained elsewhere. Rows of this program begin with their text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<TokenId>,
    /// What the model learnt of pauses; absent where they are the paper's, and the
    /// vocabulary has no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pauses: Option<pause::Habit>,
    /// The datasets, their order and their weights, and which global batch comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loader: Option<loader::State>,
    /// What is remembered of the steps.
    #[serde(default, skip_serializing_if = "Watch::is_empty")]
    pub watch: Watch,
    /// What else must not change between this run and one that continues it.
    pub fingerprint: Fingerprint,
}

/// A whole checkpoint, every file of which was found as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Where it is.
    pub folder: PathBuf,
    /// What its `trainer.json` says.
    pub state: State,
}

/// `trainer.json` as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Sealed {
    state: State,
    /// The other files of the folder, in the order they were written.
    files: Vec<FileRecord>,
    /// BLAKE3 of `state` and `files` as JSON without white-space.
    seal: Digest,
}

#[derive(Serialize, Deserialize)]
struct FileRecord {
    name: String,
    digest: Digest,
}

/// Which checkpoints stay beside the best when another is there.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// So many of the newest, that one among them.
    pub newest: usize,
    /// That of a step that a run may go back to.
    pub needed: Option<u64>,
}

/// The checkpoints of one training folder.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

impl Store {
    /// Opens a training folder, and removes what a killed process left half written.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let store = Self {
            folder: folder.to_path_buf(),
        };
        fs::create_dir(&store.checkpoints())?;
        fs::remove_temporaries(&store.checkpoints())?;
        fs::remove_temporaries(folder)?;
        Ok(store)
    }

    /// The checkpoint that `latest` names, if any was made.
    pub fn latest(&self) -> Result<Option<Checkpoint>, Error> {
        let Some(folder) = folder::newest(&self.folder)? else {
            return Ok(None);
        };
        match Checkpoint::open(&folder) {
            Err(Error::Damaged { path, what, .. }) => Err(Error::Damaged {
                path,
                what,
                intact: self.intact_beside(&folder)?,
            }),
            other => other.map(Some),
        }
    }

    /// The checkpoint of a step, if it is there.
    pub fn of(&self, step: u64) -> Result<Option<Checkpoint>, Error> {
        match self.steps()?.contains(&step) {
            true => Checkpoint::open(&self.checkpoints().join(folder::name(step))).map(Some),
            false => Ok(None),
        }
    }

    /// Makes `latest` name the checkpoint of an earlier step, or none.
    pub fn back_to(&self, step: Option<u64>) -> Result<(), Error> {
        match step {
            Some(step) => self.mark(LATEST_FILE, step),
            None => Ok(fs::remove_file(&self.folder.join(LATEST_FILE))?),
        }
    }

    /// Writes a checkpoint of `state` and `files` (name and bytes), names it in
    /// `latest`, and removes older ones but for those to keep and the best.
    pub fn save(
        &self,
        state: &State,
        files: &[(&str, Vec<u8>)],
        keep: Keep,
    ) -> Result<PathBuf, Error> {
        let folder = self.checkpoints().join(folder::name(state.step));
        let draft = fs::Draft::create(&folder)?;
        for (name, bytes) in files {
            fs::write(&draft.folder().join(name), bytes)?;
        }
        let records = files.iter().map(|(name, bytes)| FileRecord {
            name: (*name).to_owned(),
            digest: Digest::of(bytes),
        });
        let sealed = seal(&folder, state, records.collect())?;
        fs::write(&draft.folder().join(STATE_FILE), &sealed)?;
        // A folder of this name was made by a process killed before `latest` named it.
        fs::remove_dir(&folder)?;
        draft.publish(&folder)?;
        self.mark(LATEST_FILE, state.step)?;
        let best = state.watch.best.map(|best| best.step);
        if let Some(best) = best {
            self.mark(BEST_FILE, best)?;
        }
        self.prune(state.step, &[best, keep.needed], keep.newest)?;
        Ok(folder)
    }

    /// Makes a file name the checkpoint of a step.
    fn mark(&self, file: &str, step: u64) -> Result<(), Error> {
        let name = format!("{}\n", folder::name(step));
        Ok(fs::write(&self.folder.join(file), name.as_bytes())?)
    }

    fn checkpoints(&self) -> PathBuf {
        folder::checkpoints(&self.folder)
    }

    /// Steps of the checkpoints that stand here, oldest first.
    fn steps(&self) -> Result<Vec<u64>, Error> {
        let entries = fs::list(&self.checkpoints())?;
        let step_of = |path: PathBuf| folder::step(path.file_name()?.to_str()?);
        let mut steps: Vec<u64> = entries.into_iter().filter_map(step_of).collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Removes the oldest checkpoints up to `latest`, but for the newest `keep` and others.
    fn prune(&self, latest: u64, others: &[Option<u64>], keep: usize) -> Result<(), Error> {
        let steps = self.steps()?;
        let older = steps.into_iter().filter(|&step| step < latest);
        let old = older.rev().skip(keep.saturating_sub(1));
        for step in old.filter(|step| !others.contains(&Some(*step))) {
            let folder = self.checkpoints().join(folder::name(step));
            let temporary = fs::temporary(&folder);
            // Renamed first, so that a checkpoint is whole or not there.
            fs::publish(&folder, &temporary)?;
            fs::remove_dir(&temporary)?;
        }
        Ok(())
    }

    /// The newest checkpoint beside `damaged` that is whole.
    fn intact_beside(&self, damaged: &Path) -> Result<Option<PathBuf>, Error> {
        let folders = self.steps()?.into_iter().rev();
        Ok(folders
            .map(|step| self.checkpoints().join(folder::name(step)))
            .filter(|folder| folder != damaged)
            .find(|folder| Checkpoint::open(folder).is_ok()))
    }
}

impl Checkpoint {
    /// Opens a checkpoint folder and checks every file against its digest.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(STATE_FILE);
        let sealed = unseal(&path, &intact(&path, fs::read(&path))?)?;
        for record in &sealed.files {
            let path = folder.join(&record.name);
            let found = intact(&path, Digest::of_file(&path))?;
            if found != record.digest {
                return Err(Error::Damaged {
                    path,
                    what: format!(
                        "expected digest {}, found {}",
                        record.digest.short(),
                        found.short()
                    ),
                    intact: None,
                });
            }
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            state: sealed.state,
        })
    }

    /// Reads one of its files.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        Ok(fs::read(&self.folder.join(name))?)
    }
}

/// Makes a checkpoint of a folder that has all other files of one.
pub fn complete(folder: &Path, state: &State, names: &[&str]) -> Result<(), Error> {
    let record = |name: &&str| -> Result<FileRecord, Error> {
        Ok(FileRecord {
            name: (*name).to_owned(),
            digest: Digest::of_file(&folder.join(name))?,
        })
    };
    let records = names.iter().map(record).collect::<Result<_, Error>>()?;
    let sealed = seal(folder, state, records)?;
    Ok(fs::write(&folder.join(STATE_FILE), &sealed)?)
}

/// The checkpoint folder that a path means: a training folder's newest, or a
/// folder in Hugging Face layout itself.
pub fn resolve(path: &Path) -> Result<PathBuf, Error> {
    Ok(folder::resolve(path)?)
}

/// The shape and the values of the model in a folder of Hugging Face layout.
pub fn read_model(folder: &Path) -> Result<(Config, Vec<Vec<f32>>), Error> {
    hub::read(folder).map_err(|source| Error::Model {
        folder: folder.to_path_buf(),
        source,
    })
}

/// The shape of the model in such a folder, and the values in one of its files.
pub fn read_weights(folder: &Path, file: &str) -> Result<(Config, Vec<Vec<f32>>), Error> {
    hub::read_file(folder, file).map_err(|source| Error::Model {
        folder: folder.to_path_buf(),
        source,
    })
}

/// A file that should be there and is not is damage, which an older checkpoint may heal.
fn intact<T>(path: &Path, result: Result<T, fs::Error>) -> Result<T, Error> {
    result.map_err(|error| match error.is_missing() {
        true => Error::Damaged {
            path: path.to_path_buf(),
            what: "it is missing".into(),
            intact: None,
        },
        false => error.into(),
    })
}

fn seal(folder: &Path, state: &State, files: Vec<FileRecord>) -> Result<Vec<u8>, Error> {
    let json = |source| fs::Error::new("write", &folder.join(STATE_FILE))(source);
    let sealed = Sealed {
        seal: seal_of(state, &files).map_err(|error| json(error.into()))?,
        state: state.clone(),
        files,
    };
    let mut bytes = serde_json::to_vec_pretty(&sealed).map_err(|error| json(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn seal_of(state: &State, files: &[FileRecord]) -> Result<Digest, serde_json::Error> {
    Ok(Digest::of(&serde_json::to_vec(&(state, files))?))
}

fn unseal(path: &Path, bytes: &[u8]) -> Result<Sealed, Error> {
    let damaged = |what: String| Error::Damaged {
        path: path.to_path_buf(),
        what,
        intact: None,
    };
    let sealed: Sealed =
        serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let found =
        seal_of(&sealed.state, &sealed.files).map_err(|error| damaged(error.to_string()))?;
    if found != sealed.seal {
        return Err(damaged(format!(
            "expected seal {}, found {}",
            sealed.seal.short(),
            found.short()
        )));
    }
    if !(1..=FORMAT).contains(&sealed.state.format) {
        return Err(Error::Format {
            path: path.to_path_buf(),
            found: sealed.state.format,
        });
    }
    Ok(sealed)
}

#[cfg(test)]
mod tests;
