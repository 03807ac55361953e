//! Which token comes next: the choice among logits.

use crate::rng::Rng;
use crate::token::TokenId;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sampling {
    /// The likeliest token; the lowest id among equals.
    #[default]
    Greedy,
    /// Drawn from the softmax of `logits / temperature`, cut to the `top_k`
    /// likeliest tokens and then to the fewest whose probability reaches `top_p`.
    Random {
        /// Above 0; 1 leaves the model's distribution as it is.
        temperature: f32,
        /// How many tokens may be drawn; `None` for all.
        top_k: Option<usize>,
        /// The probability kept, above 0; `None` for all.
        top_p: Option<f32>,
    },
}

/// A sampling setting out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// A temperature that is no positive number.
    #[error("temperature must be a positive number, found {0}; use greedy sampling instead of 0")]
    Temperature(f32),
    /// No token could be drawn.
    #[error("top-k must be at least 1, found 0")]
    TopK,
    /// A share outside `(0, 1]`.
    #[error("top-p must lie above 0 and at most at 1, found {0}")]
    TopP(f32),
}

impl Sampling {
    /// Checks the settings.
    pub fn validate(self) -> Result<(), Error> {
        match self {
            Self::Random { temperature, .. } if !(temperature.is_finite() && 0.0 < temperature) => {
                Err(Error::Temperature(temperature))
            }
            Self::Random { top_k: Some(0), .. } => Err(Error::TopK),
            Self::Random {
                top_p: Some(top_p), ..
            } if !(0.0 < top_p && top_p <= 1.0) => Err(Error::TopP(top_p)),
            _ => Ok(()),
        }
    }

    /// Chooses an id, which is an index of `logits`. Minus infinity marks an id
    /// that must not be chosen; `None` if there is no other, or a logit is NaN.
    pub fn choose(self, logits: &[f32], rng: &mut Rng) -> Option<TokenId> {
        if logits
            .iter()
            .any(|logit| logit.is_nan() || *logit == f32::INFINITY)
        {
            return None;
        }
        let mut candidates: Vec<(TokenId, f64)> = (0..)
            .map(TokenId)
            .zip(logits.iter().map(|&logit| f64::from(logit)))
            .filter(|(_, logit)| logit.is_finite())
            .collect();
        let by_likelihood =
            |a: &(TokenId, f64), b: &(TokenId, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        match self {
            Self::Greedy => candidates
                .into_iter()
                .min_by(by_likelihood)
                .map(|(id, _)| id),
            Self::Random {
                temperature,
                top_k,
                top_p,
            } => {
                candidates.sort_by(by_likelihood);
                candidates.truncate(top_k.unwrap_or(usize::MAX));
                let highest = candidates.first()?.1;
                for (_, weight) in &mut candidates {
                    *weight = ((*weight - highest) / f64::from(temperature)).exp();
                }
                cut_to(&mut candidates, f64::from(top_p.unwrap_or(1.0)));
                draw(&candidates, rng.unit())
            }
        }
    }
}

/// Keeps the fewest of the first weights whose share of the sum reaches `top_p`.
fn cut_to(weights: &mut Vec<(TokenId, f64)>, top_p: f64) {
    let goal = top_p * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let enough = weights.iter().position(|(_, weight)| {
        sum += weight;
        goal <= sum
    });
    weights.truncate(enough.map_or(usize::MAX, |last| last + 1));
}

/// The id in whose part of the sum of weights `unit`, a number in `[0, 1)`, falls.
fn draw(weights: &[(TokenId, f64)], unit: f64) -> Option<TokenId> {
    let mut left = unit * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    for (id, weight) in weights {
        if left < *weight {
            return Some(*id);
        }
        left -= weight;
    }
    // Rounding may carry `left` past the last weight.
    weights.last().map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Key;

    fn random(temperature: f32, top_k: Option<usize>, top_p: f32) -> Sampling {
        Sampling::Random {
            temperature,
            top_k,
            top_p: Some(top_p),
        }
    }

    /// How often each of the ids is drawn, in 20,000 draws.
    fn shares(sampling: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for item in 0..20_000 {
            let mut rng = Key::new(1).item(item).rng();
            counts[sampling.choose(logits, &mut rng).unwrap().index()] += 1.0 / 20_000.0;
        }
        counts
    }

    /// Logits of the probabilities 0.1, 0.4, 0.3, 0.2 and a masked id.
    fn logits() -> Vec<f32> {
        let mut logits: Vec<f32> = [0.1f32, 0.4, 0.3, 0.2]
            .iter()
            .map(|p| p.ln() + 5.0)
            .collect();
        logits.push(f32::NEG_INFINITY);
        logits
    }

    #[track_caller]
    fn check(sampling: Sampling, expected: [f64; 5]) {
        let shares = shares(sampling, &logits());
        for (share, expected) in shares.iter().zip(expected) {
            // Four standard deviations of a share of 20,000 are at most 0.0142.
            let exact = expected == 0.0;
            assert!(
                if exact {
                    *share == 0.0
                } else {
                    (share - expected).abs() < 0.0142
                },
                "{shares:?}"
            );
        }
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_lowest_of_equals() {
        let mut rng = Key::new(1).rng();
        let mut choose = |logits: &[f32]| Sampling::Greedy.choose(logits, &mut rng);
        assert_eq!(choose(&logits()), Some(TokenId(1)));
        assert_eq!(choose(&[0.0, 2.0, 2.0]), Some(TokenId(1)));
        assert_eq!(choose(&[f32::NEG_INFINITY, -9.0]), Some(TokenId(1)));
        assert_eq!(choose(&[f32::NEG_INFINITY]), None);
        assert_eq!(choose(&[1.0, f32::NAN]), None);
        assert_eq!(choose(&[1.0, f32::INFINITY]), None);
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn random_draws_follow_the_distribution() {
        check(random(1.0, None, 1.0), [0.1, 0.4, 0.3, 0.2, 0.0]);
        // Half the temperature squares the probabilities: 1, 16, 9, 4 of 30.
        check(
            random(0.5, None, 1.0),
            [1.0 / 30.0, 16.0 / 30.0, 9.0 / 30.0, 4.0 / 30.0, 0.0],
        );
    }

    #[test]
    fn top_k_and_top_p_cut_the_unlikely() {
        check(
            random(1.0, Some(2), 1.0),
            [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0],
        );
        check(
            random(1.0, None, 0.65),
            [0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0],
        );
        check(random(1.0, None, 1e-9), [0.0, 1.0, 0.0, 0.0, 0.0]);
        check(random(1.0, Some(1), 1.0), [0.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn settings_are_checked() {
        assert_eq!(random(1.0, Some(1), 1.0).validate(), Ok(()));
        assert_eq!(Sampling::Greedy.validate(), Ok(()));
        assert_eq!(
            random(0.0, None, 1.0).validate(),
            Err(Error::Temperature(0.0))
        );
        assert!(random(f32::NAN, None, 1.0).validate().is_err());
        assert_eq!(random(1.0, Some(0), 1.0).validate(), Err(Error::TopK));
        assert_eq!(random(1.0, None, 0.0).validate(), Err(Error::TopP(0.0)));
        assert_eq!(random(1.0, None, 1.5).validate(), Err(Error::TopP(1.5)));
    }
}
