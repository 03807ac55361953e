//! Who has which id: the words of the model and the added tokens.
//!
//! The library numbers added tokens in its own way, and loading it takes longer than
//! encoding megabytes. For the families that the fast path knows, its numbering is
//! done here from the JSON alone; for all others the library is asked.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer as Engine,
};

use super::fast::{Family, added};
use super::{Error, VOCABULARY_MAX, load};
use crate::panics::caught;

/// Bytes that added tokens of known tokenizers have at most together; those of large
/// vocabularies have 20 kB. The library's search for them may refuse more.
const ADDED_BYTES_MAX: usize = 1 << 20;

/// The ids of all tokens.
pub enum Tokens<'a> {
    /// Numbered here.
    Known(Known<'a>),
    /// Numbered by the library.
    Library(Box<Engine>),
}

/// The tokens of a JSON that the library is sure to take.
pub struct Known<'a> {
    words: &'a Map<String, Value>,
    added: BTreeMap<u32, AddedToken>,
    ids: HashMap<String, u32>,
}

impl<'a> Tokens<'a> {
    /// The tokens of `json`, of which `family` was recognised; `bytes` gives the file
    /// as the library may have to read it.
    pub fn new(
        json: &'a Value,
        family: Option<&Family>,
        bytes: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Self, Error> {
        match family.and_then(|family| Known::new(json, family)) {
            Some(known) => Ok(Self::Known(known)),
            None => Ok(Self::Library(Box::new(load(&bytes()?)?))),
        }
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Known(known) => known.id(token),
            Self::Library(engine) => engine.token_to_id(token),
        }
    }

    /// The added tokens by their ids.
    pub fn added(&self) -> BTreeMap<u32, AddedToken> {
        match self {
            Self::Known(known) => known.added.clone(),
            Self::Library(engine) => engine.get_added_tokens_decoder().into_iter().collect(),
        }
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> Result<u32, Error> {
        let largest = match self {
            Self::Known(known) => known.words().map(|(_, id)| id).max(),
            Self::Library(engine) => engine.get_vocab(true).into_values().max(),
        };
        let added = match self {
            Self::Known(known) => known.added.keys().next_back().copied(),
            Self::Library(_) => None,
        };
        let largest = largest.max(added).unwrap_or(0);
        match largest < VOCABULARY_MAX {
            true => Ok(largest + 1),
            false => Err(Error::TooLarge {
                found: u64::from(largest),
            }),
        }
    }

    /// How many tokens there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Known(known) => {
                let words = |token: &&String| known.words.contains_key(token.as_str());
                let both = known.ids.keys().filter(words).count();
                known.words.len() + known.ids.len() - both
            }
            Self::Library(engine) => engine.get_vocab_size(true),
        }
    }

    /// A token other than `token` that has `id`.
    pub fn other_of(&self, id: u32, token: &str) -> Option<String> {
        match self {
            Self::Known(known) => {
                let owns = |(_, owner): &(&String, u32)| *owner == id;
                let added = known.ids.iter().map(|(token, id)| (token, *id));
                let words = known.words().filter(owns);
                let words = words.filter(|(word, _)| !known.ids.contains_key(*word));
                let mut owners = words.chain(added.filter(owns));
                let other = owners.find(|(other, _)| *other != token);
                other.map(|(other, _)| other.clone())
            }
            Self::Library(engine) => {
                let vocabulary = engine.get_vocab(true).into_iter();
                let mut owners = vocabulary.filter(|(_, owner)| *owner == id);
                owners
                    .find(|(other, _)| other != token)
                    .map(|(other, _)| other)
            }
        }
    }

    /// Adds special tokens, each with the id that it has or with a new one.
    pub fn add_special(
        &mut self,
        tokens: Vec<AddedToken>,
        bytes: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        if let Self::Known(known) = self {
            match known.add(tokens.clone()) {
                Some(()) => return Ok(()),
                None => *self = Self::Library(Box::new(load(&bytes()?)?)),
            }
        }
        match self {
            Self::Known(_) => Ok(()),
            Self::Library(engine) => caught(|| engine.add_special_tokens(tokens))
                .map(drop)
                .map_err(Error::Library),
        }
    }

    /// Whether ids are turned to text as byte-level vocabularies say.
    pub fn is_byte_level(&self) -> bool {
        match self {
            Self::Known(_) => true,
            Self::Library(engine) => {
                matches!(engine.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
            }
        }
    }

    /// Calls `each` with ids below `vocab_size` and their tokens; of two tokens with an
    /// id, the one that it stands for comes last.
    pub fn each(&self, vocab_size: u32, mut each: impl FnMut(u32, &str)) {
        match self {
            Self::Known(known) => {
                known.words().for_each(|(word, id)| each(id, word));
                let added = known.added.iter();
                added.for_each(|(id, token)| each(*id, &token.content));
            }
            Self::Library(engine) => (0..vocab_size).for_each(|id| {
                if let Some(token) = engine.id_to_token(id) {
                    each(id, &token);
                }
            }),
        }
    }
}

impl<'a> Known<'a> {
    /// The tokens of a JSON of which every part is sure to be taken by the library.
    fn new(json: &'a Value, family: &Family) -> Option<Self> {
        let fields = [
            "version",
            "truncation",
            "padding",
            "added_tokens",
            "normalizer",
            "pre_tokenizer",
            "post_processor",
            "decoder",
            "model",
        ];
        let object = json.as_object()?;
        let fields = object.keys().all(|key| fields.contains(&key.as_str()));
        let absent = |key: &str| object.get(key).is_none_or(Value::is_null);
        let version = object.get("version").is_none_or(|version| version == "1.0");
        // What is small is read by the library itself.
        let byte_level = matches!(
            part::<DecoderWrapper>(json, "decoder")?,
            Some(DecoderWrapper::ByteLevel(_))
        );
        part::<NormalizerWrapper>(json, "normalizer")?;
        part::<PreTokenizerWrapper>(json, "pre_tokenizer")?;
        part::<PostProcessorWrapper>(json, "post_processor")?;
        let unknown = json.pointer("/model/unk_token");
        let unknown = unknown.is_none_or(|token| token.is_null() || token.is_string());
        let whole = fields && version && absent("truncation") && absent("padding");
        if !(whole && byte_level && unknown) {
            return None;
        }
        let mut known = Self {
            words: json.pointer("/model/vocab")?.as_object()?,
            added: BTreeMap::new(),
            ids: HashMap::new(),
        };
        known.add(listed(json)?)?;
        // The library refuses some lists that hold what is not steady.
        added(json, &known.added, family.normalizer)?;
        Some(known)
    }

    fn words(&self) -> impl Iterator<Item = (&'a String, u32)> {
        let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        (self.words.iter()).filter_map(move |(word, value)| Some((word, id(value)?)))
    }

    fn id(&self, token: &str) -> Option<u32> {
        let word = || u32::try_from(self.words.get(token)?.as_u64()?).ok();
        self.ids.get(token).copied().or_else(word)
    }

    /// Numbers `tokens` as the library does: words of the model have its ids, others
    /// follow the largest id of an added token or the size of the vocabulary.
    /// Nothing where two would share an id.
    fn add(&mut self, tokens: Vec<AddedToken>) -> Option<()> {
        let words = u32::try_from(self.words.len()).ok()?;
        let mut next = match self.added.keys().next_back() {
            Some(largest) if words <= *largest || words == 0 => largest.checked_add(1)?,
            _ => words,
        };
        for token in tokens {
            let id = match self.id(&token.content) {
                Some(id) => id,
                None => {
                    let id = next;
                    next = next.checked_add(1)?;
                    id
                }
            };
            let before = self.added.insert(id, token.clone());
            if before.is_some_and(|before| before.content != token.content) {
                return None;
            }
            self.ids.insert(token.content, id);
        }
        Some(())
    }
}

/// A part of the JSON as the library reads it: nothing where it refuses.
fn part<T: DeserializeOwned>(json: &Value, field: &str) -> Option<Option<T>> {
    let value = json.get(field).unwrap_or(&Value::Null);
    caught(|| Option::<T>::deserialize(value)).ok()
}

/// The listed added tokens, where the library is sure to take them.
fn listed(json: &Value) -> Option<Vec<AddedToken>> {
    let entries = match json.get("added_tokens") {
        None => &[],
        Some(list) => list.as_array()?.as_slice(),
    };
    let token = |entry: &Value| {
        u32::try_from(entry.get("id")?.as_u64()?).ok()?;
        AddedToken::deserialize(entry).ok()
    };
    let tokens: Vec<AddedToken> = entries.iter().map(token).collect::<Option<_>>()?;
    let contents: HashSet<&str> = tokens.iter().map(|token| token.content.as_str()).collect();
    let bytes: usize = contents.iter().map(|content| content.len()).sum();
    let distinct = contents.len() == tokens.len() && !contents.contains("");
    (distinct && bytes <= ADDED_BYTES_MAX).then_some(tokens)
}
