//! What a batch is, as one array of whole numbers on the device: sent in one copy, those
//! that fit in half the bytes, and widened there.

use super::engine::{Error, Pointer};
use super::kernels::{Kernels, element};

/// Arrays on their way to the device.
#[derive(Clone, Debug, Default)]
pub struct Packer {
    narrow: Vec<u16>,
    wide: Vec<i32>,
}

/// Where an array will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Among those of 16 bits.
    Narrow(usize),
    /// Behind them.
    Wide(usize),
}

impl Packer {
    /// Adds an array: in half the bytes where all of it fits.
    pub fn add(&mut self, values: &[i32]) -> Word {
        let narrow: Result<Vec<u16>, _> = values.iter().map(|&n| u16::try_from(n)).collect();
        match narrow {
            Ok(values) => {
                let at = self.narrow.len();
                self.narrow.extend(values);
                Word::Narrow(at)
            }
            Err(_) => self.add_wide(values.iter().copied()),
        }
    }

    /// Adds an array of numbers of which nothing is known.
    pub fn add_wide(&mut self, values: impl IntoIterator<Item = i32>) -> Word {
        let at = self.wide.len();
        self.wide.extend(values);
        Word::Wide(at)
    }

    /// What is sent.
    pub fn finish(mut self) -> Words {
        // Kernels take four at a time.
        self.narrow.resize(self.narrow.len().next_multiple_of(4), 0);
        let narrow = self.narrow.iter().flat_map(|n| n.to_le_bytes());
        let wide = self.wide.iter().flat_map(|n| n.to_le_bytes());
        Words {
            narrow: self.narrow.len(),
            bytes: narrow.chain(wide).collect(),
        }
    }
}

/// Packed arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    narrow: usize,
    /// The narrow ones, then the wide ones: so they lie on the device, behind the narrow ones
    /// that are widened.
    bytes: Vec<u8>,
}

impl Words {
    /// Numbers of 32 bits that the device's array has: all of them, and as they were sent.
    pub fn size(&self) -> usize {
        (self.narrow + self.bytes.len() / 4).max(1)
    }

    /// Fills the device's array.
    pub fn send(&self, kernels: &mut Kernels<'_>, to: Pointer) -> Result<(), Error> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        let sent = element(to, self.narrow);
        kernels.upload(&self.bytes, sent)?;
        kernels.widened(sent, to, self.narrow)
    }

    /// An array in the device's.
    pub fn at(&self, array: Pointer, word: Word) -> Pointer {
        match word {
            Word::Narrow(at) => element(array, at),
            Word::Wide(at) => element(array, self.narrow + self.narrow / 2 + at),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::engine::Precision;
    use super::super::host::{Host, room};
    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_is_on_the_device(
            arrays in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(0i32..65_536, 0..70),
                    prop::collection::vec(any::<i32>(), 0..9),
                ],
                0..6,
            ),
        ) {
            let mut packer = Packer::default();
            let places: Vec<Word> = arrays.iter().map(|array| packer.add(array)).collect();
            let words = packer.finish();
            let mut array = vec![-1i32; words.size()];
            let pointer = room(&mut array);
            let mut host = Host(Precision::Single);
            words.send(&mut Kernels::new(&mut host), pointer).unwrap();
            for (expected, place) in arrays.iter().zip(places) {
                let at = usize::try_from(words.at(pointer, place).0 - pointer.0).unwrap() / 4;
                prop_assert_eq!(&array[at..at + expected.len()], expected.as_slice());
            }
        }
    }
}
