//! The fast path: byte-level BPE of the known families, with the ids of the library.
//!
//! `recognise` decides by the exact structure of a `tokenizer.json` whether this
//! path takes it. A text is cut by [`added`] tokens, composed where the tokenizer
//! says so, cut into pieces by [`split`], and each piece is looked up in a [`cache`]
//! or merged. What is not sure to agree with the library is left to it.

mod added;
mod block;
mod border;
mod cache;
mod class;
mod compose;
mod filter;
mod found;
mod huge;
mod index;
mod lane;
mod level;
mod merge;
#[cfg(test)]
mod merge_tests;
mod pool;
mod recognise;
mod scalar;
mod split;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod tests;
mod window;
mod words;

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;
use tokenizers::AddedToken;

use self::added::{Finder, Part};
use self::border::Borders;
use super::SpecialText;
use crate::token::TokenId;
use cache::{Cache, Key, LONG_MAX};
use class::{Table, WHITE};
use found::{AHEAD, Found, Mark, New};
use level::SimdLevel;
use merge::{Merged, Merges};
use pool::Pool;
use recognise::{Normalizer, Pattern};
use split::{Splitter, Starts};

pub use recognise::{Family, added, recognise};

/// White space of more bytes goes to the library: its regex engine gives up on
/// runs of about a million characters, in a way of its own.
const WHITE_MAX: usize = 1 << 16;

/// Longer texts go to the library: lists of a piece have 32-bit links.
const TEXT_MAX: usize = 1 << 31;

/// The fast path cannot answer for a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsure;

/// A tokenizer of a known family.
pub struct Fast {
    pattern: Pattern,
    level: SimdLevel,
    table: &'static Table,
    normalizer: Normalizer,
    borders: Borders,
    merges: Merges,
    /// Added tokens that are looked for before and after normalizing.
    added: [Option<Finder>; 2],
    pool: Pool<State>,
}

/// What a thread keeps.
struct State {
    starts: Starts,
    known: Known,
}

/// The pieces that a thread knows, and those that it looks for.
struct Known {
    cache: Cache,
    /// The keys and buckets of pieces that are looked up next.
    ahead: [(Key, u32); AHEAD],
    found: Found,
    merged: Merged,
    /// The ids of a long piece.
    joined: Vec<u32>,
}

impl Fast {
    /// The fast path for a `tokenizer.json` of a known family with these added tokens.
    pub fn new(
        json: &Value,
        family: Family,
        tokens: &BTreeMap<u32, AddedToken>,
        special: SpecialText,
    ) -> Option<Self> {
        let tokens = added(json, tokens, family.normalizer)?;
        let finder = |normalized: bool| {
            let tokens = tokens.iter();
            let tokens: Vec<_> = tokens.filter(|t| t.normalized == normalized).collect();
            Finder::new(&tokens, special)
        };
        let added = [finder(false)?, finder(true)?];
        Some(Self {
            pattern: family.pattern,
            level: SimdLevel::best(),
            table: Table::get()?,
            normalizer: family.normalizer,
            borders: Borders::new(family.words.iter().map(|(word, _)| word.as_slice())),
            merges: Merges::new(family)?,
            added,
            pool: Pool::new(),
        })
    }

    /// The family and the instructions, as reports name them.
    pub fn name(&self) -> String {
        format!("{}, {}", self.pattern.name(), self.level.name())
    }

    /// Whether some text may yield one of `ids`, which are in order.
    pub fn yields_any(&self, ids: &[u32]) -> bool {
        let added = |id: &u32| self.added.iter().flatten().any(|finder| finder.yields(*id));
        let merged = |id: u32| ids.binary_search(&id).is_ok();
        ids.iter().any(added) || self.merges.yields().any(merged)
    }

    /// Appends the ids of `text`, which are the library's; when it is unsure, some
    /// may have been appended.
    pub fn encode(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), Unsure> {
        if TEXT_MAX <= text.len() {
            return Err(Unsure);
        }
        self.pool
            .with(State::new, |state| self.text(text, state, ids))
    }

    fn text(&self, text: &str, state: &mut State, ids: &mut Vec<TokenId>) -> Result<(), Unsure> {
        let [verbatim, normalized] = self.added.each_ref().map(Option::as_ref);
        if verbatim.is_none() && normalized.is_none() {
            return self.composed(text, |text| self.pieces(text.as_bytes(), state, ids));
        }
        Finder::split(verbatim, text, &mut |part| match part {
            Part::Token(id) => {
                ids.push(TokenId(id));
                Ok(())
            }
            Part::Text(text) => self.composed(text, |text| {
                Finder::split(normalized, text, &mut |part| match part {
                    Part::Token(id) => {
                        ids.push(TokenId(id));
                        Ok(())
                    }
                    Part::Text(text) => self.pieces(text.as_bytes(), state, ids),
                })
            }),
        })
    }

    fn composed<R>(&self, text: &str, then: impl FnOnce(&str) -> R) -> R {
        match self.normalizer {
            Normalizer::None => then(text),
            Normalizer::Nfc => then(&compose::nfc(text)),
        }
    }

    /// Cuts and merges text without added tokens.
    fn pieces(
        &self,
        text: &[u8],
        State { starts, known, .. }: &mut State,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Unsure> {
        let mut splitter = Splitter::new(self.pattern, self.level, text, self.table);
        let mut open = 0;
        known.found.clear();
        while splitter.fill(starts) {
            for ends in starts.found().chunks(AHEAD) {
                self.look_up(text, open, ends, known)?;
                open = ends.last().copied().unwrap_or(open);
            }
            self.merge_new(text, known, ids);
        }
        self.look_up(text, open, &[text.len()], known)?;
        self.merge_new(text, known, ids);
        Ok(())
    }

    /// Finds the ids of the pieces that end at `ends`, the first of which begins at `open`.
    fn look_up(
        &self,
        text: &[u8],
        open: usize,
        ends: &[usize],
        known: &mut Known,
    ) -> Result<(), Unsure> {
        let Known {
            cache,
            ahead,
            found,
            ..
        } = known;
        let mut from = open;
        for ((key, bucket), end) in ahead.iter_mut().zip(ends) {
            *key = cache::key(text, from, end - from);
            *bucket = cache::bucket(*key);
            cache.prefetch(*bucket);
            from = *end;
        }
        found.make_room();
        let mut from = open;
        for ((key, bucket), end) in ahead.iter().zip(ends) {
            match cache.near(*key, *bucket) {
                Some((ids, count @ 1..)) => found.push(ids, count),
                _ => {
                    let piece = text.get(from..*end).unwrap_or_default();
                    if WHITE_MAX < piece.len() && self.is_white(piece) {
                        return Err(Unsure);
                    }
                    match key.is_long() {
                        true => self.look_up_long(text, from..*end, cache, found),
                        false => found.find(cache, *key, (piece, from)),
                    }
                }
            }
            from = *end;
        }
        Ok(())
    }

    /// Finds the ids of a long piece: its own, or part by part.
    #[inline(never)]
    fn look_up_long(&self, text: &[u8], span: Range<usize>, cache: &Cache, found: &mut Found) {
        let piece = text.get(span.clone()).unwrap_or_default();
        // What is never remembered may be of any length: its parts would take memory.
        if LONG_MAX < piece.len() {
            return found.find(cache, Key::LONG, (piece, span.start));
        }
        if let Some(ids) = cache.get(Key::LONG, piece) {
            return found.extend(ids);
        }
        let (begin, mut from) = (found.mark(), span.start);
        for part in self.borders.parts(piece) {
            let key = match part.len() == piece.len() {
                true => Key::LONG,
                false => cache::part_key(text, from, part.len()),
            };
            match cache.near(key, cache::bucket(key)) {
                Some((ids, count @ 1..)) => {
                    found.make_room();
                    found.push(ids, count);
                }
                _ => found.find(cache, key, (part, from)),
            }
            from += part.len();
        }
        found.long.push((begin..found.mark(), span));
    }

    /// Merges the pieces that are new, and appends the ids of all that were looked up.
    fn merge_new(&self, text: &[u8], known: &mut Known, ids: &mut Vec<TokenId>) {
        let Known {
            cache,
            merged,
            found,
            joined,
            ..
        } = known;
        let piece = |new: &New| text.get(new.span.clone()).unwrap_or_default();
        let pieces = found.new.iter().map(|new| (piece(new), new.key.kind()));
        self.merges.encode(self.level, pieces, merged);
        found.each(Mark::default()..found.mark(), merged, |some| {
            ids.extend(some.iter().copied().map(TokenId));
        });
        for (number, new) in found.new.iter().enumerate() {
            if new.key != Key::LONG {
                cache.learn(new.key, piece(new), merged.of(number));
            }
        }
        for (marks, span) in &found.long {
            joined.clear();
            found.each(marks.clone(), merged, |some| joined.extend_from_slice(some));
            let piece = text.get(span.clone()).unwrap_or_default();
            cache.learn(Key::LONG, piece, joined);
        }
        found.clear();
    }

    fn is_white(&self, piece: &[u8]) -> bool {
        match piece.first() {
            Some(byte @ ..0x80) => byte.is_ascii_whitespace() || *byte == 0x0b,
            Some(_) => self.table.of(class::decode(piece, 0).0) & WHITE != 0,
            None => false,
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            starts: Starts::new(),
            known: Known {
                cache: Cache::new(),
                ahead: [(Key::LONG, 0); AHEAD],
                found: Found::default(),
                merged: Merged::default(),
                joined: Vec::new(),
            },
        }
    }
}
