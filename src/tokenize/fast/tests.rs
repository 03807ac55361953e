//! The ids of the fast path against those of the library, family by family.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::super::tokens::Tokens;
use super::super::{Config, Error, SpecialText, Tokenizer, Training, train};
use super::level::SimdLevel;
use super::recognise::{Pattern, recognise};
use crate::fs;
use crate::token::TokenId;

const TEXT: &str = "It's the cat's mat, isn't it? The year 2024 was 'grand'; they'll say: “we’ve seen 1,234,567 things”.\n\n\
    fn main() {\n    println!(\"naïve café — Straße {}\", x_1);\n}\r\n\t日本語のテキスト。これはペンです。 Привет, мир! ПРИВЕТ\n \
    e\u{301}a\u{308} हिन्दी भाषा 한국어 ../path/to/file iPhone XMLHttpRequest    ten   spaces\u{a0}\u{3000}end 🙂🙂 ";

/// The exact structures of the families on a small vocabulary.
fn family(name: &str) -> Value {
    let training = Training {
        vocab_size: 700,
        sample_bytes: 1 << 20,
    };
    let mut texts = (0..40).map(|_| Ok(TEXT.to_owned()));
    let mut json = train::train(&mut texts, &training).unwrap();
    let split = |pattern: Pattern, behavior: &str, invert: bool| {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern.regex() }, "behavior": behavior, "invert": invert },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false },
        ] })
    };
    let added = |id: u32, content: &str, special: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": !special, "special": special })
    };
    match name {
        "gpt2" => {}
        "gpt-neox" => {
            json["normalizer"] = json!({ "type": "NFC" });
            let spaces = (2..9).map(|n| added(698 + n, &" ".repeat(n as usize), false));
            let mut tokens: Vec<Value> = spaces.collect();
            tokens.push(added(707, "<|x|> ", true));
            json["added_tokens"] = Value::from(tokens);
        }
        "cl100k" => json["pre_tokenizer"] = split(Pattern::Cl100k, "Removed", true),
        "llama3" => {
            json["pre_tokenizer"] = split(Pattern::Cl100k, "Isolated", false);
            json["model"]["ignore_merges"] = json!(true);
            // Words that no merges make, alone or within a piece.
            for (id, word) in (0..).zip(["Ġthings", "Ġqqq", "zz", "ĠÐ¿Ð¾"]) {
                json["model"]["vocab"][word] = json!(700 + id);
            }
        }
        "qwen" => {
            json["normalizer"] = json!({ "type": "NFC" });
            json["pre_tokenizer"] = split(Pattern::Qwen, "Isolated", false);
            json["added_tokens"] =
                json!([added(700, "<|end|>", true), added(701, "<think>", false)]);
            json["added_tokens"][1]["normalized"] = json!(false);
        }
        "o200k" => json["pre_tokenizer"] = split(Pattern::O200k, "Removed", true),
        _ => unreachable!(),
    }
    json
}

const FAMILIES: [&str; 6] = ["gpt2", "gpt-neox", "cl100k", "llama3", "qwen", "o200k"];

fn open(json: Value, special: SpecialText) -> Tokenizer {
    let config = Config {
        parse_special: special == SpecialText::Parsed,
        ..Config::default()
    };
    Tokenizer::with_reserved(json, &config).unwrap()
}

fn check(tokenizer: &Tokenizer, text: &str, what: &str) {
    let (mut found, mut expected) = (Vec::new(), Vec::new());
    let own = tokenizer
        .encode(text, &mut found)
        .map_err(|error| error.to_string());
    let library = tokenizer.encode_by_library(text, &mut expected);
    assert_eq!(
        own,
        library.map_err(|error| error.to_string()),
        "{what}: {text:?}"
    );
    if found != expected {
        let at = found
            .iter()
            .zip(&expected)
            .take_while(|(a, b)| a == b)
            .count();
        let near =
            |ids: &[TokenId]| tokenizer.decode(&ids[at.saturating_sub(5)..ids.len().min(at + 5)]);
        panic!(
            "{what}: token {at} differs: {:?}, {:?}",
            near(&found),
            near(&expected)
        );
    }
}

/// Where merges are ignored for words, a word alone is not what it is in a longer piece,
/// though both are encoded again and again.
#[test]
fn a_part_of_a_piece_is_no_word() {
    let tokenizer = open(family("llama3"), SpecialText::Ordinary);
    let part = " по日日日日日日日日日";
    for text in [" по", part, " по", part] {
        check(&tokenizer, &text.repeat(3), "llama3");
    }
    check(&tokenizer, &[" по", part].concat().repeat(99), "llama3");
    check(&tokenizer, &"日日по".repeat(9_999), "llama3");
}

fn texts() -> impl Strategy<Value = String> {
    let words: Vec<&str> = TEXT.split_inclusive(' ').collect();
    let some = prop::collection::vec(prop::sample::select(words), 0..40);
    let special = r"(<\|x\|> | {1,12}|<think>|<\|end\|>|<\|pause\|>|<|a|e|\x{301}|Å){0,20}";
    prop_oneof![
        any::<String>(),
        some.prop_map(|words| words.concat()),
        special,
        "[a-e '\n]{0,90}",
        "( |a|日|本|語|по|[日本語のпо]{12}){0,9}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn ids_are_the_librarys(text in texts()) {
        thread_local! {
            static TOKENIZERS: Vec<(String, Tokenizer)> = FAMILIES.iter().flat_map(|name| {
                [SpecialText::Ordinary, SpecialText::Parsed]
                    .map(|special| (format!("{name}, {special:?}"), open(family(name), special)))
            }).collect();
        }
        TOKENIZERS.with(|all| all.iter().for_each(|(name, tokenizer)| check(tokenizer, &text, name)));
    }
}

#[test]
fn every_family_takes_the_fast_path() {
    let level = SimdLevel::best().name();
    for (name, pattern) in FAMILIES
        .into_iter()
        .zip(["gpt2", "gpt2", "cl100k", "cl100k", "qwen", "o200k"])
    {
        let path = open(family(name), SpecialText::Ordinary).path();
        let expected = [
            format!("{pattern}, {level}"),
            format!("{pattern}, portable"),
        ];
        assert!(expected.contains(&path), "{name}: {path}");
    }
}

#[test]
fn long_words_and_long_white_space_have_the_ids_of_the_library() {
    for name in FAMILIES {
        let tokenizer = open(family(name), SpecialText::Ordinary);
        for length in [15, 16, 17, 47, 48, 49, 50, 191, 192, 193, 5_000, 100_000] {
            for unit in ["a", "the", "é", "日本", " ", "\n", "!", "abcé", "7", " \n"] {
                let text = unit.repeat(length / unit.len() + 1);
                check(&tokenizer, &text, name);
                check(&tokenizer, &format!("x{text}y"), name);
            }
        }
    }
}

#[test]
fn more_pieces_than_the_cache_holds_keep_their_ids() {
    let tokenizer = open(family("cl100k"), SpecialText::Ordinary);
    let mut random = 1u64;
    let mut words = String::new();
    while words.len() < 3 << 20 {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let word = random >> 20;
        let repeats = if u64::is_multiple_of(word, 7) { 4 } else { 1 };
        words += &format!(
            " {}{}",
            ["w", "é", "日"][(word % 3) as usize],
            format!("{:x}", word % 900_000)
                .replace(|c: char| c.is_ascii_digit(), "k")
                .repeat(repeats)
        );
    }
    let mut twice = Vec::new();
    tokenizer.encode(&words, &mut twice).unwrap();
    let half = twice.len();
    tokenizer.encode(&words, &mut twice).unwrap();
    assert!(twice[..half] == twice[half..]);
    check(
        &tokenizer,
        &words[..words.floor_char_boundary(200_000)],
        "the start",
    );
}

#[test]
fn what_is_not_known_exactly_goes_to_the_library() {
    let changes = [
        ("/normalizer", json!({ "type": "NFKC" })),
        ("/normalizer", json!({ "type": "NFC", "more": 1 })),
        ("/pre_tokenizer/add_prefix_space", json!(true)),
        ("/pre_tokenizer/use_regex", json!(false)),
        ("/model/byte_fallback", json!(true)),
        ("/model/end_of_word_suffix", json!("</w>")),
        ("/model/unheard_of", json!(1)),
    ];
    for (field, value) in changes {
        let mut json = family("gpt2");
        let (parent, key) = field.rsplit_once('/').unwrap();
        let parent = match parent {
            "" => &mut json,
            parent => json.pointer_mut(parent).unwrap(),
        };
        parent[key] = value;
        assert_eq!(
            open(json, SpecialText::Ordinary).path(),
            "library",
            "{field}"
        );
    }
    let mut json = family("cl100k");
    let regex = "/pre_tokenizer/pretokenizers/0/pattern/Regex";
    *json.pointer_mut(regex).unwrap() = json!(Pattern::Cl100k.regex().replace("{1,3}", "{1,4}"));
    assert_eq!(open(json, SpecialText::Ordinary).path(), "library");
    let mut json = family("gpt2");
    json["added_tokens"] = json!([{ "id": 700, "content": "<m>", "single_word": false, "lstrip": true,
        "rstrip": false, "normalized": false, "special": false }]);
    assert_eq!(open(json, SpecialText::Ordinary).path(), "library");
    let mut json = family("gpt2");
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let (token, id) = vocab
        .iter()
        .next()
        .map(|(t, id)| (format!("{t}{t}{t}{t}"), id.clone()))
        .unwrap();
    vocab.insert(token, id);
    assert_eq!(
        open(json, SpecialText::Ordinary).path(),
        "library",
        "one id, two words"
    );
}

#[test]
fn verifying_finds_a_difference() {
    let mut tokenizer = open(family("gpt2"), SpecialText::Ordinary).verifying(1.0);
    let mut ids = Vec::new();
    tokenizer.encode(TEXT, &mut ids).unwrap();
    // Another vocabulary in the place of the right one.
    tokenizer.fast = open(family("o200k"), SpecialText::Ordinary).fast;
    let before = ids.clone();
    let error = tokenizer
        .encode("the year 2024 in they'll ABCdef don't", &mut ids)
        .unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    assert_eq!(ids, before);
    let tokenizer = tokenizer.verifying(0.0);
    tokenizer
        .encode("the year 2024 in they'll ABCdef don't", &mut ids)
        .unwrap();
}

#[test]
fn real_vocabularies_take_the_fast_path() {
    let Some(data) = std::env::var_os("PAUSEDATA_SHARED_DATA") else {
        eprintln!("skipped: PAUSEDATA_SHARED_DATA is not set");
        return;
    };
    for name in ["gpt2", "gpt-neox"] {
        let path = Path::new(&data)
            .join("tokenizers")
            .join(name)
            .join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path, &Config::default()).unwrap();
        assert!(
            tokenizer.path().starts_with("gpt2"),
            "{name}: {}",
            tokenizer.path()
        );
        check(&tokenizer, TEXT, name);
        let source = fs::read_text(Path::new("src/tokenize/fast/split.rs")).unwrap();
        check(&tokenizer, &source, name);
    }
}

/// What is known of the tokens without the library is what it says.
#[test]
fn tokens_are_numbered_as_the_library_does() {
    let names = ["gpt2", "gpt-neox", "cl100k", "llama3", "qwen", "o200k"];
    let changes: [fn(&mut Value); 4] = [
        |_| {},
        // Gaps, below and above the words.
        |json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            let largest = vocab.values().filter_map(Value::as_u64).max().unwrap();
            for (token, id) in [("longer", largest + 9), ("\u{20ac}", largest + 3)] {
                vocab.insert(token.into(), id.into());
            }
        },
        // Added tokens that are words of the model, and in another order.
        |json| {
            let tokens = ["the", "<|pause|>", "a"].map(|content| {
                json!({ "id": 9, "content": content, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": true, "special": content != "a" })
            });
            json["added_tokens"] = json!(tokens);
        },
        |json| {
            json["added_tokens"] = json!([]);
        },
    ];
    let mut known = 0;
    for (name, change) in names
        .iter()
        .flat_map(|name| changes.map(|change| (name, change)))
    {
        let mut json = family(name);
        change(&mut json);
        let family = recognise(&json).unwrap();
        let bytes = || Ok(serde_json::to_vec(&json).unwrap());
        let mut own = Tokens::new(&json, Some(&family), bytes).unwrap();
        let mut library = Tokens::new(&json, None, bytes).unwrap();
        known += u32::from(matches!(own, Tokens::Known(_)));
        for round in 0..2 {
            assert_eq!(own.added(), library.added(), "{name}");
            assert_eq!(own.count(), library.count(), "{name}");
            let size = own.vocab_size().unwrap();
            assert_eq!(size, library.vocab_size().unwrap(), "{name}");
            assert_eq!(own.is_byte_level(), library.is_byte_level());
            let spelt = |tokens: &Tokens| {
                let mut spelt = vec![None; size as usize];
                tokens.each(size, |id, token| {
                    spelt[id as usize] = Some(token.to_owned())
                });
                spelt
            };
            assert_eq!(spelt(&own), spelt(&library), "{name}");
            for token in ["the", "a", "<|pause|>", "<|end|>", "longer", "none", "zz"] {
                assert_eq!(own.id(token), library.id(token), "{name}: {token}");
            }
            for id in 0..size {
                // Of several others it may be any.
                let other = |tokens: &Tokens| tokens.other_of(id, "a").is_some();
                assert_eq!(other(&own), other(&library), "{name}: {id}");
            }
            if round == 0 {
                let new = ["<|new|>", "the", "<|end|>", "zz"].map(|t| AddedToken::from(t, true));
                own.add_special(new.to_vec(), bytes).unwrap();
                library.add_special(new.to_vec(), bytes).unwrap();
            }
        }
    }
    assert!(18 < known, "{known} of 24");
}
