//! The shape of a model: GPT-2, Llama and everything between.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A decoder-only transformer's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Rows of the embedding table, reserved tokens included.
    pub vocab_size: usize,
    /// Longest row in positions; rows of learned positions.
    pub context: usize,
    /// Transformer blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads` (grouped-query attention).
    pub n_kv_heads: usize,
    /// Width of the residual stream; a multiple of `n_heads`.
    pub d_model: usize,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// How positions are told apart.
    pub positions: Positions,
    /// Base of the rotary angles; unused with learned positions.
    pub rope_theta: f64,
    /// Which normalisation.
    pub norm: Norm,
    /// Added to the variance in a normalisation.
    pub norm_eps: f64,
    /// The feed-forward layer's activation.
    pub activation: Activation,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// Whether the output layer is the embedding table.
    pub tied: bool,
}

/// How positions are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Positions {
    /// A learned row a position, as in GPT-2.
    Learned,
    /// Rotary embedding in Llama's rotate-half convention (arXiv 2104.09864).
    Rope,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// Mean and variance, with gain and bias.
    LayerNorm,
    /// Root mean square, with gain alone (arXiv 1910.07467).
    RmsNorm,
}

/// The feed-forward layer's activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// GELU in the tanh approximation, as in GPT-2.
    Gelu,
    /// SiLU-gated linear unit (arXiv 2002.05202); `d_ff` is the gated width.
    SwiGlu,
}

/// A model as a recipe says it: a preset, with any field changed beside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The shape to start from; `tiny` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Start from this checkpoint's weights, shape and tokenizer instead: a
    /// `train/*` folder or a checkpoint, relative to the run's own folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<std::path::PathBuf>,
    /// See [`Config::context`]; the longest row of the recipe where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// See [`Config::n_layers`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_layers: Option<usize>,
    /// See [`Config::n_heads`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_heads: Option<usize>,
    /// See [`Config::n_kv_heads`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// See [`Config::d_model`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_model: Option<usize>,
    /// See [`Config::d_ff`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_ff: Option<usize>,
    /// See [`Config::positions`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<Positions>,
    /// See [`Config::rope_theta`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_theta: Option<f64>,
    /// See [`Config::norm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Norm>,
    /// See [`Config::norm_eps`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm_eps: Option<f64>,
    /// See [`Config::activation`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// See [`Config::bias`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<bool>,
    /// See [`Config::tied`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tied: Option<bool>,
}

/// A named shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// About 0.1 M parameters beside the embeddings: for tests.
    Micro,
    /// About 1 M parameters beside the embeddings: minutes on two cores.
    #[default]
    Tiny,
    /// GPT-2 shape, 10.6 M beside the embeddings.
    Small,
    /// GPT-2 small: 12 layers, 768 wide.
    Gpt2,
    /// The paper's 130M: 12 layers, 12 heads, 768 wide, 3,072 feed-forward.
    #[serde(rename = "paper-130m")]
    Paper130m,
    /// The paper's 1B: 24 layers, 32 heads, 2,048 wide, 8,192 feed-forward.
    #[serde(rename = "paper-1b")]
    Paper1b,
}
