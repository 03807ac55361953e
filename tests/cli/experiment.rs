//! Arms times seeds, and what comes of them.

use std::process::Stdio;

use pausedata::fs;
use serde_json::Value;

use crate::runs::{signal, wait_for};
use crate::sandbox::Sandbox;

/// Two seeds, the recipe's own among them, and two controls.
const EXPERIMENT: &str = r#"
[experiment]
seeds = [7, 8]
[[experiment.controls]]
name = "dots"
set = ['finetune.pause.token={ filler = "." }']
[[experiment.controls]]
name = "deep"
set = ["model.n_layers=3", 'pretrain.pause={ policy = "none" }', 'finetune.pause={ policy = "none" }']
"#;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let recipe = sandbox.read("recipe.toml");
    sandbox.write("arms.toml", recipe + EXPERIMENT);
    sandbox
}

/// The last weights of a training folder.
fn weights(sandbox: &Sandbox, folder: &str) -> Vec<u8> {
    let latest = sandbox.read(&format!("{folder}/latest"));
    let checkpoint = format!("{folder}/checkpoints/{}", latest.trim());
    fs::read(&sandbox.path(format!("{checkpoint}/model.safetensors"))).unwrap()
}

/// An arm with the recipe's own seed is the recipe, run by itself.
#[test]
fn arms_are_what_their_recipes_give() {
    let sandbox = sandbox();
    let said = sandbox.ok("experiment arms.toml --out arms");
    assert!(said.out.contains("verdict"), "{}", said.out);
    let none = "--set pretrain.pause={policy=\"none\"} --set finetune.pause={policy=\"none\"}";
    sandbox.ok("run recipe.toml --out pauses");
    sandbox.ok(&format!("run recipe.toml --out none {none}"));
    sandbox.ok(&format!(
        "run recipe.toml --out deep {none} --set model.n_layers=3"
    ));
    for (run, pretrained, arm) in [
        ("pauses", "PausePT", "PausePT_PauseFT"),
        ("none", "StdPT", "StdPT_StdFT"),
        ("deep", "deep_PT", "deep"),
    ] {
        let stages = [("pretrain", pretrained), ("finetune", arm)];
        for (stage, folder) in stages {
            let alone = weights(&sandbox, &format!("{run}/train/{stage}"));
            let in_arm = weights(&sandbox, &format!("arms/seed-7/{folder}/train/{stage}"));
            assert!(alone == in_arm, "{arm}: {stage}");
        }
        let answers = |out: &str| sandbox.read(&format!("{out}/eval/sums.jsonl"));
        assert_eq!(answers(run), answers(&format!("arms/seed-7/{arm}")));
    }
    let seeds = ["7", "8"].map(|seed| format!("arms/seed-{seed}/StdPT/train/pretrain"));
    assert!(weights(&sandbox, &seeds[0]) != weights(&sandbox, &seeds[1]));
    // Each folder is that of a run.
    sandbox.ok("eval arms/seed-8/dots/recipe.toml --out arms/seed-8/dots --pauses 5");
}

#[test]
fn what_is_found_is_written_and_shown() {
    let sandbox = sandbox();
    let said = sandbox.ok("experiment arms.toml --out arms --json");
    let found: Value = serde_json::from_str(&said.out).unwrap();
    let written: Value = serde_json::from_str(&sandbox.read("arms/experiment.json")).unwrap();
    assert_eq!(found, written);
    let names: Vec<_> = found["arms"]
        .as_array()
        .unwrap()
        .iter()
        .map(|arm| &arm["name"])
        .collect();
    let usual = [
        "StdPT_StdFT",
        "StdPT_PauseFT",
        "PausePT_StdFT",
        "PausePT_PauseFT",
    ];
    assert_eq!(names, [&usual[..], &["dots", "deep"]].concat());
    let task = &found["tasks"][0];
    assert_eq!(task["questions"], 6);
    let decides = &task["comparisons"][0];
    assert_eq!(decides["arm"]["arm"], "PausePT_PauseFT");
    assert_eq!(
        (&decides["arm"]["pauses"], &decides["with"]["pauses"]),
        (&5.into(), &0.into())
    );
    assert_eq!(decides["by_seed"].as_array().unwrap().len(), 2);
    // Six arms, each at 0, 5 and 10 pauses.
    assert_eq!(task["accuracies"].as_array().unwrap().len(), 18);
    // An answer that is counted is an answer that was written down.
    for at in task["accuracies"].as_array().unwrap() {
        let arm = at["arm"].as_str().unwrap();
        for (seed, share) in ["7", "8"].iter().zip(at["by_seed"].as_array().unwrap()) {
            let answers = sandbox.read(&format!("arms/seed-{seed}/{arm}/eval/sums.jsonl"));
            let answers = answers
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap());
            let asked: Vec<_> = answers
                .filter(|answer| answer["pauses"] == at["pauses"])
                .collect();
            let right = asked
                .iter()
                .filter(|answer| answer["correct"] == true)
                .count();
            assert_eq!(right as f64 / asked.len() as f64, share.as_f64().unwrap());
        }
    }

    let page = sandbox.read("arms/report.html");
    assert!(page.contains("PausePT_PauseFT at 5 against StdPT_StdFT at 0"));
    let said = sandbox.ok("report arms --html again.html");
    assert!(said.out.contains("verdict"), "{}", said.out);
    assert!(sandbox.read("again.html") == page);
}

/// Stopped, robbed of results or simply run again, an experiment finds the same.
#[test]
fn an_experiment_goes_on_where_it_was_stopped() {
    let sandbox = sandbox();
    let few = "--set experiment.controls=[] --set pretrain.train.steps=24";
    sandbox.ok(&format!("experiment arms.toml --out whole {few}"));
    let again = format!("experiment arms.toml --out stopped {few}");
    for metrics in [
        "seed-7/PausePT/train/pretrain",
        "seed-8/StdPT/train/pretrain",
    ] {
        let mut command = sandbox.command(&again);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let metrics = format!("stopped/{metrics}/metrics.jsonl");
        assert!(wait_for(&sandbox, &mut child, &metrics, 2), "{metrics}");
        signal(&child, "-TERM");
        assert_eq!(child.wait().unwrap().code(), Some(75));
        assert!(!sandbox.path("stopped/experiment.json").exists());
    }
    let results = |out: &str| sandbox.read(&format!("{out}/experiment.json"));
    sandbox.ok(&again);
    assert_eq!(results("stopped"), results("whole"));
    fs::remove_dir(&sandbox.path("stopped/seed-8/StdPT_PauseFT/eval")).unwrap();
    fs::remove_dir(&sandbox.path("stopped/seed-7/PausePT_StdFT")).unwrap();
    sandbox.ok(&again);
    assert_eq!(results("stopped"), results("whole"));
    // Other numbers of pauses are asked with.
    sandbox.ok(&format!("{again} --set eval.pauses=[3]"));
    assert!(results("stopped").contains("\"pauses\": 3,"));
    sandbox.ok(&again);
    assert_eq!(results("stopped"), results("whole"));
    // What is there is not asked again: an answer that was changed by hand stays.
    let answers = "stopped/seed-7/StdPT_StdFT/eval/sums.jsonl";
    let text = sandbox.read(answers);
    sandbox.write(
        answers,
        text.replace("\"correct\":false", "\"correct\":true"),
    );
    sandbox.ok(&again);
    assert!(results("stopped") != results("whole"));
    sandbox.write(
        answers,
        text.lines()
            .skip(1)
            .map(|line| format!("{line}\n"))
            .collect::<String>(),
    );
    let said = sandbox.run(&again);
    assert_eq!(said.code, Some(3), "{}", said.err);
    assert!(said.err.contains("StdPT_StdFT/eval"), "{}", said.err);
}

#[test]
fn an_experiment_without_arms_is_refused() {
    let sandbox = sandbox();
    let refused = |arguments: &str, words: &[&str]| {
        let said = sandbox.run(arguments);
        assert_eq!(said.code, Some(2), "{arguments}: {}", said.err);
        for word in words {
            assert!(said.err.contains(word), "{arguments}: {}", said.err);
        }
    };
    refused("experiment recipe.toml", &["[experiment]", "seeds ="]);
    refused(
        "experiment arms.toml --set experiment.seeds=[]",
        &["experiment.seeds", "empty"],
    );
    refused(
        "experiment arms.toml --set experiment.seeds=[1,1]",
        &["experiment.seeds.1"],
    );
    refused("experiment arms.toml --set eval.tasks=[]", &["no tasks"]);
    refused(
        "experiment arms.toml --set experiment.controls.0.set=['model.layers=1']",
        &["controls.0.set", "layers"],
    );
    refused(
        "experiment arms.toml --set experiment.controls.0.name=deep",
        &["controls.1.name"],
    );
    refused(
        "experiment arms.toml --set experiment.controls.0.name=StdPT_StdFT",
        &["controls.0.name"],
    );
    let said = sandbox.ok("experiment arms.toml --dry-run --json");
    let survey: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(survey["trainings"], 18);
    let datasets = survey["datasets"].as_array().unwrap();
    let datasets: Vec<_> = datasets
        .iter()
        .map(|folder| folder.as_str().unwrap())
        .collect();
    let names = [
        "pretrain-standard",
        "finetune-standard",
        "finetune",
        "pretrain",
        "finetune-dots",
    ];
    assert_eq!(datasets, names.map(|name| format!("runs/arms/data/{name}")));
    assert!(!sandbox.path("runs").exists());
}

/// One dataset serves the arms where pauses come when rows are read.
#[test]
fn pauses_at_load_need_one_dataset_a_stage() {
    let sandbox = sandbox();
    let at_load = "--set pretrain.pause.when=at-load --set finetune.pause.when=at-load \
                   --set experiment.controls=[]";
    let said = sandbox.ok(&format!("experiment arms.toml --dry-run --json {at_load}"));
    let survey: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        survey["datasets"],
        serde_json::json!(["runs/arms/data/pretrain", "runs/arms/data/finetune"])
    );
    sandbox.ok(&format!("experiment arms.toml --out arms {at_load}"));
    sandbox.ok("run recipe.toml --out none --set pretrain.pause={policy=\"none\"} --set finetune.pause={policy=\"none\"}");
    let alone = weights(&sandbox, "none/train/pretrain");
    assert!(weights(&sandbox, "arms/seed-7/StdPT/train/pretrain") == alone);
    assert!(weights(&sandbox, "arms/seed-7/PausePT/train/pretrain") != alone);
}
