//! What an experiment must say to be one.

use super::{At, Outcome, plain_name};
use crate::recipe::{Experiment, Recipe, Stage, arms};

/// Checks `experiment`: that there is something to compare, by tasks, over seeds.
pub(super) fn check(recipe: &Recipe, experiment: &Experiment) -> Outcome {
    let at = At("experiment.".into());
    if experiment.seeds.is_empty() {
        let finding = at.fail("seeds", "is empty");
        return Err(finding.hint("five seeds are a fair start: `seeds = [1, 2, 3, 4, 5]`"));
    }
    for (index, seed) in experiment.seeds.iter().enumerate() {
        let key = format!("seeds.{index}");
        if i64::try_from(*seed).is_err() {
            return Err(at.fail(&key, "is larger than a TOML number can be, 2^63 - 1"));
        }
        if experiment
            .seeds
            .iter()
            .take(index)
            .any(|other| other == seed)
        {
            return Err(at.fail(&key, format!("is {seed}, as an earlier one")));
        }
    }
    if recipe
        .eval
        .as_ref()
        .is_none_or(|eval| eval.tasks.is_empty())
    {
        let finding = at.fail(
            "seeds",
            "have nothing to be compared by: `eval` has no tasks",
        );
        return Err(finding.hint("add `[[eval.tasks]]`"));
    }
    check_stages(recipe)?;
    let arms = arms::of(recipe)?;
    let usual = arms.len() - experiment.controls.len().min(arms.len());
    for (index, control) in experiment.controls.iter().enumerate() {
        let at = at.inside(&format!("controls.{index}"));
        plain_name(&at, &control.name)?;
        let before = arms.iter().take(usual + index);
        if before.into_iter().any(|arm| arm.name == control.name) {
            let problem = format!("is `{}`, as that of another arm", control.name);
            return Err(at.fail("name", problem));
        }
        if control.set.is_empty() {
            return Err(at.fail("set", "is empty: the control would be the recipe itself"));
        }
    }
    match arms.len() {
        ..2 => {
            let finding = at.fail(
                "seeds",
                "have nothing to compare: no stage that is trained has pauses",
            );
            Err(finding.hint("give `pretrain` or `finetune` a `pause`, or add `controls`"))
        }
        _ => Ok(()),
    }
}

/// Checks that each stage's rows are its own.
fn check_stages(recipe: &Recipe) -> Outcome {
    let stages = [
        ("pretrain.train.", &recipe.pretrain),
        ("finetune.train.", &recipe.finetune),
    ];
    for (at, stage) in stages {
        let train = stage
            .as_ref()
            .and_then(|stage: &Stage| stage.train.as_ref());
        if train.is_some_and(|train| !train.mixture.is_empty()) {
            let finding = At(at.into()).fail("mixture", "cannot be part of an experiment");
            return Err(finding
                .hint("its datasets bring pauses of their own, to the arms without pauses too"));
        }
    }
    Ok(())
}
