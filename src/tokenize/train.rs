//! Training a byte-level BPE.

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Trainer};

use super::{BoxError, Error, Training, VOCABULARY_MAX};
use crate::panics::caught;

/// Every byte is a token, so that every text has ids.
const VOCABULARY_MIN: u32 = 256;

/// Pairs that occur once teach nothing.
const LEAST_COUNT: u64 = 2;

/// The library counts pairs in an i32.
const SAMPLE_BYTES_MAX: u64 = (1 << 31) - 1;

/// The `tokenizer.json` of a byte-level BPE trained on the start of `texts`.
///
/// The library breaks ties between pairs by their ids and sorts the alphabet,
/// so the result depends on the text alone.
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
    if SAMPLE_BYTES_MAX < training.sample_bytes {
        return Err(Error::SampleSize {
            max: SAMPLE_BYTES_MAX,
            found: training.sample_bytes,
        });
    }
    let sample = sample(texts, training.sample_bytes)?;
    if sample.iter().all(String::is_empty) {
        return Err(Error::NoText);
    }
    let model = learn(&sample, training.vocab_size as usize).map_err(Error::Library)?;
    let byte_level = ByteLevel::new(false, true, true);
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": byte_level,
        "post_processor": null,
        "decoder": byte_level,
        "model": model,
    }))
}

/// The first `bytes` bytes of the texts, up to the end of a character.
fn sample(
    texts: &mut dyn Iterator<Item = Result<String, BoxError>>,
    bytes: u64,
) -> Result<Vec<String>, Error> {
    let mut left = usize::try_from(bytes).unwrap_or(usize::MAX);
    let mut sample = Vec::new();
    for text in texts {
        let mut text = text.map_err(Error::Text)?;
        text.truncate(text.floor_char_boundary(left));
        left -= text.len();
        sample.push(text);
        // Less than one character is left.
        if left < 4 {
            break;
        }
    }
    Ok(sample)
}

fn learn(sample: &[String], vocab_size: usize) -> Result<BPE, BoxError> {
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(LEAST_COUNT)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut model = BPE::default();
    caught(|| {
        trainer.feed(sample.iter(), words)?;
        trainer.train(&mut model)
    })?;
    Ok(model)
}

/// The words of a text as the trained tokenizer will see them.
fn words(text: &str) -> Result<Vec<String>, BoxError> {
    let mut split = PreTokenizedString::from(text);
    ByteLevel::new(false, true, true).pre_tokenize(&mut split)?;
    let words = split.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
    Ok(words.into_iter().map(|(word, _, _)| word.into()).collect())
}

#[cfg(test)]
mod tests {
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Counts every pair anew for every merge: tokens by id, and merges in order.
    fn naive(sample: &[String], vocab_size: usize) -> (Vec<String>, Vec<[String; 2]>) {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut tokens: Vec<String> = alphabet.into_iter().map(String::from).collect();
        let mut merges = Vec::new();
        let mut corpus: Vec<Vec<String>> = (sample.iter())
            .flat_map(|text| words(text).unwrap())
            .map(|word| word.chars().map(String::from).collect())
            .collect();
        while tokens.len() < vocab_size {
            let id = |token: &String| tokens.iter().position(|t| t == token).unwrap();
            let mut counts = BTreeMap::new();
            for pair in corpus.iter().flat_map(|word| word.windows(2)) {
                *counts.entry((id(&pair[0]), id(&pair[1]))).or_insert(0) += 1;
            }
            let best = counts.iter().max_by_key(|(p, n)| (**n, Reverse(**p)));
            let Some((&(left, right), _)) = best.filter(|(_, n)| LEAST_COUNT <= **n) else {
                break;
            };
            let (left, right) = (tokens[left].clone(), tokens[right].clone());
            let token = format!("{left}{right}");
            for word in &mut corpus {
                for at in 0..word.len() {
                    // Merging shortens the word.
                    if word
                        .get(at..)
                        .unwrap_or_default()
                        .starts_with(&[left.clone(), right.clone()])
                    {
                        word.splice(at..at + 2, [token.clone()]);
                    }
                }
            }
            tokens.push(token);
            merges.push([left, right]);
        }
        (tokens, merges)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// The law that makes training a function of the text.
        #[test]
        fn training_equals_counting_anew(
            sample in prop::collection::vec("([ab]{1,12} ){1,4}|([abc]{1,6} ){1,6}", 1..6),
            merges in 0usize..24,
        ) {
            let model = serde_json::to_value(learn(&sample, 256 + merges).unwrap()).unwrap();
            let (tokens, expected) = naive(&sample, 256 + merges);
            let found: Vec<&String> = model["vocab"].as_object().unwrap().keys().collect();
            prop_assert_eq!(found, tokens.iter().collect::<Vec<_>>());
            prop_assert_eq!(&model["merges"], &json!(expected));
        }
    }

    #[test]
    fn a_sample_ends_inside_a_text_at_a_character() {
        let take = |bytes: u64| {
            let mut texts = ["ab ", "€€", "never"]
                .into_iter()
                .map(|text| Ok(text.to_owned()));
            sample(&mut texts, bytes).unwrap()
        };
        assert_eq!(take(7), ["ab ", "€"]);
        assert_eq!(take(9), ["ab ", "€€"]);
        assert_eq!(take(0), [""]);
    }
}
