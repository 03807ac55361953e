//! The policies beyond the paper's, on whole rows: laws, lengths, how rows are filled.

use std::collections::BTreeMap;

use super::*;
use crate::pack::ConcatSplit;

/// An alphabet: id 4 + n spells the n-th of these.
const LETTERS: [&str; 10] = ["a", "b", " c", " ", ".", ", ", "1", "2", "é", "x. "];

fn pieces() -> Arc<Pieces> {
    let reserved = [[].as_slice(); 4];
    Arc::new(Pieces::new(
        reserved.into_iter().chain(LETTERS.map(str::as_bytes)),
    ))
}

fn insertion_of(policy: &str, row_length: usize) -> Insertion {
    let policy: Policy = toml::from_str(policy).unwrap();
    let insertion = Insertion::new(policy, RESERVED, row_length).unwrap();
    insertion.with_pieces(|| Some(pieces())).unwrap()
}

const POLICIES: [&str; 16] = [
    "policy = 'none'",
    "policy = 'random'\nfraction = 0.2",
    "policy = 'random'\nfraction = 0.3\nlaw = { runs = { mean = 2.5 } }",
    "policy = 'prefix'\ncount = 3",
    "policy = 'prefix'\ncount = [0, 2]",
    "policy = 'stride'\nevery = 3",
    "policy = 'stride'\nevery = 1\ncount = 4",
    "policy = 'word-ends'",
    "policy = 'word-ends'\nevery = 2\ncount = 3",
    "policy = 'punctuation'\ncount = 2",
    "policy = 'digits'\ncount = 2",
    "policy = 'regex'\npattern = 'a\\s*b'\nside = 'before'",
    "policy = 'score'\nk = 3\ncount = 2",
    "policy = 'positions'",
    "policy = 'mix'\nof = [{ weight = 1, policy = 'none' }, { weight = 2, policy = 'word-ends', count = 2 }, { weight = 1, policy = 'random', fraction = 0.5 }]",
    "policy = 'mix'\nof = [{ weight = 1, policy = 'prefix', count = 5 }, { weight = 1, policy = 'score', k = 2 }]",
];

/// Ids of [`LETTERS`] and ends of documents.
fn stream(max: usize) -> impl Strategy<Value = Vec<TokenId>> {
    let id = prop_oneof![12 => 4u32..14, 1 => Just(RESERVED.end.0)];
    prop::collection::vec(id.prop_map(TokenId), 0..max)
}

/// Numbers for ids: small and often equal, or none.
fn numbers(ids: &[TokenId]) -> Vec<f32> {
    let number = |id: &TokenId| match id.0 % 5 {
        4 => f32::NAN,
        n => n as f32,
    };
    ids.iter().map(number).collect()
}

/// The naive twin of [`Insertion::take`]: every length from the longest, until no key
/// of many makes the row too long.
fn fits(insertion: &Insertion, row: &Sequence) -> bool {
    (0..12).all(|item| apply_uncapped(insertion, row, key(item)).len() <= insertion.row_length)
}

/// A row as [`apply`] makes it where there is room without end.
fn apply_uncapped(insertion: &Insertion, row: &Sequence, key: Key) -> Sequence {
    let part = insertion.part(key);
    let policy = insertion.policy.parts().nth(part).unwrap();
    if !policy.places() {
        return apply(insertion, row, key).sequence;
    }
    let gaps = insertion.all_gaps(part, policy, row);
    spread(row, &gaps, policy.count(), RESERVED.pause)
}

#[test]
fn a_mixture_gives_every_policy_its_share() {
    let mix = insertion_of(POLICIES[14], 20);
    let mut seen = BTreeMap::new();
    for item in 0..40_000 {
        *seen.entry(mix.part(key(item))).or_insert(0.0) += 1.0 / 40_000.0;
    }
    for (part, share) in [(0, 0.25), (1, 0.5), (2, 0.25)] {
        let distance: f64 = seen[&part] - share;
        assert!(distance.abs() < 0.01, "{part}: {seen:?}");
    }
    let certain = insertion_of(
        "policy = 'mix'\nof = [{ weight = 0, policy = 'none' }, { weight = 1, policy = 'stride', every = 1 }, { weight = 0, policy = 'none' }]",
        20,
    );
    assert!((0..1000).all(|item| certain.part(key(item)) == 1));
}

#[test]
fn prefix_pauses_stand_before_everything() {
    let policy = insertion_of("policy = 'prefix'\ncount = 2", 12);
    check(&policy, "a b | c", expect!["⏸ ⏸ a b | c"]);
    check(&policy, "is it > yes |", expect!["⏸ ⏸ is it > yes |"]);
    let row = apply(&policy, &row("is it > yes |"), key(0)).sequence;
    assert_eq!(draw(&restore(&row, RESERVED.pause)), "is it > yes |");
}

#[test]
fn policies_beyond_the_papers_that_cannot_be_carried_out_are_refused() {
    let check = |policy: &str, expect: Expect| {
        let policy: Policy = toml::from_str(policy).unwrap();
        let text = match policy.validate(16) {
            Ok(()) => "fine".to_string(),
            Err(error) => format!("{}: {error}", error.key()),
        };
        expect.assert_eq(&text);
    };
    check(
        "policy = 'stride'\nevery = 0",
        expect!["every: expected a `every` of 1 or more, found 0"],
    );
    check(
        "policy = 'stride'\nevery = 1\ncount = 16",
        expect!["count: expected room for text in rows of 16 ids, found 16 pauses a row"],
    );
    check("policy = 'score'\nk = 8", expect!["fine"]);
    check(
        "policy = 'score'\nk = 9",
        expect!["count: expected room for text in rows of 16 ids, found 17 pauses a row"],
    );
    check(
        "policy = 'punctuation'\nmarks = ''",
        expect!["marks: expected punctuation in `marks`, found none"],
    );
    check(
        "policy = 'regex'\npattern = '('",
        expect!["pattern: `pattern` is no regular expression: error: unclosed group"],
    );
    check(
        "policy = 'random'\nfraction = 0.1\nlaw = { runs = { mean = 0.5 } }",
        expect!["law: expected runs of a mean length of 1 or more, found 0.5"],
    );
    check(
        "policy = 'mix'\nof = []",
        expect!["of: a mixture needs at least one policy"],
    );
    check(
        "policy = 'mix'\nof = [{ weight = -1, policy = 'none' }]",
        expect!["of: a mixture has a weight that is not 0 or more"],
    );
    check(
        "policy = 'mix'\nof = [{ weight = 0, policy = 'none' }]",
        expect!["of: a mixture has weights of 0 alone"],
    );
    check(
        "policy = 'mix'\nof = [{ weight = 1, policy = 'random', fraction = 0.1, overflow = 'drop' }]",
        expect![[r#"of: a mixture cannot hold `overflow = "drop"`"#]],
    );
}

#[test]
fn unknown_keys_of_a_share_are_refused() {
    let parse =
        |text: &str| toml::from_str::<Policy>(text).map_err(|error| error.message().to_string());
    let error =
        parse("policy = 'mix'\nof = [{ weight = 1, policy = 'stride', evry = 3 }]").unwrap_err();
    assert!(error.contains("unknown field `evry`"), "{error}");
}

proptest! {
    /// Law 1 for every policy: rows joined and stripped are the stream, and none is too long.
    #[test]
    fn packed_rows_without_their_pauses_are_the_stream(
        ids in stream(300), row_length in 18usize..40,
    ) {
        for policy in POLICIES {
            let insertion = insertion_of(policy, row_length);
            let mut rows = Vec::new();
            let mut pack = ConcatSplit::new(&insertion);
            let documents = ids.split(|id| *id == RESERVED.end);
            let mut whole = Vec::new();
            for document in documents {
                let marks = numbers(&[document, &[RESERVED.end]].concat());
                pack.push((document, &marks), RESERVED.end, &mut |row| rows.push(row));
                whole.extend_from_slice(document);
                whole.push(RESERVED.end);
            }
            pack.finish(&mut |row| rows.push(row));
            let mut stripped = Vec::new();
            for (item, row) in (0..).zip(&rows) {
                prop_assert_eq!(row.marks.len(), row.len());
                let placed = apply(&insertion, row, key(item)).sequence;
                prop_assert!(!placed.is_empty() && placed.len() <= row_length);
                prop_assert_eq!(&apply_uncapped(&insertion, row, key(item)), &placed, "{}", policy);
                stripped.extend(strip(&placed.ids, RESERVED.pause));
                prop_assert_eq!(restore(&placed, RESERVED.pause).ids, row.ids.clone());
            }
            prop_assert_eq!(stripped, whole);
        }
    }

    /// What a row takes is the most that fits; where a border cuts a match, it may be less.
    #[test]
    fn a_row_takes_as_much_as_fits(ids in stream(60), row_length in 18usize..40) {
        for policy in POLICIES {
            let insertion = insertion_of(policy, row_length);
            let stream = &ids[..ids.len().min(insertion.real_per_row())];
            let front = |n: usize| Sequence {
                ids: stream[..n].to_vec(), marks: numbers(&stream[..n]), ..Sequence::default()
            };
            let taken = insertion.take(stream, &numbers(stream));
            let naive = (0..=stream.len()).rev().find(|n| fits(&insertion, &front(*n))).unwrap();
            prop_assert!(fits(&insertion, &front(taken)), "{policy}");
            if !insertion.policy.reads_text() {
                prop_assert_eq!(taken, naive, "{}", policy);
            }
            prop_assert!(taken <= naive && naive <= taken + 3, "{policy}: {taken} {naive}");
        }
    }

    /// Pauses stand in the target, or, for `prefix`, before everything.
    #[test]
    fn an_example_keeps_its_prefix_whole(
        prefix in stream(10), target in stream(10), item in any::<u64>(),
    ) {
        for policy in POLICIES {
            let insertion = insertion_of(policy, 60);
            let mut example = Sequence::example(&prefix, &target);
            example.marks = numbers(&example.ids);
            let row = apply(&insertion, &example, key(item)).sequence;
            let registers = row.ids.iter().take_while(|id| **id == RESERVED.pause).count();
            let real: Vec<_> = row.parts().0.to_vec();
            if policy.contains("prefix") && row.prefix != example.prefix {
                prop_assert_eq!(&real[registers.min(real.len())..], &prefix[..]);
                prop_assert_eq!(strip(row.parts().1, RESERVED.pause), target.clone());
            } else {
                prop_assert_eq!(&real, &prefix);
                prop_assert_eq!(strip(row.parts().1, RESERVED.pause), target.clone());
            }
            let restored = restore(&row, RESERVED.pause);
            prop_assert_eq!((restored.ids, restored.prefix), (example.ids.clone(), example.prefix));
            prop_assert!(row.len() <= insertion.longest(&example));
        }
    }

    /// Whatever the row: no policy panics or makes it too long by its places.
    #[test]
    fn nothing_panics(ids in stream(80), prefix in prop::option::of(0u32..60)) {
        for policy in POLICIES {
            let insertion = insertion_of(policy, 18);
            let row = Sequence { ids: ids.clone(), prefix, ..Sequence::default() };
            let placed = apply(&insertion, &row, key(3)).sequence;
            let finds_places = insertion.policy.parts().all(Policy::places);
            prop_assert!(!finds_places || placed.len() <= row.len().max(18));
        }
    }
}
