//! Mixtures: how often each document of a source is taken.

use super::Source;

/// The largest weight: more epochs of one source are a mistake in the recipe.
pub const WEIGHT_MAX: f64 = 1000.0;
/// Digits after the point that a weight may have.
pub const WEIGHT_DIGITS: usize = 9;

/// How often the documents of a source are taken: 0.5 takes every other one, 2.5
/// takes all twice and every other one a third time.
///
/// The number is the one that was typed, in decimal: 0.29 takes 29 of each 100
/// documents, although no `f64` is 0.29.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight {
    /// The number times `10^WEIGHT_DIGITS`.
    billionths: u64,
}

/// The scale of [`Weight`].
#[expect(clippy::cast_possible_truncation, reason = "nine digits")]
const ONE: u64 = 10u64.pow(WEIGHT_DIGITS as u32);

impl Weight {
    /// Every document once.
    pub const ONE: Self = Self { billionths: ONE };

    /// The weight that a recipe says; `None` where it is not above 0, larger than
    /// [`WEIGHT_MAX`], or has more than [`WEIGHT_DIGITS`] digits after the point.
    pub fn new(weight: f64) -> Option<Self> {
        if !(weight <= WEIGHT_MAX && 0.0 < weight) {
            return None;
        }
        // The shortest decimal that is read back as this number: what was typed.
        let text = weight.to_string();
        let (whole, digits) = text.split_once('.').unwrap_or((&text, ""));
        if WEIGHT_DIGITS < digits.len() {
            return None;
        }
        let number = format!("{whole}{digits:0<WEIGHT_DIGITS$}");
        let billionths = number.parse().ok()?;
        Some(Self { billionths })
    }

    /// Copies of the document with this index, from 0: `floor((i + 1) w) - floor(i w)`.
    ///
    /// So the first n documents are taken `floor(n w)` times in all.
    pub fn copies(self, index: u64) -> u64 {
        let before = u128::from(index) * u128::from(self.billionths);
        let after = before + u128::from(self.billionths);
        let one = u128::from(ONE);
        u64::try_from(after / one - before / one).unwrap_or(u64::MAX)
    }
}

/// The documents of each source, counted on while they are taken by its weight.
///
/// Begins anew in each unit, so that units do not wait for one another; in a unit
/// n documents of a source are taken `floor(n w)` times.
#[derive(Clone, Debug)]
pub struct Mixture {
    sources: Vec<(Weight, u64)>,
    weighted: bool,
}

impl Mixture {
    /// No document counted yet; a source without a weight has 1.
    pub fn new(sources: &[Source]) -> Self {
        let weight = |source: &Source| source.weight.and_then(Weight::new).unwrap_or(Weight::ONE);
        Self {
            sources: sources.iter().map(|source| (weight(source), 0)).collect(),
            weighted: sources.iter().any(|source| source.weight.is_some()),
        }
    }

    /// Whether any source says a weight.
    pub fn is_weighted(&self) -> bool {
        self.weighted
    }

    /// Counts the next document of a source that nothing else leaves out, and says
    /// how often it is taken.
    pub fn take(&mut self, source: usize) -> u64 {
        match self.sources.get_mut(source) {
            Some((weight, counted)) => {
                *counted += 1;
                weight.copies(*counted - 1)
            }
            None => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn copies(weight: f64, n: u64) -> Vec<u64> {
        let weight = Weight::new(weight).unwrap();
        (0..n).map(|index| weight.copies(index)).collect()
    }

    #[test]
    fn weights_take_what_they_say() {
        assert_eq!(copies(1.0, 3), [1, 1, 1]);
        assert_eq!(copies(0.5, 6), [0, 1, 0, 1, 0, 1]);
        assert_eq!(copies(2.5, 4), [2, 3, 2, 3]);
        assert_eq!(copies(3.0, 2), [3, 3]);
        assert_eq!(copies(0.29, 100).iter().sum::<u64>(), 29);
        assert_eq!(copies(1e-9, 5), [0; 5]);
    }

    #[test]
    fn weights_that_mean_nothing_are_none() {
        for weight in [0.0, -0.5, f64::NAN, f64::INFINITY, 1000.5, 1e-10, 0.1 + 0.2] {
            assert_eq!(Weight::new(weight), None, "{weight}");
        }
    }

    proptest! {
        /// Thousandths are exact in `u64`, which is the twin.
        #[test]
        fn n_documents_are_taken_floor_n_w_times(thousandths in 1u64..5_000, n in 0u64..3_000) {
            let taken: u64 = copies(thousandths as f64 / 1000.0, n).iter().sum();
            prop_assert_eq!(taken, n * thousandths / 1000);
        }
    }
}
