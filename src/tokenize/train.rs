//! Training a byte-level BPE.
//!
//! The trainer is ours because the result must be a function of the text: the
//! library's walks its hash maps in their random order, and where two pairs
//! spell one token that order can decide which merge comes first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

use rayon::prelude::*;
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::bytes::character;
use super::{BoxError, Error, Training, VOCABULARY_MAX};

/// Every byte is a token, so that every text has ids.
const VOCABULARY_MIN: u32 = 256;

/// Pairs that occur once teach nothing.
const LEAST_COUNT: u64 = 2;

/// Text that is split into words at a time, by all threads.
const BATCH_BYTES: usize = 4 << 20;

/// Two neighbouring tokens.
type Pair = (u32, u32);

/// The `tokenizer.json` of a byte-level BPE trained on the start of `texts`.
pub fn train(
    texts: &mut dyn Iterator<Item = Result<String, BoxError>>,
    training: &Training,
) -> Result<Value, Error> {
    if !(VOCABULARY_MIN..=VOCABULARY_MAX).contains(&training.vocab_size) {
        return Err(Error::VocabularySize {
            min: VOCABULARY_MIN,
            found: training.vocab_size,
        });
    }
    let words = count_words(texts, training.sample_bytes)?;
    if words.is_empty() {
        return Err(Error::NoText);
    }
    let learnt = learn(&words, training.vocab_size as usize);
    let vocabulary: serde_json::Map<String, Value> = (learnt.tokens.iter().cloned().zip(0u32..))
        .map(|(token, id)| (token, id.into()))
        .collect();
    let byte_level = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
    });
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": vocabulary,
            "merges": learnt.merges,
        },
    }))
}

/// Words and how often each occurs, in the first `sample_bytes` of the texts.
fn count_words(
    texts: &mut dyn Iterator<Item = Result<String, BoxError>>,
    sample_bytes: u64,
) -> Result<BTreeMap<String, u64>, Error> {
    let mut words = BTreeMap::new();
    let mut left = usize::try_from(sample_bytes).unwrap_or(usize::MAX);
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for text in texts {
        let mut text = text.map_err(Error::Text)?;
        text.truncate(text.floor_char_boundary(left));
        left -= text.len();
        batch_bytes += text.len();
        batch.push(text);
        if BATCH_BYTES <= batch_bytes {
            count_batch(&std::mem::take(&mut batch), &mut words)?;
            batch_bytes = 0;
        }
        // Less than one character is left: the sample is full.
        if left < 4 {
            break;
        }
    }
    count_batch(&batch, &mut words)?;
    Ok(words)
}

fn count_batch(texts: &[String], words: &mut BTreeMap<String, u64>) -> Result<(), Error> {
    let counted: Result<Vec<HashMap<String, u64>>, BoxError> =
        texts.par_iter().map(|text| words_of(text)).collect();
    for (word, count) in counted.map_err(Error::Library)?.into_iter().flatten() {
        *words.entry(word).or_default() += count;
    }
    Ok(())
}

/// The words of a text as the trained tokenizer will see them.
fn words_of(text: &str) -> Result<HashMap<String, u64>, BoxError> {
    let mut split = PreTokenizedString::from(text);
    ByteLevel::new(false, true, true).pre_tokenize(&mut split)?;
    let mut words = HashMap::new();
    for (word, _, _) in split.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
        match words.get_mut(word) {
            Some(count) => *count += 1,
            None => drop(words.insert(word.to_owned(), 1)),
        }
    }
    Ok(words)
}

/// What training found.
#[derive(Debug, PartialEq)]
struct Learnt {
    /// Tokens by id: the 256 bytes, then merged ones.
    tokens: Vec<String>,
    /// The merges, first to last, as pairs of tokens.
    merges: Vec<(String, String)>,
}

/// Merges the most frequent pair, lowest ids first where counts are equal,
/// until there are `vocab_size` tokens or no pair occurs twice.
fn learn(words: &BTreeMap<String, u64>, vocab_size: usize) -> Learnt {
    let mut vocabulary = Vocabulary::new();
    let mut corpus = Corpus::new(words, &vocabulary);
    let mut merged = HashSet::new();
    let mut merges = Vec::new();
    while vocabulary.tokens.len() < vocab_size {
        let Some(pair) = corpus.most_frequent() else {
            break;
        };
        let (left, right) = (vocabulary.text(pair.0), vocabulary.text(pair.1));
        let id = vocabulary.id(format!("{left}{right}"));
        // A pair can appear anew when another pair spells one of its parts;
        // encoding merges it by its first rank, so it gets no second one.
        if merged.insert(pair) {
            merges.push((left, right));
        }
        corpus.merge(pair, id);
    }
    Learnt {
        tokens: vocabulary.tokens,
        merges,
    }
}

/// Tokens by id and ids by token.
struct Vocabulary {
    tokens: Vec<String>,
    ids: HashMap<String, u32>,
}

impl Vocabulary {
    fn new() -> Self {
        let mut alphabet: Vec<char> = (0..=255).map(character).collect();
        alphabet.sort_unstable();
        let mut vocabulary = Self {
            tokens: Vec::new(),
            ids: HashMap::new(),
        };
        for letter in alphabet {
            vocabulary.id(letter.to_string());
        }
        vocabulary
    }

    fn text(&self, id: u32) -> String {
        self.tokens.get(id as usize).cloned().unwrap_or_default()
    }

    fn id(&mut self, token: String) -> u32 {
        let next = u32::try_from(self.tokens.len()).unwrap_or(u32::MAX);
        *self.ids.entry(token).or_insert_with_key(|token| {
            self.tokens.push(token.clone());
            next
        })
    }
}

/// The different words of the text as tokens, with what is needed to merge pairs in them.
struct Corpus {
    words: Vec<(Vec<u32>, u64)>,
    counts: HashMap<Pair, u64>,
    /// Words that held a pair when it was last looked for, some more than once.
    places: HashMap<Pair, Vec<usize>>,
    /// Counts may be out of date; the true ones are in `counts`.
    queue: BinaryHeap<(u64, Reverse<Pair>)>,
}

impl Corpus {
    fn new(words: &BTreeMap<String, u64>, vocabulary: &Vocabulary) -> Self {
        let letters = |word: &String| -> Vec<u32> {
            let ids = word.chars().map(|c| vocabulary.ids.get(&c.to_string()));
            ids.flatten().copied().collect()
        };
        let mut corpus = Self {
            words: words.iter().map(|(w, n)| (letters(w), *n)).collect(),
            counts: HashMap::new(),
            places: HashMap::new(),
            queue: BinaryHeap::new(),
        };
        for (index, (word, count)) in corpus.words.iter().enumerate() {
            for pair in pairs(word) {
                *corpus.counts.entry(pair).or_default() += count;
                corpus.places.entry(pair).or_default().push(index);
            }
        }
        corpus.queue = (corpus.counts.iter())
            .map(|(pair, count)| (*count, Reverse(*pair)))
            .collect();
        corpus
    }

    fn most_frequent(&mut self) -> Option<Pair> {
        while let Some((count, Reverse(pair))) = self.queue.pop() {
            let now = self.counts.get(&pair).copied().unwrap_or(0);
            if now < LEAST_COUNT {
                continue;
            }
            if now == count {
                return Some(pair);
            }
            self.queue.push((now, Reverse(pair)));
        }
        None
    }

    fn merge(&mut self, pair: Pair, id: u32) {
        let mut places = self.places.remove(&pair).unwrap_or_default();
        places.sort_unstable();
        places.dedup();
        let mut grown = HashSet::new();
        for index in places {
            let Some((word, count)) = self.words.get_mut(index) else {
                continue;
            };
            for old in pairs(word) {
                if let Some(total) = self.counts.get_mut(&old) {
                    *total -= *count;
                }
            }
            *word = merged(word, pair, id);
            for new in pairs(word) {
                *self.counts.entry(new).or_default() += *count;
                if new.0 == id || new.1 == id {
                    self.places.entry(new).or_default().push(index);
                    grown.insert(new);
                }
            }
        }
        for pair in grown {
            let count = self.counts.get(&pair).copied().unwrap_or(0);
            self.queue.push((count, Reverse(pair)));
        }
    }
}

fn pairs(word: &[u32]) -> impl Iterator<Item = Pair> + '_ {
    word.iter().copied().zip(word.iter().copied().skip(1))
}

/// `word` with every `pair`, from the left, replaced by `id`.
fn merged(word: &[u32], pair: Pair, id: u32) -> Vec<u32> {
    let mut result = Vec::with_capacity(word.len());
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        match tail {
            [second, tail @ ..] if (*first, *second) == pair => {
                result.push(id);
                rest = tail;
            }
            _ => {
                result.push(*first);
                rest = tail;
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Counts every pair anew for every merge.
    fn naive(words: &BTreeMap<String, u64>, vocab_size: usize) -> Learnt {
        let mut tokens = Vocabulary::new().tokens;
        let mut merges: Vec<(String, String)> = Vec::new();
        let mut corpus: Vec<(Vec<String>, u64)> = words
            .iter()
            .map(|(word, count)| (word.chars().map(String::from).collect(), *count))
            .collect();
        while tokens.len() < vocab_size {
            let id = |token: &String| tokens.iter().position(|t| t == token).unwrap();
            let mut counts = BTreeMap::new();
            for (word, count) in &corpus {
                for pair in word.windows(2) {
                    *counts.entry((id(&pair[0]), id(&pair[1]))).or_insert(0) += count;
                }
            }
            let best = counts
                .iter()
                .max_by_key(|(pair, count)| (**count, Reverse(**pair)));
            let Some((&(a, b), _)) = best.filter(|(_, count)| LEAST_COUNT <= **count) else {
                break;
            };
            let (a, b) = (tokens[a].clone(), tokens[b].clone());
            for (word, _) in &mut corpus {
                let mut at = 0;
                while at + 1 < word.len() {
                    if word[at] == a && word[at + 1] == b {
                        word.splice(at..at + 2, [format!("{a}{b}")]);
                    }
                    at += 1;
                }
            }
            let token = format!("{a}{b}");
            if !tokens.contains(&token) {
                tokens.push(token);
            }
            if !merges.contains(&(a.clone(), b.clone())) {
                merges.push((a, b));
            }
        }
        Learnt { tokens, merges }
    }

    proptest! {
        // Two letters and long words: pairs overlap, and tokens are spelt by several pairs.
        #[test]
        fn learning_equals_counting_anew(
            words in prop::collection::btree_map("[ab]{1,12}|[abc]{1,6}", 1u64..4, 1..12),
            merges in 0usize..24,
        ) {
            prop_assert_eq!(learn(&words, 256 + merges), naive(&words, 256 + merges));
        }
    }

    #[test]
    fn a_sample_ends_inside_a_text_at_a_character() {
        let texts = |sample: u64| {
            let mut texts = ["ab ", "€€", "never"]
                .map(|text| Ok(text.to_owned()))
                .into_iter();
            let words = count_words(&mut texts, sample).unwrap();
            words
                .into_iter()
                .map(|(word, count)| format!("{word}:{count}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(7), ["ab:1", "âĤ¬:1", "Ġ:1"]);
        assert_eq!(texts(9), ["ab:1", "âĤ¬âĤ¬:1", "Ġ:1"]);
        assert_eq!(texts(0), Vec::<String>::new());
    }
}
