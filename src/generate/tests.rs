//! Decoding by a scripted reader, and by a real model against its twin.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::batch::Batch;
use crate::model::config::{Activation, Attention, Config, Norm, Positions};
use crate::pause::{Rule, Token};
use crate::rng::Stream;
use crate::tokenize::Training;

const RESERVED: Reserved = Reserved {
    pause: TokenId(10),
    end: TokenId(11),
    pad: TokenId(12),
    extra: crate::token::Extra::NONE,
};

/// Says the successor of the last id it read, and remembers its calls. It
/// likes pauses, padding and an id without a token better.
struct Counter {
    context: usize,
    calls: Vec<Vec<u32>>,
}

impl Reader for Counter {
    fn context(&self) -> usize {
        self.context
    }

    fn begin(&mut self, prompt: &Prompt) -> Result<Vec<f32>, kv_cache::Error> {
        self.calls.push(prompt.ids.iter().map(|id| id.0).collect());
        Ok(self.after(*prompt.ids.last().unwrap()))
    }

    fn read(&mut self, id: TokenId) -> Result<Vec<f32>, kv_cache::Error> {
        self.calls.push(vec![id.0]);
        Ok(self.after(id))
    }
}

impl Counter {
    fn after(&self, last: TokenId) -> Vec<f32> {
        let mut logits = vec![0.0; 14];
        for better in [10, 12, 13] {
            logits[better] = 9.0;
        }
        // After a pause it counts on from 5, and after 9 it ends.
        logits[match last.0 {
            10 => 5,
            9 => 11,
            id => id as usize + 1,
        }] = 5.0;
        logits
    }
}

/// The prompt with the pauses that its vocabulary has.
fn placed(
    prompt: &[TokenId],
    pauses: u32,
    reserved: Reserved,
    context: usize,
) -> Result<Prompt, Error> {
    let config = pauses::config(&pauses::usual(reserved), pauses);
    let insertion = Insertion::new(config, reserved, context).ok();
    self::prompt(prompt, (pauses, insertion), reserved, context)
}

fn run(
    prompt: &[u32],
    pauses: u32,
    max_tokens: usize,
    context: usize,
) -> (Vec<Vec<u32>>, Vec<u32>, Ended) {
    let mut counter = Counter {
        context,
        calls: Vec::new(),
    };
    let vocabulary = Vocabulary {
        reserved: RESERVED,
        size: 13,
        own_pauses: &[],
    };
    let request = Request {
        pauses,
        max_tokens,
        sampling: Sampling::Greedy,
        key: Key::new(1),
    };
    let prompt: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let read = placed(&prompt, pauses, RESERVED, context).unwrap();
    let mut seen = Vec::new();
    let mut on_ids = |ids: &[TokenId]| {
        seen = ids.to_vec();
        Ok(())
    };
    let (ids, paused, ended) =
        decode(&mut counter, vocabulary, &read, &request, &mut on_ids).unwrap();
    assert_eq!((&seen, paused), (&ids, 0));
    (counter.calls, ids.iter().map(|id| id.0).collect(), ended)
}

#[test]
fn pauses_are_read_in_one_go_and_only_the_last_output_counts() {
    let (calls, ids, ended) = run(&[1, 2], 3, 3, 100);
    assert_eq!(calls, [vec![1, 2, 10, 10, 10], vec![5], vec![6]]);
    assert_eq!((ids, ended), (vec![5, 6, 7], Ended::MaxTokens));
}

#[test]
fn without_pauses_the_prompt_is_continued() {
    let (calls, ids, ended) = run(&[1, 7], 0, 100, 100);
    assert_eq!(calls, [vec![1, 7], vec![8], vec![9]]);
    assert_eq!((ids, ended), (vec![8, 9], Ended::End));
}

#[test]
fn the_context_is_filled_to_the_last_position_and_never_passed() {
    let (calls, ids, ended) = run(&[1], 1, 100, 4);
    assert_eq!(calls.concat().len(), 4);
    assert_eq!((ids, ended), (vec![5, 6, 7], Ended::Context));
    let (calls, ids, ended) = run(&[1], 3, 100, 4);
    assert_eq!(calls.concat().len(), 4);
    assert_eq!((ids, ended), (vec![5], Ended::Context));
    let error = placed(&[TokenId(1); 2], 3, RESERVED, 4).err().unwrap();
    assert_eq!(
        error.to_string(),
        "the prompt has 2 tokens and 3 pauses, but the model reads 4 at most"
    );
}

#[test]
fn a_prompt_gets_the_pauses_that_the_vocabulary_has() {
    let extra = |distinct, delimiters| Reserved {
        extra: crate::token::Extra {
            first: TokenId(20),
            distinct,
            delimiters,
        },
        ..RESERVED
    };
    let ids = |reserved| -> Vec<u32> {
        let prompt = placed(&[TokenId(1)], 3, reserved, 9).unwrap();
        assert_eq!(prompt.prefix, 1);
        prompt.ids.into_iter().map(|id| id.0).collect()
    };
    assert_eq!(ids(RESERVED), [1, 10, 10, 10]);
    assert_eq!(ids(extra(2, false)), [1, 20, 21, 20]);
    assert_eq!(ids(extra(0, true)), [1, 20, 10, 21]);
}

/// Says what is written, whatever it reads.
struct Script<'a> {
    context: usize,
    says: std::slice::Iter<'a, u32>,
    read: Vec<u32>,
}

impl Reader for Script<'_> {
    fn context(&self) -> usize {
        self.context
    }

    fn begin(&mut self, prompt: &Prompt) -> Result<Vec<f32>, kv_cache::Error> {
        let (last, before) = prompt.ids.split_last().unwrap();
        self.read.extend(before.iter().map(|id| id.0));
        self.read(*last)
    }

    fn read(&mut self, id: TokenId) -> Result<Vec<f32>, kv_cache::Error> {
        self.read.push(id.0);
        let mut logits = vec![0.0; 14];
        // Where that must not be said, what comes after it.
        let said = self.says.next().copied();
        for (id, logit) in said.into_iter().chain([9]).zip([9.0, 5.0]) {
            logits[id as usize] = logit;
        }
        Ok(logits)
    }
}

fn scripted(says: &[u32], own: &[u32], max_tokens: usize, context: usize) -> (Vec<u32>, String) {
    let mut script = Script {
        context,
        says: says.iter(),
        read: Vec::new(),
    };
    let own: Vec<TokenId> = own.iter().copied().map(TokenId).collect();
    let vocabulary = Vocabulary {
        reserved: RESERVED,
        size: 13,
        own_pauses: &own,
    };
    let request = Request {
        pauses: 0,
        max_tokens,
        sampling: Sampling::Greedy,
        key: Key::new(1),
    };
    let mut shown = Vec::new();
    let mut on_ids = |ids: &[TokenId]| {
        shown.push(ids.len());
        Ok(())
    };
    let prompt = placed(&[TokenId(1)], 0, RESERVED, context).unwrap();
    let (ids, paused, ended) =
        decode(&mut script, vocabulary, &prompt, &request, &mut on_ids).unwrap();
    assert!(shown.iter().copied().eq(1..=ids.len()), "{shown:?}");
    let ids: Vec<u32> = ids.into_iter().map(|id| id.0).collect();
    (
        script.read,
        format!("{ids:?} and {paused} pauses: {ended:?}"),
    )
}

#[test]
fn a_model_s_own_pauses_are_read_and_counted_and_no_part_of_the_answer() {
    let says = [5, 10, 10, 6, 10, 11];
    let (read, said) = scripted(&says, &[10], 9, 99);
    assert_eq!(said, "[5, 6] and 3 pauses: End");
    assert_eq!(read, [1, 5, 10, 10, 6, 10]);
    // The length asked for is that of the answer.
    assert_eq!(
        scripted(&says, &[10], 2, 99).1,
        "[5, 6] and 2 pauses: MaxTokens"
    );
    // One that was not trained to pause never does, nor by another token than its own.
    assert_eq!(
        scripted(&says, &[], 4, 99).1,
        "[5, 9, 9, 6] and 0 pauses: MaxTokens"
    );
    // Whoever pauses without end is stopped by the context, filled to its last position.
    let (read, said) = scripted(&[10; 20], &[10], 9, 6);
    assert_eq!((read.len(), said.as_str()), (6, "[] and 6 pauses: Context"));
}

#[test]
fn own_pauses_are_those_of_the_habit() {
    let reserved = Reserved {
        extra: crate::token::Extra {
            first: TokenId(20),
            distinct: 3,
            delimiters: true,
        },
        ..RESERVED
    };
    let own = |token: Token, target| -> Vec<u32> {
        let habit = Habit {
            token,
            target,
            before: false,
        };
        let own = pauses::own(&habit, reserved);
        own.into_iter().map(|id| id.0).collect()
    };
    assert_eq!(own(Token::Shared, Rule::Emit), [10]);
    assert_eq!(own(Token::Distinct(2), Rule::Emit), [20, 21]);
    assert_eq!(own(Token::Delimited, Rule::Emit), [10, 23, 24]);
    assert_eq!(own(Token::Filler(".".into()), Rule::Emit), [0; 0]);
    for rule in [Rule::Skip, Rule::Repeat, Rule::Future(2), Rule::Hint] {
        assert_eq!(own(Token::Shared, rule), [0; 0]);
    }
}

#[test]
fn a_prompt_gets_the_pauses_that_the_model_was_trained_with() {
    let whole = |token: Token, before| {
        let habit = Habit {
            token,
            target: Rule::Skip,
            before,
        };
        let generator = Generator::new(&model(259), tokenizer()).with_habit(habit);
        let request = Request {
            pauses: 2,
            max_tokens: 1,
            sampling: Sampling::Greedy,
            key: Key::new(1),
        };
        generator.answer("ab", &request).map(|answer| answer.read)
    };
    let read = |token| whole(token, false).map(|read| read[2..].to_vec());
    let id = |text: &str| {
        let mut ids = Vec::new();
        tokenizer().encode(text, &mut ids).unwrap();
        ids
    };
    assert_eq!(read(Token::Filler(".".into())).unwrap(), id(".."));
    let shared = tokenizer().reserved().pause;
    assert_eq!(read(Token::Shared).unwrap(), [shared; 2]);
    let before = [vec![shared; 2], id("ab")].concat();
    assert_eq!(whole(Token::Shared, true).unwrap(), before);
    // A checkpoint whose tokenizer was exchanged may have no such token.
    for token in [Token::Filler("..".into()), Token::Distinct(2)] {
        assert!(read(token).is_err());
    }
}

#[test]
fn an_empty_prompt_starts_a_document() {
    assert_eq!(run(&[], 2, 1, 100).0, [vec![11, 10, 10]]);
}

#[test]
fn nothing_may_be_asked_for() {
    assert_eq!(run(&[1], 1, 0, 100), (vec![], vec![], Ended::MaxTokens));
}

/// Bytes, and the three reserved tokens.
pub fn tokenizer() -> Tokenizer {
    let training = Training {
        vocab_size: 256,
        sample_bytes: 1000,
    };
    let config = tokenize::Config {
        file: None,
        train: Some(training),
        pause: "⏸".into(),
        end: "■".into(),
        pad: "□".into(),
        pause_tokens: Default::default(),
        parse_special: false,
    };
    Tokenizer::train(&mut [Ok("abc".to_owned())].into_iter(), &config).unwrap()
}

/// A model of random weights, large enough that answers are not all alike; its
/// table has rows for which there are no tokens.
pub fn model(vocab_size: usize) -> Model {
    let config = Config {
        vocab_size,
        context: 40,
        n_layers: 2,
        n_heads: 2,
        n_kv_heads: 2,
        d_model: 16,
        head_dim: None,
        d_ff: 32,
        positions: Positions::Learned,
        rope_theta: 10_000.0,
        rope_scaling: None,
        norm: Norm::LayerNorm,
        norm_eps: 1e-5,
        activation: Activation::Gelu,
        bias: true,
        qkv_bias: false,
        tied: false,
        attention: Attention::Causal,
        window: None,
        qk_norm: false,
        logit_soft_cap: None,
    };
    let model = Model::new(&config, Key::new(2), &Device::flex());
    let larger = |values: Vec<f32>| values.into_iter().map(|x| x * 12.0).collect();
    let values = model.values().into_iter().map(larger).collect();
    Model::from_values(&config, values, &Device::flex())
}

/// The obvious twin of greedy decoding: the whole row through the model for each token.
fn naive(
    model: &Model,
    tokenizer: &Tokenizer,
    prompt: &str,
    pauses: usize,
    max_tokens: usize,
) -> Vec<TokenId> {
    let reserved = tokenizer.reserved();
    let mut row = Vec::new();
    tokenizer.encode(prompt, &mut row).unwrap();
    if row.is_empty() {
        row.push(reserved.end);
    }
    row.extend(vec![reserved.pause; pauses]);
    let start = row.len();
    while row.len() < start + max_tokens && row.len() <= model.config.context {
        let batch = Batch {
            rows: 1,
            length: row.len(),
            ids: row.as_slice().into(),
            prefixes: vec![u32::try_from(start - pauses).unwrap()],
            end: Some(reserved.end),
            ..Batch::default()
        };
        let logits: Vec<f32> = model.logits_of(&batch).into_data().iter().collect();
        let last = &logits[(row.len() - 1) * model.config.vocab_size..];
        let allowed = |id: &usize| {
            let id = TokenId(u32::try_from(*id).unwrap());
            id != reserved.pause && id != reserved.pad && id.0 < tokenizer.vocab_size()
        };
        let best = (0..last.len())
            .filter(allowed)
            .max_by(|a, b| last[*a].total_cmp(&last[*b]));
        let best = TokenId(u32::try_from(best.unwrap()).unwrap());
        if best == reserved.end {
            break;
        }
        row.push(best);
    }
    row.split_off(start)
}

#[test]
fn greedy_answers_equal_those_of_the_naive_twin() {
    let (model, tokenizer) = (model(270), tokenizer());
    let mut all = Vec::new();
    for (attention, window) in [
        (Attention::Causal, None),
        (Attention::PrefixLm, None),
        (Attention::Document, None),
        (Attention::PrefixLm, Some(4)),
    ] {
        let config = Config {
            attention,
            window,
            ..model.config.clone()
        };
        let model = Model::from_values(&config, model.values(), &Device::flex());
        all.push(answers(&model, &tokenizer));
    }
    // A prompt that is read in both directions is read otherwise; documents differ
    // from plain rows where the prompt is an end.
    assert!(all[0].values().zip(all[1].values()).any(|(a, b)| a != b));
    let (causal, documents) = (&all[0], &all[2]);
    let differ = causal
        .iter()
        .filter(|(key, answer)| documents[*key] != **answer);
    let differ: Vec<&str> = differ.map(|((prompt, _), _)| prompt.as_str()).collect();
    assert!(
        !differ.is_empty() && differ.iter().all(|prompt| prompt.is_empty()),
        "{differ:?}"
    );
}

/// Answers to some prompts with some numbers of pauses, which are those of the twin.
fn answers(model: &Model, tokenizer: &Tokenizer) -> BTreeMap<(String, usize), Vec<TokenId>> {
    let mut answers = BTreeMap::new();
    for prompt in ["abc", "Q: what?", "é", ""] {
        for pauses in [0, 1, 7] {
            let expected = naive(model, tokenizer, prompt, pauses, 50);
            let generator = Generator::new(model, self::tokenizer());
            let request = Request {
                pauses: u32::try_from(pauses).unwrap(),
                max_tokens: 50,
                sampling: Sampling::Greedy,
                key: Key::new(1),
            };
            let answer = generator.answer(prompt, &request).unwrap();
            assert_eq!(answer.ids, expected, "{prompt} with {pauses} pauses");
            answers.insert((prompt.to_string(), pauses), answer.ids);
        }
    }
    let different: BTreeSet<_> = answers.values().collect();
    assert!(
        3 < different.len(),
        "the model hears neither prompts nor pauses"
    );
    answers
}

#[test]
fn streamed_text_is_the_answer_and_the_key_decides_it() {
    let generator = Generator::new(&model(259), tokenizer());
    let answer = |key| {
        let request = Request {
            pauses: 2,
            max_tokens: 30,
            sampling: Sampling::Random {
                temperature: 1.5,
                top_k: None,
                top_p: None,
            },
            key: Key::new(key).stream(Stream::Sampling),
        };
        let mut pieces = Vec::new();
        let mut on_text = |text: &str| pieces.push(text.to_owned());
        let streamed = generator.stream("abc", &request, &mut on_text).unwrap();
        assert_eq!(pieces.concat(), streamed.text);
        assert_eq!(generator.answer("abc", &request).unwrap(), streamed);
        (pieces, streamed)
    };
    let answers: Vec<_> = (0..8).map(answer).collect();
    assert_eq!(answer(3), answers[3]);
    assert_ne!(answers[0].1.ids, answers[1].1.ids);
    // Random bytes form characters of several bytes now and then, and broken ones.
    assert!(
        answers
            .iter()
            .any(|(pieces, answer)| pieces.len() < answer.ids.len())
    );
}
