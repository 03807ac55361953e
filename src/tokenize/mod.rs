//! Text to ids and back, by the Hugging Face `tokenizers` library.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which tokenizer, as a recipe says it: exactly one of `file` and `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A Hugging Face `tokenizer.json`; relative paths start at the data root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Train a byte-level BPE on the pretraining sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Training>,
    /// The pause token; added to the vocabulary where it is missing.
    #[serde(default = "default_pause")]
    pub pause: String,
    /// The token that ends every document; added where it is missing.
    #[serde(default = "default_end")]
    pub end: String,
    /// The token that fills short rows; added where it is missing.
    #[serde(default = "default_pad")]
    pub pad: String,
    /// Whether text such as `<|endoftext|>` yields the special id it looks like.
    #[serde(default)]
    pub parse_special: bool,
}

/// How a byte-level BPE is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Size of the vocabulary before the reserved tokens are added; at least 256.
    pub vocab_size: u32,
    /// How much text of the sources is looked at, from their start.
    #[serde(default = "default_sample_bytes")]
    pub sample_bytes: u64,
}

fn default_pause() -> String {
    "<|pause|>".into()
}

fn default_end() -> String {
    "<|end|>".into()
}

fn default_pad() -> String {
    "<|pad|>".into()
}

fn default_sample_bytes() -> u64 {
    64 << 20
}
