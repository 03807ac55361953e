//! Pause-inference: a prompt, M pauses, an answer.
//!
//! As in algorithm 3 of arXiv 2310.02226: M pauses are appended to the prompt,
//! what the model says before the last of them is ignored, and then tokens are
//! decoded as usual. A model that was trained to give pauses (`pause.target = "emit"`)
//! may go on to give some; they are read and counted, and are no part of its answer.

mod pauses;
pub mod sampling;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fs;
pub use crate::generate::sampling::Sampling;
use crate::manifest::TOKENIZER_FILE;
use crate::model::kv_cache::{self, Cache};
use crate::model::{Device, Model};
use crate::pause::{self, Habit, Insertion};
use crate::rng::Key;
use crate::sequence::Sequence;
use crate::token::{PauseIds, Reserved, TokenId};
use crate::tokenize::{self, SpecialText, Tokenizer};
use crate::train::checkpoint::{self, Checkpoint};

/// Generation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be trusted.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] fs::Error),
    /// Text could not be turned into ids or back.
    #[error(transparent)]
    Tokenize(#[from] tokenize::Error),
    /// The model cannot read a row.
    #[error(transparent)]
    Read(#[from] kv_cache::Error),
    /// A sampling setting is out of range.
    #[error(transparent)]
    Sampling(#[from] sampling::Error),
    /// The checkpoint does not say which ids are reserved.
    #[error("`{}` does not name the pause token: it was not trained by this program", path.display())]
    NotOurs {
        /// The checkpoint.
        path: PathBuf,
    },
    /// The prompt leaves no room for an answer.
    #[error(
        "the prompt has {prompt} tokens and {pauses} pauses, but the model reads {context} at most"
    )]
    TooLong {
        /// Ids of the prompt.
        prompt: usize,
        /// Pauses after them.
        pauses: usize,
        /// The model's context.
        context: usize,
    },
    /// The model's outputs are not numbers.
    #[error("the model's output after {position} tokens is not finite")]
    NonFinite {
        /// Ids read so far.
        position: usize,
    },
}

/// How to answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// Pauses after the prompt (M_inf).
    pub pauses: u32,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Decides random choices: the n-th token, own pauses counted, depends on (key, n).
    pub key: Key,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its text; bytes that form no character, such as half of one at the end
    /// of an answer that was cut off, stand as U+FFFD.
    pub text: String,
    /// Its ids, without the end token.
    pub ids: Vec<TokenId>,
    /// The ids read before it: the prompt and its pauses.
    pub read: Vec<TokenId>,
    /// Pauses that the model gave itself.
    pub paused: usize,
    /// Why it ended.
    pub ended: Ended,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// By the end token.
    End,
    /// It reached the longest length asked for.
    MaxTokens,
    /// The model's context is full.
    Context,
}

/// A model with its tokenizer; answers on any number of threads.
pub struct Generator {
    /// The row before anything was read; clones share the weights.
    empty: Cache,
    context: usize,
    tokenizer: Tokenizer,
    /// What the model learnt of pauses.
    habit: Habit,
}

impl Generator {
    /// Opens a training folder's newest checkpoint, or a checkpoint.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = checkpoint::resolve(path)?;
        if !fs::list(&folder)?.contains(&folder.join(checkpoint::STATE_FILE)) {
            return Err(Error::NotOurs { path: folder });
        }
        let state = Checkpoint::open(&folder)?.state;
        let reserved = state.reserved;
        let (config, values) = checkpoint::read_model(&folder)?;
        let json = fs::read(&folder.join(TOKENIZER_FILE))?;
        let tokenizer = Tokenizer::from_json(&json, reserved, SpecialText::Ordinary)?
            .beginning_with(state.begin);
        // Whatever trained it, decoding runs on the host.
        let model = Model::from_values(&config, values, &Device::flex());
        let habit = state.pauses.unwrap_or_else(|| pauses::usual(reserved));
        Ok(Self::new(&model, tokenizer).with_habit(habit))
    }

    /// Answers by `model` as it is now.
    pub fn new(model: &Model, tokenizer: Tokenizer) -> Self {
        Self {
            empty: Cache::new(model).ending_with(tokenizer.reserved().end),
            context: model.config.context,
            habit: pauses::usual(tokenizer.reserved()),
            tokenizer,
        }
    }

    /// The same with what the model learnt of pauses.
    pub fn with_habit(self, habit: Habit) -> Self {
        Self { habit, ..self }
    }

    /// Answers `prompt`.
    pub fn answer(&self, prompt: &str, request: &Request) -> Result<Answer, Error> {
        self.decode(prompt, request, &mut |_| Ok(()))
    }

    /// Answers `prompt`; `on_text` receives the answer's text as it forms.
    pub fn stream(
        &self,
        prompt: &str,
        request: &Request,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Answer, Error> {
        let mut shown = 0;
        let mut on_ids = |ids: &[TokenId]| -> Result<(), Error> {
            let text = self.tokenizer.decode(ids)?;
            // The last character may lack bytes that the next token brings.
            let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
            if shown < whole.len() {
                on_text(whole.get(shown..).unwrap_or_default());
                shown = whole.len();
            }
            Ok(())
        };
        let answer = self.decode(prompt, request, &mut on_ids)?;
        on_text(answer.text.get(shown..).unwrap_or_default());
        Ok(answer)
    }

    /// Reads `prompt` and `pauses` after it; returns what was read, and the logits after
    /// each id of it, `[ids, rows of the embedding]`.
    pub fn logits(&self, prompt: &str, pauses: u32) -> Result<(Vec<TokenId>, Vec<f32>), Error> {
        let prompt = self.prompt(prompt, pauses)?;
        let logits = self.empty.clone().read_all(&prompt.ids, prompt.prefix)?;
        Ok((prompt.ids, logits))
    }

    /// What is read before an answer to `text`.
    fn prompt(&self, text: &str, pauses: u32) -> Result<Prompt, Error> {
        let mut ids = Vec::from_iter(self.tokenizer.begin());
        self.tokenizer.encode(text, &mut ids)?;
        let insertion = pauses::beside_prompt(&self.habit, pauses, &self.tokenizer, self.context)?;
        let reserved = self.tokenizer.reserved();
        prompt(&ids, (pauses, insertion), reserved, self.context)
    }

    fn decode(
        &self,
        text: &str,
        request: &Request,
        on_ids: &mut dyn FnMut(&[TokenId]) -> Result<(), Error>,
    ) -> Result<Answer, Error> {
        let vocabulary = Vocabulary {
            reserved: self.tokenizer.reserved(),
            size: self.tokenizer.vocab_size() as usize,
            own_pauses: &pauses::own(&self.habit, self.tokenizer.reserved()),
        };
        let prompt = self.prompt(text, request.pauses)?;
        let mut reader = Row {
            cache: self.empty.clone(),
            context: self.context,
        };
        let (ids, paused, ended) = decode(&mut reader, vocabulary, &prompt, request, on_ids)?;
        Ok(Answer {
            text: self.tokenizer.decode(&ids)?,
            ids,
            read: prompt.ids,
            paused,
            ended,
        })
    }
}

/// What decoding needs of a model.
trait Reader {
    /// How many ids it can read.
    fn context(&self) -> usize;

    /// Reads the prompt and returns the logits after its last id.
    fn begin(&mut self, prompt: &Prompt) -> Result<Vec<f32>, kv_cache::Error>;

    /// Reads one more id and returns the logits after it.
    fn read(&mut self, id: TokenId) -> Result<Vec<f32>, kv_cache::Error>;
}

/// A row of a model that remembers what it has read.
struct Row {
    cache: Cache,
    context: usize,
}

impl Reader for Row {
    fn context(&self) -> usize {
        self.context
    }

    fn begin(&mut self, prompt: &Prompt) -> Result<Vec<f32>, kv_cache::Error> {
        self.cache.prefill(&prompt.ids, prompt.prefix)
    }

    fn read(&mut self, id: TokenId) -> Result<Vec<f32>, kv_cache::Error> {
        self.cache.extend(&[id])
    }
}

/// Which ids an answer may hold.
#[derive(Clone, Copy, Debug)]
struct Vocabulary<'a> {
    reserved: Reserved,
    /// Ids of the tokenizer; a model's table may have more rows.
    size: usize,
    /// The pauses that it may choose, which are no part of the answer.
    own_pauses: &'a [TokenId],
}

/// What the model reads before it answers.
struct Prompt {
    /// The prompt and its pauses.
    ids: Vec<TokenId>,
    /// How many of them are a prefix as in finetuning: the prompt, and pauses before it.
    prefix: usize,
}

/// The prompt and its pauses, placed by the function that places them in training; there is
/// none where they do not fit. An empty prompt is an end token, after which a new document
/// begins.
fn prompt(
    prompt: &[TokenId],
    (pauses, insertion): (u32, Option<Insertion>),
    reserved: Reserved,
    context: usize,
) -> Result<Prompt, Error> {
    let prompt = if prompt.is_empty() {
        &[reserved.end]
    } else {
        prompt
    };
    let too_long = || Error::TooLong {
        prompt: prompt.len(),
        pauses: pauses as usize,
        context,
    };
    let insertion = insertion.ok_or_else(too_long)?;
    // The number of pauses is fixed: no key can change it.
    let placed = pause::apply(&insertion, &Sequence::example(prompt, &[]), Key::new(0));
    let (ids, prefix) = (placed.sequence.ids, placed.sequence.prefix);
    if context < ids.len() {
        return Err(too_long());
    }
    let prefix = prefix.map_or(prompt.len(), |prefix| prefix as usize);
    Ok(Prompt { ids, prefix })
}

/// Reads `prompt` and decodes until the end token, the limit, or the end of
/// the context; `on_ids` sees the answer after each token. Returns the answer, how many
/// pauses the model gave itself, and why it ended.
fn decode(
    reader: &mut dyn Reader,
    vocabulary: Vocabulary,
    prompt: &Prompt,
    request: &Request,
    on_ids: &mut dyn FnMut(&[TokenId]) -> Result<(), Error>,
) -> Result<(Vec<TokenId>, usize, Ended), Error> {
    request.sampling.validate()?;
    let (mut ids, mut paused) = (Vec::new(), 0);
    if request.max_tokens == 0 {
        return Ok((ids, paused, Ended::MaxTokens));
    }
    let mut logits = reader.begin(prompt)?;
    loop {
        let chosen = ids.len() + paused;
        let position = prompt.ids.len() + chosen;
        mask(&mut logits, vocabulary);
        let mut rng = request.key.item(chosen as u64).rng();
        let id = request.sampling.choose(&logits, &mut rng);
        let id = id.ok_or(Error::NonFinite { position })?;
        if id == vocabulary.reserved.end {
            return Ok((ids, paused, Ended::End));
        }
        if vocabulary.own_pauses.contains(&id) {
            paused += 1;
        } else {
            ids.push(id);
            on_ids(&ids)?;
        }
        if ids.len() == request.max_tokens {
            return Ok((ids, paused, Ended::MaxTokens));
        }
        if reader.context() <= position {
            return Ok((ids, paused, Ended::Context));
        }
        logits = reader.read(id)?;
    }
}

/// The ids below `rows` that no answer holds, for a model of this habit and a tokenizer of so
/// many ids.
pub fn never(habit: Option<&Habit>, reserved: Reserved, size: usize, rows: usize) -> Vec<TokenId> {
    let usual = pauses::usual(reserved);
    let vocabulary = Vocabulary {
        reserved,
        size,
        own_pauses: &pauses::own(habit.unwrap_or(&usual), reserved),
    };
    let ids = (0..).map(TokenId).take(rows);
    ids.filter(|id| vocabulary.bars(*id)).collect()
}

impl Vocabulary<'_> {
    /// Whether an id is padding, without a token, or a pause that is not the model's own.
    fn bars(&self, id: TokenId) -> bool {
        let pause = PauseIds::from(self.reserved).contains(id) && !self.own_pauses.contains(&id);
        pause || id == self.reserved.pad || self.size <= id.index()
    }
}

/// Makes sure that what no answer holds is never chosen.
fn mask(logits: &mut [f32], vocabulary: Vocabulary) {
    for (id, logit) in (0..).map(TokenId).zip(logits.iter_mut()) {
        if vocabulary.bars(id) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
