//! Adapters in the files of the library PEFT (0.21): `adapter_config.json` and
//! `adapter_model.safetensors`, both ways.
//!
//! Names are `base_model.model.<module>.lora_A.weight`, `[rank, inputs]`, and `lora_B`,
//! `[outputs, rank]`; trained rows are `trainable_tokens_delta` of the embedding, which in
//! spite of its name holds the rows themselves. Modules are those of Llama-like models; for
//! every other shape, which PEFT knows no separate queries, keys and values of, they are our own.

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::config::{Activation, Config, Norm, Positions};
use super::hub::Error;
use super::layout::Group;
use super::lora::{Lora, Target};
use super::tuning::{LoraLayout, ROWS, Tuning};

/// The folder of both files in a checkpoint.
pub const FOLDER: &str = "adapter";

/// The file that says what the other one holds.
pub const CONFIG_FILE: &str = "adapter_config.json";

/// The file of adapters and rows.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// A matrix of the file: where its values lie in one of our groups.
struct Slot {
    name: String,
    group: usize,
    shape: [usize; 2],
    /// Of the first value; from row to row and from column to column.
    start: usize,
    strides: [usize; 2],
}

impl Slot {
    fn places(&self) -> impl Iterator<Item = usize> {
        let ([rows, columns], [down, along], start) = (self.shape, self.strides, self.start);
        (0..rows).flat_map(move |i| (0..columns).map(move |j| start + i * down + j * along))
    }
}

/// Returns the text of `adapter_config.json` and the bytes of `adapter_model.safetensors`,
/// given one array for each group that is trained.
pub fn to_peft(
    values: &[Vec<f32>],
    lora: &Lora,
    tuning: &Tuning,
    config: &Config,
) -> Result<(Value, Vec<u8>), Error> {
    let bytes = |slot: &Slot| -> Vec<u8> {
        let group = values
            .get(slot.group)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let value = |place| group.get(place).copied().unwrap_or_default();
        slot.places()
            .flat_map(|place| value(place).to_le_bytes())
            .collect()
    };
    let slots = slots(lora, tuning, config);
    let arrays: Vec<Vec<u8>> = slots.iter().map(bytes).collect();
    let mut views = Vec::with_capacity(slots.len());
    for (slot, bytes) in slots.iter().zip(&arrays) {
        let view = TensorView::new(Dtype::F32, slot.shape.to_vec(), bytes)?;
        views.push((&slot.name, view));
    }
    let modules = lora.targets(config).into_iter();
    let modules: Vec<&str> = modules.map(|target| module(target, config)).collect();
    let mut object = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "target_modules": modules,
        "base_model_name_or_path": null,
    });
    if !tuning.rows.is_empty()
        && let Some(object) = object.as_object_mut()
    {
        let rows = json!({ "embed_tokens": tuning.rows });
        object.insert("trainable_token_indices".into(), rows);
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    Ok((object, safetensors::serialize(views, Some(metadata))?))
}

/// Returns one array for each group that is trained, given what [`to_peft`] wrote.
pub fn from_peft(
    bytes: &[u8],
    lora: &Lora,
    tuning: &Tuning,
    config: &Config,
) -> Result<Vec<Vec<f32>>, Error> {
    let file = SafeTensors::deserialize(bytes)?;
    let groups = tuning.groups(config);
    let mut values: Vec<Vec<f32>> = groups.iter().map(|group| vec![0.0; group.len]).collect();
    for slot in slots(lora, tuning, config) {
        let missing = |_| Error::MissingTensor {
            name: slot.name.clone(),
        };
        let tensor = file.tensor(&slot.name).map_err(missing)?;
        if tensor.shape() != slot.shape || tensor.dtype() != Dtype::F32 {
            return Err(Error::Shape {
                expected: slot.shape.to_vec(),
                found: tensor.shape().to_vec(),
                name: slot.name,
            });
        }
        let floats = tensor.data().as_chunks::<4>().0.iter();
        let group = values
            .get_mut(slot.group)
            .map(Vec::as_mut_slice)
            .unwrap_or_default();
        for (place, bytes) in slot.places().zip(floats) {
            if let Some(value) = group.get_mut(place) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
    }
    Ok(values)
}

fn slots(lora: &Lora, tuning: &Tuning, config: &Config) -> Vec<Slot> {
    let layout = LoraLayout::describe(lora, config).0;
    let mut slots = Vec::new();
    for (index, group) in tuning.groups(config).iter().enumerate() {
        if group.name == ROWS {
            slots.push(rows(index, group));
            continue;
        }
        for layer in layout.layers() {
            let all = layer.rank * layer.parts.len();
            for (place, part) in layer.parts.iter().enumerate() {
                let name = name(part.target, index, config);
                slots.push(Slot {
                    name: format!("{name}.lora_A.weight"),
                    group: index,
                    shape: [layer.rank, layer.inputs],
                    start: layer.a.start + place * layer.rank,
                    strides: [1, all],
                });
                slots.push(Slot {
                    name: format!("{name}.lora_B.weight"),
                    group: index,
                    shape: [part.columns.len(), layer.rank],
                    start: part.b.start,
                    strides: [1, part.columns.len()],
                });
            }
        }
    }
    slots
}

fn rows(index: usize, group: &Group) -> Slot {
    let shape = group.parts.first().map(|part| part.shape.as_slice());
    let shape = match shape {
        Some([rows, columns]) => [*rows, *columns],
        _ => [0, 0],
    };
    let [_, columns] = shape;
    Slot {
        name: "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta".into(),
        group: index,
        shape,
        start: 0,
        strides: [columns, 1],
    }
}

fn name(target: Target, block: usize, config: &Config) -> String {
    let within = match target {
        _ if !is_llama(config) => {
            return format!("base_model.model.block.{block}.{}", target.name());
        }
        Target::Q | Target::K | Target::V | Target::O => "self_attn",
        Target::Gate | Target::Up | Target::Down => "mlp",
    };
    let module = module(target, config);
    format!("base_model.model.model.layers.{block}.{within}.{module}")
}

fn module(target: Target, config: &Config) -> &'static str {
    match target {
        _ if !is_llama(config) => target.name(),
        Target::Q => "q_proj",
        Target::K => "k_proj",
        Target::V => "v_proj",
        Target::O => "o_proj",
        Target::Gate => "gate_proj",
        Target::Up => "up_proj",
        Target::Down => "down_proj",
    }
}

fn is_llama(config: &Config) -> bool {
    let switches = (config.positions, config.norm, config.activation);
    switches == (Positions::Rope, Norm::RmsNorm, Activation::SwiGlu)
}

#[cfg(test)]
mod tests {
    use super::super::{Device, Model, testing};
    use super::*;
    use crate::rng::Key;

    fn lora(targets: Option<Vec<Target>>) -> Lora {
        Lora {
            rank: 3,
            alpha: 6.0,
            targets,
        }
    }

    #[test]
    fn adapters_come_back() {
        let some = Some(vec![Target::V, Target::Q, Target::Down]);
        for config in testing::table() {
            for lora in [lora(None), lora(some.clone())] {
                let tuning = Tuning {
                    rows: vec![4, 9],
                    lora: Some(lora.clone()),
                };
                let groups = tuning.groups(&config).into_iter();
                let count = |(index, group): (usize, Group)| {
                    (0..group.len).map(|i| (i + 1000 * index) as f32).collect()
                };
                let values: Vec<Vec<f32>> = groups.enumerate().map(count).collect();
                let (_, bytes) = to_peft(&values, &lora, &tuning, &config).unwrap();
                assert!(from_peft(&bytes, &lora, &tuning, &config).unwrap() == values);
            }
        }
    }

    #[test]
    fn names_and_shapes_are_those_of_peft() {
        let (config, lora) = (testing::llama(), lora(Some(vec![Target::K, Target::Gate])));
        let tuning = Tuning {
            rows: vec![4, 9],
            lora: Some(lora.clone()),
        };
        let model = Model::new(&config, Key::new(1), &Device::flex());
        let model = model.tuned(tuning.clone(), Key::new(2));
        let (json, bytes) = to_peft(&model.trained(), &lora, &tuning, &config).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut found: Vec<String> = file
            .tensors()
            .into_iter()
            .filter(|(name, _)| !name.contains("layers.1"))
            .map(|(name, tensor)| format!("{name} {:?}", tensor.shape()))
            .collect();
        found.sort();
        expect_test::expect![[r"
            base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta [2, 24]
            base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight [3, 24]
            base_model.model.model.layers.0.mlp.gate_proj.lora_B.weight [36, 3]
            base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight [3, 24]
            base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight [12, 3]"]]
        .assert_eq(&found.join("\n"));
        assert_eq!(json["target_modules"], json!(["k_proj", "gate_proj"]));
        assert_eq!(
            json["trainable_token_indices"]["embed_tokens"],
            json!([4, 9])
        );
        assert_eq!((&json["r"], &json["lora_alpha"]), (&json!(3), &json!(6.0)));
    }
}
