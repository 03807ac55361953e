//! Rows from documents: which ids share a row.

use std::mem;

use crate::token::TokenId;

/// Joins documents into one stream, `ids, end, ids, end, ...`, and cuts it into
/// rows of one length. No id is lost, none is repeated, and nothing is padded:
/// the rows joined again are the stream.
#[derive(Clone, Debug)]
pub struct ConcatSplit {
    row_length: usize,
    row: Vec<TokenId>,
}

impl ConcatSplit {
    /// Cuts rows of `real_per_row` ids, which is at least 1
    /// ([`crate::pause::Insertion::real_per_row`] of a valid policy).
    pub fn new(real_per_row: usize) -> Self {
        let row_length = real_per_row.max(1);
        Self {
            row_length,
            row: Vec::with_capacity(row_length),
        }
    }

    /// Appends a document and its `end`; hands every row that is full to `emit`.
    pub fn push(&mut self, ids: &[TokenId], end: TokenId, emit: &mut impl FnMut(Vec<TokenId>)) {
        self.extend(ids, emit);
        self.extend(&[end], emit);
    }

    /// The last row, which is shorter than the others; `None` where the stream
    /// ended with a full row.
    pub fn finish(self) -> Option<Vec<TokenId>> {
        (!self.row.is_empty()).then_some(self.row)
    }

    fn extend(&mut self, mut ids: &[TokenId], emit: &mut impl FnMut(Vec<TokenId>)) {
        while !ids.is_empty() {
            let space = self.row_length - self.row.len();
            let (now, later) = ids.split_at(space.min(ids.len()));
            self.row.extend_from_slice(now);
            ids = later;
            if self.row.len() == self.row_length {
                let next = Vec::with_capacity(self.row_length);
                emit(mem::replace(&mut self.row, next));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::sequence::Sequence;
    use crate::sequence::drawing::{RESERVED, draw, ids};

    fn rows(row_length: usize, documents: &[Vec<TokenId>]) -> Vec<Vec<TokenId>> {
        let mut rows = Vec::new();
        let mut pack = ConcatSplit::new(row_length);
        for document in documents {
            pack.push(document, RESERVED.end, &mut |row| rows.push(row));
        }
        rows.extend(pack.finish());
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
