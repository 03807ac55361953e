//! The same rows in every format.

use pausedata::dataset::Dataset;
use pausedata::fs;
use pausedata::manifest::Split;

use super::sandbox::Sandbox;

const STAGES: [&str; 2] = ["pretrain", "finetune"];
const AS_PARQUET: &str = "--set pretrain.pack.format=parquet --set finetune.pack.format=parquet";

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
                assert_eq!(binary.header(), parquet.header());
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
