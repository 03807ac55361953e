//! Generation: keys and values of earlier positions are kept, so that a new
//! token costs one position.
//!
//! Works on the host, whatever device the model is on: a position of a small
//! model is cheaper than a launch.

use std::sync::Arc;

use super::Model;
use super::config::Attention;
use super::mask::Reach;
use super::ops::Shape;
use super::ops::cpu::block::head_norms;
use super::ops::cpu::feed_forward;
use super::ops::cpu::linear::{Linear, Way};
use super::ops::cpu::loss::bound;
use super::ops::cpu::matrix::{Mat, MatMut};
use super::ops::cpu::norm::Norm;
use super::ops::cpu::product::{Onto, matmul};
use super::ops::cpu::rotary::Turn;
use super::ops::cpu::simd::softmax;
use super::precision::Precision;
use crate::token::TokenId;

/// A row that cannot be continued.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The row would be longer than the model's context.
    #[error("{length} positions do not fit the context of {context}")]
    ContextOverflow {
        /// How long the row would be.
        length: usize,
        /// How long it may be.
        context: usize,
    },
    /// Nothing was given to read.
    #[error("no token to read")]
    Empty,
    /// An id past the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab_size}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// How many ids there are.
        vocab_size: usize,
    },
}

/// What the model remembers of one row, and its weights as they were when the
/// cache was made. A clone shares the weights: branch a row by cloning.
#[derive(Clone, Debug)]
pub struct Cache {
    weights: Arc<Vec<Vec<f32>>>,
    shape: Arc<Shape>,
    context: usize,
    attention: Attention,
    window: Option<u32>,
    /// The id that ends a document, where that decides what is seen.
    end: Option<TokenId>,
    /// Where the document of the next id begins.
    document: usize,
    /// Keys and values of each block, `[length, kv_heads * head]`.
    blocks: Vec<(Vec<f32>, Vec<f32>)>,
    length: usize,
}

impl Cache {
    /// An empty row.
    pub fn new(model: &Model) -> Self {
        Self {
            weights: Arc::new(model.values()),
            shape: model.shape().clone(),
            context: model.config.context,
            attention: model.config.attention,
            window: model.config.window(),
            end: None,
            document: 0,
            blocks: vec![Default::default(); model.config.n_layers],
            length: 0,
        }
    }

    /// The same row, in which `end` ends documents.
    pub fn ending_with(self, end: TokenId) -> Self {
        let documents = self.attention == Attention::Document;
        Self {
            end: documents.then_some(end),
            ..self
        }
    }

    /// Positions read so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets the row and keeps the weights.
    pub fn clear(&mut self) {
        self.length = 0;
        self.document = 0;
        for (keys, values) in &mut self.blocks {
            keys.clear();
            values.clear();
        }
    }

    /// Reads ids after those read before; returns the logits of the last one.
    pub fn extend(&mut self, ids: &[TokenId]) -> Result<Vec<f32>, Error> {
        self.prefill(ids, 0)
    }

    /// [`Cache::extend`] by ids of which the row's first `prefix` are read in both
    /// directions, if the model was trained so; a prefix is read in one go.
    pub fn prefill(&mut self, ids: &[TokenId], prefix: usize) -> Result<Vec<f32>, Error> {
        self.read(ids, prefix, 1)
    }

    /// [`Cache::prefill`], but the logits of every one of the ids, one after the other.
    pub fn read_all(&mut self, ids: &[TokenId], prefix: usize) -> Result<Vec<f32>, Error> {
        self.read(ids, prefix, ids.len())
    }

    /// Reads ids; returns the logits of the last `answered` of them.
    fn read(&mut self, ids: &[TokenId], prefix: usize, answered: usize) -> Result<Vec<f32>, Error> {
        self.check(ids)?;
        let reaches = self.reaches(ids, prefix);
        let (weights, shape) = (self.weights.clone(), self.shape.clone());
        let Some((embedding, rest)) = weights.split_first() else {
            return Err(Error::Empty);
        };
        let Some((last, blocks)) = rest.split_last() else {
            return Err(Error::Empty);
        };
        let mut x = self.embed(embedding, ids, &reaches);
        for (index, params) in blocks.iter().enumerate() {
            self.block(index, params, &mut x, &reaches);
        }
        self.length += ids.len();
        let silent = (ids.len() - answered.min(ids.len())) * shape.d;
        let x = x.get(silent..).unwrap_or_default();
        Ok(logits(x, embedding, last, &shape))
    }

    fn check(&self, ids: &[TokenId]) -> Result<(), Error> {
        let (length, vocab_size) = (self.length + ids.len(), self.shape.vocabulary());
        if ids.is_empty() {
            return Err(Error::Empty);
        }
        if self.context < length {
            return Err(Error::ContextOverflow {
                length,
                context: self.context,
            });
        }
        match ids.iter().find(|id| vocab_size <= id.index()) {
            Some(id) => Err(Error::UnknownToken {
                id: id.0,
                vocab_size,
            }),
            None => Ok(()),
        }
    }

    /// What the next positions see, whose ids these are; as in training ([`super::mask`]).
    fn reaches(&mut self, ids: &[TokenId], prefix: usize) -> Vec<Reach> {
        // A row is shorter than 2^31 ids.
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let prefix = match self.attention {
            Attention::PrefixLm => narrow(prefix.min(self.length + ids.len())),
            Attention::Causal | Attention::Document => 0,
        };
        let mut reaches = Vec::with_capacity(ids.len());
        for (id, at) in ids.iter().zip(self.length..) {
            let start = narrow(self.document);
            reaches.push(Reach::new(narrow(at), start, prefix, self.window));
            if self.end == Some(*id) {
                self.document = at + 1;
            }
        }
        reaches
    }

    fn embed(&self, params: &[f32], ids: &[TokenId], reaches: &[Reach]) -> Vec<f32> {
        let d = self.shape.d;
        let row = |start: usize| params.get(start..start + d).unwrap_or_default();
        let mut x = Vec::with_capacity(ids.len() * d);
        for (index, (id, reach)) in ids.iter().zip(reaches).enumerate() {
            x.extend_from_slice(row(id.index() * d));
            if let Some(range) = &self.shape.embedding.position {
                let position = row(range.start + reach.place() * d);
                let start = index * d;
                for (x, p) in x.iter_mut().skip(start).zip(position) {
                    *x += p;
                }
            }
        }
        x
    }

    fn block(&mut self, index: usize, params: &[f32], x: &mut [f32], reaches: &[Reach]) {
        let shape = self.shape.clone();
        let (layout, d) = (&shape.block, shape.d);
        let (m, width) = (x.len() / d, shape.qkv_width());
        let mut hidden = vec![0.0; m * d];
        let mut qkv = vec![0.0; m * width];
        let linear = |layer| Linear::new(params, layer, m, (Way::Forward, Precision::Single));
        Norm::new(params, &layout.norm1, shape.norm, shape.eps).forward(x, &mut hidden);
        linear(&layout.qkv).apply(&hidden, &mut qkv, Onto::Nothing);
        if let Some([queries, keys]) = head_norms(params, &shape) {
            let (query_width, rotated) = (shape.query_width(), width - shape.key_width());
            let mut raw = vec![0.0; rotated];
            for row in qkv.chunks_exact_mut(width) {
                let (row, _) = row.split_at_mut(rotated);
                raw.copy_from_slice(row);
                let ((q, k), (raw_q, raw_k)) =
                    (row.split_at_mut(query_width), raw.split_at(query_width));
                queries.forward(raw_q, q);
                keys.forward(raw_k, k);
            }
        }
        let attended = self.attend(index, &mut qkv, reaches);
        linear(&layout.out).apply(&attended, x, Onto::Old);
        Norm::new(params, &layout.norm2, shape.norm, shape.eps).forward(x, &mut hidden);
        let mut up = vec![0.0; m * layout.up.outputs];
        linear(&layout.up).apply(&hidden, &mut up, Onto::Nothing);
        let mut active = vec![0.0; m * shape.d_ff];
        feed_forward::forward(shape.activation, &up, &mut active, shape.d_ff);
        linear(&layout.down).apply(&active, x, Onto::Old);
    }

    /// Appends keys and values to a block's memory and attends to what is seen of it.
    fn attend(&mut self, index: usize, qkv: &mut [f32], reaches: &[Reach]) -> Vec<f32> {
        let shape = self.shape.clone();
        let (attended, head, keys) = (shape.query_width(), shape.head, shape.key_width());
        let (width, before) = (shape.qkv_width(), self.length);
        let m = qkv.len() / width;
        let mut out = vec![0.0; m * attended];
        let Some((all_keys, all_values)) = self.blocks.get_mut(index) else {
            return out;
        };
        for (reach, row) in reaches.iter().zip(qkv.chunks_exact_mut(width)) {
            let (rotated, values) = row.split_at_mut(attended + keys);
            if let Some(rope) = &shape.rope {
                rope.turn(rotated, reach.place(), Turn::Forward);
            }
            all_keys.extend(rotated.iter().skip(attended));
            all_values.extend_from_slice(values);
        }
        let length = before + m;
        let queries = Mat::new(qkv, m, width);
        let (keys, values) = (
            Mat::new(all_keys, length, keys),
            Mat::new(all_values, length, keys),
        );
        let scale = 1.0 / (head as f32).sqrt();
        let mut scores = vec![0.0; m * length];
        let heads = MatMut::new(&mut out, m, attended)
            .column_blocks(head)
            .into_iter();
        for (index, mut out) in heads.enumerate() {
            let of = |index: usize| index * head..(index + 1) * head;
            let pair = of(index / shape.group());
            let mut view = MatMut::new(&mut scores, m, length);
            let (query, key) = (queries.columns(of(index)), keys.columns(pair.clone()));
            matmul(&mut view, Onto::Nothing, query, key.t(), scale);
            for (reach, row) in reaches.iter().zip(scores.chunks_exact_mut(length)) {
                let keys = reach.keys();
                let (row, after) = row.split_at_mut(keys.end);
                let (before, seen) = row.split_at_mut(keys.start);
                softmax(seen);
                before.fill(0.0);
                after.fill(0.0);
            }
            let weights = Mat::new(&scores, m, length);
            matmul(&mut out, Onto::Nothing, weights, values.columns(pair), 1.0);
        }
        out
    }
}

fn logits(x: &[f32], embedding: &[f32], last: &[f32], shape: &Shape) -> Vec<f32> {
    let (d, v) = (shape.d, shape.vocabulary());
    let rows = x.len() / d.max(1);
    let mut hidden = vec![0.0; x.len()];
    Norm::new(last, &shape.last.norm, shape.norm, shape.eps).forward(x, &mut hidden);
    let table = match shape.last.head.clone() {
        Some(range) => last.get(range),
        None => embedding.get(shape.embedding.token.clone()),
    };
    let table = Mat::new(table.unwrap_or_default(), v, d);
    let mut out = vec![0.0; rows * v];
    let mut view = MatMut::new(&mut out, rows, v);
    let hidden = Mat::new(&hidden, rows, d);
    matmul(&mut view, Onto::Nothing, hidden, table.t(), 1.0);
    if let Some(cap) = shape.soft_cap {
        bound(&mut out, cap);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::super::{Device, testing};
    use super::*;
    use crate::batch::{Batch, BatchIds};
    use crate::rng::Key;

    #[test]
    fn cached_logits_equal_those_of_the_whole_row() {
        for (index, config) in testing::table().into_iter().enumerate() {
            // Weights as large as after training, so that attention is not flat.
            let model = Model::new(&config, Key::new(5), &Device::flex());
            let values = testing::changed(&config, model.values(), |x| x * 6.0);
            let model = Model::from_values(&config, values, &Device::flex());
            let ids = testing::batch(&config, 1, 70, 9).ids.widened();
            let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
            let whole: Vec<f32> = model.logits(&ids, 1, 70).into_data().iter().collect();
            let mut cache = Cache::new(&model);
            let v = config.vocab_size;
            let check = |found: &[f32], position: usize| {
                let expected = &whole[position * v..][..v];
                let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                let worst = worst.fold(0.0, f32::max);
                assert!(worst < 1e-4, "shape {index}, position {position}: {worst}");
            };
            check(&cache.extend(&ids[..13]).unwrap(), 12);
            for (position, &id) in ids.iter().enumerate().take(40).skip(13) {
                check(&cache.extend(&[id]).unwrap(), position);
            }
            let mut branch = cache.clone();
            check(&branch.extend(&ids[40..70]).unwrap(), 69);
            check(&cache.extend(&[ids[40]]).unwrap(), 40);
            cache.clear();
            let all = cache.read_all(&ids[..20], 0).unwrap();
            for position in 0..20 {
                check(&all[position * v..][..v], position);
            }
        }
    }

    /// A prefix is read in one go, what follows in pieces of any size; documents end in
    /// the middle of pieces.
    #[test]
    fn cached_logits_equal_those_of_the_whole_row_under_every_mask() {
        let kinds = [Attention::Causal, Attention::Document, Attention::PrefixLm];
        let kinds = kinds
            .into_iter()
            .flat_map(|kind| [(kind, None), (kind, Some(6))]);
        for (attention, window) in kinds {
            for config in [testing::gpt2(), testing::llama()] {
                let config = Config {
                    attention,
                    window,
                    ..config
                };
                let model = Model::new(&config, Key::new(5), &Device::flex());
                let values = testing::changed(&config, model.values(), |x| x * 6.0);
                let model = Model::from_values(&config, values, &Device::flex());
                let mut ids = testing::batch(&config, 1, 60, 9).ids.widened();
                [7, 30, 31, 45].into_iter().for_each(|end| ids[end] = 2);
                let batch = Batch {
                    rows: 1,
                    length: 60,
                    ids: BatchIds::U32(ids.clone()),
                    prefixes: vec![13],
                    end: Some(TokenId(2)),
                    ..Batch::default()
                };
                let whole: Vec<f32> = model.logits_of(&batch).into_data().iter().collect();
                let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
                let mut cache = Cache::new(&model).ending_with(TokenId(2));
                let mut read = 0;
                for piece in [17, 1, 1, 15, 1, 10, 15] {
                    let piece = &ids[read..read + piece];
                    let found = match read {
                        0 => cache.prefill(piece, 13).unwrap(),
                        _ => cache.extend(piece).unwrap(),
                    };
                    read += piece.len();
                    let expected = &whole[(read - 1) * config.vocab_size..][..config.vocab_size];
                    let off = testing::distance(&found, expected);
                    assert!(off < 1e-5, "{attention:?} {window:?} at {read}: {off}");
                }
            }
        }
    }

    #[test]
    fn a_row_ends_with_the_context() {
        let config = testing::gpt2();
        let model = Model::new(&config, Key::new(1), &Device::flex());
        let mut cache = Cache::new(&model);
        let ids = vec![TokenId(1); config.context];
        cache.extend(&ids).unwrap();
        let overflow = Error::ContextOverflow {
            length: 81,
            context: 80,
        };
        assert_eq!(cache.extend(&[TokenId(1)]), Err(overflow));
        assert_eq!(cache.len(), 80);
        cache.clear();
        let unknown = Error::UnknownToken {
            id: 37,
            vocab_size: 37,
        };
        assert_eq!(cache.extend(&[TokenId(37)]), Err(unknown));
        assert_eq!(cache.extend(&[]), Err(Error::Empty));
    }
}
