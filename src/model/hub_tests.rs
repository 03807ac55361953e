//! Files of Hugging Face and ours agree; a real model computes what it should.

use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::config::{Attention, Config};
use super::hub::{Error, from_hub, to_hub};
use super::kv_cache::Cache;
use super::{Device, Model, testing};
use crate::rng::Key;
use crate::token::TokenId;

fn values(config: &Config) -> Vec<Vec<f32>> {
    Model::new(config, Key::new(7), &Device::flex()).values()
}

#[test]
fn every_shape_comes_back_bit_for_bit() {
    let windowed = testing::table().into_iter().map(|config| Config {
        window: Some(7),
        attention: Attention::PrefixLm,
        ..config
    });
    for config in testing::table().into_iter().chain(windowed) {
        let values = values(&config);
        let (json, bytes) = to_hub(&values, &config).unwrap();
        let (found, back) = from_hub(&json.to_string(), &bytes).unwrap();
        assert_eq!(found, config);
        assert!(back == values);
    }
}

#[test]
fn foreign_configurations_are_understood_without_our_object() {
    let biased = Config {
        bias: true,
        ..testing::llama()
    };
    let mistral = Config {
        window: Some(7),
        ..testing::llama()
    };
    let qwen3 = Config {
        qk_norm: true,
        ..testing::llama()
    };
    for config in [testing::llama(), testing::gpt2(), biased, mistral, qwen3] {
        let values = values(&config);
        let (mut json, bytes) = to_hub(&values, &config).unwrap();
        json.as_object_mut().unwrap().remove("pausedata").unwrap();
        let (found, back) = from_hub(&json.to_string(), &bytes).unwrap();
        assert_eq!(found, config);
        assert!(back == values);
    }
}

#[test]
fn llama_matrices_are_transposed_and_split() {
    let config = testing::llama();
    let values = values(&config);
    let (_, bytes) = to_hub(&values, &config).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let key = file
        .tensor("model.layers.1.self_attn.k_proj.weight")
        .unwrap();
    assert_eq!(key.shape(), [12, 24]);
    let at = |row: usize, column: usize| {
        let start = 4 * (row * 24 + column);
        f32::from_le_bytes(key.data()[start..start + 4].try_into().unwrap())
    };
    // Ours is [24, 24 + 12 + 12] behind the first norm's 24 gains.
    assert_eq!(at(3, 5), values[2][24 + 5 * 48 + 24 + 3]);
    assert_eq!(file.tensor("lm_head.weight").unwrap().shape(), [37, 24]);
    let names = file.names().len();
    assert_eq!(names, 3 + 2 * 9);
}

#[test]
fn gpt2_matrices_lie_as_ours() {
    let config = testing::gpt2();
    let values = values(&config);
    let (_, bytes) = to_hub(&values, &config).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let fused = file.tensor("transformer.h.0.attn.c_attn.weight").unwrap();
    assert_eq!(fused.shape(), [16, 48]);
    let first: Vec<u8> = values[1][32..36]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    assert_eq!(fused.data()[..16], first);
    assert!(file.tensor("lm_head.weight").is_err(), "tied");
}

#[test]
fn what_does_not_fit_is_named() {
    let config = testing::llama();
    let (json, bytes) = to_hub(&values(&config), &config).unwrap();
    let with = |key: &str, value: Value| {
        let mut json = json.clone();
        let object = json.as_object_mut().unwrap();
        object.remove("pausedata");
        object.insert(key.to_owned(), value);
        from_hub(&json.to_string(), &bytes).unwrap_err().to_string()
    };
    let found = [
        with("hidden_size", json!(32)),
        with("hidden_act", json!("relu")),
        with("rope_scaling", json!({"factor": 2.0})),
        with("num_hidden_layers", json!(3)),
        with("num_attention_heads", json!(0)),
        with("rms_norm_eps", json!(null)),
        with("model_type", json!("mamba")),
        from_hub("{", &bytes).unwrap_err().to_string(),
        from_hub(&json.to_string(), &bytes[..100])
            .unwrap_err()
            .to_string(),
    ];
    expect_test::expect![[r#"
        config.json says `head_dim` = 6, which is not supported
        config.json says `hidden_act` = "relu", which is not supported
        config.json says `rope_scaling` = {"factor":2.0}, which is not supported
        tensor `model.layers.2.input_layernorm.weight` is missing
        config.json says `head_dim` = 6, which is not supported
        config.json has no usable `rms_norm_eps`
        config.json says `model_type` = "mamba", which is not supported
        the model's config.json cannot be read
        the safetensors file is malformed
    "#]]
    .assert_eq(&(found.join("\n") + "\n"));
    let short = to_hub(&[vec![0.0; 3]], &config);
    assert!(matches!(short, Err(Error::Values { found: 3, .. })));
}

#[test]
fn sixteen_bit_floats_are_widened() {
    let config = testing::gpt2();
    let values = values(&config);
    let (json, bytes) = to_hub(&values, &config).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (dtype, bits, expected) in [
        (safetensors::Dtype::F16, 0x3555u16, 0.333_251_95f32),
        (safetensors::Dtype::F16, 0x8001, -5.960_464_5e-8),
        (safetensors::Dtype::BF16, 0x3eab, 0.333_984_38),
    ] {
        let words = |n: usize| bits.to_le_bytes().repeat(n);
        let narrow: Vec<_> = file
            .tensors()
            .into_iter()
            .map(|(name, view)| (name, view.shape().to_vec(), words(view.data().len() / 4)))
            .collect();
        let views = narrow.iter().map(|(name, shape, bytes)| {
            let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
            (name, view.unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        let (_, back) = from_hub(&json.to_string(), &bytes).unwrap();
        assert!(back.iter().flatten().all(|x| *x == expected), "{dtype:?}");
    }
}

/// The folder of real models, or `None` with a message where it is not at hand.
fn stories() -> Option<PathBuf> {
    let root = std::env::var_os("PAUSEDATA_SHARED_DATA");
    if root.is_none() {
        eprintln!("skipped: PAUSEDATA_SHARED_DATA is not set");
    }
    root.map(|root| PathBuf::from(root).join("models/stories260k"))
}

#[test]
fn a_real_model_computes_its_published_logits() {
    let Some(folder) = stories() else { return };
    let text = crate::fs::read_text(&folder.join("config.json")).unwrap();
    let bytes = crate::fs::read(&folder.join("model.safetensors")).unwrap();
    let expected = crate::fs::read_text(&folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&expected).unwrap();
    let numbers = |key: &str| -> Vec<f64> {
        let list = expected[key].as_array().unwrap().iter();
        list.map(|value| value.as_f64().unwrap()).collect()
    };
    let ids = |key: &str| -> Vec<TokenId> {
        let list = expected[key].as_array().unwrap().iter();
        list.map(|id| TokenId(u32::try_from(id.as_u64().unwrap()).unwrap()))
            .collect()
    };
    let (config, values) = from_hub(&text, &bytes).unwrap();
    let model = Model::from_values(&config, values, &Device::flex());
    let prompt = ids("prompt_ids");
    let logits: Vec<f32> = model
        .logits(&prompt, 1, prompt.len())
        .into_data()
        .iter()
        .collect();
    let last = &logits[(prompt.len() - 1) * config.vocab_size..];
    for (found, expected) in last.iter().zip(numbers("logits_last_first16")) {
        assert!(
            (f64::from(*found) - expected).abs() < 2e-4,
            "{found} {expected}"
        );
    }
    for (position, expected) in numbers("nll_per_token_prompt").into_iter().enumerate() {
        let row = &logits[position * config.vocab_size..][..config.vocab_size];
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        let found = sum.ln() - f64::from(row[prompt[position + 1].index()]);
        assert!(
            (found - expected).abs() < 2e-4,
            "{position}: {found} {expected}"
        );
    }
    let greedy = ids("greedy_ids_from_bos");
    let mut cache = Cache::new(&model);
    let mut logits = cache.extend(&greedy[..1]).unwrap();
    for expected in &greedy[1..] {
        let best = (0..logits.len())
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        assert_eq!(best, expected.index(), "at position {}", cache.len());
        logits = cache.extend(&[*expected]).unwrap();
    }
}
