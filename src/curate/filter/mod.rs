//! Filters: is a document worth training on?
//!
//! The rules are numbers that a text has, each with a limit, and need no model
//! and, but for stop words, no language. They are those of Gopher (Rae et al.
//! 2021, arXiv 2112.11446, appendix A.1.1 and table A1) and of FineWeb (Penedo
//! et al. 2024, arXiv 2406.17557, section 3.6). A document is kept within its
//! limits, the limits included; the first rule that it breaks, in the order of
//! the keys, is the reason why it is dropped.
//!
//! A word is what white-space separates, so rules about words say little of
//! languages that are written without it. A line is what `\n` ends, a
//! paragraph what two or more of them end; empty ones are none. Shares of
//! characters are shares of the whole text's, white-space included.

mod limits;
mod repetition;
mod shape;
#[cfg(test)]
mod tests;

pub use limits::{Filter, Preset};

use repetition::{Repeated, Words};
use shape::Shape;

/// The rule that a text breaks first, by its key.
pub fn judge(filter: &Filter, text: &str) -> Option<&'static str> {
    by_length(filter, text)
        .or_else(|| by_shape(filter, text))
        .or_else(|| by_lines(filter, text))
        .or_else(|| by_ngrams(filter, text))
}

fn above(value: f64, limit: Option<f64>) -> bool {
    limit.is_some_and(|limit| limit < value)
}

fn below(value: f64, limit: Option<f64>) -> bool {
    limit.is_some_and(|limit| value < limit)
}

/// The name of the first rule that is broken.
fn first(rules: &[(bool, &'static str)]) -> Option<&'static str> {
    let broken = rules.iter().find(|(broken, _)| *broken);
    broken.map(|(_, name)| *name)
}

fn by_length(filter: &Filter, text: &str) -> Option<&'static str> {
    let bytes = text.len() as u64;
    first(&[
        (
            filter.min_bytes.is_some_and(|least| bytes < least),
            "min_bytes",
        ),
        (
            filter.max_bytes.is_some_and(|most| most < bytes),
            "max_bytes",
        ),
    ])
}

fn by_shape(filter: &Filter, text: &str) -> Option<&'static str> {
    if !filter.looks_at_shape() {
        return None;
    }
    let shape = Shape::of(text, &filter.stop_words(), filter.short_line());
    let words = shape.words;
    let (a_word, a_line) = (share_of(words), share_of(shape.lines));
    first(&[
        (
            filter.min_words.is_some_and(|least| words < least),
            "min_words",
        ),
        (
            filter.max_words.is_some_and(|most| most < words),
            "max_words",
        ),
        (
            below(a_word(shape.word_chars), filter.min_word_length),
            "min_word_length",
        ),
        (
            above(a_word(shape.word_chars), filter.max_word_length),
            "max_word_length",
        ),
        (above(a_word(shape.hashes), filter.max_hashes), "max_hashes"),
        (
            above(a_word(shape.ellipses), filter.max_ellipses),
            "max_ellipses",
        ),
        (
            above(a_line(shape.bullet_lines), filter.max_bullet_lines),
            "max_bullet_lines",
        ),
        (
            above(a_line(shape.ellipsis_lines), filter.max_ellipsis_lines),
            "max_ellipsis_lines",
        ),
        (
            below(a_word(shape.alphabetic_words), filter.min_alphabetic_words),
            "min_alphabetic_words",
        ),
        (
            filter
                .min_stop_words
                .is_some_and(|least| shape.stop_words < least),
            "min_stop_words",
        ),
        (
            below(a_line(shape.punctuated_lines), filter.min_punctuated_lines),
            "min_punctuated_lines",
        ),
        (
            above(a_line(shape.short_lines), filter.max_short_lines),
            "max_short_lines",
        ),
    ])
}

fn by_lines(filter: &Filter, text: &str) -> Option<&'static str> {
    if !filter.looks_at_lines() {
        return None;
    }
    let chars = share_of(text.chars().count() as u64);
    let lines = Repeated::among(shape::lines(text));
    let paragraphs = Repeated::among(shape::paragraphs(text));
    let (a_line, a_paragraph) = (share_of(lines.of), share_of(paragraphs.of));
    first(&[
        (
            above(a_line(lines.count), filter.max_duplicate_lines),
            "max_duplicate_lines",
        ),
        (
            above(
                a_paragraph(paragraphs.count),
                filter.max_duplicate_paragraphs,
            ),
            "max_duplicate_paragraphs",
        ),
        (
            above(chars(lines.chars), filter.max_duplicate_line_chars),
            "max_duplicate_line_chars",
        ),
        (
            above(
                chars(paragraphs.chars),
                filter.max_duplicate_paragraph_chars,
            ),
            "max_duplicate_paragraph_chars",
        ),
    ])
}

fn by_ngrams(filter: &Filter, text: &str) -> Option<&'static str> {
    let (top, duplicate) = (filter.top_ngrams(), filter.duplicate_ngrams());
    if top
        .iter()
        .chain(&duplicate)
        .all(|(_, limit, _)| limit.is_none())
    {
        return None;
    }
    let chars = share_of(text.chars().count() as u64);
    let words = Words::of(text);
    let broken = |(share, limit, name)| above(share, limit).then_some(name);
    // A run of n + 1 words comes twice only where one of n words does.
    let top = top
        .into_iter()
        .map(|(n, limit, name)| (words.top(n), limit, name));
    let duplicate = duplicate
        .into_iter()
        .map(|(n, limit, name)| (words.duplicate(n), limit, name));
    let some = |counted: &(u64, Option<f64>, &'static str)| 0 < counted.0;
    let shares = |(count, limit, name)| (chars(count), limit, name);
    top.take_while(some)
        .map(shares)
        .find_map(broken)
        .or_else(|| duplicate.take_while(some).map(shares).find_map(broken))
}

/// A count as a share of `whole`; of nothing, every share is 0.
fn share_of(whole: u64) -> impl Fn(u64) -> f64 {
    move |part| {
        if whole == 0 {
            0.0
        } else {
            part as f64 / whole as f64
        }
    }
}
