//! Where a model lies: a folder of Hugging Face layout, alone or among the
//! checkpoints of a training folder.

use std::path::{Path, PathBuf};

use crate::fs;

/// The model's shape, as Hugging Face names it.
pub const CONFIG_FILE: &str = "config.json";

/// The file in a training folder that names its newest whole checkpoint.
pub const LATEST_FILE: &str = "latest";

/// The file that names the checkpoint with the best validation loss, where early stopping
/// looks for it.
pub const BEST_FILE: &str = "best";

/// Why a path leads to no model.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The path is neither a model nor a training folder.
    #[error("`{}` holds no checkpoint: neither `{LATEST_FILE}` nor `{CONFIG_FILE}` is there", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// The file `latest` or `best` names no checkpoint.
    #[error("`{}`: expected a name such as `step-000100`, found {found:?}", path.display())]
    Latest {
        /// The file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
}

/// The folder of the model that a path means: the newest checkpoint of a training
/// folder, the one that its file `latest` or `best` names, or the folder itself.
pub fn resolve(path: &Path) -> Result<PathBuf, Error> {
    if let (Some(folder), Some(LATEST_FILE | BEST_FILE), true) = (
        path.parent(),
        path.file_name().and_then(|name| name.to_str()),
        path.is_file(),
    ) && let Some(named) = named_in(folder, path)?
    {
        return Ok(named);
    }
    if let Some(folder) = newest(path)? {
        return Ok(folder);
    }
    if path.join(CONFIG_FILE).is_file() {
        return Ok(path.to_path_buf());
    }
    Err(Error::Missing {
        path: path.to_path_buf(),
    })
}

/// The checkpoint that the file `latest` of a training folder names, where it has one.
pub fn newest(folder: &Path) -> Result<Option<PathBuf>, Error> {
    named_in(folder, &folder.join(LATEST_FILE))
}

/// The checkpoint of a training folder that a file names, where there is that file.
fn named_in(folder: &Path, file: &Path) -> Result<Option<PathBuf>, Error> {
    let text = match fs::read_text(file) {
        Err(error) if error.is_missing() => return Ok(None),
        other => other?,
    };
    match step(text.trim()) {
        Some(step) => Ok(Some(checkpoints(folder).join(name(step)))),
        None => Err(Error::Latest {
            path: file.to_path_buf(),
            found: text,
        }),
    }
}

/// The folder of checkpoints in a training folder.
pub fn checkpoints(folder: &Path) -> PathBuf {
    folder.join("checkpoints")
}

/// The name of the checkpoint after `step` steps: `step-000100`.
pub fn name(step: u64) -> String {
    format!("step-{step:06}")
}

/// The step in a checkpoint's name.
pub fn step(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (self::name(step) == name).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_means_itself_or_the_newest_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        let model = checkpoints(folder.path()).join(name(100));
        assert!(matches!(resolve(&model), Err(Error::Missing { .. })));
        fs::write(&model.join(CONFIG_FILE), b"{}").unwrap();
        assert_eq!(resolve(&model).unwrap(), model);
        fs::write(&folder.path().join(LATEST_FILE), b"step-000100\n").unwrap();
        assert_eq!(resolve(folder.path()).unwrap(), model);
        let best = folder.path().join(BEST_FILE);
        assert!(matches!(resolve(&best), Err(Error::Missing { .. })));
        fs::write(&best, b"step-000050\n").unwrap();
        assert!(resolve(&best).unwrap().ends_with("checkpoints/step-000050"));
        assert_eq!(resolve(&folder.path().join(LATEST_FILE)).unwrap(), model);
        for damaged in ["../../etc", "step-100", "step-0000100", ""] {
            fs::write(&folder.path().join(LATEST_FILE), damaged.as_bytes()).unwrap();
            assert!(matches!(resolve(folder.path()), Err(Error::Latest { .. })));
        }
    }
}
