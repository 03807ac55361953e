//! Histograms that need little memory, however many items they count.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::Serialize;

use crate::units::share;

/// Items whose size is in `from..=to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bin {
    /// The smallest size.
    pub from: u64,
    /// The largest size.
    pub to: u64,
    /// How many items.
    pub count: u64,
}

impl Bin {
    fn new(range: &Range, count: u64) -> Self {
        Self {
            from: *range.start(),
            to: *range.end(),
            count,
        }
    }
}

/// The sizes of one bin.
pub type Range = RangeInclusive<u64>;

/// Bars that a histogram has at most.
pub const BINS: u64 = 24;

/// How many items have which size; memory for each different size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes(BTreeMap<u64, u64>);

impl Sizes {
    /// Counts `count` items of one size.
    pub fn add(&mut self, size: u64, count: u64) {
        *self.0.entry(size).or_default() += count;
    }

    /// Counts all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (size, count) in &other.0 {
            self.add(*size, *count);
        }
    }

    /// At most [`BINS`] ranges of equal width from the smallest size to the largest.
    pub fn ranges(&self) -> Vec<Range> {
        let ends = self.0.first_key_value().zip(self.0.last_key_value());
        let Some(((&smallest, _), (&largest, _))) = ends else {
            return Vec::new();
        };
        let width = (largest - smallest) / BINS + 1;
        let range = |index: u64| {
            let from = smallest + index * width;
            from..=largest.min(from.saturating_add(width - 1))
        };
        (0..=(largest - smallest) / width).map(range).collect()
    }

    /// The share of positions that are padding where items are padded to the longest of
    /// `together` that are drawn at random, and to a multiple of `step`.
    pub fn padding(&self, together: u32, step: u64) -> f64 {
        let n: u64 = self.0.values().sum();
        let (mut below, mut padded, mut sum) = (0, 0.0, 0.0);
        for (size, count) in &self.0 {
            // All are at most so long, but not all are shorter.
            let at_most = |n_items: u64| share(n_items, n).powf(together.into());
            let longest = at_most(below + count) - at_most(below);
            padded += longest * size.next_multiple_of(step) as f64;
            sum += share(*count, n) * *size as f64;
            below += count;
        }
        if padded == 0.0 {
            0.0
        } else {
            1.0 - sum / padded
        }
    }

    /// How many items are in each of `ranges`.
    pub fn bins(&self, ranges: &[Range]) -> Vec<Bin> {
        let count = |range: &Range| self.0.range(range.clone()).map(|(_, count)| count).sum();
        ranges
            .iter()
            .map(|range| Bin::new(range, count(range)))
            .collect()
    }
}

/// How many items have about which size: eight classes for each doubling, so
/// memory for a few hundred, whatever the sizes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Magnitudes(BTreeMap<u32, u64>);

/// The logarithm of the classes of one doubling.
const CLASSES_LOG: u32 = 3;

impl Magnitudes {
    /// Counts one item.
    pub fn add(&mut self, size: u64) {
        *self.0.entry(class(size)).or_default() += 1;
    }

    /// Counts all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (class, count) in &other.0 {
            *self.0.entry(*class).or_default() += count;
        }
    }

    /// At most [`BINS`] ranges from the smallest size to the largest, each a whole
    /// number of classes and all as many; so their widths grow with the sizes.
    pub fn ranges(&self) -> Vec<Range> {
        let ends = self.0.first_key_value().zip(self.0.last_key_value());
        let Some(((&smallest, _), (&largest, _))) = ends else {
            return Vec::new();
        };
        let mut width = 1;
        while BINS <= u64::from(largest / width - smallest / width) {
            width *= 2;
        }
        let range = |index: u32| {
            let (first, next) = (index * width, (index + 1) * width);
            let from = smallest_of(first).try_into().unwrap_or(u64::MAX);
            from..=(smallest_of(next) - 1).try_into().unwrap_or(u64::MAX)
        };
        (smallest / width..=largest / width).map(range).collect()
    }

    /// How many items are in each of `ranges`, which are such as
    /// [`Magnitudes::ranges`] gives.
    pub fn bins(&self, ranges: &[Range]) -> Vec<Bin> {
        let count = |range: &Range| {
            let classes = class(*range.start())..=class(*range.end());
            self.0.range(classes).map(|(_, count)| count).sum()
        };
        ranges
            .iter()
            .map(|range| Bin::new(range, count(range)))
            .collect()
    }
}

/// The class of a size: the size itself below eight, then its highest four bits.
fn class(size: u64) -> u32 {
    let doubling = size.max(1).ilog2();
    let shift = doubling.saturating_sub(CLASSES_LOG);
    // At most four bits are left.
    let bits = u32::try_from(size >> shift).unwrap_or(u32::MAX);
    (shift << CLASSES_LOG) + bits
}

/// The smallest size of a class; for the class past the last, more than there is.
fn smallest_of(class: u32) -> u128 {
    let shift = (class >> CLASSES_LOG).saturating_sub(1);
    u128::from(class - (shift << CLASSES_LOG)) << shift
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(items: &[u64]) -> Sizes {
        let mut sizes = Sizes::default();
        items.iter().for_each(|size| sizes.add(*size, 1));
        sizes
    }

    fn magnitudes(items: &[u64]) -> Magnitudes {
        let mut magnitudes = Magnitudes::default();
        items.iter().for_each(|size| magnitudes.add(*size));
        magnitudes
    }

    fn own_sizes(items: &[u64]) -> Vec<Bin> {
        sizes(items).bins(&sizes(items).ranges())
    }

    fn own_magnitudes(items: &[u64]) -> Vec<Bin> {
        magnitudes(items).bins(&magnitudes(items).ranges())
    }

    #[test]
    fn few_sizes_have_a_bin_each() {
        let bin = |size, count| Bin {
            from: size,
            to: size,
            count,
        };
        assert_eq!(own_sizes(&[]), []);
        assert_eq!(own_sizes(&[7, 7]), [bin(7, 2)]);
        assert_eq!(own_sizes(&[3, 5, 3]), [bin(3, 2), bin(4, 0), bin(5, 1)]);
        assert_eq!(own_magnitudes(&[]), []);
        assert_eq!(
            own_magnitudes(&[0, 2, 0]),
            [bin(0, 2), bin(1, 0), bin(2, 1)]
        );
    }

    #[test]
    fn classes_are_eight_a_doubling() {
        for n in 0..=495 {
            assert_eq!(class(smallest_of(n).try_into().unwrap()), n);
        }
        assert_eq!([16, 17, 18, 31, 32].map(class), [16, 16, 17, 23, 24]);
        assert_eq!(class(u64::MAX), 495);
    }

    fn check(bins: &[Bin], items: &[u64]) -> Result<(), TestCaseError> {
        prop_assert!(bins.len() as u64 <= BINS);
        let neighbours = bins.iter().zip(bins.iter().skip(1));
        for (bin, next) in neighbours {
            prop_assert_eq!(bin.to + 1, next.from);
        }
        for bin in bins {
            let inside = items
                .iter()
                .filter(|size| (bin.from..=bin.to).contains(size));
            prop_assert_eq!(inside.count() as u64, bin.count);
        }
        let counted: u64 = bins.iter().map(|bin| bin.count).sum();
        prop_assert_eq!(counted, items.len() as u64);
        Ok(())
    }

    proptest! {
        #[test]
        fn every_item_is_in_one_bin(
            items in prop::collection::vec(prop_oneof![0u64..40, 0u64..5000, any::<u64>()], 0..60),
            cut in 0usize..60,
        ) {
            let (left, right) = items.split_at(cut.min(items.len()));
            let mut merged = sizes(left);
            merged.merge(&sizes(right));
            check(&merged.bins(&merged.ranges()), &items)?;
            let mut merged = magnitudes(left);
            merged.merge(&magnitudes(right));
            check(&merged.bins(&merged.ranges()), &items)?;
        }
    }
}
