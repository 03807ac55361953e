//! Tokenizers that were made to harm.

use std::fs;

use serde_json::{Value, json};

use crate::hostile::{Case, End, case, sparse};
use crate::samples;

/// All of them.
pub fn all() -> Vec<Case> {
    let lists = [
        large_tokenizers(),
        vocabularies(),
        normalizers(),
        patterns(),
    ];
    lists.into_iter().flatten().collect()
}

/// A `tokenizer.json` of this text.
fn text(name: &'static str, end: End, text: fn() -> String) -> Case {
    case(name, "tokenizer.json", end, move |path| {
        fs::write(path, text()).unwrap();
    })
}

/// A changed tokenizer of a family.
fn family(name: &'static str, end: End, family: &'static str, change: fn(&mut Value)) -> Case {
    case(name, "tokenizer.json", end, move |path| {
        let families = samples::tokenizers();
        let (_, json) = families.iter().find(|(name, _)| *name == family).unwrap();
        let mut json = json.clone();
        change(&mut json);
        fs::write(path, json.to_string()).unwrap();
    })
}

/// A tokenizer that splits text by this regex.
fn regex(name: &'static str, end: End, regex: fn() -> String) -> Case {
    case(name, "tokenizer.json", end, move |path| {
        let mut json = samples::tokenizers()[1].1.clone();
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex().into();
        fs::write(path, json.to_string()).unwrap();
    })
}

/// Tokenizers of absurd size.
fn large_tokenizers() -> Vec<Case> {
    use End::{Any, Refused};
    let refused: End = Refused(&[]);
    vec![
        case(
            "tokenizer: 200 MB",
            "tokenizer.json",
            Refused(&["the most that it may have"]),
            |path| sparse(path, 200 << 20),
        ),
        text("tokenizer: a million brackets", refused, || {
            format!("{{\"model\": {}", "[".repeat(1_000_000))
        }),
        text("tokenizer: 30 million values", Refused(&["values"]), || {
            format!("{{\"model\": [{}0]}}", "0,".repeat(30_000_000))
        }),
        text("tokenizer: 4 million values", refused, || {
            format!("{{\"model\": [{}0]}}", "{},".repeat(2_000_000))
        }),
        text("tokenizer: 800,000 tokens", Any, || {
            let vocab: String = (0..800_000).map(|id| format!("\"t{id}\":{id},")).collect();
            format!(
                "{{\"model\": {{\"type\":\"WordLevel\",\"unk_token\":\"t0\",\"vocab\":{{{vocab}\"a\":1000000}}}}}}"
            )
        }),
    ]
}

/// Vocabularies that contradict themselves.
fn vocabularies() -> Vec<Case> {
    use End::Any;
    let refused: End = End::Refused(&[]);
    vec![
        family(
            "tokenizer: an id of 2^32 - 1",
            refused,
            "byte-level",
            |json| json["model"]["vocab"]["zz"] = json!(u32::MAX),
        ),
        family("tokenizer: an id of 2^24", refused, "wordlevel", |json| {
            json["model"]["vocab"]["zz"] = json!(1 << 24)
        }),
        family(
            "tokenizer: an added id of 2^32 - 1",
            Any,
            "wordlevel",
            |json| json["added_tokens"][1]["id"] = json!(u32::MAX),
        ),
        family("tokenizer: one id for all", Any, "byte-level", |json| {
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            vocab.values_mut().for_each(|id| *id = json!(0));
        }),
        family(
            "tokenizer: merges of themselves",
            Any,
            "byte-level",
            |json| {
                json["model"]["merges"] = json!([["r", "i"], ["r", "i"], ["ri", "ri"], ["", ""]]);
            },
        ),
        family(
            "tokenizer: merges of strangers",
            refused,
            "byte-level",
            |json| json["model"]["merges"] = json!([["zz", "qq"]]),
        ),
        family(
            "tokenizer: a long prefix of subwords",
            refused,
            "byte-level",
            |json| {
                json["model"]["continuing_subword_prefix"] = json!("############");
            },
        ),
        family("tokenizer: no vocabulary", Any, "byte-level", |json| {
            json["model"]["vocab"] = json!({});
            json["model"]["merges"] = json!([]);
        }),
        family("tokenizer: no pieces", Any, "unigram", |json| {
            json["model"]["vocab"] = json!([])
        }),
        family("tokenizer: an unknown piece", Any, "unigram", |json| {
            json["model"]["unk_id"] = json!(9_999_999)
        }),
        family("tokenizer: endless scores", Any, "unigram", |json| {
            json["model"]["vocab"] =
                json!([["<unk>", 0.0], ["a", 1e308], ["aa", 1e308], ["aaa", -1e308]]);
        }),
    ]
}

/// Fields that decide how text is cut and changed.
fn normalizers() -> Vec<Case> {
    use End::{Any, Refused};
    vec![
        family(
            "tokenizer: words of any length",
            Refused(&["max_input_chars_per_word"]),
            "wordpiece",
            |json| {
                json["model"]["max_input_chars_per_word"] = json!(u64::MAX);
            },
        ),
        family("tokenizer: words of no length", Any, "wordpiece", |json| {
            json["model"]["max_input_chars_per_word"] = json!(0)
        }),
        family(
            "tokenizer: an empty added token",
            Any,
            "byte-level",
            |json| json["added_tokens"][1]["content"] = json!(""),
        ),
        family("tokenizer: a map of junk", Any, "unigram", |json| {
            let junk = "AAEAAP////8".repeat(40);
            json["normalizer"] = json!({ "type": "Precompiled", "precompiled_charsmap": junk });
        }),
        family(
            "tokenizer: a replacement of nothing",
            Any,
            "wordlevel",
            |json| {
                json["normalizer"] =
                    json!({ "type": "Replace", "pattern": { "String": "" }, "content": "xxxx" });
            },
        ),
        family(
            "tokenizer: a replacement that grows",
            Any,
            "wordlevel",
            |json| {
                let grow = json!({ "type": "Replace", "pattern": { "Regex": "." }, "content": "x".repeat(60) });
                json["normalizer"] = json!({ "type": "Sequence", "normalizers": [grow, grow] });
            },
        ),
    ]
}

/// Regexes that take time, memory or the stack.
fn patterns() -> Vec<Case> {
    use End::Any;
    let refused: End = End::Refused(&[]);
    vec![
        regex("tokenizer: a regex without end", Any, || {
            "(?=(a+)+b)".into()
        }),
        regex("tokenizer: a regex that looks back", Any, || {
            "(a*)*\\1b".into()
        }),
        regex("tokenizer: a regex of a billion states", refused, || {
            "((a{1000}){1000}){1000}".into()
        }),
        regex("tokenizer: a regex of 100,000 brackets", refused, || {
            format!("{}a{}", "(".repeat(100_000), ")".repeat(100_000))
        }),
        regex("tokenizer: a regex that is none", refused, || "(".into()),
        regex("tokenizer: a regex of nothing", Any, String::new),
    ]
}
