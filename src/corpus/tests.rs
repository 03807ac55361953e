//! Corpora read from files that the tests write, and from real data.

mod jsonl;
mod real;
mod samples;
mod sources;
mod tables;
mod text;

use std::fmt::Write as _;
use std::io::Write as _;

use arrow::array::{ArrayRef, RecordBatch};
use expect_test::{Expect, expect};
use tempfile::TempDir;

use super::*;
use crate::document::{Document, Text};
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
                Ok(Document { id, text, .. }) => {
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

const TWO: &str = "{\"text\": \"a\\n\"}\n{\"text\": \"\"}\n";
