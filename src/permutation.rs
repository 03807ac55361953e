//! A keyed permutation of `0..len` that takes no memory.
//!
//! A Feistel network permutes the smallest power of two that holds `len`, and
//! numbers that fall outside walk on along their cycle until one is inside
//! (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). Both steps
//! are bijections, so every number of `0..len` appears exactly once; from 32
//! numbers on, fewer than two evaluations are needed on average.

use crate::rng::{Key, mix};

/// Rounds of the network, an even number; each is one hash. Four would do for many
/// numbers (Luby and Rackoff, 1988); six already leave no trace in the orders of up
/// to six numbers, which is where it shows first.
const ROUNDS: usize = 8;

/// The smallest network in bits. Networks of 3 and 4 bits cannot reach all orders of
/// five numbers equally often, with 32 rounds either; 6 bits do.
const BITS_MIN: u32 = 6;

/// Puts `0..len` into an order that its key decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permutation {
    len: u64,
    low_bits: u32,
    high_mask: u64,
    round_keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` that `key` names; `len` is at least 1.
    pub fn new(len: u64, key: Key) -> Self {
        let len = len.max(1);
        let bits = (u64::BITS - (len - 1).leading_zeros()).max(BITS_MIN);
        let low_bits = bits / 2;
        let mut round_keys = [0; ROUNDS];
        for (round, round_key) in (0..).zip(&mut round_keys) {
            *round_key = key.item(round).rng().bits();
        }
        Self {
            len,
            low_bits,
            high_mask: mask(bits - low_bits),
            round_keys,
        }
    }

    /// What stands at `index`; indices from `len` on start again from 0.
    pub fn at(&self, index: u64) -> u64 {
        let mut number = self.encrypt(index % self.len);
        while self.len <= number {
            number = self.encrypt(number);
        }
        number
    }

    /// The Feistel network: each half in turn is changed by a hash of the other.
    fn encrypt(&self, number: u64) -> u64 {
        let low_mask = mask(self.low_bits);
        let (mut high, mut low) = (number >> self.low_bits, number & low_mask);
        let (pairs, _) = self.round_keys.as_chunks();
        for [first, second] in pairs {
            high ^= mix(low ^ first) & self.high_mask;
            low ^= mix(high ^ second) & low_mask;
        }
        high << self.low_bits | low
    }
}

/// The lowest `bits` bits; a half has 32 at most.
fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the numbers of tests are small"
)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::rng::Stream;

    fn permutation(len: u64, item: u64) -> Permutation {
        Permutation::new(len, Key::new(3).stream(Stream::Order).epoch(item))
    }

    fn order(len: u64, item: u64) -> Vec<u64> {
        let permutation = permutation(len, item);
        (0..len).map(|index| permutation.at(index)).collect()
    }

    /// Undoes [`Permutation::at`] round by round: what has an inverse is a bijection.
    fn position(permutation: &Permutation, number: u64) -> u64 {
        let low_mask = mask(permutation.low_bits);
        let mut number = number;
        loop {
            let (mut high, mut low) = (number >> permutation.low_bits, number & low_mask);
            for (round, key) in permutation.round_keys.iter().enumerate().rev() {
                match round % 2 {
                    0 => high ^= mix(low ^ key) & permutation.high_mask,
                    _ => low ^= mix(high ^ key) & low_mask,
                }
            }
            number = high << permutation.low_bits | low;
            if number < permutation.len {
                return number;
            }
        }
    }

    #[test]
    fn every_number_appears_once_for_all_small_lengths() {
        for len in 1..=300 {
            let mut numbers = order(len, len);
            numbers.sort_unstable();
            assert_eq!(numbers, (0..len).collect::<Vec<_>>(), "len {len}");
        }
    }

    #[test]
    fn a_length_of_none_is_taken_as_one() {
        assert_eq!(permutation(0, 1).at(7), 0);
    }

    /// Every order of up to five numbers is about equally frequent over keys.
    #[test]
    fn all_orders_are_equally_likely() {
        for (len, n_orders) in [(2, 2), (3, 6), (4, 24), (5, 120)] {
            let n_keys = 200 * n_orders;
            let mut seen: HashMap<Vec<u64>, f64> = HashMap::new();
            for item in 0..n_keys {
                *seen.entry(order(len, item)).or_default() += 1.0;
            }
            assert_eq!(seen.len() as u64, n_orders);
            let chi_square: f64 = seen.values().map(|n| (n - 200.0).powi(2) / 200.0).sum();
            let freedom = (n_orders - 1) as f64;
            let distance = (chi_square - freedom) / (2.0 * freedom).sqrt();
            assert!(distance < 4.0, "len {len}: {distance}");
        }
    }

    /// Where a number lands, and what lands beside it, is uniform over keys.
    #[test]
    fn places_and_neighbours_are_uniform() {
        let (len, n_keys) = (48, 4800);
        for measure in [
            |order: &[u64]| order[0],
            |order: &[u64]| order[47],
            |order: &[u64]| (order[1] + 48 - order[0]) % 48,
            |order: &[u64]| (order[24] + 48 - order[0]) % 48,
        ] {
            let mut seen = [0.0; 48];
            for item in 0..n_keys {
                seen[measure(&order(len, item)) as usize] += 1.0;
            }
            // A difference of two places is never 0.
            let cells: Vec<f64> = seen.into_iter().filter(|n| 0.0 < *n).collect();
            assert!(47 <= cells.len());
            let mean = n_keys as f64 / cells.len() as f64;
            let chi_square: f64 = cells.iter().map(|n| (n - mean).powi(2) / mean).sum();
            let freedom = (cells.len() - 1) as f64;
            let distance = (chi_square - freedom) / (2.0 * freedom).sqrt();
            assert!(distance.abs() < 4.0, "{distance}");
        }
    }

    /// Order leaves no trace: rank correlation with the identity is near 0.
    #[test]
    fn a_long_order_is_not_correlated_with_the_identity() {
        let len = 100_003;
        let mean = (len - 1) as f64 / 2.0;
        let products: f64 = (0..)
            .zip(order(len, 5))
            .map(|(index, number)| (f64::from(index) - mean) * (number as f64 - mean))
            .sum();
        let variance = ((len * len - 1) as f64) / 12.0;
        let correlation = products / (len as f64 * variance);
        assert!(
            correlation.abs() * (len as f64).sqrt() < 4.0,
            "{correlation}"
        );
    }

    proptest! {
        #[test]
        fn it_has_an_inverse(
            len in prop_oneof![1u64..100, 1u64..1 << 20, 1..=u64::MAX],
            number in any::<u64>(),
            item in any::<u64>(),
        ) {
            let permutation = permutation(len, item);
            let index = number % len;
            prop_assert!(permutation.at(index) < len);
            prop_assert_eq!(position(&permutation, permutation.at(index)), index);
            prop_assert_eq!(permutation.at(position(&permutation, index)), index);
        }

        #[test]
        fn keys_give_different_orders(item in 0u64..1000, other in 1000u64..2000) {
            prop_assert_ne!(order(64, item), order(64, other));
        }
    }
}
