//! Scratch arrays that are used again: a training step asks for the same sizes
//! every time, and fresh memory from the system costs a page fault every 4 KiB.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// An array of floats with unspecified values; its memory is kept for the next one.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    len: usize,
}

/// At most this many floats (512 MiB) wait for reuse.
const KEPT: usize = 128 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool {
    arrays: Vec::new(),
    floats: 0,
});

struct Pool {
    arrays: Vec<Vec<f32>>,
    floats: usize,
}

impl Buffer {
    /// An array of `len` values, all of which the caller must write before reading.
    pub fn new(len: usize) -> Self {
        let found = {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            let fits = |array: &Vec<f32>| array.len() >= len && array.len() <= len + len / 4;
            let index = pool.arrays.iter().rposition(fits);
            index
                .map(|index| pool.arrays.swap_remove(index))
                .inspect(|array| {
                    pool.floats -= array.len();
                })
        };
        let mut values = found.unwrap_or_else(|| vec![0.0; len]);
        if cfg!(test) {
            // A value read before it is written must not pass a test by luck.
            values.fill(f32::NAN);
        }
        Self { values, len }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.floats + self.values.len() <= KEPT {
            pool.floats += self.values.len();
            pool.arrays.push(std::mem::take(&mut self.values));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.values.get(..self.len).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.values.get_mut(..self.len).unwrap_or_default()
    }
}
