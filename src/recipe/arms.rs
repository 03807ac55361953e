//! The arms of an experiment, each a recipe of its own.

use std::path::Path;

use super::check::{self, Finding};
use super::{Control, Experiment, Recipe, Stage};
use crate::pause::{self, Count, Policy};

/// A recipe that is trained and compared with others.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// What results call it: `PausePT_StdFT`, or the name of a control.
    pub name: String,
    /// Pauses at inference (M_inf) by which it is compared.
    pub pauses: u32,
    /// Whether it is one of the recipe's controls.
    pub is_control: bool,
    /// The whole recipe, with the seed of the datasets.
    pub recipe: Recipe,
}

/// The arms that a recipe asks for, the one without pauses first; none without an
/// `experiment`.
pub(super) fn of(recipe: &Recipe) -> Result<Vec<Arm>, Finding> {
    let Some(experiment) = &recipe.experiment else {
        return Ok(Vec::new());
    };
    let alone = Recipe {
        experiment: None,
        ..recipe.clone()
    };
    let mut arms = Vec::new();
    for (name, recipe) in usual(&alone) {
        let missing = || {
            let problem = "is missing, and finetuning has no single number of pauses to take";
            let finding = Finding::at("experiment.pauses", problem);
            finding.hint("say how many pauses answers get, for example `pauses = 10`")
        };
        arms.push(Arm {
            pauses: at_inference(&recipe, experiment.pauses).ok_or_else(missing)?,
            name,
            is_control: false,
            recipe,
        });
    }
    for (index, control) in experiment.controls.iter().enumerate() {
        arms.push(of_control(&alone, experiment, (index, control))?);
    }
    share_vocabulary(&mut arms);
    for arm in &arms {
        check::check(&arm.recipe).map_err(|finding| finding.of_arm(&arm.name))?;
    }
    Ok(arms)
}

/// Each stage that is trained, without its pauses and with them.
fn usual(recipe: &Recipe) -> Vec<(String, Recipe)> {
    let mut arms = vec![(String::new(), recipe.clone())];
    for (suffix, stage) in STAGES {
        let paused = match stage(&mut recipe.clone()) {
            Some(stage) if stage.train.is_some() => stage.pause.policy != Policy::None,
            _ => continue,
        };
        let variants = |(name, recipe): (String, Recipe)| {
            let joint = if name.is_empty() { "" } else { "_" };
            let variant = move |with: &bool| {
                let mut recipe = recipe.clone();
                if let (false, Some(stage)) = (*with, stage(&mut recipe)) {
                    stage.pause = pause::Config::default();
                }
                let word = if *with { "Pause" } else { "Std" };
                (format!("{name}{joint}{word}{suffix}"), recipe)
            };
            let with: &[bool] = if paused { &[false, true] } else { &[false] };
            with.iter().map(variant).collect::<Vec<_>>()
        };
        arms = arms.into_iter().flat_map(variants).collect();
    }
    arms
}

type Of = fn(&mut Recipe) -> Option<&mut Stage>;

/// How the paper writes the stages.
const STAGES: [(&str, Of); 2] = [
    ("PT", |recipe| recipe.pretrain.as_mut()),
    ("FT", |recipe| recipe.finetune.as_mut()),
];

fn of_control(
    recipe: &Recipe,
    experiment: &Experiment,
    (index, control): (usize, &Control),
) -> Result<Arm, Finding> {
    let at = |key: &str| format!("experiment.controls.{index}.{key}");
    let text = toml::to_string(recipe)
        .map_err(|error| Finding::at(&at("set"), &format!("cannot be tried: {error}")))?;
    let changed = Recipe::parse(&text, Path::new("recipe.toml"), &control.set);
    let changed = changed.map_err(|error| {
        Finding::at(&at("set"), &format!("makes no recipe that works: {error}"))
    })?;
    let missing = || {
        let finding = Finding::at(
            &at("pauses"),
            "is missing, and finetuning has no single number",
        );
        finding.hint("say how many pauses answers get, for example `pauses = 10`")
    };
    let said = control.pauses.or(experiment.pauses);
    let own = at_inference(&changed, None);
    Ok(Arm {
        name: control.name.clone(),
        pauses: control.pauses.or(own).or(said).ok_or_else(missing)?,
        is_control: true,
        recipe: changed,
    })
}

/// Pauses at inference: those of the last stage that is trained, where it has any.
fn at_inference(recipe: &Recipe, said: Option<u32>) -> Option<u32> {
    let trained = |stage: &&Stage| stage.train.is_some();
    let finetune = recipe.finetune.as_ref().filter(trained);
    let pretrain = recipe.pretrain.as_ref().filter(trained);
    match (finetune, pretrain) {
        (Some(stage), _) => match &stage.pause.policy {
            Policy::None => Some(0),
            Policy::Suffix { count } | Policy::Prefix { count } => match count {
                Count::Fixed(count) => said.or(Some(*count)),
                Count::Between { .. } | Count::OneOf(_) => said,
            },
            _ => said,
        },
        (None, Some(stage)) if stage.pause.policy != Policy::None => said.or(Some(0)),
        (None, _) => Some(0),
    }
}

/// Gives all arms one vocabulary: every pause token that one of them needs.
fn share_vocabulary(arms: &mut [Arm]) {
    let needs = arms.iter().map(|arm| arm.recipe.pause_tokens());
    let all = needs.fold(Default::default(), super::tokenize::PauseTokens::union);
    for arm in arms {
        if let Some(tokenizer) = &mut arm.recipe.tokenizer {
            tokenizer.pause_tokens = tokenizer.pause_tokens.union(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"
        tokenizer = { train = { vocab_size = 300 } }
        [pretrain]
        sources = [{ path = "a.jsonl", text = "body" }]
        pause = { policy = "random", fraction = 0.1 }
        pack = { seq_len = 64 }
        train = { steps = 10, batch_tokens = 128, lr = 1e-3 }
        [finetune]
        sources = [{ path = "q.jsonl", prefix = "{q}", target = "{a}" }]
        pause = { policy = "suffix", count = 4 }
        pack = { seq_len = 96 }
        train = { steps = 10, batch_tokens = 128, lr = 1e-3 }
        [[eval.tasks]]
        name = "q"
        sources = [{ path = "q.jsonl", prefix = "{q}", target = "{a}" }]
        [experiment]
        seeds = [1, 2]
    "#;

    fn arms(overrides: &[&str]) -> Result<Vec<Arm>, String> {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        let recipe = Recipe::parse(RECIPE, Path::new("r.toml"), &overrides);
        let recipe = recipe.map_err(|error| error.to_string())?;
        of(&recipe).map_err(|finding| finding.message)
    }

    fn named(overrides: &[&str]) -> Vec<(String, u32)> {
        let arms = arms(overrides).unwrap().into_iter();
        arms.map(|arm| (arm.name, arm.pauses)).collect()
    }

    #[test]
    fn the_usual_arms_are_the_papers() {
        let found = arms(&[]).unwrap();
        let named: Vec<_> = found
            .iter()
            .map(|arm| (arm.name.as_str(), arm.pauses))
            .collect();
        let expected = [
            ("StdPT_StdFT", 0),
            ("StdPT_PauseFT", 4),
            ("PausePT_StdFT", 0),
            ("PausePT_PauseFT", 4),
        ];
        assert_eq!(named, expected);
        let paused = |arm: &Arm| {
            let stages = [&arm.recipe.pretrain, &arm.recipe.finetune];
            stages.map(|stage| stage.as_ref().unwrap().pause.policy != Policy::None)
        };
        let found: Vec<_> = found.iter().map(paused).collect();
        assert_eq!(
            found,
            [[false, false], [false, true], [true, false], [true, true]]
        );
    }

    #[test]
    fn a_stage_without_training_or_without_pauses_has_no_arms() {
        let found = named(&["finetune.pause={policy=\"none\"}"]);
        assert_eq!(
            found,
            [("StdPT_StdFT".into(), 0), ("PausePT_StdFT".into(), 0)]
        );
        let from = ["model.from=../x", "pretrain.train.steps=1"];
        assert!(
            arms(&from).is_err(),
            "a tokenizer of its own and `from` clash"
        );
    }

    #[test]
    fn pauses_at_inference_are_said_or_those_of_finetuning() {
        let drawn = "finetune.pause.count={ min = 0, max = 4 }";
        let error = arms(&[drawn]).unwrap_err();
        assert!(error.contains("experiment.pauses"), "{error}");
        assert_eq!(named(&[drawn, "experiment.pauses=3"])[3].1, 3);
        assert_eq!(named(&["experiment.pauses=3"])[1].1, 3);
        assert_eq!(named(&["experiment.pauses=3"])[0].1, 0);
    }

    #[test]
    fn a_control_is_the_recipe_with_its_changes() {
        let control = "experiment.controls=[{name='dots', set=['finetune.pause.token={ filler = \".\" }']}, \
                       {name='deep', set=['model.n_layers=9', 'finetune.pause={policy=\"none\"}']}, \
                       {name='marks', set=['finetune.pause.token={ distinct = 4 }'], pauses=2}]";
        let found = arms(&[control]).unwrap();
        let controls: Vec<_> = found[4..]
            .iter()
            .map(|arm| (arm.name.as_str(), arm.pauses))
            .collect();
        assert_eq!(controls, [("dots", 4), ("deep", 0), ("marks", 2)]);
        assert_eq!(found[5].recipe.model.n_layers, Some(9));
        // One vocabulary serves all of them.
        let tokens = found
            .iter()
            .map(|arm| arm.recipe.tokenizer.as_ref().unwrap().pause_tokens);
        assert!(
            tokens.clone().all(|tokens| tokens.distinct == 4),
            "{tokens:?}"
        );

        let wrong = "experiment.controls=[{name='dots', set=['finetune.pause.tokens=1']}]";
        let error = arms(&[wrong]).unwrap_err();
        assert!(error.contains("controls.0.set"), "{error}");
    }
}
