//! Contamination: documents that hold a piece of an evaluation set.
//!
//! A piece is a run of `ngram` words of an example, as in GPT-3 (Brown et al.
//! 2020, arXiv 2005.14165, appendix C): letters and digits alone, in lower case,
//! whatever stands between them. A shorter example is one piece, unless it is
//! so short that it would be met by chance.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ngram::{self, Map, Rolling};
use crate::corpus::{self, Corpus, Purpose, Reach, Source};
use crate::document::Text;

/// How documents that hold pieces of evaluation sets are found, and what becomes of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Decontaminate {
    /// The evaluation sets; those of `eval.tasks` where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<Vec<Evaluation>>,
    /// Words in a row that an evaluation example and a document must share.
    #[serde(default = "default_ngram")]
    pub ngram: usize,
    /// Examples of fewer words are not looked for; those of fewer than `ngram` are looked
    /// for as a whole.
    #[serde(default = "default_min_words")]
    pub min_words: usize,
    /// Whether such documents are dropped; they are counted in either case.
    #[serde(default = "default_drop")]
    pub drop: bool,
}

/// An evaluation set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// What it is called in the manifest: `contaminated:<name>`.
    pub name: String,
    /// Where its examples come from: prefixes and targets, or texts.
    pub sources: Vec<Source>,
}

/// Sets of an evaluation are the bits of one number.
pub const EVALUATIONS_MAX: usize = 64;

/// The files of an evaluation set, as the manifest lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationFile {
    /// The path as the recipe reaches it from the data root, or `synthetic:<corpus>`.
    pub name: String,
    /// Size in bytes; 0 for generated text.
    pub bytes: u64,
}

/// The pieces of all evaluation sets.
pub struct Pieces {
    /// Lengths of pieces in words.
    lengths: BTreeSet<usize>,
    /// The sets that a piece belongs to, a bit each.
    owners: Map<u64>,
    /// The name of each set, and how many of its examples are looked for, and how many not.
    sets: Vec<(String, u64, u64)>,
}

/// A piece of a set, found in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Index of the set.
    pub set: usize,
    /// The words, as they were compared.
    pub words: String,
}

impl Pieces {
    /// No pieces yet.
    pub fn new() -> Self {
        Self {
            lengths: BTreeSet::new(),
            owners: Map::default(),
            sets: Vec::new(),
        }
    }

    /// Reads all sets of a recipe.
    pub fn read(settings: &Decontaminate, reach: &Reach) -> Result<Self, corpus::Error> {
        let mut pieces = Self::new();
        for evaluation in settings.against.iter().flatten() {
            let set = pieces.add_set(&evaluation.name);
            for source in &evaluation.sources {
                let corpus = resolve(source, reach)?;
                for document in corpus.documents(0..corpus.files.len()) {
                    let words = (settings.ngram, settings.min_words);
                    pieces.add(set, &document?.text, words);
                }
            }
        }
        Ok(pieces)
    }

    /// Starts a set.
    pub fn add_set(&mut self, name: &str) -> usize {
        self.sets.push((name.into(), 0, 0));
        self.sets.len() - 1
    }

    /// Adds an example; `ngram` and the fewest words are given.
    pub fn add(&mut self, set: usize, text: &Text, (ngram, min_words): (usize, usize)) {
        let mut numbers = Vec::new();
        each_word(text, |word| numbers.push(ngram::word(word)));
        let looked_for = min_words.max(1) <= numbers.len();
        if let Some((_, found, short)) = self.sets.get_mut(set) {
            *(if looked_for { found } else { short }) += 1;
        }
        if !looked_for {
            return;
        }
        let length = ngram.min(numbers.len());
        self.lengths.insert(length);
        for run in ngram::runs(&numbers, length) {
            *self.owners.entry(run).or_default() |= 1 << set.min(EVALUATIONS_MAX - 1);
        }
    }

    /// The name of each set, how many of its examples are looked for, and how many are too
    /// short for that.
    pub fn sets(&self) -> &[(String, u64, u64)] {
        &self.sets
    }

    /// The first piece of each set that a document holds, in the order in which they end.
    pub fn find(&self, text: &Text) -> Vec<Hit> {
        let mut windows: Vec<Rolling> = self.lengths.iter().map(|n| Rolling::new(*n)).collect();
        let (mut hits, mut found, mut count) = (Vec::new(), 0u64, 0usize);
        if windows.is_empty() {
            return Vec::new();
        }
        // The last words, the one numbered `i` at `i % last.len()`.
        let mut last = vec![0; self.lengths.last().map_or(1, |longest| longest + 1)];
        each_word(text, |word| {
            let (number, size) = (ngram::word(word), last.len());
            if let Some(place) = last.get_mut(count % size) {
                *place = number;
            }
            for window in &mut windows {
                let leaving = count.checked_sub(window.n());
                let leaving = leaving.and_then(|left| last.get(left % size)).copied();
                let run = window.push(number, leaving);
                let owners = run.and_then(|run| self.owners.get(&run)).copied();
                let mut new = owners.unwrap_or(0) & !found;
                found |= new;
                while new != 0 {
                    let from = count + 1 - window.n();
                    hits.push((new.trailing_zeros() as usize, from, window.n()));
                    new &= new - 1;
                }
            }
            count += 1;
        });
        hits.into_iter()
            .map(|(set, from, n)| Hit {
                set,
                words: words(text, from, n),
            })
            .collect()
    }
}

impl Default for Pieces {
    fn default() -> Self {
        Self::new()
    }
}

/// The files of each evaluation set.
pub fn files(
    settings: &Decontaminate,
    reach: &Reach,
) -> Result<Vec<(String, Vec<EvaluationFile>)>, corpus::Error> {
    let mut sets = Vec::new();
    for evaluation in settings.against.iter().flatten() {
        let mut files = Vec::new();
        for source in &evaluation.sources {
            let corpus = resolve(source, reach)?;
            files.extend(corpus.files.into_iter().map(|file| EvaluationFile {
                name: file.name,
                bytes: file.bytes,
            }));
        }
        sets.push((evaluation.name.clone(), files));
    }
    Ok(sets)
}

/// A source of prefixes and targets, or of texts.
fn resolve(source: &Source, reach: &Reach) -> Result<Corpus, corpus::Error> {
    let purpose = match (&source.prefix, &source.target) {
        (None, None) => Purpose::Pretrain,
        _ => Purpose::Finetune,
    };
    Corpus::resolve(std::slice::from_ref(source), reach, purpose)
}

/// The words of a document: runs of letters and digits in lower case. A character
/// of a script that has no spaces between words is a word.
fn each_word(text: &Text, mut visit: impl FnMut(&str)) {
    let parts = match text {
        Text::Plain(text) => [text.as_str(), ""],
        Text::Example { prefix, target } => [prefix.as_str(), target.as_str()],
    };
    let mut lower = String::new();
    for part in parts {
        let mut visit = |from: usize, to: usize| {
            visit(lower_case(
                part.get(from..to).unwrap_or_default(),
                &mut lower,
            ));
        };
        let mut start = None;
        for (at, c) in part.char_indices() {
            let alone = is_word_alone(c);
            if c.is_alphanumeric() && !alone {
                start.get_or_insert(at);
                continue;
            }
            if let Some(start) = start.take() {
                visit(start, at);
            }
            if alone {
                visit(at, at + c.len_utf8());
            }
        }
        if let Some(start) = start {
            visit(start, part.len());
        }
    }
}

/// The word in lower case, in `buffer` where it is not already.
fn lower_case<'a>(word: &'a str, buffer: &'a mut String) -> &'a str {
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if word.bytes().all(is_lower) {
        return word;
    }
    buffer.clear();
    buffer.extend(word.chars().flat_map(char::to_lowercase));
    buffer
}

/// Ideographs, kana, Thai, Lao, Khmer and Burmese letters.
fn is_word_alone(c: char) -> bool {
    let blocks = [
        '\u{e00}'..='\u{eff}',
        '\u{1000}'..='\u{109f}',
        '\u{1780}'..='\u{17ff}',
        '\u{3040}'..='\u{30ff}',
        '\u{3400}'..='\u{9fff}',
        '\u{f900}'..='\u{faff}',
        '\u{20000}'..='\u{3ffff}',
    ];
    '\u{e00}' <= c && c.is_alphanumeric() && blocks.iter().any(|block| block.contains(&c))
}

/// Some words of a document, as they are compared.
fn words(text: &Text, from: usize, n: usize) -> String {
    let (mut index, mut words) = (0, Vec::new());
    each_word(text, |word| {
        if (from..from + n).contains(&index) {
            words.push(word.to_string());
        }
        index += 1;
    });
    words.join(" ")
}

fn default_ngram() -> usize {
    13
}
fn default_min_words() -> usize {
    8
}
fn default_drop() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn plain(text: &str) -> Text {
        Text::Plain(text.into())
    }

    fn pieces(sets: &[&[&str]], words: (usize, usize)) -> Pieces {
        let mut pieces = Pieces::new();
        for (index, examples) in sets.iter().enumerate() {
            let set = pieces.add_set(&format!("set-{index}"));
            for example in *examples {
                pieces.add(set, &plain(example), words);
            }
        }
        pieces
    }

    fn check(pieces: &Pieces, text: &str, expected: Expect) {
        let hits = pieces.find(&plain(text));
        let lines = hits
            .iter()
            .map(|hit| format!("{}: {}\n", hit.set, hit.words));
        expected.assert_eq(&lines.collect::<String>());
    }

    #[test]
    fn a_shared_run_of_words_is_found_whatever_stands_between_them() {
        let sets: [&[&str]; 2] = [
            &["Who wrote Faust, and when was it printed?", "short one"],
            &["Was it printed? Who knows."],
        ];
        let pieces = pieces(&sets, (4, 3));
        assert_eq!(pieces.sets()[0], ("set-0".into(), 1, 1));
        check(
            &pieces,
            "He asked: WHO WROTE \"Faust\" -- and left.",
            expect![[r#"
            0: who wrote faust and
        "#]],
        );
        check(
            &pieces,
            "When was it printed? Who cares.",
            expect![[r#"
            0: when was it printed
            1: was it printed who
        "#]],
        );
        check(
            &pieces,
            "Who wrote and printed Faust? Short one.",
            expect![[r#""#]],
        );
    }

    #[test]
    fn a_short_example_is_found_as_a_whole() {
        let pieces = pieces(&[&["two plus two is four"]], (13, 5));
        check(
            &pieces,
            "Everyone knows two plus two is four, surely.",
            expect![[r#"
            0: two plus two is four
        "#]],
        );
        check(&pieces, "two plus two is five", expect![[r#""#]]);
    }

    #[test]
    fn scripts_without_spaces_have_words_too() {
        let pieces = pieces(&[&["谁写了《浮士德》这本书？"]], (5, 5));
        check(
            &pieces,
            "我想知道谁写了浮士德。",
            expect![[r#"
            0: 谁 写 了 浮 士
        "#]],
        );
    }

    #[test]
    fn an_example_is_read_across_its_border() {
        let mut pieces = Pieces::new();
        let set = pieces.add_set("questions");
        let example = Text::Example {
            prefix: "Q: one two".into(),
            target: "three four".into(),
        };
        pieces.add(set, &example, (4, 4));
        check(
            &pieces,
            "One, two, three, four!",
            expect![[r#"
            0: one two three four
        "#]],
        );
        assert_eq!(pieces.find(&example).len(), 1);
    }

    /// [`Pieces::find`] with texts instead of numbers: which sets are met.
    fn find(sets: &[Vec<String>], (ngram, min): (usize, usize), text: &str) -> BTreeSet<usize> {
        let words = |text: &str| -> Vec<String> { text.split(' ').map(String::from).collect() };
        let mut runs = BTreeMap::<Vec<String>, BTreeSet<usize>>::new();
        for (set, examples) in sets.iter().enumerate() {
            for example in examples.iter().map(|example| words(example)) {
                let n = ngram.min(example.len());
                for run in example.windows(n).filter(|_| min <= example.len()) {
                    runs.entry(run.to_vec()).or_default().insert(set);
                }
            }
        }
        let text = words(text);
        let found = (1..=ngram).flat_map(|n| text.windows(n));
        found
            .filter_map(|run| runs.get(run))
            .flatten()
            .copied()
            .collect()
    }

    fn sentence() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..9)
            .prop_map(|words| words.join(" "))
    }

    proptest! {
        #[test]
        fn sets_are_found_as_texts_would_be(
            sets in prop::collection::vec(prop::collection::vec(sentence(), 1..3), 1..4),
            text in sentence(),
            ngram in 2usize..6,
        ) {
            let as_slices: Vec<Vec<&str>> =
                sets.iter().map(|set| set.iter().map(String::as_str).collect()).collect();
            let as_slices: Vec<&[&str]> = as_slices.iter().map(Vec::as_slice).collect();
            let fast = pieces(&as_slices, (ngram, 2)).find(&plain(&text));
            let met: BTreeSet<usize> = fast.iter().map(|hit| hit.set).collect();
            prop_assert_eq!(met.len(), fast.len());
            prop_assert_eq!(met, find(&sets, (ngram, 2), &text));
        }
    }
}
