//! Models of other programs, taken over and handed on.

use std::path::{Path, PathBuf};

use pausedata::{fs, npy};
use serde_json::Value;

use super::sandbox::{Said, Sandbox, files, real_data};

/// The real model of 260,000 parameters, or `None` after saying that the test is skipped.
fn stories(test: &str) -> Option<PathBuf> {
    Some(real_data(test)?.join("models/stories260k"))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn numbers(list: &Value) -> Vec<f64> {
    let list = list.as_array().unwrap().iter();
    list.map(|number| number.as_f64().unwrap()).collect()
}

fn import(sandbox: &Sandbox, source: &Path, more: &str) -> Said {
    let mut command = sandbox.command("import --json --out model");
    command.args(more.split_whitespace()).arg(source);
    Said::by(&mut command)
}

/// What `model` says to a prompt, and the logits of every id that it read.
fn answer(sandbox: &Sandbox, prompt: &str, tokens: usize) -> (Value, Vec<Vec<f32>>) {
    let mut command = sandbox.command("generate model --json --logits logits.npy");
    let tokens = tokens.to_string();
    command.args(["--prompt", prompt, "--max-tokens", &tokens]);
    let said = Said::by(&mut command);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let bytes = fs::read(&sandbox.path("logits.npy")).unwrap();
    let array = npy::Array::parse(&bytes).unwrap();
    let rows = array.singles();
    let width = *array.shape.last().unwrap();
    let rows = rows.chunks(width).map(<[f32]>::to_vec).collect();
    (json(&said.out), rows)
}

#[test]
fn a_real_model_is_taken_over_and_says_what_it_said() {
    let Some(source) = stories("a_real_model_is_taken_over") else {
        return;
    };
    let sandbox = Sandbox::new();
    let said = import(&sandbox, &source, "");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let imported = json(&said.out);
    assert_eq!(imported["architecture"], "LlamaForCausalLM");
    assert_eq!(
        (&imported["rows_before"], &imported["rows"]),
        (&512.into(), &514.into())
    );
    assert_eq!(imported["reserved"]["end"], 2);
    assert_eq!(imported["begin"], 1);

    let expected = json(&fs::read_text(&source.join("expected.json")).unwrap());
    let (said, rows) = answer(&sandbox, expected["prompt"].as_str().unwrap(), 0);
    assert_eq!(said["read"], expected["prompt_ids"]);
    let ids = numbers(&expected["prompt_ids"]);
    let near = |found: f64, expected: f64| {
        assert!((found - expected).abs() < 2e-4, "{found} {expected}");
    };
    for (found, expected) in rows[ids.len() - 1]
        .iter()
        .zip(numbers(&expected["logits_last_first16"]))
    {
        near(f64::from(*found), expected);
    }
    for (at, expected) in numbers(&expected["nll_per_token_prompt"])
        .into_iter()
        .enumerate()
    {
        // As before new tokens came.
        let row = &rows[at][..512];
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an id"
        )]
        let next = ids[at + 1] as usize;
        near(sum.ln() - f64::from(row[next]), expected);
    }
    // A prompt of nothing is the beginning of a text.
    let greedy = expected["greedy_ids_from_bos"].as_array().unwrap();
    let (said, _) = answer(&sandbox, "", greedy.len() - 1);
    assert_eq!(said["ids"].as_array().unwrap(), &greedy[1..]);
    assert_eq!(said["text"], expected["greedy_text"]);
    // The mean of all rows gives the mean of all logits.
    for row in &rows {
        let mean = row[..512].iter().sum::<f32>() / 512.0;
        assert!(row[512..].iter().all(|new| (new - mean).abs() < 1e-4));
    }
}

#[test]
fn an_imported_model_learns_from_pauses_and_is_handed_on() {
    let Some(source) = stories("an_imported_model_learns_from_pauses") else {
        return;
    };
    let sandbox = Sandbox::new();
    let said = import(&sandbox, &source, "--distinct 3 --pause <wait>");
    assert_eq!(said.code, Some(0), "{}", said.err);
    sandbox.write(
        "tuned.toml",
        r#"
[model]
from = "../model"
[finetune]
sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }]
pause = { policy = "suffix", count = 5 }
pack = { seq_len = 64 }
train = { steps = 3, batch_tokens = 256, lr = 5e-4 }
"#,
    );
    sandbox.ok("run tuned.toml --out tuned");
    let said = sandbox.ok("export tuned/train/finetune --out out --json");
    let exported = json(&said.out);
    assert_eq!(exported["architecture"], "LlamaForCausalLM");
    let names: Vec<String> = files(&sandbox.path("out"))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let about = json(&sandbox.read("out/tokenizer_config.json"));
    assert_eq!(about["additional_special_tokens"][0], "<wait>");
    // What is handed on comes back as it was, in half precision too.
    let exact = fs::read(&sandbox.path("out/model.safetensors")).unwrap();
    sandbox.ok("import out --out again --pause <wait> --distinct 3");
    assert!(fs::read(&sandbox.path("again/model.safetensors")).unwrap() == exact);
    let said = sandbox.run("export tuned/train/finetune --out out --dtype bf16");
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("`out` exists already"), "{}", said.err);
    sandbox.ok("export tuned/train/finetune --out out --dtype bf16 --force");
    let half = fs::read(&sandbox.path("out/model.safetensors")).unwrap();
    assert!(half.len() < exact.len() * 51 / 100);
    sandbox.ok("import out --out again --pause <wait> --distinct 3 --force");
    let names = fs::list(&sandbox.path("")).unwrap();
    let half = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with('.');
    assert!(!names.iter().any(half), "{names:?}");
}

#[test]
fn nothing_but_a_model_is_replaced_and_nothing_half_is_left() {
    let sandbox = Sandbox::new();
    sandbox.ok("run recipe.toml --out out --set model.positions=learned");
    let before = files(sandbox.path("").as_path());
    let refused = |command: &str, words: &str| {
        let said = sandbox.run(command);
        assert_eq!(said.code, Some(2), "{command}: {}", said.err);
        assert!(said.err.contains(words), "{command}: {}", said.err);
    };
    refused(
        "export out/train/finetune --out there",
        "no model with this shape",
    );
    refused(
        "export out/train/finetune --out text",
        "`text` exists already",
    );
    refused(
        "export out/train/finetune --out text --force",
        "`text` is no model",
    );
    refused("import out/data --out there", "");
    assert_eq!(files(sandbox.path("").as_path()), before);
    sandbox.ok("run recipe.toml --out lm --set finetune.train.attention=prefix-lm");
    refused("export lm/train/finetune --out there", "prefix-lm");
    sandbox.ok("export lm/train/pretrain --out there");
    refused(
        "export there --out elsewhere",
        "no checkpoint of this program",
    );
}
