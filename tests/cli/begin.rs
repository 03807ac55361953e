//! A token that every document begins with.

use pausedata::dataset::Dataset;
use pausedata::manifest::Split;
use pausedata::token::TokenId;
use serde_json::{Value, json};

use super::sandbox::Sandbox;

/// A sandbox whose recipe names a tokenizer with the special token `<s>`, and its id.
fn sandbox() -> (Sandbox, TokenId) {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out first --only pretrain");
    let tokenizer = sandbox.read("first/data/pretrain/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_str(&tokenizer).unwrap();
    let added = tokenizer["added_tokens"].as_array_mut().unwrap();
    let id = added
        .iter()
        .map(|token| token["id"].as_u64().unwrap())
        .max();
    let id = u32::try_from(id.unwrap() + 1).unwrap();
    added.push(json!({
        "id": id, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    }));
    sandbox.write("tokenizer.json", tokenizer.to_string());
    let recipe = sandbox.read("recipe.toml");
    let named = recipe.replace("train = { vocab_size = 400 }", "file = \"tokenizer.json\"");
    sandbox.write("recipe.toml", format!("begin = \"<s>\"\n{named}"));
    (sandbox, TokenId(id))
}

#[test]
fn every_document_begins_with_it_however_rows_are_made() {
    let (sandbox, begin) = sandbox();
    let at_load = "--set pretrain.pause.when=at-load";
    for (out, keys, whole) in [
        ("split", "", true),
        ("fit", "--set pretrain.pack.method=best-fit", true),
        (
            "cut",
            "--set pretrain.pack={seq_len=24,method=\"document\",overlong=\"drop\"} --set finetune.pack.seq_len=40",
            false,
        ),
        (
            "points",
            "--set pretrain.pause={policy=\"punctuation\",count=2}",
            true,
        ),
        ("load", at_load, true),
        ("parquet", "--set pretrain.pack.format=parquet", true),
    ] {
        sandbox.ok(&format!("prepare recipe.toml --out {out} {keys}"));
        for stage in ["pretrain", "finetune"] {
            sandbox.ok(&format!("verify {out}/data/{stage}"));
            let dataset = Dataset::open(&sandbox.path(format!("{out}/data/{stage}"))).unwrap();
            assert_eq!(dataset.manifest.tokenizer.begin, Some(begin));
            let reserved = dataset.manifest.tokenizer.reserved;
            let rows = (0..dataset.rows(Split::Train))
                .map(|row| dataset.row(Split::Train, row).unwrap().ids);
            let raw: Vec<TokenId> = rows.flatten().collect();
            let ids = raw.iter().copied().filter(|id| *id != reserved.pause);
            let ids: Vec<TokenId> = ids.collect();
            let begins = ids.iter().filter(|id| **id == begin).count();
            let ends = ids.iter().filter(|id| **id == reserved.end).count();
            assert!(0 < begins && (begins == ends || !whole), "{begins} {ends}");
            assert_eq!(ids[0], begin);
            // Best-fit puts the rest of a long document behind another's end.
            if out != "fit" {
                let mut after = ids.windows(2).filter(|pair| pair[0] == reserved.end);
                assert!(after.all(|pair| pair[1] == begin), "{out}");
            }
            // It is no text: `>` before a letter would have a pause behind it.
            if (out, stage) == ("points", "pretrain") {
                let mut pauses = raw.windows(2).filter(|pair| pair[1] == reserved.pause);
                assert!(pauses.all(|pair| pair[0] != begin));
            }
        }
    }
}

/// It is no text: policies that read text, and numbers that a source has for its text, put
/// pauses where they do without it, one id further on.
#[test]
fn pauses_stand_where_they_do_without_it() {
    let (sandbox, begin) = sandbox();
    let recipe = sandbox.read("recipe.toml");
    sandbox.write("without.toml", recipe.replacen("begin = \"<s>\"\n", "", 1));
    let tokenizer = Dataset::open(&sandbox.path("first/data/pretrain"));
    let tokenizer = tokenizer.unwrap().tokenizer().unwrap();
    let line = |n: usize| {
        let text = format!("The river, says he, ran; 7:30 it was {n}.");
        let mut ids = Vec::new();
        tokenizer.encode(&text, &mut ids).unwrap();
        let scores: Vec<usize> = (0..ids.len()).map(|id| (id * 7 + n) % 5).collect();
        format!(
            "{{\"text\": \"{text}\", \"s\": {scores:?}, \"p\": [0, 4, {}]}}\n",
            9 + n
        )
    };
    sandbox.write("scored.jsonl", (0..20).map(line).collect::<String>());
    let source = "--set pretrain.sources=[{path=\"scored.jsonl\",scores=\"s\",positions=\"p\"}]";
    for (number, policy) in [
        // Each finds something in `<s>`, if it is read.
        "{policy=\"word-ends\"}",
        "{policy=\"punctuation\",marks=\"<>,;.\",count=2}",
        "{policy=\"punctuation\",marks=\"<>,;.\",side=\"before\"}",
        "{policy=\"regex\",pattern=\"s\"}",
        "{policy=\"regex\",pattern=\"^\",side=\"after\"}",
        "{policy=\"score\",k=3}",
        "{policy=\"score\",k=3,side=\"after\"}",
        "{policy=\"positions\",count=2}",
    ]
    .into_iter()
    .enumerate()
    {
        let rows = |recipe: &str| -> Vec<Vec<TokenId>> {
            let out = format!("{recipe}{number}");
            let pack = "--set pretrain.pack={seq_len=128,method=\"document\"}";
            sandbox.ok(&format!(
                "prepare {recipe}.toml --out {out} --only pretrain {source} {pack} --set pretrain.pause={policy}"
            ));
            sandbox.ok(&format!("verify {out}/data/pretrain"));
            let dataset = Dataset::open(&sandbox.path(out).join("data/pretrain")).unwrap();
            let pause = dataset.manifest.tokenizer.reserved.pause;
            let rows = (0..dataset.rows(Split::Train))
                .map(|row| dataset.row(Split::Train, row).unwrap().ids);
            let rows: Vec<_> = rows.collect();
            assert!(rows.iter().all(|row| row.contains(&pause)), "{policy}");
            rows
        };
        let (with, without) = (rows("recipe"), rows("without"));
        assert_eq!(with.len(), without.len());
        for (with, without) in with.iter().zip(&without) {
            assert_eq!(
                with.split_first(),
                Some((&begin, without.as_slice())),
                "{policy}"
            );
        }
    }
}

#[test]
fn a_document_without_it_is_not_what_was_prepared() {
    let (sandbox, begin) = sandbox();
    sandbox.ok("prepare recipe.toml --out out --only finetune");
    let path = "out/data/finetune/manifest.json";
    let manifest = Dataset::open(&sandbox.path("out/data/finetune"));
    let mut manifest = manifest.unwrap().manifest;
    assert!(
        sandbox
            .read(path)
            .contains(&format!("\"begin\": {}", begin.0))
    );
    // As if rows had been made without it.
    manifest.tokenizer.begin = Some(TokenId(7));
    manifest.seal(&sandbox.path("out/data/finetune")).unwrap();
    let said = sandbox.run("verify out/data/finetune");
    assert_eq!(said.code, Some(1), "{}", said.err);
    let words = format!("expected id 7 at its beginning, found {}", begin.0);
    assert!((said.out + &said.err).contains(&words));
}

#[test]
fn a_token_that_is_not_there_or_means_something_else_is_refused() {
    let (sandbox, _) = sandbox();
    for (token, words) in [
        ("<bos>", "`begin` names `<bos>`, which is no special token"),
        ("<|pause|>", "which is reserved for something else"),
    ] {
        let said = sandbox.run(&format!(
            "prepare recipe.toml --out out --set begin={token}"
        ));
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(words), "{}", said.err);
    }
}

/// A prompt begins as the rows did, and so does what is handed on.
#[cfg(feature = "train")]
#[test]
fn a_model_reads_prompts_as_its_rows_began() {
    let (sandbox, begin) = sandbox();
    sandbox.ok("run recipe.toml --out out");
    let said = sandbox.ok("generate out/train/finetune --prompt river --pauses 2 --json");
    let answer: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(answer["read"][0], begin.0);
    sandbox.ok("export out/train/finetune --out hub");
    let config: Value = serde_json::from_str(&sandbox.read("hub/config.json")).unwrap();
    assert_eq!(config["bos_token_id"], begin.0);

    // A later recipe is told of it, and may do without.
    let later = "[model]\nfrom = \"../out/train/finetune\"\n[finetune]\n";
    let recipe = sandbox.read("recipe.toml");
    let stage = recipe.split("[finetune]\n").nth(1).unwrap();
    sandbox.write("later.toml", format!("{later}{stage}"));
    let said = sandbox.ok("prepare later.toml --out later");
    assert!(
        said.err.contains("`begin = \"<s>\"` puts it there"),
        "{}",
        said.err
    );
    let said = sandbox.ok("prepare later.toml --out again --set begin=<s>");
    assert!(!said.err.contains("puts it there"), "{}", said.err);
}
