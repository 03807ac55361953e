//! The operations on burn's CUDA tensors: what is allocated, and what is queued.

#![expect(
    clippy::too_many_arguments,
    reason = "burn's macro takes the tensors of an operation one by one"
)]

use std::sync::Arc;

use burn::backend::fusion::custom::TensorSpec;
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};
use burn::tensor::{DType, Shape as Extents};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;

use super::batch::{Held, Packed};
use super::block::{self, Saved};
use super::bridge::submit;
use super::embedding;
use super::engine::{Error, Pointer, Precision};
use super::kernels::{Kernels, element};
use super::loss::{self, Factors};
use crate::model::layout::Part;
use crate::model::ops::numbers::Limits;
use crate::model::ops::{AdamStep, Pass};

/// A batch that is sent, as the programs take it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Shape, extent, mask.
    pub pass: Pass,
    /// The rest.
    pub packed: Arc<Packed>,
}

impl Sent {
    fn held(&self, words: Pointer, rope: Pointer) -> Held {
        self.packed.held(&self.pass, words, rope)
    }
}

/// The programs of the device, each one operation of burn's queue.
#[backend_extension(Cube, Fusion)]
pub trait Programs: Backend {
    /// A batch as one array, beside any other of the device.
    #[fusion(meta = |_beside, batch| {
        TensorSpec::new(Extents::from([batch.packed.words.size()]), DType::I32)
    })]
    fn send(beside: FloatTensor<Self>, batch: Sent) -> IntTensor<Self>;
    /// The residual stream, `[n, d]`.
    #[fusion(meta = |_params, _words, batch| stream(&batch.pass))]
    fn embedding_forward(
        params: FloatTensor<Self>,
        words: IntTensor<Self>,
        batch: Sent,
    ) -> FloatTensor<Self>;
    /// The gradient of the group.
    #[fusion(meta = |_dy, _words, batch| vector(batch.pass.shape.embedding.len))]
    fn embedding_backward(
        dy: FloatTensor<Self>,
        words: IntTensor<Self>,
        batch: Sent,
    ) -> FloatTensor<Self>;
    /// The residual stream after a block, and what the way back reads.
    #[fusion(meta = |_x, _params, _rope, _words, batch, precision| {
        (stream(&batch.pass), vector(saved(&batch.pass, *precision)))
    })]
    fn block_forward(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        words: IntTensor<Self>,
        batch: Sent,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The gradients of the residual stream before a block and of its group.
    #[fusion(meta = |_x, _params, _saved, _dy, _rope, _words, batch, _precision| {
        (stream(&batch.pass), vector(batch.pass.shape.block.len))
    })]
    fn block_backward(
        x: FloatTensor<Self>,
        params: FloatTensor<Self>,
        saved: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        words: IntTensor<Self>,
        batch: Sent,
        precision: Precision,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// Cross entropy and z-loss, in the first two of four numbers.
    #[fusion(meta = |_x, _last, _embedding, _words, _factors, _batch, _precision| vector(4))]
    fn loss_forward(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        words: IntTensor<Self>,
        factors: Factors,
        batch: Sent,
        precision: Precision,
    ) -> FloatTensor<Self>;
    /// The same, and the gradients of the residual stream and of the groups `final` and
    /// `embedding`; the last is nothing where its table is not the head.
    #[fusion(meta = |_x, _last, _embedding, _words, _factors, batch, _precision| {
        let pass = &batch.pass;
        (vector(4), stream(pass), vector(pass.shape.last.len), vector(tied(pass)))
    })]
    fn loss_gradients(
        x: FloatTensor<Self>,
        last: FloatTensor<Self>,
        embedding: FloatTensor<Self>,
        words: IntTensor<Self>,
        factors: Factors,
        batch: Sent,
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
    fn send(beside_of: CubeTensor, batch: Sent) -> CubeTensor {
        let words = batch.packed.words.size();
        let spec = TensorSpec::new(Extents::from([words]), DType::I32);
        let words = beside(&beside_of, spec);
        submit(
            &beside_of,
            Precision::Single,
            &[],
            &[&words],
            move |engine, _, written| {
                let [words] = known(written)?;
                batch.packed.words.send(&mut Kernels::new(engine), words)
            },
        );
        words
    }

    fn embedding_forward(params: CubeTensor, words: CubeTensor, batch: Sent) -> CubeTensor {
        let [params, words] = [params, words].map(into_contiguous);
        let out = beside(&params, stream(&batch.pass));
        submit(
            &params,
            Precision::Single,
            &[&params, &words],
            &[&out],
            move |engine, read, written| {
                let ([params, words], [out]) = (known(read)?, known(written)?);
                let held = batch.held(words, Pointer::NONE);
                let ids = (held.ids, held.tables.places);
                embedding::forward(&mut Kernels::new(engine), &batch.pass, params, ids, out)
            },
        );
        out
    }

    fn embedding_backward(dy: CubeTensor, words: CubeTensor, batch: Sent) -> CubeTensor {
        let [dy, words] = [dy, words].map(into_contiguous);
        let gradient = beside(&dy, vector(batch.pass.shape.embedding.len));
        submit(
            &dy,
            Precision::Single,
            &[&dy, &words],
            &[&gradient],
            move |engine, read, written| {
                let ([dy, words], [gradient]) = (known(read)?, known(written)?);
                let runs = batch.held(words, Pointer::NONE).runs;
                let kernels = &mut Kernels::new(engine);
                embedding::backward(kernels, &batch.pass, dy, runs, gradient)
            },
        );
        gradient
    }

    fn block_forward(
        x: CubeTensor,
        params: CubeTensor,
        rope: CubeTensor,
        words: CubeTensor,
        batch: Sent,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor) {
        let [x, params, rope, words] = [x, params, rope, words].map(into_contiguous);
        let y = beside(&x, stream(&batch.pass));
        let saved = beside(&x, vector(saved(&batch.pass, precision)));
        let need = block::Work::forward(&batch.pass.shape, batch.pass.extent, precision).bytes;
        let work = bytes(&x, need);
        let reads = [&x, &params, &rope, &words];
        let writes = [&y, &saved, &work];
        submit(
            &x,
            precision,
            &reads,
            &writes,
            move |engine, read, written| {
                let [x, params, rope, words] = known(read)?;
                let [y, saved, work] = known(written)?;
                let arrays = block::Arrays {
                    x,
                    params,
                    saved,
                    work,
                    tables: batch.held(words, rope).tables,
                };
                block::forward(&mut Kernels::new(engine), &batch.pass, arrays, y)
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
        words: CubeTensor,
        batch: Sent,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor) {
        let tensors = [x, params, saved, dy, rope, words];
        let [x, params, saved, dy, rope, words] = tensors.map(into_contiguous);
        let dx = beside(&x, stream(&batch.pass));
        let gradient = beside(&x, vector(batch.pass.shape.block.len));
        let need = block::Work::backward(&batch.pass.shape, batch.pass.extent, precision).bytes;
        let work = bytes(&x, need);
        // The norms' statistics are written once more.
        let reads = [&x, &params, &dy, &rope, &words];
        let writes = [&dx, &gradient, &work, &saved];
        submit(
            &x,
            precision,
            &reads,
            &writes,
            move |engine, read, written| {
                let [x, params, dy, rope, words] = known(read)?;
                let [dx, gradient, work, saved] = known(written)?;
                let arrays = block::Arrays {
                    x,
                    params,
                    saved,
                    work,
                    tables: batch.held(words, rope).tables,
                };
                let kernels = &mut Kernels::new(engine);
                block::backward(kernels, &batch.pass, arrays, dy, (dx, gradient))
            },
        );
        (dx, gradient)
    }

    fn loss_forward(
        x: CubeTensor,
        last: CubeTensor,
        embedding: CubeTensor,
        words: CubeTensor,
        factors: Factors,
        batch: Sent,
        precision: Precision,
    ) -> CubeTensor {
        let [x, last, embedding, words] = [x, last, embedding, words].map(into_contiguous);
        let loss = beside(&x, vector(4));
        let work = bytes(
            &x,
            loss::Work::new(&batch.pass.shape, batch.packed.count, precision).bytes,
        );
        let reads = [&x, &last, &embedding, &words];
        submit(
            &x,
            precision,
            &reads,
            &[&loss, &work],
            move |engine, read, written| {
                let [loss, work] = known(written)?;
                let arrays = loss_arrays(known(read)?, &batch, work);
                let kernels = &mut Kernels::new(engine);
                loss::run(
                    kernels,
                    (&batch.pass.shape, batch.pass.extent),
                    (batch.packed.count, factors),
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
        words: CubeTensor,
        factors: Factors,
        batch: Sent,
        precision: Precision,
    ) -> (CubeTensor, CubeTensor, CubeTensor, CubeTensor) {
        let [x, last, embedding, words] = [x, last, embedding, words].map(into_contiguous);
        let loss = beside(&x, vector(4));
        let dx = beside(&x, stream(&batch.pass));
        let d_last = beside(&x, vector(batch.pass.shape.last.len));
        let d_embedding = beside(&x, vector(tied(&batch.pass)));
        let work = bytes(
            &x,
            loss::Work::new(&batch.pass.shape, batch.packed.count, precision).bytes,
        );
        let reads = [&x, &last, &embedding, &words];
        let writes = [&loss, &work, &dx, &d_last, &d_embedding];
        submit(
            &x,
            precision,
            &reads,
            &writes,
            move |engine, read, written| {
                let [loss, work, x, last, embedding] = known(written)?;
                let arrays = loss_arrays(known(read)?, &batch, work);
                let gradients = loss::Gradients { x, last, embedding };
                let kernels = &mut Kernels::new(engine);
                let of = (&*batch.pass.shape, batch.pass.extent);
                loss::run(
                    kernels,
                    of,
                    (batch.packed.count, factors),
                    arrays,
                    loss,
                    Some(gradients),
                )
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

fn loss_arrays(read: [Pointer; 4], batch: &Sent, work: Pointer) -> loss::Arrays {
    let [x, last, embedding, words] = read;
    let [rows, targets, weights] = batch.held(words, Pointer::NONE).scored;
    loss::Arrays {
        x,
        last,
        embedding,
        rows,
        targets,
        weights,
        work,
    }
}
