//! Rows from documents: which ids share a row.
//!
//! Three documents, `|` their ends, in rows with room for five ids:
//!
//! ```text
//! the cat sat |    a |    on the mat today again and again |
//! ```
//!
//! [`Method::ConcatSplit`] joins all documents and cuts the stream: every row but
//! the last is full, and documents are cut wherever a row ends.
//!
//! ```text
//! the cat sat | a
//! | on the mat today
//! again and again |
//! ```
//!
//! [`Method::BestFit`] keeps whole every document that a row can hold (Ding et al.
//! 2024, arXiv 2404.10830). A longer one gives full rows and a rest; wholes and
//! rests go to the open row with the least room that is enough. Here the rest of
//! the third document joins the second, and their row leaves first because it is full:
//!
//! ```text
//! on the mat today again
//! a | and again |
//! the cat sat |
//! ```
//!
//! [`Method::Document`] starts a row with each document; with [`Overlong::Split`]
//! a longer one goes on in the next row, with [`Overlong::Drop`] it ends there,
//! without an end.
//!
//! ```text
//! the cat sat |
//! a |
//! on the mat today again
//! and again |
//! ```
//!
//! No id is lost but by [`Overlong::Drop`], none is repeated, none is added: rows
//! end short where they are not full.

mod best_fit;
mod repeat;
#[cfg(test)]
mod tests;

use std::mem;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pause::Insertion;
use crate::sequence::Sequence;
use crate::token::TokenId;

use best_fit::BestFit;
pub use repeat::Repeats;

/// Which documents share a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// All documents are one stream, cut into full rows.
    #[default]
    ConcatSplit,
    /// Documents that fit into a row stay whole and fill rows as tightly as they can.
    BestFit,
    /// One document a row.
    Document,
}

/// What happens to a document that is longer than its row (`method = "document"`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Overlong {
    /// It goes on in the next row.
    #[default]
    Split,
    /// What is beyond the row's end is dropped and counted.
    Drop,
}

impl Method {
    /// Whether every piece of a document stands in the index, or its first alone.
    ///
    /// A piece is what a row holds of a document. Where pieces follow one another
    /// row by row, the first tells where the others are.
    pub fn notes_every_piece(self) -> bool {
        match self {
            Self::ConcatSplit => false,
            Self::BestFit | Self::Document => true,
        }
    }

    /// Whether rows end short as a matter of course, so that it is counted.
    pub fn leaves_room(self) -> bool {
        self.notes_every_piece()
    }

    /// Whether documents start in the order in which they were pushed.
    pub fn keeps_order(self) -> bool {
        match self {
            Self::ConcatSplit | Self::Document => true,
            Self::BestFit => false,
        }
    }
}

/// A row, and the documents that the index lists with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Row<T> {
    /// The row, before it has pauses.
    pub sequence: Sequence,
    /// What was pushed with the documents that start here or, by
    /// [`Method::notes_every_piece`], with all that have a piece here; in order.
    pub documents: Vec<T>,
}

/// What packing did to documents that did not fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Documents that do not stand whole in one row.
    pub documents: u64,
    /// Ids that were dropped, ends included ([`Overlong::Drop`]).
    pub trimmed: u64,
}

/// Packs documents into rows, in order; memory is a few rows, or those that
/// best-fit has open.
///
/// The rows depend on the documents alone, in their order. `T` names a document
/// in the rows that come out.
#[derive(Clone, Debug)]
pub struct Packer<'a, T> {
    room: Room<'a>,
    state: State<T>,
    cuts: Cuts,
}

#[derive(Clone, Debug)]
enum State<T> {
    ConcatSplit(Open<T>),
    BestFit(BestFit<T>),
    Document(Overlong),
}

impl<'a, T: Copy> Packer<'a, T> {
    /// Packs rows that are full once they have the pauses of `insertion`.
    ///
    /// [`Method::BestFit`] needs rows that always take as many ids
    /// ([`crate::pause::Fill::Fixed`]): others come out longer than they may be.
    pub fn new(method: Method, overlong: Overlong, insertion: &'a Insertion) -> Self {
        let room = Room(insertion);
        let state = match method {
            Method::ConcatSplit => State::ConcatSplit(Open::new()),
            Method::BestFit => State::BestFit(BestFit::new(room.most())),
            Method::Document => State::Document(overlong),
        };
        Self {
            room,
            state,
            cuts: Cuts::default(),
        }
    }

    /// Packs a document, whose last id is its end; hands every row that no document
    /// can change any more to `emit`. Documents without marks may stand beside
    /// others with: their ids are marked [`UNMARKED`].
    pub fn push(&mut self, document: &Sequence, tag: T, emit: &mut impl FnMut(Row<T>)) {
        let (room, document) = (self.room, Part::of(document));
        match &mut self.state {
            State::ConcatSplit(row) => concat_split(room, row, document, tag, emit),
            State::BestFit(rows) => {
                self.cuts.documents += u64::from(room.most() < document.len());
                rows.push(document, tag, emit);
            }
            State::Document(overlong) => {
                let cuts = one_document(room, *overlong, document, tag, emit);
                self.cuts.documents += cuts.documents;
                self.cuts.trimmed += cuts.trimmed;
            }
        }
    }

    /// The rows that are not full, once no document follows.
    pub fn finish(&mut self, emit: &mut impl FnMut(Row<T>)) {
        match &mut self.state {
            State::ConcatSplit(waiting) => {
                while !waiting.is_empty() {
                    emit(waiting.take(self.room).close());
                }
            }
            State::BestFit(rows) => rows.finish(emit),
            State::Document(_) => {}
        }
    }

    /// What was done to documents so far; [`Method::ConcatSplit`] does not count.
    pub fn cuts(&self) -> Cuts {
        self.cuts
    }
}

/// The mark of an id that has none, in a row with others that have.
pub const UNMARKED: f32 = f32::NAN;

/// How many real ids rows take: all packers ask here.
#[derive(Clone, Copy, Debug)]
struct Room<'a>(&'a Insertion);

impl Room<'_> {
    /// The most ids that a row takes; at least 1.
    fn most(self) -> usize {
        self.0.real_per_row().max(1)
    }

    /// How many of the first ids make a row; at least 1 of those that are there.
    fn take(self, ids: &[TokenId], marks: &[f32]) -> usize {
        let most = ids.len().min(self.most());
        let ids = ids.get(..most).unwrap_or_default();
        let marks = marks.get(..most).unwrap_or_default();
        self.0.take(ids, marks).clamp(1.min(most), most)
    }
}

/// Some ids of a document with their marks, of which there are as many or none.
#[derive(Clone, Copy, Debug)]
struct Part<'a> {
    ids: &'a [TokenId],
    marks: &'a [f32],
}

impl<'a> Part<'a> {
    fn of(document: &'a Sequence) -> Self {
        Self {
            ids: &document.ids,
            marks: &document.marks,
        }
    }

    fn len(self) -> usize {
        self.ids.len()
    }

    /// The first ids, at most `at`, and the others.
    fn split_at(self, at: usize) -> (Self, Self) {
        let (ids, later_ids) = self.ids.split_at(at.min(self.ids.len()));
        let (marks, later_marks) = self.marks.split_at(at.min(self.marks.len()));
        let later = Self {
            ids: later_ids,
            marks: later_marks,
        };
        (Self { ids, marks }, later)
    }
}

/// A row that is being filled.
#[derive(Clone, Debug)]
struct Open<T> {
    ids: Vec<TokenId>,
    marks: Vec<f32>,
    /// Documents and where in the row they start.
    documents: Vec<(usize, T)>,
}

impl<T> Open<T> {
    fn new() -> Self {
        Self {
            ids: Vec::new(),
            marks: Vec::new(),
            documents: Vec::new(),
        }
    }

    fn with(part: Part, tag: T) -> Self {
        let mut row = Self::new();
        row.start(tag);
        row.extend(part);
        row
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Notes that a document, or a part of one, starts here.
    fn start(&mut self, tag: T) {
        self.documents.push((self.ids.len(), tag));
    }

    fn extend(&mut self, part: Part) {
        if !part.marks.is_empty() {
            self.marks.resize(self.ids.len(), UNMARKED);
            self.marks.extend_from_slice(part.marks);
        }
        self.ids.extend_from_slice(part.ids);
        if !self.marks.is_empty() {
            self.marks.resize(self.ids.len(), UNMARKED);
        }
    }

    /// Cuts a row off the front; what is left waits for the next.
    fn take(&mut self, room: Room) -> Self {
        let n = room.take(&self.ids, &self.marks);
        let later = self.documents.partition_point(|(at, _)| *at < n);
        let mut left = Self {
            ids: self.ids.split_off(n),
            marks: self.marks.split_off(n.min(self.marks.len())),
            documents: self.documents.split_off(later),
        };
        left.documents.iter_mut().for_each(|(at, _)| *at -= n);
        mem::replace(self, left)
    }

    fn close(self) -> Row<T> {
        Row {
            sequence: Sequence {
                ids: self.ids,
                prefix: None,
                marks: self.marks,
            },
            documents: self.documents.into_iter().map(|(_, tag)| tag).collect(),
        }
    }
}

fn concat_split<T>(
    room: Room,
    waiting: &mut Open<T>,
    mut rest: Part,
    tag: T,
    emit: &mut impl FnMut(Row<T>),
) {
    let most = room.most();
    waiting.start(tag);
    while 0 < rest.len() {
        if waiting.is_empty() {
            waiting.ids.reserve_exact(most);
        }
        let (now, later) = rest.split_at(most.saturating_sub(waiting.ids.len()));
        waiting.extend(now);
        rest = later;
        if most <= waiting.ids.len() {
            emit(waiting.take(room).close());
        }
    }
}

/// Gives a document rows of its own; returns what was cut.
fn one_document<T: Copy>(
    room: Room,
    overlong: Overlong,
    document: Part,
    tag: T,
    emit: &mut impl FnMut(Row<T>),
) -> Cuts {
    let (first, mut rest) = document.split_at(room.take(document.ids, document.marks));
    emit(Open::with(first, tag).close());
    let mut cuts = Cuts {
        documents: u64::from(0 < rest.len()),
        trimmed: 0,
    };
    match overlong {
        Overlong::Drop => cuts.trimmed = rest.len() as u64,
        Overlong::Split => {
            while 0 < rest.len() {
                let (now, later) = rest.split_at(room.take(rest.ids, rest.marks));
                emit(Open::with(now, tag).close());
                rest = later;
            }
        }
    }
    cuts
}
