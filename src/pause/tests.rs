//! Laws 1 and 2 of pauses, and what each policy draws.

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::pause::target::{scored, weights};
use crate::rng::Stream;
use crate::sequence::drawing::{RESERVED, draw, row};

const LAWS: [Law; 4] = [
    Law::UniformInterleaving,
    Law::DistinctGaps,
    Law::IidGaps,
    Law::Runs { mean: 3.0 },
];

fn key(item: u64) -> Key {
    Key::new(11).stream(Stream::Pause).epoch(0).item(item)
}

fn insertion(policy: Policy, row_length: usize) -> Insertion {
    Insertion {
        policy,
        reserved: RESERVED,
        row_length,
        pieces: None,
        patterns: Vec::new(),
    }
}

fn random(fraction: f64, law: Law, overflow: Overflow) -> Policy {
    Policy::Random {
        fraction,
        law,
        overflow,
    }
}

fn suffix(count: Count) -> Policy {
    Policy::Suffix { count }
}

fn check(insertion: &Insertion, text: &str, expect: Expect) {
    let placed = apply(insertion, &row(text), key(0));
    let lost = match placed.overflowed {
        0 => String::new(),
        n => format!("  (lost {n})"),
    };
    expect.assert_eq(&format!("{}{lost}", draw(&placed.sequence)));
}

#[test]
fn no_policy_leaves_the_row_alone() {
    check(&insertion(Policy::None, 4), "a b | c", expect!["a b | c"]);
}

#[test]
fn carry_makes_a_full_row_exactly_full() {
    for law in LAWS {
        let insertion = insertion(random(0.3, law, Overflow::Carry), 10);
        assert_eq!((insertion.n_pauses(), insertion.real_per_row()), (3, 7));
        let placed = apply(&insertion, &row("the cat sat | on the mat"), key(0));
        assert_eq!((placed.sequence.len(), placed.overflowed), (10, 0));
    }
}

/// These rows are what a seed means: another drawing is another data format.
#[test]
fn each_law_draws_its_rows() {
    let policy = |law| insertion(random(0.4, law, Overflow::Carry), 15);
    let text = "the cat sat | on the mat it was";
    check(
        &policy(Law::UniformInterleaving),
        text,
        expect!["⏸ the cat sat | on ⏸ the mat ⏸ ⏸ ⏸ ⏸ it was"],
    );
    check(
        &policy(Law::DistinctGaps),
        text,
        expect!["⏸ the cat sat | ⏸ on the ⏸ mat ⏸ it ⏸ was ⏸"],
    );
    check(
        &policy(Law::IidGaps),
        text,
        expect!["⏸ the cat sat | on ⏸ ⏸ the mat ⏸ it ⏸ was ⏸"],
    );
}

#[test]
fn drop_cuts_the_row_and_counts_the_text_it_loses() {
    let insertion = insertion(random(0.3, Law::default(), Overflow::Drop), 10);
    assert_eq!(insertion.real_per_row(), 10);
    check(
        &insertion,
        "a b c d e | f g h i",
        expect!["⏸ a b c d e | ⏸ f g  (lost 2)"],
    );
    check(&insertion, "a b c d e |", expect!["a b c d e | ⏸"]);
}

#[test]
fn a_short_last_row_gets_its_share() {
    let insertion = insertion(random(0.3, Law::default(), Overflow::Carry), 10);
    check(&insertion, "the cat sat on", expect!["the cat sat on ⏸"]);
    check(&insertion, "the cat", expect!["the cat"]);
    check(&insertion, "", expect![""]);
}

#[test]
fn random_pauses_leave_a_prefix_whole() {
    let insertion = insertion(random(0.5, Law::default(), Overflow::Drop), 8);
    check(
        &insertion,
        "what is it > a cat now |",
        expect!["what is it > ⏸ a cat now ⏸ |"],
    );
}

#[test]
fn suffix_pauses_stand_between_prefix_and_target() {
    let insertion = insertion(suffix(Count::Fixed(3)), 16);
    assert_eq!((insertion.n_pauses(), insertion.real_per_row()), (3, 13));
    check(
        &insertion,
        "sky is > blue |",
        expect!["sky is > ⏸ ⏸ ⏸ blue |"],
    );
    check(&insertion, "> blue |", expect!["> ⏸ ⏸ ⏸ blue |"]);
    check(&insertion, "a prompt", expect!["a prompt ⏸ ⏸ ⏸"]);
    let none = self::insertion(suffix(Count::Fixed(0)), 16);
    check(&none, "sky is > blue |", expect!["sky is > blue |"]);
}

#[test]
fn counts_are_drawn_uniformly_from_what_the_policy_lists() {
    let histogram = |count: &Count| {
        let mut seen = std::collections::BTreeMap::new();
        for item in 0..40_000 {
            *seen.entry(count.draw(&mut key(item).rng())).or_insert(0.0) += 1.0;
        }
        seen
    };
    for (count, expected) in [
        (Count::Fixed(10), vec![(10, 1.0)]),
        (
            Count::Between { min: 3, max: 6 },
            vec![(3, 0.25), (4, 0.25), (5, 0.25), (6, 0.25)],
        ),
        (
            Count::OneOf(vec![0, 10, 10, 50]),
            vec![(0, 0.25), (10, 0.5), (50, 0.25)],
        ),
    ] {
        let seen = histogram(&count);
        assert_eq!(seen.len(), expected.len(), "{count:?}");
        assert_eq!(count.max(), *seen.keys().last().unwrap());
        for (value, share) in expected {
            let distance: f64 = seen[&value] / 40_000.0 - share;
            assert!(distance.abs() < 0.01, "{count:?} {value}: {distance}");
        }
    }
}

#[test]
fn policies_that_cannot_be_carried_out_are_refused() {
    let check = |policy: Policy, row_length, expect: Expect| {
        let text = match policy.validate(row_length) {
            Ok(()) => "fine".to_string(),
            Err(error) => error.to_string(),
        };
        expect.assert_eq(&text);
    };
    let carry = |fraction, law| random(fraction, law, Overflow::Carry);
    check(carry(0.1, Law::default()), 2048, expect!["fine"]);
    check(carry(0.0, Law::default()), 2048, expect!["fine"]);
    check(
        carry(-0.1, Law::default()),
        2048,
        expect!["expected a pause fraction from 0 to 0.9, found -0.1"],
    );
    check(
        carry(0.95, Law::default()),
        2048,
        expect!["expected a pause fraction from 0 to 0.9, found 0.95"],
    );
    check(
        carry(f64::NAN, Law::default()),
        2048,
        expect!["expected a pause fraction from 0 to 0.9, found NaN"],
    );
    check(
        carry(0.1, Law::default()),
        4,
        expect!["a pause fraction of 0.1 gives no pause in rows of 4 ids"],
    );
    check(
        carry(0.9, Law::default()),
        1,
        expect!["expected room for text in rows of 1 ids, found 1 pauses a row"],
    );
    check(carry(0.5, Law::DistinctGaps), 10, expect!["fine"]);
    check(
        carry(0.6, Law::DistinctGaps),
        10,
        expect!["expected at most 5 pauses a row, one in each gap, found 6"],
    );
    check(
        random(0.9, Law::DistinctGaps, Overflow::Drop),
        10,
        expect!["fine"],
    );
    check(suffix(Count::Fixed(9)), 10, expect!["fine"]);
    check(
        suffix(Count::Fixed(10)),
        10,
        expect!["expected room for text in rows of 10 ids, found 10 pauses a row"],
    );
    check(
        suffix(Count::OneOf(vec![])),
        10,
        expect!["expected at least one pause count, found an empty list"],
    );
    check(
        suffix(Count::Between { min: 5, max: 4 }),
        10,
        expect!["expected a least pause count of at most 4, found 5"],
    );
}

#[test]
fn runs_are_maximal() {
    let lengths = |text| -> Vec<usize> { runs(&row(text).ids, RESERVED.pause).collect() };
    assert_eq!(lengths("⏸ a ⏸ ⏸ ⏸ b | ⏸ ⏸"), [1, 3, 2]);
    assert_eq!(lengths("a | b"), [0; 0]);
    assert_eq!(lengths(""), [0; 0]);
}

/// A row's text: up to `max` ids, none of them the pause.
fn text(max: usize) -> impl Strategy<Value = Vec<TokenId>> {
    prop::collection::vec((2u32..60).prop_map(TokenId), 0..=max)
}

fn any_law() -> impl Strategy<Value = Law> {
    prop::sample::select(LAWS.to_vec())
}

fn any_overflow() -> impl Strategy<Value = Overflow> {
    prop::sample::select(vec![Overflow::Carry, Overflow::Drop])
}

fn any_count() -> impl Strategy<Value = Count> {
    prop_oneof![
        (0u32..20).prop_map(Count::Fixed),
        (0u32..20, 0u32..20).prop_map(|(min, more)| Count::Between {
            min,
            max: min + more
        }),
        prop::collection::vec(0u32..20, 1..5).prop_map(Count::OneOf),
    ]
}

proptest! {
    /// Law 1, and that a full row holds exactly M pauses.
    #[test]
    fn stripped_rows_are_a_prefix_of_their_text(
        ids in text(120), law in any_law(), overflow in any_overflow(),
        fraction in 0.0..0.9, row_length in 1usize..100, item in any::<u64>(),
    ) {
        let policy = random(fraction, law, overflow);
        prop_assume!(policy.validate(row_length).is_ok());
        let insertion = insertion(policy, row_length);
        let n_real = insertion.real_per_row().min(ids.len());
        let row = Sequence::plain(ids[..n_real].to_vec());
        let Placed { sequence, overflowed, .. } = apply(&insertion, &row, key(item));
        let stripped = strip(&sequence.ids, RESERVED.pause);
        prop_assert_eq!(&stripped, &row.ids[..stripped.len()]);
        prop_assert_eq!(stripped.len() + overflowed, n_real);
        prop_assert!(sequence.len() <= row_length);
        let n_pauses = sequence.len() - stripped.len();
        let share = insertion.n_pauses() * n_real / insertion.real_per_row();
        match overflow {
            Overflow::Carry => prop_assert_eq!((overflowed, n_pauses), (0, share)),
            Overflow::Drop => prop_assert_eq!(
                sequence.len() == row_length || (overflowed, n_pauses) == (0, share),
                true
            ),
        }
        if n_real == insertion.real_per_row() {
            prop_assert_eq!(sequence.len(), row_length);
        }
    }

    /// Law 2 on rows with pauses, and that the position before each real id is the one
    /// that is trained to predict it.
    #[test]
    fn no_scored_target_is_a_pause_and_every_real_id_is_scored_once(
        ids in text(60), law in any_law(), fraction in 0.0..0.9, item in any::<u64>(),
    ) {
        let insertion = insertion(random(fraction, law, Overflow::Carry), 100);
        let row = apply(&insertion, &Sequence::plain(ids), key(item)).sequence;
        let weights = weights(&row, RESERVED.pause);
        prop_assert_eq!(weights.len(), row.len());
        for (k, weight) in weights.iter().enumerate() {
            let real = row.ids.get(k + 1).is_some_and(|id| *id != RESERVED.pause);
            prop_assert_eq!(*weight, f32::from(u8::from(real)));
        }
        let n_real = strip(&row.ids, RESERVED.pause).len() as u64;
        let opens_with_text = u64::from(row.ids.first().is_some_and(|id| *id != RESERVED.pause));
        prop_assert_eq!(scored(&row, RESERVED.pause), n_real - opens_with_text);
    }

    #[test]
    fn a_suffix_puts_its_count_after_the_prefix_and_nothing_elsewhere(
        prefix in text(20), target in text(20), count in any_count(), item in any::<u64>(),
    ) {
        let insertion = insertion(suffix(count.clone()), 100);
        let drawn = count.draw(&mut key(item).rng()) as usize;
        prop_assert!(drawn <= insertion.n_pauses());
        let example = Sequence::example(&prefix, &target);
        let row = apply(&insertion, &example, key(item)).sequence;
        prop_assert_eq!(row.prefix, example.prefix);
        let expected = [prefix.clone(), vec![RESERVED.pause; drawn], target.clone()].concat();
        prop_assert_eq!(&row.ids, &expected);
        // All of the target is scored, its first id by the last pause; where nothing
        // stands before it, nothing can predict it.
        let unpredicted = usize::from(prefix.len() + drawn == 0 && !target.is_empty());
        let expected = (target.len() - unpredicted) as u64;
        prop_assert_eq!(scored(&row, RESERVED.pause), expected);
    }

    #[test]
    fn an_example_keeps_its_prefix_whole_under_every_policy(
        prefix in text(20), target in text(20), law in any_law(), overflow in any_overflow(),
        fraction in 0.0..0.9, item in any::<u64>(),
    ) {
        let insertion = insertion(random(fraction, law, overflow), 30);
        let example = Sequence::example(&prefix, &target);
        let row = apply(&insertion, &example, key(item)).sequence;
        prop_assert_eq!(row.parts().0, &prefix[..]);
        prop_assert_eq!(strip(row.parts().1, RESERVED.pause), target);
    }

    /// Whatever the recipe says: a refused policy may do nothing useful, but never panics.
    #[test]
    fn apply_never_panics(
        ids in text(40), prefix in prop::option::of(0u32..60), law in any_law(),
        overflow in any_overflow(), fraction in any::<f64>(), row_length in 0usize..50,
        count in prop_oneof![
            any_count(),
            Just(Count::OneOf(vec![])),
            Just(Count::Between { min: 9, max: 2 }),
        ],
    ) {
        let row = Sequence { ids, prefix, ..Sequence::default() };
        for policy in [random(fraction, law, overflow), suffix(count)] {
            apply(&insertion(policy, row_length), &row, key(1));
        }
    }

    #[test]
    fn equal_keys_give_equal_rows_and_other_keys_others(item in 0u64..1 << 40) {
        let insertion = insertion(random(0.3, Law::default(), Overflow::Carry), 400);
        let row = Sequence::plain(vec![TokenId(5); insertion.real_per_row()]);
        prop_assert_eq!(apply(&insertion, &row, key(item)), apply(&insertion, &row, key(item)));
        prop_assert_ne!(apply(&insertion, &row, key(item)), apply(&insertion, &row, key(item + 1)));
    }
}

mod beyond;
