//! The pauses of a model: which tokens they are, and which of them it gives itself.

use crate::pause::{self, Count, Habit, Insertion, Policy, Rule, Token};
use crate::token::{Reserved, TokenId};
use crate::tokenize::{self, Tokenizer};

/// What a model that names no habit has: distinct pauses, or delimited ones, where the
/// vocabulary has them.
pub fn usual(reserved: Reserved) -> Habit {
    let token = match reserved.extra {
        extra if 0 < extra.distinct => Token::Distinct(extra.distinct),
        extra if extra.delimiters => Token::Delimited,
        _ => Token::Shared,
    };
    Habit {
        token,
        target: Rule::Skip,
        before: false,
    }
}

/// The pauses that the model may choose: those that it was trained to predict. A filler is
/// not among them, for nothing tells it from text.
pub fn own(habit: &Habit, reserved: Reserved) -> Vec<TokenId> {
    if habit.target != Rule::Emit {
        return Vec::new();
    }
    match &habit.token {
        Token::Shared => vec![reserved.pause],
        Token::Distinct(count) => reserved.extra.ids().take(*count as usize).collect(),
        Token::Delimited => [reserved.pause]
            .into_iter()
            .chain(reserved.extra.delimiters().into_iter().flatten())
            .collect(),
        Token::Filler(_) => Vec::new(),
    }
}

/// So many pauses beside a prompt.
pub fn config(habit: &Habit, pauses: u32) -> pause::Config {
    let count = Count::Fixed(pauses);
    let policy = match habit.before {
        true => Policy::Prefix { count },
        false => Policy::Suffix { count },
    };
    pause::Config {
        token: habit.token.clone(),
        ..policy.into()
    }
}

/// Puts so many pauses beside a prompt; none where they do not fit into the context.
pub fn beside_prompt(
    habit: &Habit,
    pauses: u32,
    tokenizer: &Tokenizer,
    context: usize,
) -> Result<Option<Insertion>, tokenize::Error> {
    use pause::Error::{Filler, NoToken};

    match tokenizer.insertion(&config(habit, pauses), context) {
        Ok(insertion) => Ok(Some(insertion)),
        Err(error @ tokenize::Error::Pause(Filler { .. } | NoToken { .. })) => Err(error),
        Err(tokenize::Error::Pause(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
