//! How sure a difference is that was measured with some seeds on some questions.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// A mean, and where the mean over all seeds and all questions probably lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The mean of what was measured.
    pub mean: f64,
    /// Its 95 % interval; absent where there is but one seed or one question.
    pub interval: Option<[f64; 2]>,
}

/// The probability that an interval leaves out at each end.
const TAIL: f64 = 0.025;

/// The mean of `values[seed][question]`, all lists as long as the first, and its interval.
///
/// Seeds and questions are both drawn from more than were drawn, and every seed met every
/// question, so that a value is an effect of its seed, one of its question and a rest. The
/// variance of the mean is then estimated by `(MS_s + MS_q - MS_r) / (S Q)`, from the mean
/// squares of a two-way analysis of variance without replication (Cornfield and Tukey 1956),
/// but not as less than either of the first two alone; degrees of freedom are Satterthwaite's
/// (1946). With questions that are all alike that is Student's paired interval over seeds,
/// and with seeds that are all alike the one over questions.
pub fn crossed(values: &[Vec<f64>]) -> Estimate {
    let seeds = values.len() as f64;
    let questions = values.first().map_or(0, Vec::len);
    let n_questions = questions as f64;
    let of_seed: Vec<f64> = values.iter().map(|row| mean(row)).collect();
    let of_question: Vec<f64> = (0..questions)
        .map(|question| {
            let column: Vec<f64> = values
                .iter()
                .filter_map(|row| row.get(question))
                .copied()
                .collect();
            mean(&column)
        })
        .collect();
    let grand = mean(&of_seed);
    if values.len() < 2 || questions < 2 {
        return Estimate {
            mean: grand,
            interval: None,
        };
    }
    let square = |of: &[f64]| of.iter().map(|x| (x - grand).powi(2)).sum::<f64>();
    let cells = values.iter().zip(&of_seed).flat_map(|(row, of_seed)| {
        let cell = move |(x, of_question): (&f64, &f64)| x - of_seed - of_question + grand;
        row.iter().zip(&of_question).map(cell)
    });
    let rest: f64 = cells.map(|x| x.powi(2)).sum();
    let (free_seeds, free_questions) = (seeds - 1.0, n_questions - 1.0);
    let part = |square: f64, free: f64| square / free / (seeds * n_questions);
    let by_seed = part(n_questions * square(&of_seed), free_seeds);
    let by_question = part(seeds * square(&of_question), free_questions);
    let by_rest = part(rest, free_seeds * free_questions);
    let variance = (by_seed + by_question - by_rest)
        .max(by_seed)
        .max(by_question);
    let free =
        variance.powi(2) / (by_seed.powi(2) / free_seeds + by_question.powi(2) / free_questions);
    let half = match 0.0 < variance {
        true => quantile(free.max(1.0)) * variance.sqrt(),
        false => 0.0,
    };
    Estimate {
        mean: grand,
        interval: Some([grand - half, grand + half]),
    }
}

/// The arithmetic mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    match values.len() {
        0 => 0.0,
        n => values.iter().sum::<f64>() / n as f64,
    }
}

/// The 97.5 % point of Student's distribution.
fn quantile(free: f64) -> f64 {
    // Any positive number of degrees of freedom is a distribution.
    StudentsT::new(0.0, 1.0, free).map_or(f64::INFINITY, |t| t.inverse_cdf(1.0 - TAIL))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{Key, Rng};

    /// Student's paired interval, as in every textbook.
    fn student(values: &[f64]) -> [f64; 2] {
        let (n, middle) = (values.len() as f64, mean(values));
        let variance = values.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (n - 1.0);
        let half = quantile(n - 1.0) * (variance / n).sqrt();
        [middle - half, middle + half]
    }

    fn close(a: [f64; 2], b: [f64; 2]) -> bool {
        a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-9)
    }

    proptest! {
        #[test]
        fn where_one_of_the_two_does_not_matter_it_is_students_interval(
            values in proptest::collection::vec(-1.0..1.0f64, 2..9),
            times in 2..6usize,
        ) {
            let by_seed: Vec<Vec<f64>> = values.iter().map(|x| vec![*x; times]).collect();
            let by_question = vec![values.clone(); times];
            for table in [by_seed, by_question] {
                let estimate = crossed(&table);
                prop_assert!((estimate.mean - mean(&values)).abs() < 1e-9);
                prop_assert!(close(estimate.interval.unwrap(), student(&values)));
            }
        }

        #[test]
        fn the_order_of_seeds_and_of_questions_does_not_matter(
            table in (2..5usize, 2..6usize).prop_flat_map(|(seeds, questions)| {
                let row = proptest::collection::vec(-1.0..1.0f64, questions);
                proptest::collection::vec(row, seeds)
            }),
        ) {
            let turned: Vec<Vec<f64>> = table.iter().rev().map(|row| {
                row.iter().rev().copied().collect()
            }).collect();
            let transposed: Vec<Vec<f64>> = (0..table[0].len()).map(|question| {
                table.iter().map(|row| row[question]).collect()
            }).collect();
            let expected = crossed(&table).interval.unwrap();
            for other in [turned, transposed] {
                prop_assert!(close(crossed(&other).interval.unwrap(), expected));
            }
        }
    }

    #[test]
    fn intervals_hold_the_truth_about_as_often_as_they_say() {
        const TRUTH: f64 = 0.1;
        const TRIALS: u64 = 2000;
        // How much seeds, questions and the rest vary.
        for (case, spread) in (0..).zip([
            [0.1, 0.3, 0.5],
            [0.0, 0.3, 0.5],
            [0.3, 0.0, 0.5],
            [0.0, 0.0, 0.5],
        ]) {
            let held = (0..TRIALS).filter(|trial| {
                let mut rng = Key::new(case).item(*trial).rng();
                let questions: Vec<f64> = (0..40).map(|_| spread[1] * rng.normal()).collect();
                let row = |seed: f64, rng: &mut Rng| {
                    let value = |question: &f64| TRUTH + seed + question + spread[2] * rng.normal();
                    questions.iter().map(value).collect::<Vec<f64>>()
                };
                let table: Vec<_> = (0..5)
                    .map(|_| {
                        let seed = spread[0] * rng.normal();
                        row(seed, &mut rng)
                    })
                    .collect();
                let [low, high] = crossed(&table).interval.unwrap();
                (low..=high).contains(&TRUTH)
            });
            let share = held.count() as f64 / TRIALS as f64;
            // 95 % less three standard errors; too wide is no lie.
            assert!(0.935 < share, "{spread:?}: {share}");
            assert!(share < 0.995, "{spread:?}: {share}");
        }
    }

    #[test]
    fn one_seed_or_one_question_has_no_interval() {
        assert_eq!(crossed(&[vec![0.0, 1.0]]).interval, None);
        assert_eq!(
            crossed(&[vec![0.0], vec![1.0]]),
            Estimate {
                mean: 0.5,
                interval: None
            }
        );
        assert_eq!(
            crossed(&[vec![1.0; 3], vec![1.0; 3]]).interval,
            Some([1.0, 1.0])
        );
    }
}
