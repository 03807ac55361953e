//! A checkpoint becomes a model that `transformers` loads.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Error, GENERATION_FILE, TOKENIZER_CONFIG_FILE, architecture, draft, publish};
use super::{write_json, write_weights};
use crate::fs;
use crate::generate;
use crate::manifest::TOKENIZER_FILE;
use crate::model::config::{Attention, Config};
use crate::model::folder::CONFIG_FILE;
use crate::model::hub::tensors::{Draft, Precision, Weights};
use crate::model::hub::{self, Dialect, Found};
use crate::token::{Reserved, TokenId};
use crate::tokenize::Foreign;
use crate::train::checkpoint::{self, Checkpoint, State};

/// What to hand on, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// A checkpoint, or a training folder whose newest is meant.
    pub model: PathBuf,
    /// Where the folder goes.
    pub out: PathBuf,
    /// How weights are written.
    pub precision: Precision,
    /// Whether a folder that stands at `out` is replaced.
    pub force: bool,
}

/// A model that was handed on.
#[derive(Clone, Debug, Serialize)]
pub struct Exported {
    /// The folder.
    pub folder: PathBuf,
    /// The checkpoint that it was.
    pub checkpoint: PathBuf,
    /// Its class of `transformers`.
    pub architecture: &'static str,
    /// Its parameters.
    pub parameters: u64,
    /// Its tensors.
    pub tensors: usize,
    /// How weights are written.
    pub dtype: &'static str,
    /// The reserved ids.
    pub reserved: Reserved,
    /// What `transformers` does otherwise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<&'static str>,
}

/// Hands a model on.
pub fn export(request: &Request) -> Result<Exported, Error> {
    let folder = checkpoint::resolve(&request.model)?;
    if !folder.join(checkpoint::STATE_FILE).is_file() {
        return Err(Error::NotOurs { path: folder });
    }
    let draft = draft(&request.out, request.force)?;
    let state = Checkpoint::open(&folder)?.state;
    let wrong = |source| Error::Model {
        folder: folder.clone(),
        source,
    };
    let config = hub::read_config(&folder).map_err(wrong)?;
    let mut notes = expressible(&config)?;
    let weights = Weights::open(&folder).map_err(wrong)?;
    let found = hub::tensors_of(&config, &weights).map_err(wrong)?;
    let tensor = |found: &Found<'_>| found.tensor.shape.iter().product::<usize>() as u64;
    let parameters = found.iter().map(tensor).sum();
    let (tensors, out) = (found.len(), draft.folder());
    let drafts = found.into_iter().map(as_it_is).collect();
    write_weights(out, drafts, request.precision)?;
    weights.check_whole().map_err(wrong)?;

    let specials = specials(&state);
    let mut json = hub::write_config(&config, request.precision)?;
    if let Some(object) = json.as_object_mut() {
        object.extend(specials.clone());
    }
    write_json(&out.join(CONFIG_FILE), &json)?;
    let bytes = fs::read(&folder.join(TOKENIZER_FILE))?;
    let tokenizer = Foreign::of(&bytes)?;
    let mut generation = specials;
    let never = never(&tokenizer, &state, &config);
    generation.insert("suppress_tokens".into(), json!(never));
    write_json(&out.join(GENERATION_FILE), &Value::Object(generation))?;
    write_json(
        &out.join(TOKENIZER_FILE),
        &tokenizer.json_with(state.begin)?,
    )?;
    if Dialect::of(&config).is_qwen() && !tokenizer.is_qwen() {
        notes.push("`AutoTokenizer` takes every Qwen's text apart as Qwen does, whatever tokenizer.json says: load this one by `PreTrainedTokenizerFast`");
    }
    let about = tokenizer_config(&tokenizer, &state, &config);
    write_json(&out.join(TOKENIZER_CONFIG_FILE), &about)?;
    publish(draft, &request.out)?;
    Ok(Exported {
        folder: request.out.clone(),
        checkpoint: folder,
        architecture: architecture(&config),
        parameters,
        tensors,
        dtype: request.precision.name(),
        reserved: state.reserved,
        notes,
    })
}

/// Whether `transformers` computes what the model does; where that is so for some rows only,
/// a word on which.
fn expressible(config: &Config) -> Result<Vec<&'static str>, Error> {
    let lacks = |what: String| Err(Error::Inexpressible { what });
    if let Some(cap) = config.logit_soft_cap {
        return lacks(format!("`logit_soft_cap = {cap}` beside such blocks"));
    }
    if Dialect::of(config) == Dialect::Own {
        let window = config.window;
        let window = window.map_or("no window".into(), |window| format!("window {window}"));
        return lacks(format!(
            "this shape: positions {:?}, norm {:?}, activation {:?}, bias {}, qk_norm {}, {window}, {} heads of queries and {} of keys",
            config.positions,
            config.norm,
            config.activation,
            config.bias,
            config.qk_norm,
            config.n_heads,
            config.n_kv_heads
        ));
    }
    match config.attention {
        Attention::Causal => Ok(Vec::new()),
        Attention::PrefixLm => {
            lacks("`attention = \"prefix-lm\"`: it reads prompts causally".into())
        }
        Attention::Document => Ok(vec![
            "it was trained with `attention = \"document\"`: give `transformers` one document a row",
        ]),
    }
}

fn as_it_is(found: Found<'_>) -> Draft<'_> {
    let tensor = found.tensor;
    Draft {
        name: found.name,
        shape: tensor.shape.to_vec(),
        // The type was looked at before.
        values: Box::new(move || tensor.floats("").unwrap_or(Box::new(std::iter::empty()))),
    }
}

/// The ids that `transformers` must know to generate. A text of nothing is an end.
fn specials(state: &State) -> Map<String, Value> {
    let Reserved { end, pad, .. } = state.reserved;
    let ids = [
        ("bos_token_id", state.begin.unwrap_or(end)),
        ("eos_token_id", end),
        ("pad_token_id", pad),
    ];
    let ids = ids.into_iter();
    ids.map(|(key, id)| (key.to_owned(), json!(id))).collect()
}

/// What no answer holds, in `transformers` as here.
fn never(tokenizer: &Foreign, state: &State, config: &Config) -> Vec<TokenId> {
    let ids = tokenizer.vocab_size() as usize;
    generate::never(
        state.pauses.as_ref(),
        state.reserved,
        ids,
        config.vocab_size,
    )
}

fn tokenizer_config(tokenizer: &Foreign, state: &State, config: &Config) -> Value {
    let reserved = state.reserved;
    let token = |id: TokenId| tokenizer.token(id.0);
    let pauses = [reserved.pause].into_iter().chain(reserved.extra.ids());
    let pauses: Vec<String> = pauses.filter_map(token).collect();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": token(state.begin.unwrap_or(reserved.end)),
        "eos_token": token(reserved.end),
        "pad_token": token(reserved.pad),
        "additional_special_tokens": pauses,
        "model_max_length": config.context,
        "clean_up_tokenization_spaces": false,
    })
}
