//! The operations on burn's CUDA tensors: what is allocated, and what is queued.

#![expect(
    clippy::too_many_arguments,
    reason = "burn's macro takes the tensors of an operation one by one"
)]

use std::sync::Arc;

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Device, Int, Shape as Extents, Tensor, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::block::{self, Saved};
use super::bridge::submit;
use super::embedding::{self, Segments};
use super::engine::{Error, Pointer, Precision};
use super::kernels::{Kernels, Tables, element};
use super::loss::{self, Factors};
use crate::model::layout::Part;
use crate::model::ops::numbers::Limits;
use crate::model::ops::{AdamStep, Pass};

/// What the operations of a pass need of it on the device; uploaded once a pass.
#[derive(Clone, Debug)]
pub struct Uploaded {
    /// Cosines, then sines, of rotary angles; one number without rotary positions.
    pub rope: Tensor<1>,
    /// Of each position its place, then the range of keys that it sees; one number where
    /// rows are whole documents seen from left to right.
    pub seen: Tensor<1, Int>,
}

impl Uploaded {
    /// Sends what a pass knows to the device.
    pub fn new(pass: &Pass, device: &Device) -> Self {
        let rope = match &pass.shape.rope {
            Some(rope) => [rope.cos(), rope.sin()].concat(),
            None => vec![0.0],
        };
        let positions = if pass.mask.is_causal() {
            0
        } else {
            pass.extent.positions()
        };
        let places = (0..positions).map(|at| pass.mask.reach(at).place());
        let ranges = (0..positions).map(|at| pass.mask.reach(at).keys());
        let ranges = ranges.flat_map(|keys| [keys.start, keys.end]);
        let mut seen: Vec<i32> = places.chain(ranges).map(int).collect();
        if seen.is_empty() {
            seen.push(0);
        }
        let rope_len = rope.len();
        Self {
            rope: Tensor::from_data(TensorData::new(rope, [rope_len]), device),
            seen: integers(seen, device),
        }
    }
}

/// A place or a number of rows: fewer than 2^31, as kernels check.
fn int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// An array of integers on the device.
pub fn integers(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, DType::I32))
}

/// Where [`Uploaded`]'s arrays are.
fn tables(pass: &Pass, rope: Pointer, seen: Pointer) -> Tables {
    let half = pass.shape.rope.as_ref().map_or(0, |rope| rope.cos().len());
    let or_none = |on: bool, pointer| if on { pointer } else { Pointer::NONE };
    let general = !pass.mask.is_causal();
    Tables {
        cosines: or_none(0 < half, rope),
        sines: or_none(0 < half, element(rope, half)),
        places: or_none(general, seen),
        reach: or_none(general, element(seen, pass.extent.positions())),
    }
}

/// The programs of the device, each one operation of burn's queue.
#[backend_extension(Cube, Fusion)]
pub trait Programs: Backend {
    /// The residual stream, `[n, d]`.
    #[fusion(meta = |_params, _ids, _seen, pass| stream(pass))]
    fn embedding_forward(
        params: FloatTensor<Self>,
        ids: IntTensor<Self>,
        seen: IntTensor<Self>,
        pass: Pass,
    ) -> FloatTensor<Self>;
    /// The gradient of the group.
    #[fusion(meta = |_dy, _rows, _segments, pass| vector(pass.shape.embedding.len))]
    fn embedding_backward(
        dy: FloatTensor<Self>,
        rows: IntTensor<Self>,
        segments: Arc<[Segments; 2]>,
        pass: Pass,
    ) -> FloatTensor<Self>;
    /// The residual stream after a block, and what the way back reads.
    #[fusion(meta = |_x, _params, _rope, _seen, pass, precision| {
        (stream(pass), vector(saved(pass, *precision)))
    })]
    fn block_forward(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        seen: IntTensor<Self>,
        pass: Pass,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The gradients of the residual stream before a block and of its group.
    #[fusion(meta = |_x, _params, _saved, _dy, _rope, _seen, pass, _precision| {
        (stream(pass), vector(pass.shape.block.len))
    })]
    fn block_backward(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        seen: IntTensor<Self>,
        pass: Pass,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Cross entropy and z-loss, in the first two of four numbers.
    #[fusion(meta = |_x, _last, _embedding, _scored, _count, _factors, _pass, _precision| vector(4))]
    fn loss_forward(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        scored: IntTensor<Self>,
        count: usize,
        factors: Factors,
        pass: Pass,
        precision: Precision,
    ) -> FloatTensor<Self>;
    /// The same, and the gradients of the residual stream and of the groups `final` and
    /// `embedding`; the last is nothing where its table is not the head.
    #[fusion(meta = |_x, _last, _embedding, _scored, _count, _factors, pass, _precision| {
        (vector(4), stream(pass), vector(pass.shape.last.len), vector(tied(pass)))
    })]
    fn loss_gradients(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        scored: IntTensor<Self>,
        count: usize,
        factors: Factors,
        pass: Pass,
        precision: Precision,
    ) -> (
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
        FloatTensor<Self>,
    );
    /// Parameters and both moments after a step.
    #[fusion(meta = |param, _gradient, first, second, _numbers, _step, _parts| {
        (param.clone(), first.clone(), second.clone())
    })]
    fn adamw(
        param: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        numbers: FloatTensor<Self>,
        step: AdamStep,
        parts: Vec<Part>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// One number, the sum of the squares added to one before.
    #[fusion(meta = |_gradient, _before| vector(1))]
    fn squares(gradient: FloatTensor<Self>, before: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The numbers of a step.
    #[fusion(meta = |_sums, _squares, _limits| vector(4))]
    fn numbers(
        sums: FloatTensor<Self>,
        squares: FloatTensor<Self>,
        limits: Limits,
    ) -> FloatTensor<Self>;
}

fn stream(pass: &Pass) -> TensorSpec {
    TensorSpec::new(
        Extents::from([pass.extent.positions(), pass.shape.d]),
        DType::F32,
    )
}

fn vector(len: usize) -> TensorSpec {
    TensorSpec::new(Extents::from([len]), DType::F32)
}

/// Numbers of single precision that what a block keeps takes.
fn saved(pass: &Pass, precision: Precision) -> usize {
    Saved::new(&pass.shape, pass.extent, precision).bytes / 4
}

/// Numbers of the gradient of the embedding that the head has.
fn tied(pass: &Pass) -> usize {
    match pass.shape.last.head {
        None => pass.shape.embedding.len,
        Some(_) => 1,
    }
}

/// A new tensor beside another.
fn beside(of: &CubeTensor, spec: TensorSpec) -> CubeTensor {
    empty_device_contiguous_dtype(of.client.clone(), of.device.clone(), spec.shape, spec.dtype)
}

fn bytes(of: &CubeTensor, bytes: usize) -> CubeTensor {
    beside(of, vector(bytes.div_ceil(4).max(1)))
}

impl Programs for CubeBackend {
    fn embedding_forward(
        params: CubeTensor,
        ids: CubeTensor,
        seen: CubeTensor,
        pass: Pass,
    ) -> CubeTensor {
        let [params, ids, seen] = [params, ids, seen].map(into_contiguous);
        let out = beside(&params, stream(&pass));
        let reads = [&params, &ids, &seen];
        submit(
            &params,
            Precision::Single,
            &reads,
            &[&out],
            move |engine, read, written| {
                let ([params, ids, seen], [out]) = (known(read)?, known(written)?);
                let places = tables(&pass, Pointer::NONE, seen).places;
                embedding::forward(&mut Kernels::new(engine), &pass, params, (ids, places), out)
            },
        );
        out
    }

    fn embedding_backward(
        dy: CubeTensor,
        rows: CubeTensor,
        segments: Arc<[Segments; 2]>,
        pass: Pass,
    ) -> CubeTensor {
        let [dy, rows] = [dy, rows].map(into_contiguous);
        let gradient = beside(&dy, vector(pass.shape.embedding.len));
        let reads = [&dy, &rows];
        submit(
            &dy,
            Precision::Single,
            &reads,
            &[&gradient],
            move |engine, read, written| {
                let ([dy, rows], [gradient]) = (known(read)?, known(written)?);
                let [by_id, by_place] = &*segments;
                let ids = (by_id, rows);
                let places = (by_place, element(rows, by_id.joined().len()));
                let kernels = &mut Kernels::new(engine);
                embedding::backward(kernels, &pass, dy, ids, places, gradient)
            },
        );
        gradient
    }

    fn block_forward(
        x: CubeTensor,
        params: CubeTensor,
        rope: CubeTensor,
        seen: CubeTensor,
        pass: Pass,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor) {
        let [x, params, rope, seen] = [x, params, rope, seen].map(into_contiguous);
        let y = beside(&x, stream(&pass));
        let saved = beside(&x, vector(saved(&pass, precision)));
        let need = block::Work::forward(&pass.shape, pass.extent, precision).bytes;
        let work = bytes(&x, need);
        let reads = [&x, &params, &rope, &seen];
        let writes = [&y, &saved, &work];
        submit(
            &x,
            precision,
            &reads,
            &writes,
            move |engine, read, written| {
                let [x, params, rope, seen] = known(read)?;
                let [y, saved, work] = known(written)?;
                let arrays = block::Arrays {
                    x,
                    params,
                    saved,
                    work,
                    tables: tables(&pass, rope, seen),
                };
                block::forward(&mut Kernels::new(engine), &pass, arrays, y)
            },
        );
        (y, saved)
    }

    fn block_backward(
        x: CubeTensor,
        params: CubeTensor,
        saved: CubeTensor,
        dy: CubeTensor,
        rope: CubeTensor,
        seen: CubeTensor,
        pass: Pass,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor) {
        let tensors = [x, params, saved, dy, rope, seen];
        let [x, params, saved, dy, rope, seen] = tensors.map(into_contiguous);
        let dx = beside(&x, stream(&pass));
        let gradient = beside(&x, vector(pass.shape.block.len));
        let need = block::Work::backward(&pass.shape, pass.extent, precision).bytes;
        let work = bytes(&x, need);
        // The norms' statistics are written once more.
        let reads = [&x, &params, &dy, &rope, &seen];
        let writes = [&dx, &gradient, &work, &saved];
        submit(
            &x,
            precision,
            &reads,
            &writes,
            move |engine, read, written| {
                let [x, params, dy, rope, seen] = known(read)?;
                let [dx, gradient, work, saved] = known(written)?;
                let arrays = block::Arrays {
                    x,
                    params,
                    saved,
                    work,
                    tables: tables(&pass, rope, seen),
                };
                let kernels = &mut Kernels::new(engine);
                block::backward(kernels, &pass, arrays, dy, (dx, gradient))
            },
        );
        (dx, gradient)
    }

    fn loss_forward(
        x: CubeTensor,
        last: CubeTensor,
        embedding: CubeTensor,
        scored: CubeTensor,
        count: usize,
        factors: Factors,
        pass: Pass,
        precision: Precision,
    ) -> CubeTensor {
        let [x, last, embedding, scored] = [x, last, embedding, scored].map(into_contiguous);
        let loss = beside(&x, vector(4));
        let work = bytes(&x, loss::Work::new(&pass.shape, count, precision).bytes);
        let reads = [&x, &last, &embedding, &scored];
        submit(
            &x,
            precision,
            &reads,
            &[&loss, &work],
            move |engine, read, written| {
                let [loss, work] = known(written)?;
                let arrays = loss_arrays(known(read)?, count, work);
                let kernels = &mut Kernels::new(engine);
                loss::run(
                    kernels,
                    (&pass.shape, pass.extent),
                    (count, factors),
                    arrays,
                    loss,
                    None,
                )
            },
        );
        loss
    }

    fn loss_gradients(
        x: CubeTensor,
        last: CubeTensor,
        embedding: CubeTensor,
        scored: CubeTensor,
        count: usize,
        factors: Factors,
        pass: Pass,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let [x, last, embedding, scored] = [x, last, embedding, scored].map(into_contiguous);
        let loss = beside(&x, vector(4));
        let dx = beside(&x, stream(&pass));
        let d_last = beside(&x, vector(pass.shape.last.len));
        let d_embedding = beside(&x, vector(tied(&pass)));
        let work = bytes(&x, loss::Work::new(&pass.shape, count, precision).bytes);
        let reads = [&x, &last, &embedding, &scored];
        let writes = [&loss, &work, &dx, &d_last, &d_embedding];
        submit(
            &x,
            precision,
            &reads,
            &writes,
            move |engine, read, written| {
                let [loss, work, x, last, embedding] = known(written)?;
                let arrays = loss_arrays(known(read)?, count, work);
                let gradients = loss::Gradients { x, last, embedding };
                let kernels = &mut Kernels::new(engine);
                let of = (&*pass.shape, pass.extent);
                loss::run(kernels, of, (count, factors), arrays, loss, Some(gradients))
            },
        );
        (loss, dx, d_last, d_embedding)
    }

    fn adamw(
        param: CubeTensor,
        gradient: CubeTensor,
        first: CubeTensor,
        second: CubeTensor,
        numbers: CubeTensor,
        step: AdamStep,
        parts: Vec<Part>,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let tensors = [param, gradient, first, second, numbers];
        let [param, gradient, first, second, numbers] = tensors.map(into_contiguous);
        // In place where nobody else holds the array.
        let [to_param, to_first, to_second] =
            [&param, &first, &second].map(|of| match of.can_mut() {
                true => of.clone(),
                false => beside(of, vector(of.meta.shape().num_elements())),
            });
        let reads = [&param, &gradient, &first, &second, &numbers];
        let writes = [&to_param, &to_first, &to_second];
        submit(
            &param,
            Precision::Single,
            &reads,
            &writes,
            move |engine, read, written| {
                let [param, gradient, first, second, numbers] = known(read)?;
                let to = known(written)?;
                let kernels = &mut Kernels::new(engine);
                for part in &parts {
                    let at = |array| element(array, part.range.start);
                    let from = [param, gradient, first, second].map(at);
                    let step = (&step, step.keep(part.decay));
                    kernels.adamw(from, to.map(at), numbers, step, part.range.len())?;
                }
                Ok(())
            },
        );
        (to_param, to_first, to_second)
    }

    fn squares(gradient: CubeTensor, before: CubeTensor) -> CubeTensor {
        let [gradient, before] = [gradient, before].map(into_contiguous);
        let count = gradient.meta.shape().num_elements();
        let (sum, partial) = (beside(&gradient, vector(1)), bytes(&gradient, 4 * 512));
        let (reads, writes) = ([&gradient, &before], [&sum, &partial]);
        submit(
            &gradient,
            Precision::Single,
            &reads,
            &writes,
            move |engine, read, written| {
                let ([gradient, before], [sum, partial]) = (known(read)?, known(written)?);
                let from = (gradient, before);
                Kernels::new(engine).squares(from, (partial, sum), count)
            },
        );
        sum
    }

    fn numbers(sums: CubeTensor, squares: CubeTensor, limits: Limits) -> CubeTensor {
        let [sums, squares] = [sums, squares].map(into_contiguous);
        let numbers = beside(&sums, vector(4));
        submit(
            &sums,
            Precision::Single,
            &[&sums, &squares],
            &[&numbers],
            move |engine, read, written| {
                let ([sums, squares], [numbers]) = (known(read)?, known(written)?);
                Kernels::new(engine).numbers((sums, squares), numbers, &limits)
            },
        );
        numbers
    }
}

/// As many addresses as there are tensors.
fn known<const N: usize>(pointers: &[Pointer]) -> Result<[Pointer; N], Error> {
    pointers.try_into().map_err(|_| Error::Device {
        action: "finding the arrays of an operation".into(),
        reason: format!("{} of {N} are there", pointers.len()),
    })
}

fn loss_arrays(read: [Pointer; 4], count: usize, work: Pointer) -> loss::Arrays {
    let [x, last, embedding, scored] = read;
    loss::Arrays {
        x,
        last,
        embedding,
        rows: scored,
        targets: element(scored, count),
        weights: element(scored, 2 * count),
        work,
    }
}
