use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::corpus::{Corpus, Purpose, Source};
use crate::document::{DocumentId, Notes};
use crate::progress::{Silent, Stop};

fn rules(toml: &str) -> Rules {
    toml::from_str(toml).unwrap()
}

fn document(text: &str) -> Document {
    Document {
        id: DocumentId { file: 0, row: 0 },
        text: Text::Plain(text.into()),
        notes: Notes::default(),
    }
}

#[test]
fn stages_stand_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        &folder.path().join("q.jsonl"),
        b"{\"q\": \"a b\", \"a\": \"c\"}\n",
    )
    .unwrap();
    let rules = rules(
        "normalize = { trim = true }\nfilter = { min_words = 2, max_words = 5 }\n\
         decontaminate = { against = [{ name = 'q', sources = [{ path = 'q.jsonl', prefix = '{q}', target = ' {a}' }] }], min_words = 3 }",
    );
    let curator = Curator::new(&rules, folder.path()).unwrap();
    let reason = |text: &str| curator.judge(document(text)).unwrap().reason;
    assert_eq!(reason("x y"), None);
    assert_eq!(reason(" \n ").as_deref(), Some("empty"));
    assert_eq!(reason("x ").as_deref(), Some("min_words"));
    assert_eq!(reason("a b c d e f").as_deref(), Some("max_words"));
    assert_eq!(reason("and a, b, C!").as_deref(), Some("contaminated:q"));
    let kept = Rules {
        decontaminate: rules.decontaminate.map(|settings| Decontaminate {
            drop: false,
            ..settings
        }),
        ..rules
    };
    let curator = Curator::new(&kept, folder.path()).unwrap();
    let judged = curator.judge(document("and a, b, C!")).unwrap();
    assert_eq!((judged.reason, judged.hits.len()), (None, 1));
}

#[test]
fn no_rules_change_nothing() {
    let curator = Curator::default();
    let judged = curator.judge(document(" \r\n")).unwrap();
    assert_eq!(judged.document, document(" \r\n"));
    assert_eq!(judged.reason, None);
}

#[test]
fn numbers_about_a_text_must_not_shift() {
    let curator = Curator::new(&rules("normalize = { trim = true }"), Path::new(".")).unwrap();
    let with_positions = |text: &str| Document {
        notes: Notes {
            positions: vec![1],
            ..Notes::default()
        },
        ..document(text)
    };
    assert!(curator.judge(with_positions("abc")).is_ok());
    assert!(matches!(
        curator.judge(with_positions(" abc")),
        Err(Error::Shifted)
    ));
}

/// What [`dedup::find`] finds, with a set of texts.
fn duplicates(texts: &[Vec<String>]) -> Vec<DocumentId> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (file, texts) in (0u32..).zip(texts) {
        for (row, text) in (0u64..).zip(texts) {
            if !seen.insert(text.trim().to_string()) {
                found.push(DocumentId { file, row });
            }
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_first_of_equal_documents_stays(
        texts in prop::collection::vec(prop::collection::vec("[ab]{1,3} ?", 1..400), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (file, texts) in texts.iter().enumerate() {
            let lines = texts.iter().map(|text| format!("{}\n", serde_json::json!({ "text": text })));
            let path = folder.path().join(format!("{file}.jsonl"));
            fs::write(&path, lines.collect::<String>().as_bytes()).unwrap();
        }
        let sources = [Source { path: Some("*.jsonl".into()), ..Source::default() }];
        let corpus = Corpus::resolve(&sources, folder.path(), Purpose::Pretrain).unwrap();
        let (path, scratch) = (folder.path().join("duplicates"), folder.path().join("scratch"));
        let normalize = Normalize { trim: true, ..Normalize::default() };
        let found = dedup::find(&corpus, normalize, (&path, &scratch), &Silent, &Stop::default()).unwrap();
        let expected = duplicates(&texts);
        prop_assert_eq!(found.len(), expected.len() as u64);
        let mut contained = BTreeMap::new();
        for (file, texts) in (0u32..).zip(&texts) {
            for row in 0..texts.len() as u64 {
                let id = DocumentId { file, row };
                contained.insert(id, found.contains(id).unwrap());
            }
        }
        let contained = contained.into_iter().filter(|(_, duplicate)| *duplicate);
        prop_assert_eq!(contained.map(|(id, _)| id).collect::<Vec<_>>(), expected);
        prop_assert!(!scratch.exists());
        // Half a file is no file.
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        prop_assert!(Duplicates::open(&path).unwrap().is_none());
    }
}
