//! The policies beyond the paper's, on whole rows: laws, lengths, how rows are filled.

use std::collections::BTreeMap;

use super::*;

/// An alphabet: id 4 + n spells the n-th of these.
const LETTERS: [&str; 10] = ["a", "b", " c", " ", ".", ", ", "1", "2", "é", "x. "];

fn pieces() -> Arc<Pieces> {
    let reserved = [[].as_slice(); 4];
    Arc::new(Pieces::new(
        reserved.into_iter().chain(LETTERS.map(str::as_bytes)),
    ))
}

pub(crate) fn insertion_of(policy: &str, row_length: usize) -> Insertion {
    let policy: Policy = toml::from_str(policy).unwrap();
    let insertion = Insertion::new(policy, RESERVED, row_length).unwrap();
    insertion.with_pieces(|| Some(pieces())).unwrap()
}

pub(crate) const POLICIES: [&str; 16] = [
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
pub(crate) fn stream(max: usize) -> impl Strategy<Value = Vec<TokenId>> {
    let id = prop_oneof![12 => 4u32..14, 1 => Just(RESERVED.end.0)];
    prop::collection::vec(id.prop_map(TokenId), 0..max)
}

/// Numbers for ids: small and often equal, or none.
pub(crate) fn numbers(ids: &[TokenId]) -> Vec<f32> {
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
pub(crate) fn apply_uncapped(insertion: &Insertion, row: &Sequence, key: Key) -> Sequence {
    let part = insertion.part(key);
    let policy = insertion.policy.parts().nth(part).unwrap();
    if !policy.places() {
        return apply(insertion, row, key).sequence;
    }
    let gaps = insertion.all_gaps(part, policy, row.into());
    let mut ids = Vec::new();
    for at in 0..=row.len() {
        let here = gaps.iter().filter(|gap| **gap == at);
        ids.extend(here.flat_map(|_| vec![RESERVED.pause; policy.count()]));
        ids.extend(row.ids.get(at));
    }
    Sequence {
        ids,
        prefix: row.prefix,
        ..Sequence::default()
    }
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

const EXTRA: Reserved = Reserved {
    extra: crate::token::Extra {
        first: TokenId(100),
        distinct: 3,
        delimiters: true,
    },
    ..RESERVED
};

fn dressed(config: &str, text: &str) -> Placed {
    let config: Config = toml::from_str(config).unwrap();
    let insertion = Insertion::new(config, EXTRA, 20).unwrap();
    apply(&insertion, &row(text), key(1))
}

fn check_dress(config: &str, text: &str, expect: Expect) {
    let placed = dressed(config, text).sequence;
    let word = |id: &TokenId| match id.0 {
        100..103 => format!("⏸{}", id.0 - 100),
        103 => "⟨".into(),
        104 => "⟩".into(),
        _ => crate::sequence::drawing::word(*id),
    };
    let words: Vec<String> = placed.ids.iter().map(word).collect();
    expect.assert_eq(&words.join(" "));
    assert_eq!(draw(&restore(&placed, EXTRA)), text);
    assert_eq!(
        placed.n_pauses(EXTRA.into()),
        runs(&placed, EXTRA).sum::<usize>()
    );
}

#[test]
fn pauses_may_be_other_tokens() {
    let suffix = "policy = 'suffix'\ncount = 5\n";
    let example = "is it > yes |";
    check_dress(
        &format!("{suffix}token = {{ distinct = 3 }}"),
        example,
        expect!["is it ⏸0 ⏸1 ⏸2 ⏸0 ⏸1 yes |"],
    );
    check_dress(
        &format!("{suffix}token = 'delimited'"),
        example,
        expect!["is it ⟨ ⏸ ⏸ ⏸ ⟩ yes |"],
    );
    let stride = "policy = 'stride'\nevery = 2\n";
    check_dress(
        &format!("{stride}token = {{ distinct = 2 }}"),
        "a b c d e",
        expect!["a b ⏸0 c d ⏸1 e"],
    );
    check_dress(
        &format!("{stride}token = 'delimited'"),
        "a b c",
        expect!["a b ⏸ c"],
    );
    check_dress(
        &format!("{stride}count = 2\ntoken = 'delimited'"),
        "a b c",
        expect!["a b ⟨ ⟩ c"],
    );
    let none = Insertion::new(
        toml::from_str::<Config>(&format!("{suffix}token = {{ distinct = 4 }}")).unwrap(),
        EXTRA,
        20,
    );
    assert_eq!(
        none.unwrap_err().to_string(),
        "the pause token is one of more than the tokenizer has"
    );
}

#[test]
fn a_filler_is_told_from_text_by_a_stored_mark() {
    let config: Config =
        toml::from_str("policy = 'stride'\nevery = 2\ntoken = { filler = 'b' }").unwrap();
    let insertion = Insertion::new(config, RESERVED, 20).unwrap();
    let filler = crate::sequence::drawing::ids("b")[0];
    let row = row("a b c b b");
    let placed = apply(&insertion.with_filler(filler), &row, key(1)).sequence;
    assert_eq!(draw(&placed), "a b b c b b b");
    let inserted = &placed.stored.as_ref().unwrap().inserted;
    assert_eq!(inserted, &[false, false, true, false, false, true, false]);
    assert_eq!(restore(&placed, RESERVED), row);
    // Nothing is scored where a filler follows: the mark decides, not the id.
    assert_eq!(
        weights(&placed, RESERVED),
        [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]
    );
}

#[test]
fn a_rule_is_stored_and_the_papers_is_not() {
    let plain = dressed("policy = 'suffix'\ncount = 3", "is it > yes |").sequence;
    assert_eq!(plain.stored, None);
    let config = "policy = 'suffix'\ncount = 3\ntarget = 'emit'\ntarget_weight = 0.25";
    let row = dressed(config, "is it > yes |").sequence;
    assert_eq!(row.ids, plain.ids);
    assert_eq!(weights(&row, EXTRA), [0.0, 0.25, 0.25, 0.25, 1.0, 1.0, 0.0]);
}

#[test]
fn configs_that_cannot_be_carried_out_are_refused() {
    let check = |config: &str, expect: Expect| {
        let config: Config = toml::from_str(&format!("policy = 'none'\n{config}")).unwrap();
        let error = config.validate(16).unwrap_err();
        expect.assert_eq(&format!("{}: {error}", error.key()));
    };
    check(
        "token = { distinct = 0 }",
        expect!["token: the pause token needs at least one token"],
    );
    check(
        "token = { distinct = 17 }",
        expect!["token: the pause token is one of more than a row has ids"],
    );
    check(
        "token = { filler = '' }",
        expect!["token: the pause token is an empty text"],
    );
    check(
        "target = { future = 0 }",
        expect!["target: the target rule looks 0 tokens ahead; the next one is 1"],
    );
    check(
        "target_weight = 2.0",
        expect![
            "target_weight: the weight of targets weighs targets that the rule `skip` does not add"
        ],
    );
    check(
        "target = 'emit'\ntarget_weight = -1.0",
        expect!["target_weight: the weight of targets must be a number of 0 or more, found -1"],
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
