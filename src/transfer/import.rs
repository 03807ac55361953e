//! A model of another program becomes a checkpoint, with rows for the reserved tokens.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Error, GENERATION_FILE, TOKENIZER_CONFIG_FILE, architecture, draft, publish};
use super::{write_json, write_weights};
use crate::fingerprint::Fingerprint;
use crate::fs;
use crate::manifest::TOKENIZER_FILE;
use crate::model::config::Config;
use crate::model::folder::CONFIG_FILE;
use crate::model::hub::tensors::{Draft, FILE, Precision, Tensor, Values, Weights};
use crate::model::hub::{self, Found, Specials};
use crate::model::precision::single;
use crate::token::{Reserved, TokenId};
use crate::tokenize::{self, Foreign, PauseTokens, Tokenizer};
use crate::train::checkpoint::{self, State};
use crate::train::record::Totals;
use crate::train::watch::Watch;

/// What to take over, and how.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The folder: `config.json`, `tokenizer.json`, and `model.safetensors` or the files of
    /// its index.
    pub source: PathBuf,
    /// Where the checkpoint goes.
    pub out: PathBuf,
    /// The pause token; `<|pause|>` where absent.
    pub pause: Option<String>,
    /// The token that ends a document; the model's own where absent.
    pub end: Option<String>,
    /// The token that fills short rows; the model's own, or `<|pad|>`, where absent.
    pub pad: Option<String>,
    /// Pause tokens beside the shared one.
    pub pause_tokens: PauseTokens,
    /// Keys of `config.json` that change nothing, though they are not known.
    pub ignore: Vec<String>,
    /// Whether a folder that stands at `out` is replaced.
    pub force: bool,
}

/// A model that was taken over.
#[derive(Clone, Debug, Serialize)]
pub struct Imported {
    /// The checkpoint.
    pub folder: PathBuf,
    /// The class of `transformers` that it is.
    pub architecture: &'static str,
    /// Its parameters, new rows included.
    pub parameters: u64,
    /// Its tensors.
    pub tensors: usize,
    /// Rows of the embedding before.
    pub rows_before: usize,
    /// Rows of the embedding now.
    pub rows: usize,
    /// Tokens that it did not have, by id; their rows are the mean of all others.
    pub new_tokens: Vec<(TokenId, String)>,
    /// The reserved ids.
    pub reserved: Reserved,
    /// The id before every text, which the model expects.
    pub begin: Option<TokenId>,
    /// Its token, as a recipe's `begin` names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin_token: Option<String>,
}

/// Takes a model over.
pub fn import(request: &Request) -> Result<Imported, Error> {
    let source = &request.source;
    let wrong = |error| Error::Model {
        folder: source.clone(),
        source: error,
    };
    let draft = draft(&request.out, request.force)?;
    let text = fs::read_text(&source.join(CONFIG_FILE))?;
    let config = hub::read_foreign(&text, &request.ignore).map_err(wrong)?;
    let weights = Weights::open(source).map_err(wrong)?;
    let found = hub::tensors_of(&config, &weights).map_err(wrong)?;
    let words = words(request, &config, &text)?;

    let ids = words.tokenizer.vocab_size() as usize;
    let grown = Config {
        vocab_size: config.vocab_size.max(ids),
        ..config
    };
    let new: Vec<usize> = words.new.iter().map(|(id, _)| id.index()).collect();
    let rows = Rows {
        known: words.known.min(config.vocab_size),
        new: &new,
        all: grown.vocab_size,
    };
    let parameters = found.iter().map(|found| rows.values(found)).sum();
    let tensors = found
        .iter()
        .map(|found| rows.draft(found))
        .collect::<Result<_, _>>();
    write_weights(draft.folder(), tensors.map_err(wrong)?, Precision::F32)?;
    weights.check_whole().map_err(wrong)?;

    let json = hub::write_config(&grown, Precision::F32)?;
    write_json(&draft.folder().join(CONFIG_FILE), &json)?;
    let tokenizer = draft.folder().join(TOKENIZER_FILE);
    fs::write(&tokenizer, words.tokenizer.to_json())?;
    let state = State {
        format: checkpoint::FORMAT,
        step: 0,
        totals: Totals::default(),
        reserved: words.tokenizer.reserved(),
        begin: words.begin,
        pauses: None,
        loader: None,
        watch: Watch::default(),
        fingerprint: Fingerprint::default(),
    };
    checkpoint::complete(draft.folder(), &state, &[CONFIG_FILE, FILE, TOKENIZER_FILE])?;
    publish(draft, &request.out)?;
    Ok(Imported {
        folder: request.out.clone(),
        architecture: architecture(&grown),
        parameters,
        tensors: found.len(),
        rows_before: config.vocab_size,
        rows: grown.vocab_size,
        new_tokens: words.new,
        reserved: state.reserved,
        begin_token: state.begin.and_then(|id| words.tokenizer.token(id)),
        begin: state.begin,
    })
}

/// The tokenizer with its reserved tokens, and what it was before.
struct Words {
    tokenizer: Tokenizer,
    /// Ids that it had before.
    known: usize,
    new: Vec<(TokenId, String)>,
    begin: Option<TokenId>,
}

/// Reserves tokens as the request says, or else as the model's own files do.
fn words(request: &Request, config: &Config, config_json: &str) -> Result<Words, Error> {
    let path = request.source.join(TOKENIZER_FILE);
    let foreign = Foreign::read(&path)?;
    let known = foreign.vocab_size();
    if config.vocab_size < known as usize {
        return Err(Error::TooManyIds {
            path,
            ids: known,
            rows: config.vocab_size,
        });
    }
    let specials = Specials::of(config_json)?;
    let generation = match fs::read_text(&request.source.join(GENERATION_FILE)) {
        Ok(text) => Specials::of(&text)?,
        Err(error) if error.is_missing() => Specials::default(),
        Err(error) => return Err(error.into()),
    };
    let said = Said::read(&request.source.join(TOKENIZER_CONFIG_FILE))?;
    let usual = tokenize::Config::default();
    let token = |id: Option<u32>| id.and_then(|id| foreign.token(id));
    let end = (request.end.clone())
        .or_else(|| said.end.clone().filter(|end| foreign.id(end).is_some()))
        .or_else(|| token(specials.end.or(generation.end)))
        .unwrap_or(usual.end.clone());
    let pad = (request.pad.clone())
        .or_else(|| said.pad.clone().filter(|pad| foreign.id(pad).is_some()))
        .or_else(|| token(specials.pad.or(generation.pad)))
        .filter(|pad| *pad != end)
        .unwrap_or(usual.pad.clone());
    let begin = match said.begins {
        Some(false) => None,
        Some(true) => match foreign.begin()? {
            None => said.begin.as_deref().and_then(|token| foreign.id(token)),
            begin => begin,
        },
        None => foreign.begin()?,
    };
    let config = tokenize::Config {
        pause: request.pause.clone().unwrap_or(usual.pause.clone()),
        end,
        pad,
        pause_tokens: request.pause_tokens,
        ..usual
    };
    let tokenizer = Tokenizer::from_file(&path, &config)?;
    let names = [&config.pause, &config.end, &config.pad].map(Clone::clone);
    let names = names.into_iter().chain(config.pause_tokens.names());
    let reserved = tokenizer.reserved();
    let ids = [reserved.pause, reserved.end, reserved.pad];
    let pairs = ids.into_iter().chain(reserved.extra.ids()).zip(names);
    Ok(Words {
        new: pairs
            .filter(|(_, name)| foreign.id(name).is_none())
            .collect(),
        tokenizer,
        known: known as usize,
        begin,
    })
}

/// What `tokenizer_config.json` says, where there is one.
#[derive(Default)]
struct Said {
    begin: Option<String>,
    end: Option<String>,
    pad: Option<String>,
    /// Whether texts begin with `begin`.
    begins: Option<bool>,
}

impl Said {
    fn read(path: &Path) -> Result<Self, Error> {
        let text = match fs::read_text(path) {
            Ok(text) => text,
            Err(error) if error.is_missing() => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|source| Error::TokenizerConfig {
                path: path.to_path_buf(),
                source,
            })?;
        // A token is a string, or an object with its content.
        let token = |key: &str| {
            let token = value.get(key)?;
            let content = token.get("content").unwrap_or(token);
            content.as_str().map(String::from)
        };
        Ok(Self {
            begin: token("bos_token"),
            end: token("eos_token"),
            pad: token("pad_token"),
            begins: value
                .get("add_bos_token")
                .and_then(serde_json::Value::as_bool),
        })
    }
}

/// Which rows a table of tokens gets.
#[derive(Clone, Copy)]
struct Rows<'a> {
    /// How many were somebody's.
    known: usize,
    /// Those of new tokens.
    new: &'a [usize],
    /// How many there will be.
    all: usize,
}

impl<'a> Rows<'a> {
    /// How many values a tensor will have.
    fn values(self, found: &Found<'_>) -> u64 {
        let shape = self.shape(found);
        shape.iter().product::<usize>() as u64
    }

    fn shape(self, found: &Found<'_>) -> Vec<usize> {
        match found.tensor.shape {
            [_, width] if found.is_table => vec![self.all, *width],
            shape => shape.to_vec(),
        }
    }

    /// The tensor as it will be written.
    fn draft(self, found: &Found<'a>) -> Result<Draft<'a>, hub::Error> {
        let (name, tensor) = (found.name.clone(), found.tensor);
        let floats = move |name: &str| tensor.floats(name);
        let mean = match found.is_table {
            true => mean(floats(&name)?, tensor, self.known),
            false => Vec::new(),
        };
        let values: Box<dyn Fn() -> Values<'a> + 'a> = match found.is_table {
            // The type was looked at before.
            false => Box::new(move || floats("").unwrap_or(Box::new(std::iter::empty()))),
            true => Box::new(move || {
                let old = floats("").unwrap_or(Box::new(std::iter::empty()));
                Box::new(grown(old, mean.clone(), self))
            }),
        };
        Ok(Draft {
            shape: self.shape(found),
            name,
            values,
        })
    }
}

/// A table with the mean in the rows of new tokens, and in all rows behind its own.
fn grown<'a>(old: Values<'a>, mean: Vec<f32>, rows: Rows<'a>) -> impl Iterator<Item = f32> + 'a {
    let width = mean.len().max(1);
    let added = mean.clone();
    let value = move |(at, value): (usize, f32)| match rows.new.contains(&(at / width)) {
        true => mean.get(at % width).copied().unwrap_or_default(),
        false => value,
    };
    let old = old.enumerate().map(value);
    old.chain(added.into_iter().cycle()).take(rows.all * width)
}

/// The mean of a table's first rows.
fn mean(values: Values<'_>, tensor: Tensor<'_>, rows: usize) -> Vec<f32> {
    let width = tensor.shape.last().copied().unwrap_or_default();
    let mut sums = vec![0.0; width];
    let places = (0..rows).flat_map(|_| 0..width);
    for (place, value) in places.zip(values) {
        if let Some(sum) = sums.get_mut(place) {
            *sum += f64::from(value);
        }
    }
    let means = sums.into_iter().map(|sum| single(sum / rows.max(1) as f64));
    means.collect()
}
