//! Encodes the first megabytes of a JSONL corpus with `tokenizers`, and says in
//! one line of JSON how long that took and what came out.
//!
//! `tokenizers-rc TOKENIZER.json CORPUS.jsonl MEGABYTES PASSES`

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
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

    let (mut ids, mut ends) = (Vec::new(), Vec::new());
    let (mut cpu, mut wall) = (Vec::new(), Vec::new());
    for _ in 0..passes.parse::<usize>()? {
        // Each pass allocates anew, as a caller that keeps the ids would.
        (ids, ends) = (Vec::new(), Vec::with_capacity(documents.len()));
        let (before, start) = (cpu_seconds(), Instant::now());
        for document in &documents {
            tokenizer.encode_into(document.as_str(), &options, &mut ids)?;
            ends.push(ids.len());
        }
        cpu.push(cpu_seconds() - before);
        wall.push(start.elapsed().as_secs_f64());
    }
    let name = Path::new(definition).file_stem().unwrap_or_default();
    println!(
        "{}",
        serde_json::json!({
            "peer": "tokenizers-rc",
            "tokenizer": name.to_string_lossy(),
            "threads": 1,
            "documents": documents.len(),
            "bytes": documents.iter().map(String::len).sum::<usize>(),
            "tokens": ids.len(),
            "cpu": cpu,
            "wall": wall,
            "load": load,
            "digest": digest(ids.iter().map(|id| (*id).into()), &ends),
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

/// BLAKE3 of every document's count of ids and ids, all as u32 in little-endian order.
fn digest(ids: impl Iterator<Item = u32>, ends: &[usize]) -> String {
    let (mut ids, mut hasher, mut start) = (ids, blake3::Hasher::new(), 0);
    for end in ends {
        let mut bytes = ((end - start) as u32).to_le_bytes().to_vec();
        bytes.extend(ids.by_ref().take(end - start).flat_map(u32::to_le_bytes));
        hasher.update(&bytes);
        start = *end;
    }
    hasher.finalize().to_hex().to_string()
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
