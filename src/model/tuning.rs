//! A model of which training changes a part: the rows of some tokens, and adapters.

use std::ops::Range;

use super::config::Config;
use super::layout::{Decay, Group, Part};
use super::lora::{Lora, Target};
use crate::rng::{Key, Stream};

/// The name of the group of rows.
pub const ROWS: &str = "rows";

/// What training changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// Ids whose rows of the embedding are trained, in order.
    pub rows: Vec<u32>,
    /// Adapters of the blocks.
    pub lora: Option<Lora>,
}

/// Where the adapters of a block lie in their group.
#[derive(Clone, Debug)]
pub struct LoraLayout {
    /// What their products are multiplied by.
    pub scale: f32,
    /// Of query, key and value columns.
    pub qkv: AdapterLayout,
    /// After attention.
    pub out: AdapterLayout,
    /// Into the feed-forward layer.
    pub up: AdapterLayout,
    /// Out of the feed-forward layer.
    pub down: AdapterLayout,
    /// Elements of the group.
    pub len: usize,
}

/// Where the adapters of one linear layer lie: `A` of all of them side by side, then each
/// one's `B`. None of them where it is empty.
#[derive(Clone, Debug)]
pub struct AdapterLayout {
    /// All of it.
    pub range: Range<usize>,
    /// Width of what the layer reads.
    pub inputs: usize,
    /// Columns of each `A`.
    pub rank: usize,
    /// `[inputs, rank * targets]`.
    pub a: Range<usize>,
    /// Each one's columns of what the layer writes, and its `B`, `[rank, columns]`.
    pub parts: Vec<AdapterPart>,
}

/// One of the adapters of a linear layer.
#[derive(Clone, Debug)]
pub struct AdapterPart {
    /// Whose it is.
    pub target: Target,
    /// Its columns of what the layer writes.
    pub columns: Range<usize>,
    /// Where its `B` lies.
    pub b: Range<usize>,
}

impl LoraLayout {
    /// The layout with its description as a group.
    pub fn describe(lora: &Lora, config: &Config) -> (Self, Group) {
        let (d, ff) = (config.d_model, config.d_ff);
        let (queries, keys) = (config.query_width(), config.key_width());
        let gates = if Target::Gate.is_in(config) { ff } else { 0 };
        let mut builder = Builder {
            targets: lora.targets(config),
            rank: lora.rank,
            parts: Vec::new(),
            len: 0,
        };
        let layout = Self {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "the model computes in single precision"
            )]
            scale: lora.scale() as f32,
            qkv: builder.layer(
                "qkv",
                d,
                &[(Target::Q, queries), (Target::K, keys), (Target::V, keys)],
            ),
            out: builder.layer("out", queries, &[(Target::O, d)]),
            up: builder.layer("up", d, &[(Target::Gate, gates), (Target::Up, ff)]),
            down: builder.layer("down", ff, &[(Target::Down, d)]),
            len: builder.len,
        };
        let group = Group {
            name: "adapter".into(),
            parts: builder.parts,
            len: builder.len,
        };
        (layout, group)
    }

    /// The adapters of all linear layers, in the order in which they lie.
    pub fn layers(&self) -> [&AdapterLayout; 4] {
        [&self.qkv, &self.out, &self.up, &self.down]
    }
}

/// Lays adapters one behind the other.
struct Builder {
    targets: Vec<Target>,
    rank: usize,
    parts: Vec<Part>,
    len: usize,
}

impl Builder {
    fn layer(&mut self, name: &str, inputs: usize, of: &[(Target, usize)]) -> AdapterLayout {
        let start = self.len;
        let mut columns = Vec::new();
        let mut end = 0;
        for (target, width) in of {
            if self.targets.contains(target) {
                columns.push((*target, end..end + width));
            }
            end += width;
        }
        let rank = self.rank;
        let all = rank * columns.len();
        let a = self.part(format!("{name}.lora_a"), [inputs, all]);
        let parts = columns.into_iter().map(|(target, columns)| AdapterPart {
            target,
            b: self.part(format!("{}.lora_b", target.name()), [rank, columns.len()]),
            columns,
        });
        AdapterLayout {
            parts: parts.collect(),
            inputs,
            rank,
            a,
            range: start..self.len,
        }
    }

    fn part(&mut self, name: String, shape: [usize; 2]) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        if !range.is_empty() {
            self.parts.push(Part {
                name,
                shape: shape.to_vec(),
                range: range.clone(),
                decay: Decay::Yes,
            });
        }
        range
    }
}

impl Tuning {
    /// The groups that are trained, which a model has behind its own: adapters of each block,
    /// then rows.
    pub fn groups(&self, config: &Config) -> Vec<Group> {
        let mut groups = Vec::new();
        if let Some(lora) = &self.lora {
            let (_, group) = LoraLayout::describe(lora, config);
            groups.extend((0..config.n_layers).map(|block| Group {
                name: format!("adapter.{block}"),
                ..group.clone()
            }));
        }
        if !self.rows.is_empty() {
            let shape = vec![self.rows.len(), config.d_model];
            let len = shape.iter().product();
            let part = Part {
                name: "rows.weight".into(),
                shape,
                range: 0..len,
                // A few rows need not decay.
                decay: Decay::No,
            };
            groups.push(Group {
                name: ROWS.into(),
                parts: vec![part],
                len,
            });
        }
        groups
    }
}

/// Where adapters begin: `A` uniform within `1 / sqrt(inputs)`, as in PEFT, `B` zero.
pub fn initial(group: &Group, key: Key, index: usize) -> Vec<f32> {
    let key = key.stream(Stream::Weights).item(index as u64);
    let mut values = vec![0.0; group.len];
    for (part, of) in group.parts.iter().enumerate() {
        let inputs = match of.name.ends_with(".lora_a") {
            true => of.shape.first().copied().unwrap_or(1),
            false => continue,
        };
        let bound = 1.0 / (inputs as f64).sqrt();
        let mut rng = key.item(part as u64).rng();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "weights are single precision"
        )]
        let draw = || ((2.0 * rng.unit() - 1.0) * bound) as f32;
        let range = values.get_mut(of.range.clone()).unwrap_or_default();
        range.fill_with(draw);
    }
    values
}
