//! Training, evaluation and generation, from the outside.

use pausedata::fs;

use super::sandbox::{Sandbox, real_data};

/// (step, loss as printed) of every training step.
pub type Curve = Vec<(u64, String)>;

/// What training must reproduce: each stage's loss curve and last weights.
pub fn outcome(sandbox: &Sandbox, out: &str) -> Vec<(Curve, Vec<u8>)> {
    ["pretrain", "finetune"]
        .map(|stage| {
            let folder = format!("{out}/train/{stage}");
            let latest = sandbox.read(&format!("{folder}/latest"));
            let weights = sandbox.path(format!(
                "{folder}/checkpoints/{}/model.safetensors",
                latest.trim()
            ));
            (curve(sandbox, &folder), fs::read(&weights).unwrap())
        })
        .into()
}

fn curve(sandbox: &Sandbox, folder: &str) -> Curve {
    let lines = sandbox.read(&format!("{folder}/metrics.jsonl"));
    lines
        .lines()
        .filter_map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value.get("lr")?;
            Some((value["step"].as_u64()?, value.get("loss")?.to_string()))
        })
        .collect()
}

/// Generation and evaluation see what the stage saw that trained the model.
#[test]
fn each_model_keeps_the_attention_that_it_was_trained_with() {
    let sandbox = Sandbox::new();
    let keys = "--set pretrain.train.attention=document --set finetune.train.attention=prefix-lm --set finetune.train.bucket=3";
    let said = sandbox.ok(&format!("run recipe.toml --out out {keys}"));
    assert!(
        said.err.contains("of positions are padding"),
        "{}",
        said.err
    );
    assert!(
        said.out.contains("of positions were padding"),
        "{}",
        said.out
    );
    for (stage, attention) in [("pretrain", "document"), ("finetune", "prefix-lm")] {
        let latest = sandbox.read(&format!("out/train/{stage}/latest"));
        let folder = format!("out/train/{stage}/checkpoints/{}", latest.trim());
        let config: serde_json::Value =
            serde_json::from_str(&sandbox.read(&format!("{folder}/config.json"))).unwrap();
        assert_eq!(config["pausedata"]["config"]["attention"], attention);
    }
    // Nobody changes it unseen.
    let latest = sandbox.read("out/train/finetune/latest");
    let folder = format!("out/train/finetune/checkpoints/{}", latest.trim());
    let config = format!("{folder}/config.json");
    let text = sandbox.read(&config);
    let causal = text.replace("\"prefix-lm\"", "\"causal\"");
    assert_ne!(causal, text);
    sandbox.write(&config, causal);
    let said = sandbox.run(&format!("generate {folder} --prompt Q"));
    assert!(said.err.contains("config.json` is damaged"), "{}", said.err);
}

#[test]
fn the_whole_recipe_runs_and_says_what_happened() {
    let sandbox = Sandbox::new();
    let said = sandbox.ok("run recipe.toml --out out");
    for word in [
        "pretrain",
        "finetune",
        "loss",
        "sums",
        "The river",
        "out/train/finetune",
        "next",
    ] {
        assert!(
            said.out.contains(word),
            "`{word}` is not said:\n{}",
            said.out
        );
    }
    for pauses in ["0", "5", "10"] {
        assert!(
            said.out
                .lines()
                .any(|line| line.split_whitespace().any(|word| word == pauses))
        );
    }
    let curve = curve(&sandbox, "out/train/pretrain");
    assert_eq!(
        curve.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        (1..=12).collect::<Vec<_>>()
    );
    let first = outcome(&sandbox, "out");

    let again = sandbox.ok("run recipe.toml --out out");
    assert!(
        outcome(&sandbox, "out") == first,
        "a second run changed something"
    );
    assert!(again.out.contains("sums"), "{}", again.out);
}

#[test]
fn law_8_a_signal_saves_and_the_rerun_goes_on() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out whole");
    sandbox.ok("train recipe.toml --out whole");
    sandbox.ok("prepare recipe.toml --out stopped");
    let mut stops = 0;
    for _ in 0..40 {
        let child = sandbox.spawn("train recipe.toml --out stopped");
        std::thread::sleep(std::time::Duration::from_millis(60));
        let id = child.id().to_string();
        std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .unwrap();
        let code = child.wait_with_output().unwrap().status.code();
        match code {
            Some(75) => stops += 1,
            // A signal may come before the handler stands; nothing is lost by it.
            None => stops += 1,
            Some(0) => break,
            other => panic!("stopped with {other:?}"),
        }
    }
    sandbox.ok("train recipe.toml --out stopped");
    assert!(1 <= stops, "no run was stopped: the test proves nothing");
    assert!(
        outcome(&sandbox, "stopped") == outcome(&sandbox, "whole"),
        "another curve or weights"
    );
}

#[test]
fn a_resumed_run_names_what_differs() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    sandbox.ok("train recipe.toml --out out");
    let said = sandbox.run("train recipe.toml --out out --set pretrain.train.lr=0.002");
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(
        said.err.contains("lr") && said.err.contains("hint:"),
        "{}",
        said.err
    );
}

#[test]
fn generation_is_seeded_and_takes_any_number_of_pauses() {
    let sandbox = Sandbox::new();
    sandbox.ok("run recipe.toml --out out");
    let generate = |extra: &str| {
        sandbox
            .ok(&format!(
                "generate out/train/finetune --prompt The --max-tokens 8 {extra}"
            ))
            .out
    };
    assert_eq!(generate("--pauses 5"), generate("--pauses 5"));
    assert_eq!(
        generate("--temperature 1 --seed 3"),
        generate("--temperature 1 --seed 3")
    );
    generate("--pauses 0");
    let said = sandbox.run("generate out/train/finetune --prompt The --pauses 5000");
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("5000 pauses"), "{}", said.err);
}

#[test]
fn real_text_trains_end_to_end() {
    let Some(data) = real_data("real_text_trains_end_to_end") else {
        return;
    };
    let sandbox = Sandbox::new();
    let pipelines = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines");
    let few = "--set pretrain.train.steps=3 --set pretrain.train.warmup=1 --set pretrain.train.validate_every=0 \
               --set pretrain.train.batch_tokens=512 --set eval.sample=It";
    let source = "--set pretrain.sources=[{path=\"pretrain/eltec-eng/*.parquet\"}]";
    let root = data.display();
    sandbox.ok(&format!(
        "run {pipelines}/novels.toml --data-root {root} --out novels {few} {source}"
    ));
    let few = "--set finetune.train.steps=3 --set finetune.train.warmup=1 --set finetune.train.batch_tokens=512 \
               --set eval.tasks.0.limit=2 --set eval.tasks.0.max_tokens=4";
    let said = sandbox.ok(&format!(
        "run {pipelines}/gsm8k.toml --data-root {root} --out gsm8k {few}"
    ));
    assert!(said.out.contains("gsm8k"), "{}", said.out);
}
