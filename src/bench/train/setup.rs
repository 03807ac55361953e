//! What is trained in a measurement: the pretraining stage of a recipe, on rows that a
//! random walk makes, on those of a dataset, or on those of another trainer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::Error;
use super::exchange::Folder;
use crate::dataset::Dataset;
use crate::fingerprint::Fingerprint;
use crate::fs;
use crate::loader::{At, BoxError, Config as Loading, GlobalBatch, Loader, Order, Rows, Share};
use crate::manifest::Split;
use crate::model::config::Config;
use crate::model::lora::Lora;
use crate::model::{Device, Model};
use crate::pause::{self, Insertion};
use crate::recipe::{Recipe, Stage, Train};
use crate::rng::{Key, Stream};
use crate::row::{Ids, RowView};
use crate::sequence::Sequence;
use crate::token::{IdWidth, Reserved, TokenId};
use crate::tokenize::Tokenizer;
use crate::train::ranks::dealt;

/// The recipe of a measurement that names none: a GPT-2 of 10.8 M parameters, as it is
/// trained where nothing but speed is of interest.
pub const RECIPE: &str = include_str!("recipe.toml");

/// The recipe in a folder of an exchange.
pub const RECIPE_FILE: &str = "recipe.toml";

/// Tokens that every vocabulary has beside its pieces: pause, end, padding.
const RESERVED: u32 = 3;

/// What is trained, and how.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The recipe.
    pub recipe: Recipe,
    /// The model's shape.
    pub config: Config,
    /// How it is trained.
    pub train: Train,
    stage: Stage,
    dataset: Option<Arc<Dataset>>,
}

impl Setup {
    /// What a recipe says; with a dataset, on its rows and with its vocabulary.
    pub fn new(recipe: Recipe, dataset: Option<&Path>) -> Result<Self, Error> {
        let stage = recipe.pretrain.clone().ok_or(Error::NoStage)?;
        let train = stage.train.clone().ok_or(Error::NoStage)?;
        if recipe.model.from.is_some() {
            return Err(Error::From);
        }
        let dataset = dataset.map(Dataset::open).transpose()?.map(Arc::new);
        let vocabulary = match &dataset {
            Some(dataset) => dataset.manifest.tokenizer.vocab_size,
            None => vocabulary(&recipe)?,
        };
        let length = match &dataset {
            Some(dataset) => dataset.manifest.row_length,
            None => stage.pack.seq_len,
        };
        Ok(Self {
            config: recipe.model.resolve(vocabulary as usize, length)?,
            recipe,
            train,
            stage,
            dataset,
        })
    }

    /// Has adapters of a rank trained in place of the model's own weights.
    pub fn adapt(&mut self, rank: Option<usize>) {
        let lora = rank.map(|rank| Lora {
            rank,
            alpha: 2.0 * rank as f64,
            targets: None,
        });
        self.train.lora = lora.or(self.train.lora.take());
    }

    /// The model before its first step: with the weights of an exchange, or its own.
    pub fn model(&self, exchange: Option<&Folder>, device: &Device) -> Result<Model, Error> {
        let Some(folder) = exchange else {
            let key = Key::new(self.recipe.seed);
            return Ok(Model::new(&self.config, key, device));
        };
        let values = folder.required("init", &self.config)?;
        Ok(Model::from_values(&self.config, values, device))
    }

    /// The global batches of all steps, for so many ranks: of an exchange where it has any,
    /// else its own.
    pub fn batches(
        &self,
        exchange: Option<&Folder>,
        ranks: usize,
    ) -> Result<Vec<GlobalBatch>, Error> {
        let steps = 0..self.train.steps;
        if let Some(folder) = exchange
            && folder.batch(0, &self.config)?.is_some()
        {
            let batch = |step| {
                let batch = folder.batch(step, &self.config)?;
                batch.ok_or(Error::Steps { found: step })
            };
            return steps.map(batch).collect();
        }
        let loader = self.loader(ranks)?;
        Ok(steps
            .map(|step| loader.batch(step))
            .collect::<Result<_, _>>()?)
    }

    /// The reserved ids: a dataset's, or the last of the vocabulary.
    pub fn reserved(&self) -> Reserved {
        if let Some(dataset) = &self.dataset {
            return dataset.manifest.tokenizer.reserved;
        }
        let vocabulary = u32::try_from(self.config.vocab_size).unwrap_or(u32::MAX);
        let [pause, end, pad] = [3, 2, 1].map(|behind| TokenId(vocabulary.saturating_sub(behind)));
        Reserved {
            pause,
            end,
            pad,
            extra: Default::default(),
        }
    }

    fn loader(&self, ranks: usize) -> Result<Loader, Error> {
        let rows: Arc<dyn Rows> = match &self.dataset {
            Some(dataset) => dataset.clone(),
            None => Arc::new(Walk::new(self)?),
        };
        let length = match &self.dataset {
            Some(dataset) => dataset.manifest.row_length,
            None => self.stage.pack.seq_len,
        };
        let n_rows = |tokens: usize| (tokens / length.max(1)).max(1);
        let rows_per_batch = n_rows(self.train.batch_tokens);
        let micro = self.train.micro_batch_tokens.map(n_rows);
        let loading = Loading {
            seed: self.recipe.seed,
            rows_per_batch,
            rows_per_micro_batch: micro
                .unwrap_or_else(|| dealt(rows_per_batch, ranks))
                .min(rows_per_batch),
            split: Split::Train,
            order: Order::Shuffled,
            bucket: self.train.bucket,
            share: Share::WHOLE,
            epochs: None,
        };
        Ok(Loader::new(rows, loading)?)
    }
}

/// The recipe of an exchange, with overrides on top; that of the folder where none is named.
pub fn recipe(
    named: Option<&Path>,
    exchange: Option<&Path>,
    overrides: &[String],
) -> Result<Recipe, crate::recipe::Error> {
    let beside = exchange.map(|folder| folder.join(RECIPE_FILE));
    let path: Option<PathBuf> = named
        .map(Path::to_path_buf)
        .or(beside.filter(|path| path.exists()));
    match path {
        Some(path) => Recipe::read(&path, overrides),
        None => Recipe::parse(
            RECIPE,
            Path::new("the recipe of this measurement"),
            overrides,
        ),
    }
}

/// Writes the recipe into the folder of an exchange.
pub fn write_recipe(folder: &Path, recipe: &Recipe) -> Result<(), Error> {
    let text = toml::to_string(recipe).map_err(Error::Toml)?;
    Ok(fs::write(&folder.join(RECIPE_FILE), text.as_bytes())?)
}

fn vocabulary(recipe: &Recipe) -> Result<u32, Error> {
    let config = recipe.tokenizer.as_ref().ok_or(Error::From)?;
    if let Some(training) = &config.train {
        return Ok(training.vocab_size + RESERVED);
    }
    let file = config.file.as_ref().ok_or(Error::From)?;
    Ok(Tokenizer::from_file(file, config)?.vocab_size())
}

/// Rows that a random walk makes: mostly, an id decides which one follows it.
#[derive(Debug)]
struct Walk {
    insertion: Insertion,
    reserved: Reserved,
    length: usize,
    key: Key,
    rows: u64,
}

impl Walk {
    fn new(setup: &Setup) -> Result<Self, Error> {
        let reserved = setup.reserved();
        let pause: pause::Config = setup.stage.pause.clone();
        let length = setup.stage.pack.seq_len;
        Ok(Self {
            insertion: Insertion::new(pause, reserved, length)?,
            reserved,
            length,
            key: Key::new(setup.recipe.seed),
            rows: (setup.train.steps)
                .saturating_mul(setup.train.batch_tokens as u64 / length.max(1) as u64)
                .max(1),
        })
    }
}

impl Rows for Walk {
    fn reserved(&self) -> Reserved {
        self.reserved
    }

    fn id_width(&self) -> IdWidth {
        IdWidth::U32
    }

    fn rows(&self, _: Split) -> u64 {
        self.rows
    }

    fn length(&self, _: At) -> usize {
        self.length
    }

    fn read(&self, at: At, see: &mut dyn FnMut(RowView<'_>)) -> Result<(), BoxError> {
        let key = self.key.epoch(at.epoch).item(at.index);
        let mut rng = key.stream(Stream::Synthetic).rng();
        let pieces = u64::from(self.reserved.pause.0).max(1);
        let mut id = rng.below(pieces);
        let walk = (0..self.length).map(|_| {
            id = match rng.below(10) {
                0 => rng.below(pieces),
                _ => (id * 5 + 7) % pieces,
            };
            // Below the number of pieces, which is a u32.
            TokenId(u32::try_from(id).unwrap_or(0))
        });
        let mut ids: Vec<TokenId> = walk.collect();
        ids.truncate(self.insertion.take(&ids, &[]));
        let sequence = Sequence::plain(ids);
        let row = pause::apply_to(&self.insertion, sequence, key.stream(Stream::Pause)).sequence;
        let bytes: Vec<u8> = row.ids.iter().flat_map(|id| id.0.to_le_bytes()).collect();
        see(RowView {
            ids: Ids::from_bytes(&bytes, IdWidth::U32),
            prefix: row.prefix,
            stored: row.stored.as_deref(),
        });
        Ok(())
    }

    fn identity(&self) -> Fingerprint {
        let mut identity = Fingerprint::default();
        identity.add("walk", &json!([self.length, self.rows]));
        identity
    }
}
