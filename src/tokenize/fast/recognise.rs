//! Which `tokenizer.json` the fast path takes: those whose every field that decides
//! ids has a value known here. All others go to the library.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::super::bytes::byte;
use super::words::Words;

/// How text is cut into pieces before it is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// GPT-2, GPT-NeoX, and the vocabularies that this program trains.
    Gpt2,
    /// cl100k of GPT-4, and Llama 3.
    Cl100k,
    /// Qwen 2 and 3: every digit by itself.
    Qwen,
    /// o200k of GPT-4o.
    O200k,
}

impl Pattern {
    /// How reports name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt2",
            Self::Cl100k => "cl100k",
            Self::Qwen => "qwen",
            Self::O200k => "o200k",
        }
    }

    /// The regular expression as it stands in a `tokenizer.json`; GPT-2's is built
    /// into the library's `ByteLevel`.
    pub fn regex(self) -> &'static str {
        match self {
            Self::Gpt2 => GPT2,
            Self::Cl100k => CL100K,
            Self::Qwen => QWEN,
            Self::O200k => O200K,
        }
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What happens to text first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalizer {
    /// Nothing.
    None,
    /// Canonical composition.
    Nfc,
}

/// What decides the ids of a `tokenizer.json` whose structure is known, without its
/// added tokens.
#[derive(Debug)]
pub struct Family {
    /// How text is cut.
    pub pattern: Pattern,
    /// What happens to it before.
    pub normalizer: Normalizer,
    /// Whether a piece that is a word of the vocabulary is that word, merges or not.
    pub ignore_merges: bool,
    /// The bytes and the id of each word that consists of byte characters.
    pub words: Vec<(Vec<u8>, u32)>,
    /// For each merge in order, its two ids and the id of what they make.
    pub merges: Vec<[u32; 3]>,
}

impl Family {
    /// Whether text is cut as Qwen 2 and 3 cut it.
    pub fn is_qwen(&self) -> bool {
        (self.pattern, self.normalizer) == (Pattern::Qwen, Normalizer::Nfc)
    }
}

/// A token that is found in text as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// How it is written.
    pub content: String,
    /// Its id.
    pub id: u32,
    /// Whether it is looked for after normalizing.
    pub normalized: bool,
    /// Whether it is a special token.
    pub special: bool,
}

/// What the fast path needs of a `tokenizer.json`, or nothing where anything is unknown.
pub fn recognise(json: &Value) -> Option<Family> {
    let normalizer = match json.get("normalizer") {
        None | Some(Value::Null) => Normalizer::None,
        Some(normalizer) => only(normalizer, &["type"])
            .filter(|object| object.get("type").and_then(Value::as_str) == Some("NFC"))
            .map(|_| Normalizer::Nfc)?,
    };
    let pattern = pattern(json.get("pre_tokenizer")?)?;
    let model = model(json.get("model")?)?;
    let words = vocabulary(model.get("vocab")?)?;
    let merges = merges(model.get("merges")?, model.get("vocab")?)?;
    Some(Family {
        pattern,
        normalizer,
        ignore_merges: model.get("ignore_merges").is_some_and(|v| *v == true),
        words,
        merges,
    })
}

/// An object whose keys are all known.
fn only<'a>(value: &'a Value, keys: &[&str]) -> Option<&'a Map<String, Value>> {
    value
        .as_object()
        .filter(|object| object.keys().all(|key| keys.contains(&key.as_str())))
}

fn is(object: &Map<String, Value>, key: &str, value: impl Into<Value>) -> bool {
    object.get(key) == Some(&value.into())
}

fn pattern(pre_tokenizer: &Value) -> Option<Pattern> {
    if byte_level(pre_tokenizer, true).is_some() {
        return Some(Pattern::Gpt2);
    }
    let sequence = only(pre_tokenizer, &["type", "pretokenizers"])?;
    let [split, bytes] = sequence.get("pretokenizers")?.as_array()?.as_slice() else {
        return None;
    };
    byte_level(bytes, false)?;
    let split = only(split, &["type", "pattern", "behavior", "invert"])?;
    let regex = only(split.get("pattern")?, &["Regex"])?
        .get("Regex")?
        .as_str()?;
    // Each expression matches all text, so that nothing is ever removed.
    let isolated = is(split, "behavior", "Isolated") && is(split, "invert", false);
    let removed = is(split, "behavior", "Removed") && is(split, "invert", true);
    let types = is(sequence, "type", "Sequence") && is(split, "type", "Split");
    [Pattern::Cl100k, Pattern::Qwen, Pattern::O200k]
        .into_iter()
        .find(|pattern| types && (isolated || removed) && pattern.regex() == regex)
}

/// A `ByteLevel` that adds no space; `trim_offsets` changes no ids.
fn byte_level(value: &Value, use_regex: bool) -> Option<()> {
    let keys = ["type", "add_prefix_space", "trim_offsets", "use_regex"];
    let object = only(value, &keys)?;
    let regex = match object.get("use_regex") {
        None => true,
        Some(value) => value.as_bool()?,
    };
    let known = is(object, "type", "ByteLevel") && is(object, "add_prefix_space", false);
    (known && regex == use_regex).then_some(())
}

/// A BPE without anything that depends on where in a piece a token stands.
fn model(model: &Value) -> Option<&Map<String, Value>> {
    let keys = [
        "type",
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "fuse_unk",
        "byte_fallback",
        "ignore_merges",
        "vocab",
        "merges",
    ];
    let model = only(model, &keys)?;
    let absent = |key: &str| model.get(key).is_none_or(Value::is_null);
    let empty = |key: &str| absent(key) || is(model, key, "");
    let off = |key: &str| absent(key) || is(model, key, false);
    let zero = model.get("dropout").and_then(Value::as_f64) == Some(0.0);
    let flag = absent("ignore_merges") || is(model, "ignore_merges", true);
    let known = is(model, "type", "BPE")
        && (absent("dropout") || zero)
        && empty("continuing_subword_prefix")
        && empty("end_of_word_suffix")
        && off("fuse_unk")
        && off("byte_fallback")
        && (flag || off("ignore_merges"));
    known.then_some(model)
}

/// The words that text can yield, where no two share an id.
fn vocabulary(vocab: &Value) -> Option<Vec<(Vec<u8>, u32)>> {
    let vocab = vocab.as_object()?;
    let mut words = Vec::with_capacity(vocab.len());
    let mut ids = Vec::with_capacity(vocab.len());
    for (token, id) in vocab {
        let id = u32::try_from(id.as_u64()?).ok()?;
        ids.push(id);
        // A word with other characters is no image of bytes.
        if let Some(bytes) = token.chars().map(byte).collect() {
            words.push((bytes, id));
        }
    }
    ids.sort_unstable();
    let distinct = ids.windows(2).all(|pair| pair.first() != pair.last());
    distinct.then_some(words)
}

fn merges(merges: &Value, vocab: &Value) -> Option<Vec<[u32; 3]>> {
    let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let words = vocab.as_object()?.iter();
    let words = words.map(|(word, value)| Some((word.as_str(), id(value)?)));
    let ids = Words::new(words.collect::<Option<_>>()?)?;
    let mut joined = String::new();
    let mut next = 0;
    let mut one = |left: &str, right: &str| {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        // Merges mostly make the words in order: that saves a look-up.
        let made = match ids.word(next) {
            Some(word) if *word == joined => next,
            _ => ids.find(joined.as_bytes())?,
        };
        next = made + 1;
        let id = |part: &str| ids.id(ids.find(part.as_bytes())?);
        Some([id(left)?, id(right)?, ids.id(made)?])
    };
    let merge = |merge: &Value| match merge {
        Value::String(pair) => {
            let (left, right) = pair.split_once(' ')?;
            // The library skips such lines, or refuses them.
            if right.contains(' ') || pair.starts_with("#version") {
                return None;
            }
            one(left, right)
        }
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(left), Value::String(right)] => one(left, right),
            _ => None,
        },
        _ => None,
    };
    merges.as_array()?.iter().map(merge).collect()
}

/// The tokens that the library looks for, where none has conditions on its neighbours.
///
/// Their ids are the library's, which gives ids of its own to some.
pub fn added(
    json: &Value,
    tokens: &BTreeMap<u32, AddedToken>,
    normalizer: Normalizer,
) -> Option<Vec<Added>> {
    let listed = match json.get("added_tokens") {
        None | Some(Value::Null) => 0,
        Some(list) => list.as_array()?.len(),
    };
    let contents: HashSet<&str> = (tokens.values())
        .map(|token| token.content.as_str())
        .collect();
    if tokens.len() != listed || contents.len() != listed || contents.contains("") {
        return None;
    }
    let one = |(id, token): (&u32, &AddedToken)| {
        // Composition changes no ASCII, so such a token is looked for as it stands.
        let steady =
            !token.normalized || normalizer == Normalizer::None || token.content.is_ascii();
        let plain = !token.single_word && !token.lstrip && !token.rstrip;
        (steady && plain).then(|| Added {
            content: token.content.clone(),
            id: *id,
            normalized: token.normalized,
            special: token.special,
        })
    };
    tokens.iter().map(one).collect()
}
