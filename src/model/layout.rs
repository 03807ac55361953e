//! Where every parameter lies: one flat tensor a group, named parts inside.
//!
//! A transformer block is one group, so that it is one node of the gradient's
//! graph, one pass of the optimizer, and a checkpoint is a list of slices.

use std::ops::Range;

use super::config::{Activation, Config, Norm, Positions};

/// Whether weight decay pulls a part towards zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Matrices of linear layers.
    Yes,
    /// Tables of tokens and positions: where the step says so.
    Tables,
    /// Gains and biases.
    No,
}

/// A named array inside a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// As in `qkv.weight`; unique inside its group.
    pub name: String,
    /// One or two axes, row-major.
    pub shape: Vec<usize>,
    /// Which elements of the group's tensor.
    pub range: Range<usize>,
    /// Whether weight decay applies.
    pub decay: Decay,
}

/// Parts that share one flat tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// `embedding`, `block.0` and so on, `final`.
    pub name: String,
    /// In the order of their ranges, without gaps.
    pub parts: Vec<Part>,
    /// Elements of the tensor.
    pub len: usize,
}

/// The groups of a model, in order: the embedding, the blocks, the final norm and head.
pub fn layout(config: &Config) -> Vec<Group> {
    let mut groups = Vec::with_capacity(config.n_layers + 2);
    groups.push(EmbeddingLayout::describe(config).1);
    let (_, block) = BlockLayout::describe(config);
    for index in 0..config.n_layers {
        groups.push(Group {
            name: format!("block.{index}"),
            ..block.clone()
        });
    }
    groups.push(FinalLayout::describe(config).1);
    groups
}

/// Gain and, for layer norm, bias.
#[derive(Clone, Debug)]
pub struct NormLayout {
    /// The gain.
    pub weight: Range<usize>,
    /// The bias.
    pub bias: Option<Range<usize>>,
}

/// A linear layer `y = x W + b` with `W` stored `[inputs, outputs]`.
#[derive(Clone, Debug)]
pub struct LinearLayout {
    /// Width of `x`.
    pub inputs: usize,
    /// Width of `y`.
    pub outputs: usize,
    /// The matrix.
    pub weight: Range<usize>,
    /// The bias.
    pub bias: Option<Range<usize>>,
}

/// Where the parts of a transformer block lie.
#[derive(Clone, Debug)]
pub struct BlockLayout {
    /// Before attention.
    pub norm1: NormLayout,
    /// Query, key and value columns.
    pub qkv: LinearLayout,
    /// The norms of each head's queries and of its keys, where there are any.
    pub qk_norm: Option<[NormLayout; 2]>,
    /// After attention.
    pub out: LinearLayout,
    /// Before the feed-forward layer.
    pub norm2: NormLayout,
    /// Into the feed-forward layer: gate columns, then up columns with SwiGLU.
    pub up: LinearLayout,
    /// Out of the feed-forward layer.
    pub down: LinearLayout,
    /// Elements of the group.
    pub len: usize,
}

/// Where the parts of the embedding lie.
#[derive(Clone, Debug)]
pub struct EmbeddingLayout {
    /// A row a token.
    pub token: Range<usize>,
    /// A row a position, with learned positions.
    pub position: Option<Range<usize>>,
    /// Elements of the group.
    pub len: usize,
}

/// Where the parts after the last block lie.
#[derive(Clone, Debug)]
pub struct FinalLayout {
    /// Before the head.
    pub norm: NormLayout,
    /// A row a token; `None` where the embedding table serves.
    pub head: Option<Range<usize>>,
    /// Elements of the group.
    pub len: usize,
}

impl BlockLayout {
    /// The layout with its description as a group.
    pub fn describe(config: &Config) -> (Self, Group) {
        let d = config.d_model;
        let (queries, keys) = (config.query_width(), config.key_width());
        let widths = match config.activation {
            Activation::Gelu => 1,
            Activation::SwiGlu => 2,
        };
        let mut group = Builder::new(config);
        let norm1 = group.norm("norm1");
        let qkv_bias = config.bias || config.qkv_bias;
        let qkv = group.linear("qkv", [d, queries + 2 * keys], qkv_bias);
        let qk_norm = config
            .qk_norm
            .then(|| ["q_norm", "k_norm"].map(|name| group.gain(name, config.head())));
        let out = group.linear("out", [queries, d], config.bias);
        let norm2 = group.norm("norm2");
        let up = group.linear("up", [d, widths * config.d_ff], config.bias);
        let down = group.linear("down", [config.d_ff, d], config.bias);
        let group = group.finish("block");
        let layout = Self {
            norm1,
            qkv,
            qk_norm,
            out,
            norm2,
            up,
            down,
            len: group.len,
        };
        (layout, group)
    }
}

impl EmbeddingLayout {
    /// The layout with its description as a group.
    pub fn describe(config: &Config) -> (Self, Group) {
        let mut group = Builder::new(config);
        let d = config.d_model;
        let token = group.part("token.weight", vec![config.vocab_size, d], Decay::Tables);
        let position = match config.positions {
            Positions::Learned => {
                Some(group.part("position.weight", vec![config.context, d], Decay::Tables))
            }
            Positions::Rope => None,
        };
        let group = group.finish("embedding");
        let layout = Self {
            token,
            position,
            len: group.len,
        };
        (layout, group)
    }
}

impl FinalLayout {
    /// The layout with its description as a group.
    pub fn describe(config: &Config) -> (Self, Group) {
        let mut group = Builder::new(config);
        let norm = group.norm("norm");
        let shape = vec![config.vocab_size, config.d_model];
        let head = (!config.tied).then(|| group.part("head.weight", shape, Decay::Yes));
        let group = group.finish("final");
        let layout = Self {
            norm,
            head,
            len: group.len,
        };
        (layout, group)
    }
}

/// Lays parts one behind the other.
struct Builder<'a> {
    config: &'a Config,
    parts: Vec<Part>,
    len: usize,
}

impl<'a> Builder<'a> {
    fn new(config: &'a Config) -> Self {
        Self {
            config,
            parts: Vec::new(),
            len: 0,
        }
    }

    fn part(&mut self, name: &str, shape: Vec<usize>, decay: Decay) -> Range<usize> {
        let range = self.len..self.len + shape.iter().product::<usize>();
        self.len = range.end;
        self.parts.push(Part {
            name: name.to_owned(),
            shape,
            range: range.clone(),
            decay,
        });
        range
    }

    fn norm(&mut self, name: &str) -> NormLayout {
        let d = self.config.d_model;
        let NormLayout { weight, .. } = self.gain(name, d);
        let bias = (self.config.norm == Norm::LayerNorm)
            .then(|| self.part(&format!("{name}.bias"), vec![d], Decay::No));
        NormLayout { weight, bias }
    }

    fn gain(&mut self, name: &str, width: usize) -> NormLayout {
        NormLayout {
            weight: self.part(&format!("{name}.weight"), vec![width], Decay::No),
            bias: None,
        }
    }

    fn linear(&mut self, name: &str, shape: [usize; 2], bias: bool) -> LinearLayout {
        let [inputs, outputs] = shape;
        let weight = self.part(&format!("{name}.weight"), shape.to_vec(), Decay::Yes);
        let bias = bias.then(|| self.part(&format!("{name}.bias"), vec![outputs], Decay::No));
        LinearLayout {
            inputs,
            outputs,
            weight,
            bias,
        }
    }

    fn finish(self, name: &str) -> Group {
        Group {
            name: name.to_owned(),
            parts: self.parts,
            len: self.len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn parts_cover_their_group_without_gaps() {
        for config in testing::table() {
            for group in layout(&config) {
                let mut end = 0;
                for part in &group.parts {
                    assert_eq!(part.range.start, end, "{}.{}", group.name, part.name);
                    assert_eq!(part.range.len(), part.shape.iter().product::<usize>());
                    end = part.range.end;
                }
                assert_eq!(end, group.len, "{}", group.name);
            }
        }
    }

    #[test]
    fn llama_block_has_the_documented_parts() {
        let groups = layout(&testing::llama());
        let block = groups.iter().find(|group| group.name == "block.1").unwrap();
        let names: Vec<_> = block.parts.iter().map(|part| part.name.as_str()).collect();
        expect_test::expect![[r#"
            ["norm1.weight", "qkv.weight", "out.weight", "norm2.weight", "up.weight", "down.weight"]"#]]
        .assert_eq(&format!("{names:?}"));
        assert!(
            block
                .parts
                .iter()
                .all(|part| (part.decay == Decay::Yes) == (part.shape.len() == 2))
        );
    }
}
