//! What a long run meets: signals, a second process, steps that go wrong, an end that
//! comes early.

use std::process::{Child, Command, Stdio};

use pausedata::fs;

use super::sandbox::{Said, Sandbox};
use super::training::outcome;

/// Steps enough that a run does not end by itself before it is told to stop.
const LONG: &str = "--only pretrain --set pretrain.train.steps=120 --set pretrain.train.warmup=4";

/// Waits until a run has written so many lines of metrics; whether it still runs.
pub fn wait_for(sandbox: &Sandbox, child: &mut Child, metrics: &str, lines: usize) -> bool {
    let path = sandbox.path(metrics);
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_text(&path).unwrap_or_default();
        if lines <= text.matches('\n').count() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

pub fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    let status = Command::new("kill").args([name, &id]).status();
    assert!(status.unwrap().success());
}

fn spawn(sandbox: &Sandbox, arguments: &str) -> Child {
    let mut command = sandbox.command(arguments);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The loss of every step, and the last weights, of a run of pretraining.
fn pretrained(sandbox: &Sandbox, out: &str) -> (Vec<String>, Vec<u8>) {
    let folder = format!("{out}/train/pretrain");
    let latest = sandbox.read(&format!("{folder}/latest"));
    let weights = format!("{folder}/checkpoints/{}/model.safetensors", latest.trim());
    let metrics = sandbox.read(&format!("{folder}/metrics.jsonl"));
    let untimed = |line: &str| line.split("\"tokens_per_s\"").next().unwrap().to_owned();
    let lines = metrics.lines().map(untimed).collect();
    (lines, fs::read(&sandbox.path(weights)).unwrap())
}

/// Ctrl-C and SIGTERM save what is done, whatever it is doing; killed, a run loses no more
/// than it did since its last checkpoint. The lock of a process goes with it.
#[test]
fn law_8_every_way_to_stop_a_run_gives_the_same_in_the_end() {
    let sandbox = Sandbox::new();
    for out in ["whole", "stopped"] {
        sandbox.ok(&format!("prepare recipe.toml --out {out}"));
    }
    let often = "--set pretrain.train.checkpoint_every=7 --set pretrain.train.validate_every=5";
    sandbox.ok(&format!("train recipe.toml --out whole {LONG} {often}"));
    let again = format!("train recipe.toml --out stopped {LONG} {often}");
    let metrics = "stopped/train/pretrain/metrics.jsonl";
    for (lines, name, code) in [
        (3, "-INT", Some(75)),
        (20, "-TERM", Some(75)),
        (50, "-KILL", None),
        (70, "-TERM", Some(75)),
    ] {
        let mut child = spawn(&sandbox, &again);
        assert!(wait_for(&sandbox, &mut child, metrics, lines), "{name}");
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code, "{name}: {said}");
        if code.is_some() {
            assert!(said.contains("done so far is saved"), "{said}");
            assert!(said.contains("run the same command again"), "{said}");
        }
    }
    sandbox.ok(&again);
    assert!(pretrained(&sandbox, "stopped") == pretrained(&sandbox, "whole"));
}

#[test]
fn a_folder_is_trained_in_by_one_process() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    let train = format!("train recipe.toml --out out {LONG}");
    let mut child = spawn(&sandbox, &train);
    let metrics = "out/train/pretrain/metrics.jsonl";
    assert!(wait_for(&sandbox, &mut child, metrics, 2));
    signal(&child, "-STOP");
    for extra in ["", "--force"] {
        let said = sandbox.run(&format!("{train} {extra}"));
        assert_eq!(said.code, Some(1), "{}", said.err);
        let expected = "another process is training in `out/train/pretrain`";
        assert!(said.err.contains(expected), "{}", said.err);
        assert!(said.err.contains("another `--out`"), "{}", said.err);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    sandbox.ok(&format!("{train} --force"));
}

/// Batches whose gradients are out of all proportion are skipped, or gone past, and their
/// rows can be looked at.
#[test]
fn rows_of_a_spike_are_named_and_gone_past() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    let spike = "--only pretrain --set pretrain.train.spike={window=2,grad_norm=1.0001,loss=1.0001,most=1000";
    let train = |rest: &str| sandbox.run(&format!("train recipe.toml --out out {spike}{rest}}}"));
    let said = train("");
    assert_eq!(said.code, Some(1), "{}", said.err);
    for told in [
        "times",
        "the median of the last 2 steps",
        "--set pretrain.train.spike.policy=skip",
        "anomalies/batch-",
    ] {
        assert!(said.err.contains(told), "`{told}`: {}", said.err);
    }
    let said = train(",policy=\"skip\"");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("its batch is skipped"), "{}", said.err);
    let anomalies = super::sandbox::files(&sandbox.path("out/train/pretrain/anomalies"));
    let text = fs::read_text(&anomalies[0]).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    let inspect = record["rows"][0]["inspect"].as_str().unwrap();
    let inspect = inspect.strip_prefix("pausedata ").unwrap();
    let Said { out, .. } = sandbox.ok(inspect);
    let row = record["rows"][0]["row"].to_string();
    assert!(out.contains(&row), "{row}: {out}");
    sandbox.ok("prepare recipe.toml --out back");
    let few = spike.replace("most=1000", "most=3");
    let said = sandbox.run(&format!(
        "train recipe.toml --out back {few},policy=\"roll-back\"}}"
    ));
    assert!(said.err.contains("goes back to step"), "{}", said.err);
}

/// What comes after a stage that ended early takes its best model, which can be named.
#[test]
fn a_run_that_ends_early_goes_on_with_its_best() {
    let sandbox = Sandbox::new();
    let keys = "--set pretrain.train.steps=400 --set pretrain.train.lr=0.3 --set pretrain.train.schedule=constant \
                --set pretrain.train.validate_every=2 --set pretrain.train.early_stopping={patience=3}";
    let said = sandbox.ok(&format!("run recipe.toml --out out {keys}"));
    assert!(
        said.err.contains("stopped early after step"),
        "{}",
        said.err
    );
    let folder = "out/train/pretrain";
    let [best, latest] = ["best", "latest"].map(|name| sandbox.read(&format!("{folder}/{name}")));
    assert_ne!(best, latest);
    let generate = |path: &str| {
        let said = sandbox.ok(&format!(
            "generate {folder}{path} --prompt The --max-tokens 8 --json"
        ));
        said.out
    };
    assert_eq!(
        generate("/best"),
        generate(&format!("/checkpoints/{}", best.trim()))
    );
    assert_eq!(generate("/latest"), generate(""));
    let first = outcome(&sandbox, "out");
    sandbox.ok(&format!("run recipe.toml --out out {keys}"));
    assert!(outcome(&sandbox, "out") == first);
}

/// A run shows what it did: a page of its curves, their numbers, an event file.
#[test]
fn curves_are_shown_as_a_page_and_as_numbers() {
    let sandbox = Sandbox::new();
    let said = sandbox.run("report .");
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("holds no metrics"), "{}", said.err);
    let keys = "--set pretrain.train.tensorboard=true --set pretrain.train.ema=0.9 \
                --set pretrain.train.optimizer=muon --set pretrain.train.peak_gflops=100";
    sandbox.ok(&format!("run recipe.toml --out out {keys}"));
    let said = sandbox.ok("report out");
    assert_eq!(said.err, "wrote out/report.html\n");
    for told in [
        "pretrain",
        "12 steps",
        "finetune",
        "validation loss",
        "sums",
    ] {
        assert!(said.out.contains(told), "`{told}`: {}", said.out);
    }
    let page = sandbox.read("out/report.html");
    for told in [
        "<h3>Loss</h3>",
        "<h3>Speed</h3>",
        "<h2>Evaluation</h2>",
        "polyline",
    ] {
        assert!(page.contains(told), "{told}");
    }
    assert!(!page.contains("<script"));
    let json = sandbox
        .ok("report out/train/pretrain --html page.html --json")
        .out;
    let curves: serde_json::Value = serde_json::from_str(&json).unwrap();
    let stage = &curves["stages"][0];
    assert_eq!(
        (&stage["stage"], &stage["steps"]),
        (&"pretrain".into(), &12.into())
    );
    assert_eq!(stage["train"].as_array().unwrap().len(), 12);
    assert_eq!(stage["validation"].as_array().unwrap().len(), 2);
    let whole: serde_json::Value = serde_json::from_str(&sandbox.read("out/report.json")).unwrap();
    assert_eq!(whole["stages"][0], curves["stages"][0]);
    let metrics = sandbox.read("out/train/pretrain/metrics.jsonl");
    let line: serde_json::Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    assert!(
        0.0 < line["mfu"].as_f64().unwrap() && line["hfu"].is_f64(),
        "{line}"
    );
    // The version, a record a step and one a validation loss.
    let events = sandbox.path("out/train/pretrain/tensorboard/events.out.tfevents.0.pausedata");
    let bytes = fs::read(&events).unwrap();
    let mut records = 0;
    let mut rest = bytes.as_slice();
    while let Some((length, after)) = rest.split_first_chunk::<8>() {
        records += 1;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
        rest = &after[4 + length + 4..];
    }
    assert_eq!((records, rest.len()), (1 + 12 + 2, 0));
}
