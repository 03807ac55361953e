//! Bad input: one clear error that names the place, no panic, nothing half-written.

use super::sandbox::{Said, Sandbox};

/// The run must fail with `code`, say all of `words`, and leave no sealed dataset.
fn refused(sandbox: &Sandbox, said: &Said, code: i32, words: &[&str]) {
    let context = format!("stdout: {}\nstderr: {}", said.out, said.err);
    assert_eq!(said.code, Some(code), "{context}");
    assert!(said.err.starts_with("error: "), "{context}");
    assert!(!said.err.contains("panicked"), "{context}");
    for word in words {
        assert!(said.err.contains(word), "`{word}` is not said. {context}");
    }
    assert!(
        !sandbox.path("out/data/pretrain/manifest.json").exists(),
        "{context}"
    );
}

#[test]
fn bad_json_names_file_and_line() {
    let sandbox = Sandbox::new();
    let text = sandbox.read("text/2.jsonl");
    sandbox.write("text/2.jsonl", text + "{\"text\": \"no end}\n");
    let said = sandbox.run("prepare recipe.toml --out out");
    refused(&sandbox, &said, 1, &["text/2.jsonl", "41"]);
}

#[test]
fn a_missing_field_names_the_fields_there_are() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("prepare recipe.toml --out out --set pretrain.sources.0.text=body");
    // Met while the tokenizer is trained, which is another error's cause.
    let words = ["text/0.jsonl", "body", "text", "hint: `text = \"FIELD\"`"];
    refused(&sandbox, &said, 1, &words);
}

#[test]
fn invalid_utf8_names_file_and_place() {
    let sandbox = Sandbox::new();
    let mut bytes = sandbox.read("text/1.jsonl").into_bytes();
    bytes[20] = 0xff;
    sandbox.write("text/1.jsonl", bytes);
    let said = sandbox.run("prepare recipe.toml --out out");
    refused(&sandbox, &said, 1, &["text/1.jsonl", "UTF-8"]);
}

#[test]
fn what_leaves_no_rows_is_named() {
    let sandbox = Sandbox::new();
    let says = |set: &str, words: &[&str]| {
        let said = sandbox.run(&format!("prepare recipe.toml --out out --set {set}"));
        refused(&sandbox, &said, 1, words);
    };
    says(
        "pretrain.validation=0.9999",
        &["200 documents read", "held out by `validation`: 200"],
    );
    says(
        "finetune.pause.count=60 --only finetune",
        &["(too-long: 60)", "hint: raise `pack.seq_len`"],
    );
}

#[test]
fn a_folder_as_a_source_is_told_how_to_name_its_files() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("prepare recipe.toml --out out --set pretrain.sources.0.path=text");
    refused(
        &sandbox,
        &said,
        1,
        &["text`: is a directory", "hint: name the files in it"],
    );
}

#[test]
fn a_row_that_is_not_there_is_named_with_its_split() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out --only finetune");
    let said = sandbox.run("inspect out/data/finetune --split validation");
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("the validation split holds 0 rows"),
        "{}",
        said.err
    );
}

#[test]
fn a_sample_of_what_is_there_is_no_proof() {
    let sandbox = Sandbox::new();
    let prepare = "prepare recipe.toml --out out --only finetune --verify-sample 100%";
    let made = sandbox.ok(prepare).err;
    assert!(!made.contains("--verify-sample"), "{made}");
    let found = sandbox.ok(prepare).err;
    assert!(found.contains("--verify-sample saw nothing"), "{found}");
}

#[test]
fn an_empty_corpus_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("empty.jsonl", "");
    let set = "--set pretrain.sources.0.path=empty.jsonl --set tokenizer={file=\"t.json\"}";
    sandbox.ok("prepare recipe.toml --out first --only pretrain");
    std::fs::copy(
        sandbox.path("first/data/pretrain/tokenizer.json"),
        sandbox.path("t.json"),
    )
    .unwrap();
    let said = sandbox.run(&format!(
        "prepare recipe.toml --out out --only pretrain {set}"
    ));
    refused(&sandbox, &said, 1, &["pretrain", "no rows"]);
}

#[test]
fn an_unknown_key_names_line_and_nearest_key() {
    let sandbox = Sandbox::new();
    let recipe = super::sandbox::RECIPE.replace("seq_len = 64, shard", "seq_length = 64, shard");
    sandbox.write("recipe.toml", recipe);
    let said = sandbox.run("prepare recipe.toml --out out");
    refused(
        &sandbox,
        &said,
        2,
        &["recipe.toml", "seq_length", "seq_len", "10"],
    );
}

#[test]
fn an_unknown_override_is_refused() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("prepare recipe.toml --out out --set pretrain.puase.fraction=0.2");
    refused(&sandbox, &said, 2, &["puase", "pause"]);
}

#[test]
fn a_missing_source_names_the_pattern() {
    let sandbox = Sandbox::new();
    let said =
        sandbox.run("prepare recipe.toml --out out --set pretrain.sources.0.path=none/*.jsonl");
    refused(&sandbox, &said, 1, &["none/*.jsonl", "hint:"]);
}

#[test]
fn a_missing_recipe_is_named() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("prepare nowhere.toml --out out");
    refused(&sandbox, &said, 2, &["nowhere.toml"]);
}

#[test]
fn a_broken_tokenizer_is_named() {
    let sandbox = Sandbox::new();
    for text in ["", "{}", "{\"model\": {\"type\": \"BPE\"}}", "[1, 2"] {
        sandbox.write("t.json", text);
        let said = sandbox.run("prepare recipe.toml --out out --set tokenizer={file=\"t.json\"}");
        refused(&sandbox, &said, 1, &["t.json"]);
    }
}

#[test]
fn a_tokenizer_on_which_the_library_panics_is_one_quiet_error() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out whole --only pretrain");
    let text = sandbox.read("whole/data/pretrain/tokenizer.json");
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The library subtracts this prefix's length from that of shorter tokens.
    json["model"]["continuing_subword_prefix"] = "############".into();
    sandbox.write("t.json", json.to_string());
    let said = sandbox.run("prepare recipe.toml --out out --set tokenizer={file=\"t.json\"}");
    refused(&sandbox, &said, 1, &["t.json", "it stopped with"]);
    assert_eq!(said.err.matches("error: ").count(), 1, "{}", said.err);
    assert!(!said.err.contains("a mistake in pausedata"), "{}", said.err);
}

#[test]
fn an_unwritable_folder_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("out", "a file stands where the folder should be");
    let said = sandbox.run("prepare recipe.toml --out out");
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.starts_with("error: ") && said.err.contains("`out"),
        "{}",
        said.err
    );
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out whole");
    // A file system of a few pages, in a mount namespace of its own.
    let program = env!("CARGO_BIN_EXE_pausedata");
    let script = format!(
        "mkdir -p small && mount -t tmpfs -o size=96k none small && cp recipe.toml questions.jsonl small/ \
         && {program} prepare recipe.toml --out small/out; code=$?; \
         find small -name manifest.json -o -name '.tmp-*'; exit $code"
    );
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", &script])
        .current_dir(sandbox.path("."))
        .output();
    let Ok(output) = output else {
        println!("skipped a_full_disk: there is no `unshare`");
        return;
    };
    let err = String::from_utf8_lossy(&output.stderr);
    if err.contains("unshare failed")
        || err.contains("Operation not permitted")
        || err.contains("mount:")
    {
        println!("skipped a_full_disk: no mount namespaces here");
        return;
    }
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.contains("No space left") && err.contains("free some space"),
        "{err}"
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "something half-written stays"
    );
}

#[test]
fn another_recipe_in_the_same_folder_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    let said = sandbox.run("prepare recipe.toml --out out --set pretrain.pause.fraction=0.2");
    assert_eq!(said.code, Some(1), "{}", said.err);
    for word in ["fraction", "0.1", "0.2", "hint:"] {
        assert!(
            said.err.contains(word),
            "`{word}` is not said: {}",
            said.err
        );
    }
    sandbox.ok("prepare recipe.toml --out out --set pretrain.pause.fraction=0.2 --force");
    sandbox.ok("verify out/data/pretrain");
}

#[test]
fn json_errors_are_json() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("stats nowhere --json");
    assert_eq!(said.out, "");
    let error: serde_json::Value = serde_json::from_str(&said.err).unwrap();
    assert!(
        error["error"].as_str().unwrap().contains("nowhere"),
        "{error}"
    );
}
