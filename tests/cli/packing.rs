//! Packing and mixtures: nothing is lost that is not counted, and it is proved.

use std::path::Path;

use pausedata::dataset::Dataset;
use pausedata::fs;
use pausedata::manifest::{Manifest, Split};

use super::laws::bytes;
use super::sandbox::{RECIPE, Sandbox, files};

const PRETRAIN: &str = "out/data/pretrain";

/// Keys of `pretrain.pack` for each way to pack.
const METHODS: [&str; 4] = [
    "",
    ", method = \"best-fit\"",
    ", method = \"document\"",
    ", method = \"document\", overlong = \"drop\"",
];

/// The recipe with some keys of `pretrain.pack`, and each file a source with a weight.
fn recipe(pack: &str, weights: &[&str]) -> String {
    let recipe = RECIPE.replacen(
        "shard_tokens = 4096",
        &format!("shard_tokens = 4096{pack}"),
        1,
    );
    let sources: Vec<String> = weights
        .iter()
        .enumerate()
        .map(|(i, weight)| match *weight {
            "" => format!("{{ path = \"text/{i}.jsonl\" }}"),
            weight => format!("{{ path = \"text/{i}.jsonl\", weight = {weight} }}"),
        })
        .collect();
    match weights {
        [] => recipe,
        _ => recipe.replacen("{ path = \"text/*.jsonl\" }", &sources.join(", "), 1),
    }
}

fn manifest(sandbox: &Sandbox) -> Manifest {
    Manifest::open(&sandbox.path(PRETRAIN)).unwrap().0
}

/// Makes the pretraining dataset and proves it, with its sources and without.
fn prepare(sandbox: &Sandbox, recipe: String) -> Manifest {
    sandbox.write("recipe.toml", recipe);
    sandbox.ok("prepare recipe.toml --out out --only pretrain");
    sandbox.ok(&format!("verify {PRETRAIN}"));
    sandbox.ok(&format!("verify {PRETRAIN} --no-sources"));
    manifest(sandbox)
}

#[test]
fn every_method_is_proved_and_counts_what_it_cuts_and_leaves_empty() {
    let mut real = Vec::new();
    for method in METHODS {
        let sandbox = Sandbox::new();
        let manifest = prepare(&sandbox, recipe(method, &[]));
        let totals = &manifest.splits[&Split::Train].totals;
        let packed = (0 < totals.padded, 0 < totals.cut, 0 < totals.trimmed);
        let expected = match method {
            "" => (false, false, false),
            _ => (true, true, method.contains("drop")),
        };
        assert_eq!(packed, expected, "{method}");
        if !method.is_empty() {
            let ids = totals.real + totals.pauses;
            assert_eq!(totals.padded, totals.rows * 64 - ids, "{method}");
        }
        real.push((totals.real + totals.trimmed, totals.rows));
    }
    let ids: Vec<u64> = real.iter().map(|(ids, _)| *ids).collect();
    assert!(ids.iter().all(|n| *n == ids[0]), "ids are lost: {ids:?}");
    let [concat, best_fit, document, _] = [0, 1, 2, 3].map(|at| real[at].1);
    assert!(
        concat <= best_fit && best_fit < document,
        "{concat}, {best_fit} and {document} rows"
    );
}

/// Documents of many lengths, one of them longer than a row, some taken twice.
const GOLDEN: &str = r#"
seed = 3
[tokenizer]
file = "tokenizer.json"
[pretrain]
sources = [{ path = "long.jsonl" }, { path = "short.jsonl", weight = 1.5 }]
pause = { policy = "random", fraction = 0.125 }
pack = { seq_len = 48, method = "best-fit", shard_tokens = 192 }
"#;

/// A dataset that was packed by best-fit once, in `data/golden/`: its bytes may not change.
#[test]
fn best_fit_packs_as_it_did() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden/v2-best-fit");
    let tokenizer = golden.with_file_name("v1-finetune-u16/tokenizer.json");
    let sandbox = Sandbox::new();
    sandbox.write("tokenizer.json", fs::read(&tokenizer).unwrap());
    let line = |letters: usize| {
        format!(
            "{{\"text\": \"{}\"}}\n",
            "on the mat ".repeat(9)[..letters].trim()
        )
    };
    let lines = |lengths: &[usize]| lengths.iter().map(|n| line(*n)).collect::<String>();
    sandbox.write("long.jsonl", lines(&[30, 95, 18, 41, 26, 12, 36]));
    sandbox.write("short.jsonl", lines(&[9, 3, 14, 5, 11, 7]));
    let manifest = prepare(&sandbox, GOLDEN.into());
    let totals = &manifest.splits[&Split::Train].totals;
    assert!(0 < totals.cut && 0 < totals.padded, "{totals:?}");
    let made = sandbox.path(PRETRAIN);
    fs::remove_file(&made.join("origin.json")).unwrap();
    // As with expect-test: a wanted change is written by this variable.
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        for path in files(&made) {
            fs::copy(&path, &golden.join(path.strip_prefix(&made).unwrap())).unwrap();
        }
    }
    let all = |folder: &Path| -> Vec<_> {
        let files = files(folder).into_iter();
        let named = files.map(|path| {
            let name = path.strip_prefix(folder).unwrap().to_path_buf();
            (name, fs::read(&path).unwrap())
        });
        named.collect()
    };
    for ((name, now), (then, bytes)) in all(&made).into_iter().zip(all(&golden)) {
        assert_eq!(name, then);
        assert!(now == bytes, "{} changed", name.display());
    }
    assert_eq!(files(&made).len(), files(&golden).len());
    let rows = |folder: &Path| {
        let dataset = Dataset::open(folder).unwrap();
        let rows = 0..dataset.rows(Split::Train);
        let rows = rows.map(|row| dataset.row(Split::Train, row).unwrap());
        rows.collect::<Vec<_>>()
    };
    assert_eq!(rows(&golden), rows(&golden.with_file_name("v1-best-fit")));
}

#[test]
fn the_bytes_do_not_depend_on_threads_or_partitions() {
    for method in METHODS {
        let sandbox = Sandbox::new();
        let weights = ["2.5", "0.5", "", "1", "3"];
        sandbox.write("recipe.toml", recipe(method, &weights));
        sandbox.ok("prepare recipe.toml --out one --only pretrain --threads 1");
        sandbox.ok("prepare recipe.toml --out four --only pretrain --threads 4");
        for partition in [2, 3, 1] {
            sandbox.ok(&format!(
                "prepare recipe.toml --out three --only pretrain --partition {partition}/3"
            ));
        }
        sandbox.ok("prepare recipe.toml --out three --only pretrain");
        let one = bytes(&sandbox, "one");
        assert!(one == bytes(&sandbox, "four"), "threads, with {method}");
        assert!(one == bytes(&sandbox, "three"), "partitions, with {method}");
    }
}

/// The ids of every document, ends included, sorted: the rows in some other order.
fn documents(sandbox: &Sandbox) -> Vec<u32> {
    let dataset = Dataset::open(&sandbox.path(PRETRAIN)).unwrap();
    let pause = dataset.manifest.tokenizer.reserved.pause;
    let rows = (0..dataset.rows(Split::Train)).map(|row| dataset.row(Split::Train, row).unwrap());
    let ids = rows.flat_map(|row| row.ids).filter(|id| *id != pause);
    let mut ids: Vec<u32> = ids.map(|id| id.0).collect();
    ids.sort_unstable();
    ids
}

#[test]
fn law_1_holds_for_every_method() {
    for method in METHODS {
        let (standard, pause) = (Sandbox::new(), Sandbox::new());
        prepare(&pause, recipe(method, &[]));
        let none = recipe(method, &[]).replacen(
            "{ policy = \"random\", fraction = 0.1 }",
            "{ policy = \"none\" }",
            1,
        );
        let manifest = prepare(&standard, none);
        assert_eq!(manifest.splits[&Split::Train].totals.pauses, 0);
        if !method.contains("drop") {
            assert!(documents(&standard) == documents(&pause), "{method}");
        }
    }
}

#[test]
fn weights_take_exactly_what_they_say() {
    let weights = ["2.5", "0.5", "", "1.15", "3"];
    let taken = [100, 20, 40, 46, 120];
    let kept = [40, 20, 40, 40, 40];
    for method in METHODS {
        let sandbox = Sandbox::new();
        let manifest = prepare(&sandbox, recipe(method, &weights));
        let ledger = &manifest.ledger;
        let shares: Vec<u64> = ledger
            .sources
            .values()
            .map(|share| share.documents)
            .collect();
        assert_eq!(shares, taken, "{method}");
        assert_eq!(ledger.read, 200);
        assert_eq!(ledger.kept, kept.iter().sum::<u64>());
        assert_eq!(ledger.dropped["weight"], 20);
        assert_eq!(ledger.kept + ledger.copies, taken.iter().sum::<u64>());
        let said = sandbox.ok(&format!("stats {PRETRAIN}"));
        assert!(
            said.out.contains("text/0.jsonl") && said.out.contains("20 weight"),
            "{}",
            said.out
        );
        let said = sandbox.ok(&format!("stats {PRETRAIN} --json"));
        let stats: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let files = stats["files"].as_array().unwrap().iter().map(|file| {
            let splits = file["kept"].as_object().unwrap().values();
            splits.filter_map(serde_json::Value::as_u64).sum::<u64>()
        });
        assert_eq!(files.collect::<Vec<_>>(), kept, "{method}");
    }
}

#[test]
fn copies_of_examples_are_proved_too() {
    let sandbox = Sandbox::new();
    let recipe = RECIPE.replace(
        "target = \" {answer}\" }]\npause",
        "target = \" {answer}\", weight = 1.5 }]\npause",
    );
    assert_ne!(recipe, RECIPE);
    sandbox.write("recipe.toml", recipe);
    sandbox.ok("prepare recipe.toml --out out --only finetune");
    let said = sandbox.ok("verify out/data/finetune");
    assert!(said.out.contains("30 further copies"), "{}", said.out);
}

#[test]
fn resealed_lies_are_found() {
    type Lie = fn(&mut Manifest);
    let lies: [(&str, Lie); 7] = [
        ("padded", |manifest| totals(manifest).padded += 1),
        ("were cut are counted", |manifest| totals(manifest).cut += 1),
        ("the sources gave", |manifest| totals(manifest).trimmed += 1),
        ("0 copies, but", |manifest| manifest.ledger.copies = 0),
        ("the sources gave", |manifest| share(manifest, 0).ids += 1),
        ("the mixture is", |manifest| {
            share(manifest, 0).documents += 1;
            share(manifest, 1).documents -= 1;
        }),
        ("expected 3", |manifest| {
            manifest.recipe["sources"][0]["weight"] = 3.into()
        }),
    ];
    let sandbox = Sandbox::new();
    let truth = prepare(&sandbox, recipe(METHODS[1], &["2.5", "0.5"]));
    for (expected, lie) in lies {
        let mut manifest = truth.clone();
        lie(&mut manifest);
        manifest.seal(&sandbox.path(PRETRAIN)).unwrap();
        let said = sandbox.run(&format!("verify {PRETRAIN}"));
        assert_eq!(said.code, Some(1), "{expected}: {}", said.out);
        assert!(said.out.contains(expected), "{expected}: {}", said.out);
    }
}

fn totals(manifest: &mut Manifest) -> &mut pausedata::manifest::Totals {
    &mut manifest.splits.get_mut(&Split::Train).unwrap().totals
}

fn share(manifest: &mut Manifest, source: usize) -> &mut pausedata::manifest::Share {
    manifest.ledger.sources.get_mut(&source).unwrap()
}

/// The start of a long document is compared with its source, and with nothing else.
#[test]
fn a_changed_source_of_a_trimmed_document_is_found() {
    let sandbox = Sandbox::new();
    prepare(&sandbox, recipe(METHODS[3], &[]));
    let text = sandbox.read("text/0.jsonl");
    sandbox.write("text/0.jsonl", text.replacen("stones", "storks", 1));
    let said = sandbox.run(&format!("verify {PRETRAIN}"));
    assert!(
        said.code == Some(1) && said.out.contains("no longer holds the text"),
        "{}",
        said.out
    );
}
