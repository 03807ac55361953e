//! What each policy finds, and naive twins that look at every character.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;

const END: TokenId = TokenId(0);

/// Ids of tokens drawn as `The/ cat/ sat/./■`; `■` ends a document.
#[derive(Debug)]
struct Tokens {
    pieces: Pieces,
    ids: Vec<TokenId>,
    words: Vec<String>,
}

fn tokens(text: &str) -> Tokens {
    let words: Vec<String> = text.split('/').map(String::from).collect();
    let spelt: Vec<&[u8]> = std::iter::once([].as_slice())
        .chain(words.iter().map(String::as_bytes))
        .collect();
    let ids = (1u32..).zip(&words);
    Tokens {
        pieces: Pieces::new(spelt),
        ids: ids
            .map(|(id, word)| if word == "■" { END } else { TokenId(id) })
            .collect(),
        words,
    }
}

impl Tokens {
    fn gaps(&self, policy: &Policy, marks: &[f32]) -> Vec<usize> {
        let pattern = match policy {
            Policy::Regex { pattern, .. } => Some(Regex::new(pattern).unwrap()),
            _ => None,
        };
        let reader = Reader {
            pieces: Some(&self.pieces),
            end: END,
            pattern: pattern.as_ref(),
        };
        reader.gaps(policy, &self.ids, marks)
    }

    fn draw(&self, gaps: &[usize]) -> String {
        let word = |(at, word): (usize, &String)| {
            let pause = if gaps.contains(&at) { "⏸/" } else { "" };
            format!("{pause}{word}")
        };
        let words: Vec<String> = self.words.iter().enumerate().map(word).collect();
        words.join("/")
    }
}

fn check(policy: &str, text: &str, expect: Expect) {
    check_marks(policy, text, &[], expect);
}

fn check_marks(policy: &str, text: &str, marks: &[f32], expect: Expect) {
    let policy: Policy = toml::from_str(policy).unwrap();
    let tokens = tokens(text);
    expect.assert_eq(&tokens.draw(&tokens.gaps(&policy, marks)));
}

const TEXT: &str = "The/ cat/ sat/,/ then/ slept/.../■/It/ was/ 7/:/3/0/.";

#[test]
fn stride_counts_ids() {
    check(
        "policy = 'stride'\nevery = 4",
        TEXT,
        expect!["The/ cat/ sat/,/⏸/ then/ slept/.../■/⏸/It/ was/ 7/:/⏸/3/0/."],
    );
    check("policy = 'stride'\nevery = 3", "a/b/c", expect!["a/b/c"]);
}

#[test]
fn word_ends_are_before_what_follows_a_word() {
    check(
        "policy = 'word-ends'",
        TEXT,
        expect!["The/⏸/ cat/⏸/ sat/⏸/,/ then/⏸/ slept/⏸/.../■/It/⏸/ was/⏸/ 7/⏸/:/3/0/⏸/."],
    );
    check(
        "policy = 'word-ends'\nevery = 3",
        TEXT,
        expect!["The/ cat/ sat/⏸/,/ then/ slept/.../■/It/⏸/ was/ 7/:/3/0/⏸/."],
    );
    // The row's border hides whether the word goes on; a document's end does not.
    check(
        "policy = 'word-ends'",
        "a/ b/■/ c",
        expect!["a/⏸/ b/⏸/■/ c"],
    );
    // A token is never split: what ends inside it is before it.
    check(
        "policy = 'word-ends'",
        "on/e. two/ x",
        expect!["on/⏸/e. two/⏸/ x"],
    );
}

#[test]
fn punctuation_is_one_place_where_it_touches() {
    check(
        "policy = 'punctuation'",
        TEXT,
        expect!["The/ cat/ sat/,/⏸/ then/ slept/.../⏸/■/It/ was/ 7/:/⏸/3/0/."],
    );
    check(
        "policy = 'punctuation'\nside = 'before'\nmarks = '.'",
        TEXT,
        expect!["The/ cat/ sat/,/ then/ slept/⏸/.../■/It/ was/ 7/:/3/0/⏸/."],
    );
}

#[test]
fn digits_are_parted_where_tokens_are() {
    check(
        "policy = 'digits'",
        TEXT,
        expect!["The/ cat/ sat/,/ then/ slept/.../■/It/ was/ 7/:/3/⏸/0/."],
    );
    check("policy = 'digits'", "12/3/ 4/5", expect!["12/⏸/3/ 4/⏸/5"]);
}

#[test]
fn a_pattern_is_matched_in_each_document() {
    check(
        "policy = 'regex'\npattern = '(?i)[aeiou]t'",
        TEXT,
        expect!["The/ cat/⏸/ sat/⏸/,/ then/ slept/.../■/It/⏸/ was/ 7/:/3/0/."],
    );
    check(
        "policy = 'regex'\npattern = '^\\w+'\nside = 'before'",
        "a/ b/■/c/ d",
        expect!["⏸/a/ b/■/⏸/c/ d"],
    );
    check(
        "policy = 'regex'\npattern = '=\\s*$'",
        "1/+/1/ =/ /■/x",
        expect!["1/+/1/ =/ /⏸/■/x"],
    );
}

#[test]
fn the_lowest_scores_are_taken_first_and_ties_from_the_left() {
    let marks = [-1.0, -3.0, -2.0, -3.0, f32::NAN, -9.0];
    let text = "a/ b/ c/ d/■/e";
    check_marks(
        "policy = 'score'\nk = 2",
        text,
        &marks,
        expect!["a/⏸/ b/ c/ d/■/⏸/e"],
    );
    check_marks(
        "policy = 'score'\nk = 3\nside = 'after'",
        text,
        &marks,
        expect!["a/ b/⏸/ c/ d/⏸/■/e"],
    );
    check_marks(
        "policy = 'score'\nk = 9",
        text,
        &marks,
        expect!["⏸/a/⏸/ b/⏸/ c/⏸/ d/■/⏸/e"],
    );
    check_marks(
        "policy = 'score'\nk = 9",
        text,
        &[],
        expect!["a/ b/ c/ d/■/e"],
    );
}

#[test]
fn positions_are_where_the_document_says() {
    let marks = [0.0, 1.0, 0.0, 0.0, 1.0, f32::NAN];
    check_marks(
        "policy = 'positions'",
        "a/ b/ c/ d/■/e",
        &marks,
        expect!["a/⏸/ b/ c/ d/⏸/■/e"],
    );
}

#[test]
fn half_a_character_at_a_border_is_part_of_a_word() {
    let broken: [&[u8]; 4] = [b"", b"caf\xc3", b"\xa9 x", b"."];
    let tokens = Tokens {
        pieces: Pieces::new(broken),
        ids: vec![TokenId(2), TokenId(3), TokenId(1)],
        words: ["é x", ".", "caf"].map(String::from).into(),
    };
    let policy = toml::from_str("policy = 'word-ends'").unwrap();
    assert_eq!(tokens.gaps(&policy, &[]), [0, 1]);
}

/// Texts of few characters, cut into tokens anywhere between characters.
fn any_tokens() -> impl Strategy<Value = Tokens> {
    let token = "[aé1 ,.]{1,3}";
    prop::collection::vec(prop_oneof![6 => token, 1 => Just("■".to_string())], 0..30)
        .prop_map(|words| tokens(&words.join("/")))
}

/// The naive twin: every character of every document with its neighbours; `wanted`
/// says whether the place before `after` is one.
fn naive(tokens: &Tokens, wanted: impl Fn(Option<char>, Option<char>, bool) -> bool) -> Vec<usize> {
    let mut gaps = Vec::new();
    for (first, last) in documents(tokens) {
        let ended = last < tokens.ids.len();
        let spelt = |range: std::ops::Range<usize>| tokens.words[range].concat();
        let whole: Vec<char> = spelt(first..last).chars().collect();
        for at in 0..=whole.len() {
            let before = at.checked_sub(1).map(|before| whole[before]);
            if wanted(before, whole.get(at).copied(), ended) {
                let starts = |token: &usize| spelt(first..token + 1).chars().count() <= at;
                gaps.push((first..last).find(|token| !starts(token)).unwrap_or(last));
            }
        }
    }
    gaps.dedup();
    gaps.retain(|gap| *gap < tokens.ids.len());
    gaps
}

fn documents(tokens: &Tokens) -> Vec<(usize, usize)> {
    let mut borders: Vec<usize> = (0..tokens.ids.len())
        .filter(|at| tokens.ids[*at] == END)
        .collect();
    borders.push(tokens.ids.len());
    let mut start = 0;
    let pairs = borders.into_iter().map(|end| {
        let pair = (start, end);
        start = end + 1;
        pair
    });
    pairs.filter(|(first, last)| first < last).collect()
}

proptest! {
    #[test]
    fn word_ends_are_their_naive_twins(tokens in any_tokens(), every in 1usize..4) {
        let word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let gaps = naive(&tokens, |before, after, ended| {
            word(before) && !word(after) && (after.is_some() || ended)
        });
        let policy = Policy::WordEnds { every: every as u32, count: 1 };
        let chosen: Vec<usize> = (gaps.iter().enumerate())
            .filter(|(index, _)| (index + 1) % every == 0)
            .map(|(_, gap)| *gap)
            .collect();
        prop_assert_eq!(tokens.gaps(&policy, &[]), chosen);
    }

    #[test]
    fn punctuation_and_a_pattern_for_it_are_their_naive_twin(tokens in any_tokens()) {
        let mark = |c: Option<char>| c.is_some_and(|c| ",.".contains(c));
        let after = naive(&tokens, |b, a, _| mark(b) && !mark(a));
        let before = naive(&tokens, |b, a, _| !mark(b) && mark(a));
        for (side, expected) in [(Side::After, after), (Side::Before, before)] {
            let policy = Policy::Punctuation { marks: ".,".into(), side, every: 1, count: 1 };
            prop_assert_eq!(tokens.gaps(&policy, &[]), expected.clone());
            let policy = Policy::Regex { pattern: "[.,]+".into(), side, every: 1, count: 1 };
            prop_assert_eq!(tokens.gaps(&policy, &[]), expected);
        }
    }

    #[test]
    fn digits_are_their_naive_twin(tokens in any_tokens()) {
        let digit = |word: &str, last: bool| {
            let c = if last { word.chars().last() } else { word.chars().next() };
            c.is_some_and(|c| c.is_ascii_digit())
        };
        let pairs = tokens.words.windows(2).enumerate();
        let expected: Vec<usize> = pairs
            .filter(|(_, pair)| digit(&pair[0], true) && digit(&pair[1], false))
            .map(|(at, _)| at + 1)
            .collect();
        prop_assert_eq!(tokens.gaps(&Policy::Digits { count: 1 }, &[]), expected);
    }

    #[test]
    fn scores_are_their_naive_twin(
        marks in prop::collection::vec(prop_oneof![Just(f32::NAN), (0i8..4).prop_map(f32::from)], 0..20),
        k in 1u32..8,
    ) {
        let mut ranked: Vec<usize> = (0..marks.len()).filter(|at| !marks[*at].is_nan()).collect();
        ranked.sort_by(|a, b| marks[*a].partial_cmp(&marks[*b]).unwrap());
        ranked.truncate(k as usize);
        ranked.sort_unstable();
        let tokens = tokens(&vec!["a"; marks.len().max(1)].join("/"));
        let policy = Policy::Score { k, side: Side::Before, count: 1 };
        prop_assert_eq!(tokens.gaps(&policy, &marks), ranked);
    }
}
