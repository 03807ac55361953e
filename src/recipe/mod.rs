//! The recipe: one TOML file is one experiment.
//!
//! [`Recipe`] is what the author typed, checked; [`Plan`] is what a run does.

mod arms;
mod check;
mod check_pause;
mod diagnose;
mod experiment;
mod locate;
pub mod plan;
mod read;
mod reword;
pub mod schema;
#[cfg(test)]
mod tests;
mod train;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::corpus::Source;
use crate::loader::mixture;
use crate::manifest::ShardFormat;
use crate::shard::Reading;
use crate::{curate, model, pack, pause, tokenize};

pub use arms::Arm;
pub use diagnose::{Diagnosis, Error, Place};
pub use experiment::{Control, Experiment};
pub use plan::Plan;
pub use train::{EarlyStopping, Optimizer, Spike, SpikePolicy};

/// An experiment as its author typed it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Decides everything random: pauses, order, weights, sampling.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Which tokenizer; left out where `model.from` names a checkpoint, which has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<tokenize::Config>,
    /// The special token that every document and every prompt begins with, such as Llama's
    /// `<s>`; the tokenizer must have it. None where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begin: Option<String>,
    /// Which model.
    #[serde(default)]
    pub model: model::config::Spec,
    /// Pretraining on running text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Stage>,
    /// Finetuning on prefixes and targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finetune: Option<Stage>,
    /// What is measured at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<Eval>,
    /// Arms and seeds that `pausedata experiment` trains and compares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
}

/// Data and training of one stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Where documents come from, in order.
    pub sources: Vec<Source>,
    /// The dataset's folder, from the run's folder on (`../shared/pretrain`), for recipes
    /// that share one; `data/pretrain` or `data/finetune` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<std::path::PathBuf>,
    /// What is done to a document's text before anything else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<curate::Normalize>,
    /// Limits that a document's text must keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<curate::Filter>,
    /// What is done about documents that hold pieces of evaluation sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decontaminate: Option<curate::Decontaminate>,
    /// Which documents are dropped as duplicates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedup: Option<curate::Dedup>,
    /// Keeps dropped documents in `rejects/` of the dataset.
    #[serde(default, skip_serializing_if = "curate::is_false")]
    pub rejects: bool,
    /// Where pauses go.
    #[serde(default)]
    pub pause: pause::Config,
    /// How documents become rows.
    pub pack: Pack,
    /// The share of documents held out for the validation loss, chosen by their digest.
    #[serde(default)]
    pub validation: f64,
    /// How the model is trained on them; left out to prepare data only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Train>,
}

/// How documents become rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pack {
    /// Longest row in ids, pauses included.
    pub seq_len: usize,
    /// Which documents share a row in pretraining; a finetuning example has its own.
    #[serde(default, skip_serializing_if = "is_default")]
    pub method: pack::Method,
    /// What happens to a document that is longer than its row, where `method` is `document`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub overlong: pack::Overlong,
    /// Ids a shard at most; less than 2^31.
    #[serde(default = "default_shard_tokens")]
    pub shard_tokens: u64,
    /// Bytes of input that are prepared as one unit, about: larger files are cut where
    /// that can be done, smaller ones are taken together.
    #[serde(
        default = "default_unit_bytes",
        skip_serializing_if = "is_default_unit_bytes"
    )]
    pub unit_bytes: u64,
    /// What the files of shards are.
    #[serde(default, skip_serializing_if = "ShardFormat::is_binary")]
    pub format: ShardFormat,
}

/// How a model is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimizer steps.
    pub steps: u64,
    /// Positions a step: `batch_tokens / seq_len` rows make one global batch.
    pub batch_tokens: usize,
    /// Positions of one forward pass, at most; a step accumulates as many passes as it needs.
    /// Where absent, each device that shares the step makes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// What a position attends to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub attention: model::config::Attention,
    /// Global batches among which rows are sorted by length, so that rows of one length
    /// share a batch and little is padding; 0 to leave the order random.
    #[serde(default, skip_serializing_if = "is_default")]
    pub bucket: u64,
    /// What moves the weights.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimizer: Optimizer,
    /// The highest learning rate.
    pub lr: f64,
    /// How the learning rate moves after the warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Steps in which the learning rate rises linearly from 0.
    #[serde(default)]
    pub warmup: u64,
    /// The last learning rate over the highest.
    #[serde(default = "default_min_lr")]
    pub min_lr: f64,
    /// The share of steps in which `wsd` decays.
    #[serde(default = "default_decay")]
    pub decay: f64,
    /// AdamW's decoupled weight decay; norms and biases are exempt, and embeddings where
    /// `decay_embeddings` does not say otherwise.
    #[serde(default = "default_weight_decay")]
    pub weight_decay: f64,
    /// Whether the embeddings of tokens and positions decay too, as in nanoGPT.
    #[serde(default, skip_serializing_if = "curate::is_false")]
    pub decay_embeddings: bool,
    /// AdamW's moment decays.
    #[serde(default = "default_betas")]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[serde(default = "default_eps")]
    pub eps: f64,
    /// The largest global gradient norm; larger ones are scaled down to it.
    #[serde(default = "default_clip")]
    pub clip: f64,
    /// Averages the weights over steps: this share of the average stays at each, less over
    /// the first steps, `(1 + n) / (10 + n)` at most after n. A checkpoint's model is the
    /// average: it is what is validated, evaluated, exported, and trained on by later stages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<f64>,
    /// What is done about steps whose loss or gradient is out of all proportion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spike: Option<Spike>,
    /// Weight of the z-loss: the square of the logarithm of the softmax's sum, which keeps
    /// logits from drifting (PaLM, arXiv 2204.02311, section 5, takes 1e-4). Metrics tell it
    /// apart from the loss.
    #[serde(default, skip_serializing_if = "is_default")]
    pub z_loss: f64,
    /// What matrix products read: numbers as they are, or rounded to bfloat16, which is
    /// faster on a GPU and where the processor has instructions for it (`avx512_bf16`), and
    /// right everywhere. Weights, moments, sums, softmax and loss are single precision in
    /// both.
    #[serde(default, skip_serializing_if = "is_default")]
    pub precision: model::precision::Precision,
    /// Whether a block's activations are computed again in the backward pass instead of
    /// kept: the same weights to the bit, less memory, up to a third more operations.
    #[serde(default, skip_serializing_if = "curate::is_false")]
    pub recompute: bool,
    /// Steps between checkpoints; the last step is always saved.
    #[serde(default = "default_checkpoint_every")]
    pub checkpoint_every: u64,
    /// How many checkpoints are kept.
    #[serde(default = "default_keep")]
    pub keep: usize,
    /// Steps between validation losses; 0 for none.
    #[serde(default)]
    pub validate_every: u64,
    /// Rows a validation loss looks at, at most.
    #[serde(default = "default_validation_rows")]
    pub validation_rows: u64,
    /// When the run ends before its last step; the best checkpoint is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStopping>,
    /// Billions of operations a second that a device can do, to which the speed of
    /// training is compared; measured on the CPU where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_gflops: Option<f64>,
    /// Whether the metrics are written for TensorBoard too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tensorboard: bool,
    /// How the files of datasets are read; another way gives the same rows.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read: Reading,
    /// Which weights stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
    /// Train low-rank adapters, and leave the model's own weights as they are, but for what
    /// `freeze` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<model::lora::Lora>,
    /// The datasets that rows come from, where there are more than the stage's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mixture: Vec<Member>,
    /// Other weights for the datasets of `mixture`, from later steps on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curriculum: Vec<Phase>,
}

/// Which weights stay as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Freeze {
    /// All but the embeddings of pause tokens: does a pause help a model that knows
    /// nothing else of pauses?
    AllButPause,
}

/// One of the datasets that a stage is trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The folder of a dataset that another recipe made with the same tokenizer, from the
    /// run's folder on (`../other/data/pretrain`); the stage's own dataset where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<std::path::PathBuf>,
    /// Its part of the rows, beside the weights of the others.
    pub weight: f64,
    /// Pauses that its rows get when they are read, in place of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<pause::Config>,
}

/// A change of weights in training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// Steps before the weights change.
    pub from_step: u64,
    /// The weights from then on, in the order of `mixture`.
    pub weights: Vec<f64>,
}

/// How the learning rate moves after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// It stays.
    Constant,
    /// Half a cosine down to the last rate.
    #[default]
    Cosine,
    /// A straight line down to the last rate.
    Linear,
    /// It stays, then falls in a straight line over the last `decay` of the steps.
    Wsd,
}

/// What is measured at the end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// The tasks.
    #[serde(default)]
    pub tasks: Vec<Task>,
    /// Numbers of pauses at inference (M_inf) to measure; 0 is always added.
    #[serde(default)]
    pub pauses: Vec<u32>,
    /// A prompt whose continuation is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
}

/// One thing to measure: generated answers against targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it is called in results.
    pub name: String,
    /// Where its prefixes and targets come from.
    pub sources: Vec<Source>,
    /// How an answer is judged.
    #[serde(default)]
    pub metric: Metric,
    /// Examples to look at, at most, from the first.
    #[serde(default = "default_limit")]
    pub limit: u64,
    /// Longest answer in tokens.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
}

/// How an answer is judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The answer equals the target, white-space at the ends aside.
    #[default]
    ExactMatch,
    /// The last number of the answer equals the last number of the target (GSM8K).
    FinalNumber,
}

impl Train {
    /// The weights of the datasets that rows come from, by the step from which they
    /// hold; none where the stage's own dataset is the only one.
    pub fn phases(&self) -> Vec<mixture::Phase> {
        let first = (!self.mixture.is_empty()).then(|| mixture::Phase {
            from: 0,
            weights: self.mixture.iter().map(|member| member.weight).collect(),
        });
        let later = self.curriculum.iter().map(|phase| mixture::Phase {
            from: phase.from_step,
            weights: phase.weights.clone(),
        });
        first.into_iter().chain(later).collect()
    }
}

impl Stage {
    /// Whether other recipes may read its dataset too.
    pub fn is_shared(&self) -> bool {
        self.data.is_some()
    }

    /// What becomes of documents before they are encoded.
    pub fn rules(&self) -> curate::Rules {
        curate::Rules {
            normalize: self.normalize,
            filter: self.filter.clone(),
            decontaminate: self.decontaminate.clone(),
            dedup: self.dedup,
            rejects: self.rejects,
        }
    }
}

impl Recipe {
    /// The pause tokens that the stages ask for, beside the shared one.
    pub fn pause_tokens(&self) -> tokenize::PauseTokens {
        let stages = [&self.pretrain, &self.finetune].into_iter().flatten();
        let tokens: Vec<&pause::Token> = stages.map(|stage| &stage.pause.token).collect();
        let distinct = tokens.iter().map(|token| token.distinct()).max();
        tokenize::PauseTokens {
            distinct: distinct.unwrap_or(0),
            delimiters: tokens.contains(&&pause::Token::Delimited),
        }
    }

    /// Gives the tokenizer the pause tokens that the stages ask for.
    fn reserve_pause_tokens(&mut self) {
        let needed = self.pause_tokens();
        if let Some(config) = &mut self.tokenizer {
            config.pause_tokens = config.pause_tokens.union(needed);
        }
    }

    /// The longest row of any stage, in ids.
    pub fn longest_row(&self) -> usize {
        let stages = [&self.pretrain, &self.finetune].into_iter().flatten();
        let longest = stages.map(|stage| stage.pack.seq_len).max();
        longest.unwrap_or(DEFAULT_CONTEXT)
    }
}

/// The context of a model that no stage has rows for.
const DEFAULT_CONTEXT: usize = 1024;

/// Keys that older recipes lack stay away where they say nothing new, so that the
/// datasets of those recipes keep their bytes.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_seed() -> u64 {
    1
}
fn default_shard_tokens() -> u64 {
    1 << 26
}
fn default_unit_bytes() -> u64 {
    crate::corpus::UNIT_BYTES
}
fn is_default_unit_bytes(bytes: &u64) -> bool {
    *bytes == default_unit_bytes()
}
fn default_min_lr() -> f64 {
    0.1
}
fn default_decay() -> f64 {
    0.2
}
fn default_weight_decay() -> f64 {
    0.1
}
fn default_betas() -> [f64; 2] {
    [0.9, 0.95]
}
fn default_eps() -> f64 {
    1e-8
}
fn default_clip() -> f64 {
    1.0
}
fn default_checkpoint_every() -> u64 {
    100
}
fn default_keep() -> usize {
    2
}
fn default_validation_rows() -> u64 {
    256
}
fn default_limit() -> u64 {
    500
}
fn default_max_tokens() -> usize {
    64
}
