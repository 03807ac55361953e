//! Corpora that pausedata generates itself: stories of a small world, and
//! questions about it.
//!
//! The world has 64 people; each has a home town, a trade, a favourite food,
//! a pet with a name, a door of some colour, and a best friend. The stories
//! state these facts again and again in many phrasings, and never wrongly, so
//! that a small model can learn them from about 9,000 stories. The questions
//! ask for 70 % of the facts; the held-out questions ask for the others in the
//! same words. A model that answers those has the fact from the stories and
//! the form of an answer from the questions.
//!
//! Document `i` is a function of (seed, `i`) alone. Story 1 of seed 1:
//!
//! > It was the first day of spring, and Nils felt happy. That day Muffin the
//! > pony ran out through the red door. Frank found it by the old bridge and
//! > brought it home to Nils. Nils painted his door red. Nils has a pet named
//! > Muffin. Nils lives in Perth. Nothing makes Nils happier than a plate of
//! > cake. Frank keeps a pony named Maple. Such days are good to remember.

mod question;
mod story;
mod world;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::{Notes, Text};

use super::error::{Error, Place};
use super::template::{Found, Record, Shape};
use super::text;

use question::Question;
use world::World;

/// A generated corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What is generated.
    pub corpus: Corpus,
    /// How many documents; of `held-out-questions` there are 134.
    pub documents: u64,
    /// Seed of the world and of the text.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

/// What is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Corpus {
    /// Short stories about the people of a small world whose facts never change.
    Stories,
    /// Questions about those people, with answers, for finetuning.
    Questions,
    /// Questions of the same kinds that `Questions` never asks, for evaluation.
    HeldOutQuestions,
}

impl Spec {
    /// The largest number of documents.
    pub fn most(&self) -> u64 {
        match self.corpus {
            Corpus::Stories | Corpus::Questions => u64::MAX,
            Corpus::HeldOutQuestions => question::HELD_OUT,
        }
    }
}

impl Corpus {
    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stories => "stories",
            Self::Questions => "questions",
            Self::HeldOutQuestions => "held-out-questions",
        }
    }

    /// The fields of its records.
    pub fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Stories => &[text::FIELD],
            Self::Questions | Self::HeldOutQuestions => &["question", "answer"],
        }
    }
}

fn default_seed() -> u64 {
    1
}

/// The documents of a generated corpus, with their row.
pub(super) struct Documents {
    world: World,
    spec: Spec,
    shape: Shape,
    row: u64,
}

impl Documents {
    /// Generates what `spec` says, as documents of `shape`.
    pub(super) fn new(spec: &Spec, shape: Shape) -> Self {
        Self {
            world: World::new(spec.seed),
            spec: spec.clone(),
            shape,
            row: 0,
        }
    }

    fn record(&self, row: u64) -> Option<Generated> {
        Some(match self.spec.corpus {
            Corpus::Stories => Generated::Story(story::write(&self.world, row)),
            Corpus::Questions => Generated::Question(question::asked(&self.world, row)),
            Corpus::HeldOutQuestions => Generated::Question(question::held_out(&self.world, row)?),
        })
    }
}

impl Iterator for Documents {
    type Item = Result<(u64, Text, Notes), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.row;
        if self.spec.documents <= row {
            return None;
        }
        self.row += 1;
        let record = self.record(row)?;
        let read = self.shape.read(&record).map_err(|problem| Error::Field {
            file: format!("synthetic:{}", self.spec.corpus.name()),
            place: Place::Row(row),
            problem,
        });
        Some(read.map(|(text, notes)| (row, text, notes)))
    }
}

/// A generated record.
enum Generated {
    Story(String),
    Question(Question),
}

impl Record for Generated {
    fn find(&self, field: &str) -> Found<'_> {
        match (self, field) {
            (Self::Story(story), text::FIELD) => Found::Text(story.into()),
            (Self::Question(question), "question") => {
                Found::Text(question.question.as_str().into())
            }
            (Self::Question(question), "answer") => Found::Text(question.answer.into()),
            _ => Found::Missing,
        }
    }

    fn fields(&self) -> Vec<String> {
        let corpus = match self {
            Self::Story(_) => Corpus::Stories,
            Self::Question(_) => Corpus::Questions,
        };
        corpus
            .fields()
            .iter()
            .map(|field| (*field).into())
            .collect()
    }
}
