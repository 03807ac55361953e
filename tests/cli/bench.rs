//! Training as it is measured, and compared with other programs' training.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::sandbox::{Said, Sandbox};

/// A run of another trainer: of `tests/python/twin.py`, in double precision.
fn twin(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/parity")
        .join(name)
}

fn parity(sandbox: &Sandbox, folder: &Path, more: &str) -> Said {
    let mut command = sandbox.command(&format!("bench parity {more}"));
    Said::by(command.arg(folder))
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap()
}

#[test]
fn training_equals_its_twin_in_double_precision() {
    let sandbox = Sandbox::new();
    for model in ["gpt2", "llama", "bounded"] {
        let said = parity(&sandbox, &twin(model), "--json");
        assert_eq!(said.code, Some(0), "{model}: {}{}", said.out, said.err);
        let found = json(&said);
        assert_eq!(found["steps"], 30);
        assert!(found["norm_difference"].as_f64().unwrap() < 1e-5, "{found}");
    }
    let text = parity(&sandbox, &twin("gpt2"), "").out;
    assert_eq!(text.matches("equal").count(), 3, "{text}");
}

#[test]
fn whose_operations_run_can_be_chosen() {
    let sandbox = Sandbox::new();
    for kernels in ["auto", "burn", "f32"] {
        let said = parity(&sandbox, &twin("bounded"), &format!("--kernels {kernels}"));
        assert_eq!(said.code, Some(0), "{kernels}: {}{}", said.out, said.err);
    }
    let said = parity(&sandbox, &twin("gpt2"), "--kernels f16");
    assert_eq!(said.code, Some(2), "{}", said.out);
    let told = said.err.contains("unknown kernels") && said.err.contains("--kernels burn");
    assert!(told, "{}", said.err);
}

/// By argument and by recipe: within what rounding to 8 bits makes of the uneven weights and
/// short sums of these models, and not within what single precision allows.
#[test]
fn bfloat16_trains_alike() {
    let sandbox = Sandbox::new();
    let allowed = "--loss 5e-3 --gradient 5e-2 --curve 1e-2";
    let asked = ["--kernels bf16", "--set pretrain.train.precision=bf16"];
    for (model, how) in [("gpt2", asked[0]), ("llama", asked[1])] {
        let said = parity(&sandbox, &twin(model), &format!("{how} {allowed} --json"));
        assert_eq!(said.code, Some(0), "{model}: {}{}", said.out, said.err);
        assert_eq!(json(&said)["steps"], 30);
        let said = parity(&sandbox, &twin(model), how);
        assert_eq!(said.code, Some(1), "{model}: {}{}", said.out, said.err);
    }
}

/// Each convention matters: another one is found.
#[test]
fn another_convention_is_another_run() {
    let sandbox = Sandbox::new();
    let changes = [
        ("gpt2", "model.norm_eps=1e-3"),
        ("llama", "model.rope_theta=20000.0"),
        ("llama", "model.n_heads=2"),
        ("gpt2", "pretrain.train.eps=1e-4"),
        ("gpt2", "pretrain.train.clip=0.5"),
        ("llama", "pretrain.train.lr=5.9e-4"),
        ("llama", "pretrain.train.warmup=2"),
        ("bounded", "model.window=7"),
        ("bounded", "model.logit_soft_cap=5.0"),
        ("bounded", "pretrain.train.z_loss=0.0"),
    ];
    for (model, change) in changes {
        let said = parity(&sandbox, &twin(model), &format!("--set {change}"));
        let refused = said.code == Some(2) && change.contains("n_heads");
        let differs = said.code == Some(1) && said.out.contains("DIFFERS");
        assert!(refused || differs, "{change}: {}{}", said.out, said.err);
    }
    // Decay of a tenth of a thousandth a step moves 30 losses by less than is allowed.
    for change in [
        "pretrain.train.weight_decay=0.0",
        "pretrain.train.decay_embeddings=false",
    ] {
        let said = parity(&sandbox, &twin("gpt2"), &format!("--json --set {change}"));
        let last = json(&said)["final_difference"].as_f64().unwrap();
        let whole = parity(&sandbox, &twin("gpt2"), "--json");
        let right = json(&whole)["final_difference"].as_f64().unwrap();
        assert!(3.0 * right < last, "{change}: {last} against {right}");
    }
}

const SMALL: &str = "--set model.preset=micro --set pretrain.pack.seq_len=32 --set pretrain.train.batch_tokens=128 --set pretrain.train.micro_batch_tokens=64 --set pretrain.train.steps=5";

#[test]
fn trainings_of_a_part_are_measured() {
    let sandbox = Sandbox::new();
    let linear = |more: &str| {
        let said = sandbox.ok(&format!("bench train {SMALL} --warm 2 --json {more}"));
        json(&said)["flops_per_step"]["linear"].as_u64().unwrap()
    };
    // Gradients of weights are a third.
    let frozen = linear("") / 3 * 2;
    assert_eq!(linear("--set pretrain.train.freeze=all-but-pause"), frozen);
    let adapters = 2 * 4 * (4 * (64 + 64) + 3 * (64 + 192));
    assert_eq!(linear("--lora 4"), frozen + 6 * adapters * 128);
    let said = sandbox.run(&format!(
        "bench train {SMALL} --warm 2 --lora 4 --dump arrays"
    ));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("a part of the model is trained"));
}

/// What a block keeps of its forward pass is most of the memory of a deep model on long
/// batches; with `recompute` one block's is there at a time.
#[test]
fn what_is_computed_again_need_not_be_kept() {
    let sandbox = Sandbox::new();
    let (layers, positions) = (16, 2048);
    let deep = format!(
        "--set model.preset=micro --set model.n_layers={layers} --set pretrain.pack.seq_len=128 --set pretrain.train.batch_tokens={positions} --set pretrain.train.steps=2"
    );
    let measured = |recompute: bool| {
        let said = sandbox.ok(&format!(
            "bench train {deep} --warm 1 --json --set pretrain.train.recompute={recompute}"
        ));
        let report = json(&said);
        (report["loss_last"].clone(), report["memory_bytes"].as_u64())
    };
    let (kept, again) = (measured(false), measured(true));
    assert_eq!(kept.0, again.0);
    // Where the system does not tell, nothing is known.
    let (Some(kept), Some(again)) = (kept.1, again.1) else {
        return;
    };
    // Queries, keys, values, what attention returned, the stream after it, gate and up.
    let block = 4 * positions * (3 * 64 + 64 + 64 + 2 * 192);
    assert!(again + (layers - 2) * block < kept, "{again} {kept}");
}

#[test]
fn a_run_is_measured_and_can_be_done_again() {
    let sandbox = Sandbox::new();
    let pauses = "pretrain.pause={policy=\"random\",fraction=0.25}";
    let command = format!("bench train {SMALL} --set {pauses} --warm 2 --dump arrays --json");
    let report = json(&sandbox.ok(&command));
    assert_eq!(report["steps"], 3);
    assert_eq!(report["tokens_per_step"], 128);
    // 8 of 32 ids are pauses, and the last position of a row predicts nothing.
    assert_eq!(report["real_per_step"], 96.0);
    let flops = |key: &str| report["flops_per_step"][key].as_u64().unwrap();
    let scored = report["scored_per_step"].as_f64().unwrap();
    assert!((92.0..=96.0).contains(&scored), "{scored}");
    assert_eq!(flops("linear"), 6 * 2 * (4 * 64 * 64 + 3 * 64 * 192) * 128);
    assert_eq!(flops("attention"), 12 * 2 * 64 * 4 * (32 * 33 / 2));
    assert_eq!(flops("head") % (6 * 512 * 64), 0);

    let again = parity(&sandbox, &sandbox.path("arrays"), "--json");
    assert_eq!(again.code, Some(0), "{}{}", again.out, again.err);
    let again = json(&again);
    for key in [
        "loss_difference",
        "gradient_difference",
        "final_difference",
        "norm_difference",
    ] {
        assert_eq!(again[key], 0.0, "{key}");
    }
    let loaded = json(&sandbox.ok("bench train --load arrays --warm 1 --json"));
    assert_eq!(loaded["loss_last"], report["loss_last"]);
    assert_eq!(loaded["loss_first"], again["loss"]);
    let text = sandbox.ok("bench train --load arrays --warm 1").out;
    assert!(text.contains("positions a second"), "{text}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let sandbox = Sandbox::new();
    sandbox.ok(&format!("bench train {SMALL} --warm 2 --dump arrays"));
    let check = |arguments: &str, expected: &str| {
        let said = sandbox.run(arguments);
        assert_eq!(said.code, Some(2), "{arguments}: {}{}", said.out, said.err);
        assert!(said.err.contains(expected), "{arguments}: {}", said.err);
    };
    check(
        &format!("bench train {SMALL} --warm 5"),
        "5 steps leave none after 5",
    );
    check(
        "bench parity arrays --set model.n_layers=3",
        "holds no array `init.blocks.2.",
    );
    check(
        "bench parity arrays --set model.d_ff=100",
        "has shape [384, 64], expected [200, 64]",
    );
    check(
        "bench train --load arrays --set pretrain.train.steps=6",
        "batches of 5 steps",
    );
    check("bench train --set model.d_modle=3", "d_modle");
    sandbox.write("arrays/losses.npy", "nonsense");
    check("bench parity arrays", "cannot read array `losses`");
}
