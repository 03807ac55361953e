//! Where pause tokens go.
//!
//! One function serves preparation, loading and generation, so that data
//! written to disk and data made on the fly cannot differ.
//!
//! A policy is a function of a row's real ids, the numbers that travel with them
//! ([`Sequence::marks`]), the text they spell, and a key. Pauses are put between
//! ids and never into text: a place in the text is moved to the gap before the
//! token that holds it, so no token is split and no border moves.
//!
//! In a finetuning row pauses stand after the prefix, which all policies leave
//! whole; `suffix` puts them right after it, `prefix` before it. A row without a
//! prefix is all text for most policies, and all prefix for `suffix`, as a prompt is.

mod config;
mod error;
mod lay;
mod place;
pub mod policy;
mod sites;
pub mod target;
pub mod text;
mod token;

use std::sync::Arc;

use regex::bytes::Regex;

pub use config::{Config, Fields, When};
pub use error::{Error, FRACTION_MAX};
pub use lay::{Id, Laid, Scratch, Text, lay};
pub use policy::{Count, Fill, Law, Overflow, Policy, Share, Side};
pub use target::Rule;
pub use text::Pieces;
pub use token::Token;

use crate::rng::Key;
use crate::sequence::Sequence;
use crate::token::{PauseIds, Reserved, TokenId};

/// Everything that decides where the pauses of a dataset stand.
#[derive(Clone, Debug)]
pub struct Insertion {
    policy: Policy,
    tokens: token::Ids,
    rule: Rule,
    /// How much a target counts that the rule adds.
    weight: f32,
    fields: Fields,
    reserved: Reserved,
    row_length: usize,
    /// What ids spell, where the policy reads text.
    pieces: Option<Arc<Pieces>>,
    /// The expression of each part of the policy, where it has one.
    patterns: Vec<Option<Regex>>,
}

/// A row with its pauses.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// The row. Its prefix counts the same real ids as before, and the pauses
    /// that stand before them.
    pub sequence: Sequence,
    /// How many real ids the pauses pushed out of the row ([`Overflow::Drop`]).
    pub overflowed: usize,
    /// Which policy of a mixture it was given; 0 for others.
    pub part: usize,
}

/// Returns `sequence` with the pauses that `insertion` gives it, drawn by `key`.
///
/// Depends on the arguments alone. The ids keep their order; without
/// [`Overflow::Drop`] none is lost. A policy that [`Policy::validate`] accepts
/// gives a full row exactly [`Insertion::n_pauses`] random pauses. A row of at
/// most [`Insertion::take`] real ids is at most [`Insertion::row_length`] long.
pub fn apply(insertion: &Insertion, sequence: &Sequence, key: Key) -> Placed {
    let mut placed = place(insertion, sequence, key);
    let row = &mut placed.sequence;
    insertion.tokens.dress(row, insertion.reserved.pause);
    if insertion.fields.targets {
        let rule = target::Ruled {
            rule: insertion.rule,
            weight: insertion.weight,
            hint: &sequence.hint,
            pad: insertion.reserved.pad,
        };
        let (targets, weights) = rule.of(row, insertion.reserved.into());
        let stored = row.stored.get_or_insert_default();
        (stored.targets, stored.weights) = (targets, weights);
    }
    placed
}

/// [`apply`] for a row that nobody needs without its pauses any more.
pub fn apply_to(insertion: &Insertion, sequence: Sequence, key: Key) -> Placed {
    match insertion.policy {
        Policy::None if insertion.is_bare() => Placed {
            sequence: Sequence {
                ids: sequence.ids,
                prefix: sequence.prefix,
                ..Sequence::default()
            },
            overflowed: 0,
            part: 0,
        },
        _ => apply(insertion, &sequence, key),
    }
}

/// The row with shared pauses.
fn place(insertion: &Insertion, sequence: &Sequence, key: Key) -> Placed {
    let text = Text {
        ids: &sequence.ids,
        prefix: sequence.prefix,
        marks: &sequence.marks,
    };
    let mut ids = Vec::new();
    let laid = lay(insertion, text, key, &mut Scratch::default(), &mut ids);
    Placed {
        sequence: Sequence {
            ids,
            prefix: laid.prefix,
            ..Sequence::default()
        },
        overflowed: laid.overflowed,
        part: laid.part,
    }
}

/// The ids without pauses that are tokens of their own; [`restore`] serves every row.
pub fn strip(ids: &[TokenId], pauses: impl Into<PauseIds>) -> Vec<TokenId> {
    let pauses = pauses.into();
    let real = ids.iter().copied().filter(|id| !pauses.contains(*id));
    real.collect()
}

/// The row that [`apply`] was given: without its pauses, its prefix as long as it was.
pub fn restore(row: &Sequence, pauses: impl Into<PauseIds>) -> Sequence {
    let pauses = pauses.into();
    let real = |position: &usize| !row.is_pause(*position, pauses);
    let before = (0..row.parts().0.len()).filter(real).count();
    let ids = row.ids.iter().enumerate();
    Sequence {
        ids: ids
            .filter(|(position, _)| real(position))
            .map(|(_, id)| *id)
            .collect(),
        prefix: row
            .prefix
            .map(|_| u32::try_from(before).unwrap_or(u32::MAX)),
        ..Sequence::default()
    }
}

/// The lengths of the runs of pauses, in order; a run is as long as it can be.
pub fn runs(row: &Sequence, pauses: impl Into<PauseIds>) -> impl Iterator<Item = usize> {
    let mut positions = row.pause_positions(pauses.into()).into_iter().peekable();
    std::iter::from_fn(move || {
        let first = positions.next()?;
        let mut end = first + 1;
        while positions.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(end - first)
    })
}

impl Insertion {
    /// The insertion of a policy that [`Config::validate`] accepts for these rows.
    pub fn new(
        config: impl Into<Config>,
        reserved: Reserved,
        row_length: usize,
    ) -> Result<Self, Error> {
        let config = config.into();
        config.validate(row_length)?;
        let fields = config.fields();
        let tokens = token::Ids::find(&config.token, reserved).ok_or(Error::NoToken {
            problem: "is one of more than the tokenizer has",
        })?;
        let policy = config.policy;
        let patterns = policy.parts().map(|part| match part {
            Policy::Regex { pattern, .. } => policy::compile(pattern).map(Some),
            _ => Ok(None),
        });
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
            policy,
            tokens,
            rule: config.target,
            weight: config.target_weight.unwrap_or(1.0),
            fields,
            reserved,
            row_length,
            pieces: None,
        })
    }

    /// The same with a token of the text as its pause ([`Token::Filler`]).
    pub fn with_filler(self, filler: TokenId) -> Self {
        Self {
            tokens: token::Ids::Filler(filler),
            ..self
        }
    }

    /// The same with what ids spell, which policies that read text need.
    pub fn with_pieces(self, pieces: impl FnOnce() -> Option<Arc<Pieces>>) -> Result<Self, Error> {
        if !(self.policy.reads_text() || self.policy.reads_positions()) {
            return Ok(self);
        }
        let pieces = Some(pieces().ok_or(Error::NoBytes)?);
        Ok(Self { pieces, ..self })
    }

    /// The rule.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The ids that are pauses.
    pub fn pauses(&self) -> PauseIds {
        self.reserved.into()
    }

    /// Whether all pauses are the shared token.
    pub fn is_shared(&self) -> bool {
        self.tokens == token::Ids::Shared
    }

    /// Whether [`lay`] says all about its rows: their pauses are the shared token, and
    /// what is scored follows from the ids.
    pub fn is_bare(&self) -> bool {
        self.is_shared() && self.fields == Fields::default()
    }

    /// What its rows hold beside their ids.
    pub fn fields(&self) -> Fields {
        self.fields
    }

    /// Length of a full row in ids, pauses included.
    pub fn row_length(&self) -> usize {
        self.row_length
    }

    /// Pauses a full row: M for random policies, the largest count for suffixes;
    /// 0 where only the text tells.
    pub fn n_pauses(&self) -> usize {
        self.policy.n_pauses(self.row_length)
    }

    /// Real ids that a full pretraining row takes from the stream; the most it
    /// could take, where that depends on them.
    pub fn real_per_row(&self) -> usize {
        self.policy.real_per_row(self.row_length)
    }

    /// How full pretraining rows are filled.
    pub fn fill(&self) -> Fill {
        self.policy.fill(self.row_length)
    }

    /// How many ids of the front of `stream` make the next pretraining row.
    ///
    /// `stream` holds [`Insertion::real_per_row`] ids, or all that are left. As many
    /// are taken as leave room for their pauses, whatever a key draws, so a row's
    /// text is the same in every epoch.
    pub fn take(&self, stream: &[TokenId], marks: &[f32]) -> usize {
        let most = self.real_per_row().min(stream.len());
        if let Fill::Fixed(_) = self.fill() {
            return most;
        }
        let front = |n: usize| Text {
            ids: stream.get(..n).unwrap_or_default(),
            prefix: None,
            marks: marks.get(..n).unwrap_or_default(),
        };
        let fitting = |(part, policy)| {
            let gaps = self.all_gaps(part, policy, front(most));
            fitting(&gaps, policy.count(), self.row_length).min(most)
        };
        let parts = self.policy.parts().enumerate();
        let mut n = parts.map(fitting).min().unwrap_or(most);
        // A border may cut a match, and make another of what is left of it.
        while 1 < n && self.row_length < self.longest(front(n)) {
            n -= 1;
        }
        n.max(1).min(most)
    }

    /// The length of a row with the most pauses that a key can give it.
    pub fn longest<'a>(&self, row: impl Into<Text<'a, TokenId>>) -> usize {
        let row = row.into();
        let pauses = |(part, policy): (usize, &Policy)| match policy.places() {
            true => self.all_gaps(part, policy, row).len() * policy.count(),
            false => policy.n_pauses(self.row_length),
        };
        let most = self.policy.parts().enumerate().map(pauses).max();
        row.ids.len() + most.unwrap_or(0)
    }

    /// Whether the row of a key is placed by numbers that are not on disk.
    pub fn reads_marks(&self, key: Key) -> bool {
        let policy = self.policy.parts().nth(self.part(key));
        policy.is_some_and(Policy::reads_marks)
    }

    /// Which policy of a mixture a key draws.
    fn part(&self, key: Key) -> usize {
        let Policy::Mix { of } = &self.policy else {
            return 0;
        };
        let sum: f64 = of.iter().map(|share| share.weight).sum();
        // The key itself is the policy's.
        let mut left = key.item(0).rng().unit() * sum;
        let mut past = |share: &Share| {
            left -= share.weight;
            0.0 <= left
        };
        let likely = |share: &Share| 0.0 < share.weight;
        let last = of.iter().rposition(likely).unwrap_or(0);
        of.iter().take_while(|share| past(share)).count().min(last)
    }

    /// The gaps that get pauses: as many as the row has room for.
    fn gaps<T: Id>(&self, part: usize, policy: &Policy, row: Text<'_, T>) -> Vec<usize> {
        let mut gaps = self.all_gaps(part, policy, row);
        let room = self.row_length.saturating_sub(row.ids.len());
        if let Some(fit) = room.checked_div(policy.count()) {
            gaps.truncate(fit);
        }
        gaps
    }

    /// The gaps that a policy finds, rising: gap `g` is the one before id `g`.
    fn all_gaps<T: Id>(&self, part: usize, policy: &Policy, row: Text<'_, T>) -> Vec<usize> {
        let pattern = self.patterns.get(part).and_then(Option::as_ref);
        let (prefix, text) = row.parts();
        let marks = row.marks.get(prefix.len()..).unwrap_or_default();
        let reader = sites::Reader {
            pieces: self.pieces.as_deref(),
            end: self.reserved.end,
            pattern,
        };
        let mut gaps = reader.gaps(policy, &T::tokens(text), marks);
        gaps.iter_mut().for_each(|gap| *gap += prefix.len());
        gaps
    }

    /// Pauses for `n_text` ids: in proportion to a full row, rounded down.
    fn n_pauses_among(&self, policy: &Policy, law: Law, n_text: usize) -> usize {
        (policy.n_pauses(self.row_length) * n_text)
            .checked_div(policy.real_per_row(self.row_length))
            .unwrap_or(0)
            .min(place::room(law, n_text))
    }
}

/// The most ids that fit a row of `row_length` with `count` pauses in each of the
/// gaps before them.
fn fitting(gaps: &[usize], count: usize, row_length: usize) -> usize {
    for (before, gap) in gaps.iter().enumerate() {
        let n = row_length.saturating_sub(before * count);
        // The row ends before this gap's pauses and the id after them.
        if n <= gap + count {
            return n.min(*gap);
        }
    }
    row_length.saturating_sub(gaps.len() * count)
}

#[cfg(test)]
pub(crate) mod tests;
