//! What the pause policy of a stage must satisfy.

use super::check::{At, Outcome, Purpose};
use super::{Stage, Train};
use crate::corpus::Source;
use crate::pause::{self, Count, Policy, Rule};

/// Checks `pause` of the stage at `at`.
pub(super) fn check_pause(at: &At, stage: &Stage, purpose: Purpose) -> Outcome {
    let pause = at.inside("pause");
    check_policy(&pause, &stage.pause.policy, (stage, purpose))?;
    if let Policy::Mix { of } = &stage.pause.policy {
        for (index, share) in of.iter().enumerate() {
            let share_at = pause.inside(&format!("of.{index}"));
            check_policy(&share_at, &share.policy, (stage, purpose))?;
        }
    }
    if stage.pause.target == Rule::Hint {
        if purpose == Purpose::Pretrain {
            let finding = pause.fail("target", "is `hint`, which is for finetuning");
            return Err(finding.hint("running text has no pauses of its own to explain"));
        }
        if let Some(index) = stage
            .sources
            .iter()
            .position(|source| source.hint.is_none())
        {
            let problem = format!("reads `hint`, which source {index} does not name");
            let hint = "give every source `hint = \"{FIELD}\"`, what its pauses are to say";
            return Err(pause.fail("target", problem).hint(hint));
        }
    }
    // What is left of a policy's own rules.
    let wrong = |error: pause::Error| pause.fail(error.key(), format!("cannot be: {error}"));
    stage.pause.validate(stage.pack.seq_len).map_err(wrong)
}

/// Checks that what `train` leaves free is there: pause tokens of their own.
pub(super) fn check_frozen(at: &At, stage: &Stage, train: &Train) -> Outcome {
    if train.freeze.is_some() && matches!(stage.pause.token, pause::Token::Filler(_)) {
        let problem = "leaves only pause tokens to train, but the pauses are a token of the text";
        let finding = at.fail("freeze", problem);
        return Err(finding.hint("leave out `freeze`, or `pause.token`"));
    }
    Ok(())
}

fn check_policy(pause: &At, policy: &Policy, (stage, purpose): (&Stage, Purpose)) -> Outcome {
    match policy {
        Policy::None | Policy::Mix { .. } => Ok(()),
        // The paper uses 0.1; above 0.9 rows hold hardly any text.
        Policy::Random { fraction, .. } => pause.within("fraction", *fraction, (0.0, 0.9)),
        Policy::Suffix { .. } if purpose == Purpose::Pretrain => {
            let finding = pause.fail("policy", "is `suffix`, but running text has no prefix");
            Err(finding.hint("pretraining takes every policy but `suffix`"))
        }
        Policy::Suffix { count } | Policy::Prefix { count } => {
            check_count(pause, count, stage.pack.seq_len)
        }
        Policy::Score { .. } => check_column(pause, stage, "scores", |source| &source.scores),
        Policy::Positions { .. } => {
            check_column(pause, stage, "positions", |source| &source.positions)
        }
        policy => {
            let wrong =
                |error: pause::Error| pause.fail(error.key(), format!("cannot be: {error}"));
            policy.validate(stage.pack.seq_len).map_err(wrong)
        }
    }
}

fn check_count(pause: &At, count: &Count, seq_len: usize) -> Outcome {
    let (least, most) = match count {
        Count::Fixed(count) => (*count, *count),
        Count::Between { min, max } => (*min, *max),
        Count::OneOf(counts) => match (counts.iter().min(), counts.iter().max()) {
            (Some(least), Some(most)) => (*least, *most),
            _ => return Err(pause.fail("count", "is an empty list")),
        },
    };
    if most < least {
        let problem = format!("has `min` {least} above `max` {most}");
        return Err(pause.fail("count", problem));
    }
    // A prefix, a target and an end need a position each.
    let room = (seq_len as u64).saturating_sub(3);
    if room < u64::from(most) {
        let problem = format!("is {most}: rows of {seq_len} ids have room for {room}");
        return Err(pause.fail("count", problem));
    }
    Ok(())
}

/// A policy that reads a column needs it in every source.
fn check_column(
    pause: &At,
    stage: &Stage,
    key: &str,
    column: impl Fn(&Source) -> &Option<String>,
) -> Outcome {
    match stage
        .sources
        .iter()
        .position(|source| column(source).is_none())
    {
        None => Ok(()),
        Some(index) => {
            let problem = format!("reads `{key}`, which source {index} does not name");
            let hint = format!("give every source `{key} = \"FIELD\"`, the field that holds them");
            Err(pause.fail("policy", problem).hint(&hint))
        }
    }
}
