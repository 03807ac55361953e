//! What watches a run: validation, early stopping, steps that go wrong.

use super::{At, Outcome};
use crate::recipe::{Optimizer, Spike, Stage, Train};

/// More steps than this say nothing of the present.
const WINDOW_MAX: u64 = 1 << 16;

pub(super) fn check(at: &At, stage: &Stage, train: &Train) -> Outcome {
    if 0 < train.validate_every && stage.validation <= 0.0 {
        let finding = at.fail(
            "validate_every",
            "asks for a validation loss, but no documents are held out",
        );
        return Err(finding.hint("set `validation` of this stage, for example to 0.01"));
    }
    if let Some(peak) = train.peak_gflops {
        at.positive("peak_gflops", peak)?;
    }
    if let Some(ema) = train.ema {
        at.below_one("ema", ema)?;
    }
    if train.freeze.is_some() && train.lora.is_none() && train.optimizer == Optimizer::Muon {
        let problem = "moves matrices, and `freeze` leaves none to train";
        let finding = at.fail("optimizer", problem);
        return Err(finding.hint("leave it out, or set `lora` beside `freeze`"));
    }
    if let Some(early) = &train.early_stopping {
        if train.validate_every == 0 {
            let finding = at.fail("early_stopping", "needs validation losses");
            return Err(finding.hint("set `validate_every` beside it, for example to 100"));
        }
        let at = at.inside("early_stopping");
        at.at_least("patience", early.patience, 1)?;
        at.within("min_delta", early.min_delta, (0.0, f64::MAX))?;
    }
    match &train.spike {
        Some(spike) => check_spike(&at.inside("spike"), spike),
        None => Ok(()),
    }
}

fn check_spike(at: &At, spike: &Spike) -> Outcome {
    for (key, factor) in [("loss", spike.loss), ("grad_norm", spike.grad_norm)] {
        if factor.is_nan() || factor <= 1.0 {
            let problem = format!("must be more than 1, found {factor}");
            let finding = at.fail(key, problem);
            return Err(finding.hint("it is a multiple of what is usual; `inf` allows any"));
        }
    }
    at.at_least("window", spike.window as u64, 1)?;
    at.at_most("window", spike.window as u64, WINDOW_MAX)
}
