//! Cut files yield what whole files yield.

use std::sync::Arc;

use ::parquet::file::properties::WriterProperties;
use arrow::array::StringArray;
use proptest::prelude::*;

use super::*;

/// Texts with their row in the whole file, or the error that ends them.
fn read(folder: &Folder, source: &str, unit_bytes: Option<u64>) -> (Vec<(u64, Text)>, String) {
    let source: Source = toml::from_str(source).unwrap();
    let corpus = Corpus::resolve(&[source], folder.0.path(), Purpose::Pretrain).unwrap();
    let corpus = match unit_bytes {
        Some(unit_bytes) => corpus.cut(unit_bytes).unwrap(),
        None => corpus,
    };
    let (mut found, mut error) = (Vec::new(), String::new());
    // Each part by itself, as partitions read them.
    for part in 0..corpus.files.len() {
        for document in corpus.documents(part..part + 1) {
            match document {
                Ok(Document { id, text, .. }) => {
                    found.push((corpus.row_in_file(id.file, id.row), text));
                }
                Err(met) if error.is_empty() => error = folder.explain(&met),
                Err(_) => {}
            }
        }
    }
    (found, error)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn lines_of_all_spans_are_the_lines_of_the_file(
        text in "([a-c]{0,6}\r?\n){0,12}[a-c]{0,9}",
        unit_bytes in 1u64..20,
    ) {
        let folder = Folder::new().with("a.txt", &text);
        let source = "path = 'a.txt'\ndocument = 'line'";
        prop_assert_eq!(read(&folder, source, Some(unit_bytes)), read(&folder, source, None));
    }

    #[test]
    fn the_parts_add_up_to_the_file(size in 0usize..100, unit_bytes in 1u64..40) {
        let folder = Folder::new().with("a.jsonl", " ".repeat(size));
        let source: Source = toml::from_str("path = 'a.jsonl'").unwrap();
        let whole = Corpus::resolve(&[source], folder.0.path(), Purpose::Pretrain).unwrap();
        let corpus = whole.cut(unit_bytes).unwrap();
        prop_assert_eq!(corpus.bytes(), Some(size as u64));
        let units = corpus.units();
        prop_assert_eq!(units.iter().map(|unit| unit.len()).sum::<usize>(), corpus.files.len());
        let full = units.iter().rev().skip(1).all(|unit| {
            unit_bytes <= unit.clone().map(|file| corpus.files[file].bytes).sum()
        });
        prop_assert!(full);
    }
}

#[test]
fn errors_in_a_span_name_the_line_of_the_file() {
    let mut lines: Vec<String> = (0..60)
        .map(|n| format!("{{\"text\": \"{n}\"}}\n"))
        .collect();
    lines[47] = "{\"text\": 7}\n".into();
    let folder = Folder::new().with("a.jsonl", lines.concat());
    let whole = read(&folder, "path = 'a.jsonl'", None);
    assert_eq!(
        whole.1,
        "error: `a.jsonl`, line 48: field `text`: expected a string, found `7`\n"
    );
    for unit_bytes in [1, 7, 100, 640] {
        let cut = read(&folder, "path = 'a.jsonl'", Some(unit_bytes));
        assert_eq!(cut.1, whole.1, "cut at {unit_bytes}");
    }
}

#[test]
fn rows_of_all_row_groups_are_the_rows_of_the_file() {
    let texts: Vec<String> = (0..1000).map(|n| format!("text {n}")).collect();
    let column: ArrayRef = Arc::new(StringArray::from(texts));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let groups = WriterProperties::builder().set_max_row_group_row_count(Some(70));
    let mut bytes = Vec::new();
    let mut writer =
        ::parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), Some(groups.build()))
            .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let size = bytes.len() as u64;
    let folder = Folder::new().with("a.parquet", bytes);
    let whole = read(&folder, "path = 'a.parquet'", None);
    assert_eq!(whole.0.len(), 1000);
    for unit_bytes in [1, 3000, 100_000] {
        assert_eq!(read(&folder, "path = 'a.parquet'", Some(unit_bytes)), whole);
    }
    let source: Source = toml::from_str("path = 'a.parquet'").unwrap();
    let corpus = Corpus::resolve(&[source], folder.0.path(), Purpose::Pretrain).unwrap();
    let corpus = corpus.cut(1).unwrap();
    assert_eq!(corpus.files.len(), 15);
    assert_eq!(corpus.bytes(), Some(size));
}
