//! Added tokens in text: where the library finds them, and what is left between.

use aho_corasick::{AhoCorasick, MatchKind};

use super::super::SpecialText;
use super::recognise::Added;

/// A part of a text.
pub enum Part<'a> {
    /// Text to be cut and merged.
    Text(&'a str),
    /// An added token.
    Token(u32),
}

/// Looks for added tokens, the longest of the leftmost first.
pub struct Finder {
    search: AhoCorasick,
    /// For each pattern its id, unless it is a special token that text spells out.
    ids: Vec<Option<u32>>,
}

impl Finder {
    /// A search for `tokens`; none where it would find nothing that counts, and no
    /// result where it cannot be built.
    pub fn new(tokens: &[&Added], special: SpecialText) -> Option<Option<Self>> {
        let yields = |token: &&Added| !(token.special && special == SpecialText::Ordinary);
        if !tokens.iter().any(yields) {
            return Some(None);
        }
        // Special tokens are searched for even where they are not wanted: they hide
        // what overlaps them.
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|token| &token.content));
        let ids = tokens.iter().map(|token| yields(token).then_some(token.id));
        Some(Some(Self {
            search: search.ok()?,
            ids: ids.collect(),
        }))
    }

    /// Whether text can yield an id by this search.
    pub fn yields(&self, id: u32) -> bool {
        self.ids.contains(&Some(id))
    }

    /// Calls `each` with every part of `text` in order.
    pub fn split<'t, E>(
        finder: Option<&Self>,
        text: &'t str,
        each: &mut dyn FnMut(Part<'t>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut from = 0;
        if let Some(finder) = finder {
            for found in finder.search.find_iter(text) {
                let Some(Some(id)) = finder.ids.get(found.pattern().as_usize()) else {
                    continue;
                };
                each(Part::Text(
                    text.get(from..found.start()).unwrap_or_default(),
                ))?;
                each(Part::Token(*id))?;
                from = found.end();
            }
        }
        each(Part::Text(text.get(from..).unwrap_or_default()))
    }
}
