//! Which dataset each row of a run comes from.
//!
//! The positions 0, 1, 2, ... of a run are dealt out by weight: the datasets are
//! halved, of the first `n` positions the left half gets `n` times its share of the
//! weights, rounded to the nearest whole number, the right half gets the rest, and
//! each half deals out its own in the same way. So the counts are right at every
//! position, not only at the end, and nothing has to be remembered: where a position
//! belongs is a few multiplications.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// The weights of the datasets from a global batch on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The first global batch of the phase.
    pub from: u64,
    /// One for each dataset, in any unit; 0 for a dataset that has to wait.
    pub weights: Vec<f64>,
}

/// Weights that cannot be followed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The first batch has no weights, or phases do not follow each other.
    #[error("phase {phase} of the mixture starts at batch {found}, expected {expected}")]
    Start {
        /// The phase, from 1.
        phase: usize,
        /// Where it may start.
        expected: String,
        /// Where it starts.
        found: u64,
    },
    /// A weight is missing, or one is too many.
    #[error("phase {phase} of the mixture has {found} weights, expected {expected}: one a dataset")]
    Count {
        /// The phase, from 1.
        phase: usize,
        /// How many datasets there are.
        expected: usize,
        /// How many weights.
        found: usize,
    },
    /// A weight is no weight.
    #[error(
        "weight {place} of phase {phase} of the mixture is {found}, expected 0 or more, \
         at least one above 0, and none that vanishes beside the others"
    )]
    Weight {
        /// The phase, from 1.
        phase: usize,
        /// The weight, from 1.
        place: usize,
        /// Its value.
        found: f64,
    },
}

/// Deals out the positions of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    n_members: usize,
    phases: Vec<Dealer>,
}

/// Deals out the positions of one phase.
#[derive(Clone, Debug, PartialEq)]
struct Dealer {
    /// The first position of the phase.
    start: u64,
    /// How many positions each member had before.
    before: Vec<u64>,
    /// `shares[m]`: what the left half gets of a range of members that is cut at `m`, in
    /// units of 1 / [`WHOLE`]. Each `m` but 0 cuts exactly one range.
    shares: Vec<u64>,
}

/// Shares are whole numbers of 1 / 2^53, as fine as the fraction of a float.
const WHOLE_BITS: u32 = 53;
const WHOLE: u64 = 1 << WHOLE_BITS;

impl Mixture {
    /// A mixture of `n_members` datasets whose weights change at global batches of
    /// `rows_per_batch` positions. One dataset needs no phase.
    pub fn new(n_members: usize, phases: &[Phase], rows_per_batch: u64) -> Result<Self, Error> {
        check(n_members, phases)?;
        let mut mixture = Self {
            n_members,
            phases: Vec::new(),
        };
        for (phase, number) in phases.iter().zip(1..) {
            // No run comes near 2^64 rows.
            let start = phase.from.saturating_mul(rows_per_batch);
            let dealer = Dealer {
                start,
                before: mixture.counts(start),
                shares: shares(&phase.weights, number)?,
            };
            mixture.phases.push(dealer);
        }
        Ok(mixture)
    }

    /// Whose row stands at a position, and the how manieth of that dataset it is, from 0.
    pub fn at(&self, position: u64) -> (usize, u64) {
        let Some(dealer) = self.dealer(position) else {
            return (0, position);
        };
        let (member, n) = dealer.at(position - dealer.start);
        (member, dealer.before_of(member) + n)
    }

    /// How many of the first `n` positions each dataset has.
    pub fn counts(&self, n: u64) -> Vec<u64> {
        let Some(dealer) = self.dealer(n) else {
            return vec![n; self.n_members];
        };
        let members = 0..self.n_members;
        let count = |member| dealer.before_of(member) + dealer.count(member, n - dealer.start);
        members.map(count).collect()
    }

    /// The phase that a position belongs to; none where one dataset has them all.
    fn dealer(&self, position: u64) -> Option<&Dealer> {
        let after = self
            .phases
            .partition_point(|dealer| dealer.start <= position);
        self.phases.get(after.checked_sub(1)?)
    }
}

impl Dealer {
    /// Whose the `n`-th position of the phase is, and the how manieth of its own.
    fn at(&self, mut n: u64) -> (usize, u64) {
        let mut members = 0..self.shares.len();
        while let Some((middle, share)) = self.cut(&members) {
            let left = rounded(n, share);
            if left < rounded(n.saturating_add(1), share) {
                n = left;
                members.end = middle;
            } else {
                n -= left;
                members.start = middle;
            }
        }
        (members.start, n)
    }

    /// How many of the first `n` positions of the phase a member has.
    fn count(&self, member: usize, mut n: u64) -> u64 {
        let mut members = 0..self.shares.len();
        while let Some((middle, share)) = self.cut(&members) {
            let left = rounded(n, share);
            if member < middle {
                n = left;
                members.end = middle;
            } else {
                n -= left;
                members.start = middle;
            }
        }
        n
    }

    /// Where a range of members is cut, and the share of the left half.
    fn cut(&self, members: &Range<usize>) -> Option<(usize, u64)> {
        let middle = middle(members)?;
        Some((middle, *self.shares.get(middle)?))
    }

    fn before_of(&self, member: usize) -> u64 {
        self.before.get(member).copied().unwrap_or(0)
    }
}

/// Where a range of members is cut; nowhere if it is one member.
fn middle(members: &Range<usize>) -> Option<usize> {
    (1 < members.len()).then(|| members.start.midpoint(members.end))
}

/// `n` times a share, to the nearest whole number.
fn rounded(n: u64, share: u64) -> u64 {
    let product = u128::from(n) * u128::from(share) + u128::from(WHOLE / 2);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a share is 1 at most, so the product is n at most"
    )]
    let rounded = (product >> WHOLE_BITS) as u64;
    rounded
}

/// The share of the left half wherever the members are cut.
fn shares(weights: &[f64], phase: usize) -> Result<Vec<u64>, Error> {
    let mut shares = vec![0; weights.len()];
    let mut ranges = Vec::new();
    ranges.push(0..weights.len());
    let half = |range: Range<usize>| weights.get(range).unwrap_or_default();
    while let Some(range) = ranges.pop() {
        let Some(middle) = middle(&range) else {
            continue;
        };
        let (left, right) = (half(range.start..middle), half(middle..range.end));
        let (left, right): (f64, f64) = (left.iter().sum(), right.iter().sum());
        let share = (left / (left + right) * WHOLE as f64).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 2^53; not a number, where no half has a weight, becomes 0"
        )]
        let share = share as u64;
        // A half that has a weight gets something.
        let (least, most) = (u64::from(0.0 < left), WHOLE - u64::from(0.0 < right));
        if 0.0 < left + right && !(least..=most).contains(&share) {
            let start = if left < right { range.start } else { middle };
            let light = (weights.iter().enumerate().skip(start)).find(|(_, weight)| 0.0 < **weight);
            let (place, found) = light.map_or((0, 0.0), |(place, weight)| (place + 1, *weight));
            return Err(Error::Weight {
                phase,
                place,
                found,
            });
        }
        if let Some(at) = shares.get_mut(middle) {
            *at = share;
        }
        ranges.extend([range.start..middle, middle..range.end]);
    }
    Ok(shares)
}

/// Checks that phases follow each other from batch 0 on, with a weight for each dataset.
fn check(n_members: usize, phases: &[Phase]) -> Result<(), Error> {
    if phases.is_empty() && 1 < n_members {
        return Err(Error::Count {
            phase: 1,
            expected: n_members,
            found: 0,
        });
    }
    let mut last = None;
    for (Phase { from, weights }, phase) in phases.iter().zip(1..) {
        let expected = match last {
            None if *from != 0 => Some("0".to_string()),
            Some(last) if *from <= last => Some(format!("{} or later", last + 1)),
            _ => None,
        };
        if let Some(expected) = expected {
            return Err(Error::Start {
                phase,
                expected,
                found: *from,
            });
        }
        last = Some(*from);
        if weights.len() != n_members {
            return Err(Error::Count {
                phase,
                expected: n_members,
                found: weights.len(),
            });
        }
        let weight = |place: usize, found: f64| Error::Weight {
            phase,
            place: place + 1,
            found,
        };
        let wrong = |weight: &f64| !(weight.is_finite() && 0.0 <= *weight);
        if let Some(place) = weights.iter().position(wrong) {
            return Err(weight(place, weights.get(place).copied().unwrap_or(0.0)));
        }
        let sum: f64 = weights.iter().sum();
        if !(sum.is_finite() && 0.0 < sum) {
            return Err(weight(0, weights.first().copied().unwrap_or(0.0)));
        }
    }
    Ok(())
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phase(from: u64, weights: &[f64]) -> Phase {
        Phase {
            from,
            weights: weights.to_vec(),
        }
    }

    fn dealt(phases: &[Phase], rows_per_batch: u64, n: u64) -> Vec<(usize, u64)> {
        let n_members = phases[0].weights.len();
        let mixture = Mixture::new(n_members, phases, rows_per_batch).unwrap();
        (0..n).map(|position| mixture.at(position)).collect()
    }

    fn members(weights: &[f64], n: u64) -> String {
        let dealt = dealt(&[phase(0, weights)], 1, n);
        let letter = |(member, _)| char::from(b'a' + member as u8);
        dealt.into_iter().map(letter).collect()
    }

    #[test]
    fn rows_are_dealt_out_evenly() {
        assert_eq!(members(&[1.0], 4), "aaaa");
        assert_eq!(members(&[1.0, 1.0], 8), "abababab");
        assert_eq!(members(&[3.0, 1.0], 8), "aabaaaba");
        assert_eq!(members(&[1.0, 2.0], 9), "babbabbab");
        assert_eq!(members(&[1.0, 1.0, 1.0, 1.0], 8), "acbdacbd");
        assert_eq!(members(&[0.0, 1.0, 0.0], 4), "bbbb");
        assert_eq!(members(&[0.5, 0.0, 0.25, 0.0], 6), "acaaca");
    }

    #[test]
    fn one_dataset_needs_no_phase() {
        let mixture = Mixture::new(1, &[], 8).unwrap();
        assert_eq!(mixture.at(u64::MAX), (0, u64::MAX));
        assert_eq!(mixture.counts(7), [7]);
    }

    #[test]
    fn phases_change_weights_and_go_on_counting() {
        let phases = [
            phase(0, &[1.0, 0.0]),
            phase(2, &[1.0, 1.0]),
            phase(4, &[0.0, 1.0]),
        ];
        let (a, b) = (|n| (0, n), |n| (1, n));
        let expected = [a(0), a(1), a(2), a(3), a(4), b(0), a(5), b(1), b(2), b(3)];
        assert_eq!(dealt(&phases, 2, 10), expected);
    }

    #[test]
    fn a_position_may_be_very_far() {
        let weights = [phase(0, &[2.0, 1.0, 1.0])];
        let mixture = Mixture::new(3, &weights, 1).unwrap();
        let n = u64::MAX - 1;
        assert_eq!(mixture.counts(n).iter().sum::<u64>(), n);
        let (member, index) = mixture.at(n - 1);
        assert_eq!(mixture.counts(n)[member], index + 1);
    }

    #[test]
    fn weights_that_cannot_be_followed_are_refused() {
        let told = |n_members, phases: &[Phase]| {
            let mixture = Mixture::new(n_members, phases, 8);
            mixture.unwrap_err().to_string()
        };
        let is_weight = |text: &str| text.contains("expected 0 or more, at least one above 0");
        assert_eq!(
            told(2, &[phase(0, &[1.0])]),
            "phase 1 of the mixture has 1 weights, expected 2: one a dataset"
        );
        assert_eq!(
            told(2, &[]),
            "phase 1 of the mixture has 0 weights, expected 2: one a dataset"
        );
        assert_eq!(
            told(1, &[phase(1, &[1.0])]),
            "phase 1 of the mixture starts at batch 1, expected 0"
        );
        assert_eq!(
            told(1, &[phase(0, &[1.0]), phase(0, &[1.0])]),
            "phase 2 of the mixture starts at batch 0, expected 1 or later"
        );
        for weights in [
            [1.0, -1.0],
            [0.0, 0.0],
            [f64::NAN, 1.0],
            [f64::INFINITY, 1.0],
            [f64::MAX, f64::MAX],
            [1.0, 1e-300],
            [1e-300, 1.0],
        ] {
            let text = told(2, &[phase(0, &weights)]);
            assert!(is_weight(&text), "{weights:?}: {text}");
        }
    }

    fn weights() -> impl Strategy<Value = Vec<f64>> {
        let weight = prop_oneof![
            3 => (0u32..9).prop_map(f64::from),
            1 => 0.001..1000.0f64,
        ];
        prop::collection::vec(weight, 1..9)
            .prop_filter("some weight", |weights| weights.iter().any(|w| 0.0 < *w))
    }

    proptest! {
        /// After any number of positions each dataset has its share of them, but for half
        /// a row a halving; and each position is the next of its dataset.
        #[test]
        fn counts_are_right_at_every_position(weights in weights(), n in 1u64..400) {
            let mixture = Mixture::new(weights.len(), &[phase(0, &weights)], 1).unwrap();
            let sum: f64 = weights.iter().sum();
            let slack = f64::from(weights.len().next_power_of_two().ilog2()) / 2.0 + 1e-9;
            let mut seen = vec![0; weights.len()];
            for position in 0..n {
                prop_assert_eq!(&mixture.counts(position), &seen);
                let (member, index) = mixture.at(position);
                prop_assert_eq!(index, seen[member]);
                prop_assert!(0.0 < weights[member]);
                seen[member] += 1;
                for (count, weight) in seen.iter().zip(&weights) {
                    let exact = (position + 1) as f64 * weight / sum;
                    prop_assert!((*count as f64 - exact).abs() <= slack, "{} {}", count, exact);
                }
            }
        }

        /// The obvious twin of a curriculum: each phase a mixture of its own, one after the
        /// other, and a tally that goes on.
        #[test]
        fn a_curriculum_equals_its_twin(
            rows_per_batch in 1u64..7,
            (n_members, steps) in (1usize..5).prop_flat_map(|n| (
                Just(n),
                prop::collection::vec(
                    (1u64..5, prop::collection::vec(1u32..9, n)), 1..5,
                ),
            )),
        ) {
            let (mut from, mut phases, mut twin) = (0, Vec::new(), Vec::new());
            let mut tally = vec![0; n_members];
            for (batches, weights) in steps {
                let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
                let alone = Mixture::new(n_members, &[phase(0, &weights)], 1).unwrap();
                for position in 0..batches * rows_per_batch {
                    let member = alone.at(position).0;
                    twin.push((member, tally[member]));
                    tally[member] += 1;
                }
                phases.push(phase(from, &weights));
                from += batches;
            }
            let mixture = Mixture::new(n_members, &phases, rows_per_batch).unwrap();
            prop_assert_eq!(mixture.counts(twin.len() as u64), tally);
            prop_assert_eq!(dealt(&phases, rows_per_batch, twin.len() as u64), twin);
        }
    }
}
