//! What a recipe says about the pauses of a stage.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::policy::{Fill, Policy};
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
    /// When they are put there.
    #[serde(default, skip_serializing_if = "When::is_prepare")]
    pub when: When,
}

/// When rows get their pauses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// When the dataset is prepared: they are on disk.
    #[default]
    Prepare,
    /// When a row is read: other draws each epoch, and other policies without preparing
    /// again; epoch 0 is what `prepare` would have written.
    AtLoad,
}

impl When {
    /// Whether it is the default.
    pub fn is_prepare(&self) -> bool {
        *self == Self::Prepare
    }
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
        self.validate_when()?;
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
            before: matches!(self.policy, Policy::Prefix { .. }),
        }
    }

    /// What rows get when they are read has to be on disk, or in the recipe.
    fn validate_when(&self) -> Result<(), Error> {
        let reads = match self.when {
            When::Prepare => return Ok(()),
            When::AtLoad if self.policy.reads_scores() => "the policy `score` reads scores",
            When::AtLoad if self.policy.reads_positions() => "the policy `positions` reads offsets",
            When::AtLoad if self.target == Rule::Hint => "the target rule `hint` reads hints",
            When::AtLoad => return Ok(()),
        };
        Err(Error::AtLoad { reads })
    }

    /// Whether rows get their pauses when they are read.
    pub fn is_at_load(&self) -> bool {
        self.when == When::AtLoad
    }

    /// The same pauses, given to rows when they are read.
    pub fn at_load(self) -> Self {
        let when = When::AtLoad;
        Self { when, ..self }
    }

    /// What was done to the rows that are on disk: nothing where pauses come later.
    pub fn on_disk(&self) -> Self {
        match self.when {
            When::Prepare => self.clone(),
            When::AtLoad => Self::default(),
        }
    }

    /// The policy by which text is cut into rows on disk.
    ///
    /// `recut` tells that rows are cut again when they are read, as they can be where they
    /// are one stream, or one example each. Where pauses come later and every row takes as
    /// many real ids, nothing is left of the policy, and the rows are those of `none`.
    pub fn cutting(&self, row_length: usize, recut: bool) -> Self {
        let fixed = matches!(self.policy.fill(row_length), Fill::Fixed(_));
        match self.when {
            When::AtLoad if recut && fixed => Self::default(),
            _ => self.clone(),
        }
    }

    /// What of it decides the rows on disk, beside how many real ids they take.
    pub fn deciding(&self, row_length: usize) -> Self {
        match (self.when, self.policy.fill(row_length)) {
            (When::Prepare, _) => self.clone(),
            (When::AtLoad, Fill::Fixed(_)) => Self::default(),
            // Which ids pauses are, and what is trained at them, does not cut rows.
            (When::AtLoad, Fill::ByText) => Self {
                policy: self.policy.clone(),
                when: When::AtLoad,
                ..Self::default()
            },
        }
    }

    /// How many real ids rows on disk take at most; see [`Config::cutting`].
    pub fn room(&self, row_length: usize, recut: bool) -> usize {
        let cutting = self.cutting(row_length, recut);
        cutting.policy.real_per_row(row_length)
    }

    /// What its rows hold beside their ids.
    pub fn fields(&self) -> Fields {
        Fields {
            inserted: matches!(self.token, Token::Filler(_)),
            targets: self.target != Rule::Skip,
        }
    }
}

/// What a model learns of pauses beside how many they are; at inference they must be likewise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Habit {
    /// Which tokens they are.
    #[serde(default, skip_serializing_if = "Token::is_shared")]
    pub token: Token,
    /// What is trained at them: after [`Rule::Emit`] the model gives them itself.
    #[serde(default, skip_serializing_if = "Rule::is_skip")]
    pub target: Rule,
    /// Whether they stand before the prompt, as `prefix` puts them, and not after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before: bool,
}

/// What rows hold beside their ids: [`crate::sequence::Stored`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Which ids were inserted.
    pub inserted: bool,
    /// Targets and weights.
    pub targets: bool,
}

#[cfg(test)]
mod tests {
    use super::super::policy::Count;
    use super::*;

    #[test]
    fn a_model_learns_on_which_side_of_a_prompt_its_pauses_stand() {
        let count = Count::Fixed(3);
        let before = Config::from(Policy::Prefix {
            count: count.clone(),
        });
        let after = Config::from(Policy::Suffix { count });
        assert!(before.habit().before && !after.habit().before);
        // Checkpoints of those after a prompt are what they were before there was a choice.
        assert_eq!(serde_json::to_string(&after.habit()).unwrap(), "{}");
    }
}
