//! Views of row-major matrices.

#![expect(
    clippy::indexing_slicing,
    reason = "views check their extent when they are made"
)]

use std::marker::PhantomData;
use std::ops::Range;

/// A matrix that is read; rows and columns may be exchanged.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A row-major matrix that is written: `stride` floats from row to row.
///
/// Holds a pointer and not a slice, so that blocks of columns, which interleave
/// in memory, can be written by different threads.
pub struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    columns: usize,
    stride: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: a `MatMut` is the only way to reach its elements while it lives, as a
// `&mut [f32]` is, and `f32` may be written from any thread.
unsafe impl Send for MatMut<'_> {}

impl<'a> Mat<'a> {
    /// `rows x columns` values in row-major order.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// The first `columns` values of each `stride`.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            columns <= stride && extent(rows, columns, stride) <= data.len(),
            "a view stays inside its slice"
        );
        Self {
            data,
            rows,
            columns,
            row_stride: stride,
            column_stride: 1,
        }
    }

    /// Exchanges rows and columns.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// A block of rows.
    pub fn rows(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.rows);
        Self {
            data: &self.data[(range.start * self.row_stride).min(self.data.len())..],
            rows: range.len(),
            ..self
        }
    }

    /// A block of columns.
    pub fn columns(self, range: Range<usize>) -> Self {
        self.t().rows(range).t()
    }

    /// How many rows.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// How many columns.
    pub fn width(&self) -> usize {
        self.columns
    }

    /// Whether the values of a row lie side by side.
    pub fn is_row_major(&self) -> bool {
        self.column_stride == 1
    }

    /// The first value, and the strides of rows and columns.
    pub fn raw(&self) -> (*const f32, usize, usize) {
        (self.data.as_ptr(), self.row_stride, self.column_stride)
    }

    /// One row of a view that was not transposed.
    pub fn row(&self, index: usize) -> &'a [f32] {
        assert!(index < self.rows && self.column_stride == 1);
        &self.data[index * self.row_stride..][..self.columns]
    }
}

impl<'a> MatMut<'a> {
    /// `rows x columns` values in row-major order.
    pub fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// The first `columns` values of each `stride`.
    pub fn strided(data: &'a mut [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(
            columns <= stride && extent(rows, columns, stride) <= data.len(),
            "a view stays inside its slice"
        );
        Self {
            data: data.as_mut_ptr(),
            rows,
            columns,
            stride,
            owner: PhantomData,
        }
    }

    /// One row.
    pub fn row_mut(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows);
        // SAFETY: the row lies inside the slice that the view was made from, no
        // other view covers these columns, and `self` is borrowed meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(index * self.stride), self.columns) }
    }

    /// A block of rows, borrowed from this view.
    pub fn rows_mut(&mut self, range: Range<usize>) -> MatMut<'_> {
        assert!(range.start <= range.end && range.end <= self.rows);
        let start = if range.is_empty() { 0 } else { range.start };
        MatMut {
            // SAFETY: the first row of the block lies inside the view.
            data: unsafe { self.data.add(start * self.stride) },
            rows: range.len(),
            columns: self.columns,
            stride: self.stride,
            owner: PhantomData,
        }
    }

    /// A block of columns, borrowed from this view.
    pub fn columns_mut(&mut self, range: Range<usize>) -> MatMut<'_> {
        assert!(range.start <= range.end && range.end <= self.columns);
        let start = if range.is_empty() { 0 } else { range.start };
        MatMut {
            // SAFETY: the first column of the block lies inside the view.
            data: unsafe { self.data.add(start) },
            rows: self.rows,
            columns: range.len(),
            stride: self.stride,
            owner: PhantomData,
        }
    }

    /// How many rows.
    pub fn height(&self) -> usize {
        self.rows
    }

    /// How many columns.
    pub fn width(&self) -> usize {
        self.columns
    }

    /// The first value, and the stride of rows.
    pub fn raw(&mut self) -> (*mut f32, usize) {
        (self.data, self.stride)
    }

    /// The columns before `at` and those from it on.
    pub fn split_columns(self, at: usize) -> (Self, Self) {
        assert!(at <= self.columns);
        // An empty view keeps its pointer inside the slice.
        let offset = if at < self.columns { at } else { 0 };
        let right = Self {
            // SAFETY: `offset` is a column of the first row, or 0.
            data: unsafe { self.data.add(offset) },
            columns: self.columns - at,
            ..self
        };
        let left = Self {
            columns: at,
            ..self
        };
        (left, right)
    }

    /// Blocks of `width` columns, the last one narrower where it must be.
    pub fn column_blocks(self, width: usize) -> Vec<Self> {
        assert!(width > 0);
        let mut blocks = Vec::with_capacity(self.columns.div_ceil(width));
        let mut rest = self;
        while rest.columns > 0 {
            let at = width.min(rest.columns);
            let (left, right) = rest.split_columns(at);
            blocks.push(left);
            rest = right;
        }
        blocks
    }
}

fn extent(rows: usize, columns: usize, stride: usize) -> usize {
    match rows.checked_sub(1) {
        Some(last) if columns > 0 => last * stride + columns,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn column_blocks_are_disjoint_and_cover() {
        let mut data = vec![0.0; 3 * 7];
        for (index, mut block) in MatMut::new(&mut data, 3, 7)
            .column_blocks(3)
            .into_iter()
            .enumerate()
        {
            for row in 0..3 {
                for value in block.row_mut(row) {
                    *value += 1.0 + index as f32;
                }
            }
        }
        assert_eq!(data, [1., 1., 1., 2., 2., 2., 3.].repeat(3));
    }

    #[test]
    #[should_panic(expected = "a view stays inside its slice")]
    fn a_view_past_the_end_is_refused() {
        Mat::strided(&[0.0; 10], 2, 3, 8);
    }
}
