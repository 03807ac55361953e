//! The same rows in every format.

use std::path::Path;

use pausedata::dataset::{At, Dataset};
use pausedata::fs;
use pausedata::manifest::Split;

use super::sandbox::{Sandbox, files};

const STAGES: [&str; 2] = ["pretrain", "finetune"];
const AS_PARQUET: &str = "--set pretrain.pack.format=parquet --set finetune.pack.format=parquet";

/// Binary shards of format version 1 are read, and become those of version 2.
#[test]
fn datasets_of_an_older_version_convert_to_the_newest() {
    let sandbox = Sandbox::new();
    for name in ["v1-finetune-u16", "v1-pretrain-u32"] {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("data/golden")
            .join(name);
        sandbox.ok(&format!(
            "convert {} --to binary --out {name}",
            golden.display()
        ));
        sandbox.ok(&format!(
            "convert {} --to megatron --out {name}-m",
            golden.display()
        ));
        sandbox.ok(&format!("convert {name}-m --to binary --out {name}-back"));
        // The version is at byte 28, the size of a block at byte 116.
        for (folder, version) in [(golden.clone(), 1), (sandbox.path(name), 2)] {
            let bin = fs::read(&folder.join("shards/train-00000-000.bin")).unwrap();
            assert_eq!((bin[28], bin[116..120] != [0; 4]), (version, version == 2));
        }
        assert_eq!(
            fs::read(&sandbox.path(name).join("manifest.json")).unwrap(),
            fs::read(&sandbox.path(format!("{name}-back")).join("manifest.json")).unwrap()
        );
    }
}

#[test]
fn parquet_shards_hold_the_rows_of_binary_shards() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out binary");
    sandbox.ok(&format!("prepare recipe.toml --out parquet {AS_PARQUET}"));
    for stage in STAGES {
        let [binary, parquet] = ["binary", "parquet"].map(|out| {
            let folder = sandbox.path(format!("{out}/data/{stage}"));
            Dataset::open(&folder).unwrap()
        });
        for split in [Split::Train, Split::Validation] {
            assert_eq!(binary.rows(split), parquet.rows(split));
            for row in 0..binary.rows(split) {
                assert_eq!(
                    binary.row(split, row).unwrap(),
                    parquet.row(split, row).unwrap()
                );
            }
            let shards = binary.shards(split).iter().zip(parquet.shards(split));
            for (binary, parquet) in shards {
                assert_eq!(binary.documents().unwrap(), parquet.documents().unwrap());
                // Each form has versions of its own.
                let mut header = binary.header().clone();
                header.version = parquet.header().version;
                assert_eq!(&header, parquet.header());
                parquet.verify().unwrap();
            }
        }
        let content = |out: &str| content(&sandbox, &format!("{out}/data/{stage}"));
        assert_eq!(content("binary"), content("parquet"));
        sandbox.ok(&format!("inspect parquet/data/{stage}"));
        sandbox.ok(&format!("stats parquet/data/{stage}"));
    }
    // Another format is another dataset, and says so.
    let said = sandbox.run(&format!("prepare recipe.toml --out binary {AS_PARQUET}"));
    assert!(
        said.code != Some(0) && said.err.contains("shard_format"),
        "{}",
        said.err
    );
}

/// The digests of rows that `verify` prints.
fn content(sandbox: &Sandbox, dataset: &str) -> serde_json::Value {
    let said = sandbox.ok(&format!("verify {dataset} --json"));
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(report["content"].as_object().unwrap().len(), 2);
    report["content"].clone()
}

#[test]
fn columns_that_do_not_follow_from_the_ids_are_found() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("prepare recipe.toml --out out {AS_PARQUET}"));
    let folder = sandbox.path("out/data/finetune");
    let dataset = Dataset::open(&folder).unwrap();
    let shard = &dataset.shards(Split::Train)[0];
    shard.verify_columns().unwrap();
    // The columns beside the ids come after them: a file cut and closed anew could hold others.
    let path = folder.join(format!("shards/{}.parquet", shard.record().name));
    let bytes = fs::read(&path).unwrap();
    let at = bytes
        .windows(4)
        .position(|four| four == [0x28, 0xb5, 0x2f, 0xfd]);
    let mut changed = bytes.clone();
    changed[at.unwrap() + 20] ^= 1;
    sandbox.write(&path, &changed);
    assert!(shard.verify_columns().is_err());
}

const FORMS: [&str; 5] = [
    "binary",
    "parquet",
    "parquet-compact",
    "megatron",
    "nanogpt",
];

/// Every file of a folder by name, with its bytes.
fn bytes(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let files = files(folder).into_iter();
    let named = files.map(|path| {
        let name = path.strip_prefix(folder).unwrap().display().to_string();
        (name, fs::read(&path).unwrap())
    });
    named.collect()
}

#[test]
fn conversions_lose_nothing() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out binary");
    sandbox.ok(&format!("prepare recipe.toml --out parquet {AS_PARQUET}"));
    for stage in STAGES {
        let from = format!("binary/data/{stage}");
        let original = bytes(&sandbox.path(&from));
        let prepared = bytes(&sandbox.path(format!("parquet/data/{stage}")));
        for form in FORMS {
            let there = format!("{stage}-{form}");
            let said = sandbox.ok(&format!("convert {from} --to {form} --out {there}"));
            assert!(said.out.contains("proved"), "{}", said.out);
            // Back from each form, the dataset has the bytes that it had.
            sandbox.ok(&format!("convert {there} --to binary --out {there}-back"));
            assert!(
                bytes(&sandbox.path(format!("{there}-back"))) == original,
                "{there}"
            );
        }
        // A converted dataset is the one that would have been prepared.
        let converted = bytes(&sandbox.path(format!("{stage}-parquet")));
        assert!(converted == prepared, "{stage}");
        // From one export to another, and from a Parquet dataset.
        for (from, to) in [
            ("megatron", "parquet-compact"),
            ("nanogpt", "parquet"),
            ("parquet", "nanogpt"),
        ] {
            let out = format!("{stage}-{from}-{to}");
            sandbox.ok(&format!("convert {stage}-{from} --to {to} --out {out}"));
            sandbox.ok(&format!("convert {out} --to binary --out {out}-back"));
            assert!(
                bytes(&sandbox.path(format!("{out}-back"))) == original,
                "{out}"
            );
        }
    }
}

/// Rows that get their pauses when they are read get them in any format of shards, and
/// other programs, which would not know of them, are given none.
#[test]
fn pauses_that_come_at_load_survive_conversion() {
    let sandbox = Sandbox::new();
    let at_load = STAGES.map(|stage| format!("--set {stage}.pause.when=at-load"));
    sandbox.ok(&format!(
        "prepare recipe.toml --out a {}",
        at_load.join(" ")
    ));
    for stage in STAGES {
        let from = format!("a/data/{stage}");
        let (there, back) = (format!("{stage}-there"), format!("{stage}-back"));
        sandbox.ok(&format!("convert {from} --to parquet --out {there}"));
        sandbox.ok(&format!("convert {there} --to binary --out {back}"));
        assert!(bytes(&sandbox.path(&back)) == bytes(&sandbox.path(&from)));
        assert_eq!(content(&sandbox, &there), content(&sandbox, &from));
        let [before, after] = [&from, &there].map(|name| {
            let dataset = Dataset::open(&sandbox.path(name)).unwrap();
            assert!(dataset.online().is_some());
            let rows = (0..2 * dataset.rows(Split::Train)).map(|n| {
                let at = At {
                    split: Split::Train,
                    epoch: n % 2,
                    index: n / 2,
                };
                dataset.row_at(at).unwrap()
            });
            rows.collect::<Vec<_>>()
        });
        assert!(before == after, "{stage}");
        assert!(before[0] != before[1] || stage == "finetune");
        for form in ["parquet-compact", "megatron", "nanogpt"] {
            let said = sandbox.run(&format!("convert {from} --to {form} --out no"));
            assert_eq!(said.code, Some(2), "{}", said.err);
            for words in ["get their pauses when they are read", "when = \"prepare\""] {
                assert!(said.err.contains(words), "{}", said.err);
            }
            assert!(!sandbox.path("no").exists());
        }
    }
}

/// Stored targets, weights, several pause tokens, and pauses that are text.
const BESIDE: [&str; 4] = [
    "token={distinct=3},target=\"repeat\",target_weight=0.25",
    "token=\"delimited\",target=\"emit\"",
    "token={filler=\".\"},target={future=2},target_weight=2",
    "token={distinct=2}",
];

#[test]
fn conversions_keep_what_ids_do_not_tell() {
    let sandbox = Sandbox::new();
    for (number, keys) in BESIDE.into_iter().enumerate() {
        let set = format!(
            "--set pretrain.pause={{policy=\"stride\",every=5,count=2,{keys}}} \
             --set finetune.pause={{policy=\"suffix\",count=4,{keys}}}"
        );
        sandbox.ok(&format!("prepare recipe.toml --out {number} {set}"));
        sandbox.ok(&format!(
            "prepare recipe.toml --out {number}-parquet {set} {AS_PARQUET}"
        ));
        for stage in STAGES {
            let from = format!("{number}/data/{stage}");
            let original = bytes(&sandbox.path(&from));
            for form in FORMS {
                let there = format!("{number}-{stage}-{form}");
                sandbox.ok(&format!("convert {from} --to {form} --out {there}"));
                sandbox.ok(&format!("convert {there} --to binary --out {there}-back"));
                assert!(
                    bytes(&sandbox.path(format!("{there}-back"))) == original,
                    "{there} with {keys}"
                );
            }
            let parquet = format!("{number}-{stage}-parquet");
            sandbox.ok(&format!("verify {parquet}"));
            let prepared = bytes(&sandbox.path(format!("{number}-parquet/data/{stage}")));
            assert!(
                bytes(&sandbox.path(&parquet)) == prepared,
                "{stage} with {keys}"
            );
        }
    }
    // What stands beside the ids is vouched for too.
    let aux = sandbox.path("0-finetune-nanogpt/pausedata/shards/train-00000-000.aux");
    let mut damaged = fs::read(&aux).unwrap();
    let at = damaged.len() / 2;
    damaged[at] ^= 4;
    sandbox.write(&aux, &damaged);
    let said = sandbox.run("convert 0-finetune-nanogpt --to binary --out new");
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("train-00000-000.aux"), "{}", said.err);
}

#[test]
fn conversions_that_cannot_be_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out --only finetune");
    let from = "out/data/finetune";
    let refused = |arguments: &str, code: i32, expected: &str| {
        let said = sandbox.run(&format!("convert {arguments}"));
        assert_eq!(said.code, Some(code), "{}", said.err);
        assert!(said.err.contains(expected), "{}", said.err);
        assert!(said.err.contains("hint:"), "{}", said.err);
    };
    refused(
        &format!("{from} --to parquet --out out"),
        2,
        "`out` is there already",
    );
    refused("text --to parquet --out new", 2, "`text` is no dataset");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden/v1-pretrain-u32");
    let wide = format!("{} --to nanogpt --out new", golden.display());
    refused(&wide, 2, "nanoGPT reads ids of two bytes");
    // A changed file of an export is named, whichever it is.
    sandbox.ok(&format!("convert {from} --to megatron --out megatron"));
    for path in files(&sandbox.path("megatron")) {
        let intact = fs::read(&path).unwrap();
        let mut damaged = intact.clone();
        let at = damaged.len() / 2;
        damaged[at] ^= 4;
        sandbox.write(&path, &damaged);
        let said = sandbox.run("convert megatron --to binary --out new");
        assert!(
            said.code != Some(0) && !sandbox.path("new").exists(),
            "{}",
            path.display()
        );
        sandbox.write(&path, &intact);
    }
    // Nothing is left behind.
    let left = fs::list(&sandbox.path("")).unwrap();
    let left = left
        .iter()
        .filter(|path| path.display().to_string().contains(".tmp-"));
    assert_eq!(left.count(), 0);
}
