//! The documents as the shards hold them, in the order of the sources.
//!
//! Rows without pauses are cut at the end-of-document ids into pieces, pieces are
//! paired with the records of the index, and those of one document are joined.
//! Where a packing or a mixture leaves documents in another order than the
//! sources have, the pieces of a unit are sorted first; what is kept for that is
//! where they lie, not what they say.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::iter::Peekable;

use rayon::prelude::*;

use super::chain;
use crate::corpus::Source;
use crate::dataset::Dataset;
use crate::document::DocumentId;
use crate::manifest::{Manifest, Split};
use crate::pack::{Method, Overlong};
use crate::pause;
use crate::shard::{DocumentRecord, Shard};
use crate::token::{Reserved, TokenId};

/// Pieces that are read in parallel at a time.
const CHUNK: usize = 1024;

/// A document as the shards hold it.
pub struct Held {
    /// The split that it is in.
    pub split: Split,
    /// The unit that it came in.
    pub unit: u32,
    /// What the index says of it.
    pub record: DocumentRecord,
    /// Its ids, once for each time that it was taken; at least one.
    pub copies: Vec<Ids>,
    /// Whether it reaches its end.
    pub whole: bool,
    /// In how many pieces each copy is.
    pub pieces: usize,
}

/// The ids of a document, without pauses and without the end-of-document id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    /// Running text.
    Plain(Vec<TokenId>),
    /// A prefix and its target, encoded apart so that the border is exact.
    Example {
        /// What is read.
        prefix: Vec<TokenId>,
        /// What is scored.
        target: Vec<TokenId>,
    },
}

impl Ids {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(ids) => ids.len(),
            Self::Example { prefix, target } => prefix.len() + target.len(),
        }
    }
}

/// How the documents of a dataset became rows.
#[derive(Clone, Debug)]
pub struct Packing {
    /// Which documents share a row.
    pub method: Method,
    /// What became of those that were too long.
    pub overlong: Overlong,
    /// Where the documents came from.
    pub sources: Vec<Source>,
}

impl Packing {
    /// What the recipe in a manifest says.
    pub fn of(manifest: &Manifest) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("the manifest's recipe: {error}");
        let pack = manifest.recipe.get("pack");
        let key = |name: &str| pack.and_then(|pack| pack.get(name)).cloned();
        Ok(Self {
            method: match key("method") {
                Some(method) => serde_json::from_value(method).map_err(wrong)?,
                None => Method::default(),
            },
            overlong: match key("overlong") {
                Some(overlong) => serde_json::from_value(overlong).map_err(wrong)?,
                None => Overlong::default(),
            },
            sources: match manifest.recipe.get("sources") {
                Some(sources) => serde_json::from_value(sources.clone()).map_err(wrong)?,
                None => Vec::new(),
            },
        })
    }

    /// Whether the documents of a unit stand in the order of its sources.
    fn in_order(&self) -> bool {
        let repeats = |source: &Source| source.weight.is_some_and(|weight| 1.0 < weight);
        self.method.keeps_order() && !self.sources.iter().any(repeats)
    }
}

/// The documents of both splits, unit by unit, in the order of the sources.
pub fn documents<'a>(
    dataset: &'a Dataset,
    packing: &'a Packing,
) -> impl Iterator<Item = Result<Held, String>> + 'a {
    let split = |split| Joined {
        pieces: pieces(dataset, split, packing).peekable(),
        split,
        overlong: packing.overlong,
    };
    Merged {
        train: split(Split::Train).peekable(),
        validation: split(Split::Validation).peekable(),
    }
}

/// What one row holds of a document; where only first pieces have a record, the others joined to it.
struct Piece {
    unit: u32,
    record: DocumentRecord,
    ids: Ids,
    ended: bool,
}

type Pieces<'a> = Box<dyn Iterator<Item = Result<Piece, String>> + 'a>;

/// The pieces of a split, those of a unit in the order of its sources.
fn pieces<'a>(dataset: &'a Dataset, split: Split, packing: &'a Packing) -> Pieces<'a> {
    let reserved = dataset.manifest.tokenizer.reserved;
    let units = dataset.shards(split);
    let units = units.chunk_by(|a, b| a.header().unit == b.header().unit);
    Box::new(units.flat_map(move |shards| {
        let rows = UnitRows {
            shards,
            reserved,
            join: !packing.method.notes_every_piece(),
        };
        match packing.in_order() {
            true => rows.in_row_order(),
            false => rows.in_source_order(),
        }
    }))
}

/// The rows of one split of one unit.
#[derive(Clone, Copy)]
struct UnitRows<'a> {
    shards: &'a [Shard],
    reserved: Reserved,
    /// Whether a piece goes on in the next row.
    join: bool,
}

/// Where a piece starts.
#[derive(Clone, Copy, Default)]
struct Location {
    shard: usize,
    row: u64,
    /// Index into the row without its pauses.
    from: usize,
}

impl<'a> UnitRows<'a> {
    fn unit(self) -> u32 {
        self.shards.first().map_or(0, |shard| shard.header().unit)
    }

    fn in_row_order(self) -> Pieces<'a> {
        let unit = self.unit();
        Box::new(self.paired().map(move |paired| {
            let (record, _, (ids, ended)) = paired?;
            Ok(Piece {
                unit,
                record,
                ids,
                ended,
            })
        }))
    }

    fn in_source_order(self) -> Pieces<'a> {
        let places = self
            .paired()
            .map(|paired| paired.map(|(record, at, _)| (record, at)));
        let mut places: VecDeque<(DocumentRecord, Location)> =
            match places.collect::<Result<Vec<_>, _>>() {
                Ok(mut places) => {
                    // Stable: the pieces of one document stay in the order of their rows.
                    places.sort_by_key(|(record, _)| record.id);
                    places.into()
                }
                Err(error) => return Box::new(std::iter::once(Err(error))),
            };
        let unit = self.unit();
        let chunks = std::iter::from_fn(move || {
            let chunk: Vec<_> = places.drain(..CHUNK.min(places.len())).collect();
            (!chunk.is_empty()).then_some(chunk)
        });
        let read = move |(record, at): (DocumentRecord, Location)| {
            let gone = || "a row is gone".to_string();
            let (_, (ids, ended)) = Cut::at(self, at).next().ok_or_else(gone)??;
            Ok(Piece {
                unit,
                record,
                ids,
                ended,
            })
        };
        Box::new(chunks.flat_map(move |chunk| chunk.into_par_iter().map(read).collect::<Vec<_>>()))
    }

    /// Records and pieces; one without the other is an error.
    fn paired(self) -> impl Iterator<Item = Result<Paired, String>> + 'a {
        let mut records = self
            .shards
            .iter()
            .flat_map(|shard| match shard.documents() {
                Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(error) => vec![Err(chain(&error))],
            });
        let mut cut = Cut::at(self, Location::default());
        std::iter::from_fn(move || match (records.next(), cut.next()) {
            (None, None) => None,
            (Some(Ok(record)), Some(Ok((at, ids)))) => Some(Ok((record, at, ids))),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Some(Err(error)),
            (Some(_), None) => Some(Err(
                "the index lists more documents than the rows hold".into()
            )),
            (None, Some(_)) => Some(Err(
                "the rows hold more documents than the index lists".into()
            )),
        })
    }
}

/// The ids of a piece, and whether its document ends with it.
type Content = (Ids, bool);
type Paired = (DocumentRecord, Location, Content);

/// Cuts rows at the end-of-document ids, from some place on.
struct Cut<'a> {
    rows: UnitRows<'a>,
    next: Location,
    /// The row that `next` is in, without its pauses; none before it is read.
    row: Option<Vec<TokenId>>,
}

impl<'a> Cut<'a> {
    fn at(rows: UnitRows<'a>, next: Location) -> Self {
        Self {
            rows,
            next,
            row: None,
        }
    }

    fn piece(&mut self) -> Result<Option<(Location, Content)>, String> {
        let mut joined = Vec::new();
        let mut start = None;
        loop {
            let Some(prefix) = self.read_row()? else {
                return match start {
                    None => Ok(None),
                    Some(_) => Err("the last document has no end".into()),
                };
            };
            let start = *start.get_or_insert(self.next);
            let row = self.row.as_deref().unwrap_or_default();
            if let Some(prefix) = prefix {
                let example = example(row, prefix, self.rows.reserved.end)?;
                self.next_row();
                return Ok(Some((start, (example, true))));
            }
            let rest = row.get(self.next.from..).unwrap_or_default();
            match rest.iter().position(|id| *id == self.rows.reserved.end) {
                Some(length) => {
                    joined.extend(rest.iter().take(length));
                    self.next.from += length + 1;
                    if row.len() <= self.next.from {
                        self.next_row();
                    }
                    return Ok(Some((start, (Ids::Plain(joined), true))));
                }
                None => {
                    joined.extend(rest);
                    self.next_row();
                    if !self.rows.join {
                        return Ok(Some((start, (Ids::Plain(joined), false))));
                    }
                }
            }
        }
    }

    fn next_row(&mut self) {
        self.next.row += 1;
        self.next.from = 0;
        self.row = None;
    }

    /// Has the row that is next at hand; its prefix, or none after the last row.
    fn read_row(&mut self) -> Result<Option<Option<u32>>, String> {
        while let Some(shard) = self.rows.shards.get(self.next.shard) {
            if shard.rows() <= self.next.row {
                self.next.shard += 1;
                self.next.row = 0;
                continue;
            }
            if self.row.is_some() {
                return Ok(Some(None)); // A finetuning row is read once.
            }
            let row = shard.row(self.next.row).map_err(|error| chain(&error))?;
            let row = pause::restore(&row, self.rows.reserved);
            self.row = Some(row.ids);
            return Ok(Some(row.prefix));
        }
        Ok(None)
    }
}

impl Iterator for Cut<'_> {
    type Item = Result<(Location, Content), String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece().transpose()
    }
}

/// A finetuning row, which is one document.
fn example(row: &[TokenId], prefix: u32, end: TokenId) -> Result<Ids, String> {
    let Some((last, ids)) = row.split_last().filter(|(last, _)| **last == end) else {
        return Err("a row does not close with the end-of-document id".into());
    };
    debug_assert_eq!(*last, end);
    let (prefix, target) = ids.split_at((prefix as usize).min(ids.len()));
    Ok(Ids::Example {
        prefix: prefix.to_vec(),
        target: target.to_vec(),
    })
}

/// Joins the pieces of each document.
struct Joined<I: Iterator<Item = Result<Piece, String>>> {
    pieces: Peekable<I>,
    split: Split,
    overlong: Overlong,
}

impl<I: Iterator<Item = Result<Piece, String>>> Iterator for Joined<I> {
    type Item = Result<Held, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let first = match self.pieces.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let (unit, record) = (first.unit, first.record);
        let mut pieces = vec![first];
        let same = |piece: &Piece| piece.unit == unit && piece.record.id == record.id;
        while let Some(Ok(piece)) = self.pieces.next_if(|next| next.as_ref().is_ok_and(same)) {
            if piece.record != record {
                return Some(Err(format!("{}: its records differ", place(record.id))));
            }
            pieces.push(piece);
        }
        let whole = pieces.iter().any(|piece| piece.ended);
        Some(match copies(pieces, self.overlong) {
            Ok((copies, pieces)) => Ok(Held {
                split: self.split,
                unit,
                record,
                copies,
                whole,
                pieces,
            }),
            Err(reason) => Err(format!("{}: {reason}", place(record.id))),
        })
    }
}

fn place(id: DocumentId) -> String {
    format!("document {} of file {}", id.row + 1, id.file)
}

/// The copies of a document, and in how many pieces each is.
///
/// Copies say the same, so it does not matter which rest follows which start; all
/// have as many pieces, and starts stand in order.
fn copies(pieces: Vec<Piece>, overlong: Overlong) -> Result<(Vec<Ids>, usize), String> {
    if overlong == Overlong::Drop {
        return Ok((pieces.into_iter().map(|piece| piece.ids).collect(), 1));
    }
    let (rests, starts): (Vec<_>, Vec<_>) = pieces.into_iter().partition(|piece| piece.ended);
    let (n_rests, n_starts) = (rests.len(), starts.len());
    let Some(starts_each) = n_starts
        .checked_div(n_rests)
        .filter(|each| each * n_rests == n_starts)
    else {
        return Err(format!(
            "{n_starts} pieces without an end and {n_rests} with one make no whole documents"
        ));
    };
    let mut starts = starts.into_iter();
    let copies = rests.into_iter().map(|rest| {
        let mut ids = Vec::new();
        for piece in starts.by_ref().take(starts_each).chain([rest]) {
            match piece.ids {
                Ids::Plain(more) => ids.extend(more),
                example @ Ids::Example { .. } => return example,
            }
        }
        Ids::Plain(ids)
    });
    Ok((copies.collect(), starts_each + 1))
}

/// Both splits in the order of the sources.
struct Merged<I: Iterator<Item = Result<Held, String>>> {
    train: Peekable<I>,
    validation: Peekable<I>,
}

impl<I: Iterator<Item = Result<Held, String>>> Iterator for Merged<I> {
    type Item = Result<Held, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let place = |held: &Held| (held.unit, held.record.id);
        let order = match (self.train.peek(), self.validation.peek()) {
            (Some(Ok(train)), Some(Ok(validation))) => place(train).cmp(&place(validation)),
            // An error comes first; so does what is left.
            (None, _) | (_, Some(Err(_))) => Ordering::Greater,
            _ => Ordering::Less,
        };
        match order {
            Ordering::Less | Ordering::Equal => self.train.next(),
            Ordering::Greater => self.validation.next(),
        }
    }
}
