//! The small corpora in `data/` are what the generator makes.

use super::*;

/// The documents of a generated corpus as lines of JSON.
fn lines(source: &str, purpose: Purpose) -> String {
    let source: Source = toml::from_str(source).unwrap();
    let corpus = Corpus::resolve(&[source], Path::new("."), purpose).unwrap();
    let lines = corpus.documents(0..1).map(|document| {
        let value = match document.unwrap().text {
            Text::Plain(text) => serde_json::json!({ "text": text }),
            Text::Example { prefix, target } => {
                serde_json::json!({ "question": prefix, "answer": target })
            }
        };
        format!("{value}\n")
    });
    lines.collect()
}

/// Compares a file in `data/`; `UPDATE_EXPECT=1` writes it.
fn check(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, expected.as_bytes()).unwrap();
    }
    let found = fs::read_text(&path).unwrap();
    assert!(
        found == expected,
        "`data/{name}` is old: UPDATE_EXPECT=1 cargo test --release samples"
    );
}

#[test]
fn samples_in_data_are_what_the_generator_makes() {
    let stories = "synthetic = { corpus = \"stories\", documents = 200 }";
    check("stories.jsonl", &lines(stories, Purpose::Pretrain));
    let fields = "prefix = \"{question}\"\ntarget = \"{answer}\"";
    let questions = |corpus: &str, n: u32| {
        let source = format!("synthetic = {{ corpus = \"{corpus}\", documents = {n} }}\n{fields}");
        lines(&source, Purpose::Finetune)
    };
    check("questions.jsonl", &questions("questions", 200));
    check(
        "held-out-questions.jsonl",
        &questions("held-out-questions", 40),
    );
}
