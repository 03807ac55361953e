//! What a recipe says about the pauses of a stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::policy::Policy;
use super::target::Rule;
use super::token::Token;

/// Everything that a recipe says about the pauses of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("unevaluatedProperties" = false))]
pub struct Config {
    /// Where they stand.
    #[serde(flatten)]
    pub policy: Policy,
    /// Which tokens they are.
    #[serde(default, skip_serializing_if = "Token::is_shared")]
    pub token: Token,
    /// What is trained at them.
    #[serde(default, skip_serializing_if = "Rule::is_skip")]
    pub target: Rule,
    /// How much a prediction counts that the rule adds; 1 where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_weight: Option<f32>,
}

impl From<Policy> for Config {
    fn from(policy: Policy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }
}

impl Config {
    /// Whether rows of `row_length` ids can be made.
    pub fn validate(&self, row_length: usize) -> Result<(), Error> {
        self.policy.validate(row_length)?;
        match &self.token {
            Token::Distinct(0) => {
                return Err(Error::NoToken {
                    problem: "needs at least one token",
                });
            }
            Token::Distinct(count) if row_length < *count as usize => {
                return Err(Error::NoToken {
                    problem: "is one of more than a row has ids",
                });
            }
            Token::Filler(text) if text.is_empty() => {
                return Err(Error::NoToken {
                    problem: "is an empty text",
                });
            }
            _ => {}
        }
        if self.target == Rule::Future(0) {
            return Err(Error::Rule {
                problem: "looks 0 tokens ahead; the next one is 1",
            });
        }
        match self.target_weight {
            Some(_) if self.target == Rule::Skip => Err(Error::Weight {
                problem: "weighs targets that the rule `skip` does not add".into(),
            }),
            Some(weight) if !weight.is_finite() || weight < 0.0 => Err(Error::Weight {
                problem: format!("must be a number of 0 or more, found {weight}"),
            }),
            _ => Ok(()),
        }
    }

    /// What a model learns of pauses from such rows.
    pub fn habit(&self) -> Habit {
        Habit {
            token: self.token.clone(),
            target: self.target,
        }
    }

    /// What its rows hold beside their ids.
    pub fn fields(&self) -> Fields {
        Fields {
            inserted: matches!(self.token, Token::Filler(_)),
            targets: self.target != Rule::Skip,
        }
    }
}

/// What a model learns of pauses beside where they stand; at inference they must be likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Habit {
    /// Which tokens they are.
    #[serde(default, skip_serializing_if = "Token::is_shared")]
    pub token: Token,
    /// What is trained at them: after [`Rule::Emit`] the model gives them itself.
    #[serde(default, skip_serializing_if = "Rule::is_skip")]
    pub target: Rule,
}

/// What rows hold beside their ids: [`crate::sequence::Stored`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Which ids were inserted.
    pub inserted: bool,
    /// Targets and weights.
    pub targets: bool,
}
