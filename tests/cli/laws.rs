//! The laws of the data, shown on the built program.

use pausedata::fs;

use super::sandbox::{Sandbox, files, real_data};

const PRETRAIN: &str = "out/data/pretrain";
const FINETUNE: &str = "out/data/finetune";

/// Every byte of a run's datasets, by file, apart from where the sources lay.
pub fn bytes(sandbox: &Sandbox, out: &str) -> Vec<(String, Vec<u8>)> {
    let folder = sandbox.path(out).join("data");
    let files = files(&folder)
        .into_iter()
        .filter(|path| !path.ends_with("origin.json"));
    files
        .map(|path| {
            let name = path.strip_prefix(&folder).unwrap().display().to_string();
            (name, fs::read(&path).unwrap())
        })
        .collect()
}

#[test]
fn law_3_shards_decode_to_the_text_they_came_from() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    for dataset in [PRETRAIN, FINETUNE] {
        let said = sandbox.ok(&format!("verify {dataset} --json"));
        let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let decoded = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == "documents decode to their text")
            .unwrap();
        let documents = if dataset == PRETRAIN { 200 } else { 60 };
        let expected = format!("{documents} equal the originals byte for byte");
        assert_eq!(decoded["detail"], serde_json::Value::String(expected));
    }
}

/// Spans, units and shards of a few kilobytes each.
const SMALL: &str = "--set pretrain.pack.unit_bytes=4096";

#[test]
fn law_4_one_thread_equals_eight_and_one_partition_equals_seven() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!(
        "prepare recipe.toml --out one --threads 1 {SMALL}"
    ));
    sandbox.ok(&format!(
        "prepare recipe.toml --out eight --threads 8 {SMALL}"
    ));
    let plan = sandbox.ok(&format!("plan recipe.toml --only pretrain --json {SMALL}"));
    let plan: serde_json::Value = serde_json::from_str(&plan.out).unwrap();
    let units = plan["survey"]["units"].as_array().unwrap();
    let spans = units
        .iter()
        .flat_map(|unit| unit["files"].as_array().unwrap());
    assert!(8 <= units.len(), "{} units prove little", units.len());
    assert!(spans.into_iter().any(|file| file["span"].is_object()));
    for partition in [4, 7, 1, 6, 2, 5, 3, 4] {
        sandbox.ok(&format!(
            "prepare recipe.toml --out seven --partition {partition}/7 {SMALL}"
        ));
    }
    sandbox.ok(&format!("finalize recipe.toml --out seven {SMALL}"));
    sandbox.ok("verify seven/data/pretrain");
    let one = bytes(&sandbox, "one");
    assert!(10 < one.len(), "{} files prove little", one.len());
    assert!(one == bytes(&sandbox, "eight"), "threads change the bytes");
    assert!(
        one == bytes(&sandbox, "seven"),
        "partitions change the bytes"
    );
}

#[test]
fn finalize_names_the_units_that_are_missing() {
    let sandbox = Sandbox::new();
    let prepare = format!("prepare recipe.toml --out out --only pretrain {SMALL}");
    sandbox.ok(&format!("{prepare} --partition 1/3"));
    sandbox.ok(&format!("{prepare} --partition 3/3"));
    let finalize = format!("finalize recipe.toml --out out --only pretrain {SMALL}");
    let said = sandbox.run(&finalize);
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("units: 1, 4, 7"), "{}", said.err);
    // A shard that went makes its unit missing again.
    fs::remove_file(&sandbox.path("out/data/pretrain/shards/train-00003-000.bin")).unwrap();
    let said = sandbox.run(&finalize);
    assert!(said.err.contains("units: 1, 3-4, 7"), "{}", said.err);
    // What another recipe left does not get into the dataset.
    sandbox.write("out/data/pretrain/shards/train-00099-000.bin", "old");
    sandbox.ok(&prepare);
    sandbox.ok(&format!(
        "prepare recipe.toml --out whole --only pretrain {SMALL}"
    ));
    assert!(bytes(&sandbox, "out") == bytes(&sandbox, "whole"));
    sandbox.ok(&finalize);
}

#[test]
fn twins_are_what_separate_runs_make() {
    let sandbox = Sandbox::new();
    let none = "--set pretrain.pause={policy=\"none\"} --set finetune.pause={policy=\"none\"}";
    sandbox.ok("prepare recipe.toml --out pause");
    sandbox.ok(&format!("prepare recipe.toml --out standard {none}"));
    // One twin is there already when the other is asked for.
    sandbox.ok("prepare recipe.toml --out late --only pretrain");
    for out in ["twins", "late"] {
        sandbox.ok(&format!("prepare recipe.toml --out {out} --twin"));
        for stage in ["pretrain", "finetune"] {
            let digest = |dataset: &str| sandbox.digest(&format!("{dataset}/{stage}"));
            assert_eq!(digest(&format!("{out}/data")), digest("pause/data"));
            let twin = sandbox.digest(&format!("{out}/data/{stage}-standard"));
            assert_eq!(twin, digest("standard/data"));
            sandbox.ok(&format!("verify {out}/data/{stage}"));
            sandbox.ok(&format!("verify {out}/data/{stage}-standard"));
        }
    }
    for partition in 1..=2 {
        let part = format!("--twin --only pretrain --partition {partition}/2");
        sandbox.ok(&format!("prepare recipe.toml --out parts {part}"));
    }
    sandbox.ok("finalize recipe.toml --out parts --only pretrain --twin");
    let twin = |out: &str| sandbox.digest(&format!("{out}/data/pretrain-standard"));
    assert_eq!(twin("parts"), twin("twins"));
}

#[test]
fn law_1_a_pause_dataset_without_pauses_is_the_standard_dataset() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out --only pretrain --twin");
    let stream = |out: &str| {
        let dataset =
            pausedata::dataset::Dataset::open(&sandbox.path("out/data").join(out)).unwrap();
        let split = pausedata::manifest::Split::Train;
        let pause = dataset.manifest.tokenizer.reserved.pause;
        let rows = (0..dataset.rows(split)).map(|row| dataset.row(split, row).unwrap());
        let ids: Vec<_> = rows.flat_map(|row| row.ids).collect();
        let pauses = ids.iter().filter(|id| **id == pause).count();
        (pausedata::pause::strip(&ids, pause), pauses)
    };
    let (pause, standard) = (stream("pretrain"), stream("pretrain-standard"));
    assert!(
        0 < pause.1 && standard.1 == 0,
        "{} and {} pauses",
        pause.1,
        standard.1
    );
    assert!(pause.0 == standard.0, "the streams differ");
}

#[test]
fn law_2_and_5_every_row_is_what_apply_makes_of_its_text() {
    let sandbox = Sandbox::new();
    for (out, law) in [
        ("a", "uniform-interleaving"),
        ("b", "distinct-gaps"),
        ("c", "iid-gaps"),
    ] {
        let set = format!("--set pretrain.pause.law={law}");
        sandbox.ok(&format!("prepare recipe.toml --out {out} {set}"));
        // `verify` applies the policy again to the stripped rows and judges every mask.
        sandbox.ok(&format!("verify {out}/data/pretrain"));
    }
    let drop = "--set pretrain.pause.overflow=drop";
    sandbox.ok(&format!(
        "prepare recipe.toml --out d {drop} --set finetune.pause.count=[0,3,9]"
    ));
    sandbox.ok("verify d/data/pretrain");
    sandbox.ok("verify d/data/finetune");
}

#[test]
fn real_novels_round_trip() {
    let Some(data) = real_data("real_novels_round_trip") else {
        return;
    };
    let sandbox = Sandbox::new();
    let root = data.join("pretrain");
    sandbox.write(
        "real.toml",
        r#"
[tokenizer]
file = "../tokenizers/gpt2/tokenizer.json"
[pretrain]
sources = [
  { path = "tinyshakespeare/input.txt", document = "paragraph" },
  { path = "stats-book/*.json.gz", format = "jsonl" },
]
pause = { policy = "random", fraction = 0.1 }
pack = { seq_len = 1024 }
"#,
    );
    sandbox.ok(&format!(
        "prepare real.toml --out out --data-root {}",
        root.display()
    ));
    let said = sandbox.ok(&format!("verify {PRETRAIN}"));
    assert!(said.out.contains("0 failed"), "{}", said.out);
}
