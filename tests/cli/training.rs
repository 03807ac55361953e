//! Training, evaluation and generation, from the outside.

use pausedata::dataset::Dataset;
use pausedata::fs;

use super::sandbox::{Said, Sandbox, real_data};

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

/// A run whose rows get their pauses when they are read trains on other draws each epoch,
/// goes on with the same, and is not continued with others.
#[test]
fn pauses_at_load_are_trained_on_and_resumed() {
    let sandbox = Sandbox::new();
    let steps =
        "--only pretrain --set pretrain.train.steps=8 --set pretrain.train.batch_tokens=4096";
    let at_load = "--set pretrain.pause.when=at-load";
    for (out, when) in [("online", at_load), ("then", "")] {
        sandbox.ok(&format!(
            "prepare recipe.toml --out {out} --only pretrain {when}"
        ));
        sandbox.ok(&format!("train recipe.toml --out {out} {steps} {when}"));
    }
    let losses = |out: &str| -> Vec<String> {
        let metrics = sandbox.read(&format!("{out}/train/pretrain/metrics.jsonl"));
        let lines = metrics
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let loss = |line: serde_json::Value| line["loss"].to_string();
        lines.map(loss).collect()
    };
    let (online, then) = (losses("online"), losses("then"));
    assert_eq!(online[0], then[0], "epoch 0 is what is prepared");
    assert_ne!(online.last(), then.last(), "later epochs are not");
    let other = "--set pretrain.pause.fraction=0.2";
    let said = sandbox.run(&format!(
        "train recipe.toml --out online {steps} {at_load} {other}"
    ));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("recipe.pause.fraction"), "{}", said.err);
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
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("5000 pauses"), "{}", said.err);
    // Of a run's folder, and of one that is none.
    for command in ["generate --prompt The", "export --out x"] {
        for (model, hint) in [("out", "`out/train/finetune`"), ("x", "`pausedata train`")] {
            let said = sandbox.run(&format!("{command} {model}"));
            assert_eq!(said.code, Some(2), "{}", said.err);
            assert!(said.err.contains(hint), "{command} {model}: {}", said.err);
        }
    }
    let said = sandbox.run("eval recipe.toml --out untrained");
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("`pausedata train`"), "{}", said.err);
}

/// What `generate --json` says of the first question.
fn generated(sandbox: &Sandbox, out: &str, pauses: u32) -> serde_json::Value {
    let mut command = sandbox.command(&format!(
        "generate {out}/train/finetune --pauses {pauses} --json --max-tokens 8 --prompt"
    ));
    let said = Said::by(command.arg("Q: 3 plus 3?\\nA:"));
    assert_eq!(said.code, Some(0), "{}", said.err);
    serde_json::from_str(&said.out).unwrap()
}

#[test]
fn a_model_that_learns_to_pause_does_so_by_itself() {
    let sandbox = Sandbox::new();
    let train = |out: &str, keys: &str| {
        sandbox.ok(&format!(
            "run recipe.toml --out {out} --set finetune.train.steps=60 \
             --set finetune.train.lr=1e-2 --set finetune.pause={{policy=\"suffix\",count=3{keys}}}"
        ))
    };
    let said = train("emit", ",target=\"emit\"");
    assert!(
        said.out.contains("pauses that the model gave itself"),
        "{}",
        said.out
    );
    let answer = generated(&sandbox, "emit", 0);
    assert!(3 <= answer["own_pauses"].as_u64().unwrap(), "{answer}");
    assert!(
        !answer["text"].as_str().unwrap().contains("pause"),
        "{answer}"
    );
    let results = sandbox.read("emit/eval/results.json");
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let first = &results["tasks"][0]["scores"][0];
    assert!(3 <= first["paused"].as_u64().unwrap(), "{first}");
    let answers = sandbox.read("emit/eval/sums.jsonl");
    assert!(answers.contains("\"paused\":3"), "{answers}");

    // One that was not asked to predict pauses never gives any.
    let said = train("skip", "");
    assert!(!said.out.contains("gave itself"), "{}", said.out);
    assert_eq!(generated(&sandbox, "skip", 0)["own_pauses"], 0);
    assert!(!sandbox.read("skip/eval/results.json").contains("paused"));
}

#[test]
fn pauses_at_inference_are_the_tokens_of_training() {
    let sandbox = Sandbox::new();
    let last = |out: &str, keys: &str| -> Vec<u64> {
        sandbox.ok(&format!(
            "prepare recipe.toml --out {out} --set finetune.pause={{policy=\"suffix\",count=3{keys}}}"
        ));
        sandbox.ok(&format!(
            "train recipe.toml --out {out} --set finetune.pause={{policy=\"suffix\",count=3{keys}}}"
        ));
        let answer = generated(&sandbox, out, 4);
        let read = answer["read"].as_array().unwrap().iter();
        let read: Vec<u64> = read.map(|id| id.as_u64().unwrap()).collect();
        read[read.len() - 5..].to_vec()
    };
    let tokenizer = |out: &str| {
        Dataset::open(&sandbox.path(format!("{out}/data/finetune")))
            .unwrap()
            .tokenizer()
            .unwrap()
    };
    let shared = last("shared", "");
    let pause = u64::from(tokenizer("shared").reserved().pause.0);
    assert_eq!(shared[1..], [pause; 4]);
    let filler = last("filler", ",token={filler=\".\"}");
    let mut ids = Vec::new();
    tokenizer("filler").encode(".", &mut ids).unwrap();
    assert_eq!(filler[1..], [u64::from(ids[0].0); 4]);
    assert_eq!(filler[0], shared[0]);
    // Distinct pauses that the first stage alone has are not those of the second.
    let distinct = "--set pretrain.pause={policy=\"prefix\",count=2,token={distinct=2}}";
    sandbox.ok(&format!("run recipe.toml --out mixed {distinct}"));
    let answer = generated(&sandbox, "mixed", 2);
    let reserved = tokenizer("mixed").reserved();
    let read = answer["read"].as_array().unwrap();
    assert_eq!(read.last().unwrap(), reserved.pause.0, "{answer}");
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

/// Ranks on the CPU, from the outside: the curve and the weights of one alone, with stops and
/// other numbers of ranks between, and what cannot be had is said.
#[test]
fn ranks_share_every_batch_and_change_nothing() {
    let sandbox = Sandbox::new();
    let micro =
        "--set finetune.train.micro_batch_tokens=64 --set pretrain.train.micro_batch_tokens=64";
    sandbox.ok(&format!("prepare recipe.toml --out one {micro}"));
    sandbox.ok(&format!("prepare recipe.toml --out two {micro}"));
    sandbox.ok(&format!("train recipe.toml --out one {micro}"));
    let shared = |ranks: &str, more: &str| {
        sandbox.run(&format!(
            "train recipe.toml --out two {micro} --device {ranks} {more}"
        ))
    };
    let said = shared("cpu,cpu,cpu,cpu,cpu", "");
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err
            .contains("5 devices share a global batch of 4 rows")
            && said.err.contains("name 4 devices at most"),
        "{}",
        said.err
    );
    let said = shared("cpu,cuda:0", "");
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("`cuda:0,1`, `cuda:all` or `cpu,cpu`"),
        "{}",
        said.err
    );
    let said = shared("cpu,cpu,cpu", "--only pretrain");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let said = shared("cpu,cpu", "");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(outcome(&sandbox, "two") == outcome(&sandbox, "one"));

    let bench = "bench train --device cpu,cpu --set pretrain.train.steps=3 --warm 1 --set model.preset=micro --set pretrain.train.batch_tokens=256 --set pretrain.pack.seq_len=64 --json";
    let report: serde_json::Value = serde_json::from_str(&sandbox.ok(bench).out).unwrap();
    assert_eq!(report["ranks"], 2, "{report}");
}
