//! The datasets of a recipe: its tokenizer, then each stage.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::manifest::Stage;
use crate::model::folder;
use crate::prepare::{self, Job, Outcome, Partition, Survey};
use crate::progress::{Progress, Stop};
use crate::recipe::{self, Plan};
use crate::token::{Reserved, TokenId};
use crate::tokenize::{self, Config, FILE_BYTES_MAX, PauseTokens, Tokenizer};
use crate::{fs, verify};

/// Why datasets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// The recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    /// The tokenizer is wrong.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// A dataset could not be made.
    #[error("cannot prepare [{}]", prepare::stage_name(*stage))]
    Prepare {
        /// Which.
        stage: Stage,
        /// Why.
        #[source]
        source: prepare::Error,
    },
    /// The recipe names no tokenizer.
    #[error("the recipe has neither [tokenizer] nor `model.from`, whose tokenizer would serve")]
    NoTokenizer,
    /// The checkpoint that should bring the tokenizer is not there.
    #[error("cannot take the tokenizer that `model.from` names")]
    NoCheckpoint(#[from] folder::Error),
    /// A dataset did not pass its proof.
    #[error("the dataset `{}` fails {failed} of its checks", folder.display())]
    Unproved {
        /// The dataset.
        folder: PathBuf,
        /// How many checks fail.
        failed: usize,
    },
    /// The proof could not be attempted.
    #[error(transparent)]
    Verify(#[from] verify::Error),
}

/// What to prepare.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// One stage, or both.
    pub only: Option<Stage>,
    /// Which units.
    pub partition: Partition,
    /// Which datasets of a stage.
    pub twins: Twins,
    /// Share of the texts, 0 to 1, that are encoded by the `tokenizers` library too.
    pub verify_sample: f64,
}

/// Which datasets of a stage are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Twins {
    /// The one that the recipe describes.
    One,
    /// That one and, in the same pass, its standard twin: the same text without pauses.
    Both,
}

impl Scope {
    /// Everything.
    pub const WHOLE: Self = Self {
        only: None,
        partition: Partition::WHOLE,
        twins: Twins::One,
        verify_sample: 0.0,
    };

    fn includes(self, stage: Stage) -> bool {
        self.only.is_none_or(|only| only == stage)
    }
}

/// What became of one dataset.
pub struct Prepared {
    /// Its stage.
    pub stage: Stage,
    /// Where it is.
    pub folder: PathBuf,
    /// What was found or made.
    pub outcome: Outcome,
}

/// Makes the datasets of a recipe; writes the resolved recipe beside them.
pub fn prepare(
    plan: &Plan,
    scope: Scope,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<Vec<Prepared>, Error> {
    let made = each_stage(plan, scope, progress, |jobs| {
        prepare::run(jobs, scope.partition, progress, stop)
    })?;
    if scope.partition == Partition::WHOLE {
        // Nobody else writes here now; what a killed run left half-written goes.
        remove_temporaries(plan)?;
    }
    Ok(made)
}

/// Seals the datasets of a recipe whose units several processes have made.
pub fn finalize(
    plan: &Plan,
    scope: Scope,
    progress: &dyn Progress,
) -> Result<Vec<Prepared>, Error> {
    let made = each_stage(plan, scope, progress, |jobs| {
        jobs.iter().map(prepare::finalize).collect()
    })?;
    remove_temporaries(plan)?;
    Ok(made)
}

fn remove_temporaries(plan: &Plan) -> Result<(), Error> {
    fs::remove_temporaries(&plan.out)?;
    Ok(fs::remove_temporaries(&plan.out.join("data"))?)
}

/// Does something with the datasets of each stage, which are made together.
fn each_stage(
    plan: &Plan,
    scope: Scope,
    progress: &dyn Progress,
    make: impl Fn(&[Job]) -> Result<Vec<Outcome>, prepare::Error>,
) -> Result<Vec<Prepared>, Error> {
    fs::write(&plan.recipe_file(), plan.recipe_toml()?.as_bytes())?;
    let tokenizer = tokenizer(plan, progress)?.verifying(scope.verify_sample);
    let standard = plan.standard();
    let mut prepared = Vec::new();
    for (stage, _) in plan.stages().filter(|(stage, _)| scope.includes(*stage)) {
        let mut variants = vec![Variant {
            folder: plan.data_dir(stage),
            plan,
        }];
        if scope.twins == Twins::Both {
            variants.push(Variant {
                folder: plan.twin_dir(stage),
                plan: &standard,
            });
        }
        let outcomes = together(plan, stage, &variants, &tokenizer, &make)?;
        let folders = variants.into_iter().map(|variant| variant.folder);
        prepared.extend(folders.zip(outcomes).map(|(folder, outcome)| Prepared {
            stage,
            folder,
            outcome,
        }));
    }
    Ok(prepared)
}

/// A dataset of a stage as some plan describes it.
pub struct Variant<'a> {
    /// Where it goes.
    pub folder: PathBuf,
    /// What describes it.
    pub plan: &'a Plan,
}

/// Makes datasets of a stage with the tokenizer of `plan`; those that differ in where pauses
/// go and in nothing else are made in one pass over the text.
pub fn prepare_variants(
    plan: &Plan,
    stage: Stage,
    variants: Vec<Variant>,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<(), Error> {
    let tokenizer = tokenizer(plan, progress)?;
    let mut passes: Vec<(serde_json::Value, Vec<Variant>)> = Vec::new();
    for variant in variants {
        let mut text = variant.plan.data_part(stage)?;
        if let Some(part) = text.as_object_mut() {
            part.retain(|key, _| !["pause", "room"].contains(&key.as_str()));
        }
        match passes.iter_mut().find(|(other, _)| *other == text) {
            Some((_, pass)) => pass.push(variant),
            None => passes.push((text, vec![variant])),
        }
    }
    for (_, pass) in passes {
        together(plan, stage, &pass, &tokenizer, |jobs| {
            prepare::run(jobs, Partition::WHOLE, progress, stop)
        })?;
    }
    Ok(())
}

/// Does something with datasets of a stage that are made together.
fn together(
    plan: &Plan,
    stage: Stage,
    variants: &[Variant],
    tokenizer: &Tokenizer,
    make: impl Fn(&[Job]) -> Result<Vec<Outcome>, prepare::Error>,
) -> Result<Vec<Outcome>, Error> {
    let reach = plan.reach();
    let described = |variant: &Variant| Ok(variant.plan.data_part(stage)?);
    let parts: Vec<_> = variants
        .iter()
        .map(described)
        .collect::<Result<_, Error>>()?;
    let mut jobs = Vec::new();
    for (Variant { folder, plan }, part) in variants.iter().zip(&parts) {
        let Some(recipe) = plan.stage(stage) else {
            continue;
        };
        jobs.push(Job {
            stage,
            folder,
            reach: &reach,
            seed: plan.recipe.seed,
            part,
            recipe,
            tokenizer,
            shared: recipe.is_shared(),
        });
    }
    make(&jobs).map_err(|source| Error::Prepare { stage, source })
}

/// What [`prepare`] would read, without reading it.
pub fn survey(plan: &Plan, scope: Scope) -> Result<Vec<(Stage, Survey)>, Error> {
    let stages = plan.stages().filter(|(stage, _)| scope.includes(*stage));
    stages
        .map(|(stage, recipe)| {
            let survey = prepare::survey(stage, recipe, &plan.reach());
            Ok((
                stage,
                survey.map_err(|source| Error::Prepare { stage, source })?,
            ))
        })
        .collect()
}

/// Proves the datasets of a recipe; the first that fails is an error.
pub fn prove(plan: &Plan, progress: &dyn Progress, stop: &Stop) -> Result<usize, Error> {
    let stages = plan.stages();
    let each =
        stages.map(|(stage, _)| prove_one(plan, stage, &plan.data_dir(stage), progress, stop));
    each.sum()
}

/// Proves that a dataset is that of a plan's stage; returns how many checks it passed.
pub fn prove_one(
    plan: &Plan,
    stage: Stage,
    folder: &Path,
    progress: &dyn Progress,
    stop: &Stop,
) -> Result<usize, Error> {
    let sources = verify::Sources::At {
        data_root: Some(plan.data_root.clone()),
        access: plan.access.clone(),
        temp_dir: None,
    };
    let pause = plan.stage(stage).map(|stage| &stage.pause);
    let report = verify::run(folder, pause, &sources, progress, stop)?;
    match report.failed() {
        0 => Ok(report.passed()),
        failed => Err(Error::Unproved {
            folder: folder.to_path_buf(),
            failed,
        }),
    }
}

/// The tokenizer of a recipe, and what its documents begin with.
pub fn tokenizer(plan: &Plan, progress: &dyn Progress) -> Result<Tokenizer, Error> {
    let tokenizer = bare_tokenizer(plan, progress)?;
    match &plan.recipe.begin {
        Some(token) => Ok(tokenizer.beginning_with_token(token)?),
        None => Ok(tokenizer),
    }
}

/// A checkpoint's tokenizer, that of a file, or one trained on the recipe's sources.
fn bare_tokenizer(plan: &Plan, progress: &dyn Progress) -> Result<Tokenizer, Error> {
    if let Some(from) = plan.model_from() {
        let folder = folder::resolve(&from)?;
        let tokenizer = checkpoint_tokenizer(&folder, plan.recipe.pause_tokens())?;
        let begin: Option<TokenId> = state(&folder, "begin")?;
        // A token that ends documents too begins the next one already.
        let begin = begin.filter(|id| !tokenizer.is_reserved(*id));
        if let (Some(begin), None) = (begin, &plan.recipe.begin) {
            let token = tokenizer.token(begin).unwrap_or_default();
            progress.note(&format!(
                "the model of `model.from` expects `{token}` before every text, and rows do not \
                 have it: `begin = \"{token}\"` puts it there"
            ));
        }
        return Ok(tokenizer);
    }
    let config = plan.recipe.tokenizer.as_ref().ok_or(Error::NoTokenizer)?;
    match (&config.file, plan.stages().next()) {
        (Some(file), _) => Ok(Tokenizer::from_file(&plan.data_root.join(file), config)?),
        (None, Some((stage, recipe))) => {
            let folder = plan.out.join("data");
            prepare::tokenizer::train(&folder, config, (stage, recipe), &plan.reach(), progress)
                .map_err(|source| Error::Prepare { stage, source })
        }
        (None, None) => Err(Error::NoTokenizer),
    }
}

/// What the state of a checkpoint of this program says of a key; nothing in others.
fn state<T: DeserializeOwned>(folder: &Path, key: &str) -> Result<Option<T>, Error> {
    let path = folder.join("trainer.json");
    if !path.is_file() {
        return Ok(None);
    }
    // What is damaged in it is found, and told, where the checkpoint is opened.
    let json: serde_json::Value = serde_json::from_str(&fs::read_text(&path)?).unwrap_or_default();
    let found = json.get("state").and_then(|state| state.get(key));
    Ok(found.and_then(|found| serde_json::from_value(found.clone()).ok()))
}

/// The names of the tokens that a checkpoint of this program reserves.
fn named(folder: &Path, tokenizer: &Path) -> Result<Option<Config>, Error> {
    let reserved: Option<Reserved> = state(folder, "reserved")?;
    let json = fs::read_at_most(tokenizer, FILE_BYTES_MAX)?;
    Ok(reserved.and_then(|reserved| Config::of_reserved(&json, reserved)))
}

/// A checkpoint's own tokenizer with the reserved tokens; a model that lacks rows for them
/// gets them when it is trained.
fn checkpoint_tokenizer(folder: &Path, pause_tokens: PauseTokens) -> Result<Tokenizer, Error> {
    let path = folder.join("tokenizer.json");
    let config = Config {
        pause_tokens,
        ..named(folder, &path)?.unwrap_or_default()
    };
    Ok(Tokenizer::from_file(&path, &config)?)
}
