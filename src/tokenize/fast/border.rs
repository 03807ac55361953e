//! Where a long piece falls into parts that are encoded each by itself: at characters
//! that no word of the vocabulary holds side by side.
//!
//! Languages that write no spaces have long pieces, few of which come twice; their parts do.

/// What words of a vocabulary have around the characters beyond ASCII in them.
pub struct Borders {
    /// One bit for each byte before such a character and the first byte of it, where some
    /// word has these two at its start or its end.
    ends: Box<[u64]>,
    /// Bits for two bytes before such a character and the first two of it, by a hash.
    inner: Box<[u64]>,
    /// Bits of a hash.
    bits: u32,
}

/// Bits of [`Borders::inner`] for each that is set.
const SPARSE: usize = 16;

impl Borders {
    /// The borders for a vocabulary: all words that merges make or text may be as a whole.
    pub fn new<'a>(words: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut ends = vec![0; 1 << 10].into_boxed_slice();
        let mut inner = Vec::new();
        for word in words {
            for (at, byte) in word.iter().enumerate().skip(1) {
                if !begins(*byte) {
                    continue;
                }
                let (left, right) = word.split_at(at);
                match (left, right) {
                    ([.., a, b], [c, d, ..]) => inner.push([*a, *b, *c, *d]),
                    ([.., b], [c, ..]) => set(&mut ends, pair(*b, *c)),
                    _ => {}
                }
            }
        }
        let bits = (SPARSE * inner.len()).next_power_of_two().ilog2().max(6);
        let mut borders = Self {
            ends,
            inner: vec![0; 1 << (bits - 6)].into(),
            bits,
        };
        for around in inner {
            let at = borders.hash(around);
            set(&mut borders.inner, at);
        }
        borders
    }

    /// The parts of a piece in order.
    pub fn parts<'a>(&'a self, piece: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = Some(piece).filter(|piece| !piece.is_empty());
        std::iter::from_fn(move || {
            let piece = rest?;
            let cut = piece.windows(4).position(|around| match around {
                [a, b, c, d] => begins(*c) && self.divides([*a, *b, *c, *d]),
                _ => false,
            });
            let (part, after) = match cut {
                Some(at) => piece.split_at_checked(at + 2)?,
                None => (piece, &[][..]),
            };
            rest = Some(after).filter(|after| !after.is_empty());
            Some(part)
        })
    }

    /// Whether no word reaches from the first two bytes into the others.
    #[inline(always)]
    fn divides(&self, around: [u8; 4]) -> bool {
        let [_, b, c, _] = around;
        !(has(&self.ends, pair(b, c)) | has(&self.inner, self.hash(around)))
    }

    #[inline(always)]
    fn hash(&self, around: [u8; 4]) -> usize {
        let hash = u32::from_le_bytes(around).wrapping_mul(0x9e37_79b1);
        (hash >> (u32::BITS - self.bits)) as usize
    }
}

/// Whether a byte begins a character beyond ASCII.
#[inline(always)]
fn begins(byte: u8) -> bool {
    0xc0 <= byte
}

fn pair(left: u8, right: u8) -> usize {
    usize::from(left) << 8 | usize::from(right)
}

#[inline(always)]
fn has(bits: &[u64], at: usize) -> bool {
    bits.get(at / 64)
        .is_some_and(|word| word >> (at % 64) & 1 == 1)
}

fn set(bits: &mut [u64], at: usize) {
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}
