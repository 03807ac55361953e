//! Text to ids and back, by the Hugging Face `tokenizers` library.
//!
//! The library decides every id. What stands here is around it: reserved
//! tokens that text never yields, byte-exact decoding for byte-level
//! vocabularies, and errors in place of panics for a damaged `tokenizer.json`.

mod bytes;
mod error;
mod fast;
mod foreign;
mod insertion;
mod reserve;
mod tokens;
mod train;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub use crate::panics::BoxError;
pub use error::Error;
pub use foreign::Foreign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::{PaddingParams, PostProcessorWrapper, Tokenizer as Engine};

use crate::digest::{Digest, checksum};
use crate::fs;
use crate::panics::caught;
use crate::pause::text::{Pieces, Spelt};
use crate::token::{PauseIds, Reserved, TokenId};
use fast::Family;
use tokens::Tokens;

/// Ids that a vocabulary may have at most. Tables are as long as the largest
/// id, so one absurd id in a `tokenizer.json` must not decide their size.
pub const VOCABULARY_MAX: u32 = 1 << 24;

/// Bytes that a `tokenizer.json` may have at most; those of large vocabularies have 35 MB.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// Values that the JSON may hold at most, so that a file of commas cannot fill
/// the memory; large vocabularies have two million.
pub const VALUES_MAX: usize = 1 << 22;

/// Letters that `max_input_chars_per_word` may allow at most: WordPiece takes time
/// with the square of a word's length.
pub const WORD_LETTERS_MAX: u64 = 4096;

/// Which tokenizer, as a recipe says it: exactly one of `file` and `train`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A Hugging Face `tokenizer.json`; relative paths start at the data root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Train a byte-level BPE on the pretraining sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Training>,
    /// The pause token; added to the vocabulary where it is missing.
    #[serde(default = "default_pause")]
    pub pause: String,
    /// The token that ends every document; added where it is missing.
    #[serde(default = "default_end")]
    pub end: String,
    /// The token that fills short rows; added where it is missing.
    #[serde(default = "default_pad")]
    pub pad: String,
    /// Pause tokens beside that one; at least those that the stages' `pause.token` need.
    #[serde(default, skip_serializing_if = "PauseTokens::is_none")]
    pub pause_tokens: PauseTokens,
    /// Whether text such as `<|endoftext|>` yields the special id it looks like.
    #[serde(default)]
    pub parse_special: bool,
}

/// Pause tokens beside the shared one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PauseTokens {
    /// How many distinct ones: `<|pause-0|>`, `<|pause-1|>` and so on.
    #[serde(default)]
    pub distinct: u32,
    /// Whether there are `<|pause-open|>` and `<|pause-close|>`.
    #[serde(default)]
    pub delimiters: bool,
}

impl PauseTokens {
    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// All that one or the other has.
    pub fn union(self, other: Self) -> Self {
        Self {
            distinct: self.distinct.max(other.distinct),
            delimiters: self.delimiters || other.delimiters,
        }
    }

    /// Their names, in the order of their ids.
    pub fn names(self) -> Vec<String> {
        let distinct = (0..self.distinct).map(|number| format!("<|pause-{number}|>"));
        let delimiters = ["<|pause-open|>", "<|pause-close|>"].map(String::from);
        let delimiters = delimiters.into_iter().filter(|_| self.delimiters);
        distinct.chain(delimiters).collect()
    }
}

/// How a byte-level BPE is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Size of the vocabulary before the reserved tokens are added; at least 256.
    pub vocab_size: u32,
    /// How much text of the sources is looked at, from their start; kept in memory.
    #[serde(default = "default_sample_bytes")]
    pub sample_bytes: u64,
}

/// What text that looks like a special token yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialText {
    /// The ids of its letters, as any other text.
    ///
    /// Added tokens that are not special, such as the runs of spaces of
    /// GPT-NeoX, are part of the vocabulary and are found in text as ever.
    Ordinary,
    /// The special id; a reserved id is still an error.
    Parsed,
}

/// How many ids a `tokenizer.json` has as it lies in its file, and which of `ids` no token
/// of it has.
pub fn lacking(
    bytes: &[u8],
    ids: impl Iterator<Item = TokenId>,
) -> Result<(u32, Vec<TokenId>), Error> {
    let json = reserve::parse(bytes)?;
    let tokens = Tokens::new(
        &json,
        fast::recognise(&json).as_ref(),
        || Ok(bytes.to_vec()),
    )?;
    let lacks = |id: &TokenId| tokens.other_of(id.0, "").is_none();
    Ok((tokens.vocab_size()?, ids.filter(lacks).collect()))
}

/// A tokenizer with its reserved tokens; threads may share it.
pub struct Tokenizer {
    /// The library's, loaded when it is first needed; none where it refuses the JSON.
    engine: OnceLock<Option<Engine>>,
    special: SpecialText,
    json: Vec<u8>,
    digest: Digest,
    reserved: Reserved,
    /// What every document begins with, where with anything.
    begin: Option<TokenId>,
    vocab_size: u32,
    /// Ids that encoded text must not hold, in order.
    barred: Vec<u32>,
    /// What each id stands for, where the vocabulary is byte-level.
    bytes: Option<bytes::Table>,
    /// The fast path, where it takes this tokenizer.
    fast: Option<fast::Fast>,
    /// Whether the fast path can yield a barred id.
    guard: Guard,
    /// Texts whose checksum is below, in its upper half, are encoded twice.
    verified: u64,
}

/// Whether ids of the fast path must be looked through for barred ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guard {
    /// No text yields one.
    Needless,
    /// Some text may.
    Needed,
}

impl Tokenizer {
    /// Loads a Hugging Face `tokenizer.json` and adds the reserved tokens it lacks.
    ///
    /// A name that already is one special token keeps its id. Truncation and
    /// padding are switched off, in the result's JSON too.
    pub fn from_file(path: &Path, config: &Config) -> Result<Self, Error> {
        let json = fs::read_at_most(path, FILE_BYTES_MAX)?;
        reserve::parse(&json)
            .and_then(|json| Self::with_reserved(json, config))
            .map_err(|error| Error::In {
                path: path.to_path_buf(),
                source: Box::new(error),
            })
    }

    /// Trains a byte-level BPE without prefix space on the start of `texts`.
    ///
    /// The result depends on the texts and their order alone. Where the text
    /// has too few repeated pairs, the vocabulary is smaller than asked for.
    pub fn train(
        texts: &mut dyn Iterator<Item = Result<String, BoxError>>,
        config: &Config,
    ) -> Result<Self, Error> {
        let training = config.train.as_ref().ok_or(Error::NoTraining)?;
        Self::with_reserved(train::train(texts, training)?, config)
    }

    /// The tokenizer of a dataset or checkpoint, whose reserved ids are known.
    pub fn from_json(
        bytes: &[u8],
        reserved: Reserved,
        special: SpecialText,
    ) -> Result<Self, Error> {
        let json = reserve::parse(bytes)?;
        let family = fast::recognise(&json);
        Self::of(&json, bytes.to_vec(), family, reserved, special)
    }

    /// The tokenizer of `json`, which is that of `bytes` and of the `family`.
    fn of(
        json: &Value,
        bytes: Vec<u8>,
        family: Option<Family>,
        reserved: Reserved,
        special: SpecialText,
    ) -> Result<Self, Error> {
        let tokens = Tokens::new(json, family.as_ref(), || Ok(bytes.clone()))?;
        let vocab_size = tokens.vocab_size()?;
        reserve::check(&tokens, reserved)?;
        let bytes_of_ids = (tokens.is_byte_level()).then(|| bytes::Table::new(&tokens, vocab_size));
        let barred = reserve::barred(&tokens, json, reserved, special);
        let fast =
            family.and_then(|family| fast::Fast::new(json, family, &tokens.added(), special));
        let guard = match fast.as_ref().is_some_and(|fast| fast.yields_any(&barred)) {
            true => Guard::Needed,
            false => Guard::Needless,
        };
        let engine = match tokens {
            Tokens::Known(_) => OnceLock::new(),
            Tokens::Library(engine) => OnceLock::from(Some(plain(*engine, special)?)),
        };
        Ok(Self {
            engine,
            special,
            barred,
            fast,
            guard,
            verified: 0,
            bytes: bytes_of_ids,
            digest: Digest::of(&bytes),
            json: bytes,
            reserved,
            begin: None,
            vocab_size,
        })
    }

    /// The library's tokenizer.
    fn engine(&self) -> Result<&Engine, Error> {
        let load = || load(&self.json).and_then(|engine| plain(engine, self.special));
        match self.engine.get_or_init(|| load().ok()) {
            Some(engine) => Ok(engine),
            None => Err(load()
                .err()
                .unwrap_or_else(|| Error::Library("it refused before".into()))),
        }
    }

    /// The `tokenizer.json`, reserved tokens included.
    pub fn to_json(&self) -> &[u8] {
        &self.json
    }

    /// BLAKE3 of [`Tokenizer::to_json`].
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The reserved ids.
    pub fn reserved(&self) -> Reserved {
        self.reserved
    }

    /// The id that every document and prompt begins with, where there is one. Whoever makes
    /// them puts it there: [`Tokenizer::encode`] knows text alone.
    pub fn begin(&self) -> Option<TokenId> {
        self.begin
    }

    /// The same for documents that begin with an id.
    pub fn beginning_with(self, begin: Option<TokenId>) -> Self {
        Self { begin, ..self }
    }

    /// The same for documents that begin with a special token.
    pub fn beginning_with_token(self, token: &str) -> Result<Self, Error> {
        let json: Value = serde_json::from_slice(&self.json).map_err(Error::Json)?;
        let added = json.get("added_tokens").and_then(Value::as_array);
        let mut special = added
            .into_iter()
            .flatten()
            .filter(|of| of["special"] == true);
        let id = special
            .find(|of| of["content"] == token)
            .and_then(|of| u32::try_from(of["id"].as_u64()?).ok());
        let wrong = |problem| Error::Begin {
            token: token.to_owned(),
            problem,
        };
        match id.map(TokenId) {
            None => Err(wrong("is no special token of the tokenizer")),
            Some(id) if self.is_reserved(id) => Err(wrong("is reserved for something else")),
            begin => Ok(self.beginning_with(begin)),
        }
    }

    /// Whether an id is that of a pause, the end or padding.
    pub fn is_reserved(&self, id: TokenId) -> bool {
        let Reserved { end, pad, .. } = self.reserved;
        PauseIds::from(self.reserved).contains(id) || [end, pad].contains(&id)
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Appends the ids of `text`; on an error nothing is appended.
    ///
    /// They are those of the library for the same `tokenizer.json`, without the
    /// tokens that its post-processor would add around the text.
    pub fn encode(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), Error> {
        let Some(fast) = &self.fast else {
            return self.encode_by_library(text, ids);
        };
        let before = ids.len();
        if fast.encode(text, ids).is_err() {
            ids.truncate(before);
            return self.encode_by_library(text, ids);
        }
        if self.guard == Guard::Needed
            && let Err(error) = self.refuse_barred(ids.iter().skip(before).map(|id| id.0))
        {
            ids.truncate(before);
            return Err(error);
        }
        match self.is_verified(text) {
            true => self.verify(text, ids, before),
            false => Ok(()),
        }
    }

    /// Has a share of all texts, 0 to 1, encoded by the library too; their checksum
    /// chooses them. Where the ids differ, encoding fails.
    pub fn verifying(self, share: f64) -> Self {
        Self {
            // 1 and above is every text.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates"
            )]
            verified: (share * 2f64.powi(32)) as u64,
            ..self
        }
    }

    fn is_verified(&self, text: &str) -> bool {
        // The lower half decides the split of a document.
        self.verified != 0 && checksum(text.as_bytes()) >> 32 < self.verified
    }

    fn verify(&self, text: &str, ids: &mut Vec<TokenId>, before: usize) -> Result<(), Error> {
        let mut expected = Vec::new();
        let result = self.encode_by_library(text, &mut expected);
        let found = ids.get(before..).unwrap_or_default();
        let length = found.len().max(expected.len());
        let different = (0..length).find(|at| found.get(*at) != expected.get(*at));
        let at = |list: &[TokenId], at: usize| list.get(at).map(|id| id.0);
        let result = result.and_then(|()| match different {
            None => Ok(()),
            Some(position) => Err(Error::Differs {
                position,
                found: at(found, position),
                expected: at(&expected, position),
            }),
        });
        if result.is_err() {
            ids.truncate(before);
        }
        result
    }

    /// What [`Tokenizer::encode`] does, always by the `tokenizers` library: the
    /// reference that its fast path is held against.
    pub fn encode_by_library(&self, text: &str, ids: &mut Vec<TokenId>) -> Result<(), Error> {
        let engine = self.engine()?;
        let encoding = caught(|| engine.encode_fast(text, false)).map_err(Error::Library)?;
        let found = encoding.get_ids();
        self.refuse_barred(found.iter().copied())?;
        ids.extend(found.iter().copied().map(TokenId));
        Ok(())
    }

    /// Which path [`Tokenizer::encode`] takes: `gpt2, avx512`, or `library`.
    pub fn path(&self) -> String {
        self.fast
            .as_ref()
            .map_or("library".into(), fast::Fast::name)
    }

    fn refuse_barred(&self, ids: impl Iterator<Item = u32>) -> Result<(), Error> {
        let barred = ids.enumerate().find(|(_, id)| self.is_barred(*id));
        let Some((position, id)) = barred else {
            return Ok(());
        };
        Err(Error::SpecialInText {
            token: self.token(TokenId(id)).unwrap_or_default(),
            id,
            position,
        })
    }

    /// The text of `ids`, special tokens spelt out, nothing cleaned up.
    ///
    /// The exact inverse of [`Tokenizer::encode`] for a byte-level BPE whose
    /// JSON changes no text (no normalizer, no prefix space, every byte in the
    /// vocabulary); bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[TokenId]) -> Result<String, Error> {
        let unknown = |(position, id): (usize, &TokenId)| Error::UnknownId {
            id: id.0,
            position,
            vocab_size: self.vocab_size,
        };
        if let Some(table) = &self.bytes {
            return table.decode(ids).map_err(unknown);
        }
        let engine = self.engine()?;
        let known = |id: &TokenId| engine.id_to_token(id.0).is_some();
        if let Some(lacking) = ids.iter().enumerate().find(|(_, id)| !known(id)) {
            return Err(unknown(lacking));
        }
        let ids: Vec<u32> = ids.iter().map(|id| id.0).collect();
        caught(|| engine.decode(&ids, false)).map_err(Error::Library)
    }

    /// What each id spells, where the vocabulary is byte-level; reserved ids spell nothing,
    /// nor does what documents begin with.
    pub fn pieces(&self) -> Option<Arc<Pieces>> {
        let table = self.bytes.as_ref()?;
        let silent = |id| self.is_reserved(id) || self.begin == Some(id);
        let piece = |id| match silent(id) {
            true => Default::default(),
            false => table.bytes(id),
        };
        Some(Arc::new(Pieces::new(
            (0..self.vocab_size).map(|id| piece(TokenId(id))),
        )))
    }

    /// What `ids` spell, where the vocabulary is byte-level.
    pub fn spell(&self, ids: &[TokenId]) -> Option<Spelt> {
        let table = self.bytes.as_ref()?;
        Some(Spelt::new(ids.iter().map(|id| table.bytes(*id))))
    }

    /// The token as the vocabulary stores it.
    pub fn token(&self, id: TokenId) -> Option<String> {
        self.engine().ok()?.id_to_token(id.0)
    }

    /// `json` with the reserved tokens of `config`, proved to stand apart from text.
    fn with_reserved(json: Value, config: &Config) -> Result<Self, Error> {
        let special = match config.parse_special {
            true => SpecialText::Parsed,
            false => SpecialText::Ordinary,
        };
        let family = fast::recognise(&json);
        let added = reserve::add(json, config, family.as_ref())?;
        let tokenizer = Self::of(&added.json, added.bytes, family, added.reserved, special)?;
        for name in added.unproved {
            let engine = tokenizer.engine()?;
            let yields_itself = caught(|| engine.encode_fast(name.token.as_str(), false))
                .map_err(Error::Library)?
                .get_ids()
                .contains(&name.id);
            if yields_itself && special == SpecialText::Ordinary {
                return Err(Error::OrdinaryToken {
                    role: name.role,
                    token: name.token,
                    id: name.id,
                });
            }
        }
        Ok(tokenizer)
    }

    fn is_barred(&self, id: u32) -> bool {
        // Special ids mostly stand at the end of the vocabulary: one comparison decides.
        self.barred.first().is_some_and(|first| *first <= id)
            && self.barred.binary_search(&id).is_ok()
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("digest", &self.digest)
            .field("vocab_size", &self.vocab_size)
            .field("reserved", &self.reserved)
            .finish_non_exhaustive()
    }
}

/// The library's tokenizer of a `tokenizer.json`.
fn load(json: &[u8]) -> Result<Engine, Error> {
    caught(|| Engine::from_bytes(json)).map_err(Error::Library)
}

/// What makes its ids depend on the text alone: no padding, no truncation, nothing around it.
fn plain(mut engine: Engine, special: SpecialText) -> Result<Engine, Error> {
    engine.with_padding(None::<PaddingParams>);
    engine.with_truncation(None).map_err(Error::Library)?;
    // It moves offsets and adds special tokens; neither is wanted.
    engine.with_post_processor(None::<PostProcessorWrapper>);
    engine.set_encode_special_tokens(special == SpecialText::Ordinary);
    Ok(engine)
}

impl Default for Config {
    /// No vocabulary yet, and the usual names of the reserved tokens.
    fn default() -> Self {
        Self {
            file: None,
            train: None,
            pause: default_pause(),
            end: default_end(),
            pad: default_pad(),
            pause_tokens: PauseTokens::default(),
            parse_special: false,
        }
    }
}

fn default_pause() -> String {
    "<|pause|>".into()
}

fn default_end() -> String {
    "<|end|>".into()
}

fn default_pad() -> String {
    "<|pad|>".into()
}

fn default_sample_bytes() -> u64 {
    64 << 20
}

#[cfg(test)]
mod tests;
