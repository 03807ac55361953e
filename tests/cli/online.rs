//! Pauses that rows get when they are read.

use std::collections::BTreeMap;
use std::error::Error;

use pausedata::dataset::{At, Dataset};
use pausedata::manifest::{Split, row_key};
use pausedata::pause::{self, Config, When};
use pausedata::sequence::Sequence;
use pausedata::token::TokenId;
use serde_json::Value;

use super::loading::{load, number, step_by_step};
use super::sandbox::{Sandbox, files};

/// Spans, units and shards of a few kilobytes each.
const SMALL: &str = "--set pretrain.pack.unit_bytes=4096 --set pretrain.pack.shard_tokens=1024";

/// A sandbox whose recipe names a tokenizer that is there, with every kind of pause token.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let tokens = "--set tokenizer.pause_tokens={distinct=3,delimiters=true}";
    sandbox.ok(&format!("prepare recipe.toml --out first {tokens}"));
    let recipe = sandbox.read("recipe.toml");
    let named = "file = \"first/data/pretrain/tokenizer.json\"\npause_tokens = { distinct = 3, delimiters = true }";
    sandbox.write(
        "recipe.toml",
        recipe.replace("train = { vocab_size = 400 }", named),
    );
    sandbox
}

fn prepare(sandbox: &Sandbox, out: &str, arguments: &str) {
    sandbox.ok(&format!("prepare recipe.toml --out {out} {arguments}"));
}

fn open(sandbox: &Sandbox, folder: &str) -> Dataset {
    Dataset::open(&sandbox.path(folder)).unwrap()
}

const SPLITS: [Split; 2] = [Split::Train, Split::Validation];

/// All rows of an epoch.
fn epoch(dataset: &Dataset, epoch: u64) -> Vec<Sequence> {
    let rows = SPLITS.iter().flat_map(|split| {
        (0..dataset.rows(*split)).map(|index| At {
            split: *split,
            epoch,
            index,
        })
    });
    rows.map(|at| dataset.row_at(at).unwrap()).collect()
}

/// A row is as long as it is said to be, which is what buckets sort by.
fn check_lengths(dataset: &Dataset) {
    for split in SPLITS {
        for n in 0..2 * dataset.rows(split) {
            let (epoch, index) = (n % 2, n / 2);
            let at = At {
                split,
                epoch,
                index,
            };
            let length = dataset.row_at(at).unwrap().len();
            assert_eq!(dataset.length(at).unwrap(), length, "{at:?}");
        }
    }
}

/// The files of a dataset's shards.
fn shards(sandbox: &Sandbox, folder: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = sandbox.path(folder).join("shards");
    let files = files(&folder).into_iter().map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, pausedata::fs::read(&path).unwrap())
    });
    files.collect()
}

/// Policies whose rows always take as many real ids, and what else a recipe says of pauses.
const FIXED: [&str; 10] = [
    "policy=\"random\",fraction=0.1",
    "policy=\"random\",fraction=0.4,law=\"distinct-gaps\"",
    "policy=\"random\",fraction=0.25,law=\"iid-gaps\",token={distinct=3}",
    "policy=\"random\",fraction=0.3,law={runs={mean=3}},token=\"delimited\"",
    "policy=\"random\",fraction=0.2,overflow=\"drop\"",
    "policy=\"random\",fraction=0.2,token={filler=\".\"},target=\"repeat\",target_weight=0.5",
    "policy=\"random\",fraction=0.9,target=\"emit\"",
    "policy=\"prefix\",count=[0,3,9]",
    "policy=\"stride\",every=7,count=2",
    "policy=\"mix\",of=[{weight=1,policy=\"none\"},{weight=2,policy=\"random\",fraction=0.5}]",
];

/// Policies that read text, which decides how much of it a row takes.
const BY_TEXT: [&str; 3] = [
    "policy=\"punctuation\",count=2,token=\"delimited\"",
    "policy=\"word-ends\",every=2",
    "policy=\"mix\",of=[{weight=1,policy=\"digits\"},{weight=2,policy=\"random\",fraction=0.5}]",
];

/// Law 5: what a loader makes in epoch 0 is what preparation writes.
#[test]
fn law_5_rows_of_epoch_0_are_those_that_are_prepared() {
    let sandbox = sandbox();
    let only = format!("--only pretrain {SMALL}");
    prepare(
        &sandbox,
        "standard",
        &format!("{only} --set pretrain.pause={{policy=\"none\"}}"),
    );
    let standard = shards(&sandbox, "standard/data/pretrain");
    assert!(10 < standard.len() && standard.keys().any(|name| name.contains("-001.bin")));
    let all = FIXED.iter().map(|pause| ("concat-split", *pause));
    let by_text = BY_TEXT.iter().map(|pause| ("concat-split", *pause));
    let packed = ["best-fit", "document"].map(|method| (method, FIXED[0]));
    let packed = packed
        .into_iter()
        .chain([("document", BY_TEXT[0]), ("document", FIXED[4])]);
    for (number, (method, pause)) in all.chain(by_text).chain(packed).enumerate() {
        let (then, now) = (format!("p{number}"), format!("l{number}"));
        let method_is = format!("{only} --set pretrain.pack.method={method}");
        prepare(
            &sandbox,
            &then,
            &format!("{method_is} --set pretrain.pause={{{pause}}}"),
        );
        let at_load = format!("{{{pause},when=\"at-load\"}}");
        prepare(
            &sandbox,
            &now,
            &format!("{method_is} --set pretrain.pause={at_load}"),
        );
        let (then, now) = (
            format!("{then}/data/pretrain"),
            format!("{now}/data/pretrain"),
        );
        let (prepared, online) = (open(&sandbox, &then), open(&sandbox, &now));
        assert!(epoch(&prepared, 0) == epoch(&online, 0), "{method} {pause}");
        check_lengths(&online);
        // One set of shards serves every policy that takes as many ids a row.
        let fixed = method == "concat-split" && FIXED.contains(&pause);
        assert_eq!(
            shards(&sandbox, &now) == standard,
            fixed,
            "{method} {pause}"
        );
        sandbox.ok(&format!("verify {now}"));
        let stats = |dataset: &str| -> Value {
            let said = sandbox.ok(&format!("stats {dataset} --json"));
            let mut stats: Value = serde_json::from_str(&said.out).unwrap();
            let splits = stats["splits"].as_object_mut().unwrap();
            splits
                .values_mut()
                .for_each(|split| split["shards"] = Value::Null);
            stats["splits"].take()
        };
        if !pause.contains("drop") {
            assert_eq!(stats(&then), stats(&now), "{method} {pause}");
        }
    }
}

/// Examples too: their suffix is appended when they are read, and those that have no room
/// for it are left out.
#[test]
fn law_5_examples_of_epoch_0_are_those_that_are_prepared() {
    let sandbox = sandbox();
    let only = "--only finetune --set finetune.pack.seq_len=30 --set finetune.validation=0.2";
    prepare(
        &sandbox,
        "standard",
        &format!("{only} --set finetune.pause={{policy=\"none\"}}"),
    );
    let standard = shards(&sandbox, "standard/data/finetune");
    let mut rows = std::collections::BTreeSet::new();
    for (number, pause) in [
        "policy=\"suffix\",count=13",
        "policy=\"suffix\",count={min=0,max=14}",
        "policy=\"suffix\",count=15,token={filler=\".\"},target=\"repeat\"",
        "policy=\"prefix\",count=[0,3]",
        "policy=\"random\",fraction=0.3",
        "policy=\"stride\",every=2",
        "policy=\"digits\"",
    ]
    .into_iter()
    .enumerate()
    {
        let (then, now) = (format!("p{number}"), format!("l{number}"));
        prepare(
            &sandbox,
            &then,
            &format!("{only} --set finetune.pause={{{pause}}}"),
        );
        let at_load = format!("{{{pause},when=\"at-load\"}}");
        prepare(
            &sandbox,
            &now,
            &format!("{only} --set finetune.pause={at_load}"),
        );
        let (then, now) = (
            format!("{then}/data/finetune"),
            format!("{now}/data/finetune"),
        );
        let (prepared, online) = (open(&sandbox, &then), open(&sandbox, &now));
        assert!(epoch(&prepared, 0) == epoch(&online, 0), "{pause}");
        check_lengths(&online);
        rows.insert(online.rows(Split::Train));
        assert!(
            pause.contains("digits") || shards(&sandbox, &now) == standard,
            "{pause}"
        );
        sandbox.ok(&format!("verify {now}"));
    }
    assert!(
        2 < rows.len(),
        "examples are left out by some policies: {rows:?}"
    );
}

/// The obvious twin of what a loader does: the ids of each unit in memory, cut into rows,
/// and each row given to `pause::apply` with the key of its epoch.
fn twin(standard: &Dataset, pause: &Config, epoch: u64) -> Vec<Sequence> {
    let manifest = &standard.manifest;
    let reserved = manifest.tokenizer.reserved;
    let insertion = pause::Insertion::new(pause.clone(), reserved, manifest.row_length).unwrap();
    let mut rows = Vec::new();
    for split in SPLITS {
        let mut units: BTreeMap<u32, Vec<TokenId>> = BTreeMap::new();
        for shard in standard.shards(split) {
            let ids = (0..shard.rows()).flat_map(|row| shard.row(row).unwrap().ids);
            units.entry(shard.header().unit).or_default().extend(ids);
        }
        // Rows held out are drawn once.
        let epoch = if split == Split::Train { epoch } else { 0 };
        for (unit, ids) in units {
            let key = row_key(manifest.seed, epoch, split, unit.into());
            for (row, ids) in ids.chunks(insertion.real_per_row()).enumerate() {
                let text = Sequence::plain(ids.to_vec());
                rows.push(pause::apply(&insertion, &text, key.item(row as u64)).sequence);
            }
        }
    }
    rows
}

#[test]
fn each_epoch_draws_its_own_pauses_but_for_rows_held_out() {
    let sandbox = sandbox();
    prepare(
        &sandbox,
        "standard",
        &format!("--only pretrain {SMALL} --set pretrain.pause={{policy=\"none\"}}"),
    );
    for fraction in [0.1, 0.33] {
        let pause = Config {
            when: When::AtLoad,
            ..toml::from_str(&format!("policy = 'random'\nfraction = {fraction}")).unwrap()
        };
        let standard = open(&sandbox, "standard/data/pretrain");
        let online = open(&sandbox, "standard/data/pretrain");
        let online = online.with_pause(pause.clone()).unwrap();
        let (trained, held_out) = (online.rows(Split::Train), online.rows(Split::Validation));
        assert!(20 < trained && 2 < held_out);
        let epochs = [0, 1, 7].map(|number| {
            let rows = epoch(&online, number);
            assert!(rows == twin(&standard, &pause, number), "epoch {number}");
            rows
        });
        let [first, second, eighth] = &epochs;
        let differ =
            |a: &[Sequence], b: &[Sequence]| a.iter().zip(b).filter(|(a, b)| a != b).count();
        assert!(trained / 2 < differ(first, second) as u64);
        assert!(trained / 2 < differ(second, eighth) as u64);
        let n = usize::try_from(trained).unwrap();
        assert_eq!(first[n..], eighth[n..]);
    }
}

/// A recipe whose pauses change finds its dataset, which then says so: to the byte what it
/// would be if it were prepared anew.
#[test]
fn other_pauses_prepare_nothing_again() {
    let sandbox = sandbox();
    let at_load = |fraction| {
        format!(
            "--set pretrain.pause={{policy=\"random\",fraction={fraction},when=\"at-load\"}} --set finetune.pause.when=at-load"
        )
    };
    let made_now = |out: &str, arguments: &str| -> Vec<bool> {
        let said = sandbox.ok(&format!(
            "prepare recipe.toml --json --out {out} {arguments}"
        ));
        let prepared: Value = serde_json::from_str(&said.out).unwrap();
        let made = prepared.as_array().unwrap().iter();
        made.map(|dataset| dataset["made_now"].as_bool().unwrap())
            .collect()
    };
    let count = "--set finetune.pause.count=9 --set finetune.pause.target=repeat";
    assert_eq!(made_now("a", &at_load(0.1)), [true, true]);
    assert_eq!(
        made_now("a", &format!("{} {count}", at_load(0.2))),
        [false, false]
    );
    assert_eq!(
        made_now("b", &format!("{} {count}", at_load(0.2))),
        [true, true]
    );
    assert!(super::laws::bytes(&sandbox, "a") == super::laws::bytes(&sandbox, "b"));
    let none = "--set pretrain.pause={policy=\"none\"} --set finetune.pause={policy=\"none\"}";
    assert_eq!(made_now("a", none), [false, false]);
    assert_eq!(made_now("c", none), [true, true]);
    assert!(super::laws::bytes(&sandbox, "a") == super::laws::bytes(&sandbox, "c"));
    // What decides the rows on disk still does.
    let said = sandbox.run("prepare recipe.toml --out a --set pretrain.pause.fraction=0.1");
    assert!(
        said.err.contains("holds a dataset of another recipe"),
        "{}",
        said.err
    );
    let packed = "--only pretrain --set pretrain.pack.method=best-fit --out fit";
    sandbox.ok(&format!("prepare recipe.toml {packed} {}", at_load(0.1)));
    let law = "--set pretrain.pause.law=iid-gaps";
    sandbox.ok(&format!(
        "prepare recipe.toml {packed} {} {law}",
        at_load(0.1)
    ));
    let said = sandbox.run(&format!("prepare recipe.toml {packed} {}", at_load(0.2)));
    assert!(
        said.err.contains("`recipe.room` was 58 and is now 51"),
        "{}",
        said.err
    );
}

/// One set of shards for recipes with different pauses, whichever of them made it.
#[test]
fn recipes_share_a_dataset_that_is_the_standard_one() {
    let sandbox = sandbox();
    let shared = |out: &str, pause: &str| {
        let data = "--set pretrain.data=../shared/pretrain --only pretrain";
        format!(
            "prepare recipe.toml --json --out runs/{out} {data} --set pretrain.pause={{{pause}}}"
        )
    };
    let pause = |fraction| format!("policy=\"random\",fraction={fraction},when=\"at-load\"");
    let made = sandbox.ok(&shared("a", &pause(0.1)));
    assert!(made.out.contains("\"made_now\":true") || made.out.contains("\"made_now\": true"));
    let digest = sandbox.digest("runs/shared/pretrain");
    for (out, pause) in [
        ("b", pause(0.2)),
        ("c", "policy=\"none\"".into()),
        ("a", pause(0.1)),
    ] {
        let found = sandbox.ok(&shared(out, &pause));
        assert!(!found.out.contains("true"), "{out}: {}", found.out);
        assert_eq!(sandbox.digest("runs/shared/pretrain"), digest);
    }
    prepare(
        &sandbox,
        "standard",
        "--only pretrain --set pretrain.pause={policy=\"none\"}",
    );
    assert_eq!(sandbox.digest("standard/data/pretrain"), digest);
    let said = sandbox.run(&format!("{} --force", shared("b", &pause(0.2))));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(
        said.err.contains("may be that of other recipes too"),
        "{}",
        said.err
    );
    let said = sandbox.run(&shared("d", "policy=\"word-ends\",when=\"at-load\""));
    assert!(
        said.err.contains("holds a dataset of another recipe"),
        "{}",
        said.err
    );
}

#[test]
fn commands_read_a_dataset_with_the_pauses_they_are_told() {
    let sandbox = sandbox();
    prepare(
        &sandbox,
        "s",
        "--only pretrain --set pretrain.pause={policy=\"none\"}",
    );
    prepare(
        &sandbox,
        "p",
        "--only pretrain --set pretrain.pause={policy=\"random\",fraction=0.25}",
    );
    let pause = "--pause {policy=\"random\",fraction=0.25}";
    for command in [
        "inspect -n 3 --json",
        "load --rows 4 --batches 5 --format jsonl",
    ] {
        let (name, arguments) = command.split_once(' ').unwrap();
        let told = sandbox
            .ok(&format!("{name} s/data/pretrain {arguments} {pause}"))
            .out;
        assert_eq!(
            told,
            sandbox
                .ok(&format!("{name} p/data/pretrain {arguments}"))
                .out
        );
        assert_ne!(
            told,
            sandbox
                .ok(&format!("{name} s/data/pretrain {arguments}"))
                .out
        );
    }
    let third = format!("inspect s/data/pretrain -n 3 --json {pause} --epoch 3");
    assert_ne!(
        sandbox.ok(&third).out,
        sandbox.ok(&third.replace("--epoch 3", "")).out
    );
    sandbox.ok(&format!("verify s/data/pretrain {pause}"));
    let density = sandbox
        .ok(&format!("stats s/data/pretrain --json {pause}"))
        .out;
    let stats: Value = serde_json::from_str(&density).unwrap();
    let density = stats["splits"]["train"]["pause_density"].as_f64().unwrap();
    assert!((density - 0.25).abs() < 0.01, "{density}");
    // A state belongs to its pauses.
    let load = "load s/data/pretrain --rows 4 --batches 1 --format jsonl --state state.json";
    sandbox.ok(&format!("{load} {pause}"));
    sandbox.ok(&format!("{load} {pause}"));
    let said = sandbox.run(&format!("{load} {}", pause.replace("0.25", "0.5")));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("recipe.pause.fraction"), "{}", said.err);
}

/// Two epochs by other processes at every step: each row once an epoch, with the pauses of
/// that epoch.
#[test]
fn law_6_epochs_are_whole_though_their_processes_change_at_every_step() {
    let sandbox = sandbox();
    prepare(
        &sandbox,
        "s",
        "--only pretrain --set pretrain.pause={policy=\"none\"} --set pretrain.pack.seq_len=128",
    );
    let pause = "{policy=\"random\",fraction=0.25}";
    let arguments = format!("s/data/pretrain --rows 16 --epochs 2 --pause {pause}");
    let whole = load(&sandbox, &arguments);
    let config = toml::from_str::<Config>("policy = 'random'\nfraction = 0.25").unwrap();
    let dataset = open(&sandbox, "s/data/pretrain");
    let dataset = dataset.with_pause(config.at_load()).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for row in &whole {
        let at = At {
            split: Split::Train,
            epoch: number(row, "epoch"),
            index: number(row, "row"),
        };
        let ids = row["ids"].as_array().unwrap().iter();
        let ids: Vec<u64> = ids.map(|id| id.as_u64().unwrap()).collect();
        let expected = dataset.row_at(at).unwrap().ids;
        assert!(
            ids.into_iter()
                .eq(expected.iter().map(|id| u64::from(id.0)))
        );
        assert!(seen.insert(at));
    }
    assert_eq!(seen.len() as u64, 2 * dataset.rows(Split::Train));
    let n_batches = whole.len().div_ceil(16);
    assert!(4 < n_batches);
    assert_eq!(step_by_step(&sandbox, &arguments, n_batches), whole);
}

#[test]
fn what_cannot_come_later_is_refused() {
    let sandbox = Sandbox::new();
    let refused = |arguments: &str, expected: &str| {
        let said = sandbox.run(arguments);
        assert!(said.code == Some(2), "{arguments}: {}", said.err);
        assert!(said.err.contains(expected), "{arguments}: {}", said.err);
    };
    let scores = "--set pretrain.sources.0.scores=s --set pretrain.pause={policy=\"score\",k=2,when=\"at-load\"}";
    refused(
        &format!("prepare recipe.toml {scores}"),
        "the policy `score` reads scores of the sources",
    );
    let hint = "--set finetune.sources.0.hint=\"{answer}\" --set finetune.pause={policy=\"suffix\",count=2,target=\"hint\",when=\"at-load\"}";
    refused(
        &format!("prepare recipe.toml {hint}"),
        "the target rule `hint` reads hints of the sources",
    );
    prepare(&sandbox, "p", "");
    let random = "--pause {policy=\"random\",fraction=0.2}";
    refused(
        &format!("inspect p/data/pretrain {random}"),
        "with the pauses of the policy `random`, expected rows of at most 64 real ids",
    );
    refused(
        &format!("inspect p/data/finetune {random}"),
        "with the pauses of the policy `suffix`",
    );
    let fewer = r#"{ "policy": "suffix", "count": 3 }"#;
    let fewer: Config = serde_json::from_str(fewer).unwrap();
    let error = open(&sandbox, "p/data/finetune").with_pause(fewer);
    let error = error.unwrap_err().source().unwrap().to_string();
    assert!(
        error.contains(r#""count":5"#) && error.contains(r#""count":3"#),
        "{error}"
    );
    refused(
        "inspect p/data/pretrain --pause {policy=\"rnd\"}",
        "unknown variant `rnd`",
    );
    let text = "--set pretrain.pause={policy=\"punctuation\",when=\"at-load\"} --only pretrain";
    prepare(&sandbox, "t", text);
    refused(
        &format!("stats t/data/pretrain {random}"),
        "cut for the policy `punctuation`",
    );
    refused(
        "convert t/data/pretrain --to megatron --out m",
        "get their pauses when they are read",
    );
    sandbox.ok("convert t/data/pretrain --to parquet --out t2");
    let rows = |folder: &str| epoch(&open(&sandbox, folder), 0);
    assert!(rows("t2") == rows("t/data/pretrain"));
    // Rows that were no stream would be cut wrongly.
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/data/golden/v1-pretrain-u32");
    let said = sandbox.run(&format!("inspect {golden} {random}"));
    assert!(said.err.contains("its rows are no stream"), "{}", said.err);
}
