//! Encodes the first megabytes of a JSONL corpus with `tokenizers`, and says in
//! one line of JSON how long that took and what came out.
//!
//! The digest is BLAKE3 of all ids in order, as little-endian u32; the fields are
//! those of `pausedata bench tokenize`.
//!
//! `tokenizers-rc TOKENIZER.json CORPUS.jsonl MEGABYTES PASSES`

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use tokenizers::pipeline::EncodeOptions;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[derive(serde::Deserialize)]
struct Line {
    text: String,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, definition, corpus, megabytes, passes] = arguments.as_slice() else {
        return Err("usage: tokenizers-rc TOKENIZER.json CORPUS.jsonl MEGABYTES PASSES".into());
    };
    let documents = read(corpus, megabytes.parse()?)?;
    let start = Instant::now();
    let tokenizer = tokenizers::from_json(&tokenizers::canonicalize_file(definition)?)?;
    let load = start.elapsed().as_secs_f64();
    let options = EncodeOptions::no_specials();

    let (mut ids, mut took) = (Vec::new(), Vec::new());
    for _ in 0..passes.parse::<usize>()? {
        // Each pass allocates anew, as a caller that keeps the ids would.
        ids = Vec::new();
        let (before, start) = (cpu_seconds(), Instant::now());
        for document in &documents {
            tokenizer.encode_into(document.as_str(), &options, &mut ids)?;
        }
        let (cpu, wall) = (cpu_seconds() - before, start.elapsed().as_secs_f64());
        took.push(serde_json::json!({ "cpu_seconds": cpu, "wall_seconds": wall }));
    }
    let mut hasher = blake3::Hasher::new();
    for id in &ids {
        hasher.update(&u32::from(*id).to_le_bytes());
    }
    println!(
        "{}",
        serde_json::json!({
            "documents": documents.len(),
            "bytes": documents.iter().map(String::len).sum::<usize>(),
            "tokens": ids.len(),
            "digest": hasher.finalize().to_hex().to_string(),
            "load": { "wall_seconds": load },
            "passes": took,
        })
    );
    Ok(())
}

/// The texts of the first lines that fit into the budget.
fn read(corpus: &str, megabytes: f64) -> Result<Vec<String>, Failure> {
    let (mut documents, mut bytes) = (Vec::new(), 0);
    for line in BufReader::new(File::open(corpus)?).lines() {
        let Line { text } = serde_json::from_str(&line?)?;
        if megabytes * 1e6 < (bytes + text.len()) as f64 && bytes > 0 {
            break;
        }
        bytes += text.len();
        documents.push(text);
    }
    Ok(documents)
}

/// CPU seconds of this process so far, all threads together.
fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes to `time` alone, which lives on.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
