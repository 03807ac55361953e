//! Where an experiment keeps what it makes, and the plan of each training in it.
//!
//! Datasets lie in `data/` of the run's folder, one for each way in which some arm has them.
//! What a seed trains lies in `seed-<seed>/`: a folder for each pretraining and each arm,
//! laid out as the folder of any run, so that every other command takes it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Error;
use crate::manifest::Stage;
use crate::model::config::Spec;
use crate::recipe::{Arm, Plan, Recipe};

/// From the folder of an arm to that of the run.
const UP: &str = "../..";

/// An experiment's arms and their datasets.
pub struct Layout {
    /// The recipe with the vocabulary that all arms share.
    pub plan: Plan,
    /// The arms, the one without pauses first.
    pub arms: Vec<Placed>,
    /// The datasets of all arms.
    pub datasets: Vec<Dataset>,
}

/// An arm, and what it is trained on.
pub struct Placed {
    /// The arm.
    pub arm: Arm,
    /// The stages that are trained, and their datasets from the run's folder on.
    data: Vec<(Stage, PathBuf)>,
    /// The folder of the pretraining that it is finetuned from, where both are trained: that
    /// of the first arm with the same one.
    pub pretraining: Option<String>,
}

/// A dataset that some arms are trained on.
pub struct Dataset {
    /// What its rows are for.
    pub stage: Stage,
    /// Its folder.
    pub folder: PathBuf,
    /// The first arm that has it.
    pub plan: Plan,
    /// What decides its bytes.
    part: Value,
}

impl Layout {
    /// Lays out the arms of a plan.
    pub fn new(plan: &Plan) -> Result<Self, Error> {
        let arms = plan.arms()?;
        let Some(first) = arms.first() else {
            return Err(Error::NoArms);
        };
        let mut plan = plan.clone();
        plan.recipe.tokenizer = first.recipe.tokenizer.clone();
        let mut layout = Self {
            plan,
            arms: Vec::new(),
            datasets: Vec::new(),
        };
        for arm in arms {
            let placed = layout.place(arm)?;
            layout.arms.push(placed);
        }
        Ok(layout)
    }

    fn place(&mut self, arm: Arm) -> Result<Placed, Error> {
        let plan = Plan {
            recipe: arm.recipe.clone(),
            ..self.plan.clone()
        };
        let trained = plan.stages().filter(|(_, stage)| stage.train.is_some());
        let stages: Vec<Stage> = trained.map(|(stage, _)| stage).collect();
        let mut data = Vec::new();
        for stage in &stages {
            let folder = self.dataset(*stage, &plan, &arm.name)?;
            data.push((*stage, self.from_run(&folder)));
        }
        let mut placed = Placed {
            arm,
            data,
            pretraining: None,
        };
        if 1 < stages.len() {
            let same = self.arms.iter().find(|other| other.pretrains_as(&placed));
            placed.pretraining = match same {
                Some(other) => other.pretraining.clone(),
                None => Some(placed.pretraining_name()),
            };
        }
        Ok(placed)
    }

    /// The folder of the dataset that a plan's stage describes, which is noted down.
    fn dataset(&mut self, stage: Stage, plan: &Plan, arm: &str) -> Result<PathBuf, Error> {
        let part = plan.data_part(stage)?;
        let known = |dataset: &&Dataset| dataset.stage == stage && dataset.part == part;
        if let Some(dataset) = self.datasets.iter().find(known) {
            return Ok(dataset.folder.clone());
        }
        let standard = self.plan.standard();
        let folder = match () {
            () if part == self.plan.data_part(stage)? => self.plan.data_dir(stage),
            () if part == standard.data_part(stage)? => self.plan.twin_dir(stage),
            () => {
                let own = self.plan.standard().data_dir(stage);
                let name = own.file_name().unwrap_or_default().to_string_lossy();
                own.with_file_name(format!("{name}-{arm}"))
            }
        };
        self.datasets.push(Dataset {
            stage,
            folder: folder.clone(),
            plan: plan.clone(),
            part,
        });
        Ok(folder)
    }

    /// A folder of the run, from the folder of an arm on.
    fn from_run(&self, folder: &Path) -> PathBuf {
        match folder.strip_prefix(&self.plan.out) {
            Ok(inside) => Path::new(UP).join(inside),
            Err(_) => folder.to_path_buf(),
        }
    }

    /// The pretraining of an arm that is finetuned too, with a seed; the arms with the same
    /// one share it.
    pub fn pretraining(&self, placed: &Placed, seed: u64) -> Result<Plan, Error> {
        let name = placed.pretraining.as_deref().unwrap_or(&placed.arm.name);
        let mut recipe = placed.recipe(Stage::Pretrain, seed);
        recipe.eval = None;
        self.settle(recipe, name, seed)
    }

    /// The last stage of an arm with a seed, from the model that was pretrained where there
    /// is one.
    pub fn last(&self, placed: &Placed, seed: u64, from: Option<&Path>) -> Result<Plan, Error> {
        let last = placed
            .data
            .last()
            .map_or(Stage::Finetune, |(stage, _)| *stage);
        let mut recipe = placed.recipe(last, seed);
        if let Some(from) = from {
            recipe.tokenizer = None;
            recipe.model = Spec {
                from: Some(self.from_run(from)),
                ..Spec::default()
            };
        }
        self.settle(recipe, &placed.arm.name, seed)
    }

    fn settle(&self, recipe: Recipe, name: &str, seed: u64) -> Result<Plan, Error> {
        let out = self.plan.out.join(format!("seed-{seed}")).join(name);
        let mut plan = Plan::resolve(recipe, name, out, self.plan.data_root.clone())?;
        plan.access = self.plan.access.clone();
        Ok(plan)
    }
}

impl Placed {
    /// What a pretraining of its own is called.
    fn pretraining_name(&self) -> String {
        let name = &self.arm.name;
        match (self.arm.is_control, name.split_once('_')) {
            // The usual arms are named after both of their stages.
            (false, Some((pretraining, _))) => pretraining.into(),
            _ => format!("{name}_PT"),
        }
    }

    /// Whether both arms have the same pretraining.
    fn pretrains_as(&self, other: &Self) -> bool {
        let decides = |placed: &Self| {
            let recipe = &placed.arm.recipe;
            let stage = recipe.pretrain.as_ref();
            let data = placed.data.first().cloned();
            let stage = stage.map(|stage| (stage.pause.clone(), stage.train.clone()));
            (data, stage, recipe.model.clone(), recipe.longest_row())
        };
        decides(self) == decides(other)
    }

    /// The arm's recipe for one of its stages, as one for a folder of its own.
    fn recipe(&self, only: Stage, seed: u64) -> Recipe {
        let mut recipe = self.arm.recipe.clone();
        let longest_row = recipe.longest_row();
        match &mut recipe.model {
            Spec {
                from: Some(from), ..
            } => *from = Path::new(UP).join(&from),
            // Both stages have the same model, whichever of them has the longer rows.
            shape => shape.context = shape.context.or(Some(longest_row)),
        }
        recipe.seed = seed;
        match only {
            Stage::Pretrain => recipe.finetune = None,
            Stage::Finetune => recipe.pretrain = None,
        }
        let stages = [&mut recipe.pretrain, &mut recipe.finetune];
        let data = self.data.iter().find(|(stage, _)| *stage == only);
        for stage in stages.into_iter().flatten() {
            stage.data = data.map(|(_, folder)| folder.clone());
        }
        recipe
    }
}
