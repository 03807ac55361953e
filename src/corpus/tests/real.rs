//! Real data, where there is some.

use super::*;

/// Reads a source of the shared real data: documents and their bytes.
fn real(source: &str, purpose: Purpose) -> Option<(usize, usize, Text)> {
    let root = std::env::var_os("PAUSEDATA_SHARED_DATA").filter(|root| !root.is_empty());
    let Some(root) = root else {
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
