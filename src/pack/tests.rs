use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::pause::Policy;
use crate::sequence::drawing::{RESERVED, draw, ids};

const METHODS: [(Method, Overlong); 4] = [
    (Method::ConcatSplit, Overlong::Split),
    (Method::BestFit, Overlong::Split),
    (Method::Document, Overlong::Split),
    (Method::Document, Overlong::Drop),
];

fn ended(mut ids: Vec<TokenId>) -> Sequence {
    ids.push(RESERVED.end);
    Sequence::plain(ids)
}

fn pack(
    method: (Method, Overlong),
    room: usize,
    documents: &[Sequence],
) -> (Vec<Row<usize>>, Cuts) {
    let insertion = Insertion::new(Policy::None, RESERVED, room).unwrap();
    pack_for(method, &insertion, documents)
}

fn pack_for(
    method: (Method, Overlong),
    insertion: &Insertion,
    documents: &[Sequence],
) -> (Vec<Row<usize>>, Cuts) {
    let mut rows = Vec::new();
    let mut packer = Packer::new(method.0, method.1, insertion);
    for (index, document) in documents.iter().enumerate() {
        packer.push(document, index, &mut |row| rows.push(row));
    }
    let cuts = packer.cuts();
    packer.finish(&mut |row| rows.push(row));
    (rows, cuts)
}

fn check(method: (Method, Overlong), room: usize, documents: &[&str], expect: Expect) {
    let documents: Vec<_> = documents.iter().map(|text| ended(ids(text))).collect();
    let (rows, cuts) = pack(method, room, &documents);
    let mut drawn = String::new();
    for row in rows {
        drawn += &format!("{:?} {}\n", row.documents, draw(&row.sequence));
    }
    if cuts != Cuts::default() {
        drawn += &format!("{} cut, {} ids trimmed\n", cuts.documents, cuts.trimmed);
    }
    expect.assert_eq(&drawn);
}

/// Those of the module's picture.
const PICTURE: &[&str] = &["the cat sat", "a", "on the mat today again and again"];

#[test]
fn concat_split_runs_on_across_rows() {
    check(
        METHODS[0],
        5,
        PICTURE,
        expect![[r#"
            [0, 1] the cat sat | a
            [2] | on the mat today
            [] again and again |
        "#]],
    );
}

#[test]
fn a_stream_that_ends_with_a_row_leaves_no_rest() {
    check(
        METHODS[0],
        2,
        &["a", "b"],
        expect![[r#"
            [0] a |
            [1] b |
        "#]],
    );
    for method in METHODS {
        check(method, 3, &[], expect![""]);
    }
}

#[test]
fn best_fit_keeps_whole_what_fits() {
    check(
        METHODS[1],
        5,
        PICTURE,
        expect![[r#"
            [2] on the mat today again
            [1, 2] a | and again |
            [0] the cat sat |
            1 cut, 0 ids trimmed
        "#]],
    );
    // `c` would fit behind `a a`, but is best behind `b b b`.
    check(
        METHODS[1],
        6,
        &["a a", "b b b", "c", "d d d d d"],
        expect![[r#"
            [1, 2] b b b | c |
            [3] d d d d d |
            [0] a a |
        "#]],
    );
}

#[test]
fn a_document_opens_its_row() {
    check(
        METHODS[2],
        5,
        PICTURE,
        expect![[r#"
            [0] the cat sat |
            [1] a |
            [2] on the mat today again
            [2] and again |
            1 cut, 0 ids trimmed
        "#]],
    );
    check(
        METHODS[3],
        5,
        PICTURE,
        expect![[r#"
            [0] the cat sat |
            [1] a |
            [2] on the mat today again
            1 cut, 3 ids trimmed
        "#]],
    );
}

/// Documents of the given lengths, ends included, whose other ids are all different.
fn distinct(lengths: &[usize]) -> Vec<Sequence> {
    let mut next = 10;
    let mut document = |length: usize| {
        let ids = (1..length).map(|_| {
            next += 1;
            TokenId(next)
        });
        ended(ids.collect())
    };
    lengths.iter().map(|length| document(*length)).collect()
}

/// The whole stream in memory, cut by the standard library.
fn naive_concat_split(room: usize, documents: &[Sequence]) -> Vec<Vec<TokenId>> {
    let stream: Vec<TokenId> = documents
        .iter()
        .flat_map(|document| document.ids.clone())
        .collect();
    stream.chunks(room).map(<[TokenId]>::to_vec).collect()
}

/// Every open row is looked at for every part.
fn naive_best_fit(room: usize, rows_max: usize, documents: &[Sequence]) -> Vec<Vec<TokenId>> {
    let (mut done, mut open) = (Vec::new(), Vec::<Vec<TokenId>>::new());
    for part in documents
        .iter()
        .flat_map(|document| document.ids.chunks(room))
    {
        let fits = (0..open.len()).filter(|at| open[*at].len() + part.len() <= room);
        // The longest row, and the oldest of those: `max_by_key` takes the last.
        let best = fits.rev().max_by_key(|at| open[*at].len());
        let at = match best {
            _ if part.len() == room => {
                done.push(part.to_vec());
                continue;
            }
            Some(at) => at,
            None => {
                if open.len() == rows_max {
                    let fullest = (0..open.len()).rev().max_by_key(|at| open[*at].len());
                    done.push(open.remove(fullest.unwrap()));
                }
                open.push(Vec::new());
                open.len() - 1
            }
        };
        open[at].extend(part);
        if open[at].len() == room {
            done.push(open.remove(at));
        }
    }
    done.extend(open);
    done
}

fn bare(rows: Vec<Row<usize>>) -> Vec<Vec<TokenId>> {
    rows.into_iter().map(|row| row.sequence.ids).collect()
}

/// Joins the pieces that rows hold of each document, by what the rows say.
fn joined(method: Method, rows: &[Row<usize>], n_documents: usize) -> Vec<Vec<TokenId>> {
    let mut joined = vec![Vec::new(); n_documents];
    let mut going_on = None;
    for row in rows {
        let mut listed = row.documents.iter().copied();
        for piece in row.sequence.ids.split_inclusive(|id| *id == RESERVED.end) {
            let document = match going_on.take() {
                Some(document) if !method.notes_every_piece() => document,
                _ => listed.next().unwrap(),
            };
            joined[document].extend_from_slice(piece);
            going_on = (piece.last() != Some(&RESERVED.end)).then_some(document);
        }
        assert_eq!(listed.next(), None, "more documents than pieces");
    }
    joined
}

fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![3 => 2usize..12, 1 => 2usize..60], 0..60)
}

proptest! {
    #[test]
    fn concat_split_is_its_twin(room in 1usize..20, lengths in lengths()) {
        let documents = distinct(&lengths);
        let (rows, _) = pack(METHODS[0], room, &documents);
        prop_assert_eq!(bare(rows), naive_concat_split(room, &documents));
    }

    #[test]
    fn best_fit_is_its_twin(room in 1usize..20, rows_max in 1usize..9, lengths in lengths()) {
        let documents = distinct(&lengths);
        let mut rows = Vec::new();
        let mut packer = BestFit::with_rows(room, rows_max);
        for (index, document) in documents.iter().enumerate() {
            packer.push(Part::of(document), index, &mut |row| rows.push(row));
            prop_assert!(packer.n_open() <= rows_max);
        }
        packer.finish(&mut |row| rows.push(row));
        prop_assert_eq!(bare(rows), naive_best_fit(room, rows_max, &documents));
    }

    /// Two rows that are half empty would have been one; so best-fit needs fewer than
    /// twice the rows that there must be, and never more than a row a piece.
    #[test]
    fn best_fit_wastes_little(room in 1usize..20, lengths in lengths()) {
        let documents = distinct(&lengths);
        let (rows, _) = pack(METHODS[1], room, &documents);
        let ids: usize = lengths.iter().sum();
        prop_assert!(rows.len() <= (2 * ids).div_ceil(room).max(1), "{} rows", rows.len());
        prop_assert!(rows.len() <= pack(METHODS[2], room, &documents).0.len());
        // Whole where a row can hold it.
        for (index, length) in lengths.iter().enumerate().filter(|(_, length)| **length <= room) {
            let pieces = rows.iter().filter(|row| row.documents.contains(&index)).count();
            prop_assert_eq!(pieces, 1, "document {} of {} ids", index, length);
        }
    }

    #[test]
    fn rows_joined_are_the_documents_and_none_is_too_long(
        room in 1usize..20,
        lengths in lengths(),
    ) {
        let documents = distinct(&lengths);
        for method in METHODS {
            let (rows, cuts) = pack(method, room, &documents);
            for row in &rows {
                prop_assert!((1..=room).contains(&row.sequence.len()));
            }
            let joined = joined(method.0, &rows, documents.len());
            let (mut trimmed, mut cut) = (0, 0);
            for (joined, document) in joined.iter().zip(&documents) {
                let kept = match method.1 {
                    Overlong::Drop => document.len().min(room),
                    Overlong::Split => document.len(),
                };
                prop_assert_eq!(joined.as_slice(), &document.ids[..kept]);
                trimmed += (document.len() - kept) as u64;
                cut += u64::from(room < document.len() && method.0 != Method::ConcatSplit);
            }
            prop_assert_eq!(cuts, Cuts { documents: cut, trimmed });
        }
    }

    /// Where pauses depend on the text, so does where a row ends: a pause stands
    /// before every id with a mark above 0.
    #[test]
    fn rows_end_where_their_own_pauses_let_them(
        row_length in 4usize..20,
        lengths in lengths(),
        pauses in prop::collection::vec(any::<bool>(), 100),
    ) {
        let mut documents = distinct(&lengths);
        for document in &mut documents {
            let mark = |id: &TokenId| f32::from(u8::from(pauses[id.0 as usize % pauses.len()]));
            document.marks = document.ids.iter().map(mark).collect();
        }
        let insertion =
            Insertion::new(Policy::Positions { count: 1 }, RESERVED, row_length).unwrap();
        let (rows, _) = pack_for(METHODS[0], &insertion, &documents);
        // The whole stream in memory.
        let mut stream = Sequence::default();
        for document in &documents {
            stream.ids.extend(&document.ids);
            stream.marks.extend(&document.marks);
        }
        let (mut naive, mut from) = (Vec::new(), 0);
        while from < stream.len() {
            let until = stream.len().min(from + insertion.real_per_row());
            let n = insertion.take(&stream.ids[from..until], &stream.marks[from..until]);
            naive.push(stream.ids[from..from + n].to_vec());
            from += n;
        }
        prop_assert_eq!(joined(METHODS[0].0, &rows, documents.len()).concat(), stream.ids.clone());
        prop_assert_eq!(bare(rows), naive);
        let (rows, cuts) = pack_for(METHODS[2], &insertion, &documents);
        let mut pieces = vec![0; documents.len()];
        for row in &rows {
            prop_assert!(insertion.longest(&row.sequence) <= row_length);
            pieces[row.documents[0]] += 1;
        }
        prop_assert_eq!(joined(METHODS[2].0, &rows, documents.len()).concat(), stream.ids);
        prop_assert_eq!(cuts.documents, pieces.iter().filter(|n| 1 < **n).count() as u64);
    }

    /// The mark of an id is its own number; every third document has none.
    #[test]
    fn marks_stay_with_their_ids(room in 1usize..20, lengths in lengths()) {
        let mut documents = distinct(&lengths);
        for document in documents.iter_mut().enumerate().filter(|(i, _)| i % 3 != 0) {
            document.1.marks = document.1.ids.iter().map(|id| id.0 as f32).collect();
        }
        let unmarked: std::collections::BTreeSet<TokenId> = documents
            .iter()
            .filter(|document| document.marks.is_empty())
            .flat_map(|document| document.ids.clone())
            .collect();
        for method in METHODS {
            for row in pack(method, room, &documents).0 {
                let Sequence { ids, marks, .. } = row.sequence;
                prop_assert!(marks.is_empty() || marks.len() == ids.len());
                for (at, id) in ids.iter().enumerate().filter(|(_, id)| **id != RESERVED.end) {
                    let mark = marks.get(at).copied().unwrap_or(UNMARKED);
                    let right = match unmarked.contains(id) {
                        true => mark.is_nan(),
                        false => mark == id.0 as f32,
                    };
                    prop_assert!(right, "id {} has mark {}", id.0, mark);
                }
            }
        }
    }
}
