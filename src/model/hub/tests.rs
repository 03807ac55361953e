//! Files of Hugging Face and ours agree; a real model computes what it should.

use safetensors::SafeTensors;
use serde_json::{Value, json};

use super::super::config::{Attention, Config, RopeScaling};
use super::super::{Device, Model, testing};
use super::tensors::{Draft, Precision, assemble};
use super::{Error, read, to_hub};
use crate::fs;
use crate::rng::Key;

/// What a folder of these two files holds.
fn from_hub(config: &str, bytes: &[u8]) -> Result<(Config, Vec<Vec<f32>>), Error> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(&folder.path().join("config.json"), config.as_bytes()).unwrap();
    fs::write(&folder.path().join("model.safetensors"), bytes).unwrap();
    read(folder.path())
}

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
    let scaled = |scaling| Config {
        head_dim: Some(8),
        rope_scaling: Some(scaling),
        ..testing::llama()
    };
    for config in [
        testing::llama(),
        testing::gpt2(),
        testing::qwen2(),
        testing::qwen3(),
        testing::wide(),
        biased,
        mistral,
        scaled(RopeScaling::Linear { linear: 2.5 }),
        scaled(RopeScaling::Dynamic { dynamic: 2.0 }),
    ] {
        let values = values(&config);
        let (mut json, bytes) = to_hub(&values, &config).unwrap();
        json.as_object_mut().unwrap().remove("pausedata").unwrap();
        let (found, back) = from_hub(&json.to_string(), &bytes).unwrap();
        assert_eq!(found, config);
        assert!(back == values);
    }
}

/// What files leave out is as `transformers` has it.
#[test]
fn yarn_is_understood_in_all_its_words() {
    let config = testing::wide();
    let (mut json, bytes) = to_hub(&values(&config), &config).unwrap();
    json.as_object_mut().unwrap().remove("pausedata").unwrap();
    let mut with = |scaling: Value| {
        json["rope_scaling"] = scaling;
        let (found, _) = from_hub(&json.to_string(), &bytes).unwrap();
        let Some(RopeScaling::Yarn {
            amplitude,
            beta_fast,
            beta_slow: 1.0,
            truncate,
            original_context,
            ..
        }) = found.rope_scaling
        else {
            panic!("{found:?}")
        };
        (amplitude, beta_fast, truncate, original_context)
    };
    let usual = 0.1 * 4f64.ln() + 1.0;
    let found = with(json!({"type": "yarn", "factor": 4.0}));
    assert_eq!(found, (usual, 32.0, true, config.context));
    let found = with(json!({
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "truncate": false,
        "original_max_position_embeddings": 40, "attention_factor": 1.5, "mscale": 2.0,
    }));
    assert_eq!(found, (1.5, 16.0, false, 40));
    let found = with(json!({
        "rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": null,
    }));
    let scaled = usual / (0.05 * 4f64.ln() + 1.0);
    assert!((found.0 - scaled).abs() < 1e-12 && found.1 == 32.0);
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

/// What is said of a foreign model with another value of a key.
fn refusal((json, bytes): (&Value, &[u8]), key: &str, value: Value) -> String {
    let mut json = json.clone();
    let object = json.as_object_mut().unwrap();
    object.remove("pausedata");
    object.insert(key.to_owned(), value);
    from_hub(&json.to_string(), bytes).unwrap_err().to_string()
}

#[test]
fn heads_and_angles_that_are_not_understood_are_named() {
    let config = testing::llama();
    let (json, bytes) = to_hub(&values(&config), &config).unwrap();
    let with = |key: &str, value: Value| refusal((&json, &bytes), key, value);
    let scaled = |value: Value| with("rope_scaling", value);
    let found = [
        scaled(json!({"rope_type": "longrope", "factor": 2.0})),
        scaled(json!({"rope_type": "linear", "factor": 2.0, "mscale": 1.0})),
        scaled(json!({"rope_type": "linear", "factor": 0.0})),
        scaled(json!({"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.5})),
        with("head_dim", json!(7)),
        with("head_dim", json!(8)),
    ];
    // `transformers` gives a Qwen3 that says nothing heads of 128.
    let (json, bytes) = to_hub(&values(&testing::qwen3()), &testing::qwen3()).unwrap();
    let silent = refusal((&json, &bytes), "head_dim", Value::Null);
    assert!(silent.contains("expected [512, 24]"), "{silent}");
    expect_test::expect![[r#"
        config.json says `rope_scaling` = {"rope_type":"longrope","factor":2.0}, which is not supported
        config.json says `rope_scaling` = {"rope_type":"linear","factor":2.0,"mscale":1.0}, which is not supported
        config.json has a shape that cannot be built
        config.json says `rope_scaling` = {"rope_type":"yarn","factor":2.0,"partial_rotary_factor":0.5}, which is not supported
        config.json has a shape that cannot be built
        tensor `model.layers.0.self_attn.q_proj.weight` has shape [24, 24], expected [32, 24]
    "#]]
    .assert_eq(&(found.join("\n") + "\n"));
}

#[test]
fn what_does_not_fit_is_named() {
    let config = testing::llama();
    let (json, bytes) = to_hub(&values(&config), &config).unwrap();
    let with = |key: &str, value: Value| refusal((&json, &bytes), key, value);
    let found = [
        with("hidden_size", json!(32)),
        with("hidden_act", json!("relu")),
        with("rope_scaling", json!({"factor": 2.0})),
        with("num_hidden_layers", json!(3)),
        with("num_attention_heads", json!(0)),
        with("rms_norm_eps", json!(null)),
        with("model_type", json!("mamba")),
        from_hub("{", &bytes).unwrap_err().to_string(),
        with("yarn", json!(1.5)),
        with("sliding_window", json!(8)),
        with("attention_bias", json!(true)),
        with("mlp_bias", json!(true)),
        with(
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
        with(
            "rope_parameters",
            json!({"rope_type": "yarn", "rope_theta": 1e4}),
        ),
        with("tie_word_embeddings", json!(true)),
        with("vocab_size", json!(38)),
        with("num_hidden_layers", json!(1 << 20)),
        with("max_position_embeddings", json!(1 << 29)),
    ];
    expect_test::expect![[r#"
        tensor `model.embed_tokens.weight` has shape [37, 24], expected [37, 32]
        config.json says `hidden_act` = "relu", which is not supported
        config.json says `rope_scaling` = {"factor":2.0}, which is not supported
        tensor `model.layers.2.input_layernorm.weight` is missing
        config.json has a shape that cannot be built
        config.json has no usable `rms_norm_eps`
        config.json says `model_type` = "mamba", which is not supported
        the model's config.json cannot be read
        config.json says `yarn` = 1.5, and it is not known whether that changes what the model computes
        config.json says `sliding_window` = 8, and it is not known whether that changes what the model computes
        config.json says `mlp_bias` = false, which is not supported
        config.json says `mlp_bias` = true, which is not supported
        config.json says `layer_types` = ["full_attention","sliding_attention"], which is not supported
        config.json says `rope_parameters` = {"rope_type":"yarn","rope_theta":10000.0}, which is not supported
        `tie_word_embeddings` is true, but the tensor `lm_head.weight` is not the embedding
        tensor `model.embed_tokens.weight` has shape [37, 24], expected [38, 24]
        config.json says `n_layers` = 1048576, which is not supported
        config.json says `context` = 536870912, which is not supported
    "#]]
    .assert_eq(&(found.join("\n") + "\n"));
    let cut = from_hub(&json.to_string(), &bytes[..100]);
    assert!(matches!(cut, Err(Error::File { .. })));
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

/// A folder of a model whose tensors are shared out among two files, by the index given.
fn shards(folder: &std::path::Path, second: &[&str], index: &dyn Fn(&str) -> &'static str) {
    let config = testing::llama();
    let (json, bytes) = to_hub(&values(&config), &config).unwrap();
    fs::write(&folder.join("config.json"), json.to_string().as_bytes()).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors();
    let (b, a): (Vec<_>, Vec<_>) =
        (tensors.iter().cloned()).partition(|(name, _)| second.contains(&name.as_str()));
    for (name, part) in [("a.safetensors", a), ("b.safetensors", b)] {
        fs::write(
            &folder.join(name),
            &safetensors::serialize(part, None).unwrap(),
        )
        .unwrap();
    }
    let places = tensors
        .iter()
        .map(|(name, _)| (name.clone(), json!(index(name))));
    let index = json!({ "metadata": {}, "weight_map": Value::Object(places.collect()) });
    let path = folder.join("model.safetensors.index.json");
    fs::write(&path, index.to_string().as_bytes()).unwrap();
}

#[test]
fn a_model_in_several_files_is_one_model() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let second = ["lm_head.weight", "model.norm.weight"];
    let right = |name: &str| match second.contains(&name) {
        true => "b.safetensors",
        false => "a.safetensors",
    };
    shards(folder, &second, &right);
    let config = testing::llama();
    assert_eq!(read(folder).unwrap(), (config.clone(), values(&config)));
    let refused = |words: &str| {
        let error = read(folder).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    shards(folder, &second, &|name| match name {
        "lm_head.weight" => "a.safetensors",
        name => right(name),
    });
    refused("`a.safetensors` has the tensor `lm_head.weight`, and it has not");
    shards(folder, &second, &|_| "../b.safetensors");
    refused("`../b.safetensors`, which is not beside it");
    shards(folder, &second, &right);
    let extra = fs::read(&folder.join("b.safetensors")).unwrap();
    fs::write(&folder.join("a.safetensors"), &extra).unwrap();
    refused("stands in two files");
    fs::remove_file(&folder.join("a.safetensors")).unwrap();
    refused("a.safetensors`");
}

#[test]
fn a_value_that_half_precision_does_not_hold_is_named() {
    let draft = |value: f32| Draft {
        name: "w".into(),
        shape: vec![2],
        values: Box::new(move || Box::new([1.0, value].into_iter())),
    };
    let bytes = |value, precision| -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        assemble(vec![draft(value)], precision, &mut |part: &[u8]| {
            bytes.extend_from_slice(part);
            Ok::<(), Error>(())
        })?;
        Ok(bytes)
    };
    for (precision, value, word) in [
        (Precision::F32, 0.1f32, 0.1f32.to_le_bytes().to_vec()),
        (Precision::Bf16, 0.1, vec![0xcd, 0x3d]),
        (Precision::F16, 0.1, vec![0x66, 0x2e]),
    ] {
        let bytes = bytes(value, precision).unwrap();
        assert!(bytes.ends_with(&word), "{precision:?}");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(file.tensor("w").unwrap().shape(), [2]);
    }
    let error = bytes(7e4, Precision::F16).unwrap_err().to_string();
    assert_eq!(
        error,
        "tensor `w` has the value 70000, which float16 does not hold"
    );
    assert!(bytes(7e4, Precision::Bf16).is_ok());
    assert!(bytes(f32::NAN, Precision::F32).is_err());
}
