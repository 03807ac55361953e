//! Places in one array of the device, so that an operation asks for memory once.

use super::engine::Pointer;

/// Where the pieces of an array begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arena {
    bytes: usize,
}

/// A piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes after the array's start.
    start: usize,
    /// How long it is.
    bytes: usize,
}

impl Arena {
    /// What matrix products and wide loads like every piece to be aligned to.
    const ALIGNMENT: usize = 256;

    /// The next piece.
    pub fn take(&mut self, elements: usize, bytes: usize) -> Place {
        let place = Place {
            start: self.bytes,
            bytes: elements * bytes,
        };
        self.bytes += place.bytes.next_multiple_of(Self::ALIGNMENT);
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
        let piece = array.at(self.start);
        #[cfg(test)]
        super::host::piece(piece, self.bytes);
        piece
    }
}
