//! Batches as bytes, for training loops that are written in something else.

use serde::Serialize;

use super::{GlobalBatch, Pick};
use crate::batch::{Batch, BatchIds};

/// What becomes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Three NumPy arrays a batch, each of its rows and positions: ids (`int32`), targets
    /// (`int32`, [`UNSCORED`] where none is scored) and weights of targets (`float32`).
    Npy,
    /// Ids alone, two bytes each, in rows of one length.
    U16 {
        /// How many ids a row has.
        length: usize,
        /// What fills shorter rows.
        pad: u16,
    },
    /// An object a row, without its padding.
    Jsonl,
}

/// The target of a position that is not scored, as PyTorch's cross entropy ignores it.
pub const UNSCORED: i32 = -100;

/// One line of [`Format::Jsonl`].
#[derive(Serialize)]
struct Line<'a> {
    batch: u64,
    dataset: usize,
    epoch: u64,
    row: u64,
    prefix: u32,
    ids: &'a [u32],
    targets: &'a [i32],
    weights: &'a [f32],
}

/// Appends a global batch to `out`; `rows` names its rows.
pub fn write(
    batch: &GlobalBatch,
    rows: &[Pick],
    format: Format,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let mut rows = rows.iter();
    if batch.micro_batches.is_empty() && format == Format::Npy {
        // A rank without rows has as many batches as the others.
        npy(&Batch::default(), out);
    }
    for micro in &batch.micro_batches {
        match format {
            Format::Npy => npy(micro, out),
            Format::U16 { length, pad } => u16s(micro, length, pad, out),
            Format::Jsonl => lines(micro, batch.index, &mut rows, out)?,
        }
    }
    Ok(())
}

fn npy(batch: &Batch, out: &mut Vec<u8>) {
    header("<i4", batch, out);
    match &batch.ids {
        BatchIds::U16(ids) => extend(out, ids.iter().map(|id| u32::from(*id).to_le_bytes())),
        BatchIds::U32(ids) => extend(out, ids.iter().map(|id| id.to_le_bytes())),
    }
    header("<i4", batch, out);
    extend(
        out,
        targets(batch).iter().map(|target| target.to_le_bytes()),
    );
    header("<f4", batch, out);
    extend(
        out,
        batch.weights().iter().map(|weight| weight.to_le_bytes()),
    );
}

/// The header of version 1.0 of NumPy's format, which fills a multiple of 64 bytes.
fn header(kind: &str, batch: &Batch, out: &mut Vec<u8>) {
    let (rows, length) = (batch.rows, batch.length);
    let text =
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({rows}, {length}), }}");
    const BEFORE: usize = 10;
    let size = (BEFORE + text.len() + 1).next_multiple_of(64) - BEFORE;
    out.extend_from_slice(b"\x93NUMPY\x01\x00");
    // Two numbers make it 256 at most.
    out.extend_from_slice(&u16::try_from(size).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(format!("{text:<0$}\n", size - 1).as_bytes());
}

fn u16s(batch: &Batch, length: usize, pad: u16, out: &mut Vec<u8>) {
    let BatchIds::U16(ids) = &batch.ids else {
        return;
    };
    for row in ids.chunks(batch.length.max(1)) {
        let row = row.get(..length).unwrap_or(row);
        extend(out, row.iter().map(|id| id.to_le_bytes()));
        extend(
            out,
            std::iter::repeat_n(pad.to_le_bytes(), length - row.len()),
        );
    }
}

fn lines<'a>(
    batch: &Batch,
    index: u64,
    rows: &mut impl Iterator<Item = &'a Pick>,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let length = batch.length.max(1);
    let (ids, targets, weights) = (batch.ids.widened(), targets(batch), batch.weights());
    let values = ids
        .chunks(length)
        .zip(targets.chunks(length))
        .zip(weights.chunks(length));
    let rows = rows.zip(batch.lengths.iter().zip(&batch.prefixes));
    for ((pick, (n, prefix)), ((ids, targets), weights)) in rows.zip(values) {
        let n = *n as usize;
        let line = Line {
            batch: index,
            dataset: pick.member,
            epoch: pick.epoch,
            row: pick.index,
            prefix: *prefix,
            ids: ids.get(..n).unwrap_or(ids),
            targets: targets.get(..n).unwrap_or(targets),
            weights: weights.get(..n).unwrap_or(weights),
        };
        serde_json::to_writer(&mut *out, &line)?;
        out.push(b'\n');
    }
    Ok(())
}

fn targets(batch: &Batch) -> Vec<i32> {
    let scored = |(position, target): (usize, u32)| match batch.is_scored(position) {
        // An id is less than 2^31: a row of a model's embedding.
        true => i32::try_from(target).unwrap_or(UNSCORED),
        false => UNSCORED,
    };
    batch
        .targets()
        .into_iter()
        .enumerate()
        .map(scored)
        .collect()
}

fn extend<const N: usize>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = [u8; N]>) {
    out.reserve(N * values.len());
    out.extend(values.flatten());
}
