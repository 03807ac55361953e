//! Shapes and batches that the tests of the model share.

use super::config::{Activation, Attention, Config, Norm, Positions, RopeScaling};
use super::layout::layout;
use crate::batch::{Batch, BatchIds, StoredTargets};
use crate::rng::{Key, Rng};

/// GPT-2 in small.
pub fn gpt2() -> Config {
    Config {
        vocab_size: 37,
        context: 80,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 2,
        d_model: 16,
        head_dim: None,
        d_ff: 40,
        positions: Positions::Learned,
        rope_theta: 10_000.0,
        rope_scaling: None,
        norm: Norm::LayerNorm,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        bias: true,
        qkv_bias: false,
        tied: true,
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    }
}

/// Llama in small, with two query heads to a key and value head.
pub fn llama() -> Config {
    Config {
        n_heads: 4,
        n_kv_heads: 2,
        d_model: 24,
        d_ff: 36,
        positions: Positions::Rope,
        norm: Norm::RmsNorm,
        norm_eps: 1e-6,
        activation: Activation::SwiGlu,
        bias: false,
        tied: false,
        ..gpt2()
    }
}

/// Qwen2 in small, with the angles of a context that was made longer.
pub fn qwen2() -> Config {
    Config {
        qkv_bias: true,
        rope_scaling: Some(RopeScaling::Llama3 {
            factor: 4.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 20,
        }),
        ..llama()
    }
}

/// Qwen3 in small.
pub fn qwen3() -> Config {
    Config {
        qk_norm: true,
        ..llama()
    }
}

/// Qwen3 in small as the real ones are: heads that are together wider than the stream.
pub fn wide() -> Config {
    Config {
        head_dim: Some(10),
        rope_scaling: Some(RopeScaling::Yarn {
            yarn: 4.0,
            amplitude: 1.2,
            beta_fast: 8.0,
            beta_slow: 1.0,
            truncate: true,
            original_context: 20,
        }),
        ..qwen3()
    }
}

/// Every switch both ways.
pub fn table() -> Vec<Config> {
    vec![
        gpt2(),
        llama(),
        qwen2(),
        Config {
            tied: false,
            bias: false,
            ..gpt2()
        },
        Config {
            tied: true,
            n_kv_heads: 1,
            ..llama()
        },
        Config {
            bias: true,
            positions: Positions::Learned,
            activation: Activation::Gelu,
            n_kv_heads: 4,
            ..llama()
        },
        Config {
            positions: Positions::Rope,
            activation: Activation::SwiGlu,
            n_heads: 4,
            n_kv_heads: 2,
            ..gpt2()
        },
        Config {
            qk_norm: true,
            logit_soft_cap: Some(3.0),
            ..llama()
        },
        wide(),
        Config {
            head_dim: Some(4),
            ..gpt2()
        },
        Config {
            qk_norm: true,
            logit_soft_cap: Some(2.0),
            ..gpt2()
        },
    ]
}

/// Values changed one by one, but for the gains of queries and keys: with larger ones a
/// position sees a single key, which proves nothing.
pub fn changed(
    config: &Config,
    values: Vec<Vec<f32>>,
    mut change: impl FnMut(f32) -> f32,
) -> Vec<Vec<f32>> {
    let mut values = values;
    for (group, values) in layout(config).iter().zip(&mut values) {
        let parts = group.parts.iter();
        for part in parts.filter(|part| !["q_norm.weight", "k_norm.weight"].contains(&&*part.name))
        {
            for value in &mut values[part.range.clone()] {
                *value = change(*value);
            }
        }
    }
    values
}

/// A batch with a quarter of its weights 0 and the others uneven.
pub fn batch(config: &Config, rows: usize, length: usize, seed: u64) -> Batch {
    let mut rng = Key::new(seed).rng();
    let n = rows * length;
    let ids = |rng: &mut Rng| -> Vec<u32> {
        (0..n)
            .map(|_| u32::try_from(rng.below(config.vocab_size as u64)).unwrap())
            .collect()
    };
    let (inputs, targets) = (ids(&mut rng), ids(&mut rng));
    Batch {
        rows,
        length,
        ids: BatchIds::U32(inputs),
        stored: Some(StoredTargets {
            targets,
            weights: (0..n)
                .map(|_| [0.0, 0.5, 1.0, 2.0][usize::try_from(rng.below(4)).unwrap()])
                .collect(),
        }),
        ..Batch::default()
    }
}

/// `|a - b| / |b|` over whole arrays.
pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = a.iter().zip(b);
    let difference = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b))).max(1e-12)
}
