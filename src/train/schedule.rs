//! The learning rate as a pure function of the step.

use std::f64::consts::PI;

use crate::recipe::{Schedule, Train};

/// The learning rate of a step; the first step is 1, the last `train.steps`.
///
/// It rises in a straight line over the warm-up, whose last step has the
/// highest rate, and ends at exactly `min_lr` times the highest rate (except
/// under [`Schedule::Constant`]). A run shorter than its warm-up only rises.
pub fn learning_rate(train: &Train, step: u64) -> f64 {
    if step <= train.warmup {
        return train.lr * fraction(step, train.warmup);
    }
    let height = match train.schedule {
        Schedule::Constant => 1.0,
        Schedule::Cosine => 0.5 * (1.0 + (PI * fraction(falling(train, step), tail(train))).cos()),
        Schedule::Linear => 1.0 - fraction(falling(train, step), tail(train)),
        Schedule::Wsd => {
            let decay = decay_steps(train);
            let flat = train.steps.saturating_sub(decay);
            match step.checked_sub(flat) {
                None | Some(0) => 1.0,
                Some(fallen) => 1.0 - fraction(fallen, decay),
            }
        }
    };
    train.lr * (train.min_lr + (1.0 - train.min_lr) * height)
}

/// Steps since the warm-up.
fn falling(train: &Train, step: u64) -> u64 {
    step.saturating_sub(train.warmup)
}

/// Steps after the warm-up.
fn tail(train: &Train) -> u64 {
    train.steps.saturating_sub(train.warmup)
}

/// Steps in which `wsd` falls; never reaches back into the warm-up.
fn decay_steps(train: &Train) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a step count, rounded; a float cast saturates"
    )]
    let decay = (train.decay * train.steps as f64).round() as u64;
    decay.min(tail(train))
}

/// `part / whole` within `[0, 1]`; 1 where there is no whole.
fn fraction(part: u64, whole: u64) -> f64 {
    if whole <= part {
        1.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn train(schedule: Schedule, steps: u64, warmup: u64) -> Train {
        let text = format!("steps = {steps}\nwarmup = {warmup}\nbatch_tokens = 8\nlr = 2.0");
        Train {
            schedule,
            ..toml::from_str(&text).unwrap()
        }
    }

    fn curve(train: &Train) -> Vec<f64> {
        (1..=train.steps)
            .map(|step| learning_rate(train, step))
            .collect()
    }

    #[test]
    fn each_schedule_has_its_shape() {
        let rounded = |schedule| -> Vec<f64> {
            curve(&train(schedule, 10, 2))
                .iter()
                .map(|rate| (rate * 1e3).round() / 1e3)
                .collect()
        };
        // Highest 2.0, lowest 0.2; `wsd` falls over its last 0.2 x 10 steps.
        assert_eq!(
            rounded(Schedule::Constant),
            [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
        );
        assert_eq!(
            rounded(Schedule::Cosine),
            [1.0, 2.0, 1.931, 1.736, 1.444, 1.1, 0.756, 0.464, 0.269, 0.2]
        );
        assert_eq!(
            rounded(Schedule::Linear),
            [1.0, 2.0, 1.775, 1.55, 1.325, 1.1, 0.875, 0.65, 0.425, 0.2]
        );
        assert_eq!(
            rounded(Schedule::Wsd),
            [1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.1, 0.2]
        );
    }

    #[test]
    fn edges_hold() {
        assert_eq!(curve(&train(Schedule::Cosine, 1, 0)), [0.2]);
        assert_eq!(curve(&train(Schedule::Linear, 2, 2)), [1.0, 2.0]);
        assert_eq!(curve(&train(Schedule::Wsd, 2, 4)), [0.5, 1.0]);
        let all_decay = Train {
            decay: 1.0,
            ..train(Schedule::Wsd, 4, 1)
        };
        assert_eq!(curve(&all_decay), curve(&train(Schedule::Linear, 4, 1)));
        let no_decay = Train {
            decay: 0.0,
            ..train(Schedule::Wsd, 4, 1)
        };
        assert_eq!(curve(&no_decay)[..3], [2.0, 2.0, 2.0]);
    }

    proptest! {
        #[test]
        fn rates_rise_to_the_highest_then_never_rise(
            schedule in prop::sample::select(vec![
                Schedule::Constant, Schedule::Cosine, Schedule::Linear, Schedule::Wsd,
            ]),
            steps in 1u64..200,
            warmup in 0u64..50,
            decay in 0.0..=1.0,
        ) {
            let train = Train { decay, ..train(schedule, steps, warmup) };
            let curve = curve(&train);
            let top = usize::try_from(warmup.min(steps)).unwrap();
            prop_assert!(curve[..top].is_sorted_by(|a, b| a < b));
            prop_assert!(curve[top..].is_sorted_by(|a, b| b <= a));
            prop_assert!(curve.iter().all(|&rate| 0.0 < rate && rate <= train.lr));
            if warmup < steps && schedule != Schedule::Constant && (schedule != Schedule::Wsd || 1.0 <= decay * steps as f64) {
                prop_assert!((curve[curve.len() - 1] - train.lr * train.min_lr).abs() < 1e-12);
            }
        }
    }
}
