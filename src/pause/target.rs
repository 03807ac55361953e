//! What is scored: the paper's loss rule.
//!
//! Position `k` predicts id `k + 1` of its row and is skipped where that id is a
//! pause (`S_ignore` of arXiv 2310.02226, algorithm 1) or belongs to the prefix
//! (algorithm 2). So the last pause before a real token is trained to predict
//! it, and the last position of a row, which has no next id, is not scored.

use crate::sequence::Sequence;
use crate::token::TokenId;

/// What each position is trained to predict; `None` where nothing is scored.
pub fn targets(row: &Sequence, pause: TokenId) -> impl Iterator<Item = Option<TokenId>> {
    let prefix = row.parts().0.len();
    let next = row.ids.iter().copied().enumerate().skip(1);
    next.map(move |(k, id)| (prefix <= k && id != pause).then_some(id))
        .chain((!row.is_empty()).then_some(None))
}

/// How much the prediction of each position counts: 1 or 0.
pub fn weights(row: &Sequence, pause: TokenId) -> Vec<f32> {
    targets(row, pause)
        .map(|target| if target.is_some() { 1.0 } else { 0.0 })
        .collect()
}

/// How many predictions count.
pub fn scored(row: &Sequence, pause: TokenId) -> u64 {
    targets(row, pause).flatten().count() as u64
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
    use crate::sequence::drawing::{RESERVED, row, word};

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

    #[test]
    fn a_row_of_pauses_or_of_one_id_or_none_scores_nothing() {
        check("⏸ ⏸", expect!["⏸→· ⏸→·"]);
        check("a", expect!["a→·"]);
        check("", expect![""]);
        check("a b >", expect!["a→· b→·"]);
    }

    proptest! {
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
