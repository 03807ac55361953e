//! Every pause policy through the whole program: prepared, proved, and law 1.

use pausedata::dataset::Dataset;
use pausedata::manifest::{Split, Totals};
use pausedata::token::TokenId;

use super::sandbox::Sandbox;

/// The ids of the training rows without their pauses, and the counts.
fn stream(sandbox: &Sandbox, out: &str) -> (Vec<TokenId>, Totals) {
    let dataset = Dataset::open(&sandbox.path(out).join("data/pretrain")).unwrap();
    let reserved = dataset.manifest.tokenizer.reserved;
    let rows = (0..dataset.rows(Split::Train)).map(|row| dataset.row(Split::Train, row).unwrap());
    let ids = rows.flat_map(|row| pausedata::pause::restore(&row, reserved.pause).ids);
    let totals = dataset.manifest.splits[&Split::Train].totals.clone();
    (ids.collect(), totals)
}

#[test]
fn every_policy_is_proved_and_keeps_the_text() {
    let sandbox = Sandbox::new();
    let prepare = |out: &str, pause: &str| {
        sandbox.ok(&format!(
            "prepare recipe.toml --out {out} --only pretrain --set pretrain.pause={pause}"
        ));
    };
    prepare("standard", "{policy=\"none\"}");
    let standard = stream(&sandbox, "standard");
    for (number, pause) in [
        "{policy=\"random\",fraction=0.2,law={runs={mean=3}}}",
        "{policy=\"prefix\",count=4}",
        "{policy=\"stride\",every=7,count=2}",
        "{policy=\"word-ends\",every=2}",
        "{policy=\"punctuation\",count=2}",
        "{policy=\"digits\"}",
        "{policy=\"regex\",pattern=\"the\\\\b\",side=\"before\"}",
        "{policy=\"mix\",of=[{weight=1,policy=\"none\"},{weight=2,policy=\"word-ends\"}]}",
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("p{number}");
        prepare(&out, pause);
        sandbox.ok(&format!("verify {out}/data/pretrain"));
        let (ids, totals) = stream(&sandbox, &out);
        assert!(ids == standard.0, "{pause}: the streams differ");
        assert!(pause.contains("digits") || 0 < totals.pauses, "{pause}");
        let parts = totals.parts.iter();
        assert!(
            parts.clone().count() == 0 || parts.map(|part| part.rows).sum::<u64>() == totals.rows
        );
    }
    let finetune = "{policy=\"prefix\",count=[0,3]}";
    sandbox.ok(&format!(
        "prepare recipe.toml --out f --set finetune.pause={finetune}"
    ));
    sandbox.ok("verify f/data/finetune");
}

#[test]
fn scores_and_positions_come_from_the_source() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out plain --only pretrain");
    let dataset = Dataset::open(&sandbox.path("plain/data/pretrain")).unwrap();
    let tokenizer = dataset.tokenizer().unwrap();
    let text = "The river ran. It was 7:30, and cold.";
    let line = |n: usize, scores: usize| {
        let text = format!("{text} {n}");
        let mut ids = Vec::new();
        tokenizer.encode(&text, &mut ids).unwrap();
        let scores: Vec<usize> = (0..ids.len() + scores).map(|id| id * 7 % 5).collect();
        format!("{{\"text\": \"{text}\", \"s\": {scores:?}, \"p\": [0, 4, 14]}}\n")
    };
    let good: String = (0..40).map(|n| line(n, 0)).collect();
    sandbox.write("scored.jsonl", &good);
    let prepare = |out: &str, file: &str, pause: &str| {
        let tokenizer = "--set tokenizer={file=\"plain/data/pretrain/tokenizer.json\"}";
        let sources =
            format!("--set pretrain.sources=[{{path=\"{file}\",scores=\"s\",positions=\"p\"}}]");
        sandbox.run(&format!(
            "prepare recipe.toml --out {out} --only pretrain {tokenizer} {sources} --set pretrain.pause={pause}"
        ))
    };
    for (out, pause) in [
        ("s", "{policy=\"score\",k=3}"),
        ("p", "{policy=\"positions\",count=2}"),
    ] {
        let said = prepare(out, "scored.jsonl", pause);
        assert_eq!(said.code, Some(0), "{}", said.err);
        sandbox.ok(&format!("verify {out}/data/pretrain"));
        assert!(0 < stream(&sandbox, out).1.pauses);
    }
    sandbox.write("short.jsonl", good + &line(40, 1));
    let said = prepare("bad", "short.jsonl", "{policy=\"score\",k=3}");
    assert_eq!(said.code, Some(1), "{}", said.err);
    let tells = said
        .err
        .contains("document 41 of `short.jsonl`: expected a score for each of the");
    assert!(tells, "{}", said.err);
}
