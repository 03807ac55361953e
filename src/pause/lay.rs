//! One row gets its pauses, in whatever form its ids are.
//!
//! Preparation has [`TokenId`]s; a loader has ids as they lie on disk, and no time to
//! make others of them. Both call [`lay`], so that they cannot differ.

use std::borrow::Cow;

use super::place::Slots;
use super::{Insertion, Overflow, Policy};
use crate::rng::Key;
use crate::row::wide;
use crate::sequence::Sequence;
use crate::token::TokenId;

/// A form that ids may have.
pub trait Id: Copy + PartialEq {
    /// This form of an id, which fits it.
    fn of(id: TokenId) -> Self;
    /// Ids of this form as such.
    fn tokens(ids: &[Self]) -> Cow<'_, [TokenId]>;
    /// Fills `row` with the `text` in its order, and with `pause` in the slots whose bits are
    /// set: as many as the row is longer.
    fn spread(text: &[Self], slots: &[u64], pause: Self, row: &mut [Self]);
}

impl Id for TokenId {
    fn of(id: TokenId) -> Self {
        id
    }

    fn tokens(ids: &[Self]) -> Cow<'_, [TokenId]> {
        Cow::Borrowed(ids)
    }

    fn spread(text: &[Self], slots: &[u64], pause: Self, row: &mut [Self]) {
        wide::spread_each(text, slots, pause, row);
    }
}

/// Two bytes, little-endian.
impl Id for [u8; 2] {
    fn of(id: TokenId) -> Self {
        // An id of a vocabulary that two bytes number.
        u16::try_from(id.0).unwrap_or(u16::MAX).to_le_bytes()
    }

    fn tokens(ids: &[Self]) -> Cow<'_, [TokenId]> {
        let ids = ids.iter().map(|id| TokenId(u16::from_le_bytes(*id).into()));
        ids.collect()
    }

    fn spread(text: &[Self], slots: &[u64], pause: Self, row: &mut [Self]) {
        wide::spread(text, slots, pause, row);
    }
}

/// Four bytes, little-endian.
impl Id for [u8; 4] {
    fn of(id: TokenId) -> Self {
        id.0.to_le_bytes()
    }

    fn tokens(ids: &[Self]) -> Cow<'_, [TokenId]> {
        let ids = ids.iter().map(|id| TokenId(u32::from_le_bytes(*id)));
        ids.collect()
    }

    fn spread(text: &[Self], slots: &[u64], pause: Self, row: &mut [Self]) {
        wide::spread(text, slots, pause, row);
    }
}

/// A row before it has pauses.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a, T> {
    /// Its ids.
    pub ids: &'a [T],
    /// How many of the first are prefix; see [`Sequence::prefix`].
    pub prefix: Option<u32>,
    /// A number for each id, where the policy reads any; see [`Sequence::marks`].
    pub marks: &'a [f32],
}

impl<'a, T> Text<'a, T> {
    /// The prefix and what follows it.
    pub fn parts(self) -> (&'a [T], &'a [T]) {
        let boundary = self.prefix.unwrap_or(0) as usize;
        self.ids.split_at(boundary.min(self.ids.len()))
    }
}

impl<'a> From<&'a Sequence> for Text<'a, TokenId> {
    fn from(row: &'a Sequence) -> Self {
        Self {
            ids: &row.ids,
            prefix: row.prefix,
            marks: &row.marks,
        }
    }
}

/// Memory that is used again from row to row.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    slots: Slots,
}

/// What was laid, beside the ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Laid {
    /// The prefix: as many real ids as before, and the pauses that stand before them.
    pub prefix: Option<u32>,
    /// How many real ids the pauses pushed out of the row ([`Overflow::Drop`]).
    pub overflowed: usize,
    /// Which policy of a mixture the row was given; 0 for others.
    pub part: usize,
}

/// Puts into `row`, in place of what it held, the ids of `text` and the pauses that
/// `insertion` gives them, all of them the shared token.
///
/// As [`super::apply`], which adds what other tokens and target rules ask for.
pub fn lay<T: Id>(
    insertion: &Insertion,
    text: Text<'_, T>,
    key: Key,
    scratch: &mut Scratch,
    row: &mut Vec<T>,
) -> Laid {
    let pause = T::of(insertion.reserved.pause);
    let part = insertion.part(key);
    let mut laid = Laid {
        prefix: text.prefix,
        overflowed: 0,
        part,
    };
    let policy = insertion.policy.parts().nth(part);
    match policy.unwrap_or(&Policy::None) {
        Policy::None | Policy::Mix { .. } => spread(text.ids, &[], 0, pause, row),
        policy @ Policy::Random { law, overflow, .. } => {
            let (prefix, text) = text.parts();
            let n_pauses = insertion.n_pauses_among(policy, *law, text.len());
            scratch
                .slots
                .draw(*law, (text.len(), n_pauses), &mut key.rng());
            // Every slot is written, whatever the last row left in it.
            row.resize(prefix.len() + text.len() + n_pauses, pause);
            let (before, behind) = row.split_at_mut(prefix.len());
            before.copy_from_slice(prefix);
            T::spread(text, scratch.slots.bits(), pause, behind);
            if *overflow == Overflow::Drop && laid.prefix.is_none() {
                laid.overflowed = cut(insertion.row_length, pause, row);
            }
        }
        Policy::Suffix { count } => {
            let gap = match text.prefix {
                Some(_) => text.parts().0.len(),
                None => text.ids.len(),
            };
            let count = count.draw(&mut key.rng());
            spread(text.ids, &[gap], count as usize, pause, row);
        }
        Policy::Prefix { count } => {
            let count = count.draw(&mut key.rng());
            spread(text.ids, &[0], count as usize, pause, row);
            laid.prefix = laid.prefix.map(|prefix| prefix.saturating_add(count));
        }
        policy => {
            let gaps = insertion.gaps(part, policy, text);
            spread(text.ids, &gaps, policy.count(), pause, row);
        }
    }
    laid
}

/// Cuts a row to its length; returns how many real ids that costs.
fn cut<T: Id>(row_length: usize, pause: T, row: &mut Vec<T>) -> usize {
    let tail = row.get(row_length..).unwrap_or_default();
    let overflowed = tail.iter().filter(|id| **id != pause).count();
    row.truncate(row_length);
    overflowed
}

/// Makes a row of the ids with `count` pauses in each of `gaps`, which rise.
fn spread<T: Id>(ids: &[T], gaps: &[usize], count: usize, pause: T, row: &mut Vec<T>) {
    row.clear();
    row.reserve(ids.len() + gaps.len() * count);
    let mut rest = ids;
    let mut at = 0;
    for gap in gaps {
        let (before, after) = rest.split_at((gap - at).min(rest.len()));
        row.extend_from_slice(before);
        row.resize(row.len() + count, pause);
        (rest, at) = (after, *gap);
    }
    row.extend_from_slice(rest);
}
