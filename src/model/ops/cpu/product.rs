//! Products of matrices on the calling thread.
//!
//! Where the processor has AVX-512, by a kernel of our own; elsewhere by `gemm`. The
//! kernel reads both sides as they lie, so that only right sides that are transposed, or
//! whose rows would fall on one another in the cache, are laid out anew.

#![expect(
    clippy::indexing_slicing,
    reason = "panels cover the matrix that they were made from"
)]

use gemm::Parallelism;
use rayon::prelude::*;

use super::buffer::Buffer;
#[cfg(target_arch = "x86_64")]
use super::kernel;
use super::matrix::{Mat, MatMut};
use super::simd::round;
use crate::model::precision::Precision;

/// What a product does with what the destination held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onto {
    /// Overwrites it.
    Nothing,
    /// Adds to it.
    Old,
}

/// Columns of a panel: what the kernel takes at once.
const PANEL: usize = 64;
/// Rows of the right side that are summed before the result is stored: their panel, and
/// what the left side has beside it, stay in the second-level cache.
const DEPTH: usize = 512;
/// Rows that are a multiple of this many floats apart, a page, share few sets of a cache.
const CROWDED: usize = 1024;
/// Fewer rows on the left than this are not worth laying out the right side.
const ROWS_MIN: usize = 8;

/// The right side of many products, as the kernel can read it.
pub struct Packed<'a> {
    layout: Layout<'a>,
    depth: usize,
    columns: usize,
}

/// How the numbers lie.
enum Layout<'a> {
    /// The matrix itself is one panel.
    Itself(Mat<'a>),
    /// In panels behind one another.
    Panels(Buffer),
    /// In panels, rounded to bfloat16.
    Rounded(Buffer),
    /// In panels of pairs of bfloat16, each in the place of a float.
    #[cfg(target_arch = "x86_64")]
    Pairs(Buffer),
}

impl<'a> Packed<'a> {
    /// Lays out a matrix where it must be; each thread takes some of the panels.
    pub fn new(of: Mat<'a>, precision: Precision) -> Self {
        let layout = match precision {
            Precision::Single if lies_well(&of) => Layout::Itself(of),
            Precision::Single => Layout::Panels(panels(of, of.height(), lay_out)),
            #[cfg(target_arch = "x86_64")]
            Precision::Bf16 if kernel::has_pairs() => {
                Layout::Pairs(panels(of, of.height().div_ceil(2), pair_columns))
            }
            Precision::Bf16 => rounded(of),
        };
        Self {
            layout,
            depth: of.height(),
            columns: of.width(),
        }
    }

    /// The panels in order, each row-major and as wide as it has columns.
    fn panels(&self) -> impl Iterator<Item = Mat<'_>> + Clone {
        let width = panel(self.columns);
        let (itself, values, height): (_, &[f32], _) = match &self.layout {
            Layout::Itself(matrix) => (Some(*matrix), &[], 0),
            Layout::Panels(values) | Layout::Rounded(values) => (None, values, self.depth),
            #[cfg(target_arch = "x86_64")]
            Layout::Pairs(values) => (None, values, self.depth.div_ceil(2)),
        };
        let panels = values.chunks((height * width).max(1));
        let panels =
            panels.map(move |values| Mat::new(values, height, values.len() / height.max(1)));
        itself.into_iter().chain(panels)
    }
}

/// What the kernels of single precision read where there are none of bfloat16.
fn rounded<'a>(of: Mat<'_>) -> Layout<'a> {
    Layout::Rounded(panels(of, of.height(), |from, to| {
        lay_out(from, to);
        round(to);
    }))
}

/// A matrix in panels of so many rows, which `fill` writes.
fn panels(of: Mat<'_>, height: usize, fill: impl Fn(Mat<'_>, &mut [f32]) + Sync) -> Buffer {
    let (width, columns) = (panel(of.width()), of.width());
    let mut values = Buffer::new(height * columns);
    values
        .par_chunks_mut((height * width).max(1))
        .enumerate()
        .for_each(|(index, panel)| {
            let end = columns.min((index + 1) * width);
            fill(of.columns(index * width..end), panel);
        });
    values
}

/// `to = factor * a b`, or `to + factor * a b`.
///
/// One machine gives the same bits for the same shapes and strides.
pub fn matmul(to: &mut MatMut<'_>, onto: Onto, a: Mat<'_>, b: Mat<'_>, factor: f32) {
    begin(to, onto, &a, (b.height(), b.width()));
    #[cfg(target_arch = "x86_64")]
    if kernel::is_available() {
        if lies_well(&b) || (b.is_row_major() && a.height() < ROWS_MIN) {
            return by_kernel(
                to,
                onto,
                a,
                std::iter::once(b),
                factor,
                kernel::single::multiply,
            );
        }
        if ROWS_MIN <= a.height() {
            let mut values = Buffer::new(b.height() * PANEL);
            for start in (0..b.width()).step_by(PANEL) {
                let columns = start..b.width().min(start + PANEL);
                let size = b.height() * columns.len();
                let Some(panel) = values.get_mut(..size) else {
                    return;
                };
                lay_out(b.columns(columns.clone()), panel);
                let panel = Mat::new(panel, b.height(), columns.len());
                let mut to = to.columns_mut(columns);
                by_kernel(
                    &mut to,
                    onto,
                    a,
                    std::iter::once(panel),
                    factor,
                    kernel::single::multiply,
                );
            }
            return;
        }
    }
    by_library(to, onto, a, b, factor);
}

/// [`matmul`] with operands in a precision.
pub fn matmul_in(
    precision: Precision,
    to: &mut MatMut<'_>,
    onto: Onto,
    a: Mat<'_>,
    b: Mat<'_>,
    factor: f32,
) {
    match precision {
        Precision::Single => matmul(to, onto, a, b, factor),
        Precision::Bf16 => matmul_packed(to, onto, a, &Packed::new(b, precision), factor),
    }
}

/// [`matmul`] with a right side that was laid out before, in its precision.
pub fn matmul_packed(to: &mut MatMut<'_>, onto: Onto, a: Mat<'_>, b: &Packed<'_>, factor: f32) {
    begin(to, onto, &a, (b.depth, b.columns));
    let (rows, depth) = (a.height(), a.width());
    match b.layout {
        Layout::Itself(_) | Layout::Panels(_) => by_panels(to, onto, a, b, factor),
        Layout::Rounded(_) => {
            let mut rounded = Buffer::new(rows * depth);
            lay_out(a, &mut rounded);
            round(&mut rounded);
            by_panels(to, onto, Mat::new(&rounded, rows, depth), b, factor);
        }
        #[cfg(target_arch = "x86_64")]
        Layout::Pairs(_) => {
            let mut pairs = Buffer::new(rows * depth.div_ceil(2));
            let a = pair_rows(a, &mut pairs);
            by_kernel(to, onto, a, b.panels(), factor, kernel::pairs::multiply);
        }
    }
}

fn by_panels(to: &mut MatMut<'_>, onto: Onto, a: Mat<'_>, b: &Packed<'_>, factor: f32) {
    #[cfg(target_arch = "x86_64")]
    if kernel::is_available() {
        return by_kernel(to, onto, a, b.panels(), factor, kernel::single::multiply);
    }
    // One panel is the whole matrix.
    for panel in b.panels() {
        by_library(to, onto, a, panel, factor);
    }
}

/// Checks the shapes, and settles a sum of nothing.
fn begin(to: &mut MatMut<'_>, onto: Onto, a: &Mat<'_>, (depth, columns): (usize, usize)) {
    assert!(
        a.width() == depth && to.height() == a.height() && to.width() == columns,
        "shapes of a product agree: {}x{} times {depth}x{columns} into {}x{}",
        a.height(),
        a.width(),
        to.height(),
        to.width()
    );
    if depth == 0 && onto == Onto::Nothing {
        for row in 0..to.height() {
            to.row_mut(row).fill(0.0);
        }
    }
}

/// Whether the kernel can read a right side as it is.
fn lies_well(b: &Mat<'_>) -> bool {
    b.is_row_major() && !b.raw().1.is_multiple_of(CROWDED)
}

/// Columns of a panel, of a matrix of so many.
fn panel(columns: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if kernel::is_available() {
        return PANEL;
    }
    columns.max(1)
}

/// Copies a matrix into row-major order.
fn lay_out(from: Mat<'_>, to: &mut [f32]) {
    let width = from.width();
    if from.is_row_major() {
        for (index, row) in to.chunks_exact_mut(width.max(1)).enumerate() {
            row.copy_from_slice(from.row(index));
        }
        return;
    }
    let lines = from.t();
    let first = by_squares(lines, to);
    for column in 0..width {
        let line = lines.row(column);
        let done = if column < first.0 { first.1 } else { 0 };
        for (row, value) in to.chunks_exact_mut(width).zip(line).skip(done) {
            row[column] = *value;
        }
    }
}

/// Rounds a left side to pairs of bfloat16 along its rows, which lie as those of `from` do.
#[cfg(target_arch = "x86_64")]
fn pair_rows<'a>(from: Mat<'_>, to: &'a mut [f32]) -> Mat<'a> {
    let (rows, pairs) = (from.height(), from.width().div_ceil(2));
    match from.is_row_major() {
        true => {
            for (index, to) in to.chunks_exact_mut(pairs.max(1)).enumerate() {
                // SAFETY: the processor was asked before it was given pairs.
                unsafe { kernel::pair_neighbours(from.row(index), to) };
            }
            Mat::new(to, rows, pairs)
        }
        false => {
            pair_lines(from.t(), to);
            Mat::new(to, pairs, rows).t()
        }
    }
}

/// Rounds a right side to pairs of bfloat16 along its columns, in row-major order.
#[cfg(target_arch = "x86_64")]
fn pair_columns(from: Mat<'_>, to: &mut [f32]) {
    if from.is_row_major() {
        return pair_lines(from, to);
    }
    let mut turned = Buffer::new(to.len());
    let turned = pair_rows(from.t(), &mut turned);
    lay_out(turned.t(), to);
}

/// Pairs what stands below one another in two rows.
#[cfg(target_arch = "x86_64")]
fn pair_lines(from: Mat<'_>, to: &mut [f32]) {
    for (index, to) in to.chunks_exact_mut(from.width().max(1)).enumerate() {
        let second = (2 * index + 1 < from.height()).then(|| from.row(2 * index + 1));
        // SAFETY: the processor was asked before it was given pairs.
        unsafe { kernel::pair_rows(from.row(2 * index), second, to) };
    }
}

/// Exchanges rows and columns as far as whole squares of the kernel reach; returns how
/// many columns and rows of the result that are.
fn by_squares(lines: Mat<'_>, to: &mut [f32]) -> (usize, usize) {
    #[cfg(target_arch = "x86_64")]
    if kernel::is_available() {
        const SIDE: usize = kernel::LANES;
        let (columns, rows) = (lines.height(), lines.width());
        let whole = (columns - columns % SIDE, rows - rows % SIDE);
        let (data, stride, _) = lines.raw();
        let mut to = MatMut::new(to, rows, columns);
        let (into, width) = to.raw();
        for row in (0..whole.1).step_by(SIDE) {
            for column in (0..whole.0).step_by(SIDE) {
                // SAFETY: the processor was asked; squares lie inside both matrices.
                unsafe {
                    let from = (data.add(column * stride + row), stride);
                    kernel::transpose(from, (into.add(row * width + column), width));
                }
            }
        }
        return whole;
    }
    (0, 0)
}

/// `panels` are row-major, and side by side the right side.
#[cfg(target_arch = "x86_64")]
fn by_kernel<'b>(
    to: &mut MatMut<'_>,
    onto: Onto,
    a: Mat<'_>,
    panels: impl Iterator<Item = Mat<'b>> + Clone,
    factor: f32,
    multiply: unsafe fn(kernel::Strip),
) {
    for from in (0..a.width()).step_by(DEPTH) {
        let depth = DEPTH.min(a.width() - from);
        let left = a.columns(from..from + depth);
        let mut start = 0;
        for panel in panels.clone() {
            let right = panel.rows(from..from + depth);
            for column in (0..panel.width()).step_by(kernel::WIDTH) {
                let width = kernel::WIDTH.min(panel.width() - column);
                let right = right.columns(column..column + width);
                let place = start + column..start + column + width;
                let mut to = to.columns_mut(place);
                let strip = kernel::Strip {
                    rows: a.height(),
                    depth,
                    width,
                    a: left.raw(),
                    b: (right.raw().0, right.raw().1),
                    c: to.raw(),
                    factor,
                    add: onto == Onto::Old || 0 < from,
                };
                // SAFETY: the processor was asked; views reach what they say, and `to` is
                // borrowed mutably, so it overlaps neither side.
                unsafe { multiply(strip) };
            }
            start += panel.width();
        }
    }
}

fn by_library(to: &mut MatMut<'_>, onto: Onto, a: Mat<'_>, b: Mat<'_>, factor: f32) {
    let (rows, columns) = (to.height(), to.width());
    let ((a_data, a_row, a_column), (b_data, b_row, b_column)) = (a.raw(), b.raw());
    let (data, stride) = to.raw();
    // SAFETY: the views' extents were checked when they were made, `to` is borrowed
    // mutably, and so overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            a.width(),
            data,
            1,
            signed(stride),
            onto == Onto::Old,
            a_data,
            signed(a_column),
            signed(a_row),
            b_data,
            signed(b_column),
            signed(b_row),
            1.0,
            factor,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

#[expect(
    clippy::cast_possible_wrap,
    reason = "a slice is shorter than isize::MAX"
)]
fn signed(stride: usize) -> isize {
    stride as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, step: usize) -> Vec<f32> {
        (0..len).map(|i| ((i * step) % 17) as f32 - 8.0).collect()
    }

    /// Whole numbers add exactly, so every path must give the same.
    #[test]
    fn products_equal_three_loops() {
        let shapes = [
            (1, 1, 1),
            (1, 70, 33),
            (5, 3, 2),
            (64, 48, 130),
            (33, 1, 7),
            (13, 129, 64),
            (8, 65, 1030),
            (9, 200, 20),
            (3, 5, 0),
            (17, 1024, 3),
        ];
        for (m, n, k) in shapes {
            let (a, b) = (values(m * k, 31), values(k * n, 29));
            let turned = |from: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                let place = |i: usize| i % rows * columns + i / rows;
                (0..rows * columns).map(|i| from[place(i)]).collect()
            };
            let (a_turned, b_turned) = (turned(&a, m, k), turned(&b, k, n));
            let lefts = [Mat::new(&a, m, k), Mat::new(&a_turned, k, m).t()];
            let rights = [Mat::new(&b, k, n), Mat::new(&b_turned, n, k).t()];
            let naive = |onto: Onto| -> Vec<f32> {
                let place = |i: usize| (i / n, i % n);
                let sum = |(r, c)| (0..k).map(|j| a[r * k + j] * b[j * n + c]).sum::<f32>();
                let old = f32::from(u8::from(onto == Onto::Old));
                (0..m * n).map(|i| old + 2.0 * sum(place(i))).collect()
            };
            for (left, right) in lefts
                .iter()
                .flat_map(|l| rights.iter().map(move |r| (l, r)))
            {
                for onto in [Onto::Old, Onto::Nothing] {
                    // Whole numbers below 256 are bfloat16, too.
                    let packed = [Precision::Single, Precision::Bf16];
                    let packed = packed.map(|precision| Packed::new(*right, precision));
                    let elsewhere = Packed {
                        layout: rounded(*right),
                        depth: k,
                        columns: n,
                    };
                    // Columns behind the result are another's.
                    let mut found = vec![vec![1.0; m * (n + 3)]; 7];
                    let mut each = found.iter_mut();
                    let mut next = || MatMut::strided(each.next().unwrap(), m, n, n + 3);
                    matmul(&mut next(), onto, *left, *right, 2.0);
                    for packed in packed.iter().chain([&elsewhere]) {
                        matmul_packed(&mut next(), onto, *left, packed, 2.0);
                    }
                    for precision in [Precision::Single, Precision::Bf16] {
                        matmul_in(precision, &mut next(), onto, *left, *right, 2.0);
                    }
                    by_library(&mut next(), onto, *left, *right, 2.0);
                    let expected = naive(onto);
                    for found in &found {
                        for (row, expected) in found.chunks(n + 3).zip(expected.chunks(n)) {
                            assert_eq!(row[..n], *expected, "{m}x{k}x{n} {onto:?}");
                            assert_eq!(row[n..], [1.0; 3], "{m}x{k}x{n} writes past its columns");
                        }
                    }
                }
            }
        }
    }

    /// The processor's own product of pairs: the second numbers first, each product fused
    /// with its sum, nothing below the normal numbers.
    #[test]
    fn products_of_bfloat16_are_those_of_their_definition() {
        let bf16 = |value: f32| {
            let mut rounded = [value];
            round(&mut rounded);
            rounded[0]
        };
        for (m, n, k, size) in [
            (7, 70, 1, 1.0),
            (13, 33, 65, 1.0),
            (6, 64, 1100, 1.0),
            (5, 20, 31, 1e-19),
        ] {
            let float = |i: usize| ((i * 37 % 101) as f32).sin() * size;
            let a: Vec<f32> = (0..m * k).map(float).collect();
            let b: Vec<f32> = (0..k * n).map(|i| float(i + 5)).collect();
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            let mut found = vec![0.0; m * n];
            let packed = Packed::new(b, Precision::Bf16);
            matmul_packed(
                &mut MatMut::new(&mut found, m, n),
                Onto::Nothing,
                a,
                &packed,
                1.0,
            );
            let exactly = !matches!(packed.layout, Layout::Rounded(_));
            for (index, found) in found.iter().enumerate() {
                let (row, column) = (index / n, index % n);
                // An odd number of terms ends with a 0.
                let term = |j: usize| match j < k {
                    true => (bf16(a.row(row)[j]), bf16(b.row(j)[column])),
                    false => (0.0, 0.0),
                };
                let mut total = 0.0f32;
                for start in (0..k).step_by(2 * DEPTH) {
                    let mut sum = 0.0f32;
                    for j in (start..k.min(start + 2 * DEPTH)).step_by(2) {
                        for j in [j + 1, j] {
                            let (a, b) = term(j);
                            sum = a.mul_add(b, sum);
                            sum = if sum.is_subnormal() {
                                0.0f32.copysign(sum)
                            } else {
                                sum
                            };
                        }
                    }
                    total = if start == 0 { sum } else { total + sum };
                }
                match exactly {
                    true => assert_eq!(found.to_bits(), total.to_bits(), "{m}x{k}x{n} at {index}"),
                    false => assert!((found - total).abs() <= 1e-5 * size * size * k as f32),
                }
            }
        }
    }

    /// What a task computes must not depend on the rows that it was given.
    #[test]
    fn bits_of_a_row_do_not_depend_on_its_place() {
        let (m, n, k) = (23, 70, 600);
        let float = |i: usize| ((i * 37 % 101) as f32).sin();
        let (a, b): (Vec<f32>, Vec<f32>) = (
            (0..m * k).map(float).collect(),
            (0..k * n).map(float).collect(),
        );
        for precision in [Precision::Single, Precision::Bf16] {
            let packed = Packed::new(Mat::new(&b, k, n), precision);
            let product = |rows: std::ops::Range<usize>| {
                let mut to = vec![0.0; rows.len() * n];
                let a = Mat::new(&a, m, k).rows(rows.clone());
                let mut view = MatMut::new(&mut to, rows.len(), n);
                matmul_packed(&mut view, Onto::Nothing, a, &packed, 1.0);
                to
            };
            let whole = product(0..m);
            for at in 0..m {
                assert_eq!(product(at..at + 1), whole[at * n..][..n], "row {at}");
            }
        }
    }
}
