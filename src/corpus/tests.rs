//! Corpora read from files that the tests write, and from real data.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Int64Array, LargeStringArray, ListArray, RecordBatch,
    StringArray, StringViewArray, StructArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type};
use expect_test::{Expect, expect};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::fs;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        fs::write(&self.0.path().join(name), bytes.as_ref()).unwrap();
        self
    }

    fn table(self, name: &str, columns: Vec<(&str, ArrayRef)>) -> Self {
        let columns = columns
            .into_iter()
            .map(|(name, column)| (name, column, true));
        let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer =
            ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        self.with(name, bytes)
    }

    /// Documents as `file:row text`, or the chain of errors and the hint.
    fn read(&self, source: &str, purpose: Purpose) -> String {
        let source: Source = toml::from_str(source).unwrap();
        let mut shown = String::new();
        let corpus = match Corpus::resolve(&[source], self.0.path(), purpose) {
            Ok(corpus) => corpus,
            Err(error) => return self.explain(&error),
        };
        for document in corpus.documents(0..corpus.files.len()) {
            match document {
                Ok(Document { id, text }) => {
                    let file = &corpus.files[usize::try_from(id.file).unwrap()].name;
                    match text {
                        Text::Plain(text) => writeln!(shown, "{file}:{} {text:?}", id.row),
                        Text::Example { prefix, target } => {
                            writeln!(shown, "{file}:{} {prefix:?} -> {target:?}", id.row)
                        }
                    }
                    .unwrap();
                }
                Err(error) => shown += &self.explain(&error),
            }
        }
        shown
    }

    fn explain(&self, error: &Error) -> String {
        let mut text = format!("error: {error}\n");
        let mut source = std::error::Error::source(error);
        while let Some(error) = source {
            writeln!(text, "  {error}").unwrap();
            source = error.source();
        }
        if let Some(hint) = error.hint() {
            writeln!(text, "hint: {hint}").unwrap();
        }
        text.replace(&self.0.path().display().to_string(), "ROOT")
    }

    fn pretrain(&self, source: &str, expect: Expect) {
        expect.assert_eq(&self.read(source, Purpose::Pretrain));
    }

    fn finetune(&self, source: &str, expect: Expect) {
        expect.assert_eq(&self.read(source, Purpose::Finetune));
    }
}

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zst(text: &str) -> Vec<u8> {
    zstd::encode_all(text.as_bytes(), 1).unwrap()
}

fn strings(values: &[Option<&str>]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

const TWO: &str = "{\"text\": \"a\\n\"}\n{\"text\": \"\"}\n";

#[test]
fn jsonl() {
    let folder = Folder::new()
        .with(
            "a.jsonl",
            "\u{feff}{\"text\": \"ä\"}\r\n\n  \n{\"x\": [{}], \"text\": \"\\ud83d\\ude00\"}",
        )
        .with("b.json.gz", [gzip(TWO), gzip(TWO)].concat())
        .with("c.ndjson.zst", [zst(TWO), zst(TWO)].concat())
        .with("d.jsonl", "");
    folder.pretrain("path = '*.json*'", expect![[""]]);
    folder.pretrain("path = 'c.ndjson.zst'", expect![[""]]);
}

#[test]
fn jsonl_errors() {
    let folder = Folder::new()
        .with("syntax.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\",}\n")
        .with("cut.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b")
        .with("two.jsonl", "{\"text\": \"a\"} {}")
        .with("array.json", "[{\"text\": \"a\"}]")
        .with("pretty.json", "{\n\"text\": \"a\"}")
        .with(
            "missing.jsonl",
            "{\"text\": \"a\"}\n{\"b\": 1, \"txt\": \"b\"}\n",
        )
        .with("empty.jsonl", "{}")
        .with("number.jsonl", "{\"text\": 7}\n")
        .with("null.jsonl", "{\"text\": null}\n")
        .with("utf8.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n");
    for (name, expect) in [
        ("syntax.jsonl", expect![[""]]),
        ("cut.jsonl", expect![[""]]),
        ("two.jsonl", expect![[""]]),
        ("array.json", expect![[""]]),
        ("pretty.json", expect![[""]]),
        ("missing.jsonl", expect![[""]]),
        ("empty.jsonl", expect![[""]]),
        ("number.jsonl", expect![[""]]),
        ("null.jsonl", expect![[""]]),
        ("utf8.jsonl", expect![[""]]),
    ] {
        folder.pretrain(&format!("path = '{name}'"), expect);
    }
}

#[test]
fn templates_reach_into_records() {
    let line = r#"{"q": {"stem": "Why", "n": [1, {"t": "x"}]}, "a.b": true, "n": 2.50, "big": 12345678901234567890, "no": null}"#;
    let folder = Folder::new().with("a.jsonl", line);
    folder.finetune(
        "path = 'a.jsonl'\nprefix = 'Q: {q.stem} {q.n.0} {q.n.1.t}'\ntarget = '{a.b} {n} {big} {{}}'",
        expect![[""]],
    );
    let template = |target| format!("path = 'a.jsonl'\nprefix = ''\ntarget = '{target}'");
    folder.finetune(&template("{q.steam}"), expect![[""]]);
    folder.finetune(&template("{q.n}"), expect![[""]]);
    folder.finetune(&template("{no}"), expect![[""]]);
    folder.finetune(&template("{no"), expect![[""]]);
    folder.pretrain("path = 'a.jsonl'\ntext = 'q.stem'", expect![[""]]);
}

#[test]
fn text() {
    let exact = "\u{feff}\na \r\n\tb\n\n\nc\r\n\r\nd\re";
    let folder = Folder::new()
        .with("a.txt", exact)
        .with("b.txt.gz", gzip("x\ny\n"))
        .with("c.md.zst", zst("x\ny\n"))
        .with("d.txt", "");
    folder.pretrain("path = '*.*'", expect![[""]]);
    folder.pretrain("path = '*.*'\ndocument = 'line'", expect![[""]]);
    folder.pretrain("path = '*.*'\ndocument = 'paragraph'", expect![[""]]);
    folder.finetune(
        "path = 'b.txt.gz'\nprefix = '>'\ntarget = '{text}'",
        expect![[""]],
    );
}

#[test]
fn text_errors() {
    let folder = Folder::new().with("a.txt", b"ok\n\nab\xe4\n");
    for unit in ["file", "line", "paragraph"] {
        let found = folder.read(
            &format!("path = 'a.txt'\ndocument = '{unit}'"),
            Purpose::Pretrain,
        );
        let error = found
            .lines()
            .find(|line| line.starts_with("error"))
            .unwrap();
        assert_eq!(
            error,
            "error: `a.txt`, line 3: not UTF-8 at byte 6 of the text"
        );
    }
    folder.pretrain("path = 'a.txt'\ntext = 'body'", expect![[""]]);
}

#[test]
fn lines_have_a_longest_length() {
    let lines = |text: &str, limit| {
        let folder = Folder::new().with("a.txt", text);
        let path = folder.0.path().join("a.txt");
        let input = decompress::Input::open(&path, "a.txt", Compression::None).unwrap();
        let mut lines = text::Lines::new(input, limit);
        let mut found = Vec::new();
        loop {
            match lines.next() {
                Ok(Some(line)) => found.push(line.text.to_owned()),
                Ok(None) => return Ok(found),
                Err(error) => return Err(error.to_string()),
            }
        }
    };
    assert_eq!(lines("abc\r\nabc\nabc", 3).unwrap(), ["abc", "abc", "abc"]);
    let long = "`a.txt`, line 2: longer than 3 bytes, the most that one document may have";
    for text in ["a\nabcd\n", "a\nabcd\r\n", "a\nabcdefghi", "a\nabcdä"] {
        assert_eq!(lines(text, 3).unwrap_err(), long, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Lines and paragraphs agree with a naive reading of the whole text.
    #[test]
    fn text_units_agree_with_the_naive_reading(text in "[ab\r\n]{0,30}") {
        let folder = Folder::new().with("a.txt", &text);
        let documents = |unit| {
            let source = toml::from_str(&format!("path = 'a.txt'\ndocument = '{unit}'")).unwrap();
            let corpus = Corpus::resolve(&[source], folder.0.path(), Purpose::Pretrain).unwrap();
            let documents = corpus.documents(0..1).map(Result::unwrap);
            documents.map(|d| (d.id.row, d.text)).collect::<Vec<_>>()
        };
        fn bare(line: &str) -> &str {
            line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line))
        }
        let plain = |(row, text): (usize, &str)| (row as u64, Text::Plain(text.into()));
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let full = lines.iter().map(|line| bare(line)).enumerate().filter(|(_, line)| !line.is_empty());
        let blocks: Vec<_> = lines
            .split(|line| bare(line).is_empty())
            .filter(|block| !block.is_empty())
            .map(|block| block.concat())
            .collect();
        let paragraphs = blocks.iter().map(|block| bare(block)).enumerate();
        prop_assert_eq!(documents("file"), vec![plain((0, &text))]);
        prop_assert_eq!(documents("line"), full.map(plain).collect::<Vec<_>>());
        prop_assert_eq!(documents("paragraph"), paragraphs.map(plain).collect::<Vec<_>>());
    }
}

#[test]
fn damaged_compressed_files() {
    let long: String = (0..5_000)
        .map(|i| format!("{{\"text\": \"{i}\"}}\n"))
        .collect();
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 9].to_vec();
    let folder = Folder::new()
        .with("cut.jsonl.gz", cut(gzip(&long)))
        .with("cut.jsonl.zst", cut(zst(&long)))
        .with("not.txt.gz", "plain text")
        .with("not.txt.zst", "plain text")
        .with("empty.txt.gz", "")
        .with("empty.txt.zst", "");
    for (name, expect) in [
        ("cut.jsonl.gz", expect![[""]]),
        ("cut.jsonl.zst", expect![[""]]),
        ("not.txt.gz", expect![[""]]),
        ("not.txt.zst", expect![[""]]),
        ("empty.txt.gz", expect![[""]]),
        ("empty.txt.zst", expect![[""]]),
    ] {
        let found = folder.read(&format!("path = '{name}'"), Purpose::Pretrain);
        let error = found.find("error").unwrap_or(0);
        expect.assert_eq(&found[error..]);
    }
}

#[test]
fn parquet() {
    let nested = StructArray::from(vec![(
        Arc::new(Field::new("stem", DataType::Utf8, true)),
        strings(&[Some("s"), None]),
    )]);
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some([Some(1)]), None]);
    let dictionary: DictionaryArray<Int32Type> = ["d", "e"].into_iter().collect();
    let folder = Folder::new()
        .table(
            "a.parquet",
            vec![
                ("text", strings(&[Some("x\r\n"), Some("")])),
                ("large", Arc::new(LargeStringArray::from(vec!["l", "m"]))),
                ("view", Arc::new(StringViewArray::from(vec!["v", "w"]))),
                ("word", Arc::new(dictionary)),
                ("n", Arc::new(Int64Array::from(vec![3, -4]))),
                ("yes", Arc::new(BooleanArray::from(vec![true, false]))),
                ("q", Arc::new(nested)),
                ("list", Arc::new(list)),
            ],
        )
        .table("null.parquet", vec![("text", strings(&[Some("a"), None]))])
        .with("not.parquet", "plain text that is long enough")
        .with("a.parquet.gz", "");
    folder.pretrain("path = 'a.parquet'", expect![[""]]);
    let template = |target| format!("path = 'a.parquet'\nprefix = ''\ntarget = '{target}'");
    folder.finetune(
        &template("{text} {large} {view} {word} {n} {yes}"),
        expect![[""]],
    );
    folder.finetune(&template("{q.stem}"), expect![[""]]);
    folder.finetune(&template("{q.steam}"), expect![[""]]);
    folder.finetune(&template("{list}"), expect![[""]]);
    folder.finetune(&template("{nothing}"), expect![[""]]);
    folder.pretrain("path = 'null.parquet'", expect![[""]]);
    folder.pretrain("path = 'not.parquet'", expect![[""]]);
    folder.pretrain("path = 'a.parquet.gz'", expect![[""]]);
}

#[test]
fn parquet_batches_keep_the_order() {
    let values: Vec<String> = (0..1_000).map(|i| i.to_string()).collect();
    let folder = Folder::new().table(
        "a.parquet",
        vec![("text", Arc::new(StringArray::from(values.clone())))],
    );
    let found = folder.read("path = 'a.parquet'", Purpose::Pretrain);
    let expected: String = (0..1_000)
        .map(|i| format!("a.parquet:{i} \"{i}\"\n"))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn select() {
    let lines = "{\"text\": \"one\", \"n\": 1}\n{\"text\": \"two\", \"n\": 2}\n{\"text\": \"three\", \"n\": 3}\n";
    let folder = Folder::new()
        .with("a.jsonl", lines)
        .with("b.jsonl.gz", gzip(lines))
        .with("c.jsonl.zst", zst(lines))
        .table(
            "d.parquet",
            vec![
                ("text", strings(&[Some("one"), Some("two"), None])),
                ("n", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ],
        )
        .with("bad.jsonl", "{\"text\": \"one\", \"n\": 1}\n{\"text\": \n");
    let select = |path: &str, query: &str| format!("path = '{path}'\nselect = \"{query}\"");
    folder.pretrain(
        &select(
            "[abcd].*",
            "SELECT text FROM source WHERE n < 3 AND length(text) > 2",
        ),
        expect![[""]],
    );
    folder.pretrain(
        &select(
            "a.jsonl",
            "SELECT upper(text) AS text FROM source ORDER BY n DESC LIMIT 2",
        ),
        expect![[""]],
    );
    folder.pretrain(
        &select("d.parquet", "SELECT text FROM source"),
        expect![[""]],
    );
    folder.finetune(
        &(select(
            "a.jsonl",
            "SELECT n, text AS word, n > 1 AS big FROM source",
        ) + "\nprefix = '{n} {big}'\ntarget = '{word}'"),
        expect![[""]],
    );
    folder.pretrain(&select("a.jsonl", "SELECT n FROM source"), expect![[""]]);
    folder.pretrain(
        &select("a.jsonl", "SELECT nothing FROM source"),
        expect![[""]],
    );
    folder.pretrain(&select("a.jsonl", "SELEKT"), expect![[""]]);
    folder.pretrain(
        &select("bad.jsonl", "SELECT text FROM source"),
        expect![[""]],
    );
    folder.pretrain(
        &select("a.jsonl", "SELECT text FROM source GROUP BY text"),
        expect![[""]],
    );
    assert!(select::check("SELECT text FROM source WHERE text = 'join us'").is_ok());
    assert!(select::check("SELECT a, count(*) FROM source group\n by a order by a").is_ok());
}

#[test]
fn sources_that_make_no_sense() {
    let folder = Folder::new()
        .with("a.jsonl", TWO)
        .with("a.txt", "x")
        .with("a.csv", "x")
        .with("sub/a.jsonl", TWO)
        .with(".tmp-1-a.jsonl", TWO);
    let both = "synthetic = { corpus = 'stories', documents = 1 }";
    folder.pretrain("", expect![[""]]);
    folder.pretrain(&format!("path = 'a.txt'\n{both}"), expect![[""]]);
    folder.pretrain("path = 'b.txt'", expect![[""]]);
    folder.pretrain("path = 'b/*.txt'", expect![[""]]);
    folder.pretrain("path = 'a[.txt'", expect![[""]]);
    folder.pretrain("path = 'a.csv'", expect![[""]]);
    folder.pretrain("path = 'a.csv'\nformat = 'text'", expect![[""]]);
    folder.pretrain("path = 'a.jsonl'\ndocument = 'line'", expect![[""]]);
    folder.pretrain("path = 'a.txt'\nselect = 'SELECT'", expect![[""]]);
    folder.pretrain("path = 'a.txt'\nprefix = ''", expect![[""]]);
    folder.finetune("path = 'a.txt'\ntext = 'text'", expect![[""]]);
    folder.finetune("path = 'a.txt'\nprefix = ''", expect![[""]]);
    folder.pretrain(&format!("{both}\nformat = 'text'"), expect![[""]]);
    folder.pretrain(
        "synthetic = { corpus = 'questions', documents = 1 }",
        expect![[""]],
    );
    folder.pretrain(
        "synthetic = { corpus = 'held-out-questions', documents = 135 }\ntext = 'answer'",
        expect![[""]],
    );
    folder.pretrain(
        "synthetic = { corpus = 'stories', documents = 0 }",
        expect![[""]],
    );
    // Hidden and temporary files are no data; `**` reaches folders below.
    folder.pretrain("path = '**/*.jsonl'", expect![[""]]);
    let none = Corpus::resolve(&[], folder.0.path(), Purpose::Pretrain).unwrap_err();
    assert_eq!(none.to_string(), "no sources: expected at least one");
}

#[test]
fn generated_questions() {
    let folder = Folder::new();
    let templates = "prefix = \"Q: {question}\\nA:\"\ntarget = ' {answer}'";
    folder.finetune(
        &format!("synthetic = {{ corpus = 'questions', documents = 3 }}\n{templates}"),
        expect![[""]],
    );
    folder.finetune(
        &format!("synthetic = {{ corpus = 'held-out-questions', documents = 3 }}\n{templates}"),
        expect![[""]],
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
        }
        .units()
    };
    assert_eq!(units(&[]).len(), 0);
    assert_eq!(units(&[Some(1)]), [0..1]);
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
    assert!(whole.is_sorted_by_key(|document| document.id));
    let parts = [read(0..1), read(1..3), read(3..4), read(4..4)].concat();
    assert_eq!(whole, parts);
    assert_eq!(whole.len(), 7);
}

/// Reads a source of the shared real data: documents and their bytes.
fn real(source: &str, purpose: Purpose) -> Option<(usize, usize, Text)> {
    let Some(root) = std::env::var_os("PAUSEDATA_SHARED_DATA") else {
        println!("skipped: PAUSEDATA_SHARED_DATA is not set");
        return None;
    };
    let source: Source = toml::from_str(source).unwrap();
    let corpus = Corpus::resolve(&[source], Path::new(&root), purpose).unwrap();
    let mut documents = corpus.documents(0..corpus.files.len()).map(Result::unwrap);
    let first = documents.next().unwrap();
    let (mut count, mut bytes) = (1, first.text.bytes());
    for document in documents {
        count += 1;
        bytes += document.text.bytes();
    }
    Some((count, bytes, first.text))
}

#[test]
fn real_novels_come_from_jsonl_and_parquet() {
    let found = real("path = 'pretrain/eltec-eng/*-of-*.*'", Purpose::Pretrain);
    if let Some((documents, bytes, _)) = found {
        assert_eq!((documents, bytes), (2_402, 47_202_725));
    }
}

#[test]
fn real_sections_and_plays() {
    if let Some((documents, bytes, _)) =
        real("path = 'pretrain/stats-book/*.gz'", Purpose::Pretrain)
    {
        assert_eq!((documents, bytes), (120, 1_200_587));
    }
    let found = real(
        "path = 'pretrain/tinyshakespeare/input.txt'",
        Purpose::Pretrain,
    );
    if let Some((documents, bytes, _)) = found {
        assert_eq!((documents, bytes), (1, 1_115_394));
    }
}

#[test]
fn real_problems_become_examples() {
    let source =
        "path = 'gsm8k/train.jsonl'\nprefix = \"Q: {question}\\nA:\"\ntarget = ' {answer}'";
    if let Some((documents, _, Text::Example { prefix, target })) = real(source, Purpose::Finetune)
    {
        assert_eq!(documents, 7_473);
        assert!(prefix.starts_with("Q: Natalia sold") && prefix.ends_with("\nA:"));
        assert!(target.starts_with(" Natalia") && target.ends_with("#### 72"));
    }
    let source = "path = 'commonsenseqa/dev_rand_split.jsonl'\nprefix = '{question.stem}'\ntarget = '{answerKey}'";
    if let Some((documents, ..)) = real(source, Purpose::Finetune) {
        assert_eq!(documents, 1_221);
    }
}

#[test]
fn real_novels_by_query() {
    let query = "SELECT text FROM source WHERE length(text) > 20000";
    let source = format!("path = 'pretrain/eltec-eng/*'\nformat = 'x'\nselect = '{query}'");
    for path in [
        "eltec-eng-00003-of-00004.parquet",
        "eltec-eng-00000-of-00004.jsonl.zst",
    ] {
        let source = source.replace("*", path).replace("format = 'x'\n", "");
        if let Some((documents, ..)) = real(&source, Purpose::Pretrain) {
            assert!((50..600).contains(&documents), "{documents}");
        }
    }
}
