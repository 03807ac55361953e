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

/// A suffix of the finetuning rows as other tokens, and other things trained at them.
#[test]
fn tokens_and_target_rules_are_proved() {
    let sandbox = Sandbox::new();
    let hinted = "--set finetune.sources=[{path=\"questions.jsonl\",prefix=\"{question}\",target=\"{answer}\",hint=\"{answer},{answer}\"}]";
    for (out, pause) in [
        ("distinct", "token={distinct=4}"),
        ("delimited", "token=\"delimited\""),
        ("filler", "token={filler=\".\"}"),
        ("emit", "target=\"emit\""),
        (
            "repeat",
            "token={distinct=2},target=\"repeat\",target_weight=0.5",
        ),
        ("future", "token={filler=\".\"},target={future=2}"),
        ("hint", "target=\"hint\""),
    ] {
        let pause = format!("{{policy=\"suffix\",count=5,{pause}}}");
        sandbox.ok(&format!(
            "prepare recipe.toml --out {out} {hinted} --set finetune.pause={pause}"
        ));
        for stage in ["pretrain", "finetune"] {
            sandbox.ok(&format!("verify {out}/data/{stage}"));
        }
        let dataset = Dataset::open(&sandbox.path(out).join("data/finetune")).unwrap();
        let row = dataset.row(Split::Train, 0).unwrap();
        let pauses = dataset.manifest.tokenizer.reserved.into();
        assert_eq!(row.n_pauses(pauses), 5, "{out}");
        assert_eq!(
            dataset.manifest.splits[&Split::Train].totals.pauses,
            300,
            "{out}"
        );
        sandbox.ok(&format!("inspect {out}/data/finetune --rows 2 --ids"));
    }
    let bad = "--set finetune.pause={policy=\"suffix\",count=5,token={filler=\"a,b;c\"}}";
    let said = sandbox.run(&format!("prepare recipe.toml --out bad {bad}"));
    assert!(
        said.err.contains("expected a filler that is one token"),
        "{}",
        said.err
    );
}

#[test]
fn damage_of_stored_targets_is_found() {
    let sandbox = Sandbox::new();
    let pause = "--set finetune.pause={policy=\"suffix\",count=5,target=\"repeat\"}";
    sandbox.ok(&format!("prepare recipe.toml --out a {pause}"));
    let name = "a/data/finetune/shards/train-00000-000.aux";
    let whole = pausedata::fs::read(&sandbox.path(name)).unwrap();
    for at in [3, 40, 63, 64, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        sandbox.write(name, &bytes);
        let said = sandbox.run("verify a/data/finetune");
        assert_eq!(said.code, Some(1), "byte {at}: {}", said.out);
    }
    sandbox.write(name, &whole[..whole.len() - 1]);
    assert_eq!(sandbox.run("verify a/data/finetune").code, Some(1));
    sandbox.write(name, &whole);
    sandbox.ok("verify a/data/finetune");
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
        let said = sandbox.ok(&format!("verify {out}/data/pretrain"));
        let proved = "ok      pauses and targets follow what the sources say";
        assert!(said.out.contains(proved), "{}", said.out);
        assert!(0 < stream(&sandbox, out).1.pauses);
    }
    // The text is the same, and the numbers are not.
    let other = good.replacen("[0, 4, 14]", "[0, 9, 14]", 1);
    sandbox.write("scored.jsonl", &other);
    let said = sandbox.run("verify p/data/pretrain");
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(
        said.out.contains("puts pauses or targets elsewhere"),
        "{}",
        said.out
    );
    sandbox.write("short.jsonl", good + &line(40, 1));
    let said = prepare("bad", "short.jsonl", "{policy=\"score\",k=3}");
    assert_eq!(said.code, Some(1), "{}", said.err);
    let tells = said
        .err
        .contains("document 41 of `short.jsonl`: expected a score for each of the");
    assert!(tells, "{}", said.err);
}
