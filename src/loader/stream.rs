//! Batches as bytes, for training loops that are written in something else.

use serde::Serialize;

use super::{GlobalBatch, Pick};
use crate::batch::{Batch, BatchIds};
use crate::npy::{self, Kind};

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// A NumPy array a batch for each of these fields.
    Npy(Vec<Field>),
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

/// What an array says of a batch: of each position, unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The id (`int32`).
    Ids,
    /// The id in as many bytes as in the shards (`uint16` or `uint32`).
    NarrowIds,
    /// The target (`int32`), [`UNSCORED`] where none is scored.
    Targets,
    /// How much the target counts (`float32`).
    Weights,
    /// Whether the target counts, a bit each, the lowest first (`uint8`, an eighth as wide).
    Scored,
    /// Its place in its document (`int32`), see [`Batch::positions`].
    Positions,
    /// Which document of the row it belongs to (`int32`), -1 for padding; see
    /// [`Batch::documents`].
    Documents,
    /// Of each row: how many of its first ids are prefix (`int32`).
    Prefixes,
    /// Of each row: how many ids it has before its padding (`int32`).
    Lengths,
}

/// The arrays that most training loops take.
pub const USUAL: [Field; 3] = [Field::Ids, Field::Targets, Field::Weights];

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
    format: &Format,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    let mut rows = rows.iter();
    if let (Format::Npy(fields), []) = (format, batch.micro_batches.as_slice()) {
        // A rank without rows has as many batches as the others.
        fields
            .iter()
            .for_each(|field| field.write(&Batch::default(), out));
    }
    for micro in &batch.micro_batches {
        match format {
            Format::Npy(fields) => fields.iter().for_each(|field| field.write(micro, out)),
            Format::U16 { length, pad } => u16s(micro, *length, *pad, out),
            Format::Jsonl => lines(micro, batch.index, &mut rows, out)?,
        }
    }
    Ok(())
}

impl Field {
    /// Appends the array of a batch.
    fn write(self, batch: &Batch, out: &mut Vec<u8>) {
        let (rows, length) = (batch.rows, batch.length);
        let whole = [rows, length];
        match (self, &batch.ids) {
            (Self::Ids, BatchIds::U16(ids)) => {
                integers(&whole, ids.iter().map(|id| u32::from(*id)), out);
            }
            (Self::Ids, BatchIds::U32(ids)) => integers(&whole, ids.iter().copied(), out),
            (Self::NarrowIds, BatchIds::U16(ids)) => {
                array(
                    Kind::U16,
                    &whole,
                    ids.iter().map(|id| id.to_le_bytes()),
                    out,
                );
            }
            (Self::NarrowIds, BatchIds::U32(ids)) => {
                array(
                    Kind::U32,
                    &whole,
                    ids.iter().map(|id| id.to_le_bytes()),
                    out,
                );
            }
            (Self::Targets, _) => {
                let targets = targets(batch);
                let bytes = targets.iter().map(|target| target.to_le_bytes());
                array(Kind::I32, &whole, bytes, out);
            }
            (Self::Weights, _) => {
                let weights = batch.weights();
                let bytes = weights.iter().map(|weight| weight.to_le_bytes());
                array(Kind::F32, &whole, bytes, out);
            }
            (Self::Scored, _) => {
                let bytes = batch.scored.iter().map(|bits| [*bits]);
                array(Kind::U8, &[rows, length / 8], bytes, out);
            }
            (Self::Positions, _) => integers(&whole, batch.positions().into_iter(), out),
            (Self::Documents, _) => {
                let documents = batch.documents().into_iter();
                // All bits of -1 are set.
                integers(&whole, documents.map(|at| at.unwrap_or(u32::MAX)), out);
            }
            (Self::Prefixes, _) => integers(&[rows], batch.prefixes.iter().copied(), out),
            (Self::Lengths, _) => integers(&[rows], batch.lengths.iter().copied(), out),
        }
    }
}

/// Appends an array of 32-bit integers.
fn integers(shape: &[usize], values: impl ExactSizeIterator<Item = u32>, out: &mut Vec<u8>) {
    array(Kind::I32, shape, values.map(u32::to_le_bytes), out);
}

/// Appends an array.
fn array<const N: usize>(
    kind: Kind,
    shape: &[usize],
    values: impl ExactSizeIterator<Item = [u8; N]>,
    out: &mut Vec<u8>,
) {
    npy::header(kind, shape, out);
    extend(out, values);
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

/// What each position must predict; [`UNSCORED`] where nothing is scored.
pub fn targets(batch: &Batch) -> Vec<i32> {
    // An id is less than 2^31: a row of a model's embedding.
    let ids = batch.targets().into_iter();
    let mut targets: Vec<i32> = ids.map(u32::cast_signed).collect();
    // A row is a multiple of eight positions, so each byte of bits has eight of them.
    let (eights, _) = targets.as_chunks_mut::<8>();
    for (eight, bits) in eights.iter_mut().zip(&batch.scored) {
        for (bit, target) in eight.iter_mut().enumerate() {
            if bits >> bit & 1 == 0 {
                *target = UNSCORED;
            }
        }
    }
    targets
}

fn extend<const N: usize>(out: &mut Vec<u8>, values: impl ExactSizeIterator<Item = [u8; N]>) {
    let start = out.len();
    out.resize(start + N * values.len(), 0);
    let (places, _) = out.get_mut(start..).unwrap_or_default().as_chunks_mut();
    for (place, value) in places.iter_mut().zip(values) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::Value;

    use super::*;
    use crate::batch::StoredTargets;

    /// Two rows of three and one ids, of which three positions are scored, one by half.
    fn batch(ids: BatchIds) -> GlobalBatch {
        let mut micro = Batch {
            rows: 2,
            length: 8,
            ids,
            scored: vec![0b11, 0b1],
            lengths: vec![3, 1],
            prefixes: vec![0, 1],
            ..Batch::default()
        };
        let mut stored = StoredTargets {
            targets: vec![9; 16],
            weights: vec![0.0; 16],
        };
        for (place, target, weight) in [(0, 70_000, 1.0), (1, 5, 0.5), (8, 7, 1.0)] {
            stored.targets[place] = target;
            stored.weights[place] = weight;
        }
        micro.stored = Some(stored);
        GlobalBatch {
            index: 6,
            micro_batches: vec![micro],
            counts: Default::default(),
        }
    }

    fn ids(pad: u16) -> Vec<u16> {
        let rows = [
            [1, 2, 3, pad, pad, pad, pad, pad],
            [4, pad, pad, pad, pad, pad, pad, pad],
        ];
        rows.concat()
    }

    fn usual() -> Format {
        Format::Npy(USUAL.to_vec())
    }

    fn written(batch: &GlobalBatch, format: Format) -> Vec<u8> {
        let pick = |member, index| Pick {
            member,
            epoch: 2,
            index,
        };
        let mut out = Vec::new();
        write(batch, &[pick(0, 11), pick(1, 0)], &format, &mut out).unwrap();
        out
    }

    #[test]
    fn lines_have_no_padding() {
        let text = written(&batch(BatchIds::U16(ids(9))), Format::Jsonl);
        expect![[r#"
            {"batch":6,"dataset":0,"epoch":2,"row":11,"prefix":0,"ids":[1,2,3],"targets":[70000,5,-100],"weights":[1.0,0.5,0.0]}
            {"batch":6,"dataset":1,"epoch":2,"row":0,"prefix":1,"ids":[4],"targets":[7],"weights":[1.0]}
        "#]]
        .assert_eq(&String::from_utf8(text).unwrap());
    }

    #[test]
    fn bare_ids_have_one_length() {
        let batch = batch(BatchIds::U16(ids(9)));
        let of_length = |length| {
            let bytes = written(&batch, Format::U16 { length, pad: 9 });
            let (numbers, _) = bytes.as_chunks();
            let numbers = numbers.iter().map(|id| u16::from_le_bytes(*id));
            numbers.collect::<Vec<_>>()
        };
        assert_eq!(of_length(4), [1, 2, 3, 9, 4, 9, 9, 9]);
        assert_eq!(of_length(10)[8..12], [9, 9, 4, 9]);
        assert_eq!(of_length(10).len(), 20);
    }

    /// Arrays say what lines say; NumPy itself reads them in `tests/python`.
    #[test]
    fn arrays_equal_their_twin_of_lines() {
        let wide: Vec<u32> = ids(9).into_iter().map(u32::from).collect();
        for ids in [BatchIds::U16(ids(9)), BatchIds::U32(wide)] {
            let batch = batch(ids);
            let bytes = written(&batch, usual());
            let head = "\u{1}\0v\0{'descr': '<i4', 'fortran_order': False, 'shape': (2, 8), }";
            assert_eq!(bytes[..6], *b"\x93NUMPY");
            assert!(bytes[6..].starts_with(head.as_bytes()));
            // Each header takes 128 bytes, each array 16 numbers of 4.
            assert_eq!(bytes.len(), 3 * (128 + 64));
            assert_eq!(bytes[127], b'\n');
            let array = |place: usize| {
                let (numbers, _) = bytes[place * 192 + 128..][..64].as_chunks::<4>();
                numbers.to_vec()
            };
            let lines = String::from_utf8(written(&batch, Format::Jsonl)).unwrap();
            for (line, start) in lines.lines().zip([0, 8]) {
                let line: Value = serde_json::from_str(line).unwrap();
                let n = line["ids"].as_array().unwrap().len();
                for (place, key) in ["ids", "targets", "weights"].into_iter().enumerate() {
                    for at in 0..n {
                        let bytes = array(place)[start + at];
                        match key {
                            "weights" => assert_eq!(line[key][at], f32::from_le_bytes(bytes)),
                            _ => assert_eq!(line[key][at], i32::from_le_bytes(bytes)),
                        }
                    }
                    let rest = array(place)[start + n];
                    let filler = [9, UNSCORED, 0][place];
                    assert_eq!(i32::from_le_bytes(rest), filler, "{key}");
                }
            }
        }
    }

    #[test]
    fn a_rank_without_rows_writes_empty_arrays() {
        let empty = GlobalBatch {
            index: 0,
            micro_batches: Vec::new(),
            counts: Default::default(),
        };
        let bytes = written(&empty, usual());
        assert_eq!(bytes.len(), 3 * 128);
        assert!(String::from_utf8_lossy(&bytes).contains("'shape': (0, 0)"));
        assert!(written(&empty, Format::Jsonl).is_empty());
    }
    /// The header of each field's array, and its values as signed numbers.
    fn read(fields: &[Field], ids: BatchIds) -> Vec<(String, Vec<i64>)> {
        let mut batch = batch(ids);
        // The first row is two documents.
        batch.micro_batches[0].end = Some(crate::token::TokenId(2));
        let field = |field: &Field| {
            let bytes = written(&batch, Format::Npy(vec![*field]));
            let head = String::from_utf8_lossy(&bytes[10..128]).trim().to_string();
            let values = match head.split('\'').nth(3).unwrap() {
                "|u1" => bytes[128..].iter().map(|byte| i64::from(*byte)).collect(),
                "<u2" => {
                    let (pairs, _) = bytes[128..].as_chunks();
                    pairs
                        .iter()
                        .map(|pair| u16::from_le_bytes(*pair).into())
                        .collect()
                }
                _ => {
                    let (fours, _) = bytes[128..].as_chunks();
                    fours
                        .iter()
                        .map(|four| i32::from_le_bytes(*four).into())
                        .collect()
                }
            };
            (head, values)
        };
        fields.iter().map(field).collect()
    }

    #[test]
    fn every_field_is_an_array_of_its_own() {
        use Field::*;

        let fields = [NarrowIds, Scored, Positions, Documents, Prefixes, Lengths];
        let found = read(&fields, BatchIds::U16(ids(9)));
        let shown = found.iter().map(|(head, values)| {
            let rows = values
                .chunks(values.len().div_ceil(2))
                .map(|row| format!("{row:?}"));
            format!("{head}\n  {}\n", rows.collect::<Vec<_>>().join(" "))
        });
        expect![[r#"
            {'descr': '<u2', 'fortran_order': False, 'shape': (2, 8), }
              [1, 2, 3, 9, 9, 9, 9, 9] [4, 9, 9, 9, 9, 9, 9, 9]
            {'descr': '|u1', 'fortran_order': False, 'shape': (2, 1), }
              [3] [1]
            {'descr': '<i4', 'fortran_order': False, 'shape': (2, 8), }
              [0, 1, 0, 0, 0, 0, 0, 0] [0, 0, 0, 0, 0, 0, 0, 0]
            {'descr': '<i4', 'fortran_order': False, 'shape': (2, 8), }
              [0, 0, 1, -1, -1, -1, -1, -1] [0, -1, -1, -1, -1, -1, -1, -1]
            {'descr': '<i4', 'fortran_order': False, 'shape': (2,), }
              [0] [1]
            {'descr': '<i4', 'fortran_order': False, 'shape': (2,), }
              [3] [1]
        "#]]
        .assert_eq(&shown.collect::<String>());
        let wide = BatchIds::U32(ids(9).into_iter().map(u32::from).collect());
        let (head, values) = &read(&[NarrowIds], wide)[0];
        assert!(head.contains("<u4") && values[..4] == [1, 2, 3, 9]);
    }
}
