//! The datasets that a stage is trained on.

use super::{At, Finding, Outcome};
use crate::loader::mixture::{self, Mixture};
use crate::recipe::{Phase, Train};

/// More datasets than this are a mistake.
const MEMBERS_MAX: u64 = 1 << 10;

/// Whether rows can come from the datasets that `train` names, as often as it says.
pub(super) fn check(at: &At, train: &Train) -> Outcome {
    let n_members = train.mixture.len();
    if n_members == 0 {
        return match train.curriculum.is_empty() {
            true => Ok(()),
            false => Err(at
                .fail("curriculum", "needs a `mixture`, whose weights it changes")
                .hint("`mixture = [{ weight = 1 }, { dataset = \"..\", weight = 1 }]`")),
        };
    }
    at.at_most("mixture", n_members as u64, MEMBERS_MAX)?;
    let own = |place: &usize| {
        train
            .mixture
            .get(*place)
            .is_some_and(|m| m.dataset.is_none())
    };
    let mut own = (0..n_members).filter(own);
    match (own.next(), own.next()) {
        (Some(_), None) => {}
        (None, _) => {
            let finding = at.fail("mixture", "leaves out the stage's own dataset");
            return Err(finding.hint("add an entry without `dataset`, such as `{ weight = 1 }`"));
        }
        (Some(_), Some(second)) => {
            let key = format!("mixture.{second}");
            let finding = at.fail(&key, "is the stage's own dataset a second time");
            return Err(finding.hint("name another one: `dataset = \"../other/data/pretrain\"`"));
        }
    }
    for (place, Phase { from_step, .. }) in train.curriculum.iter().enumerate() {
        let phase = at.inside(&format!("curriculum.{place}"));
        if place == 0 && *from_step == 0 {
            let finding = phase.fail("from_step", "must be at least 1, found 0");
            return Err(finding.hint("the weights of `mixture` are the first"));
        }
        if train.steps <= *from_step {
            let problem = format!(
                "must be less than `steps`, {}, found {from_step}",
                train.steps
            );
            return Err(phase.fail("from_step", problem));
        }
    }
    match Mixture::new(n_members, &train.phases(), 1) {
        Ok(_) => Ok(()),
        Err(error) => Err(finding(at, &error)),
    }
}

/// What is wrong with weights, by the key that gave them.
fn finding(at: &At, error: &mixture::Error) -> Finding {
    // The first phase stands in `mixture`, the others in `curriculum`.
    let later = |phase: usize, key: &str| format!("curriculum.{}.{key}", phase.saturating_sub(2));
    match error {
        mixture::Error::Start {
            phase,
            expected,
            found,
        } => {
            let problem = format!("must be {expected}, found {found}");
            at.fail(&later(*phase, "from_step"), problem)
        }
        mixture::Error::Count {
            phase,
            expected,
            found,
        } => {
            let problem = format!("has {found} weights, but `mixture` has {expected} datasets");
            at.fail(&later(*phase, "weights"), problem)
        }
        mixture::Error::Weight {
            phase,
            place,
            found,
        } => {
            let place = place.saturating_sub(1);
            let key = match phase {
                1 => format!("mixture.{place}.weight"),
                _ => later(*phase, &format!("weights.{place}")),
            };
            let problem = format!(
                "must be 0 or more, at least one weight above 0, and none too small \
                 beside the others, found {found}"
            );
            at.fail(&key, problem)
        }
    }
}
