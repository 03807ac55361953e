//! The masks against the characters, and both against the regular expressions.

use proptest::prelude::*;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};

use super::class::Table;
use super::level::SimdLevel;
use super::recognise::Pattern;
use super::scalar::piece_end;
use super::split::{Splitter, Starts};

const PATTERNS: [Pattern; 4] = [
    Pattern::Gpt2,
    Pattern::Cl100k,
    Pattern::Qwen,
    Pattern::O200k,
];

fn by_masks(pattern: Pattern, level: SimdLevel, text: &str) -> Vec<usize> {
    let mut splitter = Splitter::new(pattern, level, text.as_bytes(), Table::get().unwrap());
    let (mut starts, mut found) = (Starts::new(), Vec::new());
    while splitter.fill(&mut starts) {
        found.extend_from_slice(starts.found());
    }
    found
}

fn by_characters(pattern: Pattern, text: &str) -> Vec<usize> {
    let (mut at, mut found) = (0, Vec::new());
    while at < text.len() {
        found.push(at);
        at = piece_end(pattern, text.as_bytes(), at, Table::get().unwrap());
    }
    found
}

/// The library's engine on the expression of the `tokenizer.json`.
struct Regex(Pattern, Split);

impl Regex {
    fn new(pattern: Pattern) -> Self {
        let regex = SplitPattern::Regex(pattern.regex().into());
        Self(
            pattern,
            Split::new(regex, SplitDelimiterBehavior::Isolated, false).unwrap(),
        )
    }

    fn starts(&self, text: &str) -> Vec<usize> {
        self.1.regex.find_iter(text).map(|(from, _)| from).collect()
    }

    fn check(&self, text: &str) {
        let expected = self.starts(text);
        self.compare(text, "scalar", &by_characters(self.0, text), &expected);
        for level in SimdLevel::available() {
            let found = by_masks(self.0, level, text);
            self.compare(text, level.name(), &found, &expected);
        }
    }

    fn compare(&self, text: &str, what: &str, found: &[usize], expected: &[usize]) {
        if found == expected {
            return;
        }
        let same = found
            .iter()
            .zip(expected)
            .take_while(|(a, b)| a == b)
            .count();
        let at = |list: &[usize]| list.get(same).copied();
        let from = text.floor_char_boundary(expected[same.saturating_sub(3)]);
        let near: String = text[from..].chars().take(90).collect();
        panic!(
            "{:?}, {what}: piece {same} begins at {:?} and not at {:?}, in {near:?} from byte {from}",
            self.0,
            at(found),
            at(expected),
        );
    }
}

/// Characters of every kind, a few of each width.
const ALPHABET: &str = "aBsStTdDmMlLrRvVeEkK019 \t\n\r\u{b}\u{85}\u{a0}\u{2003}\u{3000}'’!/.-(\u{301}\u{17f}\u{212a}éßÄŁжЖ日本ªǅʰ५²Ⅷ\u{1d7d8}𝒜😀\u{200d}\u{e0100}";

fn texts() -> impl Strategy<Value = String> {
    let alphabet: Vec<char> = ALPHABET.chars().collect();
    let any_of = move |most: usize| {
        let some = prop::sample::select(alphabet.clone());
        prop::collection::vec(some, 0..most).prop_map(String::from_iter)
    };
    let words = r"( ?[a-zA-Z]{1,9}|['’ ](s|S|ſ|t|re|VE|ll|Ll|m|d|K)|[ \t]{0,70}|(\r?\n){1,3}|[0-9]{1,9}|[!-/]{1,4}|日本語|é){0,60}";
    // ASCII alone, for longer than a block.
    let ascii = r"([a-z]{1,3}|[A-Z]{1,3}|['/!](s|S|ll|re|T)?|\r?\n|\n/|/| |\t|[0-9]{1,4}){50,90}";
    prop_oneof![
        any_of(200),
        ascii,
        any_of(20),
        words,
        any::<String>(),
        "[ \n\u{3000}!a]{0,300}"
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn masks_and_characters_are_the_regex(text in texts()) {
        thread_local! {
            static REGEXES: Vec<Regex> = PATTERNS.map(Regex::new).into();
        }
        REGEXES.with(|regexes| regexes.iter().for_each(|regex| regex.check(&text)));
    }
}

/// Every scalar value alone, between letters, doubled, and beside what could take it.
#[test]
fn every_character_is_cut_as_the_regex_does() {
    let table = Table::get().unwrap();
    let kind = |c: char| (table.of(u32::from(c)), c.len_utf8());
    let mut text = String::new();
    let mut before = '\0';
    let regexes = PATTERNS.map(Regex::new);
    for c in '\0'..=char::MAX {
        // All of them in a short place; those next to another kind in more.
        text.extend(['x', c, ' ', c]);
        if kind(before) != kind(c) || u32::from(c) < 0x500 {
            for c in [before, c] {
                text +=
                    &format!("{c}x X{c}X\n{c}{c} {c}\t{c}1{c}'{c}s 's{c} !{c}!{c}\n\n{c} \n {c}");
            }
        }
        before = c;
        if 4000 < text.len() || c == char::MAX {
            regexes.iter().for_each(|regex| regex.check(&text));
            text.clear();
        }
    }
}

#[test]
fn contractions_are_found_at_every_place_of_a_block() {
    let mut endings: Vec<String> = [
        "s", "t", "re", "ve", "m", "ll", "d", "ſ", "K", "r", "l", "v", "",
    ]
    .iter()
    .flat_map(|ending| [ending.to_string(), ending.to_uppercase()])
    .collect();
    endings.extend(["Re", "vE", "lL", "s's", "'s", "s'", "sx", "sſ", " s"].map(String::from));
    for pattern in PATTERNS {
        let regex = Regex::new(pattern);
        for ending in &endings {
            for before in ["x", " ", "!", "1", "\n", "", "'s", "é"] {
                for shift in 55..70 {
                    for after in ["", "a", " b", "'t", "é", "\n"] {
                        regex.check(&format!("{}{before}'{ending}{after}", "x".repeat(shift)));
                    }
                }
            }
        }
    }
}

#[test]
fn runs_of_every_length_are_cut_as_the_regex_does() {
    let mut texts = Vec::new();
    for run in [
        "a", " ", "\n", "1", "!", "\u{3000}", "日", "\u{301}", "५", "A", "\t", "\r\n", "'", "😀",
    ] {
        for length in (0..10)
            .chain(58..70)
            .chain(125..131)
            .chain([190, 192, 193, 2047, 2048, 4200])
        {
            for (before, after) in [
                ("", ""),
                ("x", "x"),
                ("\n", "\n"),
                ("!", "!"),
                ("\n ", " x"),
                ("!\n", "1"),
                (" '", "é"),
                ("12", "\t\n"),
                ("\n", "!"),
            ] {
                texts.push(format!("{before}{}{after}", run.repeat(length)));
            }
        }
    }
    for pattern in PATTERNS {
        let regex = Regex::new(pattern);
        texts.iter().for_each(|text| regex.check(text));
    }
}
