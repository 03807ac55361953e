//! Places in one array of the device, so that an operation asks for memory once.

use super::engine::Pointer;

/// Where the pieces of an array begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arena {
    bytes: usize,
}

/// A piece: so many bytes after the array's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(usize);

impl Arena {
    /// What matrix products and wide loads like every piece to be aligned to.
    const ALIGNMENT: usize = 256;

    /// The next piece.
    pub fn take(&mut self, elements: usize, bytes: usize) -> Place {
        let place = Place(self.bytes);
        self.bytes += (elements * bytes).next_multiple_of(Self::ALIGNMENT);
        place
    }

    /// Bytes of all pieces.
    pub fn bytes(self) -> usize {
        self.bytes
    }
}

impl Place {
    /// The piece of an array that begins there.
    pub fn of(self, array: Pointer) -> Pointer {
        array.at(self.0)
    }
}
