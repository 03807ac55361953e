//! Generation: keys and values of earlier positions are kept, so that a new
//! token costs one position.
//!
//! Works on the host, whatever device the model is on: a position of a small
//! model is cheaper than a launch.

use std::sync::Arc;

use super::Model;
use super::ops::Shape;
use super::ops::cpu::feed_forward;
use super::ops::cpu::linear::Linear;
use super::ops::cpu::matrix::{Mat, MatMut};
use super::ops::cpu::norm::Norm;
use super::ops::cpu::product::{Onto, matmul};
use super::ops::cpu::rotary::Turn;
use super::ops::cpu::simd::softmax;
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
            blocks: vec![Default::default(); model.config.n_layers],
            length: 0,
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
        for (keys, values) in &mut self.blocks {
            keys.clear();
            values.clear();
        }
    }

    /// Reads ids after those read before; returns the logits of the last one.
    pub fn extend(&mut self, ids: &[TokenId]) -> Result<Vec<f32>, Error> {
        self.check(ids)?;
        let (weights, shape) = (self.weights.clone(), self.shape.clone());
        let Some((embedding, rest)) = weights.split_first() else {
            return Err(Error::Empty);
        };
        let Some((last, blocks)) = rest.split_last() else {
            return Err(Error::Empty);
        };
        let mut x = self.embed(embedding, ids);
        for (index, params) in blocks.iter().enumerate() {
            self.block(index, params, &mut x);
        }
        self.length += ids.len();
        Ok(logits(
            x.chunks(shape.d).next_back().unwrap_or_default(),
            embedding,
            last,
            &shape,
        ))
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

    fn embed(&self, params: &[f32], ids: &[TokenId]) -> Vec<f32> {
        let d = self.shape.d;
        let row = |start: usize| params.get(start..start + d).unwrap_or_default();
        let mut x = Vec::with_capacity(ids.len() * d);
        for (index, id) in ids.iter().enumerate() {
            x.extend_from_slice(row(id.index() * d));
            if let Some(range) = &self.shape.embedding.position {
                let position = row(range.start + (self.length + index) * d);
                let start = index * d;
                for (x, p) in x.iter_mut().skip(start).zip(position) {
                    *x += p;
                }
            }
        }
        x
    }

    fn block(&mut self, index: usize, params: &[f32], x: &mut [f32]) {
        let shape = self.shape.clone();
        let (layout, d) = (&shape.block, shape.d);
        let (m, width) = (x.len() / d, shape.qkv_width());
        let mut hidden = vec![0.0; m * d];
        let mut qkv = vec![0.0; m * width];
        Norm::new(params, &layout.norm1, shape.norm, shape.eps).forward(x, &mut hidden);
        Linear::new(params, &layout.qkv, m).apply(&hidden, &mut qkv, Onto::Nothing);
        let attended = self.attend(index, &mut qkv);
        Linear::new(params, &layout.out, m).apply(&attended, x, Onto::Old);
        Norm::new(params, &layout.norm2, shape.norm, shape.eps).forward(x, &mut hidden);
        let mut up = vec![0.0; m * layout.up.outputs];
        Linear::new(params, &layout.up, m).apply(&hidden, &mut up, Onto::Nothing);
        let mut active = vec![0.0; m * shape.d_ff];
        feed_forward::forward(shape.activation, &up, &mut active, shape.d_ff);
        Linear::new(params, &layout.down, m).apply(&active, x, Onto::Old);
    }

    /// Appends keys and values to a block's memory and attends to all of it.
    fn attend(&mut self, index: usize, qkv: &mut [f32]) -> Vec<f32> {
        let shape = self.shape.clone();
        let (d, head, keys) = (shape.d, shape.head, shape.kv_heads * shape.head);
        let (width, before) = (shape.qkv_width(), self.length);
        let m = qkv.len() / width;
        let mut out = vec![0.0; m * d];
        let Some((all_keys, all_values)) = self.blocks.get_mut(index) else {
            return out;
        };
        for (offset, row) in qkv.chunks_exact_mut(width).enumerate() {
            let (rotated, values) = row.split_at_mut(d + keys);
            if let Some(rope) = &shape.rope {
                rope.turn(rotated, before + offset, Turn::Forward);
            }
            all_keys.extend(rotated.iter().skip(d));
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
        let heads = MatMut::new(&mut out, m, d).column_blocks(head).into_iter();
        for (index, mut out) in heads.enumerate() {
            let of = |index: usize| index * head..(index + 1) * head;
            let pair = of(index / shape.group());
            let mut view = MatMut::new(&mut scores, m, length);
            let (query, key) = (queries.columns(of(index)), keys.columns(pair.clone()));
            matmul(&mut view, Onto::Nothing, query, key.t(), scale);
            for (offset, row) in scores.chunks_exact_mut(length).enumerate() {
                let (past, future) = row.split_at_mut(before + offset + 1);
                softmax(past);
                future.fill(0.0);
            }
            let weights = Mat::new(&scores, m, length);
            matmul(&mut out, Onto::Nothing, weights, values.columns(pair), 1.0);
        }
        out
    }
}

impl Model {
    /// Reads a prompt, appending it to the row; returns the logits of its last position.
    pub fn prefill(&self, cache: &mut Cache, ids: &[TokenId]) -> Result<Vec<f32>, Error> {
        cache.extend(ids)
    }

    /// Reads one more token; returns its logits.
    pub fn decode(&self, cache: &mut Cache, id: TokenId) -> Result<Vec<f32>, Error> {
        cache.extend(&[id])
    }
}

fn logits(x: &[f32], embedding: &[f32], last: &[f32], shape: &Shape) -> Vec<f32> {
    let (d, v) = (shape.d, shape.vocabulary());
    let mut hidden = vec![0.0; d];
    Norm::new(last, &shape.last.norm, shape.norm, shape.eps).forward(x, &mut hidden);
    let table = match shape.last.head.clone() {
        Some(range) => last.get(range),
        None => embedding.get(shape.embedding.token.clone()),
    };
    let table = Mat::new(table.unwrap_or_default(), v, d);
    let mut out = vec![0.0; v];
    let mut view = MatMut::new(&mut out, 1, v);
    matmul(
        &mut view,
        Onto::Nothing,
        Mat::new(&hidden, 1, d),
        table.t(),
        1.0,
    );
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Device, testing};
    use super::*;
    use crate::rng::Key;

    #[test]
    fn cached_logits_equal_those_of_the_whole_row() {
        for (index, config) in testing::table().into_iter().enumerate() {
            // Weights as large as after training, so that attention is not flat.
            let model = Model::new(&config, Key::new(5), &Device::flex());
            let values = model.values().into_iter();
            let values = values.map(|group| group.iter().map(|x| x * 6.0).collect());
            let model = Model::from_values(&config, values.collect(), &Device::flex());
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
            check(&model.prefill(&mut cache, &ids[..13]).unwrap(), 12);
            for (position, &id) in ids.iter().enumerate().take(40).skip(13) {
                check(&model.decode(&mut cache, id).unwrap(), position);
            }
            let mut branch = cache.clone();
            check(&model.prefill(&mut branch, &ids[40..70]).unwrap(), 69);
            check(&model.decode(&mut cache, ids[40]).unwrap(), 40);
            cache.clear();
            check(&model.decode(&mut cache, ids[0]).unwrap(), 0);
        }
    }

    #[test]
    fn a_row_ends_with_the_context() {
        let config = testing::gpt2();
        let model = Model::new(&config, Key::new(1), &Device::flex());
        let mut cache = Cache::new(&model);
        let ids = vec![TokenId(1); config.context];
        model.prefill(&mut cache, &ids).unwrap();
        let overflow = Error::ContextOverflow {
            length: 81,
            context: 80,
        };
        assert_eq!(model.decode(&mut cache, TokenId(1)), Err(overflow));
        assert_eq!(cache.len(), 80);
        cache.clear();
        let unknown = Error::UnknownToken {
            id: 37,
            vocab_size: 37,
        };
        assert_eq!(model.decode(&mut cache, TokenId(37)), Err(unknown));
        assert_eq!(model.prefill(&mut cache, &[]), Err(Error::Empty));
    }
}
