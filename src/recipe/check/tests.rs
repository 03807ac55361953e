//! Every rule, each broken once.

use std::path::Path;

use super::*;
use crate::recipe::Error;

const GOOD: &str = r#"
    tokenizer = { train = { vocab_size = 300 } }
    [pretrain]
    sources = [{ path = "a.jsonl" }]
    pause = { policy = "random", fraction = 0.1 }
    pack = { seq_len = 64 }
    validation = 0.1
    train = { steps = 10, batch_tokens = 128, lr = 1e-3, warmup = 2, validate_every = 5 }
    [finetune]
    sources = [{ synthetic = { corpus = "questions", documents = 5 } }]
    pause = { policy = "suffix", count = 10 }
    pack = { seq_len = 64 }
    [eval]
    tasks = [{ name = "q", sources = [{ path = "q", prefix = "{q}", target = "{a}" }] }]
"#;

/// An override of [`GOOD`] and how the message about it begins.
const BROKEN: &[(&str, &str)] = &[
    (
        "pretrain.train.peak_gflops=0",
        "`pretrain.train.peak_gflops` must be a positive number",
    ),
    (
        "pretrain.train={steps=1,batch_tokens=64,lr=1,freeze='all-but-pause',optimizer='muon'}",
        "`pretrain.train.optimizer` moves matrices, and `freeze` leaves none to train",
    ),
    (
        "pretrain.train.ema=1.0",
        "`pretrain.train.ema` must be at least 0 and less than 1",
    ),
    (
        "pretrain.train.spike.loss=1",
        "`pretrain.train.spike.loss` must be more than 1, found 1",
    ),
    (
        "pretrain.train.spike.grad_norm=nan",
        "`pretrain.train.spike.grad_norm` must be more than 1",
    ),
    (
        "pretrain.train.spike.window=0",
        "`pretrain.train.spike.window` must be at least 1",
    ),
    (
        "pretrain.train.early_stopping.patience=0",
        "`pretrain.train.early_stopping.patience` must be at least 1",
    ),
    (
        "pretrain.train.early_stopping={patience=1,min_delta=-1}",
        "`pretrain.train.early_stopping.min_delta` must lie in",
    ),
    (
        "pretrain.train={steps=1,batch_tokens=64,lr=1,early_stopping={patience=1}}",
        "`pretrain.train.early_stopping` needs validation losses",
    ),
    ("seed=9223372036854775808", "`seed` is larger"),
    (
        "tokenizer.train.vocab_size=255",
        "`tokenizer.train.vocab_size` must be at least 256",
    ),
    (
        "tokenizer.file=t.json",
        "`tokenizer.file` and `train` exclude",
    ),
    ("tokenizer={}", "`tokenizer.train` is missing"),
    (
        "tokenizer.pad=<|end|>",
        "`tokenizer.pad` is the same token as `tokenizer.end`",
    ),
    ("model.from=x", "`tokenizer` clashes with `model.from`"),
    ("model.n_heads=3", "`model.d_model` is 128, no multiple"),
    ("model.context=63", "`model.context` is 63, shorter"),
    ("pretrain.sources=[]", "`pretrain.sources` is empty"),
    (
        "pretrain.sources.0.prefix=x",
        "`pretrain.sources.0.prefix` is for finetuning",
    ),
    ("pretrain.sources=[{}]", "`pretrain.sources.0` has neither"),
    (
        "finetune.sources.0.path=x",
        "`finetune.sources.0.path` and `synthetic` exclude",
    ),
    (
        "finetune.sources=[{path='x'}]",
        "`finetune.sources.0` needs both",
    ),
    (
        "finetune.sources.0.synthetic.corpus=stories",
        "`finetune.sources.0.synthetic.corpus` has no",
    ),
    (
        "finetune.sources.0.synthetic.documents=0",
        "`finetune.sources.0.synthetic.documents` must",
    ),
    (
        "pretrain.sources.0.weight=0",
        "`pretrain.sources.0.weight` must be above 0",
    ),
    (
        "pretrain.sources.0.weight=1001",
        "`pretrain.sources.0.weight` must lie in 0 to 1000",
    ),
    (
        "pretrain.sources.0.weight=0.1234567891",
        "`pretrain.sources.0.weight` has more than 9 digits",
    ),
    (
        "eval.tasks.0.sources.0.weight=2",
        "`eval.tasks.0.sources.0.weight` has no meaning",
    ),
    (
        "finetune.pack.method=best-fit",
        "`finetune.pack.method` is for pretraining",
    ),
    (
        "pretrain.pack.overlong=drop",
        "`pretrain.pack.overlong` needs `method",
    ),
    (
        "pretrain.validation=1",
        "`pretrain.validation` must be at least 0 and less than 1",
    ),
    (
        "pretrain.pack.seq_len=7",
        "`pretrain.pack.seq_len` must be at least 8",
    ),
    (
        "pretrain.pack.shard_tokens=63",
        "`pretrain.pack.shard_tokens` must be at least 64",
    ),
    (
        "pretrain.pack.shard_tokens=2147483648",
        "`pretrain.pack.shard_tokens` must be at most",
    ),
    (
        "pretrain.pack.unit_bytes=4095",
        "`pretrain.pack.unit_bytes` must be at least 4096",
    ),
    (
        "pretrain.pause.fraction=nan",
        "`pretrain.pause.fraction` must lie in 0 to 0.9",
    ),
    (
        "pretrain.pause={policy='suffix',count=1}",
        "`pretrain.pause.policy` is `suffix`",
    ),
    (
        "pretrain.pause={policy='stride',every=0}",
        "`pretrain.pause.every` cannot be: expected a `every` of 1",
    ),
    (
        "pretrain.pause={policy='regex',pattern='('}",
        "`pretrain.pause.pattern` cannot be: `pattern` is no regular expression",
    ),
    (
        "pretrain.pause={policy='score',k=3}",
        "`pretrain.pause.policy` reads `scores`, which source 0 does not name",
    ),
    (
        "pretrain.pause={policy='mix',of=[{weight=1,policy='suffix',count=1}]}",
        "`pretrain.pause.of.0.policy` is `suffix`",
    ),
    (
        "finetune.pause.count=62",
        "`finetune.pause.count` is 62: rows of 64 ids have room for 61",
    ),
    (
        "finetune.pause.count=[]",
        "`finetune.pause.count` is an empty list",
    ),
    (
        "finetune.pause.count={min=3,max=2}",
        "`finetune.pause.count` has `min` 3 above `max` 2",
    ),
    (
        "pretrain.train.steps=0",
        "`pretrain.train.steps` must be at least 1, found 0",
    ),
    (
        "pretrain.train.batch_tokens=63",
        "`pretrain.train.batch_tokens` must be at least 64",
    ),
    (
        "pretrain.train.micro_batch_tokens=63",
        "`pretrain.train.micro_batch_tokens` must be at least 64",
    ),
    (
        "pretrain.train.attention=prefix-lm",
        "`pretrain.train.attention` is `prefix-lm`, but rows of running text",
    ),
    (
        "pretrain.train.bucket=4097",
        "`pretrain.train.bucket` must be at most 4096",
    ),
    (
        "pretrain.train.lr=0",
        "`pretrain.train.lr` must be a positive number",
    ),
    (
        "pretrain.train.warmup=11",
        "`pretrain.train.warmup` must be at most 10",
    ),
    (
        "pretrain.train.betas=[0.9, 1.0]",
        "`pretrain.train.betas.1` must be at least 0 and less",
    ),
    (
        "pretrain.train.keep=0",
        "`pretrain.train.keep` must be at least 1",
    ),
    (
        "pretrain.validation=0",
        "`pretrain.train.validate_every` asks for a validation loss",
    ),
    ("eval.tasks=[]", "`eval.tasks` is empty"),
    ("eval.tasks.0.name=a/b", "`eval.tasks.0.name` is `a/b`"),
    ("eval.tasks.0.sources.0.target=", "fine"),
];

fn message(overrides: &[&str]) -> String {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    match Recipe::parse(GOOD, Path::new("r.toml"), &overrides) {
        Ok(_) => "fine".into(),
        Err(Error::Invalid(diagnosis)) => diagnosis.message,
        Err(error) => error.to_string(),
    }
}

#[test]
fn every_rule_can_be_broken() {
    assert_eq!(message(&[]), "fine");
    for (setting, expected) in BROKEN {
        let message = message(&[setting]);
        assert!(message.starts_with(expected), "{setting}: {message}");
    }
}

#[test]
fn a_checkpoint_brings_its_own_tokenizer_and_shape() {
    let recipe = |model: &str| {
        let text = format!(
            "model = {model}\n[finetune]\nsources = [{{ path = 'q', prefix = 'p', target = 't' }}]\npack = {{ seq_len = 64 }}"
        );
        Recipe::parse(&text, Path::new("r.toml"), &[]).map_err(|error| error.to_string())
    };
    recipe("{ from = '../a' }").unwrap();
    let error = recipe("{ from = '../a', d_model = 64 }").unwrap_err();
    assert!(
        error.starts_with("`model.from` excludes every other key"),
        "{error}"
    );
}
