//! Where random pauses stand: the four sampling laws.
//!
//! A law draws the slots of a row that are pauses, as bits; the text is spread over the
//! others by [`crate::row::wide`]. The bits keep their memory from row to row.
#![expect(
    clippy::indexing_slicing,
    reason = "every index is drawn below, or counted up to, the row's length"
)]

use super::Law;
use crate::rng::Rng;

/// The most pauses that `law` can place among `n_text` ids.
pub(super) fn room(law: Law, n_text: usize) -> usize {
    match law {
        Law::UniformInterleaving | Law::IidGaps | Law::Runs { .. } => usize::MAX,
        Law::DistinctGaps => n_text.saturating_add(1),
    }
}

/// The slots of a row that are pauses.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    /// One bit a slot, the lowest of a word first.
    slots: Vec<u64>,
    /// One bit a gap that was chosen.
    gaps: Vec<u64>,
    /// How many pauses each gap gets.
    counts: Vec<u32>,
}

impl Slots {
    /// Draws the slots of `n_pauses` pauses among `n_text` ids, of which there is [`room`].
    pub fn draw(&mut self, law: Law, (n_text, n_pauses): (usize, usize), rng: &mut Rng) {
        debug_assert!(n_pauses <= room(law, n_text), "the law has room");
        let n_gaps = n_text + 1;
        clear(&mut self.slots, n_text + n_pauses);
        match law {
            Law::UniformInterleaving => choose(n_pauses, n_text + n_pauses, rng, &mut self.slots),
            Law::DistinctGaps => {
                clear(&mut self.gaps, n_gaps);
                choose(n_pauses, n_gaps, rng, &mut self.gaps);
                for (before, gap) in ones(&self.gaps).enumerate() {
                    set(&mut self.slots, gap + before);
                }
            }
            Law::IidGaps => {
                self.counts.clear();
                self.counts.resize(n_gaps, 0);
                for _ in 0..n_pauses {
                    self.counts[below(rng, n_gaps)] += 1;
                }
                self.set_counted();
            }
            Law::Runs { mean } => {
                self.counts.clear();
                self.counts.resize(n_gaps, 0);
                count_runs(n_pauses, mean, rng, &mut self.counts);
                self.set_counted();
            }
        }
    }

    /// Sets the slots of as many pauses in each gap as were counted.
    fn set_counted(&mut self) {
        let mut before = 0;
        for (gap, count) in self.counts.iter().enumerate() {
            for _ in 0..*count {
                set(&mut self.slots, gap + before);
                before += 1;
            }
        }
    }

    /// The slots that were drawn: a bit a slot, the lowest of a word first.
    pub fn bits(&self) -> &[u64] {
        &self.slots
    }
}

/// Gives each run of pauses a gap of its own, every free gap being equally likely.
///
/// Lengths are geometric: a run goes on with probability `1 - 1 / mean`. The last
/// run is cut where all `n` pauses are given, and a run that takes the last free
/// gap takes all that are left.
fn count_runs(n: usize, mean: f64, rng: &mut Rng, gaps: &mut [u32]) {
    let mut left = n;
    let mut free = gaps.len();
    while 0 < left {
        let mut length = 1;
        if free <= 1 {
            length = left;
        }
        while length < left && 1.0 <= rng.unit() * mean {
            length += 1;
        }
        let mut gap = below(rng, gaps.len());
        while gaps[gap] != 0 {
            gap = below(rng, gaps.len());
        }
        // A row is shorter than 2^32 ids.
        gaps[gap] = u32::try_from(length).unwrap_or(u32::MAX);
        left -= length;
        free -= 1;
    }
}

/// Sets `n` of the first `places` bits, every choice being equally likely (Floyd's
/// algorithm, in Bentley and Floyd, "A sample of brilliance", 1987).
fn choose(n: usize, places: usize, rng: &mut Rng, bits: &mut [u64]) {
    for last in places - n..places {
        let drawn = below(rng, last + 1);
        let is_set = bits[drawn / 64] >> (drawn % 64) & 1 == 1;
        set(bits, if is_set { last } else { drawn });
    }
}

fn clear(bits: &mut Vec<u64>, n: usize) {
    bits.clear();
    bits.resize(n.div_ceil(64), 0);
}

fn set(bits: &mut [u64], place: usize) {
    bits[place / 64] |= 1 << (place % 64);
}

/// The bits that are set, rising.
fn ones(bits: &[u64]) -> impl Iterator<Item = usize> {
    bits.iter().enumerate().flat_map(|(word, bits)| {
        let mut left = *bits;
        std::iter::from_fn(move || {
            let bit = left.trailing_zeros();
            (left != 0).then(|| {
                left &= left - 1;
                64 * word + bit as usize
            })
        })
    })
}

fn below(rng: &mut Rng, bound: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the number is below a usize"
    )]
    let drawn = rng.below(bound as u64) as usize;
    drawn
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::pause::{runs, strip};
    use crate::rng::{Key, Stream};
    use crate::row::wide;
    use crate::sequence::Sequence;
    use crate::token::TokenId;

    const LAWS: [Law; 4] = [
        Law::UniformInterleaving,
        Law::DistinctGaps,
        Law::IidGaps,
        Law::Runs { mean: 2.0 },
    ];
    const PAUSE: TokenId = TokenId(9);

    fn text(n: usize) -> Vec<TokenId> {
        (0..n).map(|i| TokenId(100 + i as u32)).collect()
    }

    fn placed(law: Law, text: &[TokenId], n_pauses: usize, item: u64) -> Vec<TokenId> {
        let mut rng = Key::new(7).stream(Stream::Pause).item(item).rng();
        let (mut slots, mut row) = (Slots::default(), vec![TokenId(77); text.len() + n_pauses]);
        slots.draw(law, (text.len(), n_pauses), &mut rng);
        wide::spread_each(text, slots.bits(), PAUSE, &mut row);
        row
    }

    /// The naive twin: all rows that the law gives, each as likely as its
    /// elementary outcomes are together, by counting through them.
    fn outcomes(law: Law, text: &[TokenId], n_pauses: usize) -> BTreeMap<Vec<TokenId>, f64> {
        let mut likely = BTreeMap::new();
        if let Law::Runs { mean } = law {
            let gaps = vec![0; text.len() + 1];
            runs_outcomes(gaps, (n_pauses, 1.0), mean, &mut |gaps, p| {
                *likely.entry(with_gaps(text, |gap| gaps[gap])).or_default() += p;
            });
            return likely;
        }
        let equal = equal_outcomes(law, text, n_pauses);
        for row in &equal {
            *likely.entry(row.clone()).or_default() += 1.0 / equal.len() as f64;
        }
        likely
    }

    /// All runs in all gaps that are free, one after the other.
    fn runs_outcomes(
        gaps: Vec<usize>,
        (left, p): (usize, f64),
        mean: f64,
        found: &mut impl FnMut(&[usize], f64),
    ) {
        if left == 0 {
            return found(&gaps, p);
        }
        let free: Vec<usize> = (0..gaps.len()).filter(|gap| gaps[*gap] == 0).collect();
        let goes_on = 1.0 - 1.0 / mean;
        for length in 1..=left {
            let share = match (free.len(), length == left) {
                (1, whole) => f64::from(u8::from(whole)),
                (_, true) => goes_on.powi(length as i32 - 1),
                (_, false) => goes_on.powi(length as i32 - 1) * (1.0 - goes_on),
            };
            for gap in free.iter().filter(|_| 0.0 < share) {
                let mut gaps = gaps.clone();
                gaps[*gap] = length;
                let p = p * share / free.len() as f64;
                runs_outcomes(gaps, (left - length, p), mean, found);
            }
        }
    }

    fn equal_outcomes(law: Law, text: &[TokenId], n_pauses: usize) -> Vec<Vec<TokenId>> {
        let n_gaps = text.len() + 1;
        match law {
            Law::Runs { .. } => Vec::new(),
            Law::UniformInterleaving => subsets(text.len() + n_pauses, n_pauses)
                .map(|slots| {
                    let mut words = text.iter();
                    let id = |slot| match slots >> slot & 1 {
                        1 => PAUSE,
                        _ => *words.next().unwrap(),
                    };
                    (0..text.len() + n_pauses).map(id).collect()
                })
                .collect(),
            Law::DistinctGaps => subsets(n_gaps, n_pauses)
                .map(|gaps| with_gaps(text, |gap| (gaps >> gap & 1) as usize))
                .collect(),
            Law::IidGaps => (0..n_gaps.pow(n_pauses as u32))
                .map(|number| {
                    let digit = |place| number / n_gaps.pow(place) % n_gaps;
                    let chosen: Vec<usize> = (0..n_pauses as u32).map(digit).collect();
                    with_gaps(text, |gap| chosen.iter().filter(|g| **g == gap).count())
                })
                .collect(),
        }
    }

    fn subsets(n: usize, size: usize) -> impl Iterator<Item = u32> {
        (0u32..1 << n).filter(move |set| set.count_ones() as usize == size)
    }

    fn with_gaps(text: &[TokenId], pauses_in: impl Fn(usize) -> usize) -> Vec<TokenId> {
        let mut row = Vec::new();
        for gap in 0..=text.len() {
            row.extend(vec![PAUSE; pauses_in(gap)]);
            row.extend(text.get(gap));
        }
        row
    }

    /// How far the placement of `drawn` is from the law `expected`, in standard
    /// deviations of the chi-square statistic; infinite for an impossible row.
    fn distance(drawn: Law, expected: Law, n_text: usize, n_pauses: usize) -> f64 {
        let text = text(n_text);
        let likely = outcomes(expected, &text, n_pauses);
        let n_draws = 4000 * likely.len() as u64;
        let mut seen: BTreeMap<Vec<TokenId>, f64> = BTreeMap::new();
        for item in 0..n_draws {
            *seen
                .entry(placed(drawn, &text, n_pauses, item))
                .or_default() += 1.0;
        }
        if seen.keys().any(|row| !likely.contains_key(row)) {
            return f64::INFINITY;
        }
        let chi_square: f64 = likely
            .iter()
            .map(|(row, p)| {
                let mean = p * n_draws as f64;
                (seen.get(row).copied().unwrap_or(0.0) - mean).powi(2) / mean
            })
            .sum();
        let freedom = (likely.len() - 1) as f64;
        (chi_square - freedom) / (2.0 * freedom.max(1.0)).sqrt()
    }

    const CASES: [(usize, usize); 6] = [(1, 1), (3, 1), (3, 2), (4, 3), (2, 3), (5, 2)];

    #[test]
    fn each_law_is_the_one_that_its_oracle_counts_through() {
        for law in LAWS {
            for (n_text, n_pauses) in CASES {
                let distance = distance(law, law, n_text, n_pauses);
                assert!(
                    distance.abs() < 4.0,
                    "{law:?} {n_text} {n_pauses}: {distance}"
                );
            }
        }
    }

    #[test]
    fn the_test_of_a_law_refuses_the_other_laws() {
        for drawn in LAWS {
            for expected in LAWS.into_iter().filter(|law| *law != drawn) {
                let distance = distance(drawn, expected, 4, 3);
                assert!(20.0 < distance, "{drawn:?} as {expected:?}: {distance}");
            }
        }
    }

    #[test]
    fn runs_are_as_many_as_each_law_expects() {
        let (n_text, n_pauses, n_rows) = (1843, 205, 400);
        let (n, m) = (n_text as f64, n_pauses as f64);
        for (law, expected) in [
            (Law::UniformInterleaving, m * (n + 1.0) / (n + m)),
            (Law::DistinctGaps, m),
            (
                Law::IidGaps,
                (n + 1.0) * (1.0 - (1.0 - 1.0 / (n + 1.0)).powf(m)),
            ),
        ] {
            let n_runs: usize = (0..n_rows)
                .map(|item| {
                    runs(
                        &Sequence::plain(placed(law, &text(n_text), n_pauses, item)),
                        PAUSE,
                    )
                    .count()
                })
                .sum();
            let mean = n_runs as f64 / n_rows as f64;
            assert!(
                (mean - expected).abs() < 0.75,
                "{law:?}: {mean} for {expected}"
            );
        }
    }

    #[test]
    fn every_slot_of_a_long_row_is_equally_likely() {
        let (n_text, n_pauses, n_rows) = (180, 20, 20_000u64);
        let mut hits = vec![0.0; n_text + n_pauses];
        let text = text(n_text);
        for item in 0..n_rows {
            let row = placed(Law::UniformInterleaving, &text, n_pauses, item);
            for (hit, id) in hits.iter_mut().zip(row) {
                *hit += f64::from(u8::from(id == PAUSE));
            }
        }
        let p = n_pauses as f64 / hits.len() as f64;
        let sigma = (n_rows as f64 * p * (1.0 - p)).sqrt();
        for (slot, hit) in hits.iter().enumerate() {
            let distance = (hit - n_rows as f64 * p) / sigma;
            assert!(distance.abs() < 4.5, "slot {slot}: {distance}");
        }
    }

    /// The slow twin, which decides what a seed means: choices are marked in the row itself,
    /// a number a place, and text and pauses overwrite the marks.
    fn marked(law: Law, text: &[TokenId], n_pauses: usize, item: u64) -> Vec<TokenId> {
        let mut rng = Key::new(7).stream(Stream::Pause).item(item).rng();
        let n_gaps = text.len() + 1;
        let mut gaps = vec![0; text.len() + n_pauses + 1];
        let floyd = |places: usize, marks: &mut [usize], rng: &mut super::Rng| {
            for last in places - n_pauses..places {
                let drawn = rng.below(last as u64 + 1) as usize;
                marks[if marks[drawn] == 0 { drawn } else { last }] = 1;
            }
        };
        match law {
            Law::UniformInterleaving => {
                let mut slots = vec![0; text.len() + n_pauses];
                floyd(slots.len(), &mut slots, &mut rng);
                let mut words = text.iter();
                let id = |slot: &usize| {
                    if *slot == 1 {
                        PAUSE
                    } else {
                        *words.next().unwrap()
                    }
                };
                return slots.iter().map(id).collect();
            }
            Law::DistinctGaps => floyd(n_gaps, &mut gaps, &mut rng),
            Law::IidGaps => {
                for _ in 0..n_pauses {
                    gaps[rng.below(n_gaps as u64) as usize] += 1;
                }
            }
            Law::Runs { mean } => {
                let (mut left, mut free) = (n_pauses, n_gaps);
                while 0 < left {
                    let mut length = if free <= 1 { left } else { 1 };
                    while length < left && 1.0 <= rng.unit() * mean {
                        length += 1;
                    }
                    let mut gap = rng.below(n_gaps as u64) as usize;
                    while gaps[gap] != 0 {
                        gap = rng.below(n_gaps as u64) as usize;
                    }
                    gaps[gap] = length;
                    (left, free) = (left - length, free - 1);
                }
            }
        }
        with_gaps(text, |gap| gaps[gap])
    }

    proptest! {
        #[test]
        fn rows_are_those_of_the_slow_twin(
            n_text in 0usize..400, n_pauses in 0usize..200, item in any::<u64>(),
        ) {
            let text = text(n_text);
            for law in LAWS {
                let n_pauses = n_pauses.min(room(law, n_text));
                let (row, twin) =
                    (placed(law, &text, n_pauses, item), marked(law, &text, n_pauses, item));
                prop_assert_eq!(row, twin, "{:?}", law);
            }
        }

        #[test]
        fn text_keeps_its_order_and_every_pause_is_placed(
            n_text in 0usize..300, n_pauses in 0usize..300, item in any::<u64>(),
        ) {
            let text = text(n_text);
            for law in LAWS {
                let n_pauses = n_pauses.min(room(law, n_text));
                let row = placed(law, &text, n_pauses, item);
                prop_assert_eq!(strip(&row, PAUSE), text.clone());
                prop_assert_eq!(row.len(), n_text + n_pauses);
                if law == Law::DistinctGaps {
                    prop_assert!(runs(&Sequence::plain(row), PAUSE).all(|run| run == 1));
                }
            }
        }
    }
}
