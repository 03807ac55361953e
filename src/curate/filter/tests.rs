use std::collections::{HashMap, HashSet};

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::repetition::{Repeated, Words};
use super::shape::Shape;
use super::{Filter, Preset, judge};

fn filter(toml: &str) -> Filter {
    toml::from_str::<Filter>(toml).unwrap().spelt_out()
}

/// The reason for which each limit of a list drops a text.
fn check(text: &str, limits: &[&str], expected: Expect) {
    let verdict = |limit: &&str| {
        let reason = judge(&filter(limit), text).unwrap_or("kept");
        format!("{limit}: {reason}\n")
    };
    expected.assert_eq(&limits.iter().map(verdict).collect::<String>());
}

#[test]
fn lengths_and_words() {
    check(
        "The cat sat on 12 mats ... and slept…\n",
        &[
            "min_bytes = 40",
            "min_bytes = 41",
            "max_bytes = 39",
            "min_words = 9",
            "min_words = 10",
            "max_words = 8",
            "min_word_length = 3.2",
            "max_word_length = 3.3",
            "max_ellipses = 0.2",
            "min_alphabetic_words = 0.77",
            "min_alphabetic_words = 0.78",
            "min_stop_words = 2",
            "min_stop_words = 3",
            "min_stop_words = 2\nstop_words = ['cat', 'dog']",
        ],
        expect![[r#"
            min_bytes = 40: kept
            min_bytes = 41: min_bytes
            max_bytes = 39: max_bytes
            min_words = 9: kept
            min_words = 10: min_words
            max_words = 8: max_words
            min_word_length = 3.2: kept
            max_word_length = 3.3: kept
            max_ellipses = 0.2: max_ellipses
            min_alphabetic_words = 0.77: kept
            min_alphabetic_words = 0.78: min_alphabetic_words
            min_stop_words = 2: kept
            min_stop_words = 3: min_stop_words
            min_stop_words = 2
            stop_words = ['cat', 'dog']: min_stop_words
        "#]],
    );
}

#[test]
fn lines() {
    check(
        "- one\n • two\n\n3 # three...\nThe fourth is a whole sentence, and a long one.\n",
        &[
            "max_bullet_lines = 0.5",
            "max_bullet_lines = 0.4",
            "max_ellipsis_lines = 0.25",
            "max_ellipsis_lines = 0.2",
            "min_punctuated_lines = 0.5",
            "min_punctuated_lines = 0.6",
            "max_short_lines = 0.75",
            "max_short_lines = 0.7",
            "max_short_lines = 0.7\nshort_line = 6",
            "max_hashes = 0.05",
        ],
        expect![[r#"
            max_bullet_lines = 0.5: kept
            max_bullet_lines = 0.4: max_bullet_lines
            max_ellipsis_lines = 0.25: kept
            max_ellipsis_lines = 0.2: max_ellipsis_lines
            min_punctuated_lines = 0.5: kept
            min_punctuated_lines = 0.6: min_punctuated_lines
            max_short_lines = 0.75: kept
            max_short_lines = 0.7: max_short_lines
            max_short_lines = 0.7
            short_line = 6: kept
            max_hashes = 0.05: max_hashes
        "#]],
    );
}

#[test]
fn repetition() {
    check(
        "a line\na line\n\nanother\n\na line\na line",
        &[
            "max_duplicate_lines = 0.6",
            "max_duplicate_lines = 0.5",
            "max_duplicate_paragraphs = 0.4",
            "max_duplicate_paragraphs = 0.3",
            "max_duplicate_line_chars = 0.5",
            "max_duplicate_line_chars = 0.4",
            "max_duplicate_paragraph_chars = 0.4",
            "max_duplicate_paragraph_chars = 0.3",
            "max_top_2_gram = 0.7",
            "max_top_2_gram = 0.6",
            "max_top_3_gram = 0.5",
            "max_top_4_gram = 0.5",
            "max_duplicate_5_grams = 0",
        ],
        expect![[r#"
            max_duplicate_lines = 0.6: kept
            max_duplicate_lines = 0.5: max_duplicate_lines
            max_duplicate_paragraphs = 0.4: kept
            max_duplicate_paragraphs = 0.3: max_duplicate_paragraphs
            max_duplicate_line_chars = 0.5: kept
            max_duplicate_line_chars = 0.4: max_duplicate_line_chars
            max_duplicate_paragraph_chars = 0.4: kept
            max_duplicate_paragraph_chars = 0.3: max_duplicate_paragraph_chars
            max_top_2_gram = 0.7: kept
            max_top_2_gram = 0.6: max_top_2_gram
            max_top_3_gram = 0.5: max_top_3_gram
            max_top_4_gram = 0.5: max_top_4_gram
            max_duplicate_5_grams = 0: kept
        "#]],
    );
}

const STORY: &str = "Once there lived a miller who had three sons, and when he died he left \
them nothing but his mill, his donkey and his cat.\nThe eldest took the mill, the second the \
donkey, and the youngest had to be content with the cat, which grieved him very much.\n\
\"My brothers,\" said he, \"can earn an honest living together, but once I have eaten my cat \
and made a muff of its skin I must die of hunger.\"\n";

#[test]
fn presets() {
    let menu = "Home\nAbout\nNews\nSports\nContact\n".repeat(12);
    let numbers: String = (0..60)
        .map(|i| format!("{} {}.\n", i * 37, i * 91))
        .collect();
    let texts = [
        ("story", STORY.to_string()),
        ("menu", menu),
        ("numbers", numbers),
        ("twice", STORY.repeat(2)),
        ("upper", STORY.replace(['.', '"'], "")),
        ("short", "Too short.".into()),
        ("nothing", String::new()),
    ];
    let mut shown = String::new();
    for (name, text) in &texts {
        let reason = |preset: Preset| {
            let filter = Filter {
                preset: Some(preset),
                ..Filter::default()
            };
            judge(&filter.spelt_out(), text).unwrap_or("kept")
        };
        let (gopher, fineweb) = (reason(Preset::Gopher), reason(Preset::Fineweb));
        shown += &format!("{name}: {gopher}, {fineweb}\n");
    }
    expect![[r#"
        story: kept, kept
        menu: max_duplicate_lines, min_punctuated_lines
        numbers: min_alphabetic_words, min_alphabetic_words
        twice: max_duplicate_lines, max_duplicate_lines
        upper: kept, min_punctuated_lines
        short: min_words, min_words
        nothing: min_words, min_words
    "#]]
    .assert_eq(&shown);
}

#[test]
fn a_limit_beside_a_preset_replaces_the_papers() {
    let own = filter("preset = 'gopher'\nmin_words = 7");
    let paper = filter("preset = 'gopher'");
    assert_eq!(own.min_words, Some(7));
    assert_eq!(own.max_words, paper.max_words);
    assert_eq!(own.clone().spelt_out(), own);
}

/// Words of a small alphabet, so that runs repeat; some are not ASCII.
fn words() -> impl Strategy<Value = Vec<String>> {
    let word = prop::sample::select(vec!["a", "bb", "é", "日本", "d."]);
    prop::collection::vec(word.prop_map(String::from), 0..40)
}

/// [`Words::duplicate`], with texts instead of numbers.
fn duplicate(words: &[String], n: usize) -> u64 {
    let mut seen = HashSet::new();
    let (mut chars, mut index) = (0, 0);
    while index + n <= words.len() {
        let run = words[index..index + n].join(" ");
        if seen.insert(run) {
            index += 1;
        } else {
            chars += words[index..index + n].concat().chars().count() as u64;
            index += n;
        }
    }
    chars
}

/// [`Words::top`], with texts instead of numbers.
fn top(words: &[String], n: usize) -> u64 {
    let mut counts = HashMap::<String, u64>::new();
    for run in words.windows(n) {
        *counts.entry(run.join(" ")).or_default() += 1;
    }
    let runs = counts.into_iter().filter(|(_, count)| 1 < *count);
    let runs = runs.map(|(run, count)| (count, run.chars().count() as u64));
    runs.max().map_or(0, |(count, chars)| count * chars)
}

proptest! {
    #[test]
    fn runs_are_counted_as_texts_would_be(words in words(), n in 1usize..6) {
        let fast = Words::of(&words.join(" "));
        prop_assert_eq!(fast.duplicate(n), duplicate(&words, n));
        prop_assert_eq!(fast.top(n), top(&words, n));
        // What the judge relies on to stop early.
        prop_assert!(fast.duplicate(n) != 0 || fast.duplicate(n + 1) == 0);
        prop_assert!(fast.top(n) != 0 || fast.top(n + 1) == 0);
    }

    #[test]
    fn shares_are_shares(text in "[a-c#.… \n•-]{0,60}", short in 0u64..9) {
        let shape = Shape::of(&text, &["a", "b"], short);
        for lines in [shape.bullet_lines, shape.ellipsis_lines, shape.punctuated_lines, shape.short_lines] {
            prop_assert!(lines <= shape.lines);
        }
        prop_assert!(shape.alphabetic_words <= shape.words);
        prop_assert!(shape.stop_words <= 2);
        let chars = text.chars().count() as u64;
        prop_assert!(shape.word_chars <= chars);
        let lines = Repeated::among(text.split('\n'));
        prop_assert!(lines.count <= lines.of && lines.chars <= chars);
        prop_assert!(Words::of(&text).duplicate(1) <= chars);
    }

    #[test]
    fn no_limits_keep_every_text(text in any::<String>()) {
        prop_assert_eq!(judge(&Filter::default(), &text), None);
    }
}
