//! Copies of documents, kept apart from one another.

use std::collections::VecDeque;

/// About how many ids lie between two copies of a document, where the stream has as many.
const APART: usize = 1 << 20;
/// What a waiting item costs beside its ids, counted in ids: short ones are bounded too.
const ITEM: usize = 32;

/// Repeats documents some way behind themselves.
///
/// A model that met a document twice in one row would learn to copy it. So the
/// first copies of about a million ids pass, then the second copies of those, and
/// so on; a shorter stream is passed as a whole, once, twice, thrice. What comes
/// out depends on what goes in alone; every item comes out as often as was asked.
#[derive(Clone, Debug)]
pub struct Repeats<T> {
    waiting: VecDeque<Waiting<T>>,
    waiting_size: usize,
    apart: usize,
}

#[derive(Clone, Debug)]
struct Waiting<T> {
    item: T,
    size: usize,
    times: u64,
}

impl<T: Clone> Repeats<T> {
    /// Nothing waits.
    pub fn new() -> Self {
        Self::apart(APART)
    }

    fn apart(apart: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            waiting_size: 0,
            apart,
        }
    }

    /// Notes that an item of `ids` ids, which has passed once, passes `times` more.
    pub fn push(&mut self, item: T, ids: usize, times: u64) {
        if times == 0 {
            return;
        }
        let size = ids + ITEM;
        self.waiting_size += size;
        self.waiting.push_back(Waiting { item, size, times });
    }

    /// The next copy, while more wait than need to.
    pub fn next_due(&mut self) -> Option<T> {
        (self.apart < self.waiting_size)
            .then(|| self.pop())
            .flatten()
    }

    /// The next copy, once no document follows.
    pub fn pop(&mut self) -> Option<T> {
        let mut first = self.waiting.pop_front()?;
        first.times -= 1;
        if first.times == 0 {
            self.waiting_size -= first.size;
            return Some(first.item);
        }
        let item = first.item.clone();
        self.waiting.push_back(first);
        Some(item)
    }
}

impl<T: Clone> Default for Repeats<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(apart: usize, times: &[u64]) -> Vec<usize> {
        let (mut repeats, mut out) = (Repeats::apart(apart), Vec::new());
        for (item, times) in times.iter().enumerate() {
            out.push(item);
            repeats.push(item, 1, times.saturating_sub(1));
            out.extend(std::iter::from_fn(|| repeats.next_due()));
        }
        out.extend(std::iter::from_fn(|| repeats.pop()));
        out
    }

    #[test]
    fn a_short_stream_passes_as_a_whole_again() {
        assert_eq!(run(APART, &[3, 1, 2, 3]), [0, 1, 2, 3, 0, 2, 3, 0, 3]);
    }

    #[test]
    fn a_long_stream_passes_in_stretches() {
        // Two items may wait.
        let out = run(2 * (ITEM + 1), &[2, 2, 2, 2, 1]);
        assert_eq!(out, [0, 1, 2, 0, 3, 1, 4, 2, 3]);
    }

    proptest! {
        #[test]
        fn every_item_passes_as_often_as_asked(
            times in prop::collection::vec(1u64..6, 0..40),
            apart in 0usize..600,
        ) {
            let out = run(apart, &times);
            for (item, times) in times.iter().enumerate() {
                prop_assert_eq!(out.iter().filter(|other| **other == item).count() as u64, *times);
            }
        }
    }
}
