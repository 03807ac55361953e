//! Training that starts from a trained model, or changes little of it.

use super::sandbox::{RECIPE, Sandbox};

/// The second stage of the sandbox's recipe, from the model of another run's first.
fn from(sandbox: &Sandbox) -> String {
    sandbox.ok("prepare recipe.toml --out whole --only pretrain");
    sandbox.ok("train recipe.toml --out whole --only pretrain");
    let finetune = &RECIPE[RECIPE.find("[finetune]").unwrap()..RECIPE.find("[eval]").unwrap()];
    format!("[model]\nfrom = \"../whole/train/pretrain\"\n{finetune}")
}

/// Pauses that a model does not know begin where `new_rows` says, and are trained on.
#[test]
fn a_model_gets_rows_for_pauses_that_it_lacks() {
    let sandbox = Sandbox::new();
    sandbox.write("from.toml", from(&sandbox));
    let distinct = "--set finetune.pause.token={distinct=2}";
    let said = sandbox.ok(&format!("run from.toml --out mean {distinct}"));
    let told = "2 new embedding rows (383, 384) begin at the mean of the 383 others";
    assert!(said.err.contains(told), "{}", said.err);
    let random = format!("{distinct} --set model.new_rows=random");
    let said = sandbox.ok(&format!("run from.toml --out random {random}"));
    assert!(
        said.err.contains("(383, 384) begin at random"),
        "{}",
        said.err
    );
    let said = sandbox.ok("run from.toml --out same");
    assert!(!said.err.contains("new embedding rows"), "{}", said.err);
}

/// Adapters are trained beside the pauses; what comes out is measured and answers as any model.
#[test]
fn adapters_are_trained_measured_and_asked() {
    let sandbox = Sandbox::new();
    let keys =
        "--set finetune.train.lora={rank=4,alpha=8} --set finetune.train.freeze=all-but-pause";
    let said = sandbox.ok(&format!("run recipe.toml --out out {keys}"));
    assert!(said.out.contains("sums"), "{}", said.out);
    let latest = sandbox.read("out/train/finetune/latest");
    let folder = format!("out/train/finetune/checkpoints/{}", latest.trim());
    let config = sandbox.read(&format!("{folder}/adapter/adapter_config.json"));
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["r"], 4);
    sandbox.ok(&format!("generate {folder} --prompt Q --max-tokens 4"));
    // Pretraining from nothing has nothing to adapt.
    let said =
        sandbox.run("train recipe.toml --out other --set pretrain.train.lora={rank=4,alpha=8}");
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("nobody has trained"), "{}", said.err);
}
