//! What is scored: the paper's loss rule, and others.
//!
//! Position `k` predicts id `k + 1` of its row and is skipped where that id is a
//! pause (`S_ignore` of arXiv 2310.02226, algorithm 1) or belongs to the prefix
//! (algorithm 2). So the last pause before a real token is trained to predict
//! it, and the last position of a row, which has no next id, is not scored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::sequence::Sequence;
use crate::token::{PauseIds, TokenId};

/// What is trained where pauses are.
///
/// Whatever the rule, the last pause before a real id predicts that id, as in the
/// paper, unless the rule says otherwise; nothing in a prefix is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Rule {
    /// Predictions of pauses are skipped, as in the paper.
    #[default]
    Skip,
    /// Pauses are predicted as any other id: the model learns when to pause.
    Emit,
    /// Every pause predicts the next real id.
    Repeat,
    /// Every pause predicts the real id that is so many ahead; 1 is the next.
    Future(u32),
    /// The pauses that predict no real id predict, in order, the ids of the source's `hint`.
    Hint,
}

impl Rule {
    /// Whether it is the paper's.
    pub fn is_skip(&self) -> bool {
        *self == Self::Skip
    }
}

/// What each position is trained to predict; `None` where nothing is scored.
pub fn targets(
    row: &Sequence,
    pauses: impl Into<PauseIds>,
) -> impl Iterator<Item = Option<TokenId>> {
    let pauses = pauses.into();
    let stored = row.stored.as_deref();
    let stored = stored.filter(|stored| !stored.targets.is_empty());
    let prefix = row.parts().0.len();
    (0..row.len()).map(move |position| match stored {
        None => by_paper(row, (prefix, pauses), position),
        Some(stored) => {
            let weight = stored.weights.get(position)?;
            stored
                .targets
                .get(position)
                .copied()
                .filter(|_| 0.0 < *weight)
        }
    })
}

/// How much the prediction of each position counts; 1 or 0 under the paper's rule.
pub fn weights(row: &Sequence, pauses: impl Into<PauseIds>) -> Vec<f32> {
    match row.stored.as_deref() {
        Some(stored) if !stored.weights.is_empty() => stored.weights.clone(),
        _ => targets(row, pauses)
            .map(|target| if target.is_some() { 1.0 } else { 0.0 })
            .collect(),
    }
}

/// How many predictions count.
pub fn scored(row: &Sequence, pauses: impl Into<PauseIds>) -> u64 {
    let stored = row.stored.as_deref();
    if stored.is_some_and(|stored| !stored.targets.is_empty()) {
        return targets(row, pauses).flatten().count() as u64;
    }
    // The first id of a row is nobody's next.
    let first = row.parts().0.len().max(1);
    let next = row.len().saturating_sub(first);
    (next - row.n_pauses_from(first, pauses.into())) as u64
}

/// What a position predicts under the paper's rule.
fn by_paper(
    row: &Sequence,
    (prefix, pauses): (usize, PauseIds),
    position: usize,
) -> Option<TokenId> {
    let next = position + 1;
    let id = row.ids.get(next)?;
    (prefix <= next && !row.is_pause(next, pauses)).then_some(*id)
}

/// A rule with all that it needs.
pub(super) struct Ruled<'a> {
    pub rule: Rule,
    /// How much a target counts that the rule adds or changes.
    pub weight: f32,
    /// What pauses are trained to say.
    pub hint: &'a [TokenId],
    /// Stands where nothing is scored.
    pub pad: TokenId,
}

impl Ruled<'_> {
    /// The targets and weights of a row with its pauses.
    pub fn of(&self, row: &Sequence, pauses: PauseIds) -> (Vec<TokenId>, Vec<f32>) {
        let prefix = row.parts().0.len();
        let mut hint = self.hint.iter().copied();
        // The real ids after each position, nearest first: from the row's end.
        let mut ahead: Vec<TokenId> = Vec::new();
        let mut nearest = vec![None; row.len()];
        for position in (0..row.len()).rev() {
            let back = match self.rule {
                Rule::Future(distance) => distance.max(1) as usize,
                _ => 1,
            };
            let place = ahead.len().checked_sub(back);
            if let (Some(slot), Some(place)) = (nearest.get_mut(position), place) {
                *slot = ahead.get(place).copied();
            }
            if !row.is_pause(position, pauses)
                && let Some(id) = row.ids.get(position)
            {
                ahead.push(*id);
            }
        }
        let predicted = (0..row.len()).map(|position| {
            let next = position + 1;
            let paper = by_paper(row, (prefix, pauses), position).map(|id| (id, 1.0));
            let paused = row.is_pause(position, pauses) && prefix <= next;
            let added = match self.rule {
                Rule::Emit if prefix <= next && row.is_pause(next, pauses) => {
                    row.ids.get(next).copied()
                }
                Rule::Repeat if paused && paper.is_none() => nearest.get(position).copied()?,
                Rule::Future(_) if paused => {
                    let ahead = nearest.get(position).copied()?;
                    return ahead.map(|id| (id, self.weight));
                }
                Rule::Hint if paused && paper.is_none() => hint.next(),
                _ => None,
            };
            added.map(|id| (id, self.weight)).or(paper)
        });
        let predicted = predicted.map(|target| match target {
            Some((id, weight)) if 0.0 < weight => (id, weight),
            _ => (self.pad, 0.0),
        });
        predicted.unzip()
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests {
    use std::collections::HashSet;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::sequence::Stored;
    use crate::sequence::drawing::{RESERVED, ids, row, word};

    /// Algorithm 1 as the paper writes it: the loss sums over k in 1..=N+M-1, k not
    /// in S_ignore = {k : p_{k+1} = pause}, counted from 1.
    fn paper_pretraining(p: &[TokenId], pause: TokenId) -> Vec<f32> {
        let at = |k: usize| p[k - 1];
        let s_ignore: HashSet<usize> = (1..p.len()).filter(|k| at(k + 1) == pause).collect();
        let counts = |k| k < p.len() && !s_ignore.contains(&k);
        (1..=p.len())
            .map(|k| f32::from(u8::from(counts(k))))
            .collect()
    }

    /// Algorithm 2 as the paper writes it: the loss sums over k in 0..T of the
    /// prediction of t_{k+1} from [prefix, pauses, t_1..k], whose last position makes it.
    fn paper_finetuning(prefix: usize, pauses: usize, target: usize) -> Vec<f32> {
        let mut weights = vec![0.0; prefix + pauses + target];
        for k in 0..target {
            let read = prefix + pauses + k;
            if 0 < read {
                weights[read - 1] = 1.0;
            }
        }
        weights
    }

    fn check(text: &str, expect: Expect) {
        let row = row(text);
        let drawn: Vec<String> = row
            .ids
            .iter()
            .zip(targets(&row, RESERVED.pause))
            .map(|(id, target)| format!("{}→{}", word(*id), target.map_or("·".into(), word)))
            .collect();
        expect.assert_eq(&drawn.join(" "));
    }

    #[test]
    fn the_last_pause_before_a_real_token_is_trained() {
        check(
            "the ⏸ ⏸ cat | sat ⏸",
            expect!["the→· ⏸→· ⏸→cat cat→| |→sat sat→· ⏸→·"],
        );
    }

    #[test]
    fn the_last_pause_after_a_prefix_predicts_the_target() {
        check(
            "sky is > ⏸ ⏸ blue now |",
            expect!["sky→· is→· ⏸→· ⏸→blue blue→now now→| |→·"],
        );
    }

    #[test]
    fn without_pauses_the_last_prefix_id_predicts_the_target() {
        check("sky is > blue |", expect!["sky→· is→blue blue→| |→·"]);
        check("> blue |", expect!["blue→| |→·"]);
    }

    fn check_rule(rule: Rule, text: &str, expect: Expect) {
        let mut row = row(text);
        let hint = ids("h i j");
        let ruled = Ruled {
            rule,
            weight: 0.5,
            hint: &hint,
            pad: RESERVED.pad,
        };
        let (targets, weights) = ruled.of(&row, RESERVED.into());
        let stored = Stored {
            targets,
            weights,
            ..Stored::default()
        };
        row.stored = Some(Box::new(stored));
        let weights = weights_of(&row);
        let drawn: Vec<String> = (row.ids.iter().zip(targets_of(&row)).zip(weights))
            .map(|((id, target), weight)| match target {
                None => format!("{}→·", word(*id)),
                Some(target) if weight == 1.0 => format!("{}→{}", word(*id), word(target)),
                Some(target) => format!("{}→{}½", word(*id), word(target)),
            })
            .collect();
        expect.assert_eq(&drawn.join(" "));
    }

    fn targets_of(row: &Sequence) -> Vec<Option<TokenId>> {
        targets(row, RESERVED).collect()
    }

    fn weights_of(row: &Sequence) -> Vec<f32> {
        weights(row, RESERVED)
    }

    const PRETRAINING: &str = "the ⏸ ⏸ cat | ⏸ sat ⏸ ⏸";
    const FINETUNING: &str = "is it > ⏸ ⏸ ⏸ yes now |";

    #[test]
    fn emit_trains_pauses_as_any_other_id() {
        check_rule(
            Rule::Emit,
            PRETRAINING,
            expect!["the→⏸½ ⏸→⏸½ ⏸→cat cat→| |→⏸½ ⏸→sat sat→⏸½ ⏸→⏸½ ⏸→·"],
        );
        check_rule(
            Rule::Emit,
            FINETUNING,
            expect!["is→· it→⏸½ ⏸→⏸½ ⏸→⏸½ ⏸→yes yes→now now→| |→·"],
        );
    }

    #[test]
    fn repeat_trains_every_pause_on_the_next_real_id() {
        check_rule(
            Rule::Repeat,
            PRETRAINING,
            expect!["the→· ⏸→cat½ ⏸→cat cat→| |→· ⏸→sat sat→· ⏸→· ⏸→·"],
        );
        check_rule(
            Rule::Repeat,
            FINETUNING,
            expect!["is→· it→· ⏸→yes½ ⏸→yes½ ⏸→yes yes→now now→| |→·"],
        );
    }

    #[test]
    fn future_looks_further_ahead() {
        check_rule(
            Rule::Future(2),
            PRETRAINING,
            expect!["the→· ⏸→|½ ⏸→|½ cat→| |→· ⏸→· sat→· ⏸→· ⏸→·"],
        );
        check_rule(
            Rule::Future(1),
            FINETUNING,
            expect!["is→· it→· ⏸→yes½ ⏸→yes½ ⏸→yes½ yes→now now→| |→·"],
        );
    }

    #[test]
    fn hints_are_given_to_the_pauses_that_predict_nothing_else() {
        check_rule(
            Rule::Hint,
            FINETUNING,
            expect!["is→· it→· ⏸→h½ ⏸→i½ ⏸→yes yes→now now→| |→·"],
        );
        check_rule(
            Rule::Hint,
            "> ⏸ ⏸ ⏸ ⏸ ⏸ no |",
            expect!["⏸→h½ ⏸→i½ ⏸→j½ ⏸→· ⏸→no no→| |→·"],
        );
    }

    /// Each rule as a sentence about one position, looking at the whole row for it.
    fn naive(rule: Rule, row: &Sequence, k: usize) -> Option<TokenId> {
        let pause = |k: usize| row.ids.get(k) == Some(&RESERVED.pause);
        let real: Vec<TokenId> = (k + 1..row.len())
            .filter(|k| !pause(*k))
            .map(|k| row.ids[k])
            .collect();
        let prefix = row
            .prefix
            .map_or(0, |prefix| (prefix as usize).min(row.len()));
        let next = row.ids.get(k + 1).copied().filter(|_| prefix <= k + 1);
        let paper = next.filter(|_| !pause(k + 1));
        match rule {
            Rule::Emit => next,
            Rule::Repeat if pause(k) && prefix <= k + 1 => real.first().copied(),
            Rule::Future(d) if pause(k) && prefix <= k + 1 => real.get(d as usize - 1).copied(),
            _ => paper,
        }
    }

    #[test]
    fn a_row_of_pauses_or_of_one_id_or_none_scores_nothing() {
        check("⏸ ⏸", expect!["⏸→· ⏸→·"]);
        check("a", expect!["a→·"]);
        check("", expect![""]);
        check("a b >", expect!["a→· b→·"]);
    }

    proptest! {
        #[test]
        fn rules_are_their_naive_twins(
            ids in prop::collection::vec(1u32..7, 0..30),
            prefix in prop::option::of(0u32..30), distance in 1u32..4,
        ) {
            let ids = ids.into_iter().map(|id| TokenId(id % 5 + 1)).collect();
            let row = Sequence { ids, prefix, ..Sequence::default() };
            for rule in [Rule::Skip, Rule::Emit, Rule::Repeat, Rule::Future(distance)] {
                let ruled = Ruled { rule, weight: 1.0, hint: &[], pad: RESERVED.pad };
                let (targets, weights) = ruled.of(&row, RESERVED.into());
                for (k, (target, weight)) in targets.into_iter().zip(weights).enumerate() {
                    let scored = (weight == 1.0).then_some(target);
                    prop_assert_eq!(scored, naive(rule, &row, k), "{:?} {}", rule, k);
                    prop_assert!(weight == 1.0 || (weight, target) == (0.0, RESERVED.pad));
                }
            }
        }

        #[test]
        fn pretraining_weights_are_the_papers(ids in prop::collection::vec(0u32..4, 0..40)) {
            let row = Sequence::plain(ids.into_iter().map(TokenId).collect());
            let weights = weights(&row, TokenId(0));
            prop_assert_eq!(&weights, &paper_pretraining(&row.ids, TokenId(0)));
            prop_assert_eq!(scored(&row, TokenId(0)), weights.iter().sum::<f32>() as u64);
        }

        #[test]
        fn finetuning_weights_are_the_papers(
            prefix in 0usize..9, pauses in 0usize..9, target in 0usize..9,
        ) {
            let rest = [vec![TokenId(0); pauses], vec![TokenId(5); target]].concat();
            let row = Sequence::example(&vec![TokenId(4); prefix], &rest);
            prop_assert_eq!(
                weights(&row, TokenId(0)),
                paper_finetuning(prefix, pauses, target)
            );
        }

        #[test]
        fn no_target_is_a_pause(ids in prop::collection::vec(0u32..3, 0..40), prefix in 0u32..50) {
            let row = Sequence {
                ids: ids.into_iter().map(TokenId).collect(),
                prefix: Some(prefix), ..Sequence::default() };
            for (k, target) in targets(&row, TokenId(0)).enumerate() {
                let Some(target) = target else { continue };
                prop_assert_ne!(target, TokenId(0));
                prop_assert_eq!(target, row.ids[k + 1]);
                prop_assert!(prefix as usize <= k + 1);
            }
        }
    }
}
