//! Rows to a batch.

use crate::batch::{Batch, Counts, LENGTH_STEP};
use crate::pause::target;
use crate::sequence::Sequence;
use crate::token::Reserved;

/// The batch of `rows`, padded to the longest.
pub fn collate(rows: &[Sequence], reserved: Reserved) -> Batch {
    let longest = rows.iter().map(Sequence::len).max().unwrap_or(0);
    let length = longest.next_multiple_of(LENGTH_STEP);
    let size = rows.len() * length;
    let mut batch = Batch {
        rows: rows.len(),
        length,
        ids: Vec::with_capacity(size),
        targets: Vec::with_capacity(size),
        weights: Vec::with_capacity(size),
        counts: Counts::default(),
    };
    for row in rows {
        push(&mut batch, row, reserved);
        let end = batch.ids.len() + length - row.len();
        batch.ids.resize(end, reserved.pad);
        batch.targets.resize(end, reserved.pad);
        batch.weights.resize(end, 0.0);
        batch.counts.padding += (length - row.len()) as u64;
    }
    batch
}

fn push(batch: &mut Batch, row: &Sequence, reserved: Reserved) {
    batch.ids.extend_from_slice(&row.ids);
    for target in target::targets(row, reserved) {
        batch.targets.push(target.unwrap_or(reserved.pad));
        batch.counts.scored += u64::from(target.is_some());
    }
    batch.weights.extend(target::weights(row, reserved));
    let n_pauses = row.n_pauses(reserved.into());
    batch.counts.pauses += n_pauses as u64;
    batch.counts.real += (row.len() - n_pauses) as u64;
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::sequence::drawing::{RESERVED, row, word};
    use crate::token::TokenId;

    /// The naive twin: each position of the batch on its own.
    fn naive(rows: &[Sequence]) -> Batch {
        let mut length = 0;
        while rows.iter().any(|row| length < row.len()) {
            length += 8;
        }
        let mut batch = Batch {
            rows: rows.len(),
            length,
            ..Batch::default()
        };
        for row in rows {
            for k in 0..length {
                let id = row.ids.get(k).copied();
                let next = row.ids.get(k + 1).copied();
                let in_prefix = row.prefix.is_some_and(|prefix| k + 1 < prefix as usize);
                let target = next.filter(|id| *id != RESERVED.pause && !in_prefix);
                batch.ids.push(id.unwrap_or(RESERVED.pad));
                batch.targets.push(target.unwrap_or(RESERVED.pad));
                batch.weights.push(target.map_or(0.0, |_| 1.0));
                match id {
                    None => batch.counts.padding += 1,
                    Some(id) if id == RESERVED.pause => batch.counts.pauses += 1,
                    Some(_) => batch.counts.real += 1,
                }
                batch.counts.scored += u64::from(target.is_some());
            }
        }
        batch
    }

    fn check(rows: &[&str], expect: Expect) {
        let rows: Vec<Sequence> = rows.iter().map(|text| row(text)).collect();
        let batch = collate(&rows, RESERVED);
        let draw = |ids: &[TokenId]| -> String {
            let words: Vec<String> = ids.iter().map(|id| word(*id)).collect();
            words.join(" ")
        };
        let mut drawn = format!("{:?}\n", batch.counts);
        for (ids, (targets, weights)) in batch.ids.chunks(batch.length).zip(
            batch
                .targets
                .chunks(batch.length)
                .zip(batch.weights.chunks(batch.length)),
        ) {
            drawn += &format!("{}\n{}\n{weights:?}\n", draw(ids), draw(targets));
        }
        expect.assert_eq(&drawn);
    }

    #[test]
    fn rows_are_padded_to_the_longest_and_a_multiple_of_eight() {
        check(
            &["the ⏸ cat | sat ⏸", "is it > ⏸ ⏸ yes |", "a"],
            expect![[r#"
                Counts { real: 9, pauses: 4, padding: 11, scored: 5 }
                the ⏸ cat | sat ⏸ _ _
                _ cat | sat _ _ _ _
                [0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
                is it ⏸ ⏸ yes | _ _
                _ _ _ yes | _ _ _
                [0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
                a _ _ _ _ _ _ _
                _ _ _ _ _ _ _ _
                [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
            "#]],
        );
    }

    #[test]
    fn nothing_makes_an_empty_batch() {
        assert_eq!(collate(&[], RESERVED), Batch::default());
        let empty = collate(&[Sequence::default()], RESERVED);
        assert_eq!((empty.rows, empty.length), (1, 0));
    }

    proptest! {
        #[test]
        fn it_equals_its_naive_twin(
            rows in prop::collection::vec(
                (prop::collection::vec((1u32..6).prop_map(TokenId), 0..30), prop::option::of(0u32..30))
                    .prop_map(|(ids, prefix)| Sequence { ids, prefix, ..Sequence::default() }),
                0..6,
            ),
        ) {
            let batch = collate(&rows, RESERVED);
            let counts = batch.counts;
            prop_assert_eq!(&batch, &naive(&rows));
            prop_assert_eq!(
                counts.real + counts.pauses + counts.padding,
                (batch.rows * batch.length) as u64
            );
            prop_assert!(batch.targets.iter().all(|id| *id != RESERVED.pause));
        }
    }
}
