//! What a run remembers of its steps: by it a step is known that must not be taken, and
//! a run that no longer gets better.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::recipe::{EarlyStopping, Spike};

/// What a run remembers; a checkpoint holds it, so that a run that goes on judges as one
/// that never stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// Steps that were done without an update.
    #[serde(default, skip_serializing_if = "is_default")]
    pub skipped: u64,
    /// Steps that were skipped or rolled back.
    #[serde(default, skip_serializing_if = "is_default")]
    pub anomalies: u64,
    /// The losses of the last steps, the oldest first; none without `train.spike`.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub losses: VecDeque<f64>,
    /// Their gradient norms.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub norms: VecDeque<f64>,
    /// The best validation loss; none without `train.early_stopping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
}

/// The best validation loss of a run, and how long ago that was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// The step after which it was measured.
    pub step: u64,
    /// The loss.
    pub loss: f64,
    /// Validation losses since, none of which was better.
    pub since: u64,
}

/// A step that must not be taken; the learner is as before it.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Anomaly {
    /// A loss or a gradient norm that is no number.
    #[error("the {quantity} is {value}")]
    NonFinite {
        /// `loss` or `gradient norm`.
        quantity: &'static str,
        /// Infinite or not a number.
        value: f64,
    },
    /// One that is out of all proportion.
    #[error(
        "the {quantity} is {value:.4}, more than {factor} times {median:.4}, the median of the \
         last {steps} steps"
    )]
    Spike {
        /// `loss` or `gradient norm`.
        quantity: &'static str,
        /// What it is.
        value: f64,
        /// The largest multiple of the median that it may be.
        factor: f64,
        /// Of the last steps.
        median: f64,
        /// How many those are.
        steps: usize,
    },
}

impl Anomaly {
    /// `loss` or `gradient norm`.
    pub fn quantity(&self) -> &'static str {
        match self {
            Self::NonFinite { quantity, .. } | Self::Spike { quantity, .. } => quantity,
        }
    }

    /// What it is, where it is a number.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::NonFinite { .. } => None,
            Self::Spike { value, .. } => Some(*value),
        }
    }

    /// The most that it may be, where there is such a number.
    pub fn limit(&self) -> Option<f64> {
        match self {
            Self::NonFinite { .. } => None,
            Self::Spike { factor, median, .. } => Some(factor * median),
        }
    }
}

impl Watch {
    /// Whether a step with this loss and gradient norm may be taken.
    pub fn judge(&self, spike: Option<&Spike>, loss: f64, norm: f64) -> Result<(), Anomaly> {
        finite(loss, norm)?;
        let Some(spike) = spike else { return Ok(()) };
        let judged = [
            (LOSS, loss, &self.losses, spike.loss),
            (NORM, norm, &self.norms, spike.grad_norm),
        ];
        for (quantity, value, past, factor) in judged {
            let steps = spike.window;
            let Some(median) = median(past, steps) else {
                continue;
            };
            // Where nothing moves there is no proportion.
            if 0.0 < median && factor * median < value {
                return Err(Anomaly::Spike {
                    quantity,
                    value,
                    factor,
                    median,
                    steps,
                });
            }
        }
        Ok(())
    }

    /// Remembers a step that was taken.
    pub fn remember(&mut self, spike: Option<&Spike>, loss: f64, norm: f64) {
        let window = spike.map_or(0, |spike| spike.window);
        for (past, value) in [(&mut self.losses, loss), (&mut self.norms, norm)] {
            past.push_back(value);
            let old = past.len().saturating_sub(window);
            past.drain(..old);
        }
    }

    /// Takes a validation loss in; whether it is the best so far.
    pub fn validated(&mut self, early: &EarlyStopping, step: u64, loss: f64) -> bool {
        let better = match self.best {
            None => loss.is_finite(),
            Some(best) => loss < best.loss - early.min_delta,
        };
        match &mut self.best {
            _ if better => {
                let since = 0;
                self.best = Some(Best { step, loss, since });
            }
            Some(best) => best.since += 1,
            None => {}
        }
        better
    }

    /// Whether the run has waited long enough for a better validation loss.
    pub fn is_over(&self, early: Option<&EarlyStopping>) -> bool {
        let waited = self.best.map_or(0, |best| best.since);
        early.is_some_and(|early| early.patience <= waited)
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether loss and gradient norm are numbers.
pub fn finite(loss: f64, norm: f64) -> Result<(), Anomaly> {
    for (quantity, value) in [(LOSS, loss), (NORM, norm)] {
        if !value.is_finite() {
            return Err(Anomaly::NonFinite { quantity, value });
        }
    }
    Ok(())
}

const LOSS: &str = "loss";
const NORM: &str = "gradient norm";

/// The median of the last `steps` values, where there are so many.
fn median(values: &VecDeque<f64>, steps: usize) -> Option<f64> {
    let old = values.len().checked_sub(steps)?;
    let mut sorted: Vec<f64> = values.iter().skip(old).copied().collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied();
    let last = steps.checked_sub(1)?;
    Some((at(last / 2)? + at(steps / 2)?) / 2.0)
}

fn is_default(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spike(text: &str) -> Spike {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn what_is_no_number_is_always_met() {
        let watch = Watch::default();
        for (loss, norm, said) in [
            (f64::NAN, 1.0, "the loss is NaN"),
            (1.0, f64::INFINITY, "the gradient norm is inf"),
        ] {
            let anomaly = watch.judge(None, loss, norm).unwrap_err();
            assert_eq!(anomaly.to_string(), said);
        }
        assert_eq!(watch.judge(None, 1e300, 1e300), Ok(()));
    }

    #[test]
    fn a_spike_is_told_by_the_median_of_a_full_window() {
        let spike = spike("loss = 2.0\ngrad_norm = inf\nwindow = 3");
        let mut watch = Watch::default();
        for loss in [9.0, 1.0, 5.0] {
            assert_eq!(watch.judge(Some(&spike), 1e9, 1e9), Ok(()), "{watch:?}");
            watch.remember(Some(&spike), loss, 1.0);
        }
        assert_eq!(watch.judge(Some(&spike), 10.0, 1e9), Ok(()));
        let anomaly = watch.judge(Some(&spike), 10.5, 1.0).unwrap_err();
        assert_eq!(
            anomaly.to_string(),
            "the loss is 10.5000, more than 2 times 5.0000, the median of the last 3 steps"
        );
        // The oldest is forgotten.
        watch.remember(Some(&spike), 2.0, 1.0);
        assert!(watch.judge(Some(&spike), 4.5, 1.0).is_err());
        // Without the table nothing is kept.
        watch.remember(None, 2.0, 1.0);
        assert!(watch.is_empty());
    }

    #[test]
    fn the_best_loss_is_waited_for() {
        let early: EarlyStopping = toml::from_str("patience = 2\nmin_delta = 0.5").unwrap();
        let mut watch = Watch::default();
        let losses = [f64::NAN, 4.0, 3.6, 3.4, 3.3, f64::NAN];
        let mut told = Vec::new();
        for (step, loss) in (1..).zip(losses) {
            let better = watch.validated(&early, step, loss);
            told.push((better, watch.is_over(Some(&early))));
        }
        assert_eq!(
            told,
            [
                (false, false),
                (true, false),
                (false, false),
                (true, false),
                (false, false),
                (false, true)
            ]
        );
        let best = watch.best.unwrap();
        assert_eq!((best.step, best.loss, best.since), (4, 3.4, 2));
        assert!(!watch.is_over(None));
    }

    proptest! {
        #[test]
        fn half_of_the_values_lie_on_each_side_of_their_median(
            values in prop::collection::vec(-1e3..1e3, 1..40),
        ) {
            let all: VecDeque<f64> = values.iter().copied().collect();
            let median = median(&all, all.len()).unwrap();
            let below = values.iter().filter(|value| **value <= median).count();
            let above = values.iter().filter(|value| median <= **value).count();
            prop_assert!(values.len() <= 2 * below && values.len() <= 2 * above);
        }

        #[test]
        fn what_a_checkpoint_remembers_is_what_was_remembered(
            steps in prop::collection::vec((0.0..10.0, 0.0..10.0), 0..9),
        ) {
            let spike = spike("window = 5");
            let mut watch = Watch::default();
            for (loss, norm) in steps {
                watch.remember(Some(&spike), loss, norm);
            }
            let text = serde_json::to_string(&watch).unwrap();
            prop_assert_eq!(serde_json::from_str::<Watch>(&text).unwrap(), watch);
        }
    }
}
