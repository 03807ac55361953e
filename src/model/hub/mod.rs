//! Hugging Face files: `config.json` and `model.safetensors`, both ways.
//!
//! Shapes that `transformers` has get the names and layouts of `LlamaForCausalLM`,
//! `MistralForCausalLM` (Llama with a window), `Qwen2ForCausalLM` (with biases on queries,
//! keys and values), `Qwen3ForCausalLM` (with norms of queries and keys) and `GPT2LMHeadModel`; every other shape gets our own names under the
//! model type `pausedata`. One table of slots says where each tensor lies in our groups,
//! and serves both directions.

mod names;
mod settings;
pub mod tensors;

use std::path::{Path, PathBuf};

use safetensors::SafeTensorError;
use serde_json::Value;

use self::names::{Slot, is_derived, slots};
use self::tensors::{Draft, Precision, Tensor, Weights, assemble};
use super::config::{self, Activation, Config, Norm, Positions};
use super::folder::CONFIG_FILE;
use super::layout::layout;
use crate::fs;

pub use settings::{Specials, read_foreign, write as write_config};

/// Files that are not a model we can hold.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// `config.json` is not JSON, or its `pausedata` object is not ours.
    #[error("the model's config.json cannot be read")]
    Json {
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// A key of `config.json` is absent or has another type.
    #[error("config.json has no usable `{key}`")]
    Key {
        /// Which key.
        key: &'static str,
    },
    /// The model does something that ours does not.
    #[error("config.json says `{key}` = {found}, which is not supported")]
    Unsupported {
        /// Which key.
        key: String,
        /// Its value.
        found: String,
    },
    /// A key that nobody here knows.
    #[error(
        "config.json says `{key}` = {found}, and it is not known whether that changes what the model computes"
    )]
    Unknown {
        /// Which key.
        key: String,
        /// Its value.
        found: String,
    },
    /// The shape cannot be built.
    #[error("config.json has a shape that cannot be built")]
    Config {
        /// Why.
        #[source]
        source: config::Error,
    },
    /// `model.safetensors.index.json` is malformed.
    #[error("model.safetensors.index.json cannot be read")]
    Index {
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The index names a file of another folder.
    #[error("model.safetensors.index.json names the file `{file}`, which is not beside it")]
    Shard {
        /// The file.
        file: String,
    },
    /// A tensor is not where the index says.
    #[error(
        "model.safetensors.index.json says that `{file}` has the tensor `{name}`, and it has not"
    )]
    NotInShard {
        /// The tensor.
        name: String,
        /// The file.
        file: String,
    },
    /// A tensor is absent.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// Which tensor.
        name: String,
    },
    /// A tensor that the configuration does not tell of.
    #[error("tensor `{name}` is none of this model's by its config.json")]
    Unexpected {
        /// Which tensor.
        name: String,
    },
    /// Two files have a tensor.
    #[error("tensor `{name}` stands in two files")]
    Twice {
        /// Which tensor.
        name: String,
    },
    /// A tied model has another output layer than its embedding.
    #[error("`tie_word_embeddings` is true, but the tensor `{name}` is not the embedding")]
    Untied {
        /// Which tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        /// Which tensor.
        name: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor is not made of 16- or 32-bit floats.
    #[error("tensor `{name}` has type {found}, expected F32, F16 or BF16")]
    Type {
        /// Which tensor.
        name: String,
        /// In the file.
        found: String,
    },
    /// A value is no number, or too large.
    #[error("tensor `{name}` has the value {value}, which {precision} does not hold")]
    Value {
        /// Which tensor.
        name: String,
        /// The value.
        value: f32,
        /// What it was to become.
        precision: &'static str,
    },
    /// The values do not fill the model's groups.
    #[error("group `{name}` holds {found} values, expected {expected}")]
    Values {
        /// Which group.
        name: String,
        /// By the configuration.
        expected: usize,
        /// Given.
        found: usize,
    },
    /// The file is not in the safetensors format, or cannot be made.
    #[error("the safetensors file is malformed")]
    SafeTensors {
        /// What the library said.
        #[source]
        source: SafeTensorError,
    },
    /// A file is not in the safetensors format.
    #[error("`{}` is no safetensors file", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the library said.
        #[source]
        source: SafeTensorError,
    },
    /// A file became shorter while it was read.
    #[error("`{}` was changed or lost while it was read", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
    },
}

impl From<SafeTensorError> for Error {
    fn from(source: SafeTensorError) -> Self {
        Self::SafeTensors { source }
    }
}

/// The output layer's table.
const HEAD: &str = "lm_head.weight";

/// Which program's names a shape gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `LlamaForCausalLM`.
    Llama,
    /// `MistralForCausalLM`.
    Mistral,
    /// `Qwen2ForCausalLM`.
    Qwen2,
    /// `Qwen3ForCausalLM`.
    Qwen3,
    /// `GPT2LMHeadModel`.
    Gpt2,
    /// Ours alone.
    Own,
}

impl Dialect {
    /// That of a shape.
    pub fn of(config: &Config) -> Self {
        let switches = (config.positions, config.norm, config.activation);
        let window = config.window.is_some();
        match switches {
            // None of these programs bounds logits.
            _ if config.logit_soft_cap.is_some() => Self::Own,
            (Positions::Rope, Norm::RmsNorm, Activation::SwiGlu) => {
                match (config.bias, config.qkv_bias, config.qk_norm, window) {
                    (false, false, true, _) => Self::Qwen3,
                    (false, true, false, _) => Self::Qwen2,
                    (false, false, false, true) => Self::Mistral,
                    (_, false, false, false) => Self::Llama,
                    _ => Self::Own,
                }
            }
            (Positions::Learned, Norm::LayerNorm, Activation::Gelu) => {
                let heads = config.n_heads == config.n_kv_heads && config.head_dim.is_none();
                match heads && config.bias && !config.qk_norm && !window {
                    true => Self::Gpt2,
                    false => Self::Own,
                }
            }
            _ => Self::Own,
        }
    }

    /// The class of `transformers`.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Own => "none",
        }
    }

    fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gpt2 => "gpt2",
            Self::Own => "pausedata",
        }
    }

    fn has_llama_names(self) -> bool {
        self.is_qwen() || matches!(self, Self::Llama | Self::Mistral)
    }

    /// Whether it is one of Qwen's.
    pub fn is_qwen(self) -> bool {
        matches!(self, Self::Qwen2 | Self::Qwen3)
    }
}

/// Returns `config.json` and the bytes of `model.safetensors`, given one flat
/// array a group. The configuration comes back exactly from its `pausedata` object.
pub fn to_hub(values: &[Vec<f32>], config: &Config) -> Result<(Value, Vec<u8>), Error> {
    let groups = layout(config);
    let mut arrays = Vec::with_capacity(groups.len());
    for (index, group) in groups.iter().enumerate() {
        let array = values.get(index).map(Vec::as_slice).unwrap_or_default();
        if array.len() != group.len {
            return Err(Error::Values {
                name: group.name.clone(),
                expected: group.len,
                found: array.len(),
            });
        }
        arrays.push(array);
    }
    let slots = slots(config, &groups);
    let drafts = slots.iter().map(|slot| {
        let array = arrays.get(slot.group).copied().unwrap_or_default();
        Draft {
            name: slot.name.clone(),
            shape: slot.shape(),
            values: Box::new(move || Box::new(slot.read(array))),
        }
    });
    let drafts = drafts.collect();
    let mut bytes = Vec::new();
    assemble(drafts, Precision::F32, &mut |part: &[u8]| {
        bytes.extend_from_slice(part);
        Ok::<(), Error>(())
    })?;
    Ok((write_config(config, Precision::F32)?, bytes))
}

/// The configuration of the model in a folder.
pub fn read_config(folder: &Path) -> Result<Config, Error> {
    settings::read(&fs::read_text(&folder.join(CONFIG_FILE))?)
}

/// Returns the configuration of the model in a folder, and one flat array a group.
pub fn read(folder: &Path) -> Result<(Config, Vec<Vec<f32>>), Error> {
    read_from(folder, &Weights::open(folder)?)
}

/// The same with the weights of another file of the folder.
pub fn read_file(folder: &Path, file: &str) -> Result<(Config, Vec<Vec<f32>>), Error> {
    read_from(folder, &Weights::of_files(&[folder.join(file)])?)
}

fn read_from(folder: &Path, weights: &Weights) -> Result<(Config, Vec<Vec<f32>>), Error> {
    let config = read_config(folder)?;
    let groups = layout(&config);
    let slots = slots(&config, &groups);
    let found = found(&config, &slots, weights)?;
    let mut values: Vec<Vec<f32>> = groups.iter().map(|group| vec![0.0; group.len]).collect();
    for (slot, tensor) in slots.iter().zip(found) {
        if let Some(array) = values.get_mut(slot.group) {
            slot.write(array, tensor.floats(&slot.name)?);
        }
    }
    weights.check_whole()?;
    Ok((config, values))
}

/// A tensor of a model's file.
pub struct Found<'a> {
    /// Its name, as we write it.
    pub name: String,
    /// What the file has.
    pub tensor: Tensor<'a>,
    /// Whether it has a row for each token.
    pub is_table: bool,
}

/// Every tensor of a model, if the files hold these and no others.
pub fn tensors_of<'a>(config: &Config, weights: &'a Weights) -> Result<Vec<Found<'a>>, Error> {
    let slots = slots(config, &layout(config));
    let found = found(config, &slots, weights)?;
    let pairs = slots.into_iter().zip(found);
    let pairs = pairs.map(|(slot, tensor)| Found {
        is_table: slot.is_table(),
        name: slot.name,
        tensor,
    });
    Ok(pairs.collect())
}

/// The tensor of each slot.
fn found<'a>(
    config: &Config,
    slots: &[Slot],
    weights: &'a Weights,
) -> Result<Vec<Tensor<'a>>, Error> {
    let dialect = Dialect::of(config);
    let mut names: Vec<&str> = weights.names().collect();
    let mut tensors = Vec::with_capacity(slots.len());
    for slot in slots {
        // Files of the bare transformer leave out the first word of each name.
        let short = slot.name.split_once('.').map_or("", |(_, rest)| rest);
        let name = [slot.name.as_str(), short].into_iter();
        let found = name
            .filter_map(|name| Some((name, weights.get(name)?)))
            .next();
        let Some((name, tensor)) = found else {
            let name = slot.name.clone();
            return Err(Error::MissingTensor { name });
        };
        if tensor.shape != slot.shape() {
            return Err(Error::Shape {
                expected: slot.shape(),
                found: tensor.shape.to_vec(),
                name: name.into(),
            });
        }
        drop(tensor.floats(name)?);
        names.retain(|other| *other != name);
        tensors.push(tensor);
    }
    for name in names.into_iter().filter(|name| !is_derived(dialect, name)) {
        let table = tensors.first().filter(|_| config.tied && name == HEAD);
        match (table, weights.get(name)) {
            (Some(table), Some(head)) if table.bytes == head.bytes => {}
            (Some(_), _) => return Err(Error::Untied { name: name.into() }),
            _ => return Err(Error::Unexpected { name: name.into() }),
        }
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
