//! What a recipe must satisfy beyond its types.

mod curation;
mod experiment;
mod mixture;
mod rows;
mod tuning;
mod watch;

use super::check_pause::{check_frozen, check_pause};
use super::{Diagnosis, Eval, Recipe, Stage, Task, Train};
use crate::corpus::{Source, synthetic};
use crate::model::config::Spec;
use crate::tokenize;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// The key, as in `pretrain.train.steps`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

pub(super) type Outcome = Result<(), Finding>;

/// A byte-level BPE starts from one token a byte.
const VOCAB_SIZE_MIN: u32 = 256;
/// Each is a row of the model's embedding.
const PAUSE_TOKENS_MAX: u64 = 1 << 16;
/// Below this a row holds no more than its pauses and its end.
const SEQ_LEN_MIN: u64 = 8;
/// Offsets inside a shard fit 31 bits, as Megatron's index has them.
const SHARD_TOKENS_MAX: u64 = (1 << 31) - 1;
/// The lengths of so many batches are at hand at once.
const BUCKET_MAX: u64 = 1 << 12;
/// Smaller units are more files than bytes.
const UNIT_BYTES_MIN: u64 = 4096;

/// Finds the first broken rule.
pub(super) fn check(recipe: &Recipe) -> Outcome {
    let root = At(String::new());
    if i64::try_from(recipe.seed).is_err() {
        return Err(root.fail("seed", "is larger than a TOML number can be, 2^63 - 1"));
    }
    if recipe.pretrain.is_none() && recipe.finetune.is_none() && recipe.eval.is_none() {
        let finding = root.fail("pretrain", "is missing, and so are `finetune` and `eval`");
        return Err(finding.hint("the smallest recipe has `[tokenizer]` and `[pretrain]`"));
    }
    check_tokenizer(recipe)?;
    check_model(recipe)?;
    tuning::check(recipe)?;
    if let Some(stage) = &recipe.pretrain {
        check_stage(&At("pretrain.".into()), stage, Purpose::Pretrain)?;
        curation::check(&At("pretrain.".into()), stage, recipe)?;
    }
    if let Some(stage) = &recipe.finetune {
        check_stage(&At("finetune.".into()), stage, Purpose::Finetune)?;
        curation::check(&At("finetune.".into()), stage, recipe)?;
    }
    if let Some(eval) = &recipe.eval {
        check_eval(recipe, eval)?;
    }
    match &recipe.experiment {
        Some(experiment) => experiment::check(recipe, experiment),
        None => Ok(()),
    }
}

/// What a stage is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Pretrain,
    Finetune,
}

/// A table of the recipe, as the start of a path: `pretrain.pack.`.
pub(super) struct At(String);

impl At {
    pub(super) fn inside(&self, key: &str) -> Self {
        Self(format!("{}{key}.", self.0))
    }

    pub(super) fn fail(&self, key: &str, problem: impl AsRef<str>) -> Finding {
        let path = format!("{}{key}", self.0);
        Finding {
            message: format!("`{path}` {}", problem.as_ref()),
            path,
            hint: None,
        }
    }

    pub(super) fn at_least(&self, key: &str, value: u64, least: u64) -> Outcome {
        if least <= value {
            return Ok(());
        }
        Err(self.fail(key, format!("must be at least {least}, found {value}")))
    }

    pub(super) fn at_most(&self, key: &str, value: u64, most: u64) -> Outcome {
        if value <= most {
            return Ok(());
        }
        Err(self.fail(key, format!("must be at most {most}, found {value}")))
    }

    /// Both ends belong to the range.
    pub(super) fn within(&self, key: &str, value: f64, (low, high): (f64, f64)) -> Outcome {
        if (low..=high).contains(&value) {
            return Ok(());
        }
        Err(self.fail(key, format!("must lie in {low} to {high}, found {value}")))
    }

    /// 0 belongs to the range, 1 does not.
    pub(super) fn below_one(&self, key: &str, value: f64) -> Outcome {
        if (0.0..1.0).contains(&value) {
            return Ok(());
        }
        Err(self.fail(
            key,
            format!("must be at least 0 and less than 1, found {value}"),
        ))
    }

    pub(super) fn positive(&self, key: &str, value: f64) -> Outcome {
        if value.is_finite() && 0.0 < value {
            return Ok(());
        }
        Err(self.fail(key, format!("must be a positive number, found {value}")))
    }
}

impl Finding {
    /// What is wrong with the key at a path.
    pub(super) fn at(path: &str, problem: &str) -> Self {
        At(String::new()).fail(path, problem)
    }

    /// The same for a recipe that an experiment makes of the one that was written.
    pub(super) fn of_arm(self, arm: &str) -> Self {
        Self {
            message: format!("{}, in the arm `{arm}` of the experiment", self.message),
            ..self
        }
    }

    /// The finding as a diagnosis of a recipe that has no text.
    pub(super) fn nowhere(self) -> Diagnosis {
        Diagnosis {
            message: self.message,
            place: None,
            hints: self.hint.into_iter().collect(),
        }
    }

    pub(super) fn hint(self, hint: &str) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

fn check_tokenizer(recipe: &Recipe) -> Outcome {
    let (root, at) = (At(String::new()), At("tokenizer.".into()));
    let config = match (&recipe.tokenizer, &recipe.model.from) {
        (None, Some(_)) => return Ok(()),
        (Some(_), Some(_)) => {
            let finding = root.fail("tokenizer", "clashes with `model.from`");
            return Err(finding.hint("leave `[tokenizer]` out: a checkpoint has its own"));
        }
        (None, None) => {
            let finding = root.fail("tokenizer", "is missing");
            let hint = "add `tokenizer = { train = { vocab_size = 2048 } }` or `{ file = \"tokenizer.json\" }`";
            return Err(finding.hint(hint));
        }
        (Some(config), None) => config,
    };
    match (&config.file, &config.train) {
        (Some(_), Some(_)) => return Err(at.fail("file", "and `train` exclude each other")),
        (None, None) => return Err(at.fail("train", "is missing, and so is `file`")),
        (None, Some(train)) => {
            let at = at.inside("train");
            at.at_least("vocab_size", train.vocab_size.into(), VOCAB_SIZE_MIN.into())?;
            at.at_least("sample_bytes", train.sample_bytes, 1)?;
            if recipe.pretrain.is_none() && recipe.finetune.is_none() {
                return Err(root.fail(
                    "tokenizer.train",
                    "has no text: there is no `pretrain` or `finetune`",
                ));
            }
        }
        (Some(_), None) => {}
    }
    check_reserved(&at, config)
}

fn check_reserved(at: &At, config: &tokenize::Config) -> Outcome {
    let distinct = u64::from(config.pause_tokens.distinct);
    at.inside("pause_tokens")
        .at_most("distinct", distinct, PAUSE_TOKENS_MAX)?;
    let tokens = [
        ("pause", &config.pause),
        ("end", &config.end),
        ("pad", &config.pad),
    ];
    for (index, (key, token)) in tokens.iter().enumerate() {
        if token.is_empty() {
            return Err(at.fail(key, "is empty"));
        }
        if let Some((other, _)) = tokens.iter().take(index).find(|(_, other)| other == token) {
            return Err(at.fail(key, format!("is the same token as `{}{other}`", at.0)));
        }
    }
    Ok(())
}

fn check_model(recipe: &Recipe) -> Outcome {
    let at = At("model.".into());
    if let Some(from) = &recipe.model.from {
        let alone = Spec {
            from: Some(from.clone()),
            new_rows: recipe.model.new_rows,
            ..Spec::default()
        };
        return match recipe.model == alone {
            true => Ok(()),
            false => {
                let finding = at.fail("from", "excludes every other key of `model` but `new_rows`");
                Err(finding.hint("the checkpoint decides the shape; remove the other keys"))
            }
        };
    }
    if recipe.model.new_rows.is_some() {
        let finding = at.fail("new_rows", "needs `from`: a fresh model has no other rows");
        return Err(finding.hint("leave it out, or start from a checkpoint"));
    }
    // The size of the vocabulary is known only once there is a tokenizer.
    match recipe
        .model
        .resolve(VOCAB_SIZE_MIN as usize, recipe.longest_row())
    {
        Ok(_) => Ok(()),
        Err(error) => Err(at.fail(error.field, error.problem)),
    }
}

fn check_stage(at: &At, stage: &Stage, purpose: Purpose) -> Outcome {
    check_sources(at, &stage.sources, purpose)?;
    at.below_one("validation", stage.validation)?;
    let pack = at.inside("pack");
    let seq_len = stage.pack.seq_len as u64;
    pack.at_least("seq_len", seq_len, SEQ_LEN_MIN)?;
    pack.at_least("shard_tokens", stage.pack.shard_tokens, seq_len)?;
    pack.at_most("shard_tokens", stage.pack.shard_tokens, SHARD_TOKENS_MAX)?;
    pack.at_least("unit_bytes", stage.pack.unit_bytes, UNIT_BYTES_MIN)?;
    rows::method(&pack, stage, purpose)?;
    check_pause(at, stage, purpose)?;
    match &stage.train {
        Some(train) => {
            let at = at.inside("train");
            rows::attention(&at, train, purpose)?;
            check_train(&at, stage, train)
        }
        None => Ok(()),
    }
}

fn check_sources(at: &At, sources: &[Source], purpose: Purpose) -> Outcome {
    if sources.is_empty() {
        return Err(at.fail("sources", "is empty"));
    }
    for (index, source) in sources.iter().enumerate() {
        check_source(at, index, source, purpose)?;
        rows::weight(&at.inside(&format!("sources.{index}")), source)?;
    }
    Ok(())
}

fn check_source(at: &At, index: usize, source: &Source, purpose: Purpose) -> Outcome {
    let name = format!("sources.{index}");
    let inside = at.inside(&name);
    let template = match (&source.prefix, &source.target) {
        (Some(_), _) => Some("prefix"),
        (_, Some(_)) => Some("target"),
        (None, None) => None,
    };
    if let (Purpose::Pretrain, Some(key)) = (purpose, template) {
        let finding = inside.fail(key, "is for finetuning and evaluation");
        return Err(finding.hint("a pretraining source has `text`: the field that holds the text"));
    }
    let spec = match (&source.path, &source.synthetic) {
        (Some(_), Some(_)) => return Err(inside.fail("path", "and `synthetic` exclude each other")),
        (None, None) => return Err(at.fail(&name, "has neither `path` nor `synthetic`")),
        (Some(path), None) if path.is_empty() => return Err(inside.fail("path", "is empty")),
        (Some(_), None) => {
            let complete = source.prefix.is_some() && source.target.is_some();
            if purpose == Purpose::Finetune && !complete {
                let finding = at.fail(&name, "needs both `prefix` and `target`");
                let hint =
                    "for example `prefix = \"Q: {question}\\nA:\"`, `target = \" {answer}\"`";
                return Err(finding.hint(hint));
            }
            return Ok(());
        }
        (None, Some(spec)) => spec,
    };
    inside
        .inside("synthetic")
        .at_least("documents", spec.documents, 1)?;
    match (purpose, spec.corpus) {
        (Purpose::Finetune, synthetic::Corpus::Stories) => {
            let finding = inside.fail("synthetic.corpus", "has no prefixes and targets");
            Err(finding.hint("finetuning and evaluation take `questions` or `held-out-questions`"))
        }
        _ => Ok(()),
    }
}

fn check_train(at: &At, stage: &Stage, train: &Train) -> Outcome {
    let seq_len = stage.pack.seq_len as u64;
    at.at_least("steps", train.steps, 1)?;
    at.at_least("batch_tokens", train.batch_tokens as u64, seq_len)?;
    if let Some(micro) = train.micro_batch_tokens {
        at.at_least("micro_batch_tokens", micro as u64, seq_len)?;
    }
    at.at_most("bucket", train.bucket, BUCKET_MAX)?;
    at.positive("lr", train.lr)?;
    at.at_most("warmup", train.warmup, train.steps)
        .map_err(|finding| finding.hint("a run of fewer steps needs a shorter `warmup` too"))?;
    at.within("min_lr", train.min_lr, (0.0, 1.0))?;
    at.within("decay", train.decay, (0.0, 1.0))?;
    at.within("weight_decay", train.weight_decay, (0.0, f64::MAX))?;
    for (index, beta) in train.betas.iter().enumerate() {
        at.below_one(&format!("betas.{index}"), *beta)?;
    }
    at.positive("eps", train.eps)?;
    at.positive("clip", train.clip)?;
    at.within("z_loss", train.z_loss, (0.0, 1.0))?;
    check_frozen(at, stage, train)?;
    at.at_least("checkpoint_every", train.checkpoint_every, 1)?;
    at.at_least("keep", train.keep as u64, 1)?;
    at.at_least("validation_rows", train.validation_rows, 1)?;
    mixture::check(at, train)?;
    watch::check(at, stage, train)
}

fn check_eval(recipe: &Recipe, eval: &Eval) -> Outcome {
    let at = At("eval.".into());
    let stages = [&recipe.pretrain, &recipe.finetune];
    let trained = stages
        .into_iter()
        .flatten()
        .any(|stage| stage.train.is_some());
    if !trained && recipe.model.from.is_none() {
        let finding = At(String::new()).fail("eval", "has no model: no stage has `train`");
        return Err(finding.hint("add `train` to a stage, or take a model from `model.from`"));
    }
    if eval.tasks.is_empty() && eval.sample.is_none() {
        return Err(at.fail("tasks", "is empty, and there is no `sample`"));
    }
    for (index, task) in eval.tasks.iter().enumerate() {
        let earlier = eval.tasks.iter().take(index);
        check_task(&at.inside(&format!("tasks.{index}")), task, earlier)?;
    }
    Ok(())
}

fn check_task<'a>(at: &At, task: &Task, mut earlier: impl Iterator<Item = &'a Task>) -> Outcome {
    plain_name(at, &task.name)?;
    if earlier.any(|other| other.name == task.name) {
        return Err(at.fail(
            "name",
            format!("is `{}`, as that of an earlier task", task.name),
        ));
    }
    check_sources(at, &task.sources, Purpose::Finetune)?;
    at.at_least("limit", task.limit, 1)?;
    at.at_least("max_tokens", task.max_tokens as u64, 1)
}

/// A name that a file could have.
fn plain_name(at: &At, name: &str) -> Outcome {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        let finding = at.fail("name", format!("is `{name}`, which cannot name a file"));
        return Err(finding.hint("use letters, digits, `-`, `_` and `.`"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
