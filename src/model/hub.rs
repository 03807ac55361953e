//! Hugging Face files: `config.json` and `model.safetensors`, both ways.
//!
//! Llama and GPT-2 shapes get the names and layouts of `LlamaForCausalLM`, with a window
//! `MistralForCausalLM`, with norms of queries and keys `Qwen3ForCausalLM`, and
//! `GPT2LMHeadModel`; every other shape gets our own names under the model type
//! `pausedata`. One table of slots says where each tensor lies in our groups,
//! and serves both directions.

use std::collections::HashMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorView};
use serde_json::{Map, Value, json};

use super::config::{Activation, Attention, Config, Norm, Positions};
use super::layout::{Group, Part, layout};

/// Files that are not a model we can hold.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
        key: &'static str,
        /// Its value.
        found: String,
    },
    /// A tensor is absent.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
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
}

impl From<SafeTensorError> for Error {
    fn from(source: SafeTensorError) -> Self {
        Self::SafeTensors { source }
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
    let tensors: Vec<(Slot, Vec<u8>)> = slots(config, &groups)
        .into_iter()
        .map(|slot| {
            let array = arrays.get(slot.group).copied().unwrap_or_default();
            let bytes = slot.read(array);
            (slot, bytes)
        })
        .collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (slot, bytes) in &tensors {
        views.push((
            &slot.name,
            TensorView::new(Dtype::F32, slot.shape(), bytes)?,
        ));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata))?;
    Ok((write_config(config)?, bytes))
}

/// Returns the configuration and one flat array a group, given the text of
/// `config.json` and the bytes of `model.safetensors`.
pub fn from_hub(config: &str, bytes: &[u8]) -> Result<(Config, Vec<Vec<f32>>), Error> {
    let config = read_config(config)?;
    let file = SafeTensors::deserialize(bytes)?;
    let groups = layout(&config);
    let mut values: Vec<Vec<f32>> = groups.iter().map(|group| vec![0.0; group.len]).collect();
    for slot in slots(&config, &groups) {
        // Files of the bare transformer leave out the first word of each name.
        let short = slot.name.split_once('.').map_or("", |(_, rest)| rest);
        let found = file.tensor(&slot.name).or_else(|_| file.tensor(short));
        let tensor = match found {
            Ok(tensor) => tensor,
            // A bias that is left out is zero.
            Err(_) if slot.optional => continue,
            Err(_) => return Err(Error::MissingTensor { name: slot.name }),
        };
        if tensor.shape() != slot.shape() {
            return Err(Error::Shape {
                expected: slot.shape(),
                found: tensor.shape().to_vec(),
                name: slot.name,
            });
        }
        let floats = floats(&tensor, &slot.name)?;
        if let Some(array) = values.get_mut(slot.group) {
            slot.write(array, &floats);
        }
    }
    Ok((config, values))
}

/// Which program's names a shape gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Gpt2,
    Own,
}

impl Family {
    fn of(config: &Config) -> Self {
        let switches = (config.positions, config.norm, config.activation);
        let simple = !config.bias && config.window.is_none();
        match switches {
            // Known programs bound no logits, and Qwen3 alone has norms of queries and keys.
            _ if config.logit_soft_cap.is_some() || config.qk_norm && !simple => Self::Own,
            // Mistral is Llama with a window and without biases.
            (Positions::Rope, Norm::RmsNorm, Activation::SwiGlu)
                if config.window.is_none() || !config.bias =>
            {
                Self::Llama
            }
            (Positions::Learned, Norm::LayerNorm, Activation::Gelu)
                if config.bias
                    && !config.qk_norm
                    && config.n_heads == config.n_kv_heads
                    && config.window.is_none() =>
            {
                Self::Gpt2
            }
            _ => Self::Own,
        }
    }
}

/// One tensor of the file: a block of columns of one of our parts.
struct Slot {
    name: String,
    group: usize,
    part: Part,
    columns: Range<usize>,
    /// Whether the file has rows and columns exchanged.
    transposed: bool,
    /// Whether it may be absent, and is zero then.
    optional: bool,
}

impl Slot {
    fn shape(&self) -> Vec<usize> {
        match *self.part.shape.as_slice() {
            [rows, _] if self.transposed => vec![self.columns.len(), rows],
            [rows, _] => vec![rows, self.columns.len()],
            _ => vec![self.columns.len()],
        }
    }

    /// Where each value of the file's tensor, in order, lies in our group.
    fn places(&self) -> impl Iterator<Item = usize> {
        let width = self.part.shape.last().copied().unwrap_or(1);
        let rows = self.part.range.len() / width.max(1);
        let (start, columns) = (self.part.range.start, self.columns.clone());
        let (outer, inner) = match self.transposed {
            true => (columns.clone(), 0..rows),
            false => (0..rows, columns),
        };
        let transposed = self.transposed;
        outer.flat_map(move |a| {
            inner.clone().map(move |b| match transposed {
                true => start + b * width + a,
                false => start + a * width + b,
            })
        })
    }

    fn read(&self, array: &[f32]) -> Vec<u8> {
        let value = |place| array.get(place).copied().unwrap_or_default();
        self.places()
            .flat_map(|place| value(place).to_le_bytes())
            .collect()
    }

    fn write(&self, array: &mut [f32], values: &[f32]) {
        for (place, value) in self.places().zip(values) {
            if let Some(slot) = array.get_mut(place) {
                *slot = *value;
            }
        }
    }
}

fn slots(config: &Config, groups: &[Group]) -> Vec<Slot> {
    let family = Family::of(config);
    let mut slots = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        // Blocks follow the embedding.
        let block = index.saturating_sub(1);
        for part in &group.parts {
            let width = part.shape.last().copied().unwrap_or_default();
            for (name, columns) in names(family, config, block, part) {
                slots.push(Slot {
                    name: match family {
                        Family::Own => format!("{}.{}", group.name, part.name),
                        _ => name,
                    },
                    group: index,
                    part: part.clone(),
                    columns: columns.unwrap_or(0..width),
                    transposed: family == Family::Llama
                        && part.shape.len() == 2
                        && group.name.starts_with("block"),
                    optional: family == Family::Llama && part.name.ends_with("bias"),
                });
            }
        }
    }
    slots
}

/// The file's names for one part, each with the columns it holds (`None`: all).
fn names(
    family: Family,
    config: &Config,
    block: usize,
    part: &Part,
) -> Vec<(String, Option<Range<usize>>)> {
    let (layer, kind) = part.name.split_once('.').unwrap_or((&part.name, ""));
    let all = |name: String| vec![(name, None)];
    match (family, layer) {
        (Family::Own, _) => all(String::new()),
        (_, "head") => all("lm_head.weight".to_owned()),
        (Family::Gpt2, _) => all(match layer {
            "token" => "transformer.wte.weight".to_owned(),
            "position" => "transformer.wpe.weight".to_owned(),
            "norm" => format!("transformer.ln_f.{kind}"),
            "norm1" => format!("transformer.h.{block}.ln_1.{kind}"),
            "qkv" => format!("transformer.h.{block}.attn.c_attn.{kind}"),
            "out" => format!("transformer.h.{block}.attn.c_proj.{kind}"),
            "norm2" => format!("transformer.h.{block}.ln_2.{kind}"),
            "up" => format!("transformer.h.{block}.mlp.c_fc.{kind}"),
            _ => format!("transformer.h.{block}.mlp.c_proj.{kind}"),
        }),
        (Family::Llama, _) => {
            let at = |name: &str| format!("model.layers.{block}.{name}.{kind}");
            let d = config.d_model;
            let end = d + config.n_kv_heads * (d / config.n_heads.max(1));
            let (values, ff) = (2 * end - d, config.d_ff);
            match layer {
                "token" => all("model.embed_tokens.weight".to_owned()),
                "norm" => all(format!("model.norm.{kind}")),
                "norm1" => all(at("input_layernorm")),
                "qkv" => vec![
                    (at("self_attn.q_proj"), Some(0..d)),
                    (at("self_attn.k_proj"), Some(d..end)),
                    (at("self_attn.v_proj"), Some(end..values)),
                ],
                "q_norm" | "k_norm" => all(at(&format!("self_attn.{layer}"))),
                "out" => all(at("self_attn.o_proj")),
                "norm2" => all(at("post_attention_layernorm")),
                "up" => vec![
                    (at("mlp.gate_proj"), Some(0..ff)),
                    (at("mlp.up_proj"), Some(ff..2 * ff)),
                ],
                _ => all(at("mlp.down_proj")),
            }
        }
    }
}

fn write_config(config: &Config) -> Result<Value, Error> {
    let own = serde_json::to_value(config).map_err(|source| Error::Json { source })?;
    let mut value = match Family::of(config) {
        Family::Llama => json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layers,
            "num_attention_heads": config.n_heads,
            "num_key_value_heads": config.n_kv_heads,
            "head_dim": config.d_model / config.n_heads.max(1),
            "max_position_embeddings": config.context,
            "rms_norm_eps": config.norm_eps,
            "rope_theta": config.rope_theta,
            "hidden_act": "silu",
            "attention_bias": config.bias,
            "mlp_bias": config.bias,
        }),
        Family::Gpt2 => json!({
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
        Family::Own => json!({ "model_type": "pausedata" }),
    };
    if let Some(object) = value.as_object_mut() {
        if let (Family::Llama, Some(window)) = (Family::of(config), config.window) {
            object.insert("architectures".to_owned(), json!(["MistralForCausalLM"]));
            object.insert("model_type".to_owned(), json!("mistral"));
            object.insert("sliding_window".to_owned(), json!(window));
        }
        if Family::of(config) == Family::Llama && config.qk_norm {
            object.insert("architectures".to_owned(), json!(["Qwen3ForCausalLM"]));
            object.insert("model_type".to_owned(), json!("qwen3"));
        }
        object.insert("vocab_size".to_owned(), json!(config.vocab_size));
        object.insert("tie_word_embeddings".to_owned(), json!(config.tied));
        object.insert("initializer_range".to_owned(), json!(0.02));
        object.insert("torch_dtype".to_owned(), json!("float32"));
        object.insert("pausedata".to_owned(), json!({ "config": own }));
    }
    Ok(value)
}

fn read_config(text: &str) -> Result<Config, Error> {
    let value: Value = serde_json::from_str(text).map_err(|source| Error::Json { source })?;
    let object = value.as_object().ok_or(Error::Key { key: "model_type" })?;
    let config = match object.get("pausedata").and_then(|own| own.get("config")) {
        Some(own) => {
            serde_json::from_value(own.clone()).map_err(|source| Error::Json { source })?
        }
        None => match object.get("model_type").and_then(Value::as_str) {
            Some("llama") => read_llama(object)?,
            Some("qwen3") => Config {
                qk_norm: true,
                ..read_llama(object)?
            },
            Some("mistral") => Config {
                window: match object.get("sliding_window") {
                    None | Some(Value::Null) => None,
                    Some(_) => Some(size(object, "sliding_window")?),
                },
                ..read_llama(object)?
            },
            Some("gpt2") => read_gpt2(object)?,
            _ => {
                expect(object, "model_type", |_| false)?;
                return Err(Error::Key { key: "model_type" });
            }
        },
    };
    check(&config)?;
    Ok(config)
}

fn read_llama(object: &Map<String, Value>) -> Result<Config, Error> {
    let d_model = size(object, "hidden_size")?;
    let n_heads = size(object, "num_attention_heads")?;
    expect(object, "hidden_act", |found| *found == json!("silu"))?;
    expect(object, "rope_scaling", Value::is_null)?;
    let head = d_model / n_heads.max(1);
    expect(object, "head_dim", |found| {
        found.is_null() || *found == json!(head)
    })?;
    // Newer files keep the base of the angles in an object of its own.
    let nested = object.get("rope_parameters");
    let nested = nested.and_then(|parameters| parameters.get("rope_theta"));
    let theta = object.get("rope_theta").or(nested).and_then(Value::as_f64);
    let flag = |key: &str| object.get(key).and_then(Value::as_bool).unwrap_or(false);
    Ok(Config {
        vocab_size: size(object, "vocab_size")?,
        context: size(object, "max_position_embeddings")?,
        n_layers: size(object, "num_hidden_layers")?,
        n_heads,
        n_kv_heads: size(object, "num_key_value_heads").unwrap_or(n_heads),
        d_model,
        d_ff: size(object, "intermediate_size")?,
        positions: Positions::Rope,
        rope_theta: theta.unwrap_or(10_000.0),
        norm: Norm::RmsNorm,
        norm_eps: number(object, "rms_norm_eps")?,
        activation: Activation::SwiGlu,
        bias: flag("attention_bias") || flag("mlp_bias"),
        tied: flag("tie_word_embeddings"),
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    })
}

fn read_gpt2(object: &Map<String, Value>) -> Result<Config, Error> {
    expect(object, "activation_function", |found| {
        [json!("gelu_new"), json!("gelu_pytorch_tanh")].contains(found)
    })?;
    let off = |found: &Value| found.is_null() || *found == json!(false);
    expect(object, "scale_attn_by_inverse_layer_idx", off)?;
    let (d_model, n_heads) = (size(object, "n_embd")?, size(object, "n_head")?);
    let tied = object.get("tie_word_embeddings").and_then(Value::as_bool);
    Ok(Config {
        vocab_size: size(object, "vocab_size")?,
        context: size(object, "n_positions")?,
        n_layers: size(object, "n_layer")?,
        n_heads,
        n_kv_heads: n_heads,
        d_model,
        d_ff: size(object, "n_inner").unwrap_or(4 * d_model),
        positions: Positions::Learned,
        rope_theta: 10_000.0,
        norm: Norm::LayerNorm,
        norm_eps: number(object, "layer_norm_epsilon")?,
        activation: Activation::Gelu,
        bias: true,
        tied: tied.unwrap_or(true),
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    })
}

/// Shapes that no model can have are refused before anything is computed from them.
fn check(config: &Config) -> Result<(), Error> {
    let refuse = |key, found: usize| {
        Err(Error::Unsupported {
            key,
            found: found.to_string(),
        })
    };
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("n_heads", config.n_heads),
        ("n_kv_heads", config.n_kv_heads),
        ("d_model", config.d_model),
        ("d_ff", config.d_ff),
        ("context", config.context),
        ("window", config.window.unwrap_or(1)),
    ];
    if let Some(&(key, size)) = sizes.iter().find(|(_, size)| *size == 0 || 1 << 30 < *size) {
        return refuse(key, size);
    }
    if !config.d_model.is_multiple_of(config.n_heads) {
        return refuse("n_heads", config.n_heads);
    }
    if !config.n_heads.is_multiple_of(config.n_kv_heads) {
        return refuse("n_kv_heads", config.n_kv_heads);
    }
    let head = config.d_model / config.n_heads;
    match config.positions == Positions::Rope && !head.is_multiple_of(2) {
        true => refuse("head_dim", head),
        false => Ok(()),
    }
}

fn size(object: &Map<String, Value>, key: &'static str) -> Result<usize, Error> {
    let value = object.get(key).and_then(Value::as_u64);
    value
        .and_then(|value| usize::try_from(value).ok())
        .ok_or(Error::Key { key })
}

fn number(object: &Map<String, Value>, key: &'static str) -> Result<f64, Error> {
    let value = object.get(key).and_then(Value::as_f64);
    value.ok_or(Error::Key { key })
}

fn expect(
    object: &Map<String, Value>,
    key: &'static str,
    accept: impl Fn(&Value) -> bool,
) -> Result<(), Error> {
    let found = object.get(key).unwrap_or(&Value::Null);
    match accept(found) {
        true => Ok(()),
        false => Err(Error::Unsupported {
            key,
            found: found.to_string(),
        }),
    }
}

fn floats(tensor: &TensorView<'_>, name: &str) -> Result<Vec<f32>, Error> {
    let pairs = || {
        let pairs = tensor.data().as_chunks::<2>().0.iter();
        pairs.map(|bytes| u16::from_le_bytes(*bytes))
    };
    match tensor.dtype() {
        Dtype::F32 => {
            let words = tensor.data().as_chunks::<4>().0.iter();
            Ok(words.map(|bytes| f32::from_le_bytes(*bytes)).collect())
        }
        Dtype::BF16 => Ok(pairs()
            .map(|x| f32::from_bits(u32::from(x) << 16))
            .collect()),
        Dtype::F16 => Ok(pairs().map(half).collect()),
        found => Err(Error::Type {
            name: name.to_owned(),
            found: format!("{found:?}"),
        }),
    }
}

/// The value of a 16-bit float of IEEE 754.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}
