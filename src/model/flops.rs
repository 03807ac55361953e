//! How many floating-point operations a model takes.
//!
//! A multiplication and an addition are two operations. Only matrix products count:
//! forward once, backward twice; what is computed again to save memory is told apart, and
//! what attention's backward pass computes again in any case does not count.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::config::{Activation, Config};

/// The operations of forward and backward passes, by stage of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flops {
    /// The linear layers of the blocks, on every position, padding included.
    pub linear: u64,
    /// Attention: a query meets the keys up to its own position.
    pub attention: u64,
    /// The head, on scored positions alone.
    pub head: u64,
    /// What was computed again to save memory (`train.recompute`): part of what the
    /// processor does, and not of what the model takes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recomputed: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The operations of one position, by the conventions in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PerToken {
    /// `6 N`, `N` the weights of linear layers and head.
    pub six_n: u64,
    /// `6 N + 12 L T D`: attention as if every query met every key (PaLM,
    /// arXiv 2204.02311, appendix B).
    pub palm: u64,
    /// `6 N + 6 L T D`: half of it, as a causal kernel does.
    pub causal: u64,
}

impl Flops {
    /// Those of `rows` rows of `length` positions with `scored` targets.
    pub fn of(config: &Config, rows: usize, length: usize, scored: u64) -> Self {
        let (rows, length) = (rows as u64, length as u64);
        let meetings = rows * length * (length + 1) / 2;
        Self {
            linear: 6 * linear(config) * rows * length,
            attention: 12 * (config.n_layers * config.query_width()) as u64 * meetings,
            head: 6 * head(config) * scored,
            recomputed: 0,
        }
    }

    /// The same where the model's own matrices are frozen: their gradients, a third, are not
    /// computed, but those of `adapters`, their parameters times the positions.
    pub fn frozen(self, adapters: u64) -> Self {
        Self {
            linear: self.linear / 3 * 2 + 6 * adapters,
            head: self.head / 3 * 2,
            ..self
        }
    }

    /// The same, with the forward pass of every block done once more up to the
    /// feed-forward layer's activation.
    pub fn recomputed(self, config: &Config, positions: u64) -> Self {
        let down = (config.n_layers * config.d_model * config.d_ff) as u64;
        Self {
            recomputed: 2 * (linear(config) - down) * positions + self.attention / 3,
            ..self
        }
    }

    /// What the processor does, in the words of PaLM's appendix B: hardware operations.
    pub fn hardware(self) -> u64 {
        self.sum() + self.recomputed
    }

    /// All stages of the model together.
    pub fn sum(self) -> u64 {
        self.linear + self.attention + self.head
    }
}

impl AddAssign for Flops {
    fn add_assign(&mut self, other: Self) {
        self.linear += other.linear;
        self.attention += other.attention;
        self.head += other.head;
        self.recomputed += other.recomputed;
    }
}

impl PerToken {
    /// Those of a position in a row of `length`.
    pub fn of(config: &Config, length: usize) -> Self {
        let six_n = 6 * (linear(config) + head(config));
        let attention = (12 * config.n_layers * length * config.query_width()) as u64;
        Self {
            six_n,
            palm: six_n + attention,
            causal: six_n + attention / 2,
        }
    }
}

/// Weights of the blocks' linear layers.
fn linear(config: &Config) -> u64 {
    let Config {
        d_model: d, d_ff, ..
    } = *config;
    let (queries, keys) = (config.query_width(), config.key_width());
    let matrices = match config.activation {
        Activation::Gelu => 2,
        Activation::SwiGlu => 3,
    };
    (config.n_layers * (2 * d * (queries + keys) + matrices * d * d_ff)) as u64
}

/// Weights of the head, shared with the embedding or not.
fn head(config: &Config) -> u64 {
    (config.vocab_size * config.d_model) as u64
}

#[cfg(all(test, feature = "train"))]
mod tests {
    use super::super::layout::layout;
    use super::super::testing;
    use super::*;

    /// Every matrix product of a pass, one after the other.
    fn counted(config: &Config, length: usize, scored: u64) -> u64 {
        let mut weights = 0;
        for group in layout(config)
            .iter()
            .filter(|group| group.name.starts_with("block"))
        {
            let matrices = group.parts.iter().filter(|part| part.shape.len() == 2);
            weights += matrices.map(|part| part.range.len() as u64).sum::<u64>();
        }
        let mut sum = length as u64 * 2 * weights;
        for query in 0..length {
            for _head in 0..config.n_heads {
                // Scores, then the weighted values.
                sum += (config.n_layers * 2 * 2 * (query + 1) * config.head()) as u64;
            }
        }
        sum += scored * 2 * (config.vocab_size * config.d_model) as u64;
        3 * sum
    }

    #[test]
    fn operations_equal_their_count() {
        for config in testing::table() {
            let flops = Flops::of(&config, 1, 24, 7);
            assert_eq!(flops.sum(), counted(&config, 24, 7), "{config:?}");
            // A third of all but the head and the products out of feed-forward layers.
            let down = (config.n_layers * config.d_model * config.d_ff) as u64;
            let again = (flops.sum() - flops.head) / 3 - 24 * 2 * down;
            assert_eq!(flops.recomputed(&config, 24).recomputed, again);
            assert_eq!(
                flops.recomputed(&config, 24).hardware(),
                flops.sum() + again
            );
            let mut twice = flops;
            twice += flops;
            assert_eq!(twice, Flops::of(&config, 2, 24, 14));
        }
    }

    #[test]
    fn conventions_differ_by_attention() {
        let config = testing::llama();
        let PerToken {
            six_n,
            palm,
            causal,
        } = PerToken::of(&config, 64);
        assert_eq!(palm - six_n, 12 * 2 * 64 * 24);
        assert_eq!(palm - causal, causal - six_n);
        let done = Flops::of(&config, 1, 64, 64).sum() / 64;
        assert!(
            (causal..causal + causal / 50).contains(&done),
            "{done} {causal}"
        );
    }
}
