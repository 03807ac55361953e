//! The plan: a recipe with everything resolved, and where a run puts what it makes.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Arm, Error, Member, Pack, Recipe, Stage, arms, check};
use crate::corpus::{Reach, Source};
use crate::curate::{Evaluation, Filter, Rules};
use crate::dataset::online;
use crate::manifest;
use crate::model::config;
use crate::pause;
use crate::remote::Access;

/// A recipe and where it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is done.
    pub recipe: Recipe,
    /// The recipe's name: its file's, without the ending.
    pub name: String,
    /// The folder that holds everything the run makes.
    pub out: PathBuf,
    /// Where relative source paths start.
    pub data_root: PathBuf,
    /// How sources that are URLs are reached.
    pub access: Access,
}

/// The header of a resolved recipe.
const RESOLVED: &str = "\
# The recipe of this run with every default spelt out.
# `pausedata run` takes it as it takes the original.
";

impl Plan {
    /// Reads a recipe with its overrides and settles where it runs: `runs/<name>` and
    /// the current folder, where `out` and `data_root` say nothing else.
    pub fn read(
        path: &Path,
        overrides: &[String],
        out: Option<PathBuf>,
        data_root: Option<PathBuf>,
    ) -> Result<Self, Error> {
        let recipe = Recipe::read(path, overrides)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let out = out.unwrap_or_else(|| Path::new("runs").join(name.as_ref()));
        Self::resolve(recipe, &name, out, data_root.unwrap_or_else(|| ".".into()))
    }

    /// Settles where a recipe runs; one made without [`Recipe::read`] is checked here.
    pub fn resolve(
        mut recipe: Recipe,
        name: &str,
        out: PathBuf,
        data_root: PathBuf,
    ) -> Result<Self, Error> {
        check::check(&recipe).map_err(|finding| Error::Invalid(Box::new(finding.nowhere())))?;
        recipe.reserve_pause_tokens();
        name_evaluations(&mut recipe);
        Ok(Self {
            recipe,
            name: name.into(),
            out,
            data_root,
            access: Access::default(),
        })
    }

    /// Where sources are looked for.
    pub fn reach(&self) -> Reach {
        Reach {
            data_root: self.data_root.clone(),
            access: self.access.clone(),
        }
    }

    /// A stage of the recipe, where it has that stage.
    pub fn stage(&self, stage: manifest::Stage) -> Option<&Stage> {
        match stage {
            manifest::Stage::Pretrain => self.recipe.pretrain.as_ref(),
            manifest::Stage::Finetune => self.recipe.finetune.as_ref(),
        }
    }

    /// The stages that the recipe has, in the order in which they run.
    pub fn stages(&self) -> impl Iterator<Item = (manifest::Stage, &Stage)> {
        [manifest::Stage::Pretrain, manifest::Stage::Finetune]
            .into_iter()
            .filter_map(|stage| Some((stage, self.stage(stage)?)))
    }

    /// The stage whose sources a tokenizer is trained on: the first.
    pub fn tokenizer_stage(&self) -> Option<manifest::Stage> {
        self.stages().next().map(|(stage, _)| stage)
    }

    /// The checkpoint or `train/*` folder that `model.from` names.
    pub fn model_from(&self) -> Option<PathBuf> {
        let from = self.recipe.model.from.as_ref()?;
        Some(self.out.join(from))
    }

    /// The model's shape, once the tokenizer has decided the vocabulary.
    ///
    /// Meaningless with `model.from`, whose checkpoint holds the shape.
    pub fn model(&self, vocab_size: usize) -> Result<config::Config, config::Error> {
        let longest_row = self.recipe.longest_row();
        self.recipe.model.resolve(vocab_size, longest_row)
    }

    /// The numbers of pauses to evaluate with: 0 and the recipe's, in rising order.
    pub fn eval_pauses(&self) -> Vec<u32> {
        let pauses = self.recipe.eval.iter().flat_map(|eval| &eval.pauses);
        let mut pauses: Vec<u32> = [0].into_iter().chain(pauses.copied()).collect();
        pauses.sort_unstable();
        pauses.dedup();
        pauses
    }

    /// The arms of the recipe's experiment, the one without pauses first.
    pub fn arms(&self) -> Result<Vec<Arm>, Error> {
        arms::of(&self.recipe).map_err(|finding| Error::Invalid(Box::new(finding.nowhere())))
    }

    /// The resolved recipe.
    pub fn recipe_file(&self) -> PathBuf {
        self.out.join("recipe.toml")
    }

    /// The dataset of a stage.
    pub fn data_dir(&self, stage: manifest::Stage) -> PathBuf {
        match self.stage(stage).and_then(|stage| stage.data.as_ref()) {
            Some(shared) => self.out.join(shared),
            None => self.out.join("data").join(folder(stage)),
        }
    }

    /// The datasets that a stage's rows come from, in the order of its `train.mixture`;
    /// none where it has no mixture.
    pub fn mixture_dirs(&self, stage: manifest::Stage) -> Vec<PathBuf> {
        let train = self.stage(stage).and_then(|stage| stage.train.as_ref());
        let members = train.iter().flat_map(|train| &train.mixture);
        let folder = |member: &Member| match &member.dataset {
            None => self.data_dir(stage),
            Some(other) => self.out.join(other),
        };
        members.map(folder).collect()
    }

    /// The standard twin of a stage's dataset: the same text without pauses.
    pub fn twin_dir(&self, stage: manifest::Stage) -> PathBuf {
        self.out
            .join("data")
            .join(format!("{}-standard", folder(stage)))
    }

    /// The plan whose stages have no pauses.
    pub fn standard(&self) -> Self {
        let mut plan = self.clone();
        let stages = [&mut plan.recipe.pretrain, &mut plan.recipe.finetune];
        for stage in stages.into_iter().flatten() {
            stage.pause = pause::Config::default();
            stage.data = None;
        }
        plan
    }

    /// What training a stage leaves behind.
    pub fn train_dir(&self, stage: manifest::Stage) -> PathBuf {
        self.out.join("train").join(folder(stage))
    }

    /// The results of the evaluation.
    pub fn eval_dir(&self) -> PathBuf {
        self.out.join("eval")
    }

    /// The recipe with every default spelt out, as TOML: equal recipes give equal text.
    pub fn recipe_toml(&self) -> Result<String, Error> {
        let recipe = toml::to_string_pretty(&self.recipe).map_err(Error::unwritable)?;
        Ok(format!("{RESOLVED}\n{recipe}"))
    }

    /// The part of the recipe that decides the bytes of a stage's dataset.
    ///
    /// The input itself is not in it, nor where it lies: the manifest lists the files.
    pub fn data_part(&self, stage: manifest::Stage) -> Result<Value, Error> {
        let mut part = Part::default();
        part.add("stage", &stage)?;
        part.add("seed", &self.recipe.seed)?;
        part.add("tokenizer", &self.recipe.tokenizer)?;
        part.add("begin", &self.recipe.begin)?;
        part.add("model_from", &self.recipe.model.from)?;
        part.add("tokenizer_sources", &self.tokenizer_sources())?;
        part.add("tokenizer_rules", &self.tokenizer_rules())?;
        let name = stage;
        if let Some(stage) = self.stage(stage) {
            part.add("sources", &stage.sources)?;
            let rules = stage.rules();
            part.add("normalize", &rules.normalize)?;
            part.add("filter", &rules.filter.map(Filter::spelt_out))?;
            part.add("decontaminate", &rules.decontaminate)?;
            part.add("dedup", &rules.dedup)?;
            part.add("rejects", &rules.rejects.then_some(true))?;
            let row_length = stage.pack.seq_len;
            part.add("pause", &stage.pause.deciding(row_length))?;
            part.add("room", &room(name, stage))?;
            // The manifest has the format of shards beside the recipe, so that a converted
            // dataset is the one that would have been prepared.
            let format = manifest::ShardFormat::default();
            part.add(
                "pack",
                &Pack {
                    format,
                    ..stage.pack.clone()
                },
            )?;
            part.add("validation", &stage.validation)?;
        }
        Ok(part.value())
    }

    /// The sources that a trained tokenizer has seen.
    fn tokenizer_sources(&self) -> Option<&[Source]> {
        self.recipe.tokenizer.as_ref()?.train.as_ref()?;
        let stage = self.stage(self.tokenizer_stage()?)?;
        Some(&stage.sources)
    }

    /// What the texts that a trained tokenizer has seen were chosen by, where by anything.
    fn tokenizer_rules(&self) -> Option<Rules> {
        self.tokenizer_sources()?;
        let rules = self.stage(self.tokenizer_stage()?)?.rules().of_texts();
        (rules != Rules::default()).then_some(rules)
    }
}

/// How many real ids rows take, where they have room for pauses that come later.
fn room(name: manifest::Stage, stage: &Stage) -> Option<usize> {
    let row_length = stage.pack.seq_len;
    let recut = online::recuts(name, stage.pack.method);
    let room = stage.pause.room(row_length, recut);
    (stage.pause.is_at_load() && room != row_length).then_some(room)
}

/// Spells out the evaluation sets that a stage without a list of its own is cleaned of.
fn name_evaluations(recipe: &mut Recipe) {
    let tasks = recipe.eval.iter().flat_map(|eval| &eval.tasks);
    let tasks: Vec<Evaluation> = tasks
        .map(|task| Evaluation {
            name: task.name.clone(),
            sources: task.sources.clone(),
        })
        .collect();
    for stage in [&mut recipe.pretrain, &mut recipe.finetune]
        .into_iter()
        .flatten()
    {
        if let Some(settings) = &mut stage.decontaminate {
            settings.against.get_or_insert_with(|| tasks.clone());
        }
    }
}

fn folder(stage: manifest::Stage) -> &'static str {
    match stage {
        manifest::Stage::Pretrain => "pretrain",
        manifest::Stage::Finetune => "finetune",
    }
}

/// A JSON object whose keys keep their order.
#[derive(Default)]
struct Part(Map<String, Value>);

impl Part {
    fn add(&mut self, key: &str, value: &impl Serialize) -> Result<(), Error> {
        let value = serde_json::to_value(value).map_err(Error::unwritable)?;
        if !value.is_null() {
            self.0.insert(key.into(), value);
        }
        Ok(())
    }

    fn value(self) -> Value {
        Value::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use manifest::Stage::{Finetune, Pretrain};

    use super::*;

    const RECIPE: &str = r#"
        tokenizer = { train = { vocab_size = 300 } }
        [pretrain]
        sources = [{ path = "a/*.jsonl", text = "body" }, { synthetic = { corpus = "stories", documents = 9 } }]
        pause = { policy = "random", fraction = 0.1, law = "iid-gaps" }
        pack = { seq_len = 64 }
        train = { steps = 10, batch_tokens = 128, lr = 1e-3, schedule = "wsd" }
        [finetune]
        sources = [{ path = "q.jsonl", prefix = "{q}\nA:", target = " {a}" }]
        pause = { policy = "suffix", count = { min = 0, max = 4 } }
        pack = { seq_len = 96 }
        [eval]
        pauses = [8, 4, 4]
        sample = "Once"
    "#;

    fn plan(overrides: &[&str]) -> Plan {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        let recipe = Recipe::parse(RECIPE, Path::new("r.toml"), &overrides).unwrap();
        Plan::resolve(recipe, "r", "runs/r".into(), ".".into()).unwrap()
    }

    #[test]
    fn the_resolved_recipe_is_the_recipe() {
        let plan = plan(&[]);
        let text = plan.recipe_toml().unwrap();
        let again = Recipe::parse(&text, Path::new("recipe.toml"), &[]).unwrap();
        assert_eq!(again, plan.recipe);
        let again = Plan::resolve(again, "r", "elsewhere".into(), "/data".into()).unwrap();
        assert_eq!(again.recipe_toml().unwrap(), text);
    }

    #[test]
    fn the_layout_is_the_one_that_users_are_told() {
        let plan = plan(&[]);
        let shown = [
            plan.recipe_file(),
            plan.data_dir(Pretrain),
            plan.train_dir(Finetune),
            plan.eval_dir(),
        ];
        let expected = [
            "runs/r/recipe.toml",
            "runs/r/data/pretrain",
            "runs/r/train/finetune",
            "runs/r/eval",
        ];
        assert_eq!(shown, expected.map(PathBuf::from));
        assert_eq!(plan.eval_pauses(), [0, 4, 8]);
        assert_eq!(plan.model(303).unwrap().context, 96);
    }

    #[test]
    fn evaluation_sets_are_spelt_out() {
        let task = "eval.tasks=[{name='q',sources=[{path='q',prefix='{q}',target='{a}'}]}]";
        let model = "pretrain.train.steps=10";
        let plan = plan(&["pretrain.decontaminate={}", task, model]);
        let part = plan.data_part(Pretrain).unwrap();
        assert_eq!(part["decontaminate"]["against"][0]["name"], "q");
        assert_eq!(part["decontaminate"]["ngram"], 13);
        let text = plan.recipe_toml().unwrap();
        let again = Recipe::parse(&text, Path::new("recipe.toml"), &[]).unwrap();
        assert_eq!(again, plan.recipe);
    }

    #[test]
    fn keys_that_are_off_leave_no_trace() {
        let part = plan(&[]).data_part(Pretrain).unwrap();
        let keys: Vec<_> = part.as_object().unwrap().keys().cloned().collect();
        let expected = [
            "stage",
            "seed",
            "tokenizer",
            "tokenizer_sources",
            "sources",
            "pause",
            "pack",
            "validation",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn parts_change_with_what_they_decide_and_with_nothing_else() {
        let parts = |overrides: &[&str]| {
            let plan = plan(overrides);
            [Pretrain, Finetune].map(|stage| plan.data_part(stage).unwrap())
        };
        let base = parts(&[]);
        let changed = |overrides: &[&str]| {
            let pairs = parts(overrides).into_iter().zip(&base);
            pairs.map(|(now, then)| now != *then).collect::<Vec<_>>()
        };
        assert_eq!(changed(&["pretrain.train.lr=0.5"]), [false; 2]);
        assert_eq!(changed(&["eval.pauses=[1]"]), [false; 2]);
        assert_eq!(changed(&["seed=2"]), [true; 2]);
        assert_eq!(changed(&["begin='<s>'"]), [true; 2]);
        assert_eq!(changed(&["finetune.pause.count=3"]), [false, true]);
        assert_eq!(changed(&["pretrain.pack.method=best-fit"]), [true, false]);
        // Pauses that come later leave nothing behind but the room for them.
        let part = |overrides: &[&str]| {
            let at_load = ["pretrain.pause.when=at-load"];
            parts(&[&at_load, overrides].concat())[0].clone()
        };
        assert_eq!(part(&[])["pause"], serde_json::json!({ "policy": "none" }));
        let other = ["pretrain.pause.fraction=0.2", "pretrain.pause.target=emit"];
        assert_eq!(part(&other), part(&[]));
        let none = "pretrain.pause={policy=\"none\"}";
        assert_eq!(part(&[]), parts(&[none])[0]);
        let fit = "pretrain.pack.method=best-fit";
        assert_eq!(part(&[fit])["room"], 58);
        assert_eq!(part(&[fit, "pretrain.pause.law=distinct-gaps"])["room"], 58);
        let text = "pretrain.pause={policy=\"digits\",when=\"at-load\",target=\"emit\"}";
        let expected = serde_json::json!({ "policy": "digits", "count": 1, "when": "at-load" });
        assert_eq!(parts(&[text])[0]["pause"], expected);
        // What older recipes do not say changes nothing where it says what was done.
        assert_eq!(changed(&["pretrain.pack.method=concat-split"]), [false; 2]);
        // The tokenizer is trained on the pretraining text, so finetuning ids follow it.
        assert_eq!(changed(&["pretrain.sources.0.text=t"]), [true; 2]);
        assert_eq!(changed(&["finetune.dedup=exact"]), [false, true]);
        assert_eq!(changed(&["pretrain.dedup=exact"]), [true, false]);
        assert_eq!(changed(&["pretrain.rejects=true"]), [true, false]);
        // The tokenizer is trained on the texts that are kept.
        assert_eq!(changed(&["pretrain.filter={min_words=2}"]), [true; 2]);
        assert_eq!(changed(&["tokenizer.train.vocab_size=400"]), [true; 2]);
    }
}
