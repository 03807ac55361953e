//! Documents that are changed, judged and dropped before they are encoded.

use pausedata::fs;

use super::laws::bytes;
use super::sandbox::{Said, Sandbox};

const PRETRAIN: &str = "out/data/pretrain";

/// Rules of every kind.
const RULES: &str = r#"
normalize = { unicode = "nfc", newlines = true, trim = true }
filter = { min_words = 5, max_duplicate_lines = 0.4 }
decontaminate = { ngram = 6, min_words = 4, drop = true }
dedup = "exact"
rejects = true
"#;

/// Documents with their fates under [`RULES`].
const DOCUMENTS: [(&str, &str); 7] = [
    ("A heron stood at the river all day.", "kept"),
    ("A heron stood at the river all day. \r\n", "duplicate"),
    ("Too short.", "min_words"),
    (" \n", "empty"),
    (
        "one line here\none line here\none line here",
        "max_duplicate_lines",
    ),
    (
        "They asked. Q: 3 plus 3? A: 6, they said.",
        "contaminated:sums",
    ),
    ("An otter ate e\u{301}clairs on the hill.", "kept"),
];

/// The sandbox with [`DOCUMENTS`] at the end of every file. Generated text is a unit of
/// its own, so that nine units are made; the two stories between two files are the same.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let lines: String = DOCUMENTS
        .iter()
        .map(|(text, _)| format!("{}\n", serde_json::json!({ "text": text })))
        .collect();
    let mut sources = Vec::new();
    for file in 0..5 {
        let name = format!("text/{file}.jsonl");
        sandbox.write(&name, sandbox.read(&name) + &lines);
        if 0 < file {
            sources.push("{ synthetic = { corpus = \"stories\", documents = 2 } }".into());
        }
        sources.push(format!("{{ path = \"{name}\" }}"));
    }
    let recipe = super::sandbox::RECIPE
        .replace("{ path = \"text/*.jsonl\" }", &sources.join(", "))
        .replace("[pretrain]\n", &format!("[pretrain]{RULES}"));
    sandbox.write("recipe.toml", recipe);
    sandbox
}

fn manifest(sandbox: &Sandbox, dataset: &str) -> serde_json::Value {
    serde_json::from_str(&sandbox.read(&format!("{dataset}/manifest.json"))).unwrap()
}

#[test]
fn every_document_is_kept_or_dropped_for_a_reason() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out out --only pretrain");
    let manifest = manifest(&sandbox, PRETRAIN);
    let ledger = &manifest["ledger"];
    let expected = serde_json::json!({
        "read": 243,
        "kept": 204,
        "dropped": {
            "contaminated:sums": 5,
            // Two documents of each file that are kept in the first, once more the first
            // of them, and two stories.
            "duplicate": 4 * 2 + 5 + 3 * 2,
            "empty": 5,
            "max_duplicate_lines": 5,
            "min_words": 5,
        },
    });
    assert_eq!(*ledger, expected);
    assert_eq!(manifest["contamination"][0]["documents"], 5);
    let said = sandbox.ok(&format!("verify {PRETRAIN}"));
    assert!(
        said.out
            .contains("what is not there was dropped for its reason"),
        "{}",
        said.out
    );
    let said = sandbox.ok(&format!("stats {PRETRAIN}"));
    let line = "document 46 of `text/0.jsonl`: q 3 plus 3 a 6";
    assert!(said.out.contains(line), "{}", said.out);
}

#[test]
fn dropped_documents_are_kept_in_files() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out out --only pretrain");
    let file = sandbox.path(PRETRAIN).join("rejects/unit-00000.jsonl.zst");
    let bytes = fs::read(&file).unwrap();
    let text = zstd::decode_all(bytes.as_slice()).unwrap();
    let lines = String::from_utf8(text).unwrap();
    let rejects: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let fates: Vec<_> = DOCUMENTS
        .iter()
        .zip(40..)
        .filter(|((_, fate), _)| *fate != "kept")
        .collect();
    assert_eq!(rejects.len(), fates.len());
    for (reject, ((text, fate), row)) in rejects.iter().zip(fates) {
        let expected = serde_json::json!({
            "file": "text/0.jsonl", "row": row, "reason": fate, "text": text.trim(),
        });
        assert_eq!(*reject, expected);
    }
    // A file that was changed, and one that is missing, are found.
    sandbox.write(&file, [&bytes[..], b"x"].concat());
    let said = sandbox.run(&format!("verify {PRETRAIN}"));
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.out.contains("unit-00000.jsonl.zst"), "{}", said.out);
}

#[test]
fn threads_and_partitions_drop_the_same_documents() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out one --only pretrain --threads 1");
    sandbox.ok("prepare recipe.toml --out eight --only pretrain --threads 8");
    for partition in [3, 1, 2] {
        sandbox.ok(&format!(
            "prepare recipe.toml --out three --only pretrain --partition {partition}/3"
        ));
    }
    sandbox.ok("prepare recipe.toml --out three --only pretrain");
    let bytes = |out: &str| bytes(&sandbox, out);
    let one = bytes("one");
    assert!(
        one.iter()
            .any(|(name, _)| name.ends_with("unit-00008.jsonl.zst"))
    );
    assert!(one == bytes("eight"), "threads change what is dropped");
    assert!(one == bytes("three"), "partitions change what is dropped");
}

#[test]
fn contamination_can_be_reported_and_kept() {
    let sandbox = sandbox();
    let keep = "--set pretrain.decontaminate.drop=false --set pretrain.dedup=exact";
    sandbox.ok(&format!(
        "prepare recipe.toml --out out --only pretrain {keep}"
    ));
    let manifest = manifest(&sandbox, PRETRAIN);
    assert_eq!(manifest["contamination"][0]["documents"], 5);
    assert_eq!(
        manifest["contamination"][0]["shown"]
            .as_array()
            .unwrap()
            .len(),
        3
    );
    assert!(
        manifest["ledger"]["dropped"]
            .get("contaminated:sums")
            .is_none()
    );
    sandbox.ok(&format!("verify {PRETRAIN}"));
}

/// What stands in a folder and below, without its files' bytes.
fn names(sandbox: &Sandbox, folder: &str) -> Vec<std::path::PathBuf> {
    super::sandbox::files(&sandbox.path(folder))
}

#[test]
fn verify_looks_for_duplicates_where_it_is_told_and_leaves_nothing() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out out --only pretrain");
    let before = names(&sandbox, "");
    // Neither beside the dataset nor elsewhere is the system's folder needed.
    for temp_dir in ["", " --temp-dir a/new/folder"] {
        let mut command = sandbox.command(&format!("verify {PRETRAIN}{temp_dir}"));
        let said = Said::by(command.env("TMPDIR", sandbox.path("recipe.toml")));
        assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
        assert!(said.out.contains("19 duplicate"), "{}", said.out);
        assert_eq!(names(&sandbox, ""), before);
    }
    assert!(sandbox.path("a/new/folder").is_dir());
    let said = sandbox.run(&format!("verify {PRETRAIN} --temp-dir recipe.toml"));
    assert_eq!(said.code, Some(1), "{}", said.out);
    for part in [
        "recipe.toml/.tmp-",
        "folder for temporary files",
        "`--temp-dir`",
    ] {
        assert!(said.err.contains(part), "{}", said.err);
    }
    // A source that cannot be read to its end leaves nothing either.
    let text = sandbox.read("text/3.jsonl");
    let at = text.len() - 9;
    sandbox.write(
        "text/3.jsonl",
        format!("{}!!{}", &text[..at], &text[at + 2..]),
    );
    let said = sandbox.run(&format!("verify {PRETRAIN} --temp-dir a/new/folder"));
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert_eq!(names(&sandbox, ""), before);
}

#[test]
fn finetuning_on_the_evaluation_set_is_found() {
    let sandbox = Sandbox::new();
    let set = "--set finetune.decontaminate={ngram=5,min_words=5}";
    let said = sandbox.run(&format!(
        "prepare recipe.toml --out out --only finetune {set}"
    ));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("contaminated:sums: 60"), "{}", said.err);
}

#[test]
fn a_changed_evaluation_set_is_noticed() {
    let sandbox = sandbox();
    sandbox.ok("prepare recipe.toml --out out --only pretrain");
    sandbox.write(
        "questions.jsonl",
        "{\"question\": \"1 plus 1?\", \"answer\": 2}\n",
    );
    let said = sandbox.run(&format!("verify {PRETRAIN}"));
    assert_eq!(said.code, Some(1));
    assert!(
        said.out.contains("evaluation sets are no longer"),
        "{}",
        said.out
    );
    let said = sandbox.run("prepare recipe.toml --out out --only pretrain");
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("contamination.0.files.0.bytes"),
        "{}",
        said.err
    );
}
