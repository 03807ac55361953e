//! What the operations of a pass need of its batch: packed by the host, sent in one copy.

use super::embedding::{Runs, Segments};
use super::engine::Pointer;
use super::kernels::{Tables, element};
use super::loss::Scored;
use super::words::{Packer, Word, Words};
use crate::model::ops::{Input, Pass};

/// A batch on its way to the device.
#[derive(Clone, Debug)]
pub struct Packed {
    /// What is sent.
    pub words: Words,
    ids: Word,
    /// Places, and ranges of keys; none where rows are whole documents seen from left to right.
    seen: Option<[Word; 2]>,
    scored: [Word; 3],
    /// How many positions are scored.
    pub count: usize,
    runs: [([Word; 3], usize); 2],
}

/// A batch on the device.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// The id of every position.
    pub ids: Pointer,
    /// What positions see.
    pub tables: Tables,
    /// Rows, targets and weights of the scored positions, padded as [`Scored`] says.
    pub scored: [Pointer; 3],
    /// How many there are.
    pub count: usize,
    /// Positions by their id, and, with learned positions, by their place.
    pub runs: [Runs; 2],
}

impl Packed {
    /// Packs a batch; what only the way back reads, where there is one.
    pub fn new(input: &Input, back: bool) -> Self {
        let Input { ids, targets, pass } = input;
        let mut packer = Packer::default();
        let ids: Vec<i32> = ids.iter().map(|id| id.cast_signed()).collect();
        let place = |at| int(pass.mask.reach(at).place());
        let seen = (!pass.mask.is_causal()).then(|| {
            let positions = 0..pass.extent.positions();
            let places: Vec<i32> = positions.clone().map(place).collect();
            let keys = positions.map(|at| pass.mask.reach(at).keys());
            let keys: Vec<i32> = keys
                .flat_map(|keys| [keys.start, keys.end].map(int))
                .collect();
            [packer.add(&places), packer.add(&keys)]
        });
        let by_id = match back {
            true => Segments::new(ids.iter().copied()),
            false => Segments::default(),
        };
        let by_place = match pass.shape.embedding.position {
            Some(_) if back => Segments::new((0..ids.len()).map(place)),
            _ => Segments::default(),
        };
        let runs = [by_id, by_place].map(|of| {
            let words = [&of.order, &of.start, &of.target].map(|array| packer.add(array));
            (words, of.target.len())
        });
        let scored = Scored::new(targets);
        let weights = scored.weights.iter();
        Self {
            ids: packer.add(&ids),
            seen,
            scored: [
                packer.add(&scored.rows),
                packer.add(&scored.targets),
                packer.add_wide(weights.map(|weight| weight.to_bits().cast_signed())),
            ],
            count: scored.count,
            runs,
            words: packer.finish(),
        }
    }

    /// Where everything is, given the device's array and that of [`rope`].
    pub fn held(&self, pass: &Pass, array: Pointer, rope: Pointer) -> Held {
        let at = |word| self.words.at(array, word);
        let half = pass.shape.rope.as_ref().map_or(0, |rope| rope.cos().len());
        let or_none = |on: bool, pointer| if on { pointer } else { Pointer::NONE };
        let [places, reach] = match self.seen {
            Some(seen) => seen.map(at),
            None => [Pointer::NONE; 2],
        };
        Held {
            ids: at(self.ids),
            tables: Tables {
                cosines: or_none(0 < half, rope),
                sines: or_none(0 < half, element(rope, half)),
                places,
                reach,
            },
            scored: self.scored.map(at),
            count: self.count,
            runs: self.runs.map(|(words, targets)| Runs {
                at: words.map(at),
                targets,
            }),
        }
    }
}

/// Cosines, then sines, of rotary angles; one number without rotary positions.
pub fn rope(pass: &Pass) -> Vec<f32> {
    match &pass.shape.rope {
        Some(rope) => [rope.cos(), rope.sin()].concat(),
        None => vec![0.0],
    }
}

/// A place or a number of rows: fewer than 2^31, as kernels check.
fn int(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
