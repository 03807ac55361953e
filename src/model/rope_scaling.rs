//! Slower rotary angles for a longer context, as `transformers` computes them.

use std::f64::consts::TAU;

use serde::{Deserialize, Serialize};

use super::config::{Error, error, positive};

/// How rotary angles are stretched. A file of ours tells the kinds apart by their keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum RopeScaling {
    /// Llama 3.1's: pairs that turn less than `low_freq_factor` times in `original_context`
    /// positions turn `factor` times slower, those that turn more than `high_freq_factor`
    /// times as ever, and those between by a blend.
    Llama3 {
        /// How many times slower the slowest turn.
        factor: f64,
        /// Turns below which all of `factor` counts.
        low_freq_factor: f64,
        /// Turns above which none of it does; more than `low_freq_factor`.
        high_freq_factor: f64,
        /// The context that the model was pretrained with.
        original_context: usize,
    },
    /// Every pair turns so many times slower (arXiv 2306.15595).
    Linear {
        /// How many times.
        linear: f64,
    },
    /// Base and angles change with the length of a row that is longer than the context. Here
    /// no row is, so that it changes nothing; a model that is handed on keeps it.
    Dynamic {
        /// Its factor.
        dynamic: f64,
    },
    /// YaRN (arXiv 2309.00071): as [`Self::Llama3`], but the blend goes by the number of the
    /// pair, and queries and keys grow with the context.
    Yarn {
        /// How many times slower the slowest turn.
        yarn: f64,
        /// Queries and keys are multiplied by it when they are turned.
        amplitude: f64,
        /// Turns in `original_context` above which a pair turns as ever.
        beta_fast: f64,
        /// Turns below which all of the factor counts; less than `beta_fast`.
        beta_slow: f64,
        /// Whether the blend's ends are whole pairs.
        truncate: bool,
        /// The context that the model was pretrained with.
        original_context: usize,
    },
}

impl RopeScaling {
    /// What each position is turned by: one angle for each of the `half` pairs of a head,
    /// which unscaled would have the periods `theta ^ (pair / half)`.
    pub fn angles(&self, theta: f64, half: usize) -> Vec<f64> {
        let angles = (0..half).map(|pair| 1.0 / theta.powf(pair as f64 / half as f64));
        // How much of an angle stays, the rest being divided by the factor.
        let blend = |angle: f64, kept: f64, factor: f64| angle * (kept + (1.0 - kept) / factor);
        match *self {
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                let span = high_freq_factor - low_freq_factor;
                let scaled = angles.map(|angle| {
                    let turns = original_context as f64 * angle / TAU;
                    let kept = (turns - low_freq_factor) / span;
                    blend(angle, kept.clamp(0.0, 1.0), factor)
                });
                scaled.collect()
            }
            Self::Linear { linear } => angles.map(|angle| angle / linear).collect(),
            Self::Dynamic { .. } => angles.collect(),
            Self::Yarn {
                yarn,
                beta_fast,
                beta_slow,
                truncate,
                original_context,
                ..
            } => {
                // The pair that turns so many times in the original context.
                let pair = |turns: f64| {
                    let period = original_context as f64 / (turns * TAU);
                    half as f64 * period.ln() / theta.ln()
                };
                let (low, high) = ramp([beta_fast, beta_slow].map(pair), truncate, half);
                let scaled = angles.enumerate().map(|(pair, angle)| {
                    let slowed = (pair as f64 - low) / (high - low);
                    blend(angle, 1.0 - slowed.clamp(0.0, 1.0), yarn)
                });
                scaled.collect()
            }
        }
    }

    /// What queries and keys are multiplied by when they are turned.
    pub fn amplitude(&self) -> f64 {
        match *self {
            Self::Yarn { amplitude, .. } => amplitude,
            _ => 1.0,
        }
    }

    /// YaRN's amplitude for a factor where a file says none: `0.1 ln(factor) + 1` (section
    /// 3.4 of the paper), the logarithm `weight` times.
    pub fn yarn_amplitude(factor: f64, weight: f64) -> f64 {
        match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * weight * factor.ln() + 1.0,
        }
    }

    /// Refuses numbers that make no angles.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (from, to, context) = match *self {
            Self::Linear { linear } => return positive("rope_scaling.linear", linear),
            Self::Dynamic { dynamic } => return positive("rope_scaling.dynamic", dynamic),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            } => {
                positive("rope_scaling.factor", factor)?;
                positive("rope_scaling.low_freq_factor", low_freq_factor)?;
                positive("rope_scaling.high_freq_factor", high_freq_factor)?;
                (low_freq_factor, high_freq_factor, original_context)
            }
            Self::Yarn {
                yarn,
                amplitude,
                beta_fast,
                beta_slow,
                original_context,
                ..
            } => {
                positive("rope_scaling.yarn", yarn)?;
                positive("rope_scaling.amplitude", amplitude)?;
                positive("rope_scaling.beta_fast", beta_fast)?;
                positive("rope_scaling.beta_slow", beta_slow)?;
                (beta_slow, beta_fast, original_context)
            }
        };
        let problem = match context {
            0 => "is 0",
            _ if to <= from => "spans no turns",
            _ => return Ok(()),
        };
        Err(error("rope_scaling", problem))
    }
}

/// The pairs between which YaRN blends, given those that turn as often as its betas say.
fn ramp([low, high]: [f64; 2], truncate: bool, half: usize) -> (f64, f64) {
    let (low, high) = match truncate {
        true => (low.floor(), high.ceil()),
        false => (low, high),
    };
    // `transformers` bounds the pair by the width of a head, not by half of it.
    let (low, high) = (low.max(0.0), high.min(2.0 * half as f64 - 1.0));
    match low == high {
        true => (low, high + 0.001),
        false => (low, high),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YARN: RopeScaling = RopeScaling::Yarn {
        yarn: 4.0,
        amplitude: 1.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        truncate: true,
        original_context: 4096,
    };

    #[test]
    fn llama3_slows_what_turns_slowly() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 4096,
        };
        // A base so large that the second of two pairs turns so many times in the context.
        for (turns, kept) in [
            (0.5, 0.125),
            (1.0, 0.125),
            (2.5, 0.5625),
            (4.0, 1.0),
            (9.0, 1.0),
        ] {
            let angle = turns * TAU / 4096.0;
            let found = scaling.angles(angle.powi(-2), 2);
            assert_eq!(found[0], 1.0);
            assert!(
                (found[1] / angle - kept).abs() < 1e-12,
                "{turns}: {found:?}"
            );
        }
    }

    /// Heads of 128 dimensions with the base 10,000 and a context of 4,096: the pairs of 32
    /// turns and of one are 20.9 and 45.03.
    #[test]
    fn yarn_blends_between_two_pairs() {
        let (angles, plain) = (YARN.angles(1e4, 64), |pair: f64| 1e4f64.powf(-pair / 64.0));
        let kept = |pair: usize| angles[pair] / plain(pair as f64);
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12);
        near(kept(0), 1.0);
        near(kept(20), 1.0);
        near(kept(33), 0.5 + 0.5 / 4.0);
        near(kept(46), 0.25);
        near(kept(63), 0.25);
        near(RopeScaling::yarn_amplitude(4.0, 1.0), 1.0 + 0.1 * 4f64.ln());
        near(RopeScaling::yarn_amplitude(0.5, 1.0), 1.0);
    }

    #[test]
    fn linear_slows_all_alike_and_dynamic_none_within_the_context() {
        let plain = RopeScaling::Dynamic { dynamic: 2.0 }.angles(1e4, 4);
        let slow = RopeScaling::Linear { linear: 8.0 }.angles(1e4, 4);
        assert!(plain.iter().zip(&slow).all(|(a, b)| *a == 8.0 * b));
        assert_eq!(plain[0], 1.0);
        assert!((plain[2] - 0.01).abs() < 1e-15);
    }

    /// The first kind is as files had it before there were others.
    #[test]
    fn kinds_are_told_apart_by_their_keys() {
        let llama3 = r#"{"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_context":8192}"#;
        let kinds = [
            llama3,
            r#"{"linear":2.0}"#,
            r#"{"dynamic":2.0}"#,
            &serde_json::to_string(&YARN).unwrap(),
        ];
        for text in kinds {
            let found: RopeScaling = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&found).unwrap(), text);
        }
        let both = r#"{"linear":2.0,"dynamic":2.0}"#;
        assert!(serde_json::from_str::<RopeScaling>(both).is_err());
    }

    #[test]
    fn numbers_that_make_no_angles_are_refused() {
        let refused = |scaling: RopeScaling, field: &str| {
            assert_eq!(scaling.check().unwrap_err().field, field);
        };
        assert!(YARN.check().is_ok());
        refused(RopeScaling::Linear { linear: 0.0 }, "rope_scaling.linear");
        let spanless = RopeScaling::Yarn {
            yarn: 4.0,
            amplitude: 1.0,
            beta_fast: 1.0,
            beta_slow: 1.0,
            truncate: true,
            original_context: 4096,
        };
        refused(spanless, "rope_scaling");
    }
}
