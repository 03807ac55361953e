//! Rows from documents: which ids share a row.

use std::mem;

use crate::pause::Insertion;
use crate::sequence::Sequence;
use crate::token::TokenId;

/// Joins documents into one stream, `ids, end, ids, end, ...`, and cuts it into
/// rows that are full once they have their pauses. No id is lost, none is
/// repeated, and nothing is padded: the rows joined again are the stream.
#[derive(Debug)]
pub struct ConcatSplit<'a> {
    /// How many ids a row takes ([`Insertion::take`]).
    insertion: &'a Insertion,
    /// The most that it could take.
    most: usize,
    row: Sequence,
}

impl<'a> ConcatSplit<'a> {
    /// Cuts rows for the pauses of `insertion`.
    pub fn new(insertion: &'a Insertion) -> Self {
        let most = insertion.real_per_row().max(1);
        Self {
            insertion,
            most,
            row: Sequence::plain(Vec::with_capacity(most)),
        }
    }

    /// Appends a document and its `end`; hands every row that is full to `emit`.
    ///
    /// `marks` are a number an id and one for the `end`, or none at all.
    pub fn push(
        &mut self,
        (ids, marks): (&[TokenId], &[f32]),
        end: TokenId,
        emit: &mut impl FnMut(Sequence),
    ) {
        let (own, of_end) = marks.split_at(ids.len().min(marks.len()));
        self.extend(ids, own, emit);
        self.extend(&[end], of_end, emit);
    }

    /// Hands on what is left; the last row is mostly shorter than the others.
    pub fn finish(mut self, emit: &mut impl FnMut(Sequence)) {
        while !self.row.is_empty() {
            let row = self.take();
            emit(row);
        }
    }

    fn extend(&mut self, mut ids: &[TokenId], mut marks: &[f32], emit: &mut impl FnMut(Sequence)) {
        while !ids.is_empty() {
            let space = (self.most - self.row.len()).min(ids.len());
            let (now, later) = ids.split_at(space);
            if !(marks.is_empty() && self.row.marks.is_empty()) {
                // Ids without a number have one that no policy takes.
                self.row.marks.resize(self.row.len(), f32::NAN);
                let (now, later) = marks.split_at(space.min(marks.len()));
                self.row.marks.extend_from_slice(now);
                self.row.marks.resize(self.row.len() + space, f32::NAN);
                marks = later;
            }
            self.row.ids.extend_from_slice(now);
            ids = later;
            if self.row.len() == self.most {
                let row = self.take();
                emit(row);
            }
        }
    }

    /// Cuts the next row off the front of what is waiting.
    fn take(&mut self) -> Sequence {
        let n = self.insertion.take(&self.row.ids, &self.row.marks);
        let n = n.clamp(1, self.row.len().max(1));
        let mut next = Sequence::plain(Vec::with_capacity(self.most));
        next.ids
            .extend_from_slice(self.row.ids.get(n..).unwrap_or_default());
        next.marks
            .extend_from_slice(self.row.marks.get(n..).unwrap_or_default());
        self.row.ids.truncate(n);
        self.row.marks.truncate(n);
        mem::replace(&mut self.row, next)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::pause::Policy;
    use crate::sequence::drawing::{RESERVED, draw, ids};

    fn rows(row_length: usize, documents: &[Vec<TokenId>]) -> Vec<Vec<TokenId>> {
        let mut rows = Vec::new();
        let insertion = Insertion::new(Policy::None, RESERVED, row_length).unwrap();
        let mut pack = ConcatSplit::new(&insertion);
        for document in documents {
            pack.push((document, &[]), RESERVED.end, &mut |row| rows.push(row.ids));
        }
        pack.finish(&mut |row| rows.push(row.ids));
        rows
    }

    /// The naive twin: the whole stream in memory, cut by the standard library.
    fn naive(row_length: usize, documents: &[Vec<TokenId>]) -> Vec<Vec<TokenId>> {
        let stream: Vec<TokenId> = documents
            .iter()
            .flat_map(|document| document.iter().copied().chain([RESERVED.end]))
            .collect();
        stream.chunks(row_length).map(<[TokenId]>::to_vec).collect()
    }

    fn check(row_length: usize, documents: &[&str], expect: Expect) {
        let documents: Vec<_> = documents.iter().map(|text| ids(text)).collect();
        let drawn: Vec<_> = rows(row_length, &documents)
            .into_iter()
            .map(|row| draw(&Sequence::plain(row)))
            .collect();
        expect.assert_eq(&drawn.join("\n"));
    }

    #[test]
    fn documents_run_on_across_rows() {
        check(
            4,
            &["the cat sat", "a", "on the mat today"],
            expect![[r#"
                the cat sat |
                a | on the
                mat today |"#]],
        );
    }

    #[test]
    fn a_stream_that_ends_with_a_row_leaves_no_rest() {
        check(
            2,
            &["a", "b"],
            expect![[r#"
            a |
            b |"#]],
        );
        check(3, &[], expect![""]);
    }

    proptest! {
        #[test]
        fn the_rows_joined_are_the_stream(
            row_length in 1usize..20,
            lengths in prop::collection::vec(0usize..50, 0..20),
        ) {
            let mut next = 10;
            let documents: Vec<Vec<TokenId>> = lengths
                .iter()
                .map(|n| (0..*n).map(|_| { next += 1; TokenId(next) }).collect())
                .collect();
            let rows = rows(row_length, &documents);
            let naive = naive(row_length, &documents);
            prop_assert_eq!(rows.concat(), naive.concat());
            prop_assert_eq!(rows, naive);
        }
    }
}
