//! The shape of a model: GPT-2, Llama and everything between.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::rope_scaling::RopeScaling;
use crate::batch::LENGTH_STEP;

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
    /// Width of the residual stream; a multiple of `n_heads` where `head_dim` is absent.
    pub d_model: usize,
    /// Width of each head of queries, keys and values, where that is not
    /// `d_model / n_heads`: real Qwen3 models have wider ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Width of the feed-forward layer.
    pub d_ff: usize,
    /// How positions are told apart.
    pub positions: Positions,
    /// Base of the rotary angles; unused with learned positions.
    pub rope_theta: f64,
    /// How an imported model stretches the rotary angles; recipes do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Which normalisation.
    pub norm: Norm,
    /// Added to the variance in a normalisation.
    pub norm_eps: f64,
    /// The feed-forward layer's activation.
    pub activation: Activation,
    /// Whether linear layers have biases.
    pub bias: bool,
    /// Whether queries, keys and values have biases where `bias` says that layers have none,
    /// as in Qwen2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub qkv_bias: bool,
    /// Whether the output layer is the embedding table.
    pub tied: bool,
    /// What a position attends to. A stage's training decides it (`train.attention`).
    #[serde(default, skip_serializing_if = "Attention::is_causal")]
    pub attention: Attention,
    /// How many keys a position attends to at most, itself included: those before it
    /// (sliding window, arXiv 2004.05150). All of them where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// Whether each head's queries and keys are normalised by their root mean square, with
    /// gains, before rotary positions turn them (arXiv 2302.05442; as in Qwen3).
    #[serde(default, skip_serializing_if = "is_false")]
    pub qk_norm: bool,
    /// Bounds each logit to `cap * tanh(logit / cap)` (Gemma 2, arXiv 2408.00118,
    /// section 2). No bound where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_soft_cap: Option<f64>,
}

/// What a position attends to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Attention {
    /// Itself and all positions before it in the row.
    #[default]
    Causal,
    /// Itself and those before it in its own document; positions count from the start of
    /// the document.
    Document,
    /// All of the prefix, and beyond it what is causal: a prefix is read in both directions.
    /// Pauses after the prefix are not part of it.
    PrefixLm,
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

/// Where new rows begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewRows {
    /// At the mean of the rows that the checkpoint's own tokens have: a new token is as
    /// likely as an average one, and changes what the model says of others the least.
    #[default]
    Mean,
    /// At random, as in a fresh model; the recipe's seed decides.
    Random,
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
    /// Where the embedding's rows for tokens begin that the checkpoint of `from` does not
    /// know, such as pauses, and those of an untied head; `mean` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_rows: Option<NewRows>,
    /// See [`Config::context`]; the longest row of the recipe where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<usize>,
    /// See [`Config::n_layers`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_layers: Option<usize>,
    /// See [`Config::n_heads`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_heads: Option<usize>,
    /// See [`Config::n_kv_heads`]; `n_heads` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_kv_heads: Option<usize>,
    /// See [`Config::d_model`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_model: Option<usize>,
    /// See [`Config::head_dim`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
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
    /// See [`Config::window`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// See [`Config::qk_norm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<bool>,
    /// See [`Config::logit_soft_cap`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_soft_cap: Option<f64>,
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

/// A shape that cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct Error {
    /// The field of [`Config`] at fault.
    pub field: &'static str,
    /// What is wrong with it, as a predicate: "is 3, which does not divide `d_model` 128".
    pub problem: String,
}

impl Config {
    /// Refuses a shape that cannot be built.
    pub fn check(&self) -> Result<(), Error> {
        let counts = [
            ("vocab_size", self.vocab_size),
            ("context", self.context),
            ("n_layers", self.n_layers),
            ("n_heads", self.n_heads),
            ("n_kv_heads", self.n_kv_heads),
            ("d_model", self.d_model),
            ("d_ff", self.d_ff),
            ("head_dim", self.head_dim.unwrap_or(1)),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(error(field, "is 0"));
        }
        if self.head_dim.is_none() && !self.d_model.is_multiple_of(self.n_heads) {
            let problem = format!(
                "is {}, no multiple of `n_heads` {}",
                self.d_model, self.n_heads
            );
            return Err(error("d_model", problem));
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let problem = format!(
                "is {}, which does not divide `n_heads` {}",
                self.n_kv_heads, self.n_heads
            );
            return Err(error("n_kv_heads", problem));
        }
        if self.window == Some(0) {
            return Err(error("window", "is 0: a position sees itself at least"));
        }
        let head_width = self.head();
        if self.positions == Positions::Rope && !head_width.is_multiple_of(2) {
            let problem = format!(
                "gives heads {head_width} wide, but rotary positions turn pairs: the width must be even"
            );
            let field = match self.head_dim {
                Some(_) => "head_dim",
                None => "n_heads",
            };
            return Err(error(field, problem));
        }
        positive("rope_theta", self.rope_theta)?;
        self.rope_scaling
            .map_or(Ok(()), |scaling| scaling.check())?;
        positive("logit_soft_cap", self.logit_soft_cap.unwrap_or(1.0))?;
        positive("norm_eps", self.norm_eps)
    }

    /// Width of each head.
    pub fn head(&self) -> usize {
        self.head_dim.unwrap_or(self.d_model / self.n_heads.max(1))
    }

    /// Width of the queries of all heads together, and of what attention returns.
    pub fn query_width(&self) -> usize {
        self.n_heads * self.head()
    }

    /// Width of the keys of all heads together, and of the values.
    pub fn key_width(&self) -> usize {
        self.n_kv_heads * self.head()
    }

    /// The same shape, which says `head_dim` only where it is not `d_model / n_heads`.
    pub fn plainly(self) -> Self {
        let usual = self.d_model.checked_div(self.n_heads);
        let exact = self.d_model.is_multiple_of(self.n_heads.max(1));
        Self {
            head_dim: self.head_dim.filter(|head| !exact || Some(*head) != usual),
            ..self
        }
    }

    /// [`Config::window`] as positions are counted; a row is shorter than 2^31 ids.
    pub fn window(&self) -> Option<u32> {
        (self.window).map(|window| u32::try_from(window).unwrap_or(u32::MAX))
    }
}

impl Attention {
    fn is_causal(&self) -> bool {
        *self == Self::Causal
    }
}

impl Spec {
    /// The shape for a vocabulary, with a context that holds the longest row.
    ///
    /// Meaningless for a spec with `from`: its shape lies in the checkpoint.
    pub fn resolve(&self, vocab_size: usize, longest_row: usize) -> Result<Config, Error> {
        let base = self.preset.unwrap_or_default().config();
        // As long as a batch pads it.
        let longest_row = longest_row.next_multiple_of(LENGTH_STEP);
        let config = Config {
            vocab_size,
            context: self.context.unwrap_or(longest_row),
            n_layers: self.n_layers.unwrap_or(base.n_layers),
            n_heads: self.n_heads.unwrap_or(base.n_heads),
            n_kv_heads: self.n_kv_heads.or(self.n_heads).unwrap_or(base.n_kv_heads),
            d_model: self.d_model.unwrap_or(base.d_model),
            head_dim: self.head_dim,
            d_ff: self.d_ff.unwrap_or(base.d_ff),
            positions: self.positions.unwrap_or(base.positions),
            rope_theta: self.rope_theta.unwrap_or(base.rope_theta),
            rope_scaling: base.rope_scaling,
            norm: self.norm.unwrap_or(base.norm),
            norm_eps: self.norm_eps.unwrap_or(base.norm_eps),
            activation: self.activation.unwrap_or(base.activation),
            bias: self.bias.unwrap_or(base.bias),
            qkv_bias: base.qkv_bias,
            tied: self.tied.unwrap_or(base.tied),
            attention: base.attention,
            window: self.window,
            qk_norm: self.qk_norm.unwrap_or(base.qk_norm),
            logit_soft_cap: self.logit_soft_cap,
        }
        .plainly();
        config.check()?;
        if config.context < longest_row {
            let problem = format!(
                "is {}, shorter than the longest row of a batch, {longest_row}",
                config.context
            );
            return Err(error("context", problem));
        }
        Ok(config)
    }
}

impl Preset {
    /// The shape, for no vocabulary and no context yet.
    fn config(self) -> Config {
        match self {
            Self::Micro => llama(2, 2, 64, 192),
            Self::Tiny => llama(4, 4, 128, 384),
            Self::Small => gpt2(6, 6, 384),
            Self::Gpt2 | Self::Paper130m => gpt2(12, 12, 768),
            Self::Paper1b => gpt2(24, 32, 2048),
        }
    }
}

/// Llama's shape: rotary positions, RMSNorm, SwiGLU, no biases; tied, since the
/// presets that use it are small and an output table would outweigh the blocks.
fn llama(n_layers: usize, n_heads: usize, d_model: usize, d_ff: usize) -> Config {
    Config {
        vocab_size: 0,
        context: 0,
        n_layers,
        n_heads,
        n_kv_heads: n_heads,
        d_model,
        head_dim: None,
        d_ff,
        positions: Positions::Rope,
        rope_theta: 10_000.0,
        rope_scaling: None,
        norm: Norm::RmsNorm,
        norm_eps: 1e-5,
        activation: Activation::SwiGlu,
        bias: false,
        qkv_bias: false,
        tied: true,
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    }
}

/// GPT-2's shape: learned positions, LayerNorm, GELU four times as wide, biases, tied.
///
/// The paper does not say its own, but both of its parameter counts leave the same
/// number of embedding rows (66,642) when blocks are counted in this shape.
fn gpt2(n_layers: usize, n_heads: usize, d_model: usize) -> Config {
    Config {
        d_ff: 4 * d_model,
        positions: Positions::Learned,
        norm: Norm::LayerNorm,
        activation: Activation::Gelu,
        bias: true,
        ..llama(n_layers, n_heads, d_model, 0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn positive(field: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() && 0.0 < value {
        return Ok(());
    }
    Err(error(field, format!("is {value}, not a positive number")))
}

pub(super) fn error(field: &'static str, problem: impl Into<String>) -> Error {
    Error {
        field,
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameters beside embedding tables, counted from the formulas.
    fn n_block_parameters(config: &Config) -> usize {
        let (d, ff) = (config.d_model, config.d_ff);
        let kv = config.key_width();
        let ff_matrices = match config.activation {
            Activation::Gelu => 2,
            Activation::SwiGlu => 3,
        };
        let norm = match config.norm {
            Norm::LayerNorm => 2 * d,
            Norm::RmsNorm => d,
        };
        let biases = match config.bias {
            true => (d + 2 * kv) + d + ff + d,
            false => 0,
        };
        let block = d * (d + 2 * kv) + d * d + ff_matrices * d * ff + 2 * norm + biases;
        config.n_layers * block + norm
    }

    fn preset(preset: Preset) -> Config {
        let spec = Spec {
            preset: Some(preset),
            ..Spec::default()
        };
        spec.resolve(1000, 64).unwrap()
    }

    #[test]
    fn presets_have_the_sizes_they_are_named_for() {
        assert_eq!(n_block_parameters(&preset(Preset::Micro)), 106_816);
        assert_eq!(n_block_parameters(&preset(Preset::Tiny)), 853_120);
        assert_eq!(n_block_parameters(&preset(Preset::Small)), 10_647_552);
        assert_eq!(n_block_parameters(&preset(Preset::Gpt2)), 85_056_000);
        // The paper's totals, less 66,642 rows of tables in both.
        let paper_130m = n_block_parameters(&preset(Preset::Paper130m));
        assert_eq!(paper_130m + 66_642 * 768, 136_237_056);
        let paper_1b = n_block_parameters(&preset(Preset::Paper1b));
        assert_eq!(paper_1b + 66_642 * 2048, 1_345_085_440);
    }

    #[test]
    fn a_field_beside_the_preset_wins() {
        let spec = Spec {
            n_heads: Some(8),
            tied: Some(false),
            ..Spec::default()
        };
        let config = spec.resolve(1000, 64).unwrap();
        assert_eq!((config.n_heads, config.n_kv_heads), (8, 8));
        assert_eq!(
            (config.tied, config.n_layers, config.context),
            (false, 4, 64)
        );
        assert_eq!(spec.resolve(1000, 57).unwrap().context, 64);
    }

    #[test]
    fn shapes_that_cannot_be_built_are_refused_by_field() {
        let check = |spec: Spec, field: &str| {
            assert_eq!(spec.resolve(1000, 64).unwrap_err().field, field, "{spec:?}");
        };
        let of = Spec::default;
        check(
            Spec {
                n_layers: Some(0),
                ..of()
            },
            "n_layers",
        );
        check(
            Spec {
                d_model: Some(130),
                ..of()
            },
            "d_model",
        );
        check(
            Spec {
                n_kv_heads: Some(3),
                ..of()
            },
            "n_kv_heads",
        );
        check(
            Spec {
                d_model: Some(12),
                ..of()
            },
            "n_heads",
        );
        check(
            Spec {
                context: Some(63),
                ..of()
            },
            "context",
        );
        check(
            Spec {
                window: Some(0),
                ..of()
            },
            "window",
        );
        check(
            Spec {
                norm_eps: Some(0.0),
                ..of()
            },
            "norm_eps",
        );
        check(
            Spec {
                rope_theta: Some(f64::NAN),
                ..of()
            },
            "rope_theta",
        );
    }
}
