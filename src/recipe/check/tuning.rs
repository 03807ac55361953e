//! What a training that changes a part of a model must satisfy.

use super::{At, Outcome};
use crate::model::lora::Lora;
use crate::recipe::{Recipe, Stage};

/// The largest rank; no matrix of a model that fits a machine has more rows.
const RANK_MAX: u64 = 1 << 16;

/// Checks `lora` of both stages: what it says, and that there are weights to adapt.
pub(super) fn check(recipe: &Recipe) -> Outcome {
    let lora = |stage: &Option<Stage>| {
        let train = stage.as_ref()?.train.as_ref()?;
        train.lora.clone()
    };
    let trained = |stage: &Option<Stage>| stage.as_ref().is_some_and(|stage| stage.train.is_some());
    let from = recipe.model.from.is_some();
    let stages = [
        ("pretrain", lora(&recipe.pretrain), from),
        (
            "finetune",
            lora(&recipe.finetune),
            from || trained(&recipe.pretrain),
        ),
    ];
    for (stage, lora, begun) in stages {
        let Some(lora) = lora else { continue };
        let at = At(format!("{stage}.train."));
        if !begun {
            let finding = at.fail("lora", "adapts weights that nobody has trained");
            let hint = "train the stage before without `lora`, or start from `model.from`";
            return Err(finding.hint(hint));
        }
        check_lora(&at.inside("lora"), &lora)?;
    }
    Ok(())
}

fn check_lora(at: &At, lora: &Lora) -> Outcome {
    at.at_least("rank", lora.rank as u64, 1)?;
    at.at_most("rank", lora.rank as u64, RANK_MAX)?;
    at.positive("alpha", lora.alpha)?;
    let Some(targets) = &lora.targets else {
        return Ok(());
    };
    if targets.is_empty() {
        let finding = at.fail("targets", "is empty");
        return Err(finding.hint("leave it out to adapt all matrices"));
    }
    for (index, target) in targets.iter().enumerate() {
        if targets.iter().take(index).any(|other| other == target) {
            let problem = format!("names `{}` twice", target.name());
            return Err(at.fail(&format!("targets.{index}"), problem));
        }
    }
    Ok(())
}
