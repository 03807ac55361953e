//! Small models of other programs, taken over and handed on.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{export, import};
use crate::fs;
use crate::manifest::TOKENIZER_FILE;
use crate::model::config::Config;
use crate::model::folder::CONFIG_FILE;
use crate::model::hub::{self, tensors};
use crate::model::{Device, Model, testing};
use crate::rng::Key;
use crate::token::TokenId;
use crate::tokenize::{self, PauseTokens, Tokenizer, Training};
use crate::train::checkpoint;

/// Ids of the foreign vocabulary: 256 bytes, and then this token.
const BEGIN: u32 = 256;

/// What a post-processor that puts `<s>` before every text says.
fn before_every_text() -> Value {
    let special = json!({ "SpecialToken": { "id": "<s>", "type_id": 0 } });
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), text("B")],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [BEGIN], "tokens": ["<s>"] } },
    })
}

/// A `tokenizer.json` without reserved tokens.
fn tokenizer(post_processor: &Value) -> Value {
    let config = tokenize::Config {
        train: Some(Training {
            vocab_size: 256,
            sample_bytes: 1000,
        }),
        ..tokenize::Config::default()
    };
    let trained = Tokenizer::train(&mut [Ok("abc".to_owned())].into_iter(), &config).unwrap();
    let mut json: Value = serde_json::from_slice(trained.to_json()).unwrap();
    json["added_tokens"] = json!([{
        "id": BEGIN, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    }]);
    json["post_processor"] = post_processor.clone();
    json
}

/// A folder of another program, and the values of its model.
fn foreign(config: &Config, post_processor: &Value) -> (TempDir, Vec<Vec<f32>>) {
    let folder = tempfile::tempdir().unwrap();
    let values = Model::new(config, Key::new(1), &Device::flex()).values();
    let (json, weights) = hub::to_hub(&values, config).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(&folder.path().join(name), bytes).unwrap();
    write(CONFIG_FILE, json.to_string().as_bytes());
    write(tensors::FILE, &weights);
    write(
        TOKENIZER_FILE,
        tokenizer(post_processor).to_string().as_bytes(),
    );
    (folder, values)
}

fn taken_over(source: &Path) -> (TempDir, import::Imported) {
    let folder = tempfile::tempdir().unwrap();
    let imported = import(&import::Request {
        source: source.to_path_buf(),
        out: folder.path().join("model"),
        ..Default::default()
    });
    (folder, imported.unwrap())
}

fn handed_on(model: PathBuf) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let request = export::Request {
        model,
        out: out.clone(),
        precision: tensors::Precision::F32,
        force: false,
    };
    export(&request).unwrap();
    (folder, out)
}

fn read(folder: &Path, name: &str) -> Value {
    serde_json::from_str(&fs::read_text(&folder.join(name)).unwrap()).unwrap()
}

/// The rows of the embedding, and those of a head of its own.
fn tables(config: &Config, values: &[Vec<f32>]) -> Vec<Vec<Vec<f32>>> {
    let (first, last) = (&values[0], &values[config.n_layers + 1]);
    let size = config.vocab_size * config.d_model;
    // The head stands last in its group.
    let head = (!config.tied).then(|| &last[last.len() - size..]);
    [Some(&first[..size]), head]
        .into_iter()
        .flatten()
        .map(|table| table.chunks(config.d_model).map(<[f32]>::to_vec).collect())
        .collect()
}

/// Whether the vocabulary has room for new tokens or not, and the head a table of its own or
/// not: the rows of new tokens are the mean of all rows of the old ones, and of no others.
#[test]
fn rows_of_new_tokens_are_the_mean_of_the_others() {
    let known = BEGIN as usize + 1;
    for (tied, vocab_size) in [(true, 264), (false, 264), (true, known), (false, known)] {
        let config = Config {
            tied,
            vocab_size,
            ..testing::llama()
        };
        let (source, values) = foreign(&config, &Value::Null);
        let (_folder, imported) = taken_over(source.path());
        assert_eq!(imported.rows, vocab_size.max(known + 3));
        let (grown, after) = checkpoint::read_model(&imported.folder).unwrap();
        assert_eq!(grown.vocab_size, imported.rows);
        let (before, after) = (tables(&config, &values), tables(&grown, &after));
        assert_eq!(
            (before.len(), after.len()),
            (2 - usize::from(tied), before.len())
        );
        for (before, after) in before.iter().zip(&after) {
            for column in 0..config.d_model {
                let sum = before[..known].iter().map(|row| f64::from(row[column]));
                #[expect(clippy::cast_possible_truncation, reason = "weights are single")]
                let mean = (sum.sum::<f64>() / known as f64) as f32;
                assert!(
                    after[known..known + 3]
                        .iter()
                        .all(|row| row[column] == mean)
                );
            }
            assert!(before[..known] == after[..known]);
            let beyond = known + 3..vocab_size.max(known + 3);
            assert!(before.get(beyond.clone()).unwrap_or_default() == &after[beyond]);
        }
    }
}

/// What stands before every text is what the post-processor says, or `tokenizer_config.json`
/// where that knows better; and it goes with the model when it is handed on.
#[test]
fn the_beginning_of_texts_is_the_post_processors() {
    let begins = before_every_text();
    let says = |begins: bool| json!({ "bos_token": "<s>", "add_bos_token": begins });
    for (post_processor, said, expected) in [
        (&begins, None, Some(BEGIN)),
        (&Value::Null, None, None),
        (&begins, Some(says(false)), None),
        (&Value::Null, Some(says(true)), Some(BEGIN)),
    ] {
        let (source, _) = foreign(&small(), post_processor);
        if let Some(said) = &said {
            let path = source.path().join(super::TOKENIZER_CONFIG_FILE);
            fs::write(&path, said.to_string().as_bytes()).unwrap();
        }
        let (_folder, imported) = taken_over(source.path());
        let at = format!("{post_processor} {said:?}");
        assert_eq!(imported.begin, expected.map(TokenId), "{at}");
        assert_eq!(imported.begin_token.as_deref(), expected.map(|_| "<s>"));
        let state = checkpoint::Checkpoint::open(&imported.folder)
            .unwrap()
            .state;
        assert_eq!(state.begin, imported.begin, "{at}");

        let end = imported.reserved.end.0;
        let (_folder, out) = handed_on(imported.folder.clone());
        for name in [CONFIG_FILE, super::GENERATION_FILE] {
            let json = read(&out, name);
            assert_eq!(json["bos_token_id"], expected.unwrap_or(end), "{at} {name}");
            assert_eq!(json["eos_token_id"], end);
        }
        // Whatever said so, the tokenizer does it by itself, and whoever takes it over again
        // is told the same.
        fs::remove_file(&out.join(super::TOKENIZER_CONFIG_FILE)).unwrap();
        let (_folder, again) = taken_over(&out);
        assert_eq!(again.begin, expected.map(TokenId), "{at}");
        let kept = &read(&out, TOKENIZER_FILE)["post_processor"];
        assert_eq!(kept == post_processor, said.is_none(), "{at}: {kept}");
    }
}

fn small() -> Config {
    Config {
        vocab_size: 264,
        ..testing::llama()
    }
}

/// No answer holds a pause, padding, or an id that no token has.
#[test]
fn what_no_answer_holds_is_suppressed_elsewhere_too() {
    let (source, _) = foreign(&small(), &before_every_text());
    let folder = tempfile::tempdir().unwrap();
    let imported = import(&import::Request {
        source: source.path().to_path_buf(),
        out: folder.path().join("model"),
        pause_tokens: PauseTokens {
            distinct: 2,
            delimiters: false,
        },
        ..Default::default()
    });
    let imported = imported.unwrap();
    let reserved = imported.reserved;
    let (_folder, out) = handed_on(imported.folder);
    let suppressed = read(&out, super::GENERATION_FILE)["suppress_tokens"].clone();
    let mut expected = vec![reserved.pause.0, reserved.pad.0, 262, 263];
    expected.extend(reserved.extra.ids().map(|id| id.0));
    expected.sort_unstable();
    assert_eq!(reserved.extra.ids().count(), 2);
    assert_eq!(suppressed, json!(expected));
    let text = [BEGIN, reserved.end.0, 0, 255];
    assert!(text.iter().all(|id| !expected.contains(id)));
}
