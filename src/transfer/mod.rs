//! Models from other programs and for them: folders of Hugging Face layout, in and out.

pub mod export;
pub mod import;

use std::path::{Path, PathBuf};

use crate::fs;
use crate::model::config::Config;
use crate::model::folder::CONFIG_FILE;
use crate::model::hub::tensors::{Draft, FILE, Precision, assemble};
use crate::model::hub::{self, Dialect};
use crate::tokenize;
use crate::train::checkpoint;

pub use export::{Exported, export};
pub use import::{Imported, import};

/// What is said of a tokenizer beside its `tokenizer.json`.
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";

/// How a model generates by default.
const GENERATION_FILE: &str = "generation_config.json";

/// A model that cannot be taken over or handed on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The model's files are not ones that we can hold.
    #[error("cannot take the model in `{}`", folder.display())]
    Model {
        /// Where it is.
        folder: PathBuf,
        /// What is wrong.
        #[source]
        source: hub::Error,
    },
    /// A file cannot be made.
    #[error(transparent)]
    Hub(#[from] hub::Error),
    /// The tokenizer cannot be used.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// What is said beside a tokenizer is no JSON.
    #[error("`{}` cannot be read", path.display())]
    TokenizerConfig {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The checkpoint cannot be trusted.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The folder for the result stands already.
    #[error("`{}` exists already", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder that is to be replaced is none that this program made.
    #[error("`{}` is no model, and is not replaced", path.display())]
    NoModel {
        /// The folder.
        path: PathBuf,
    },
    /// The checkpoint does not say which ids are reserved.
    #[error("`{}` is no checkpoint of this program: it has no `{}`", path.display(), checkpoint::STATE_FILE)]
    NotOurs {
        /// The folder.
        path: PathBuf,
    },
    /// No class of `transformers` computes what the model does.
    #[error("`transformers` has no model with {what}")]
    Inexpressible {
        /// What it lacks, with the key that says so.
        what: String,
    },
    /// The tokenizer has more ids than the model has rows.
    #[error("`{}` has {ids} ids, but the model's embedding only {rows} rows", path.display())]
    TooManyIds {
        /// The tokenizer.
        path: PathBuf,
        /// Its ids.
        ids: u32,
        /// Rows of the embedding.
        rows: usize,
    },
}

impl Error {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => Some("choose another `--out`, or replace it with `--force`".into()),
            Self::Model {
                source: hub::Error::Unknown { key, .. },
                ..
            } => Some(format!(
                "if it changes nothing, take the model with `--ignore {key}`"
            )),
            Self::Model {
                source: hub::Error::Fs(error),
                ..
            } if error.is_missing() => {
                Some("`model.save_pretrained(DIR)` of `transformers` writes safetensors".into())
            }
            Self::NotOurs { .. } => Some("`pausedata import` makes one of a model of another program".into()),
            Self::Inexpressible { .. } => Some(
                "what it has are Llama (also with a window, or biases or norms of queries and keys as in Qwen) and GPT-2".into(),
            ),
            Self::Checkpoint(error) => error.hint(),
            _ => None,
        }
    }
}

/// A folder that will stand at `out`, unless something stands there and is to stay.
fn draft(out: &Path, force: bool) -> Result<fs::Draft, Error> {
    let path = || out.to_path_buf();
    if out.symlink_metadata().is_ok() {
        if !force {
            return Err(Error::Exists { path: path() });
        }
        // `--force` is for models: it removes no other folder.
        if !out.join(CONFIG_FILE).is_file() {
            return Err(Error::NoModel { path: path() });
        }
    }
    Ok(fs::Draft::create(out)?)
}

/// Puts a whole draft in its place; what stands there goes when its successor is there.
fn publish(draft: fs::Draft, out: &Path) -> Result<(), Error> {
    let old = fs::temporary(out);
    let replaces = out.symlink_metadata().is_ok();
    if replaces {
        fs::publish(out, &old)?;
    }
    draft.publish(out)?;
    if replaces {
        fs::remove_dir(&old)?;
    }
    Ok(())
}

/// Writes `model.safetensors`, one tensor after the other.
fn write_weights(
    folder: &Path,
    tensors: Vec<Draft<'_>>,
    precision: Precision,
) -> Result<(), Error> {
    let mut output = fs::Output::create(&folder.join(FILE))?;
    assemble(tensors, precision, &mut |bytes: &[u8]| {
        Ok::<(), Error>(output.write_all(bytes)?)
    })?;
    Ok(output.publish()?)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), Error> {
    Ok(fs::write(path, format!("{value:#}\n").as_bytes())?)
}

/// The class of `transformers` that a model is.
fn architecture(config: &Config) -> &'static str {
    Dialect::of(config).architecture()
}

#[cfg(test)]
mod tests;
