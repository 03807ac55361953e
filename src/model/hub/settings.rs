//! `config.json`, both ways.
//!
//! A key that changes what a model computes is either understood or refused: those that do
//! not are listed here, and every other one with a value is an error.

use serde_json::{Map, Value, json};

use super::super::config::{Activation, Attention, Config, Norm, Positions, RopeScaling};
use super::tensors::Precision;
use super::{Dialect, Error};

/// Keys that change no result of a model that was trained.
const HARMLESS: [&str; 32] = [
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "bos_token_id",
    "chunk_size_feed_forward",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "is_encoder_decoder",
    "is_llama_config",
    "label2id",
    "max_length",
    "model_type",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pausedata",
    "pretraining_tp",
    "problem_type",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "return_dict",
    "task_specific_params",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_version",
    "use_cache",
];

/// What GPT-2's heads for other tasks are told.
const SUMMARY: &str = "summary_";

/// What a file says of its reserved ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Specials {
    /// `bos_token_id`.
    pub begin: Option<u32>,
    /// `eos_token_id`, the first of several.
    pub end: Option<u32>,
    /// `pad_token_id`.
    pub pad: Option<u32>,
}

impl Specials {
    /// What `config.json` or `generation_config.json` says.
    pub fn of(text: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|source| Error::Json { source })?;
        let id = |key: &str| {
            let found = value.get(key)?;
            let first = found.as_array().and_then(|list| list.first());
            u32::try_from(first.unwrap_or(found).as_u64()?).ok()
        };
        Ok(Self {
            begin: id("bos_token_id"),
            end: id("eos_token_id"),
            pad: id("pad_token_id"),
        })
    }
}

/// The `config.json` of a model; it comes back exactly from its `pausedata` object.
pub fn write(config: &Config, precision: Precision) -> Result<Value, Error> {
    let own = serde_json::to_value(config).map_err(|source| Error::Json { source })?;
    let dialect = Dialect::of(config);
    let mut value = match dialect {
        Dialect::Gpt2 => json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_embd": config.d_model,
            "n_inner": config.d_ff,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_positions": config.context,
            "layer_norm_epsilon": config.norm_eps,
            "activation_function": "gelu_new",
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
        }),
        Dialect::Own => json!({ "model_type": "pausedata" }),
        Dialect::Llama | Dialect::Mistral | Dialect::Qwen2 | Dialect::Qwen3 => json!({
            "architectures": [dialect.architecture()],
            "model_type": dialect.model_type(),
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "head_dim": config.head(),
            "max_position_embeddings": config.context,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "hidden_act": "silu",
            "attention_bias": config.bias,
            "mlp_bias": config.bias,
        }),
    };
    if let Some(object) = value.as_object_mut() {
        let mut insert = |key: &str, value: Value| object.insert(key.to_owned(), value);
        if let Some(scaling) = config.rope_scaling {
            insert("rope_scaling", scaled(scaling));
        }
        if let Some(window) = config.window.filter(|_| dialect.has_llama_names()) {
            insert("sliding_window", json!(window));
        }
        if dialect.is_qwen() {
            insert("use_sliding_window", json!(config.window.is_some()));
            insert("max_window_layers", json!(0));
        }
        insert("vocab_size", json!(config.vocab_size));
        insert("tie_word_embeddings", json!(config.tied));
        insert("initializer_range", json!(0.02));
        insert("torch_dtype", json!(precision.name()));
        insert("pausedata", json!({ "config": own }));
    }
    Ok(value)
}

/// The scaling of angles in the words of `transformers`.
fn scaled(scaling: RopeScaling) -> Value {
    match scaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_context,
        } => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Linear { linear } => json!({ "rope_type": "linear", "factor": linear }),
        RopeScaling::Dynamic { dynamic } => json!({ "rope_type": "dynamic", "factor": dynamic }),
        RopeScaling::Yarn {
            yarn,
            amplitude,
            beta_fast,
            beta_slow,
            truncate,
            original_context,
        } => json!({
            "rope_type": "yarn",
            "factor": yarn,
            "attention_factor": amplitude,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "truncate": truncate,
            "original_max_position_embeddings": original_context,
        }),
    }
}

/// The shape that our own `pausedata` object says, or where there is none, what
/// [`read_foreign`] finds.
pub fn read(text: &str) -> Result<Config, Error> {
    let value: Value = serde_json::from_str(text).map_err(|source| Error::Json { source })?;
    let own = value.get("pausedata").and_then(|own| own.get("config"));
    match own {
        Some(own) => {
            let own = serde_json::from_value(own.clone());
            let config = own.map_err(|source| Error::Json { source })?;
            check(&config)?;
            Ok(config)
        }
        None => read_foreign(text, &[]),
    }
}

/// The shape that `config.json` says in the words of other programs, all of which must be
/// understood, but for the keys to `ignore`.
pub fn read_foreign(text: &str, ignore: &[String]) -> Result<Config, Error> {
    let value: Value = serde_json::from_str(text).map_err(|source| Error::Json { source })?;
    let object = value.as_object().ok_or(Error::Key { key: "model_type" })?;
    let mut keys = Keys {
        object,
        read: HARMLESS.to_vec(),
    };
    let config = match object.get("model_type").and_then(Value::as_str) {
        Some("llama") => llama(&mut keys)?,
        Some("mistral") => mistral(&mut keys)?,
        Some("qwen2") => Config {
            qkv_bias: true,
            ..qwen(&mut keys)?
        },
        Some("qwen3") => qwen3(&mut keys)?,
        Some("gpt2") => gpt2(&mut keys)?,
        _ => {
            keys.expect("model_type", |_| false)?;
            return Err(Error::Key { key: "model_type" });
        }
    };
    let config = config.plainly();
    keys.layer_types(config.window.is_some())?;
    keys.check_all_read(ignore)?;
    check(&config)?;
    Ok(config)
}

fn llama(keys: &mut Keys<'_>) -> Result<Config, Error> {
    let bias = keys.flag("attention_bias")?;
    keys.expect("mlp_bias", |found| found.as_bool().unwrap_or(false) == bias)?;
    Ok(Config {
        bias,
        ..rotary(keys)?
    })
}

fn mistral(keys: &mut Keys<'_>) -> Result<Config, Error> {
    keys.expect("attention_bias", is_off)?;
    keys.expect("mlp_bias", is_off)?;
    Ok(Config {
        window: keys.optional_size("sliding_window")?,
        ..rotary(keys)?
    })
}

fn qwen(keys: &mut Keys<'_>) -> Result<Config, Error> {
    // Files of ours say of both what Llama's would.
    keys.expect("attention_bias", is_off)?;
    keys.expect("mlp_bias", is_off)?;
    let window = keys.optional_size("sliding_window")?;
    let first = keys.optional_size("max_window_layers")?;
    let windowed = keys.flag("use_sliding_window")?;
    if windowed && first != Some(0) {
        // Layers of both kinds.
        keys.expect("max_window_layers", |_| false)?;
    }
    Ok(Config {
        window: window.filter(|_| windowed),
        ..rotary(keys)?
    })
}

fn qwen3(keys: &mut Keys<'_>) -> Result<Config, Error> {
    let config = qwen(keys)?;
    Ok(Config {
        qk_norm: true,
        // `transformers` takes no other where a file says none.
        head_dim: match keys.found("head_dim") {
            Value::Null => Some(128),
            _ => config.head_dim,
        },
        ..config
    })
}

/// What Llama, Mistral and Qwen have in common.
fn rotary(keys: &mut Keys<'_>) -> Result<Config, Error> {
    let d_model = keys.size("hidden_size")?;
    let n_heads = keys.size("num_attention_heads")?;
    keys.expect("hidden_act", |found| *found == json!("silu"))?;
    let head_dim = keys.optional_size("head_dim")?;
    keys.expect("partial_rotary_factor", |found| {
        found.is_null() || found.as_f64() == Some(1.0)
    })?;
    let context = keys.size("max_position_embeddings")?;
    let (rope_theta, rope_scaling) = keys.angles(context)?;
    Ok(Config {
        vocab_size: keys.size("vocab_size")?,
        context,
        n_layers: keys.size("num_hidden_layers")?,
        n_heads,
        n_kv_heads: keys
            .optional_size("num_key_value_heads")?
            .unwrap_or(n_heads),
        d_model,
        head_dim,
        d_ff: keys.size("intermediate_size")?,
        positions: Positions::Rope,
        rope_theta,
        rope_scaling,
        norm: Norm::RmsNorm,
        norm_eps: keys.number("rms_norm_eps")?,
        activation: Activation::SwiGlu,
        bias: false,
        qkv_bias: false,
        tied: keys.flag("tie_word_embeddings")?,
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    })
}

fn gpt2(keys: &mut Keys<'_>) -> Result<Config, Error> {
    keys.expect("activation_function", |found| {
        [json!("gelu_new"), json!("gelu_pytorch_tanh")].contains(found)
    })?;
    keys.expect("scale_attn_by_inverse_layer_idx", is_off)?;
    keys.expect("add_cross_attention", is_off)?;
    keys.expect("scale_attn_weights", |found| {
        found.is_null() || *found == json!(true)
    })?;
    let (d_model, n_heads) = (keys.size("n_embd")?, keys.size("n_head")?);
    Ok(Config {
        vocab_size: keys.size("vocab_size")?,
        context: keys.size("n_positions")?,
        n_layers: keys.size("n_layer")?,
        n_heads,
        n_kv_heads: n_heads,
        d_model,
        head_dim: None,
        d_ff: keys.optional_size("n_inner")?.unwrap_or(4 * d_model),
        positions: Positions::Learned,
        rope_theta: 10_000.0,
        rope_scaling: None,
        norm: Norm::LayerNorm,
        norm_eps: keys.number("layer_norm_epsilon")?,
        activation: Activation::Gelu,
        bias: true,
        qkv_bias: false,
        tied: keys.found("tie_word_embeddings").as_bool().unwrap_or(true),
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    })
}

/// Shapes that no model can have are refused before anything is computed from them.
fn check(config: &Config) -> Result<(), Error> {
    // The layout lists every layer, and the angles of every position are in a table.
    let most = [
        ("vocab_size", config.vocab_size, 1 << 30),
        ("d_model", config.d_model, 1 << 30),
        ("d_ff", config.d_ff, 1 << 30),
        ("n_heads", config.n_heads, 1 << 20),
        ("head_dim", config.head_dim.unwrap_or(1), 1 << 20),
        ("window", config.window.unwrap_or(1), 1 << 30),
        ("context", config.context, 1 << 22),
        ("n_layers", config.n_layers, 1 << 14),
    ];
    if let Some(&(key, size, _)) = most.iter().find(|(_, size, most)| most < size) {
        return Err(Error::Unsupported {
            key: key.into(),
            found: size.to_string(),
        });
    }
    config.check().map_err(|source| Error::Config { source })
}

fn is_off(found: &Value) -> bool {
    found.is_null() || *found == json!(false)
}

/// The keys of a `config.json`, and which of them were read.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

impl Keys<'_> {
    fn found(&mut self, key: &'static str) -> &Value {
        self.read.push(key);
        self.object.get(key).unwrap_or(&Value::Null)
    }

    fn size(&mut self, key: &'static str) -> Result<usize, Error> {
        self.optional_size(key)?.ok_or(Error::Key { key })
    }

    fn optional_size(&mut self, key: &'static str) -> Result<Option<usize>, Error> {
        match self.found(key) {
            Value::Null => Ok(None),
            found => {
                let size = found.as_u64().and_then(|size| usize::try_from(size).ok());
                size.map(Some).ok_or(Error::Key { key })
            }
        }
    }

    fn number(&mut self, key: &'static str) -> Result<f64, Error> {
        self.found(key).as_f64().ok_or(Error::Key { key })
    }

    fn flag(&mut self, key: &'static str) -> Result<bool, Error> {
        match self.found(key) {
            Value::Null => Ok(false),
            found => found.as_bool().ok_or(Error::Key { key }),
        }
    }

    fn expect(&mut self, key: &'static str, accept: impl Fn(&Value) -> bool) -> Result<(), Error> {
        let found = self.found(key);
        match accept(found) {
            true => Ok(()),
            false => Err(Error::Unsupported {
                key: key.into(),
                found: found.to_string(),
            }),
        }
    }

    /// The base of the rotary angles and how they are scaled, as old files say it, in two
    /// keys, or new ones, in one object.
    fn angles(&mut self, context: usize) -> Result<(f64, Option<RopeScaling>), Error> {
        let theta = self.found("rope_theta").as_f64();
        let both = self.found("rope_parameters").clone();
        let (key, scaling) = match self.found("rope_scaling").clone() {
            Value::Null => ("rope_parameters", both.clone()),
            scaling => ("rope_scaling", scaling),
        };
        let nested = |from: &Value| from.get("rope_theta").and_then(Value::as_f64);
        let theta = theta.or(nested(&both)).or(nested(&scaling));
        Ok((
            theta.unwrap_or(10_000.0),
            rope_scaling(key, &scaling, context)?,
        ))
    }

    /// Layers are all of one kind.
    fn layer_types(&mut self, windowed: bool) -> Result<(), Error> {
        let kind = match windowed {
            true => "sliding_attention",
            false => "full_attention",
        };
        self.expect("layer_types", |found| {
            let list = found.as_array();
            found.is_null() || list.is_some_and(|list| list.iter().all(|found| found == kind))
        })
    }

    /// Refuses keys that nobody asked for, unless they say that something is off.
    fn check_all_read(&self, ignore: &[String]) -> Result<(), Error> {
        let unknown = self.object.iter().find(|(key, value)| {
            let known = self.read.contains(&key.as_str()) || key.starts_with(SUMMARY);
            !known && !is_off(value) && !ignore.contains(key)
        });
        match unknown {
            Some((key, value)) => Err(Error::Unknown {
                key: key.clone(),
                found: value.to_string(),
            }),
            None => Ok(()),
        }
    }
}

/// Keys that every kind of scaling may have beside its own.
const ANGLES: [&str; 3] = ["rope_type", "type", "rope_theta"];

/// The scaling of angles that an object says, of a model with a context.
fn rope_scaling(
    key: &'static str,
    value: &Value,
    context: usize,
) -> Result<Option<RopeScaling>, Error> {
    let kind = value.get("rope_type").or(value.get("type"));
    let scaling = Scaling { value, context };
    let found = match kind.and_then(Value::as_str) {
        None if value.is_null() => return Ok(None),
        // In a `rope_parameters` of nothing else.
        None | Some("default") if scaling.knows(&[]) => return Ok(None),
        Some("llama3") => scaling.llama3(),
        Some("linear") => scaling
            .factor_alone()
            .map(|linear| RopeScaling::Linear { linear }),
        Some("dynamic") => scaling
            .factor_alone()
            .map(|dynamic| RopeScaling::Dynamic { dynamic }),
        Some("yarn") => scaling.yarn(),
        _ => None,
    };
    found.map(Some).ok_or_else(|| Error::Unsupported {
        key: key.into(),
        found: value.to_string(),
    })
}

/// An object that says how angles are scaled; nothing is found where a key is not known.
struct Scaling<'a> {
    value: &'a Value,
    context: usize,
}

impl Scaling<'_> {
    /// Whether all keys are these or such as every kind has.
    fn knows(&self, keys: &[&str]) -> bool {
        let mut names = self.value.as_object().into_iter().flatten();
        names.all(|(name, value)| {
            let name = name.as_str();
            keys.contains(&name) || ANGLES.contains(&name) || is_off(value)
        })
    }

    /// What a key says; `Some(None)` where it says nothing, and `None` where no number.
    fn number(&self, key: &str) -> Option<Option<f64>> {
        match self.value.get(key) {
            None | Some(Value::Null) => Some(None),
            Some(found) => found.as_f64().map(Some),
        }
    }

    fn original_context(&self) -> Option<usize> {
        let Some(context) = self.number("original_max_position_embeddings")? else {
            return Some(self.context);
        };
        let whole = context.fract() == 0.0 && (0.0..2f64.powi(30)).contains(&context);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, and not negative"
        )]
        whole.then_some(context as usize)
    }

    fn factor_alone(&self) -> Option<f64> {
        self.knows(&["factor"]).then(|| self.number("factor"))??
    }

    fn llama3(&self) -> Option<RopeScaling> {
        let numbers = ["factor", "low_freq_factor", "high_freq_factor"];
        let known = [&numbers[..], &["original_max_position_embeddings"]].concat();
        let [factor, low_freq_factor, high_freq_factor] = numbers.map(|key| self.number(key));
        self.knows(&known).then_some(RopeScaling::Llama3 {
            factor: factor??,
            low_freq_factor: low_freq_factor??,
            high_freq_factor: high_freq_factor??,
            original_context: self.original_context()?,
        })
    }

    fn yarn(&self) -> Option<RopeScaling> {
        let known = [
            "factor",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "beta_fast",
            "beta_slow",
            "truncate",
            "original_max_position_embeddings",
        ];
        // As in Python, where nothing and 0 are one.
        let stated = |key: &str| Some(self.number(key)?.filter(|number| *number != 0.0));
        let factor = self.number("factor")??;
        let usual = |weight: f64| RopeScaling::yarn_amplitude(factor, weight);
        let amplitude = match (stated("mscale")?, stated("mscale_all_dim")?) {
            (Some(above), Some(below)) => usual(above) / usual(below),
            _ => usual(1.0),
        };
        let truncate = match self.value.get("truncate") {
            None => true,
            Some(found) => found.as_bool()?,
        };
        self.knows(&known).then_some(RopeScaling::Yarn {
            yarn: factor,
            amplitude: self.number("attention_factor")?.unwrap_or(amplitude),
            beta_fast: stated("beta_fast")?.unwrap_or(32.0),
            beta_slow: stated("beta_slow")?.unwrap_or(1.0),
            truncate,
            original_context: self.original_context()?,
        })
    }
}
