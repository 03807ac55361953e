//! The places that policies find in a row.

use regex::bytes::Regex;

use super::text::{Pieces, Spelt};
use super::{Policy, Side};
use crate::token::TokenId;

/// Reads rows for policies that find places in them.
pub(super) struct Reader<'a> {
    /// What ids spell.
    pub pieces: Option<&'a Pieces>,
    /// The id that ends every document: text is read one document at a time.
    pub end: TokenId,
    /// The expression of `regex`.
    pub pattern: Option<&'a Regex>,
}

impl Reader<'_> {
    /// The gaps between `text`'s ids where the policy wants pauses, rising, each once.
    ///
    /// Gap `g` is before id `g`. There are none after the last id: nothing would
    /// follow that could profit. A match that the row's border cuts is read as far
    /// as it is in the row.
    pub fn gaps(&self, policy: &Policy, text: &[TokenId], marks: &[f32]) -> Vec<usize> {
        let mut gaps = match policy {
            Policy::Stride { every, .. } => {
                let every = (*every as usize).max(1);
                (every..text.len()).step_by(every).collect()
            }
            Policy::Score { k, side, .. } => lowest(marks, *k as usize, *side),
            Policy::Positions { .. } => (marks.iter().enumerate())
                .filter(|(_, mark)| 0.0 < **mark)
                .map(|(gap, _)| gap)
                .collect(),
            Policy::WordEnds { every, .. } => nth(
                self.places(text, |spelt, ended| word_ends(&spelt.bytes, ended)),
                *every,
            ),
            Policy::Punctuation {
                marks, side, every, ..
            } => nth(
                self.places(text, |spelt, _| punctuation(&spelt.bytes, marks, *side)),
                *every,
            ),
            Policy::Regex { side, every, .. } => {
                let find = |spelt: &Spelt, _| match self.pattern {
                    Some(pattern) => matches(pattern, &spelt.bytes, *side),
                    None => Vec::new(),
                };
                nth(self.places(text, find), *every)
            }
            Policy::Digits { .. } => self.places(text, |spelt, _| digits(spelt)),
            Policy::None
            | Policy::Random { .. }
            | Policy::Suffix { .. }
            | Policy::Prefix { .. }
            | Policy::Mix { .. } => Vec::new(),
        };
        gaps.dedup();
        gaps.retain(|gap| *gap < text.len());
        gaps
    }

    /// Finds rising places in each document's text, and moves them to gaps.
    fn places(&self, text: &[TokenId], find: impl Fn(&Spelt, bool) -> Vec<usize>) -> Vec<usize> {
        let Some(pieces) = self.pieces else {
            return Vec::new();
        };
        let mut gaps = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let rest = text.get(start..).unwrap_or_default();
            let length = rest.iter().position(|id| *id == self.end);
            let ended = length.is_some();
            let length = length.unwrap_or(rest.len());
            let spelt = pieces.spell(rest.get(..length).unwrap_or_default());
            gaps.extend(
                find(&spelt, ended)
                    .into_iter()
                    .map(|place| start + spelt.gap(place)),
            );
            start += length + 1;
        }
        gaps.dedup();
        gaps
    }
}

/// Every `every`-th of them: the `every`-th is the first.
fn nth(gaps: Vec<usize>, every: u32) -> Vec<usize> {
    let every = (every as usize).max(1);
    gaps.into_iter().skip(every - 1).step_by(every).collect()
}

/// The gaps at the `k` lowest marks; those that are no number are never taken.
fn lowest(marks: &[f32], k: usize, side: Side) -> Vec<usize> {
    let mut ranked: Vec<(usize, f32)> = (marks.iter().copied().enumerate())
        .filter(|(_, mark)| mark.is_finite())
        .collect();
    if k < ranked.len() {
        ranked.select_nth_unstable_by(k, |a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        ranked.truncate(k);
    }
    let mut gaps: Vec<usize> = (ranked.into_iter())
        .map(|(at, _)| match side {
            Side::Before => at,
            Side::After => at + 1,
        })
        .collect();
    gaps.sort_unstable();
    gaps
}

/// Characters with the place where each starts; bytes that are no character, such as
/// half of one at the row's border, are `None`.
fn characters(bytes: &[u8]) -> impl Iterator<Item = (usize, Option<char>)> {
    let mut at = 0;
    bytes.utf8_chunks().flat_map(move |chunk| {
        let (start, valid) = (at, chunk.valid());
        at += valid.len() + chunk.invalid().len();
        let broken = (!chunk.invalid().is_empty()).then_some((start + valid.len(), None));
        let whole = valid.char_indices();
        whole
            .map(move |(offset, character)| (start + offset, Some(character)))
            .chain(broken)
    })
}

/// Where letters and digits are followed by something else, or by the document's end.
fn word_ends(bytes: &[u8], ended: bool) -> Vec<usize> {
    let mut places = Vec::new();
    let mut in_word = false;
    for (at, character) in characters(bytes) {
        // Half a character is taken for a letter: most are.
        let word = character.is_none_or(char::is_alphanumeric);
        if in_word && !word {
            places.push(at);
        }
        in_word = word;
    }
    if in_word && ended {
        places.push(bytes.len());
    }
    places
}

/// Where a run of the given characters starts or ends.
fn punctuation(bytes: &[u8], marks: &str, side: Side) -> Vec<usize> {
    let mut places = Vec::new();
    let mut inside = false;
    for (at, character) in characters(bytes) {
        let mark = character.is_some_and(|character| marks.contains(character));
        match side {
            Side::Before if mark && !inside => places.push(at),
            Side::After if inside && !mark => places.push(at),
            _ => {}
        }
        inside = mark;
    }
    if inside && side == Side::After {
        places.push(bytes.len());
    }
    places
}

/// Where a match starts or ends.
fn matches(pattern: &Regex, bytes: &[u8], side: Side) -> Vec<usize> {
    let found = pattern.find_iter(bytes);
    found
        .map(|found| match side {
            Side::Before => found.start(),
            Side::After => found.end(),
        })
        .collect()
}

/// Borders of ids with a digit on both sides.
fn digits(spelt: &Spelt) -> Vec<usize> {
    let pairs = spelt.bytes.windows(2).enumerate();
    pairs
        .filter(|(_, pair)| pair.iter().all(u8::is_ascii_digit))
        .map(|(at, _)| at + 1)
        .filter(|place| spelt.is_border(*place))
        .collect()
}

#[cfg(test)]
mod tests;
