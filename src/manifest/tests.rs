use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use std::path::PathBuf;

use super::*;
use crate::token::TokenId;

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        stage: Stage::Pretrain,
        seed: u64::MAX,
        recipe: serde_json::json!({ "pretrain": { "z": 0.1, "a": "ü \" \n" } }),
        tokenizer: TokenizerRecord {
            digest: Digest::of(b"tokenizer"),
            vocab_size: 259,
            reserved: Reserved {
                pause: TokenId(256),
                end: TokenId(257),
                pad: TokenId(258),
                extra: Default::default(),
            },
            begin: None,
        },
        id_width: IdWidth::U16,
        shard_format: ShardFormat::Binary,
        row_length: 32,
        pause: pause::Policy::Random {
            fraction: 0.1,
            law: pause::Law::IidGaps,
            overflow: pause::Overflow::Drop,
        }
        .into(),
        corpus: vec![FileRecord {
            version: None,
            name: "a.txt".into(),
            source: 0,
            bytes: 12,
            span: None,
            documents: 1,
        }],
        splits: BTreeMap::from([(Split::Validation, SplitRecord::default())]),
        ledger: Ledger::default(),
        contamination: Vec::new(),
        rejects: Vec::new(),
    }
}

fn sealed() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    manifest().seal(folder.path()).unwrap();
    let path = folder.path().join(FILE);
    (folder, path)
}

#[test]
fn a_sealed_manifest_comes_back_and_equal_ones_have_equal_bytes() {
    let (one, path) = sealed();
    let (again, other) = sealed();
    let bytes = fs::read(&path).unwrap();
    assert_eq!(bytes, fs::read(&other).unwrap());
    let (found, digest) = Manifest::open(one.path()).unwrap();
    assert_eq!(found, manifest());
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(manifest().seal(again.path()).unwrap(), digest);
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["seal"].as_str().map(str::len), Some(64));
}

#[test]
fn a_folder_without_a_manifest_is_not_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let error = Manifest::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::NotSealed { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&folder.path().display().to_string())
    );
    assert!(error.hint().unwrap().contains("pausedata prepare"));
}

#[test]
fn every_changed_or_missing_byte_is_found_and_named() {
    let (folder, path) = sealed();
    let bytes = fs::read(&path).unwrap();
    let refused = || {
        let error = Manifest::open(folder.path()).expect_err("a changed manifest");
        assert!(error.to_string().contains("manifest.json"), "{error}");
        error.to_string()
    };
    // In place and by shortening: rewriting the whole file would wait for the disk.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    let put = |bytes: &[u8], at: usize| file.write_all_at(bytes, at as u64).unwrap();
    for at in 0..bytes.len() {
        put(&[bytes[at] ^ (1 << (at % 8))], at);
        refused();
        put(&bytes[at..=at], at);
    }
    for at in (0..bytes.len()).rev() {
        file.set_len(at as u64).unwrap();
        refused();
    }
    let text = String::from_utf8(bytes).unwrap();
    let longer = text.replace("\"row_length\": 32", "\"row_length\": 64");
    put(longer.as_bytes(), 0);
    let error = refused();
    assert!(error.contains("was changed after it was sealed"), "{error}");
    put(text.replace("\"format\": 1", "\"format\": 2").as_bytes(), 0);
    let error = refused();
    assert!(
        error.contains("has format version 2, and this program reads version 1"),
        "{error}"
    );
    put(format!("{text}\n").as_bytes(), 0);
    refused();
}

#[test]
fn a_ledger_that_does_not_add_up_is_not_sealed() {
    let mut ledger = Ledger::default();
    ledger.keep();
    ledger.leave_out("empty");
    ledger.leave_out("empty");
    let mut sum = ledger.clone();
    sum += &ledger;
    assert_eq!((sum.read, sum.kept, sum.dropped["empty"]), (6, 2, 4));
    sum.check().unwrap();
    sum.read += 1;
    let folder = tempfile::tempdir().unwrap();
    let error = Manifest {
        ledger: sum,
        ..manifest()
    }
    .seal(folder.path())
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the ledger does not add up: 7 documents read, 2 kept and 4 dropped"
    );
    assert!(fs::list(folder.path()).unwrap().is_empty());
}

#[test]
fn totals_add_up_with_runs_of_any_length() {
    let mut one = Totals {
        rows: 1,
        ..Totals::default()
    };
    for run in [1, 3, 3, 0] {
        one.observe_run(run);
    }
    let mut two = Totals {
        rows: 2,
        ..Totals::default()
    };
    two.observe_run(1);
    two += &one;
    assert_eq!((two.rows, two.pause_runs.clone()), (3, vec![2, 0, 2]));
    one += &Totals::default();
    assert_eq!(one.pause_runs, [1, 0, 2]);
}

#[test]
fn sealing_removes_what_a_killed_run_left() {
    let folder = tempfile::tempdir().unwrap();
    let shards = folder.path().join(SHARDS);
    fs::write(&shards.join("a.bin"), b"data").unwrap();
    fs::write(&shards.join(".tmp-1-b.bin"), b"half").unwrap();
    manifest().seal(folder.path()).unwrap();
    assert_eq!(fs::list(&shards).unwrap(), [shards.join("a.bin")]);
}
