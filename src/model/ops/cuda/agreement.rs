//! How far kernels may be from the CPU's results.
//!
//! What sums in another order, or rounds elsewhere, is off by an amount that the model and
//! the batch decide, cancellations included. So it is measured: the CPU takes the gradients
//! once with the operands of its products rounded to bf16. To first order the error of any
//! rounding is proportional to its unit, so that of single precision follows from it.

use std::ops::Range;

use serde::Serialize;

use crate::model::config::Config;
use crate::model::layout::layout;
use crate::model::ops::Loss;
use crate::model::precision::Precision;

/// Kernels of a GPU round in more places than the CPU, which keeps activations in single
/// precision: so many times its error is theirs at most.
const WIDER: f64 = 4.0;
/// The largest relative error of rounding to bf16.
const UNIT: f64 = 1.0 / 256.0;
/// That of single precision, of that of bf16.
const SINGLE: f64 = 1.0 / 65_536.0;
/// What parameters and moments may differ by: the norm that scales their gradient is a sum by
/// 512 blocks of 256 threads, so that each square takes part in some hundred additions, each
/// off by 2^-24 at most.
const UPDATE: f64 = 1e-5;

/// Sums of the loss, and a flat array of gradients a group.
pub struct Outcome {
    /// Sums of the loss.
    pub loss: Loss,
    /// A flat array a group.
    pub gradients: Vec<Vec<f32>>,
}

/// Parameters and moments of every group after a step.
pub type Moved = Vec<[Vec<f32>; 3]>;

/// What the CPU makes of a step.
pub struct Expected {
    /// Loss and gradients.
    pub outcome: Outcome,
    /// The same by products of rounded operands.
    pub rounded: Outcome,
    /// What the optimizer makes of the first.
    pub moved: Moved,
    /// Of the longest sum of a product.
    pub terms: usize,
}

/// How far something is off, and may be: the length of a difference over the length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Off {
    /// How far it is; infinite where something is not a number.
    pub found: f64,
    /// How far it may be.
    pub allowed: f64,
}

impl Off {
    fn holds(self) -> bool {
        self.found <= self.allowed
    }
}

impl std::fmt::Display for Off {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1e} off, of {:.1e} allowed", self.found, self.allowed)
    }
}

/// How well two forms of the operations agree.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Of the loss, z-loss included.
    pub loss: Off,
    /// Of the piece of the gradient that is nearest to its bound, or furthest over it.
    pub gradient: Off,
    /// Its name.
    pub piece: String,
    /// Of parameters and moments after a step with the same gradients.
    pub update: Off,
}

impl Agreement {
    /// Whether all is within bounds; what is not a number is not.
    pub fn holds(&self) -> bool {
        [self.loss, self.gradient, self.update]
            .into_iter()
            .all(Off::holds)
    }

    /// How well something agrees with what is expected; its update is of the same gradients.
    pub fn new(
        config: &Config,
        expected: &Expected,
        (outcome, moved): (&Outcome, &Moved),
        precision: Precision,
    ) -> Self {
        let allowed = |rounding: f64| {
            let bf16 = WIDER * rounding.max(UNIT);
            match precision {
                Precision::Bf16 => bf16,
                // Each addition rounds once more, as often up as down.
                Precision::Single => bf16 * SINGLE * (expected.terms as f64).sqrt(),
            }
        };
        let off = |piece: &Piece| {
            let [rounded, found] = [&expected.rounded, outcome].map(|of| {
                let of = [of, &expected.outcome].map(|of| piece.of(&of.gradients));
                let [found, expected] = of;
                distance(found, expected)
            });
            let allowed = allowed(rounded);
            Off { found, allowed }
        };
        let pieces = pieces(config);
        let worst = pieces.iter().map(|piece| (piece, off(piece)));
        let share = |off: Off| off.found / off.allowed;
        let worst = worst.max_by(|a, b| share(a.1).total_cmp(&share(b.1)));
        let (piece, gradient) = worst.map_or((String::new(), NOTHING), |(piece, off)| {
            (piece.name.clone(), off)
        });
        let all = |of: &Outcome| of.gradients.concat();
        let whole = distance(all(&expected.rounded).iter(), all(&expected.outcome).iter());
        let [loss, found] = [&expected.outcome, outcome].map(|of| of.loss.total());
        let moved = expected.moved.iter().flatten().zip(moved.iter().flatten());
        let update = moved.map(|(expected, found)| distance(found.iter(), expected.iter()));
        Self {
            loss: Off {
                found: number((loss - found).abs() / loss.abs()),
                allowed: allowed(whole),
            },
            gradient,
            piece,
            update: Off {
                found: update.max_by(f64::total_cmp).unwrap_or(f64::INFINITY),
                allowed: UPDATE,
            },
        }
    }
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            loss,
            gradient,
            piece,
            update,
        } = self;
        write!(
            f,
            "loss {loss}; gradient of `{piece}` {gradient}; update {update}"
        )
    }
}

/// No piece was compared.
const NOTHING: Off = Off {
    found: f64::INFINITY,
    allowed: 0.0,
};

/// What is compared by itself, so that what is wrong in a small array shows: a part, or the
/// query, key or value columns of one.
struct Piece {
    name: String,
    group: usize,
    range: Range<usize>,
    /// Columns of the part, and those that belong to the piece.
    width: usize,
    columns: Range<usize>,
}

impl Piece {
    fn of<'a>(&'a self, groups: &'a [Vec<f32>]) -> impl Iterator<Item = &'a f32> + Clone {
        let group = groups.get(self.group).map_or(&[][..], Vec::as_slice);
        let part = group.get(self.range.clone()).unwrap_or_default();
        part.chunks(self.width.max(1))
            .flat_map(|row| row.get(self.columns.clone()).unwrap_or_default())
    }
}

fn pieces(config: &Config) -> Vec<Piece> {
    let (queries, keys) = (config.query_width(), config.key_width());
    let ends = [
        ("queries", 0..queries),
        ("keys", queries..queries + keys),
        ("values", queries + keys..queries + 2 * keys),
    ];
    let mut pieces = Vec::new();
    for (index, group) in layout(config).into_iter().enumerate() {
        for part in group.parts {
            let width = part.shape.last().copied().unwrap_or(1);
            let piece = |name: String, columns: Range<usize>| Piece {
                name,
                group: index,
                range: part.range.clone(),
                width,
                columns,
            };
            let name = format!("{}.{}", group.name, part.name);
            if part.name.starts_with("qkv.") {
                let columns = ends.iter().cloned();
                pieces
                    .extend(columns.map(|(of, columns)| piece(format!("{name} ({of})"), columns)));
            } else {
                pieces.push(piece(name, 0..width));
            }
        }
    }
    pieces
}

/// The length of the difference over the length; infinite where something is not a number,
/// or one has more elements.
fn distance<'a>(
    mut found: impl Iterator<Item = &'a f32>,
    expected: impl Iterator<Item = &'a f32>,
) -> f64 {
    let (mut squares, mut length) = (0.0, 0.0);
    for expected in expected {
        let Some(found) = found.next() else {
            return f64::INFINITY;
        };
        let [found, expected] = [found, expected].map(|x| f64::from(*x));
        squares += (found - expected).powi(2);
        length += expected.powi(2);
    }
    match found.next() {
        Some(_) => f64::INFINITY,
        None => number((squares / f64::max(length, f64::MIN_POSITIVE)).sqrt()),
    }
}

/// What is not a number is as far off as can be.
fn number(distance: f64) -> f64 {
    if distance.is_nan() {
        return f64::INFINITY;
    }
    distance
}
