//! Where each tensor of a file lies in our groups: one table of slots for both directions.

use std::ops::Range;

use super::super::config::Config;
use super::super::layout::{Group, Part};
use super::Dialect;

/// One tensor of the file: a block of columns of one of our parts.
pub struct Slot {
    pub name: String,
    pub group: usize,
    part: Part,
    columns: Range<usize>,
    /// Whether the file has rows and columns exchanged.
    transposed: bool,
}

impl Slot {
    pub fn shape(&self) -> Vec<usize> {
        match *self.part.shape.as_slice() {
            [rows, _] if self.transposed => vec![self.columns.len(), rows],
            [rows, _] => vec![rows, self.columns.len()],
            _ => vec![self.columns.len()],
        }
    }

    /// Whether it has a row for each token.
    pub fn is_table(&self) -> bool {
        ["token.weight", "head.weight"].contains(&self.part.name.as_str())
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

    /// The tensor's values in our group.
    pub fn read<'a>(&self, array: &'a [f32]) -> impl Iterator<Item = f32> + use<'_, 'a> {
        let places = self.places();
        places.map(|place| array.get(place).copied().unwrap_or_default())
    }

    /// Puts the tensor's values into our group.
    pub fn write(&self, array: &mut [f32], values: impl Iterator<Item = f32>) {
        for (place, value) in self.places().zip(values) {
            if let Some(slot) = array.get_mut(place) {
                *slot = value;
            }
        }
    }
}

/// Every tensor of a model's file.
pub fn slots(config: &Config, groups: &[Group]) -> Vec<Slot> {
    let dialect = Dialect::of(config);
    let mut slots = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        // Blocks follow the embedding.
        let block = index.saturating_sub(1);
        for part in &group.parts {
            let width = part.shape.last().copied().unwrap_or_default();
            for (name, columns) in names(dialect, config, block, part) {
                slots.push(Slot {
                    name: match dialect {
                        Dialect::Own => format!("{}.{}", group.name, part.name),
                        _ => name,
                    },
                    group: index,
                    part: part.clone(),
                    columns: columns.unwrap_or(0..width),
                    transposed: dialect.has_llama_names()
                        && part.shape.len() == 2
                        && group.name.starts_with("block"),
                });
            }
        }
    }
    slots
}

/// Whether a tensor of a file is none of the weights, but something computed from the
/// configuration that old files hold beside them.
pub fn is_derived(dialect: Dialect, name: &str) -> bool {
    match dialect {
        Dialect::Gpt2 => name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"),
        Dialect::Own => false,
        _ => name.ends_with(".rotary_emb.inv_freq"),
    }
}

/// The file's names for one part, each with the columns it holds (`None`: all).
fn names(
    dialect: Dialect,
    config: &Config,
    block: usize,
    part: &Part,
) -> Vec<(String, Option<Range<usize>>)> {
    let (layer, kind) = part.name.split_once('.').unwrap_or((&part.name, ""));
    let all = |name: String| vec![(name, None)];
    match (dialect, layer) {
        (Dialect::Own, _) => all(String::new()),
        (_, "head") => all("lm_head.weight".to_owned()),
        (Dialect::Gpt2, _) => all(match layer {
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
        (Dialect::Llama | Dialect::Mistral | Dialect::Qwen2 | Dialect::Qwen3, _) => {
            let at = |name: &str| format!("model.layers.{block}.{name}.{kind}");
            let (queries, ff) = (config.query_width(), config.d_ff);
            let end = queries + config.key_width();
            let values = end + config.key_width();
            match layer {
                "token" => all("model.embed_tokens.weight".to_owned()),
                "norm" => all(format!("model.norm.{kind}")),
                "norm1" => all(at("input_layernorm")),
                "qkv" => vec![
                    (at("self_attn.q_proj"), Some(0..queries)),
                    (at("self_attn.k_proj"), Some(queries..end)),
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
