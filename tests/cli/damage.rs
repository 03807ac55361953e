//! `verify` names the file that is damaged, and everything else refuses it.

use std::path::Path;

use pausedata::fs;

use super::sandbox::{Said, Sandbox, files};

fn verify(sandbox: &Sandbox, dataset: &str) -> Said {
    sandbox.run(&format!("verify {dataset}"))
}

/// The name of a file as `verify` prints it.
fn shown(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Datasets whose shards are Parquet files.
const AS_PARQUET: &str = "--set pretrain.pack.format=parquet --set finetune.pack.format=parquet";

#[test]
fn a_flipped_byte_in_any_file_is_found_and_named() {
    flip_bytes("");
}

#[test]
fn a_flipped_byte_in_any_parquet_file_is_found_and_named() {
    flip_bytes(AS_PARQUET);
}

fn flip_bytes(format: &str) {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("prepare recipe.toml --out out {format}"));
    for dataset in ["out/data/pretrain", "out/data/finetune"] {
        for path in files(&sandbox.path(dataset)) {
            if path.ends_with("origin.json") {
                continue; // Only where the sources lay; no part of the dataset.
            }
            let intact = fs::read(&path).unwrap();
            for at in [0, intact.len() / 3, intact.len() - 1] {
                let mut damaged = intact.clone();
                damaged[at] ^= 0x10;
                sandbox.write(&path, &damaged);
                let said = verify(&sandbox, dataset);
                let context = format!("byte {at} of {}:\n{}{}", path.display(), said.out, said.err);
                assert_eq!(said.code, Some(1), "{context}");
                assert!(said.out.contains(&shown(&path)), "not named: {context}");
            }
            sandbox.write(&path, &intact);
        }
        assert_eq!(verify(&sandbox, dataset).code, Some(0));
    }
}

#[test]
fn the_record_of_a_unit_counts_only_as_it_was_written() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out whole --only pretrain");
    sandbox.ok("prepare recipe.toml --out out --only pretrain --partition 1/2");
    let name = "out/data/pretrain/units/unit-00000.json";
    let record = sandbox.read(name);
    // Another number: without a seal nothing would tell.
    let at = record.find("\"read\": ").unwrap() + 8;
    for at in [at, record.len() / 2, record.len() - 3] {
        let mut changed = record.clone().into_bytes();
        changed[at] ^= 1;
        sandbox.write(name, &changed);
        let said = sandbox.run("prepare recipe.toml --out out --only pretrain");
        assert_eq!(said.code, Some(3), "byte {at}: {}", said.err);
        for part in ["unit-00000.json", "is damaged", "remove this file"] {
            assert!(said.err.contains(part), "byte {at}: {}", said.err);
        }
    }
    // A record without a seal is of an earlier version: its unit is made again.
    let seal = record.rfind(",\n  \"seal\"").unwrap();
    let mut unsealed = record[..seal].to_string().into_bytes();
    unsealed[at] ^= 1;
    unsealed.extend(b"\n}\n");
    sandbox.write(name, &unsealed);
    sandbox.ok("prepare recipe.toml --out out --only pretrain");
    let digest = |out: &str| sandbox.digest(&format!("{out}/data/pretrain"));
    assert_eq!(digest("out"), digest("whole"));
}

#[test]
fn a_missing_a_swapped_and_a_strange_shard_are_found() {
    move_shards("", "bin");
}

#[test]
fn a_missing_a_swapped_and_a_strange_parquet_shard_are_found() {
    move_shards(AS_PARQUET, "parquet");
}

fn move_shards(format: &str, ending: &str) {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("prepare recipe.toml --out out {format}"));
    let dataset = "out/data/pretrain";
    let shards: Vec<_> = files(&sandbox.path(dataset).join("shards"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == ending))
        .filter(|path| shown(path).starts_with("train"))
        .collect();
    assert!(2 <= shards.len(), "one shard proves nothing");
    let (first, second) = (&shards[0], &shards[1]);
    let aside = sandbox.path("aside");

    std::fs::rename(first, &aside).unwrap();
    let said = verify(&sandbox, dataset);
    assert!(
        said.code == Some(1) && said.out.contains(&shown(first)),
        "{}",
        said.out
    );

    std::fs::rename(second, first).unwrap();
    std::fs::rename(&aside, second).unwrap();
    let said = verify(&sandbox, dataset);
    assert!(
        said.code == Some(1) && said.out.contains(&shown(first)),
        "{}",
        said.out
    );
    assert!(said.out.contains(&shown(second)), "{}", said.out);

    std::fs::rename(first, &aside).unwrap();
    std::fs::rename(second, first).unwrap();
    std::fs::copy(&aside, second).unwrap();
    assert_eq!(verify(&sandbox, dataset).code, Some(0));

    let name = format!("train-99999-000.{ending}");
    let stranger = second.with_file_name(&name);
    std::fs::copy(second, &stranger).unwrap();
    let said = verify(&sandbox, dataset);
    assert!(
        said.code == Some(1) && said.out.contains(&name),
        "{}",
        said.out
    );
}

#[test]
fn an_edited_manifest_is_found() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    let name = "out/data/pretrain/manifest.json";
    let manifest = sandbox.read(name);
    let edited = manifest.replacen("\"seed\": 7", "\"seed\": 8", 1);
    assert_ne!(manifest, edited);
    sandbox.write(name, edited);
    let said = verify(&sandbox, "out/data/pretrain");
    assert!(
        said.code == Some(1) && said.out.contains("manifest.json"),
        "{}",
        said.out
    );
    let said = sandbox.run("stats out/data/pretrain");
    assert!(
        said.code == Some(3) && said.err.contains("manifest.json"),
        "{}",
        said.err
    );
}

#[test]
fn another_tokenizer_is_found() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    sandbox.ok("prepare recipe.toml --out other --set tokenizer.train.vocab_size=300");
    let name = "data/pretrain/tokenizer.json";
    std::fs::copy(
        sandbox.path("other").join(name),
        sandbox.path("out").join(name),
    )
    .unwrap();
    let said = verify(&sandbox, "out/data/pretrain");
    assert!(
        said.code == Some(1) && said.out.contains("tokenizer.json"),
        "{}",
        said.out
    );
}

#[test]
fn an_unsealed_dataset_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    std::fs::remove_file(sandbox.path("out/data/pretrain/manifest.json")).unwrap();
    for command in ["verify", "inspect", "stats"] {
        for folder in ["out/data/pretrain", "out", "nothing", "recipe.toml"] {
            let said = sandbox.run(&format!("{command} {folder}"));
            let refused = said.code == Some(3)
                && said.err.contains("is not a sealed dataset")
                && said.err.contains("hint:");
            assert!(refused, "{command} {folder}: {said:?}");
        }
    }
}

#[test]
fn changed_sources_are_found() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    let text = sandbox.read("text/3.jsonl");
    sandbox.write("text/3.jsonl", text.replacen("stones", "storks", 1));
    let said = verify(&sandbox, "out/data/pretrain");
    assert!(
        said.code == Some(1) && said.out.contains("no longer holds the text"),
        "{}",
        said.out
    );
    let said = sandbox.run("verify out/data/pretrain --no-sources");
    assert_eq!(said.code, Some(0), "{}", said.out);
}
