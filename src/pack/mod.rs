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
pub struct Packer<T> {
    room: Room,
    state: State<T>,
    cuts: Cuts,
}

#[derive(Clone, Debug)]
enum State<T> {
    ConcatSplit(Open<T>),
    BestFit(BestFit<T>),
    Document(Overlong),
}

impl<T: Copy> Packer<T> {
    /// Packs rows of `real_per_row` ids, which is at least 1
    /// ([`crate::pause::Insertion::real_per_row`] of a valid policy).
    pub fn new(method: Method, overlong: Overlong, real_per_row: usize) -> Self {
        let room = Room(real_per_row.max(1));
        let state = match method {
            Method::ConcatSplit => State::ConcatSplit(Open::new()),
            Method::BestFit => State::BestFit(BestFit::new(room)),
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
                self.cuts.documents += u64::from(room.of_a_row() < document.len());
                rows.push(document, tag, emit);
            }
            State::Document(overlong) => {
                let whole = document.len();
                let lost = one_document(room, *overlong, document, tag, emit);
                self.cuts.documents += u64::from(room.of_a_row() < whole);
                self.cuts.trimmed += lost as u64;
            }
        }
    }

    /// The rows that are not full, once no document follows.
    pub fn finish(&mut self, emit: &mut impl FnMut(Row<T>)) {
        match &mut self.state {
            State::ConcatSplit(row) if row.is_empty() => {}
            State::ConcatSplit(row) => emit(mem::replace(row, Open::new()).close()),
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
struct Room(usize);

impl Room {
    /// How many ids a row takes that holds none.
    fn of_a_row(self) -> usize {
        self.0
    }

    /// How many more ids an open row takes.
    fn left<T>(self, row: &Open<T>) -> usize {
        self.0.saturating_sub(row.ids.len())
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
    documents: Vec<T>,
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
        row.documents.push(tag);
        row.extend(part);
        row
    }

    fn is_empty(&self) -> bool {
        self.ids.is_empty()
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

    fn close(self) -> Row<T> {
        Row {
            sequence: Sequence {
                ids: self.ids,
                prefix: None,
                marks: self.marks,
            },
            documents: self.documents,
        }
    }
}

fn concat_split<T>(
    room: Room,
    row: &mut Open<T>,
    mut rest: Part,
    tag: T,
    emit: &mut impl FnMut(Row<T>),
) {
    row.documents.push(tag);
    while 0 < rest.len() {
        if row.is_empty() {
            row.ids.reserve_exact(room.of_a_row());
        }
        let (now, later) = rest.split_at(room.left(row));
        row.extend(now);
        rest = later;
        if room.left(row) == 0 {
            emit(mem::replace(row, Open::new()).close());
        }
    }
}

/// Returns how many ids were dropped.
fn one_document<T: Copy>(
    room: Room,
    overlong: Overlong,
    mut rest: Part,
    tag: T,
    emit: &mut impl FnMut(Row<T>),
) -> usize {
    while 0 < rest.len() {
        let (now, later) = rest.split_at(room.of_a_row());
        emit(Open::with(now, tag).close());
        if overlong == Overlong::Drop {
            return later.len();
        }
        rest = later;
    }
    0
}
