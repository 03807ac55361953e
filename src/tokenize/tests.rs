use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn config(pause: &str, end: &str, pad: &str) -> Config {
    Config {
        file: None,
        train: None,
        pause: pause.into(),
        end: end.into(),
        pad: pad.into(),
        pause_tokens: Default::default(),
        parse_special: false,
    }
}

fn defaults() -> Config {
    config("<|pause|>", "<|end|>", "<|pad|>")
}

/// A byte-level BPE trained on repetitive text, which has 100 to 200 merges.
fn trained(vocab_size: u32) -> Tokenizer {
    let text = "The cat sat on the mat, and the other cat ate the oats; naïve €5 日本 \n\n\
        Every word occurs often enough: a pair that occurs once teaches nothing.  It's 1234 \
        pauses long; between them stand spaces, punctuation and <|pause|> looking text;"
        .repeat(10);
    let mut texts = text.split_inclusive(';').map(|text| Ok(text.to_owned()));
    let config = Config {
        train: Some(Training {
            vocab_size,
            sample_bytes: 1 << 20,
        }),
        ..defaults()
    };
    Tokenizer::train(&mut texts, &config).unwrap()
}

/// Words between spaces, a special token, and an added token that is not special.
fn word_level() -> Value {
    let added = |id: u32, content: &str, special: bool| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": special })
    };
    json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 2,
            "strategy": "LongestFirst", "stride": 0 }, "padding": null,
        "added_tokens": [added(0, "[UNK]", true), added(4, "[BOS]", true), added(5, "__", false)],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "unk_token": "[UNK]",
            "vocab": { "[UNK]": 0, "the": 1, "cat": 2, "sat": 3 } },
    })
}

fn open(json: &Value, config: &Config) -> Result<Tokenizer, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    fs::write(&path, json.to_string().as_bytes()).unwrap();
    Tokenizer::from_file(&path, config)
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.encode(text, &mut ids).unwrap();
    ids.into_iter().map(|id| id.0).collect()
}

/// The library, called plainly on the same JSON.
fn library(json: &[u8], special: SpecialText) -> Engine {
    let mut engine = Engine::from_bytes(json).unwrap();
    engine.set_encode_special_tokens(special == SpecialText::Ordinary);
    engine
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn refused(result: Result<Tokenizer, Error>, expected: Expect) {
    let text = chain(&result.unwrap_err());
    // The folder is a temporary one.
    let text = match (text.find('`'), text.find("/tokenizer.json`")) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..=from], &text[to + 1..]),
        _ => text,
    };
    // Where the library's parser stood is its own business.
    let text = match text.find("refuses it") {
        Some(_) => text.split(" at line ").next().unwrap(),
        None => &text,
    };
    expected.assert_eq(text);
}

#[test]
fn training_twice_gives_the_same_bytes() {
    for vocab_size in [256, 300, 512] {
        let (first, second) = (trained(vocab_size), trained(vocab_size));
        assert_eq!(first.to_json(), second.to_json());
        assert_eq!(first.digest(), second.digest());
    }
    assert_eq!(trained(300).vocab_size(), 303);
    // The text has fewer different pairs than 512 - 256.
    assert!(trained(512).vocab_size() < 512);
    assert_ne!(trained(300).digest(), trained(301).digest());
}

#[test]
fn training_needs_room_for_every_byte_and_text() {
    let train = |vocab_size, text: &str| {
        let config = Config {
            train: Some(Training {
                vocab_size,
                sample_bytes: 100,
            }),
            ..defaults()
        };
        Tokenizer::train(&mut [Ok(text.to_owned())].into_iter(), &config)
    };
    refused(
        train(255, "text"),
        expect!["expected a vocabulary of 256 to 16777216 tokens, found vocab_size = 255"],
    );
    refused(
        train(256, ""),
        expect!["there is no text to train a tokenizer on"],
    );
    let config = Config {
        train: Some(Training {
            vocab_size: 256,
            sample_bytes: 1 << 31,
        }),
        ..defaults()
    };
    refused(
        Tokenizer::train(&mut [Ok("text".to_owned())].into_iter(), &config),
        expect!["expected sample_bytes of at most 2147483647, found 2147483648"],
    );
    let failing = || Err::<String, BoxError>("row 3 is no text".into());
    let config = Config {
        train: Some(Training {
            vocab_size: 256,
            sample_bytes: 100,
        }),
        ..defaults()
    };
    refused(
        Tokenizer::train(&mut [failing()].into_iter(), &config),
        expect!["cannot read the text to train a tokenizer on: row 3 is no text"],
    );
}

#[test]
fn reserved_tokens_are_added_once() {
    let first = open(&word_level(), &defaults()).unwrap();
    assert_eq!(first.vocab_size(), 9);
    let reserved = first.reserved();
    assert_eq!(
        [reserved.pause, reserved.end, reserved.pad],
        [6, 7, 8].map(TokenId)
    );
    let json: Value = serde_json::from_slice(first.to_json()).unwrap();
    let again = open(&json, &defaults()).unwrap();
    assert_eq!(again.to_json(), first.to_json());
    let reopened =
        Tokenizer::from_json(first.to_json(), first.reserved(), SpecialText::Ordinary).unwrap();
    assert_eq!(reopened.digest(), first.digest());
    assert_eq!(reopened.token(reserved.pause).as_deref(), Some("<|pause|>"));
}

#[test]
fn a_token_that_exists_is_reused_and_made_special() {
    let tokenizer = open(&word_level(), &config("__", "[BOS]", "<|pad|>")).unwrap();
    let reserved = tokenizer.reserved();
    assert_eq!(
        [reserved.pause, reserved.end, reserved.pad],
        [5, 4, 6].map(TokenId)
    );
    // As a plain added token it was found inside words; reserved, it is unknown text.
    assert_eq!(ids(&tokenizer, "the __ cat"), [1, 0, 2]);
}

#[test]
fn names_that_cannot_be_reserved_are_refused() {
    let open = |pause, end, pad| open(&word_level(), &config(pause, end, pad));
    refused(
        open("<p>", "<e>", "<p>"),
        expect![
            "cannot use tokenizer `tokenizer.json`: the pause token and the pad token are the same: `<p>`"
        ],
    );
    refused(
        open("<p>", "", "<q>"),
        expect!["cannot use tokenizer `tokenizer.json`: the name of the end token is empty"],
    );
    refused(
        open("cat", "<e>", "<q>"),
        expect![
            "cannot use tokenizer `tokenizer.json`: the pause token `cat` is an ordinary token with id 2, which text yields; choose a name that is no word of the vocabulary"
        ],
    );
}

#[test]
fn text_that_looks_special_is_ordinary() {
    let tokenizer = trained(300);
    for text in [
        "<|pause|>",
        "a<|end|>b",
        "<|pad|><|pad|>",
        "<|pause|> <|end|>",
    ] {
        let found = ids(&tokenizer, text);
        assert!(found.iter().all(|id| *id < 300), "{text}: {found:?}");
        let found: Vec<TokenId> = found.into_iter().map(TokenId).collect();
        assert_eq!(tokenizer.decode(&found).unwrap(), text);
    }
    let (pause, end) = (tokenizer.reserved().pause, tokenizer.reserved().end);
    assert_eq!(tokenizer.decode(&[pause, end]).unwrap(), "<|pause|><|end|>");
}

#[test]
fn parsed_special_text_yields_special_ids_but_never_reserved_ones() {
    let parsed = Config {
        parse_special: true,
        ..defaults()
    };
    let tokenizer = open(&word_level(), &parsed).unwrap();
    assert_eq!(ids(&tokenizer, "[BOS] the __ cat"), [4, 1, 5, 2]);
    let mut ids = vec![TokenId(3)];
    let error = tokenizer.encode("the cat<|end|>", &mut ids).unwrap_err();
    assert_eq!(
        error.to_string(),
        "text yields the special token `<|end|>` (id 7) at token 2"
    );
    assert_eq!(ids, [TokenId(3)]);
}

#[test]
fn a_model_that_spells_a_special_token_is_an_error_and_not_its_id() {
    // A word vocabulary that holds its special token finds it in plain text.
    let mut json = word_level();
    json["model"]["vocab"]["[BOS]"] = 4.into();
    let tokenizer = open(&json, &defaults()).unwrap();
    let error = tokenizer.encode("the [BOS]", &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "text yields the special token `[BOS]` (id 4) at token 1"
    );
    // Unknown words still yield the unknown token, special as it is.
    assert_eq!(ids(&tokenizer, "the dog"), [1, 0]);
}

#[test]
fn truncation_and_padding_of_the_file_do_not_apply() {
    let tokenizer = open(&word_level(), &defaults()).unwrap();
    assert_eq!(ids(&tokenizer, "the cat sat the cat"), [1, 2, 3, 1, 2]);
    let json: Value = serde_json::from_slice(tokenizer.to_json()).unwrap();
    assert_eq!(json["truncation"], Value::Null);
}

#[test]
fn broken_files_are_errors_that_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let open_text = |text: &str| {
        fs::write(&path, text.as_bytes()).unwrap();
        Tokenizer::from_file(&path, &defaults())
    };
    refused(
        open_text("{\"version\": "),
        expect![
            "cannot use tokenizer `tokenizer.json`: expected the JSON of a Hugging Face tokenizer: EOF while parsing a value at line 1 column 12"
        ],
    );
    refused(
        open_text("[1, 2]"),
        expect![
            "cannot use tokenizer `tokenizer.json`: field `tokenizer.json`: expected an object, found [1,2]"
        ],
    );
    refused(
        open_text("{}"),
        expect![
            "cannot use tokenizer `tokenizer.json`: the `tokenizers` library refuses it: Model missing."
        ],
    );
    let with = |path: &str, value: Value| {
        let mut json: Value = serde_json::from_slice(trained(260).to_json()).unwrap();
        *json.pointer_mut(path).unwrap() = value;
        open_text(&json.to_string())
    };
    refused(
        with("/model/dropout", json!(0.1)),
        expect![
            "cannot use tokenizer `tokenizer.json`: field `model.dropout`: expected no dropout, which makes ids random, found 0.1"
        ],
    );
    refused(
        with("/model/merges/0", json!(["zz", "q"])),
        expect![
            "cannot use tokenizer `tokenizer.json`: the `tokenizers` library refuses it: Token `zz` out of vocabulary"
        ],
    );
    refused(
        with("/model/vocab/a", json!(u32::MAX)),
        expect![
            "cannot use tokenizer `tokenizer.json`: expected ids below 16777216, found 4294967295"
        ],
    );
    // The library subtracts this prefix's length from that of shorter tokens and panics.
    refused(
        with("/model/continuing_subword_prefix", json!("############")),
        expect![
            "cannot use tokenizer `tokenizer.json`: the `tokenizers` library refuses it: it stopped with `range end index 18446744073709551606 out of range for slice of length 3`"
        ],
    );
    let missing = Tokenizer::from_file(Path::new("/nonexistent/tokenizer.json"), &defaults());
    assert!(
        missing
            .unwrap_err()
            .to_string()
            .contains("/nonexistent/tokenizer.json")
    );
}

#[test]
fn damaged_files_never_panic() {
    let json = word_level().to_string();
    let open = |bytes: &[u8]| {
        let json = reserve::parse(bytes)?;
        let tokenizer = Tokenizer::with_reserved(json, &defaults())?;
        let mut ids = Vec::new();
        tokenizer.encode("the cat __ dog [BOS]", &mut ids)?;
        tokenizer.decode(&ids)
    };
    for cut in 0..json.len() {
        assert!(open(&json.as_bytes()[..cut]).is_err());
    }
    for at in 0..json.len() {
        for with in *b"\0\"9,}x" {
            let mut bytes = json.clone().into_bytes();
            bytes[at] = with;
            drop(open(&bytes));
        }
    }
}

#[test]
fn reserved_ids_of_a_file_are_checked() {
    let tokenizer = trained(260);
    let from_json =
        |reserved| Tokenizer::from_json(tokenizer.to_json(), reserved, SpecialText::Ordinary);
    let good = tokenizer.reserved();
    refused(
        from_json(Reserved {
            pause: TokenId(65),
            ..good
        }),
        expect!["the pause id 65 is not a special token of its own: no added token has it"],
    );
    refused(
        from_json(Reserved {
            pad: good.end,
            ..good
        }),
        expect!["the end token and the pad token are the same: `<|end|>`"],
    );
    let ids = [TokenId(70), TokenId(9_999)];
    assert_eq!(
        tokenizer.decode(&ids).unwrap_err().to_string(),
        "id 9999 at position 1 is not in the vocabulary of 263 ids"
    );
}

#[test]
fn threads_may_share_a_tokenizer() {
    fn shareable<T: Send + Sync>(_: &T) {}
    let tokenizer = trained(300);
    shareable(&tokenizer);
    let expected = ids(&tokenizer, "the cat sat");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(ids(&tokenizer, "the cat sat"), expected));
        }
    });
}

proptest! {
    /// Law 7 and law 3 on arbitrary text.
    #[test]
    fn ids_are_the_librarys_and_decode_to_the_text(
        text in prop_oneof![any::<String>(), "[a-c <|>endpause'\n]{0,60}", "(<\\|pause\\|>|é|  |the ){0,9}"],
    ) {
        thread_local! {
            static TOKENIZER: Tokenizer = trained(400);
            static LIBRARY: Engine = TOKENIZER.with(|t| library(t.to_json(), SpecialText::Ordinary));
        }
        TOKENIZER.with(|tokenizer| {
            let found = ids(tokenizer, &text);
            let expected = LIBRARY.with(|library| library.encode(text.as_str(), false).unwrap());
            prop_assert_eq!(&found, expected.get_ids());
            let found: Vec<TokenId> = found.into_iter().map(TokenId).collect();
            prop_assert_eq!(tokenizer.decode(&found).unwrap(), text);
            Ok(())
        })?;
    }
}

/// The folder of shared research data, or a message that the test has nothing to do.
fn shared_data() -> Option<PathBuf> {
    let folder = std::env::var_os("PAUSEDATA_SHARED_DATA").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: PAUSEDATA_SHARED_DATA is not set");
    }
    folder
}

#[test]
fn law_7_holds_for_known_tokenizers_on_real_text() {
    let Some(data) = shared_data() else { return };
    let mut texts = vec![
        "a  b   c\td\r\n\u{3000}é e\u{301} 日本語 🙂 it's I'LL 1234 </s> <|endoftext|>".to_owned(),
    ];
    let start = |path: &str, open: fn(File) -> Box<dyn Read>| {
        let file = fs::open(&data.join("pretrain").join(path)).unwrap();
        let mut bytes = Vec::new();
        open(file).take(30_000).read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    texts.push(start("tinyshakespeare/input.txt", |file| Box::new(file)));
    texts.push(start(
        "stats-book/c4-style.00000-of-00001.json.gz",
        |file| Box::new(flate2::read::GzDecoder::new(file)),
    ));
    texts.push(start(
        "eltec-eng/eltec-eng-00000-of-00004.jsonl.zst",
        |file| Box::new(zstd::Decoder::new(file).unwrap()),
    ));
    for name in [
        "tokenizers/gpt2",
        "tokenizers/gpt-neox",
        "tokenizers/torchtitan-small",
        "models/stories260k",
    ] {
        let path = data.join(name).join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&path, &defaults()).unwrap();
        let library = library(&fs::read(&path).unwrap(), SpecialText::Ordinary);
        for text in &texts {
            let found = ids(&tokenizer, text);
            let expected = library.encode(text.as_str(), false).unwrap();
            assert_eq!(found, expected.get_ids(), "{name}");
            let decoded = tokenizer.decode(&found.iter().copied().map(TokenId).collect::<Vec<_>>());
            assert_eq!(
                decoded.unwrap(),
                library.decode(&found, false).unwrap(),
                "{name}"
            );
        }
    }
}

#[test]
fn known_ids_of_gpt2_and_stories260k() {
    let Some(data) = shared_data() else { return };
    let parsed = Config {
        parse_special: true,
        ..defaults()
    };
    let gpt2 = data.join("tokenizers/gpt2/tokenizer.json");
    let tokenizer = Tokenizer::from_file(&gpt2, &parsed).unwrap();
    assert_eq!(
        ids(&tokenizer, "Hello world<|endoftext|>"),
        [15496, 995, 50256]
    );
    assert_eq!(tokenizer.vocab_size(), 50_260);
    let ended = config("<|pause|>", "<|endoftext|>", "<|pad|>");
    let tokenizer = Tokenizer::from_file(&gpt2, &ended).unwrap();
    assert_eq!(tokenizer.reserved().end, TokenId(50_256));
    assert_eq!(tokenizer.vocab_size(), 50_259);
    assert!(!ids(&tokenizer, "Hello world<|endoftext|>").contains(&50_256));
    let neox = data.join("tokenizers/gpt-neox/tokenizer.json");
    let tokenizer = Tokenizer::from_file(&neox, &defaults()).unwrap();
    assert!(
        ids(&tokenizer, "a   b").contains(&50_275),
        "runs of spaces are part of its vocabulary"
    );
    let folder = data.join("models/stories260k");
    let tokenizer = Tokenizer::from_file(&folder.join("tokenizer.json"), &defaults()).unwrap();
    let expected: Value =
        serde_json::from_slice(&fs::read(&folder.join("expected.json")).unwrap()).unwrap();
    let found = ids(&tokenizer, expected["prompt"].as_str().unwrap());
    // The reference puts its beginning-of-text token, id 1, before the text.
    let with_start: Vec<Value> = [1].into_iter().chain(found).map(Value::from).collect();
    assert_eq!(Value::from(with_start), expected["prompt_ids"]);
}

#[test]
fn training_on_real_text_twice_gives_the_same_bytes() {
    let Some(data) = shared_data() else { return };
    let text = fs::read_text(&data.join("pretrain/tinyshakespeare/input.txt")).unwrap();
    let config = Config {
        train: Some(Training {
            vocab_size: 2048,
            sample_bytes: 400_000,
        }),
        ..defaults()
    };
    let train = || {
        let mut paragraphs = text.split_inclusive("\n\n").map(|text| Ok(text.to_owned()));
        Tokenizer::train(&mut paragraphs, &config).unwrap()
    };
    let tokenizer = train();
    assert!(tokenizer.to_json() == train().to_json());
    assert_eq!(tokenizer.vocab_size(), 2051);
    let found: Vec<TokenId> = ids(&tokenizer, &text).into_iter().map(TokenId).collect();
    assert!(tokenizer.decode(&found).unwrap() == text);
}
