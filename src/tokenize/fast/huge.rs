//! Tables of some megabytes, on huge pages where the system has them.
//!
//! A look-up in a table on pages of 4 KiB costs a walk of the page table besides.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// A type that any bytes are a value of, such as zeros.
///
/// # Safety
/// It consists of integers, without padding.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}

/// A list of fixed length that begins as zeros; empty where the system has no memory.
pub struct Huge<T> {
    map: Option<MmapMut>,
    length: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Huge<T> {
    /// `length` zeros, whose memory is taken as they are touched.
    pub fn new(length: usize) -> Self {
        let map = MmapMut::map_anon(length * size_of::<T>()).ok();
        #[cfg(target_os = "linux")]
        if let Some(map) = &map {
            // A hint; without it the table is slower and as right.
            drop(map.advise(memmap2::Advice::HugePage));
        }
        Self {
            length: if map.is_some() { length } else { 0 },
            map,
            of: PhantomData,
        }
    }

    /// Asks for a value before it is needed.
    #[inline(always)]
    pub fn prefetch(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let value = self.as_ptr().wrapping_add(at);
            // SAFETY: a prefetch reads nothing, whatever the address; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(value.cast()) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}

impl<T: Plain> Deref for Huge<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        match &self.map {
            // SAFETY: the map has `length` values, is aligned to a page, and any bytes are
            // a value. It lives and is borrowed as long as the slice.
            Some(map) => unsafe { std::slice::from_raw_parts(map.as_ptr().cast(), self.length) },
            None => &[],
        }
    }
}

impl<T: Plain> DerefMut for Huge<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        match &mut self.map {
            // SAFETY: as in `deref`; the map is borrowed mutably.
            Some(map) => unsafe {
                std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), self.length)
            },
            None => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_begins_as_zeros_and_keeps_what_is_written() {
        let mut table = Huge::<u64>::new(100_000);
        assert!(table.iter().all(|value| *value == 0));
        table[99_999] = 7;
        assert_eq!((table.len(), table[99_999], table[99_998]), (100_000, 7, 0));
    }
}
