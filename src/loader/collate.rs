//! Rows to a batch.

use crate::batch::{Batch, BatchIds, Counts, LENGTH_STEP, StoredTargets};
use crate::row::{Ids, RowView, wide};
use crate::token::{IdWidth, Reserved};

/// Takes rows one after the other and makes a batch of them, padded to the longest.
#[derive(Debug)]
pub struct Collator {
    reserved: Reserved,
    /// How many rows there will be, about.
    expected: usize,
    /// Rows behind one another: padded where all have one length, else as long as they are.
    ids: BatchIds,
    /// Bits of rows behind one another, each of whole bytes.
    scored: Vec<u8>,
    /// As long as rows are; there only where those are not padded.
    stored: Option<StoredTargets>,
    padded: bool,
    lengths: Vec<u32>,
    prefixes: Vec<u32>,
    counts: Counts,
    /// Bits of the last row, kept for their memory.
    words: Vec<u64>,
}

impl Collator {
    /// A batch without rows yet.
    pub fn new(reserved: Reserved, width: IdWidth) -> Self {
        Self {
            reserved,
            expected: 0,
            ids: match width {
                IdWidth::U16 => BatchIds::U16(Vec::new()),
                IdWidth::U32 => BatchIds::U32(Vec::new()),
            },
            scored: Vec::new(),
            stored: None,
            padded: true,
            lengths: Vec::new(),
            prefixes: Vec::new(),
            counts: Counts::default(),
            words: Vec::new(),
        }
    }

    /// Takes the memory for so many rows at once, when it knows how long the first is.
    pub fn expect(mut self, rows: usize) -> Self {
        self.expected = rows;
        self
    }

    /// Appends a row, whose ids fit the width of the batch.
    pub fn push(&mut self, row: RowView<'_>) {
        let n = row.len();
        let targets = row.stored.filter(|stored| !stored.targets.is_empty());
        let another = (self.lengths.first()).is_some_and(|first| *first as usize != n);
        if another || targets.is_some() {
            self.close_up();
        }
        if targets.is_some() {
            self.stored.get_or_insert_default();
            self.store_what_follows();
        }
        if self.lengths.is_empty() {
            self.reserve(n);
        }
        append(&mut self.ids, row.ids);
        if self.padded {
            self.fill(n.next_multiple_of(LENGTH_STEP) - n);
        }
        if let (Some(stored), Some(all)) = (targets, &mut self.stored) {
            all.targets.extend(stored.targets.iter().map(|id| id.0));
            all.weights.extend_from_slice(&stored.weights);
        }
        let prefix = row.prefix.unwrap_or(0);
        row.pauses(self.reserved.into(), &mut self.words);
        let n_pauses = wide::ones(&self.words);
        match targets {
            Some(stored) => wide::mask(&stored.weights, &mut self.words, |weight| 0.0 < weight),
            None => scored(&mut self.words, prefix as usize, n),
        }
        self.counts.scored += wide::ones(&self.words);
        self.counts.pauses += n_pauses;
        self.counts.real += n as u64 - n_pauses;
        let start = self.scored.len();
        self.scored.resize(start + 8 * self.words.len(), 0);
        let places = self.scored.get_mut(start..).unwrap_or_default();
        for (place, word) in places.as_chunks_mut().0.iter_mut().zip(&self.words) {
            *place = word.to_le_bytes();
        }
        self.scored.truncate(start + n.div_ceil(8));
        // A row is shorter than 2^31 ids.
        self.lengths.push(u32::try_from(n).unwrap_or(u32::MAX));
        self.prefixes.push(prefix);
    }

    /// Takes memory for the rows to come, if they are as long as the first.
    fn reserve(&mut self, n: usize) {
        let length = n.next_multiple_of(LENGTH_STEP);
        let rows = self.expected;
        match &mut self.ids {
            BatchIds::U16(ids) => ids.reserve(rows * length),
            BatchIds::U32(ids) => ids.reserve(rows * length),
        }
        self.scored.reserve(rows * length / 8);
        self.lengths.reserve(rows);
        self.prefixes.reserve(rows);
    }

    /// Appends padding.
    fn fill(&mut self, n: usize) {
        let pad = self.reserved.pad.0;
        match &mut self.ids {
            #[expect(clippy::cast_possible_truncation, reason = "ids fit the width")]
            BatchIds::U16(ids) => ids.resize(ids.len() + n, pad as u16),
            BatchIds::U32(ids) => ids.resize(ids.len() + n, pad),
        }
    }

    /// Takes the padding from between rows: not all have one length.
    fn close_up(&mut self) {
        let lengths = &self.lengths;
        if std::mem::take(&mut self.padded) {
            match &mut self.ids {
                BatchIds::U16(ids) => unpad(ids, lengths),
                BatchIds::U32(ids) => unpad(ids, lengths),
            }
        }
    }

    /// Where any row has stored targets, stores those that follow from the ids of the last
    /// rows that have none: datasets of several target rules may be mixed.
    fn store_what_follows(&mut self) {
        let n_ids = self.ids.len();
        let Some(all) = (self.stored.as_mut()).filter(|all| all.targets.len() < n_ids) else {
            return;
        };
        let (mut start, mut bits) = (0, 0);
        for n in self.lengths.iter().map(|n| *n as usize) {
            // A row has its targets or comes after all that have.
            for place in 0..if start < all.targets.len() { 0 } else { n } {
                let byte = self.scored.get(bits + place / 8);
                let scored = byte.is_some_and(|byte| byte >> (place % 8) & 1 == 1);
                let target = (self.ids.get(start + place + 1)).filter(|_| scored);
                all.targets.push(target.unwrap_or(self.reserved.pad.0));
                all.weights.push(f32::from(u8::from(scored)));
            }
            start += n;
            bits += n.div_ceil(8);
        }
    }

    /// The batch.
    pub fn finish(mut self) -> Batch {
        self.store_what_follows();
        let longest = self.lengths.iter().max().copied().unwrap_or(0) as usize;
        let length = longest.next_multiple_of(LENGTH_STEP);
        let rows = self.lengths.len();
        let mut counts = self.counts;
        counts.padding = (rows * length) as u64 - counts.real - counts.pauses;
        if !self.padded {
            self.pad(length);
        }
        Batch {
            rows,
            length,
            ids: self.ids,
            scored: self.scored,
            stored: self.stored,
            lengths: self.lengths,
            prefixes: self.prefixes,
            end: Some(self.reserved.end),
            counts,
        }
    }

    /// Makes all rows as long as the longest.
    fn pad(&mut self, length: usize) {
        let (lengths, pad) = (&self.lengths, self.reserved.pad.0);
        match &mut self.ids {
            #[expect(clippy::cast_possible_truncation, reason = "ids fit the width")]
            BatchIds::U16(ids) => padded(ids, lengths, length, pad as u16),
            BatchIds::U32(ids) => padded(ids, lengths, length, pad),
        }
        if let Some(stored) = &mut self.stored {
            padded(&mut stored.targets, lengths, length, pad);
            padded(&mut stored.weights, lengths, length, 0.0);
        }
        let bytes: Vec<u32> = lengths.iter().map(|length| length.div_ceil(8)).collect();
        padded(&mut self.scored, &bytes, length / 8, 0);
    }
}

/// Makes the bits of a row's pauses say what it scores by the paper's rule: a position
/// whose next id is no pause, neither part of a prefix nor past the end.
fn scored(words: &mut [u64], prefix: usize, n: usize) {
    wide::before_unset(words);
    let start = prefix.saturating_sub(1).min(n);
    let (before, within) = words.split_at_mut((start / 64).min(words.len()));
    before.fill(0);
    if let Some(first) = within.first_mut() {
        *first &= u64::MAX << (start % 64);
    }
    // The last id has none behind it.
    let end = n.saturating_sub(1);
    if let Some(last) = words.get_mut(end / 64) {
        *last &= !(u64::MAX << (end % 64));
    }
}

fn append(all: &mut BatchIds, ids: Ids<'_>) {
    match (all, ids) {
        (BatchIds::U16(all), Ids::U16(ids)) => wide::append(ids, all),
        (BatchIds::U32(all), Ids::U32(ids)) => wide::append(ids, all),
        (BatchIds::U32(all), Ids::U16(ids)) => {
            all.extend(ids.iter().map(|id| u32::from(u16::from_le_bytes(*id))));
        }
        (BatchIds::U16(all), Ids::U32(ids)) => {
            let narrow = |id: &[u8; 4]| u16::try_from(u32::from_le_bytes(*id)).unwrap_or(u16::MAX);
            all.extend(ids.iter().map(narrow));
        }
    }
}

/// Moves rows of `lengths` values, behind one another, apart to `length` each.
fn padded<T: Copy>(values: &mut Vec<T>, lengths: &[u32], length: usize, filler: T) {
    let mut end = values.len();
    values.resize(lengths.len() * length, filler);
    // From the last on: a row's new place is behind those of the rows before it.
    for (row, n) in lengths.iter().enumerate().rev() {
        let (start, n) = (row * length, *n as usize);
        let from = end.saturating_sub(n);
        values.copy_within(from..end, start);
        if let Some(rest) = values.get_mut(start + n..start + length) {
            rest.fill(filler);
        }
        end = from;
    }
}

/// Moves padded rows of `lengths` values, all the same, together.
fn unpad<T: Copy>(values: &mut Vec<T>, lengths: &[u32]) {
    let n = lengths.first().map_or(0, |n| *n as usize);
    let length = n.next_multiple_of(LENGTH_STEP);
    for row in 1..lengths.len() {
        values.copy_within(row * length..row * length + n, row * n);
    }
    values.truncate(lengths.len() * n);
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::row;
    use crate::sequence::drawing::{RESERVED, row as drawn, word};
    use crate::sequence::{Sequence, Stored};
    use crate::token::TokenId;

    fn collate(rows: &[Sequence], width: IdWidth) -> Batch {
        let mut collator = Collator::new(RESERVED, width);
        for row in rows {
            collator.push(RowView {
                ids: Ids::from_bytes(&row::bytes(&row.ids, width), width),
                prefix: row.prefix,
                stored: row.stored.as_deref(),
            });
        }
        collator.finish()
    }

    /// The naive twin: each position of the batch on its own, as (id, target, weight).
    fn naive(rows: &[Sequence]) -> (Vec<(TokenId, Option<TokenId>, f32)>, Counts) {
        let mut length = 0;
        while rows.iter().any(|row| length < row.len()) {
            length += 8;
        }
        let mut counts = Counts::default();
        let mut positions = Vec::new();
        for row in rows {
            for k in 0..length {
                let id = row.ids.get(k).copied();
                let next = row.ids.get(k + 1).copied();
                let in_prefix = row.prefix.is_some_and(|prefix| k + 1 < prefix as usize);
                let mut target = next.filter(|id| *id != RESERVED.pause && !in_prefix);
                let mut weight = target.map_or(0.0, |_| 1.0);
                if let Some(stored) = row.stored.as_deref() {
                    weight = stored.weights.get(k).copied().unwrap_or(0.0);
                    target = stored.targets.get(k).copied().filter(|_| 0.0 < weight);
                }
                match id {
                    None => counts.padding += 1,
                    Some(id) if id == RESERVED.pause => counts.pauses += 1,
                    Some(_) => counts.real += 1,
                }
                counts.scored += u64::from(target.is_some());
                positions.push((id.unwrap_or(RESERVED.pad), target, weight));
            }
        }
        (positions, counts)
    }

    /// What a batch says of each position.
    fn positions(batch: &Batch) -> Vec<(TokenId, Option<TokenId>, f32)> {
        let (ids, targets) = (batch.ids.widened(), batch.targets());
        let weights = batch.weights();
        let position = |k: usize| {
            let target = batch.is_scored(k).then_some(TokenId(targets[k]));
            (TokenId(ids[k]), target, weights[k])
        };
        (0..batch.rows * batch.length).map(position).collect()
    }

    fn check(rows: &[&str], expect: Expect) {
        let rows: Vec<Sequence> = rows.iter().map(|text| drawn(text)).collect();
        let batch = collate(&rows, IdWidth::U16);
        let mut text = format!("{:?}\n", batch.counts);
        for row in positions(&batch).chunks(batch.length) {
            let draw = |(id, target, weight): &(TokenId, Option<TokenId>, f32)| {
                let target = target.map_or("·".into(), word);
                assert_eq!(*weight, if target == "·" { 0.0 } else { 1.0 });
                format!("{}→{target}", word(*id))
            };
            text += &format!("{}\n", row.iter().map(draw).collect::<Vec<_>>().join(" "));
        }
        expect.assert_eq(&text);
    }

    #[test]
    fn rows_are_padded_to_the_longest_and_a_multiple_of_eight() {
        check(
            &["the ⏸ cat | sat ⏸", "is it > ⏸ ⏸ yes |", "a"],
            expect![[r#"
                Counts { real: 9, pauses: 4, padding: 11, scored: 5 }
                the→· ⏸→cat cat→| |→sat sat→· ⏸→· _→· _→·
                is→· it→· ⏸→· ⏸→yes yes→| |→· _→· _→·
                a→· _→· _→· _→· _→· _→· _→· _→·
            "#]],
        );
    }

    #[test]
    fn nothing_makes_an_empty_batch() {
        let nothing = Batch {
            end: Some(RESERVED.end),
            ..Batch::default()
        };
        assert_eq!(collate(&[], IdWidth::U16), nothing);
        let empty = collate(&[Sequence::default()], IdWidth::U16);
        assert_eq!((empty.rows, empty.length), (1, 0));
    }

    /// Rows of any lengths, of one, or of one but for the last: shorter and longer than a
    /// word of bits.
    fn rows() -> impl Strategy<Value = Vec<Sequence>> {
        let length = || prop_oneof![0usize..30, 60usize..200];
        let lengths = prop_oneof![
            prop::collection::vec(length(), 0..6),
            (length(), 1usize..6).prop_map(|(n, rows)| vec![n; rows]),
            (length(), 1usize..6, length()).prop_map(|(n, rows, last)| {
                let mut lengths = vec![n; rows];
                lengths.push(last);
                lengths
            }),
        ];
        let row = |n: usize| {
            let ids = prop::collection::vec((1u32..6).prop_map(TokenId), n);
            let row = (ids, prop::option::of(0u32..200));
            row.prop_map(|(ids, prefix)| Sequence {
                ids,
                prefix,
                ..Sequence::default()
            })
        };
        lengths.prop_flat_map(move |lengths| lengths.into_iter().map(row).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn it_equals_its_naive_twin(
            mut rows in rows(), wide in any::<bool>(), stored in 0u64..3, seed in any::<u64>(),
        ) {
            let mut rng = crate::rng::Key::new(seed).rng();
            // All, about half, or none of them.
            for row in rows.iter_mut() {
                if 2 <= stored + rng.below(2) {
                    continue;
                }
                let weights: Vec<f32> = row.ids.iter().map(|_| rng.below(3) as f32).collect();
                let targets = row.ids.iter().zip(&weights);
                let pad = |(id, weight): (&TokenId, &f32)| match 0.0 < *weight {
                    true => *id,
                    false => RESERVED.pad,
                };
                row.stored = Some(Box::new(Stored {
                    inserted: Vec::new(),
                    targets: targets.map(pad).collect(),
                    weights,
                }));
            }
            let width = if wide { IdWidth::U32 } else { IdWidth::U16 };
            let batch = collate(&rows, width);
            let (expected, counts) = naive(&rows);
            prop_assert_eq!(positions(&batch), expected);
            prop_assert_eq!(batch.counts, counts);
            let lengths: Vec<u32> = rows.iter().map(|row| row.len() as u32).collect();
            prop_assert_eq!(&batch.lengths, &lengths);
            let prefixes: Vec<u32> = rows.iter().map(|row| row.prefix.unwrap_or(0)).collect();
            prop_assert_eq!(&batch.prefixes, &prefixes);
            prop_assert_eq!(
                counts.real + counts.pauses + counts.padding,
                (batch.rows * batch.length) as u64
            );
        }
    }
}
