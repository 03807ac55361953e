//! What words and lines look like, counted in one pass each.

/// Counts of a text.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Words.
    pub words: u64,
    /// Characters in them.
    pub word_chars: u64,
    /// Those with an alphabetic character.
    pub alphabetic_words: u64,
    /// Different stop words that occur.
    pub stop_words: u64,
    /// Hash signs.
    pub hashes: u64,
    /// Ellipses: `...` or `…`.
    pub ellipses: u64,
    /// Lines that are not empty.
    pub lines: u64,
    /// Those that begin with a bullet.
    pub bullet_lines: u64,
    /// Those that end with an ellipsis.
    pub ellipsis_lines: u64,
    /// Those that end with a punctuation mark.
    pub punctuated_lines: u64,
    /// Those with fewer characters than asked for.
    pub short_lines: u64,
}

/// Marks that close a sentence or a quotation of one, in the scripts that have them.
const CLOSING: [char; 32] = [
    '.', '!', '?', '…', '"', '\'', '”', '’', '»', '。', '．', '！', '？', '｡', '」', '』', '؟',
    '۔', '।', '॥', '։', '።', '፧', '፨', '။', '។', '៕', '᠃', '᠉', '‼', '⁇', '⁉',
];

impl Shape {
    pub(super) fn of(text: &str, stop_words: &[&str], short_line: u64) -> Self {
        let mut shape = Self {
            hashes: count(text, "#"),
            ellipses: count(text, "...") + count(text, "…"),
            ..Self::default()
        };
        let mut found = vec![false; stop_words.len()];
        for word in text.split_whitespace() {
            shape.words += 1;
            shape.word_chars += word.chars().count() as u64;
            shape.alphabetic_words += u64::from(word.chars().any(char::is_alphabetic));
            if !stop_words.is_empty() {
                let word = word
                    .trim_matches(|c: char| !c.is_alphanumeric())
                    .to_lowercase();
                for (found, stop_word) in found.iter_mut().zip(stop_words) {
                    *found |= word == *stop_word;
                }
            }
        }
        shape.stop_words = found.iter().filter(|found| **found).count() as u64;
        for line in lines(text) {
            shape.lines += 1;
            shape.bullet_lines += u64::from(line.starts_with(['•', '-']));
            shape.ellipsis_lines += u64::from(line.ends_with('…') || line.ends_with("..."));
            shape.punctuated_lines += u64::from(line.ends_with(CLOSING));
            shape.short_lines += u64::from((line.chars().count() as u64) < short_line);
        }
        shape
    }
}

fn count(text: &str, pattern: &str) -> u64 {
    text.matches(pattern).count() as u64
}

/// The lines that are not empty, without white-space around them.
pub(super) fn lines(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split('\n').map(str::trim);
    lines.filter(|line| !line.is_empty())
}

/// The paragraphs that are not empty, without white-space around them.
pub(super) fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let paragraphs = text.split("\n\n").map(str::trim);
    paragraphs.filter(|paragraph| !paragraph.is_empty())
}
