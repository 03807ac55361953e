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
        let values = kept(len).unwrap_or_else(|| vec![0.0; len]);
        let mut buffer = Self { values, len };
        spoil(&mut buffer);
        buffer
    }
}

/// An array for a tensor, of `len` values all of which the caller must write before
/// reading; [`give_back`] keeps its memory when the tensor is not needed any more.
pub fn array(len: usize) -> Vec<f32> {
    let Some(mut values) = kept(len) else {
        return vec![0.0; len];
    };
    values.truncate(len);
    spoil(&mut values);
    values
}

/// An array for a tensor, of zeros.
pub fn zeros(len: usize) -> Vec<f32> {
    let Some(mut values) = kept(len) else {
        return vec![0.0; len];
    };
    values.truncate(len);
    values.fill(0.0);
    values
}

/// Keeps the memory of an array for the next one.
pub fn give_back(values: Vec<f32>) {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    if KEPT < values.len() {
        return;
    }
    // Those that waited longest are of sizes that nobody asks for any more.
    while KEPT < pool.floats + values.len() && !pool.arrays.is_empty() {
        pool.floats -= pool.arrays.remove(0).len();
    }
    pool.floats += values.len();
    pool.arrays.push(values);
}

/// An array of at least `len` values that was used before.
fn kept(len: usize) -> Option<Vec<f32>> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |array: &Vec<f32>| array.len() >= len && array.len() <= len + len / 4;
    let index = pool.arrays.iter().rposition(fits)?;
    let array = pool.arrays.remove(index);
    pool.floats -= array.len();
    Some(array)
}

/// A value read before it is written must not pass a test by luck.
fn spoil(values: &mut [f32]) {
    if cfg!(test) {
        values.fill(f32::NAN);
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.values));
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
