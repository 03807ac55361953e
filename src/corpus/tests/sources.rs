//! Which files a source names, and in which order documents come.

use super::*;

const GENERATED: &str = "synthetic = { corpus = 'stories', documents = 1 }";

fn folder() -> Folder {
    Folder::new()
        .with("a.jsonl", TWO)
        .with("a.txt", "x")
        .with("a.csv", "x")
        .with("sub/a.jsonl", TWO)
        .with(".tmp-1-a.jsonl", TWO)
}

#[test]
fn a_source_is_files_or_generated() {
    let folder = folder();
    folder.pretrain("", expect![[r#"
        error: `sources[0]`: expected `path` or `synthetic`, found neither
        hint: a source is a file, `{ path = "stories/*.jsonl" }`, or generated, `{ synthetic = { corpus = "stories", documents = 1000 } }`
    "#]]);
    folder.pretrain(&format!("path = 'a.txt'\n{GENERATED}"), expect![[r#"
        error: `sources[0]`: expected `path` or `synthetic`, found both
        hint: a source is a file, `{ path = "stories/*.jsonl" }`, or generated, `{ synthetic = { corpus = "stories", documents = 1000 } }`
    "#]]);
    let none = Corpus::resolve(&[], folder.0.path(), Purpose::Pretrain).unwrap_err();
    assert_eq!(none.to_string(), "no sources: expected at least one");
}

#[test]
fn a_path_that_matches_nothing_is_refused() {
    let folder = folder();
    folder.pretrain("path = 'b.txt'", expect![[r#"
        error: `sources[0]`: no file matches `b.txt` in the data root `ROOT`
        hint: relative paths start at the data root `ROOT`: correct the path, or name another root with `--data-root DIR`
    "#]]);
    folder.pretrain("path = 'b/*.txt'", expect![[r#"
        error: `sources[0]`: no file matches `b/*.txt` in the data root `ROOT`
        hint: relative paths start at the data root `ROOT`: correct the path, or name another root with `--data-root DIR`
    "#]]);
    folder.pretrain(
        "path = 's3://bucket/a.jsonl'",
        expect![[r#"
        error: there is no folder for copies of remote sources
        hint: name one with `--cache-dir DIR`
    "#]],
    );
    folder.pretrain(
        "path = 'a[.txt'",
        expect![[r#"
            error: `sources[0]`: malformed glob `a[.txt`: invalid range pattern at byte 1
        "#]],
    );
}

#[test]
fn a_glob_reaches_folders_below_but_no_hidden_files() {
    // Hidden and temporary files are no data; `**` reaches folders below.
    folder().pretrain(
        "path = '**/*.jsonl'",
        expect![[r#"
            a.jsonl:0 "a\n"
            a.jsonl:1 ""
            sub/a.jsonl:0 "a\n"
            sub/a.jsonl:1 ""
        "#]],
    );
}

#[test]
fn the_name_tells_the_format_unless_the_source_does() {
    let folder = folder();
    folder.pretrain(
        "path = 'a.csv'",
        expect![[r#"
            error: `sources[0]`: cannot tell the format of `a.csv` from its name
            hint: add `format = "jsonl"`, `"text"` or `"parquet"` to the source
        "#]],
    );
    folder.pretrain(
        "path = 'a.csv'\nformat = 'text'",
        expect![[r#"
            a.csv:0 "x"
        "#]],
    );
}

#[test]
fn keys_that_do_not_apply_are_refused() {
    let folder = folder();
    folder.pretrain(
        "path = 'a.jsonl'\ndocument = 'line'",
        expect![[r#"
            error: `sources[0]`: `document` does not apply to the JSONL file `a.jsonl`
        "#]],
    );
    folder.pretrain(
        "path = 'a.txt'\nselect = 'SELECT'",
        expect![[r#"
            error: `sources[0]`: `select` does not apply to the text file `a.txt`
        "#]],
    );
    folder.pretrain(
        &format!("{GENERATED}\nformat = 'text'"),
        expect![[r#"
            error: `sources[0]`: `format` does not apply to a synthetic source
        "#]],
    );
}

#[test]
fn each_stage_has_its_own_keys() {
    let folder = folder();
    folder.pretrain(
        "path = 'a.txt'\nprefix = ''",
        expect![[r#"
            error: `sources[0]`: `prefix` is for finetuning; pretraining reads the field named by `text`
        "#]],
    );
    folder.finetune("path = 'a.txt'\ntext = 'text'", expect![[r#"
        error: `sources[0]`: `text` is for pretraining; finetuning needs the templates `prefix` and `target`
        hint: for example `prefix = "Q: {question}\nA:"` and `target = " {answer}"`
    "#]]);
    folder.finetune("path = 'a.txt'\nprefix = ''", expect![[r#"
        error: `sources[0]`: finetuning needs the templates `prefix` and `target`; `target` is missing
        hint: for example `prefix = "Q: {question}\nA:"` and `target = " {answer}"`
    "#]]);
}

#[test]
fn generated_corpora_have_their_fields_and_sizes() {
    let folder = Folder::new();
    folder.pretrain(
        "synthetic = { corpus = 'questions', documents = 1 }",
        expect![[r#"
            error: `sources[0]`: no field `text` in `synthetic:questions`; its fields are `question`, `answer`
        "#]],
    );
    folder.pretrain(
        "synthetic = { corpus = 'held-out-questions', documents = 135 }\ntext = 'answer'",
        expect![[r#"
            error: `sources[0]`: a synthetic corpus of 135 documents: expected 1 to 134
        "#]],
    );
    folder.pretrain(
        "synthetic = { corpus = 'stories', documents = 0 }",
        expect![[r#"
            error: `sources[0]`: a synthetic corpus of 0 documents: expected 1 to 18446744073709551615
        "#]],
    );
}

#[test]
fn generated_questions() {
    let folder = Folder::new();
    let templates = "prefix = \"Q: {question}\\nA:\"\ntarget = ' {answer}'";
    folder.finetune(
        &format!("synthetic = {{ corpus = 'questions', documents = 3 }}\n{templates}"),
        expect![[r#"
            synthetic:questions:0 "Q: What kind of pet does Kate keep?\nA:" -> " rabbit"
            synthetic:questions:1 "Q: What pet does Rosa have?\nA:" -> " pony"
            synthetic:questions:2 "Q: What is the trade of Tara?\nA:" -> " doctor"
        "#]],
    );
    folder.finetune(
        &format!("synthetic = {{ corpus = 'held-out-questions', documents = 3 }}\n{templates}"),
        expect![[r#"
            synthetic:held-out-questions:0 "Q: Which food does Emil like best?\nA:" -> " olives"
            synthetic:held-out-questions:1 "Q: What does Mark call the pet?\nA:" -> " Pebble"
            synthetic:held-out-questions:2 "Q: What colour is Lily's front door?\nA:" -> " yellow"
        "#]],
    );
}

#[test]
fn files_and_units_are_fixed_groups() {
    let file = |name: &str, mebibytes: u64, path: Option<PathBuf>| {
        let folder = Folder::new().with("a.txt", "");
        let source: Source = toml::from_str("path = 'a.txt'").unwrap();
        let corpus = Corpus::resolve(&[source], folder.0.path(), Purpose::Pretrain).unwrap();
        File {
            name: name.into(),
            bytes: mebibytes << 20,
            path,
            ..corpus.files[0].clone()
        }
    };
    let units = |sizes: &[Option<u64>]| {
        let files = sizes.iter().map(|size| match size {
            Some(size) => file("f", *size, Some("f".into())),
            None => file("synthetic:stories", 0, None),
        });
        Corpus {
            files: files.collect(),
            unit_bytes: UNIT_BYTES,
        }
        .units()
    };
    assert!(units(&[]).is_empty());
    assert_eq!(units(&[Some(1)]), vec![Range { start: 0, end: 1 }]);
    assert_eq!(
        units(&[Some(32), Some(31), Some(1), Some(64), Some(3)]),
        [0..3, 3..4, 4..5]
    );
    assert_eq!(
        units(&[Some(1), None, None, Some(63), Some(1)]),
        [0..1, 1..2, 2..3, 3..5]
    );
}

#[test]
fn documents_of_a_range_are_those_of_the_whole() {
    let folder = Folder::new()
        .with("b.jsonl", TWO)
        .with("a.jsonl", TWO)
        .with("c.txt", "z");
    let sources = ["path = '*.jsonl'", "path = 'c.txt'", "path = 'a.jsonl'"]
        .map(|source| toml::from_str(source).unwrap());
    let corpus = Corpus::resolve(&sources, folder.0.path(), Purpose::Pretrain).unwrap();
    let names: Vec<_> = corpus
        .files
        .iter()
        .map(|f| (f.source, f.name.as_str()))
        .collect();
    assert_eq!(
        names,
        [(0, "a.jsonl"), (0, "b.jsonl"), (1, "c.txt"), (2, "a.jsonl")]
    );
    let read = |range| {
        corpus
            .documents(range)
            .map(Result::unwrap)
            .collect::<Vec<_>>()
    };
    let whole = read(0..4);
    fn is_send<T: Send>(_: &T) {}
    is_send(&corpus.documents(0..4));
    assert!(whole.is_sorted_by_key(|document| document.id));
    let parts = [read(0..1), read(1..3), read(3..4), read(4..4)].concat();
    assert_eq!(whole, parts);
    assert_eq!(whole.len(), 7);
}
