//! Batches for the training loops of other programs.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Read;
use std::process::Command;
use std::sync::Arc;

use pausedata::dataset::Dataset;
use pausedata::fs;
use pausedata::loader::{Config, Loader, Order, Share};
use pausedata::manifest::Split;
use pausedata::shard::Reading;
use serde_json::Value;

use super::sandbox::Sandbox;

const DATASET: &str = "a/data/pretrain";

/// A sandbox with a dataset.
fn prepared() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out a");
    sandbox
}

/// A second dataset of the same tokenizer, with more pauses.
fn prepare_another(sandbox: &Sandbox) {
    let tokenizer = "--set tokenizer={file='a/data/pretrain/tokenizer.json'}";
    let pause = "--set pretrain.pause.fraction=0.2 --set pretrain.validation=0.5";
    sandbox.ok(&format!("prepare recipe.toml --out b {tokenizer} {pause}"));
}

/// The rows that `load` writes.
pub fn load(sandbox: &Sandbox, arguments: &str) -> Vec<Value> {
    let said = sandbox.ok(&format!("load {arguments} --format jsonl"));
    let lines = said.out.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap()
}

/// What `load` says to arguments that it refuses.
fn refused(sandbox: &Sandbox, arguments: &str) -> String {
    let said = sandbox.run(&format!("load {arguments}"));
    assert_eq!(said.code, Some(2), "{arguments}: {}", said.err);
    assert!(said.out.is_empty(), "{arguments}: {}", said.out);
    said.err
}

/// Each step of an epoch by other processes, which know of the steps before no more than
/// a file says.
#[test]
fn an_epoch_is_whole_though_its_processes_change_at_every_step() {
    let sandbox = prepared();
    let arguments = format!("{DATASET} --rows 16 --epochs 1");
    let whole = load(&sandbox, &arguments);
    let mut rows: Vec<u64> = whole.iter().map(|row| number(row, "row")).collect();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..whole.len() as u64));
    assert!(4 < whole.len() / 16 && !whole.len().is_multiple_of(16));
    assert_eq!(
        step_by_step(&sandbox, &arguments, whole.len().div_ceil(16)),
        whole
    );
    assert!(load(&sandbox, &format!("{arguments} --state state.json")).is_empty());
}

/// The rows of batches of 16, each made by other processes, as many as the step before did
/// not have.
pub fn step_by_step(sandbox: &Sandbox, arguments: &str, n_batches: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    for (step, world) in (0..n_batches).zip([1, 2, 3, 8].into_iter().cycle()) {
        let position = |rank| match rank {
            0 => "--state state.json".to_string(),
            _ => format!("--from {step}"),
        };
        let run = |rank| {
            let rank = format!(
                "--batches 1 --world {world} --rank {rank} {}",
                position(rank)
            );
            load(sandbox, &format!("{arguments} {rank}")).into_iter()
        };
        let mut shares: Vec<_> = (0..world).map(run).collect();
        let dealt = (0..16).map(|place| shares[place % world].next());
        rows.extend(dealt.flatten());
    }
    rows
}

/// A dataset of many pages loses its end between two batches, as training goes on: batches
/// before are as they were, the next is an error with the file's name, and nothing crashes.
#[test]
fn a_dataset_that_is_cut_between_batches_is_an_error() {
    let sandbox = prepared();
    for reading in [Reading::Mmap, Reading::Pread] {
        // Rows of one length are found without an index.
        for (ending, folder) in [("bin", DATASET), ("idx", "a/data/finetune")] {
            let shard = format!("{folder}/shards/train-00000-000.{ending}");
            let intact = fs::read(&sandbox.path(&shard)).unwrap();
            let dataset = Dataset::open_by(reading, &sandbox.path(folder)).unwrap();
            let rows = usize::try_from(dataset.rows(Split::Train)).unwrap();
            let config = Config {
                seed: 1,
                rows_per_batch: rows,
                rows_per_micro_batch: 8,
                split: Split::Train,
                order: Order::Shuffled,
                bucket: 0,
                share: Share::WHOLE,
                epochs: None,
            };
            let loader = Arc::new(Loader::new(Arc::new(dataset), config).unwrap());
            // All blocks were found right, all pages touched.
            let first = loader.batch(0).unwrap();
            // One waits to be taken, one to be handed over: the others are made after the cut.
            let mut ahead = loader.clone().prefetch(0, 6, 1);
            assert_eq!(ahead.next().unwrap().unwrap(), first);
            let file = OpenOptions::new()
                .write(true)
                .open(sandbox.path(&shard))
                .unwrap();
            // Of an index nothing is left that says where rows are.
            let left = if ending == "idx" {
                64
            } else {
                intact.len() / 3
            };
            file.set_len(left as u64).unwrap();
            let error = loader.batch(1).unwrap_err();
            let source = error.source().unwrap().to_string();
            assert!(
                source.contains(&shard) && source.contains("length in bytes"),
                "{source}"
            );
            // What was ahead of the cut may come, then the error.
            let failed = ahead.find_map(Result::err);
            assert!(failed.is_some());
            sandbox.write(&shard, &intact);
        }
    }
}

/// What `load` says does not depend on how it reads.
#[test]
fn every_way_to_read_gives_the_same_batches() {
    let sandbox = prepared();
    let arguments = format!("{DATASET} --rows 16 --batches 20");
    let mapped = load(&sandbox, &arguments);
    assert_eq!(mapped, load(&sandbox, &format!("{arguments} --read pread")));
    assert_eq!(mapped, load(&sandbox, &format!("{arguments} --no-verify")));
}

#[test]
fn the_loader_is_measured() {
    let sandbox = prepared();
    let rows = load(&sandbox, &format!("{DATASET} --rows 16 --epochs 1"));
    let ids = |row: &Value| row["ids"].as_array().unwrap().len();
    let n_ids: usize = rows.iter().map(ids).sum();
    let bench = format!("bench loader {DATASET} --batch-rows 8 --epochs 2 --rate 500000");
    for arguments in [
        "",
        "--read pread",
        "--no-verify",
        "--write again",
        "--cold",
        "--no-read-ahead",
    ] {
        let said = sandbox.ok(&format!("{bench} {arguments} --json"));
        let report: Value = serde_json::from_str(&said.out).unwrap();
        let tokens = |epoch: &Value| usize::try_from(number(epoch, "tokens")).unwrap();
        let epochs = report["epochs"].as_array().unwrap();
        assert_eq!(epochs.iter().map(tokens).sum::<usize>(), 2 * n_ids);
        assert_eq!(report["first_batch_ms"].as_array().unwrap().len(), 5);
        let written = report
            .get("written")
            .map(|written| usize::try_from(number(written, "tokens")).unwrap());
        assert_eq!(written, (arguments == "--write again").then_some(n_ids));
        assert!(!sandbox.path("again").exists());
    }
    let said = sandbox.ok(&bench);
    assert!(
        said.out
            .contains("mapped, checksums compared at first touch"),
        "{}",
        said.out
    );
    assert!(
        said.out
            .contains("beside a training of 500,000 tokens a second"),
        "{}",
        said.out
    );
    let said = sandbox.run(&format!("{bench} --write {DATASET}"));
    assert_eq!(said.code, Some(2), "{}", said.err);
}

/// The global batch that a state says comes next.
fn next(sandbox: &Sandbox, state: &str) -> u64 {
    let state: Value = serde_json::from_str(&sandbox.read(state)).unwrap();
    number(&state, "next")
}

/// An endless stream ends with a whole batch at a signal, and quietly when nobody reads on;
/// either way the state says how many batches were written.
#[test]
fn a_stream_may_end_at_any_time() {
    let sandbox = prepared();
    let arguments = format!("load {DATASET} --rows 4 --format u16 --state");
    let batch = 4 * 64 * 2;

    let mut child = sandbox.piped(&format!("{arguments} stopped.json"));
    let mut pipe = child.stdout.take().unwrap();
    let mut bytes = vec![0; 100 * batch];
    pipe.read_exact(&mut bytes).unwrap();
    let id = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap()
            .success()
    );
    pipe.read_to_end(&mut bytes).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(75));
    assert!(bytes.len().is_multiple_of(batch));
    assert_eq!(next(&sandbox, "stopped.json"), (bytes.len() / batch) as u64);

    let mut child = sandbox.piped(&format!("{arguments} closed.json"));
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut bytes[..10 * batch]).unwrap();
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(10 <= next(&sandbox, "closed.json"));
}

#[test]
fn several_datasets_are_mixed_by_weight() {
    let sandbox = prepared();
    prepare_another(&sandbox);
    let arguments = format!("{DATASET} b/data/pretrain --rows 8 --weights 3,1 --weights 5:0,1");
    let rows = load(&sandbox, &format!("{arguments} --batches 8"));
    for (k, batch) in rows.chunks(8).enumerate() {
        assert!(batch.iter().all(|row| number(row, "batch") == k as u64));
        let second = batch
            .iter()
            .filter(|row| number(row, "dataset") == 1)
            .count();
        assert_eq!(second, if k < 5 { 2 } else { 8 });
    }
    // The first dataset's rows are those that it has alone.
    let alone = load(&sandbox, &format!("{DATASET} --rows 6 --batches 1"));
    for row in alone {
        let same = |other: &&Value| other["ids"] == row["ids"] && number(other, "dataset") == 0;
        assert!(rows.iter().take(8).any(|other| same(&other)));
    }
    let from_5 = load(&sandbox, &format!("{arguments} --batches 3 --from 5"));
    assert_eq!(from_5, rows[40..]);
}

#[test]
fn another_run_is_refused() {
    let sandbox = prepared();
    prepare_another(&sandbox);
    let keep = "--rows 8 --batches 2 --state state.json";
    load(&sandbox, &format!("{DATASET} {keep}"));
    let refused = |arguments: &str| refused(&sandbox, arguments);
    let told = refused(&format!("b/data/pretrain {keep}"));
    assert!(
        told.contains("`recipe.pause.fraction` was 0.1 and is 0.2"),
        "{told}"
    );
    assert!(told.contains("hint: undo the change"), "{told}");
    let told = refused(&format!("{DATASET} {keep} --seed 2"));
    assert!(told.contains("`seed` was 1 and is 2"), "{told}");
    sandbox.write("state.json", "{}");
    let told = refused(&format!("{DATASET} {keep}"));
    assert!(
        told.contains("`state.json` is no state of a loader"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_loaded_is_told() {
    let sandbox = prepared();
    let other = "--set tokenizer.train.vocab_size=300";
    sandbox.ok(&format!("prepare recipe.toml --out c {other}"));
    let refused = |arguments: &str| refused(&sandbox, arguments);
    let told = refused(&format!("{DATASET} c/data/pretrain --rows 8 --weights 1,1"));
    assert!(
        told.contains("`c/data/pretrain` cannot be mixed with `a/data/pretrain`"),
        "{told}"
    );
    assert!(told.contains("its tokenizer is "), "{told}");
    let told = refused(&format!("{DATASET} a/data/finetune --rows 8 --weights 1,1"));
    assert!(
        told.contains("its stage is finetune, expected pretrain"),
        "{told}"
    );
    let told = refused(&format!("{DATASET} {DATASET} --rows 8"));
    assert!(told.contains("2 datasets need `--weights`"), "{told}");
    let told = refused(&format!("{DATASET} --rows 8 --weights 1,1"));
    assert!(told.contains("has 2 weights, expected 1"), "{told}");
    let told = refused(&format!(
        "{DATASET} {DATASET} --rows 8 --weights 1,1 --epochs 1"
    ));
    assert!(told.contains("no epochs in common"), "{told}");
    let told = refused(&format!("{DATASET} --rows 8 --rank 1"));
    assert!(told.contains("rank 1 of 1 has no part"), "{told}");
    let told = refused("a/data/finetune --rows 8 --format u16");
    assert!(
        told.contains("has prefixes, which ids alone do not show"),
        "{told}"
    );
    let told = refused(&format!("{DATASET} --rows 8 --format jsonl --fields ids"));
    assert!(told.contains("`--fields`"), "{told}");
}

/// A member's own pauses are those of its rows in every step, and part of the run.
#[cfg(feature = "train")]
#[test]
fn a_dataset_of_a_mixture_may_have_pauses_of_its_own() {
    let sandbox = Sandbox::new();
    let none = "--only pretrain --set pretrain.pause={policy=\"none\"}";
    sandbox.ok(&format!("prepare recipe.toml --out a {none}"));
    let tokenizer = "--set tokenizer={file='a/data/pretrain/tokenizer.json'}";
    sandbox.ok(&format!("prepare recipe.toml --out b {none} {tokenizer}"));
    let train = |fraction: f64| {
        let pause = format!("pause={{policy=\"random\",fraction={fraction}}}");
        let other = format!("{{dataset='../b/data/pretrain',weight=1,{pause}}}");
        let mixture = format!("--set pretrain.train.mixture=[{{weight=1}},{other}]");
        format!("train recipe.toml --out a {none} {mixture}")
    };
    sandbox.ok(&train(0.5));
    let metrics = sandbox.read("a/train/pretrain/metrics.jsonl");
    let lines = metrics
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    let pauses = lines.filter_map(|line: Value| line["pauses"].as_u64());
    let pauses: Vec<u64> = pauses.collect();
    // Of four rows of 64 ids a step, two are half pauses; the last row may be short.
    assert_eq!(pauses.len(), 12);
    assert!(pauses.iter().all(|n| (32..=64).contains(n)), "{pauses:?}");
    assert!(pauses.contains(&64), "{pauses:?}");
    let said = sandbox.run(&train(0.25));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("pause.fraction"), "{}", said.err);
}

#[cfg(feature = "train")]
#[test]
fn a_recipe_may_mix_datasets_by_a_schedule() {
    let sandbox = prepared();
    prepare_another(&sandbox);
    let own = "{weight=3}";
    let other = "{dataset='../b/data/pretrain',weight=1}";
    let mixture = format!("--set pretrain.train.mixture=[{own},{other}]");
    let curriculum = "--set pretrain.train.curriculum=[{from_step=6,weights=[0,1]}]";
    let train = format!("train recipe.toml --out a --only pretrain {mixture}");
    let said = sandbox.ok(&format!("{train} {curriculum}"));
    // Four rows a step: 3 and 1 for six steps, then none and 4.
    let rows = |dataset: &str| {
        let stats = sandbox.ok(&format!("stats {dataset} --json")).out;
        let stats: Value = serde_json::from_str(&stats).unwrap();
        stats["splits"]["train"]["rows"].as_f64().unwrap()
    };
    for (rows, taken, dataset) in [
        (rows(DATASET), 18.0, DATASET),
        (rows("b/data/pretrain"), 30.0, "b/data/pretrain"),
    ] {
        let told = format!("{:.2} epochs of ", taken / rows);
        let line = said.out.lines().find(|line| line.contains(&told));
        assert!(
            line.is_some_and(|line| line.ends_with(dataset)),
            "{told}: {}",
            said.out
        );
    }
    let said = sandbox.run(&train);
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("`mixture.1.from` was 6 and is absent"),
        "{}",
        said.err
    );
}
