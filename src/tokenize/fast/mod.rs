//! The fast path: byte-level BPE of the known families, with the ids of the library.
//!
//! `recognise` decides by the exact structure of a `tokenizer.json` whether this
//! path takes it. A text is cut by [`added`] tokens, composed where the tokenizer
//! says so, cut into pieces by [`split`], and each piece is looked up in a [`cache`]
//! or merged. What is not sure to agree with the library is left to it.

mod added;
mod block;
mod cache;
mod class;
mod compose;
mod huge;
mod level;
mod merge;
mod pool;
mod recognise;
mod scalar;
mod split;
#[cfg(test)]
mod split_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::AddedToken;

use self::added::{Finder, Part};
use super::SpecialText;
use crate::token::TokenId;
use cache::{Cache, Key};
use class::{Table, WHITE};
use level::SimdLevel;
use merge::{Merges, Scratch};
use pool::Pool;
use recognise::{Normalizer, Pattern};
use split::{Splitter, Starts};

pub use recognise::{Family, added, recognise};

/// White space of more bytes goes to the library: its regex engine gives up on
/// runs of about a million characters, in a way of its own.
const WHITE_MAX: usize = 1 << 16;

/// Longer texts go to the library: lists of a piece have 32-bit links.
const TEXT_MAX: usize = 1 << 31;

/// Pieces that are hashed before the first of them is looked up.
const AHEAD: usize = 64;

/// Text after which a thread's cache is given the words that nearly all text has.
const SEED_AFTER: usize = 1 << 18;
/// How many merges make such words.
const SEEDS: usize = 1 << 14;

/// The fast path cannot answer for a text.
#[derive(Debug, PartialEq, Eq)]
pub struct Unsure;

/// A tokenizer of a known family.
pub struct Fast {
    pattern: Pattern,
    level: SimdLevel,
    table: &'static Table,
    normalizer: Normalizer,
    merges: Merges,
    /// Added tokens that are looked for before and after normalizing.
    added: [Option<Finder>; 2],
    /// Pieces that nearly all text has, with their ids: made once, for all threads.
    seeds: OnceLock<Vec<(Box<[u8]>, Box<[u32]>)>>,
    /// The words of which seeds are made.
    common: Vec<Box<[u8]>>,
    pool: Pool<State>,
}

/// What a thread keeps.
struct State {
    cache: Cache,
    scratch: Scratch,
    starts: Starts,
    batch: Box<Batch>,
    /// Bytes seen; `usize::MAX` when the cache has its seeds.
    seen: usize,
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
        let merges = Merges::new(&family)?;
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
            merges,
            added,
            seeds: OnceLock::new(),
            common: family.common(SEEDS, cache::SHORT_MAX),
            pool: Pool::new(),
        })
    }

    /// The family and the instructions, as reports name them.
    pub fn name(&self) -> String {
        let level = match self.pattern {
            Pattern::O200k => SimdLevel::Portable,
            _ => self.level,
        };
        format!("{}, {}", self.pattern.name(), level.name())
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
        self.seed(state, text.len());
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
    fn pieces(&self, text: &[u8], state: &mut State, ids: &mut Vec<TokenId>) -> Result<(), Unsure> {
        let mut splitter = Splitter::new(self.pattern, self.level, text, self.table);
        let mut open = 0;
        let mut starts = std::mem::take(&mut state.starts);
        let mut result = Ok(());
        while result.is_ok() && splitter.fill(&mut starts) {
            for ends in starts.found().chunks(AHEAD) {
                result = result.and_then(|()| self.some_pieces(text, open, ends, state, ids));
                open = ends.last().copied().unwrap_or(open);
            }
        }
        state.starts = starts;
        result.and_then(|()| self.some_pieces(text, open, &[text.len()], state, ids))
    }

    /// The pieces that end at `ends`, the first of which begins at `open`.
    #[inline]
    fn some_pieces(
        &self,
        text: &[u8],
        open: usize,
        ends: &[usize],
        state: &mut State,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Unsure> {
        let State { cache, batch, .. } = &mut *state;
        let mut from = open;
        for ((key, bucket), end) in batch.keys.iter_mut().zip(ends) {
            *key = cache::key(text, from, end - from);
            *bucket = cache::bucket(*key);
            cache.prefetch(*bucket);
            from = *end;
        }
        let mut n = 0;
        let mut from = open;
        for (index, end) in ends.iter().enumerate() {
            let State { cache, batch, .. } = &mut *state;
            let Some((key, bucket)) = batch.keys.get(index).copied() else {
                break;
            };
            let known = cache.short(key, bucket);
            if let Some((found, count @ 1..)) = known
                && let Some(place) = batch.ids.get_mut(n..n + 4)
            {
                // All four, whatever the count: the next piece overwrites the rest.
                place.copy_from_slice(found);
                n += count;
            } else {
                batch.move_to(ids, &mut n);
                let elsewhere = known.is_some() || key == Key::NONE;
                let piece = text.get(from..*end).unwrap_or_default();
                self.rare_piece(key, piece, elsewhere, state, ids)?;
            }
            from = *end;
        }
        state.batch.move_to(ids, &mut n);
        Ok(())
    }

    /// A piece that is long, new, or of many ids.
    #[inline(never)]
    fn rare_piece(
        &self,
        key: Key,
        piece: &[u8],
        elsewhere: bool,
        state: &mut State,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Unsure> {
        if WHITE_MAX < piece.len() && self.is_white(piece) {
            return Err(Unsure);
        }
        if elsewhere && let Some(found) = state.cache.long(piece) {
            ids.extend(found.iter().copied().map(TokenId));
            return Ok(());
        }
        if !piece.is_empty() {
            let found = self.merges.encode(piece, &mut state.scratch);
            ids.extend(found.iter().copied().map(TokenId));
            match key {
                Key::NONE => state.cache.learn_long(piece, found),
                key => state.cache.learn(key, piece, found),
            }
        }
        Ok(())
    }

    fn is_white(&self, piece: &[u8]) -> bool {
        match piece.first() {
            Some(byte @ ..0x80) => byte.is_ascii_whitespace() || *byte == 0x0b,
            Some(_) => self.table.of(class::decode(piece, 0).0) & WHITE != 0,
            None => false,
        }
    }

    /// Gives a cache the ids of common words once it has seen enough text to need them.
    fn seed(&self, state: &mut State, bytes: usize) {
        if state.seen == usize::MAX {
            return;
        }
        state.seen = state.seen.saturating_add(bytes);
        if state.seen < SEED_AFTER {
            return;
        }
        state.seen = usize::MAX;
        let seeds = self.seeds.get_or_init(|| {
            let mut scratch = Scratch::default();
            let merged =
                |word: &Box<[u8]>| (word.clone(), self.merges.encode(word, &mut scratch).into());
            self.common.iter().map(merged).collect()
        });
        for (word, ids) in seeds {
            let key = cache::key(word, 0, word.len());
            if state.cache.short(key, cache::bucket(key)).is_none() {
                state.cache.learn(key, word, ids);
            }
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            cache: Cache::new(),
            scratch: Scratch::default(),
            starts: Starts::new(),
            batch: Box::new(Batch {
                keys: [(Key::NONE, 0); AHEAD],
                ids: [0; 4 * AHEAD],
            }),
            seen: 0,
        }
    }
}

/// Pieces that are looked up together.
struct Batch {
    /// Their keys and buckets.
    keys: [(Key, u32); AHEAD],
    /// The ids of those found so far.
    ids: [u32; 4 * AHEAD],
}

impl Batch {
    /// Appends the first `n` ids to `ids`, and sets `n` to 0.
    #[inline(always)]
    fn move_to(&self, ids: &mut Vec<TokenId>, n: &mut usize) {
        let found = self.ids.get(..*n).unwrap_or_default();
        ids.extend(found.iter().copied().map(TokenId));
        *n = 0;
    }
}
