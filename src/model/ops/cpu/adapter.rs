//! Low-rank adapters of a linear layer, forward and backward.

#![expect(
    clippy::indexing_slicing,
    reason = "ranges come from the layout of the group"
)]

use std::ops::Range;

use super::buffer::Buffer;
use super::matrix::{Mat, MatMut};
use super::product::{Onto, matmul};
use crate::model::tuning::AdapterLayout;

/// The adapters of a linear layer with their parameters.
pub struct Adapter<'a> {
    a: Mat<'a>,
    /// Columns of what the layer writes, and `B`.
    parts: Vec<(Range<usize>, Mat<'a>)>,
    rank: usize,
    scale: f32,
    layout: &'a AdapterLayout,
}

impl<'a> Adapter<'a> {
    /// Finds the parameters in their group; `None` where a layer has no adapters.
    pub fn new(params: &'a [f32], layout: &'a AdapterLayout, scale: f32) -> Option<Self> {
        let rank = layout.rank;
        let parts = layout.parts.iter().map(|part| {
            let b = Mat::new(&params[part.b.clone()], rank, part.columns.len());
            (part.columns.clone(), b)
        });
        let width = rank * layout.parts.len();
        (0 < width).then(|| Self {
            a: Mat::new(&params[layout.a.clone()], layout.inputs, width),
            parts: parts.collect(),
            rank,
            scale,
            layout,
        })
    }

    /// Adds to what the layer writes.
    pub fn forward(&self, x: Mat<'_>, y: &mut MatMut<'_>) {
        let inner = self.inner(x);
        self.outer(Mat::new(&inner, x.height(), self.a.width()), y);
    }

    /// Adds to the gradient of what the layer reads.
    pub fn back(&self, dy: Mat<'_>, dx: &mut MatMut<'_>) {
        let slopes = self.slopes(dy);
        let slopes = Mat::new(&slopes, dy.height(), self.a.width());
        matmul(dx, Onto::Old, slopes, self.a.t(), 1.0);
    }

    /// Adds the gradients of `A` and each `B` over rows of what the layer read and of the
    /// gradient of what it wrote, in one order.
    pub fn add_sums(&self, (x, dy): (&[f32], &[f32]), into: &mut [f32]) {
        let (height, width) = (self.a.height(), self.a.width());
        let n = x.len() / height;
        let (x, dy) = (Mat::new(x, n, height), Mat::new(dy, n, dy.len() / n));
        let (inner, slopes) = (self.inner(x), self.slopes(dy));
        let (inner, slopes) = (Mat::new(&inner, n, width), Mat::new(&slopes, n, width));
        let start = self.layout.range.start;
        let (d_a, mut rest) = into.split_at_mut(self.layout.a.end - start);
        matmul(
            &mut MatMut::new(d_a, height, width),
            Onto::Old,
            x.t(),
            slopes,
            1.0,
        );
        for (place, (columns, _)) in self.parts.iter().enumerate() {
            let (d_b, after) = rest.split_at_mut(self.rank * columns.len());
            rest = after;
            let mut d_b = MatMut::new(d_b, self.rank, columns.len());
            let inner = inner.columns(self.of(place)).t();
            matmul(
                &mut d_b,
                Onto::Old,
                inner,
                dy.columns(columns.clone()),
                self.scale,
            );
        }
    }

    /// Adds `scale A B` to the layer's own matrix, `[inputs, outputs]`.
    pub fn merge(&self, weight: &mut [f32]) {
        let height = self.a.height();
        let width = weight.len() / height;
        self.outer(self.a, &mut MatMut::new(weight, height, width));
    }

    /// Adds the product with each `B`.
    fn outer(&self, inner: Mat<'_>, y: &mut MatMut<'_>) {
        for (place, (columns, b)) in self.parts.iter().enumerate() {
            let mut to = y.columns_mut(columns.clone());
            matmul(
                &mut to,
                Onto::Old,
                inner.columns(self.of(place)),
                *b,
                self.scale,
            );
        }
    }

    /// `x A`.
    fn inner(&self, x: Mat<'_>) -> Buffer {
        let mut inner = Buffer::new(x.height() * self.a.width());
        let mut view = MatMut::new(&mut inner, x.height(), self.a.width());
        matmul(&mut view, Onto::Nothing, x, self.a, 1.0);
        inner
    }

    /// The gradient of `x A`.
    fn slopes(&self, dy: Mat<'_>) -> Buffer {
        let mut slopes = Buffer::new(dy.height() * self.a.width());
        let mut view = MatMut::new(&mut slopes, dy.height(), self.a.width());
        for (place, (columns, b)) in self.parts.iter().enumerate() {
            let mut to = view.columns_mut(self.of(place));
            matmul(
                &mut to,
                Onto::Nothing,
                dy.columns(columns.clone()),
                b.t(),
                self.scale,
            );
        }
        slopes
    }

    /// The columns of one adapter in `x A`.
    fn of(&self, place: usize) -> Range<usize> {
        place * self.rank..(place + 1) * self.rank
    }
}
