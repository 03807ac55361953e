//! The table of merges, merging and the cache, each against its obvious twin.

use std::collections::HashMap;

use proptest::prelude::*;

use super::border::Borders;
use super::cache::{self, Cache, Kind};
use super::index::{Index, made, number};
use super::level::SimdLevel;
use super::merge::{Merged, Merges};
use super::recognise::{Family, Normalizer, Pattern};

/// Words of single bytes, and what random merges of earlier words make.
fn family(picks: &[(usize, usize)], ignore_merges: bool) -> Family {
    let mut words: Vec<(Vec<u8>, u32)> = (0..=255u8).map(|b| (vec![b], u32::from(b))).collect();
    let mut ids: HashMap<Vec<u8>, u32> = words.iter().cloned().collect();
    let mut merges = Vec::new();
    for (left, right) in picks {
        // Mostly of the few letters that texts here consist of.
        let pick = |at: usize| match at % (words.len() - 252) {
            letter @ 0..4 => b'a' as usize + letter,
            word => 252 + word,
        };
        let (left, right) = (pick(*left), pick(*right));
        let word = [words[left].0.as_slice(), &words[right].0].concat();
        let next = u32::try_from(words.len()).unwrap();
        let id = *ids.entry(word.clone()).or_insert(next);
        if id == next {
            words.push((word, id));
        }
        merges.push([words[left].1, words[right].1, id]);
    }
    Family {
        pattern: Pattern::Gpt2,
        normalizer: Normalizer::None,
        ignore_merges,
        words,
        merges,
    }
}

/// Byte-pair encoding word for word.
fn by_definition(family: &Family, piece: &[u8], ignore_merges: bool) -> Vec<u32> {
    let word = family.words.iter().find(|(word, _)| word == piece);
    if let Some((_, id)) = word.filter(|_| ignore_merges) {
        return vec![*id];
    }
    let mut ids: Vec<u32> = piece.iter().map(|byte| u32::from(*byte)).collect();
    // A later merge of the same pair counts.
    let rank = |pair: &[u32]| family.merges.iter().rposition(|merge| merge[..2] == *pair);
    let lowest = |ids: &[u32]| {
        let ranks = ids.windows(2).zip(0..);
        ranks.filter_map(|(pair, at)| Some((rank(pair)?, at))).min()
    };
    while let Some((rank, at)) = lowest(&ids) {
        ids.splice(at..at + 2, [family.merges[rank][2]]);
    }
    ids
}

proptest! {
    #[test]
    fn pieces_together_have_the_ids_of_each_by_definition(
        picks in prop::collection::vec(any::<(usize, usize)>(), 0..60),
        ignore_merges: bool,
        pieces in prop::collection::vec("[a-d]{1,20}|[a-d]{50,80}|[a-e]{63,66}|é|日本", 0..30),
    ) {
        let expected = family(&picks, ignore_merges);
        let merges = Merges::new(family(&picks, ignore_merges)).unwrap();
        let mut merged = Merged::default();
        for level in SimdLevel::available() {
            for kind in [Kind::Piece, Kind::Part] {
                let ignore_merges = ignore_merges && kind == Kind::Piece;
                let pieces_of = pieces.iter().map(|piece| (piece.as_bytes(), kind));
                merges.encode(level, pieces_of, &mut merged);
                for (number, piece) in pieces.iter().enumerate() {
                    let ids = by_definition(&expected, piece.as_bytes(), ignore_merges);
                    prop_assert_eq!(merged.of(number), ids, "{}", piece);
                }
            }
        }
    }

    #[test]
    fn parts_have_the_ids_of_the_whole(
        picks in prop::collection::vec((0..40usize, 0..40usize), 0..12),
        piece in "[aé日本語の]{0,12}",
    ) {
        // Words of whole characters, of their bytes, and of both.
        let mut words: Vec<(Vec<u8>, u32)> = (0..=255u8).map(|b| (vec![b], u32::from(b))).collect();
        let mut merges = Vec::new();
        let mut merge = |left: &[u8], right: &[u8]| {
            let id = |word: &[u8]| words.iter().find(|(other, _)| other == word).unwrap().1;
            let (word, next) = ([left, right].concat(), u32::try_from(words.len()).unwrap());
            if words.iter().all(|(other, _)| *other != word) {
                merges.push([id(left), id(right), next]);
                words.push((word, next));
            }
        };
        let text = "aé日本語の";
        let mut units: Vec<Vec<u8>> = text.bytes().map(|byte| vec![byte]).collect();
        for character in text.split("").filter(|character| 1 < character.len()) {
            let bytes = character.as_bytes();
            (1..bytes.len()).for_each(|at| merge(&bytes[..at], &bytes[at..=at]));
            units.push(bytes.to_vec());
        }
        for (left, right) in picks {
            let unit = |at: usize| units[at % units.len()].clone();
            let (left, right) = (unit(left), unit(right));
            merge(&left, &right);
            units.push([left, right].concat());
        }
        let family = Family {
            pattern: Pattern::Gpt2,
            normalizer: Normalizer::None,
            ignore_merges: false,
            words,
            merges,
        };
        let borders = Borders::new(family.words.iter().map(|(word, _)| word.as_slice()));
        let parts: Vec<&[u8]> = borders.parts(piece.as_bytes()).collect();
        prop_assert_eq!(parts.concat(), piece.as_bytes());
        let ids = parts.iter().flat_map(|part| by_definition(&family, part, false));
        let whole = by_definition(&family, piece.as_bytes(), false);
        prop_assert_eq!(ids.collect::<Vec<_>>(), whole);
    }

    #[test]
    fn the_table_is_a_map_of_pairs(
        bits in 8..18u32,
        merges in prop::collection::vec(any::<[u32; 3]>(), 0..3000),
        others in prop::collection::vec(any::<[u32; 2]>(), 100),
    ) {
        let short = |id: u32| id >> (32 - bits);
        let merges: Vec<_> = merges.into_iter().map(|merge| merge.map(short)).collect();
        let mut map = HashMap::new();
        for (number, [left, right, id]) in (1u32..).zip(&merges) {
            map.insert([*left, *right], (number, *id));
        }
        let index = Index::new(&merges, short(u32::MAX)).unwrap();
        let pairs = merges.iter().map(|merge| [merge[0], merge[1]]);
        for [left, right] in pairs.chain(others.into_iter().map(|pair| pair.map(short))) {
            let found = index.answer(index.ask(left, right));
            let expected = map.get(&[left, right]).copied().unwrap_or((0, 0));
            prop_assert_eq!((number(found), made(found)), expected);
            prop_assert_eq!(index.find(left, index.nobody()), 0);
        }
        let mut ids: Vec<u32> = index.ids().collect();
        let mut expected: Vec<u32> = map.values().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(ids, expected);
    }
}

/// Lines of the table run over where it is as full as it may be.
#[test]
fn a_large_table_is_a_map_of_pairs() {
    // One more would double it.
    let n = (1u32 << 15) * 11 * 8 / 20;
    let merges: Vec<_> = (0..n).map(|at| [at / 300, at % 300, 7 * at % n]).collect();
    let index = Index::new(&merges, 0).unwrap();
    for (at, [left, right, id]) in (1..).zip(&merges) {
        let found = index.find(*left, *right);
        assert_eq!((number(found), made(found)), (at, *id));
        assert_eq!(index.find(*left, right + 300), 0);
    }
    // Half a million ids and merges do not fit with ids of 24 bits.
    assert!(Index::new(&merges, 1 << 30).is_none());
}

/// A cache tells what it was taught, or nothing, however much that is.
#[test]
fn a_cache_tells_the_right_ids_or_none() {
    let mut cache = Cache::new();
    let piece = |n: u32| {
        let letters = format!("{:x}", u64::from(n) * 2_654_435_761 % 4_294_967_291);
        match n % 4 {
            0 => letters.repeat(1 + n as usize % 40),
            _ => letters,
        }
    };
    let ids = |n: u32| (0..1 + n % 6).map(|id| id + n).collect::<Vec<_>>();
    let key = |piece: &str| cache::key(piece.as_bytes(), 0, piece.len());
    let mut known = 0;
    for n in 0..1_500_000 {
        let new = piece(n);
        cache.learn(key(&new), new.as_bytes(), &ids(n));
        for n in [n, n / 2] {
            let piece = piece(n);
            let key = key(&piece);
            let found = cache.get(key, piece.as_bytes());
            assert!(found.is_none_or(|found| found == ids(n)), "{piece}");
            known += u32::from(found.is_some());
            if !key.is_long()
                && let Some((found, count @ 1..)) = cache.near(key, cache::bucket(key))
            {
                assert_eq!(found[..count], ids(n));
            }
        }
    }
    assert!(2_000_000 < known, "{known}");
}
