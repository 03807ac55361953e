//! Weights that a run leaves as they are.

use crate::model::config::Config;
use crate::model::lora::Target;
use crate::model::tuning::Tuning;
use crate::recipe::{Freeze, Train};
use crate::token::{PauseIds, Reserved, TokenId};

/// An adapter of what the model does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`train.lora.targets` names `{}`, which the model does not have", .0.name())]
pub struct NoTarget(pub Target);

/// What a recipe trains of a model; `None` where that is everything.
pub fn tuning(
    train: &Train,
    config: &Config,
    reserved: Reserved,
) -> Result<Option<Tuning>, NoTarget> {
    if train.freeze.is_none() && train.lora.is_none() {
        return Ok(None);
    }
    let named = train
        .lora
        .iter()
        .flat_map(|lora| lora.targets.iter().flatten());
    if let Some(target) = named.into_iter().find(|target| !target.is_in(config)) {
        return Err(NoTarget(*target));
    }
    let pauses = PauseIds::from(reserved);
    let rows = match train.freeze {
        Some(Freeze::AllButPause) => {
            let ids = 0..u32::try_from(config.vocab_size).unwrap_or(u32::MAX);
            ids.filter(|id| pauses.contains(TokenId(*id))).collect()
        }
        None => Vec::new(),
    };
    Ok(Some(Tuning {
        rows,
        lora: train.lora.clone(),
    }))
}
