//! A text is trained on or held out, never both: its own digest decides, wherever it
//! stands and however often.

use std::collections::{BTreeMap, BTreeSet};

use pausedata::dataset::Dataset;
use pausedata::digest::{Digest, checksum};
use pausedata::fs;
use pausedata::manifest::{Manifest, Split};

use super::sandbox::{RECIPE, Sandbox};

/// Files of texts of which many come several times, in a file, across files and
/// in two sources of different weights.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let recipe = RECIPE
        .replace(
            "sources = [{ path = \"text/*.jsonl\" }]",
            "sources = [{ path = \"text/*.jsonl\", weight = 2.5 }, { path = \"more/*.jsonl\" }]",
        )
        .replace(
            "{ seq_len = 64 }",
            "{ seq_len = 64, unit_bytes = 4096 }\nvalidation = 0.3",
        )
        .replace(
            "shard_tokens = 4096",
            "shard_tokens = 4096, unit_bytes = 4096",
        )
        .replace("validation = 0.1", "validation = 0.3");
    sandbox.write("recipe.toml", recipe);
    for file in 0..6 {
        // Every text of `more` is in most of its files, and in those of `text` too.
        let line = |line| {
            let text = format!("Text {} of all that is told twice.", (line + file) % 35);
            format!("{{\"text\": \"{text}\"}}\n")
        };
        let lines: String = (0..30).map(line).collect();
        sandbox.write(format!("more/{file}.jsonl"), &lines);
        sandbox.write(format!("text/x{file}.jsonl"), &lines);
    }
    let questions = sandbox.read("questions.jsonl");
    sandbox.write("questions.jsonl", questions.repeat(3));
    sandbox
}

/// The checksums of the documents of each split.
fn texts(sandbox: &Sandbox, dataset: &str) -> BTreeMap<Split, Vec<u64>> {
    let dataset = Dataset::open(&sandbox.path(dataset)).unwrap();
    let of = |split| {
        let documents = dataset
            .shards(split)
            .iter()
            .flat_map(|shard| shard.documents().unwrap());
        documents.map(|document| document.checksum).collect()
    };
    [Split::Train, Split::Validation]
        .map(|split| (split, of(split)))
        .into()
}

#[test]
fn no_text_is_in_both_splits() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out whole");
    for part in 1..=3 {
        sandbox.ok(&format!(
            "prepare recipe.toml --out parts --partition {part}/3"
        ));
    }
    sandbox.ok("prepare recipe.toml --out parts");
    for method in ["best-fit", "document"] {
        sandbox.ok(&format!(
            "prepare recipe.toml --out {method} --only pretrain --set pretrain.pack.method={method}"
        ));
    }
    let mut told = Vec::new();
    for dataset in [
        "whole/data/pretrain",
        "parts/data/pretrain",
        "best-fit/data/pretrain",
        "document/data/pretrain",
        "whole/data/finetune",
        "parts/data/finetune",
    ] {
        let splits = texts(&sandbox, dataset);
        let sets = splits
            .values()
            .map(|texts| texts.iter().copied().collect::<BTreeSet<u64>>());
        let sets: Vec<_> = sets.collect();
        assert!(sets[0].is_disjoint(&sets[1]), "{dataset}");
        // There was something to leak: texts that come several times, in both splits.
        for (split, set) in splits.values().zip(&sets) {
            assert!(
                !set.is_empty() && set.len() * 3 / 2 < split.len(),
                "{dataset}"
            );
        }
        told.push(sets);
        sandbox.ok(&format!("verify {dataset}"));
    }
    // How a text is packed, copied or dealt out changes nothing.
    assert!(told[..4].iter().all(|sets| *sets == told[0]) && told[4] == told[5]);
    // The same share of another text is another split: it is the text that decides.
    let text = "Text 3 of all that is told twice.";
    let at = |split: usize| told[0][split].contains(&checksum(text.as_bytes()));
    assert!(at(0) != at(1));
}

/// A dataset in which a split was renamed, and everything sealed again.
#[test]
fn a_leak_made_by_hand_is_found() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out out");
    for dataset in ["out/data/pretrain", "out/data/finetune"] {
        let folder = sandbox.path(dataset);
        let (truth, _) = Manifest::open(&folder).unwrap();
        // The recipe says that less was held out than was.
        let mut manifest = truth.clone();
        manifest.recipe["validation"] = 0.2.into();
        manifest.seal(&folder).unwrap();
        found(
            &sandbox,
            dataset,
            "is in validation, where its text does not belong",
        );

        // One held-out document is said to be another, in an index that was sealed again.
        let mut manifest = truth.clone();
        let shard = &mut manifest.splits.get_mut(&Split::Train).unwrap().shards[0];
        let path = folder.join(format!("shards/{}.idx", shard.name));
        let bytes = fs::read(&path).unwrap();
        let [trained, held_out] = [Split::Train, Split::Validation]
            .map(|split| texts(&sandbox, dataset)[&split][0].to_le_bytes());
        let place = bytes
            .windows(8)
            .rposition(|window| window == trained)
            .unwrap();
        let mut changed = bytes.clone();
        changed[place..place + 8].copy_from_slice(&held_out);
        let end = changed.len() - 8;
        let sum = checksum(&changed[..end]);
        changed[end..].copy_from_slice(&sum.to_le_bytes());
        sandbox.write(&path, &changed);
        shard.idx = Digest::of(&changed);
        manifest.seal(&folder).unwrap();
        found(
            &sandbox,
            dataset,
            "is in train, where its text does not belong",
        );
        sandbox.write(&path, &bytes);
        truth.seal(&folder).unwrap();
        sandbox.ok(&format!("verify {dataset}"));
    }
}

fn found(sandbox: &Sandbox, dataset: &str, expected: &str) {
    let said = sandbox.run(&format!("verify {dataset}"));
    assert_eq!(said.code, Some(1), "{}", said.out);
    let check = "each document stands in the split that its text decides";
    assert!(
        said.out.contains(check) && said.out.contains(expected),
        "{}",
        said.out
    );
}

/// A dataset beside the stage's own trains on what the stage holds out, unless it holds
/// out as much.
#[cfg(feature = "train")]
#[test]
fn a_mixture_that_leaks_is_refused() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out a --only pretrain");
    let tokenizer = "--set tokenizer={file='a/data/pretrain/tokenizer.json'}";
    let prepare = |validation: f64| {
        sandbox.ok(&format!("prepare recipe.toml --out b --force --only pretrain {tokenizer} --set pretrain.validation={validation}"));
    };
    let mixture = "[{weight=1},{dataset='../b/data/pretrain',weight=1}]";
    let train =
        format!("train recipe.toml --out a --only pretrain --set pretrain.train.mixture={mixture}");
    prepare(0.1);
    let said = sandbox.run(&train);
    assert_eq!(said.code, Some(1), "{}", said.err);
    for word in [
        "b/data/pretrain` trains on a text",
        "holds out: document",
        "validation = 0.3",
    ] {
        assert!(said.err.contains(word), "{}", said.err);
    }
    sandbox.ok(&format!(
        "{train} --set pretrain.train.validate_every=0 --set pretrain.train.steps=4"
    ));
}
