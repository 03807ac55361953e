//! The rules as a recipe says them, and those that papers say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Limits that a document must keep, each by itself; those left out are not asked of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Limits from a paper; a limit named beside it replaces the paper's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Fewest bytes of UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// Most bytes of UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Fewest words (Gopher: 50).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_words: Option<u64>,
    /// Most words (Gopher: 100,000).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_words: Option<u64>,
    /// Least mean length of a word in characters (Gopher: 3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_word_length: Option<f64>,
    /// Greatest mean length of a word in characters (Gopher: 10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_word_length: Option<f64>,
    /// Most hash signs `#` a word (Gopher: 0.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_hashes: Option<f64>,
    /// Most ellipses, `...` or `…`, a word (Gopher: 0.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ellipses: Option<f64>,
    /// Greatest share of lines that begin with a bullet, `•` or `-` (Gopher: 0.9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bullet_lines: Option<f64>,
    /// Greatest share of lines that end with an ellipsis (Gopher: 0.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ellipsis_lines: Option<f64>,
    /// Least share of words with an alphabetic character (Gopher: 0.8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_alphabetic_words: Option<f64>,
    /// Fewest different stop words in the text. Gopher asks 2 of English text; no preset
    /// does, because the words belong to a language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_stop_words: Option<u64>,
    /// The stop words, in lower case; Gopher's English ones where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_words: Option<Vec<String>>,
    /// Least share of lines that end with a punctuation mark (FineWeb: 0.12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_punctuated_lines: Option<f64>,
    /// Greatest share of short lines (FineWeb: 0.67).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_short_lines: Option<f64>,
    /// A line of fewer characters is short; 30, FineWeb's, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub short_line: Option<u64>,
    /// Greatest share of lines that stood before (Gopher: 0.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_lines: Option<f64>,
    /// Greatest share of paragraphs that stood before (Gopher: 0.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_paragraphs: Option<f64>,
    /// Greatest share of characters in lines that stood before (Gopher: 0.2, FineWeb: 0.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_line_chars: Option<f64>,
    /// Greatest share of characters in paragraphs that stood before (Gopher: 0.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_paragraph_chars: Option<f64>,
    /// Greatest share of characters in the most frequent run of 2 words (Gopher: 0.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_top_2_gram: Option<f64>,
    /// The same of 3 words (Gopher: 0.18).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_top_3_gram: Option<f64>,
    /// The same of 4 words (Gopher: 0.16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_top_4_gram: Option<f64>,
    /// Greatest share of characters in runs of 5 words that stood before, no character
    /// counted twice (Gopher: 0.15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_5_grams: Option<f64>,
    /// The same of 6 words (Gopher: 0.14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_6_grams: Option<f64>,
    /// The same of 7 words (Gopher: 0.13).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_7_grams: Option<f64>,
    /// The same of 8 words (Gopher: 0.12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_8_grams: Option<f64>,
    /// The same of 9 words (Gopher: 0.11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_9_grams: Option<f64>,
    /// The same of 10 words (Gopher: 0.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_duplicate_10_grams: Option<f64>,
}

/// Limits from a paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// Quality and repetition as in Rae et al. 2021, without their stop words.
    Gopher,
    /// Gopher's, with the three rules that Penedo et al. 2024 add. What the paper also
    /// takes from C4 edits texts line by line and is not done here.
    Fineweb,
}

/// Of Rae et al. 2021, appendix A.1.1.
const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

/// One limit on runs of `n` words, and its key.
type Ngram = (usize, Option<f64>, &'static str);

/// Each limit of the first, or else that of the second.
macro_rules! overlay {
    ($first:expr, $second:expr; $($key:ident)*) => {
        Filter { preset: None, $($key: $first.$key.or($second.$key)),* }
    };
}

impl Filter {
    /// The same limits, those of the preset spelt out.
    pub fn spelt_out(self) -> Self {
        let preset = match self.preset {
            None => Self::default(),
            Some(Preset::Gopher) => Self::gopher(),
            Some(Preset::Fineweb) => Self::fineweb(),
        };
        overlay!(self, preset;
            min_bytes max_bytes min_words max_words min_word_length max_word_length
            max_hashes max_ellipses max_bullet_lines max_ellipsis_lines
            min_alphabetic_words min_stop_words stop_words
            min_punctuated_lines max_short_lines short_line
            max_duplicate_lines max_duplicate_paragraphs
            max_duplicate_line_chars max_duplicate_paragraph_chars
            max_top_2_gram max_top_3_gram max_top_4_gram
            max_duplicate_5_grams max_duplicate_6_grams max_duplicate_7_grams
            max_duplicate_8_grams max_duplicate_9_grams max_duplicate_10_grams
        )
    }

    /// The shares among the limits, with their keys.
    pub fn shares(&self) -> Vec<(&'static str, f64)> {
        let shares = [
            ("max_bullet_lines", self.max_bullet_lines),
            ("max_ellipsis_lines", self.max_ellipsis_lines),
            ("min_alphabetic_words", self.min_alphabetic_words),
            ("min_punctuated_lines", self.min_punctuated_lines),
            ("max_short_lines", self.max_short_lines),
            ("max_duplicate_lines", self.max_duplicate_lines),
            ("max_duplicate_paragraphs", self.max_duplicate_paragraphs),
            ("max_duplicate_line_chars", self.max_duplicate_line_chars),
            (
                "max_duplicate_paragraph_chars",
                self.max_duplicate_paragraph_chars,
            ),
        ];
        let ngrams = self.top_ngrams().into_iter().chain(self.duplicate_ngrams());
        let ngrams = ngrams.map(|(_, limit, name)| (name, limit));
        let all = shares.into_iter().chain(ngrams);
        all.filter_map(|(name, limit)| Some((name, limit?)))
            .collect()
    }

    /// The numbers a word among the limits, with their keys.
    pub fn rates(&self) -> Vec<(&'static str, f64)> {
        let rates = [
            ("min_word_length", self.min_word_length),
            ("max_word_length", self.max_word_length),
            ("max_hashes", self.max_hashes),
            ("max_ellipses", self.max_ellipses),
        ];
        let rates = rates.into_iter();
        rates
            .filter_map(|(name, limit)| Some((name, limit?)))
            .collect()
    }

    fn gopher() -> Self {
        Self {
            min_words: Some(50),
            max_words: Some(100_000),
            min_word_length: Some(3.0),
            max_word_length: Some(10.0),
            max_hashes: Some(0.1),
            max_ellipses: Some(0.1),
            max_bullet_lines: Some(0.9),
            max_ellipsis_lines: Some(0.3),
            min_alphabetic_words: Some(0.8),
            max_duplicate_lines: Some(0.3),
            max_duplicate_paragraphs: Some(0.3),
            max_duplicate_line_chars: Some(0.2),
            max_duplicate_paragraph_chars: Some(0.2),
            max_top_2_gram: Some(0.20),
            max_top_3_gram: Some(0.18),
            max_top_4_gram: Some(0.16),
            max_duplicate_5_grams: Some(0.15),
            max_duplicate_6_grams: Some(0.14),
            max_duplicate_7_grams: Some(0.13),
            max_duplicate_8_grams: Some(0.12),
            max_duplicate_9_grams: Some(0.11),
            max_duplicate_10_grams: Some(0.10),
            ..Self::default()
        }
    }

    fn fineweb() -> Self {
        Self {
            min_punctuated_lines: Some(0.12),
            max_short_lines: Some(0.67),
            max_duplicate_line_chars: Some(0.1),
            ..Self::gopher()
        }
    }

    pub(super) fn stop_words(&self) -> Vec<&str> {
        match (&self.min_stop_words, &self.stop_words) {
            (None, _) => Vec::new(),
            (Some(_), None) => STOP_WORDS.to_vec(),
            (Some(_), Some(words)) => words.iter().map(String::as_str).collect(),
        }
    }

    pub(super) fn short_line(&self) -> u64 {
        self.short_line.unwrap_or(30)
    }

    pub(super) fn looks_at_shape(&self) -> bool {
        let counts = [self.min_words, self.max_words, self.min_stop_words];
        let shares = [
            self.min_word_length,
            self.max_word_length,
            self.max_hashes,
            self.max_ellipses,
            self.max_bullet_lines,
            self.max_ellipsis_lines,
            self.min_alphabetic_words,
            self.min_punctuated_lines,
            self.max_short_lines,
        ];
        counts.iter().any(Option::is_some) || shares.iter().any(Option::is_some)
    }

    pub(super) fn looks_at_lines(&self) -> bool {
        let limits = [
            self.max_duplicate_lines,
            self.max_duplicate_paragraphs,
            self.max_duplicate_line_chars,
            self.max_duplicate_paragraph_chars,
        ];
        limits.iter().any(Option::is_some)
    }

    pub(super) fn top_ngrams(&self) -> [Ngram; 3] {
        [
            (2, self.max_top_2_gram, "max_top_2_gram"),
            (3, self.max_top_3_gram, "max_top_3_gram"),
            (4, self.max_top_4_gram, "max_top_4_gram"),
        ]
    }

    pub(super) fn duplicate_ngrams(&self) -> [Ngram; 6] {
        [
            (5, self.max_duplicate_5_grams, "max_duplicate_5_grams"),
            (6, self.max_duplicate_6_grams, "max_duplicate_6_grams"),
            (7, self.max_duplicate_7_grams, "max_duplicate_7_grams"),
            (8, self.max_duplicate_8_grams, "max_duplicate_8_grams"),
            (9, self.max_duplicate_9_grams, "max_duplicate_9_grams"),
            (10, self.max_duplicate_10_grams, "max_duplicate_10_grams"),
        ]
    }
}
