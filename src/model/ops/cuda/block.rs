//! A transformer block on the device, forward and backward.
//!
//! The residual stream is single precision, activations are as the engine says. The
//! forward pass keeps what [`Saved`] names; norms and activations are computed again.

use super::arena::{Arena, Place};
use super::engine::{Error, Matrix, Pointer, Precision, Product};
use super::kernels::{Attended, Kernels, Norm, Residual, Sums, Tables, element};
use crate::model::config::Activation;
use crate::model::layout::LinearLayout;
use crate::model::ops::{Extent, Pass, Shape};

/// Where the forward pass keeps what the backward pass reads, in one array.
#[derive(Clone, Copy, Debug)]
pub struct Saved {
    statistics1: Place,
    /// Query, key and value columns, turned.
    qkv: Place,
    attended: Place,
    logs: Place,
    /// The residual stream after attention.
    middle: Place,
    statistics2: Place,
    /// The feed-forward layer before its activation.
    up: Place,
    /// Of the array.
    pub bytes: usize,
}

impl Saved {
    /// By shape and extent.
    pub fn new(shape: &Shape, extent: Extent, precision: Precision) -> Self {
        let (mut arena, n, real) = (Arena::default(), extent.positions(), precision.bytes());
        let saved = Self {
            statistics1: arena.take(2 * n, 4),
            qkv: arena.take(n * shape.qkv_width(), real),
            attended: arena.take(n * shape.query_width(), real),
            logs: arena.take(n * shape.heads, 4),
            middle: arena.take(n * shape.d, 4),
            statistics2: arena.take(2 * n, 4),
            up: arena.take(n * shape.block.up.outputs, real),
            bytes: 0,
        };
        Self {
            bytes: arena.bytes(),
            ..saved
        }
    }
}

/// Where each pass keeps what it needs no longer than itself.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// The group in the precision of activations.
    weights: Place,
    /// `[n, d]`, or as wide as the queries where these are wider.
    hidden: Place,
    /// `[n, d]`, twice.
    d_hidden: Place,
    slim: Place,
    /// `[n, d_ff]`.
    active: Place,
    d_up: Place,
    d_qkv: Place,
    deltas: Place,
    partial: Place,
    /// Of the array.
    pub bytes: usize,
}

impl Work {
    /// What [`forward`] needs; the places of the way back are not to be used.
    pub fn forward(shape: &Shape, extent: Extent, precision: Precision) -> Self {
        Self::new(shape, extent, precision, false)
    }

    /// What [`backward`] needs.
    pub fn backward(shape: &Shape, extent: Extent, precision: Precision) -> Self {
        Self::new(shape, extent, precision, true)
    }

    fn new(shape: &Shape, extent: Extent, precision: Precision, back: bool) -> Self {
        let (mut arena, real) = (Arena::default(), precision.bytes());
        let n = extent.positions();
        let widest = (2 * shape.d)
            .max(shape.block.up.outputs)
            .max(shape.qkv_width());
        let weights = arena.take(shape.block.len, real);
        let hidden = arena.take(n * shape.d.max(shape.query_width()), real);
        let active = arena.take(n * shape.d_ff, real);
        // What only the way back needs comes last.
        let n = if back { n } else { 0 };
        let work = Self {
            weights,
            hidden,
            active,
            d_hidden: arena.take(n * shape.d, real),
            slim: arena.take(n * shape.d, real),
            d_up: arena.take(n * shape.block.up.outputs, real),
            d_qkv: arena.take(n * shape.qkv_width(), real),
            deltas: arena.take(n * shape.heads, 4),
            partial: arena.take(Sums::new(n).blocks * widest, 4),
            bytes: 0,
        };
        Self {
            bytes: arena.bytes(),
            ..work
        }
    }
}

/// The arrays of a block that both passes read, and its working memory.
#[derive(Clone, Copy, Debug)]
pub struct Arrays {
    /// The residual stream, `[n, d]`.
    pub x: Pointer,
    /// The group.
    pub params: Pointer,
    /// [`Saved`].
    pub saved: Pointer,
    /// [`Work`].
    pub work: Pointer,
    /// What positions see.
    pub tables: Tables,
}

/// One pass through a block.
struct Block<'a> {
    pass: &'a Pass,
    precision: Precision,
    arrays: Arrays,
    saved: Saved,
    work: Work,
}

/// Writes the block's output to `y` and fills `saved`.
pub fn forward(
    kernels: &mut Kernels<'_>,
    pass: &Pass,
    arrays: Arrays,
    y: Pointer,
) -> Result<(), Error> {
    let block = Block::new(kernels.precision(), pass, arrays, Work::forward);
    block.forward(kernels, y)
}

/// Given the gradient `dy` of the output, writes those of `x` and of the group.
pub fn backward(
    kernels: &mut Kernels<'_>,
    pass: &Pass,
    arrays: Arrays,
    dy: Pointer,
    (dx, gradient): (Pointer, Pointer),
) -> Result<(), Error> {
    let block = Block::new(kernels.precision(), pass, arrays, Work::backward);
    block.backward_upper(kernels, dy, dx, gradient)?;
    block.backward_lower(kernels, dx, gradient)
}

impl<'a> Block<'a> {
    /// `work` is one of [`Work::forward`] and [`Work::backward`].
    fn new(
        precision: Precision,
        pass: &'a Pass,
        arrays: Arrays,
        work: fn(&Shape, Extent, Precision) -> Work,
    ) -> Self {
        Self {
            pass,
            precision,
            arrays,
            saved: Saved::new(&pass.shape, pass.extent, precision),
            work: work(&pass.shape, pass.extent, precision),
        }
    }

    fn forward(&self, k: &mut Kernels<'_>, y: Pointer) -> Result<(), Error> {
        let (saved, work) = (self.saved, self.work);
        let Arrays {
            x, params, tables, ..
        } = self.arrays;
        let (shape, extent) = (&*self.pass.shape, self.pass.extent);
        let (layout, n) = (&shape.block, extent.positions());
        let (hidden, active) = (self.work(work.hidden), self.work(work.active));
        let (qkv, up) = (self.kept(saved.qkv), self.kept(saved.up));
        let (norm1, norm2) = (self.norm1(), self.norm2());
        let attended = self.attended();
        let weights = self.work(work.weights);
        let bias = |layer: &LinearLayout| bias(params, layer);
        let products = [
            self.product(&layout.qkv, hidden, qkv),
            self.product(&layout.out, attended.out, hidden),
            self.product(&layout.up, hidden, up),
            self.product(&layout.down, active, hidden),
        ];
        let [into_qkv, out_of_attention, into_up, out_of_active] = products;
        let gated = shape.activation == Activation::SwiGlu;

        k.narrowed(params, weights, layout.len)?;
        k.normalise(&norm1, None, hidden, shape)?;
        k.multiply(&into_qkv)?;
        if shape.rope.is_some() || layout.qkv.bias.is_some() {
            k.turn(qkv, bias(&layout.qkv), &tables, 1.0, (shape, extent))?;
        }
        k.attention(&attended, (shape, extent))?;
        k.multiply(&out_of_attention)?;
        let residual = Residual {
            y: hidden,
            bias: bias(&layout.out),
            sum: norm2.x,
        };
        // The sum is written while it is normalised.
        k.normalise(&Norm { x, ..norm2 }, Some(residual), hidden, shape)?;
        k.multiply(&into_up)?;
        k.activate((up, bias(&layout.up), active), gated, (n, shape.d_ff))?;
        k.multiply(&out_of_active)?;
        k.add((norm2.x, hidden, bias(&layout.down)), y, (n, shape.d))
    }

    /// From the output back to what attention returned, whose gradient is left in `hidden`;
    /// that of the residual stream in `dx`.
    fn backward_upper(
        &self,
        k: &mut Kernels<'_>,
        dy: Pointer,
        dx: Pointer,
        gradient: Pointer,
    ) -> Result<(), Error> {
        let (saved, work) = (self.saved, self.work);
        let shape = &*self.pass.shape;
        let (layout, n) = (&shape.block, self.pass.extent.positions());
        let [hidden, d_hidden, slim, active, d_up, weights] = [
            work.hidden,
            work.d_hidden,
            work.slim,
            work.active,
            work.d_up,
            work.weights,
        ]
        .map(|place| self.work(place));
        let (up, attended) = (self.kept(saved.up), self.kept(saved.attended));
        let (norm2, gated) = (self.norm2(), shape.activation == Activation::SwiGlu);

        let params = self.arrays.params;
        k.narrowed(params, weights, layout.len)?;
        k.narrowed(dy, slim, n * shape.d)?;
        self.back(k, &layout.down, slim, active)?;
        let arrays = (up, active, d_up);
        k.activate_back(arrays, gated, (n, shape.d_ff))?;
        self.gradients(k, &layout.down, (active, slim), gradient)?;
        self.back(k, &layout.up, d_up, d_hidden)?;
        k.normalise(&norm2, None, hidden, shape)?;
        self.gradients(k, &layout.up, (hidden, d_up), gradient)?;
        self.norm_back(k, &norm2, (d_hidden, dy), (dx, slim), gradient)?;
        self.gradients(k, &layout.out, (attended, slim), gradient)?;
        self.back(k, &layout.out, slim, hidden)
    }

    /// From attention back to the input, whose gradient is added to `dx`.
    fn backward_lower(
        &self,
        k: &mut Kernels<'_>,
        dx: Pointer,
        gradient: Pointer,
    ) -> Result<(), Error> {
        let work = self.work;
        let (shape, extent) = (&*self.pass.shape, self.pass.extent);
        let layout = &shape.block;
        let [hidden, d_hidden, d_qkv, deltas] =
            [work.hidden, work.d_hidden, work.d_qkv, work.deltas].map(|place| self.work(place));
        let (attended, norm1) = (self.attended(), self.norm1());
        let arrays = (hidden, deltas, d_qkv);
        k.attention_back(&attended, arrays, (shape, extent))?;
        if shape.rope.is_some() {
            let tables = self.arrays.tables;
            k.turn(d_qkv, Pointer::NONE, &tables, -1.0, (shape, extent))?;
        }
        k.normalise(&norm1, None, hidden, shape)?;
        self.gradients(k, &layout.qkv, (hidden, d_qkv), gradient)?;
        self.back(k, &layout.qkv, d_qkv, d_hidden)?;
        self.norm_back(k, &norm1, (d_hidden, dx), (dx, Pointer::NONE), gradient)
    }

    /// `out = x W` of a layer, without its bias.
    fn product(&self, layer: &LinearLayout, x: Pointer, out: Pointer) -> Product {
        let precision = self.precision;
        Product {
            m: self.pass.extent.positions(),
            n: layer.outputs,
            k: layer.inputs,
            a: Matrix::new(x, layer.inputs, precision),
            b: self.weight(layer),
            out: Matrix::new(out, layer.outputs, precision),
            onto: false,
        }
    }

    /// Given the gradient of a layer's output, writes that of its input.
    fn back(
        &self,
        k: &mut Kernels<'_>,
        layer: &LinearLayout,
        dy: Pointer,
        dx: Pointer,
    ) -> Result<(), Error> {
        let precision = self.precision;
        k.multiply(&Product {
            m: self.pass.extent.positions(),
            n: layer.inputs,
            k: layer.outputs,
            a: Matrix::new(dy, layer.outputs, precision),
            b: self.weight(layer).t(),
            out: Matrix::new(dx, layer.inputs, precision),
            onto: false,
        })
    }

    /// Writes the gradients of a layer's weight and bias, given its input and that of its
    /// output.
    fn gradients(
        &self,
        k: &mut Kernels<'_>,
        layer: &LinearLayout,
        (x, dy): (Pointer, Pointer),
        gradient: Pointer,
    ) -> Result<(), Error> {
        let (precision, n) = (self.precision, self.pass.extent.positions());
        if let Some(bias) = &layer.bias {
            let to = element(gradient, bias.start);
            let partial = self.work(self.work.partial);
            k.column_sums(dy, (partial, to), (n, layer.outputs))?;
        }
        let weight = element(gradient, layer.weight.start);
        k.multiply(&Product {
            m: layer.inputs,
            n: layer.outputs,
            k: n,
            a: Matrix::new(x, layer.inputs, precision).t(),
            b: Matrix::new(dy, layer.outputs, precision),
            out: Matrix::new(weight, layer.outputs, Precision::Single),
            onto: false,
        })
    }

    /// See [`Kernels::normalise_back`]; gain and shift lie side by side in the gradient.
    fn norm_back(
        &self,
        k: &mut Kernels<'_>,
        norm: &Norm<'_>,
        given: (Pointer, Pointer),
        written: (Pointer, Pointer),
        gradient: Pointer,
    ) -> Result<(), Error> {
        let shape = &*self.pass.shape;
        let partial = self.work(self.work.partial);
        k.normalise_back(norm, given, written, partial, shape)?;
        let width = norm.layout.bias.as_ref().map_or(1, |_| 2) * shape.d;
        let to = element(gradient, norm.layout.weight.start);
        let blocks = Sums::new(norm.count).blocks;
        k.sum_rows(partial, to, (blocks, width))
    }

    fn norm1(&self) -> Norm<'_> {
        Norm {
            params: self.arrays.params,
            layout: &self.pass.shape.block.norm1,
            x: self.arrays.x,
            rows: Pointer::NONE,
            statistics: self.kept(self.saved.statistics1),
            count: self.pass.extent.positions(),
        }
    }

    fn norm2(&self) -> Norm<'_> {
        Norm {
            layout: &self.pass.shape.block.norm2,
            x: self.kept(self.saved.middle),
            statistics: self.kept(self.saved.statistics2),
            ..self.norm1()
        }
    }

    fn attended(&self) -> Attended {
        Attended {
            qkv: self.kept(self.saved.qkv),
            reach: self.arrays.tables.reach,
            out: self.kept(self.saved.attended),
            logs: self.kept(self.saved.logs),
        }
    }

    fn weight(&self, layer: &LinearLayout) -> Matrix {
        let precision = self.precision;
        let weights = self.work(self.work.weights);
        let pointer = weights.at(layer.weight.start * precision.bytes());
        Matrix::new(pointer, layer.outputs, precision)
    }

    fn kept(&self, place: Place) -> Pointer {
        place.of(self.arrays.saved)
    }

    fn work(&self, place: Place) -> Pointer {
        place.of(self.arrays.work)
    }
}

/// A layer's bias in its group, or none.
fn bias(params: Pointer, layer: &LinearLayout) -> Pointer {
    let bias = layer.bias.as_ref();
    bias.map_or(Pointer::NONE, |bias| element(params, bias.start))
}
