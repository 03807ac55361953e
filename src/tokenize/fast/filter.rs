//! Whether something may be in a large table, told from near memory.

use super::huge::Huge;

/// A set that may hold more than was put in: two bits for each hash in 256 KiB, which
/// stay in a near cache, while a look-up in a large table mostly misses all of them.
pub struct Filter(Huge<u64>);

impl Filter {
    /// 2^15 words of 64 bits.
    const WORDS_BITS: u32 = 15;

    /// Holds nothing.
    pub fn new() -> Self {
        Self(Huge::new(1 << Self::WORDS_BITS))
    }

    /// Asks for what [`Filter::may_hold`] needs.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.0.prefetch(Self::place(hash).0);
    }

    /// The word of a hash, by its upper bits, and two bits, by its middle ones.
    #[inline(always)]
    fn place(hash: u64) -> (usize, u64) {
        let bits = 1 << (hash >> 32 & 63) | 1 << (hash >> 38 & 63);
        ((hash >> (u64::BITS - Self::WORDS_BITS)) as usize, bits)
    }

    /// Puts a hash in.
    pub fn insert(&mut self, hash: u64) {
        let (at, bits) = Self::place(hash);
        if let Some(word) = self.0.get_mut(at) {
            *word |= bits;
        }
    }

    /// Whether a hash may have been put in.
    #[inline(always)]
    pub fn may_hold(&self, hash: u64) -> bool {
        let (at, bits) = Self::place(hash);
        self.0.get(at).is_some_and(|word| word & bits == bits)
    }
}
