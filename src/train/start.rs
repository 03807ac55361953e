//! The model before a run's first step.

use std::path::Path;

use serde_json::json;

use super::checkpoint::{self, Checkpoint};
use super::{Error, Job, Start, freeze, optimizer};
use crate::digest::Digest;
use crate::fingerprint::Fingerprint;
use crate::fs;
use crate::manifest::TOKENIZER_FILE;
use crate::model::config::{Config, NewRows};
use crate::model::rows::Growth;
use crate::model::{Model, hub, peft};
use crate::progress::{Progress, Silent};
use crate::rng::Key;
use crate::token::Reserved;
use crate::tokenize::{self, PauseTokens, Tokenizer};

/// The model before its first step; `progress` hears of new rows.
pub fn model(job: &Job, progress: &dyn Progress) -> Result<Model, Error> {
    tuned(job, base(job, progress)?)
}

/// The model of a checkpoint of the same run.
pub fn resumed(job: &Job, checkpoint: &Checkpoint) -> Result<Model, Error> {
    let Some(lora) = &job.train.lora else {
        let (_, values) = checkpoint::read_model(&checkpoint.folder)?;
        return tuned(job, Model::from_values(&job.config, values, &job.device));
    };
    // Its matrices hold what adapters add; those that the run began with do not.
    let model = tuned(job, base(job, &Silent)?)?;
    let Some(tuning) = model.tuning() else {
        return Ok(model);
    };
    let bytes = checkpoint.read(&format!("{}/{}", peft::FOLDER, peft::WEIGHTS_FILE))?;
    let values = peft::from_peft(&bytes, lora, tuning, &job.config)?;
    Ok(model.with_trained(values))
}

/// The model that a run with an average goes on with, whose average is `result`.
pub fn raw(job: &Job, checkpoint: &Checkpoint, result: Model) -> Result<Model, Error> {
    if result.tuning().is_some() {
        let bytes = checkpoint.read(checkpoint::RAW_FILE)?;
        let values = optimizer::trained_from_bytes(&bytes, &result)?;
        return Ok(result.with_trained(values));
    }
    let (_, values) = checkpoint::read_weights(&checkpoint.folder, checkpoint::RAW_FILE)?;
    Ok(Model::from_values(&job.config, values, &job.device))
}

/// What a checkpoint holds of such a model: all of it, or, where a part is trained, that
/// part, as adapters that are merged cannot be told from what they adapt.
pub fn raw_file(model: &Model) -> Result<Vec<u8>, Error> {
    match model.tuning() {
        Some(_) => Ok(optimizer::trained_to_bytes(model)?),
        None => Ok(hub::to_hub(&model.values(), &model.config)?.1),
    }
}

/// The files of a checkpoint that hold adapters; none where there are none.
pub fn adapter_files(model: &Model) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let tuning = model.tuning();
    let Some((tuning, lora)) = tuning.and_then(|tuning| Some((tuning, tuning.lora.as_ref()?)))
    else {
        return Ok(Vec::new());
    };
    let (config, weights) = peft::to_peft(&model.trained(), lora, tuning, &model.config)?;
    let file = |name: &str| format!("{}/{name}", peft::FOLDER);
    Ok(vec![
        (
            file(peft::CONFIG_FILE),
            format!("{config:#}\n").into_bytes(),
        ),
        (file(peft::WEIGHTS_FILE), weights),
    ])
}

/// A model of which the job trains what its recipe says.
fn tuned(job: &Job, model: Model) -> Result<Model, Error> {
    let reserved = job.dataset.manifest.tokenizer.reserved;
    Ok(match freeze::tuning(&job.train, &job.config, reserved)? {
        Some(tuning) => model.tuned(tuning, Key::new(job.seed)),
        None => model,
    })
}

/// The weights that a job says, with new rows where a checkpoint lacks them.
fn base(job: &Job, progress: &dyn Progress) -> Result<Model, Error> {
    let Start::From(path) = &job.start else {
        return Ok(Model::new(&job.config, Key::new(job.seed), &job.device));
    };
    let folder = checkpoint::resolve(path)?;
    let growth = growth(job, &folder)?;
    let mut whole = checkpoint::read_model(&folder)?;
    if !growth.ids.is_empty() {
        whole = growth.apply(whole, job.new_rows, Key::new(job.seed));
        progress.note(&told(&growth, job.new_rows));
    }
    let (config, values) = whole;
    // A stage decides what its positions attend to.
    let of = |config: &Config| {
        let attention = job.config.attention;
        let shape = Config {
            attention,
            ..config.clone()
        };
        let mut fingerprint = Fingerprint::default();
        fingerprint.add("model", &json!(shape));
        fingerprint
    };
    match of(&config).differences(&of(&job.config)).into_iter().next() {
        Some(difference) => Err(Error::AnotherShape {
            start: folder,
            difference,
        }),
        None => Ok(Model::from_values(&job.config, values, &job.device)),
    }
}

/// What the job's vocabulary has beyond the checkpoint's, whose tokenizer it must be but for
/// the reserved tokens.
fn growth(job: &Job, folder: &Path) -> Result<Growth, Error> {
    let record = &job.dataset.manifest.tokenizer;
    let vocab_size = record.vocab_size as usize;
    let path = folder.join(TOKENIZER_FILE);
    let bytes = fs::read(&path)?;
    let found = Digest::of(&bytes);
    if found == record.digest {
        return Ok(Growth {
            known: vocab_size,
            vocab_size,
            ids: Vec::new(),
        });
    }
    let Reserved {
        pause,
        end,
        pad,
        extra,
    } = record.reserved;
    let names = fs::read(&job.dataset.folder.join(TOKENIZER_FILE))?;
    let names = tokenize::Config::of_reserved(&names, record.reserved);
    let config = tokenize::Config {
        pause_tokens: PauseTokens {
            distinct: extra.distinct,
            delimiters: extra.delimiters,
        },
        ..names.unwrap_or_default()
    };
    let same = |tokenizer: Tokenizer| tokenizer.digest() == record.digest;
    if !Tokenizer::from_file(&path, &config).is_ok_and(same) {
        return Err(Error::AnotherTokenizer {
            start: folder.to_path_buf(),
            found,
            expected: record.digest,
        });
    }
    let reserved = [pause, end, pad].into_iter().chain(extra.ids());
    let (known, ids) = tokenize::lacking(&bytes, reserved)?;
    Ok(Growth {
        known: known as usize,
        vocab_size,
        ids,
    })
}

fn told(growth: &Growth, how: NewRows) -> String {
    let ids: Vec<String> = growth.ids.iter().map(|id| id.0.to_string()).collect();
    let begin = match how {
        NewRows::Mean => format!("begin at the mean of the {} others", growth.known),
        NewRows::Random => "begin at random".into(),
    };
    format!(
        "{} new embedding rows ({}) {begin}",
        ids.len(),
        ids.join(", ")
    )
}
