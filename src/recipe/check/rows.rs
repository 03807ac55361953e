//! Mixtures and packing.

use super::{At, Outcome, Purpose};
use crate::corpus::Source;
use crate::corpus::weight::{WEIGHT_DIGITS, WEIGHT_MAX, Weight};
use crate::model::config::Attention;
use crate::pack::{Method, Overlong};
use crate::pause::Fill;
use crate::recipe::{Stage, Train};

/// Whether a source's weight is one.
pub(super) fn weight(at: &At, source: &Source) -> Outcome {
    let Some(weight) = source.weight else {
        return Ok(());
    };
    if at.0.starts_with("eval.") {
        let finding = at.fail("weight", "has no meaning for an evaluation");
        return Err(finding.hint("a task asks each example once, up to its `limit`"));
    }
    if weight <= 0.0 {
        let finding = at.fail("weight", format!("must be above 0, found {weight}"));
        return Err(finding.hint("leave the source out to take none of it"));
    }
    at.within("weight", weight, (0.0, WEIGHT_MAX))?;
    match Weight::new(weight) {
        Some(_) => Ok(()),
        None => {
            let most = WEIGHT_DIGITS;
            let problem = format!("has more than {most} digits after the point: {weight}");
            Err(at.fail("weight", problem))
        }
    }
}

/// Whether documents can become rows as a stage asks.
pub(super) fn method(at: &At, stage: &Stage, purpose: Purpose) -> Outcome {
    let pack = &stage.pack;
    if purpose == Purpose::Finetune && pack.method != Method::ConcatSplit {
        let finding = at.fail(
            "method",
            "is for pretraining: a finetuning example has its own row",
        );
        return Err(finding.hint("leave `method` out"));
    }
    let by_text = stage.pause.policy.fill(pack.seq_len) == Fill::ByText;
    if by_text && pack.method == Method::BestFit {
        let problem = "is `best-fit`, which needs a number of pauses that the text does not decide";
        let finding = at.fail("method", problem);
        return Err(finding.hint(
            "take `concat-split` or `document`, or a pause policy such as `random` or `stride`",
        ));
    }
    if pack.overlong != Overlong::Split && pack.method != Method::Document {
        let finding = at.fail("overlong", "needs `method = \"document\"`");
        return Err(finding.hint("the other methods lose no text"));
    }
    Ok(())
}

/// Whether a stage's rows have what its attention looks at.
pub(super) fn attention(at: &At, train: &Train, purpose: Purpose) -> Outcome {
    if purpose == Purpose::Finetune || train.attention != Attention::PrefixLm {
        return Ok(());
    }
    let problem = "is `prefix-lm`, but rows of running text have no prefix";
    Err(at
        .fail("attention", problem)
        .hint("take `causal` or `document`; `prefix-lm` is for finetuning"))
}
