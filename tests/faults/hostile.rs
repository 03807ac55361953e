//! Files that were made to harm: bombs, pits and traps, given to the program.
//!
//! Each must end soon, within the memory that is promised for its threads, with
//! an error that names the file or with the dataset.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, DictionaryArray, Int32Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::{Extent, Options, Tally, crafted, program, samples};

/// What one thread may take: 512 MB, and 64 MB for the thread.
const MEMORY_MAX_MB: i64 = 576;
const SECONDS_MAX: u64 = 120;

/// What must come of a case.
#[derive(Clone, Copy)]
pub enum End {
    /// An error of which these words are part.
    Refused(&'static [&'static str]),
    /// A dataset.
    Done,
    /// Either.
    Any,
}

/// A file, and what must come of reading it.
pub struct Case {
    name: &'static str,
    file: &'static str,
    make: Box<dyn Fn(&Path)>,
    end: End,
    /// Too slow for every `cargo test`.
    slow: bool,
}

pub fn run(options: &Options) -> Tally {
    let mut tally = Tally::default();
    let mut peak = 0;
    let mut cases = cases();
    if options.extent == Extent::Sample {
        let mut number = 0;
        cases.retain(|case| {
            number += 1;
            !case.slow && number % 3 == 0
        });
    }
    for case in cases {
        let result = judge(&case);
        if let Ok((memory, _)) = &result {
            peak = peak.max(*memory);
        }
        if let (Ok((memory, seconds)), true) = (&result, options.extent != Extent::Sample) {
            println!("{:40} {memory:4} MB {seconds:5.1} s", case.name);
        }
        tally.note(case.name, result.map(drop));
    }
    println!("peak memory {peak} MB of {MEMORY_MAX_MB}");
    tally
}

/// The argument that makes this program write the file of a case, and nothing else.
pub const MAKE: &str = "--make";

/// Writes the file of a case.
pub fn make(name: &str, path: &str) {
    let case = cases().into_iter().find(|case| case.name == name);
    (case.expect("a case of this name").make)(Path::new(path));
}

fn cases() -> Vec<Case> {
    let mut cases = bombs();
    cases.extend(traps());
    cases.extend(no_files());
    cases.extend(crafted::all());
    cases.extend(streams());
    cases
}

/// What the program did.
struct Done {
    status: ExitStatus,
    err: String,
    memory_mb: i64,
    seconds: f64,
}

fn judge(case: &Case) -> Result<(i64, f64), String> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // In a process of its own: a child begins with the peak of its parent.
    let made = Command::new(std::env::current_exe().unwrap())
        .args([MAKE, case.name])
        .arg(root.join(case.file))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "{}", case.name);
    let (tokenizer, source) = match case.file.ends_with("tokenizer.json") {
        true => (case.file, "good.jsonl"),
        false => ("good.json", case.file),
    };
    let line = json!({ "text": format!("{} aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", samples::texts()[0]) });
    fs::write(root.join("good.jsonl"), format!("{line}\n").repeat(3)).unwrap();
    let [(_, good), ..] = &samples::tokenizers()[..] else {
        return Err("no tokenizer".into());
    };
    fs::write(root.join("good.json"), good.to_string()).unwrap();
    let recipe = format!(
        "tokenizer = {{ file = \"{tokenizer}\" }}\n[pretrain]\nsources = [{{ path = \"{source}\" }}]\npack = {{ seq_len = 64 }}\npause = {{ policy = \"random\", fraction = 0.1 }}\n"
    );
    fs::write(root.join("recipe.toml"), recipe).unwrap();
    let done = prepare(root)?;
    let said = format!("{}: {}", done.status, done.err.trim());
    if MEMORY_MAX_MB < done.memory_mb {
        return Err(format!("takes {} MB; {said}", done.memory_mb));
    }
    if ["panicked", "a mistake in pausedata", "memory allocation"]
        .iter()
        .any(|word| done.err.contains(word))
    {
        return Err(said);
    }
    let refused = |words: &[&str]| {
        done.status.code() == Some(1)
            && done.err.starts_with("error: ")
            && (done.err.contains(case.file) || done.err.contains("good.jsonl"))
            && words.iter().all(|word| done.err.contains(word))
    };
    let right = match case.end {
        End::Done => done.status.success(),
        End::Refused(words) => refused(words),
        End::Any => done.status.success() || refused(&[]),
    };
    let sealed = root.join("out/data/pretrain/manifest.json").exists();
    match right && sealed == done.status.success() {
        true => Ok((done.memory_mb, done.seconds)),
        false => Err(said),
    }
}

/// Prepares on one thread, and tells what it took.
fn prepare(root: &Path) -> Result<Done, String> {
    let err = root.join("stderr");
    let child = Command::new(program())
        .args(["prepare", "recipe.toml", "--out", "out", "--threads", "1"])
        .current_dir(root)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .map_err(|error| error.to_string())?;
    let start = Instant::now();
    let process = libc::pid_t::try_from(child.id()).unwrap();
    let mut killed = false;
    loop {
        let mut status = 0;
        // SAFETY: all zeros are a value of this struct of numbers.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers are to live values; the process is our child, and
        // nothing else waits for it.
        let ended = unsafe { libc::wait4(process, &raw mut status, libc::WNOHANG, &raw mut usage) };
        if ended == process {
            return match killed {
                true => Err(format!("still runs after {SECONDS_MAX} s")),
                false => Ok(Done {
                    status: ExitStatus::from_raw(status),
                    err: fs::read_to_string(&err).unwrap(),
                    memory_mb: usage.ru_maxrss / 1024,
                    seconds: start.elapsed().as_secs_f64(),
                }),
            };
        }
        if Duration::from_secs(SECONDS_MAX) < start.elapsed() && !killed {
            // SAFETY: the process was not waited for, so its number is still its own.
            unsafe { libc::kill(process, libc::SIGKILL) };
            killed = true;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A case that is quick.
pub fn case(
    name: &'static str,
    file: &'static str,
    end: End,
    make: impl Fn(&Path) + 'static,
) -> Case {
    Case {
        name,
        file,
        make: Box::new(make),
        end,
        slow: false,
    }
}

/// Small files that hold much.
fn bombs() -> Vec<Case> {
    use End::Refused;
    let long: End = Refused(&["line 1", "longer than"]);
    vec![
        case("zstd: 1 GiB of zeros", "a.jsonl.zst", long, |path| {
            zstd(path, b"", b"\0", b"")
        }),
        case("zstd: a line of 1 GiB", "a.jsonl.zst", long, |path| {
            zstd(path, b"{\"text\": \"", b"a", b"\"}\n")
        }),
        case(
            "zstd: a text of 1 GiB",
            "a.txt.zst",
            Refused(&["longer than"]),
            |path| zstd(path, b"", b"a", b""),
        ),
        case(
            "zstd: a window of 2 GiB",
            "a.jsonl.zst",
            Refused(&["cannot decompress", "--long"]),
            window,
        ),
        case("gzip: 1 GiB of zeros", "a.jsonl.gz", long, gzip),
        case("a line of 1 GiB, sparse", "a.jsonl", long, |path| {
            sparse(path, 1 << 30)
        }),
        case(
            "a text of 1 TiB, sparse",
            "a.txt",
            Refused(&["longer than"]),
            |path| sparse(path, 1 << 40),
        ),
    ]
}

/// Tables and objects that are larger or deeper than they look.
fn traps() -> Vec<Case> {
    use End::Refused;
    vec![
        case(
            "Parquet: 30 texts of 70 MB",
            "a.parquet",
            Refused(&["row 0", "longer than"]),
            |path| dictionary(path, 70 << 20, 30),
        ),
        case(
            "Parquet: a page of 200 MB",
            "a.parquet",
            Refused(&["the page at byte", "the most that a page"]),
            |path| dictionary(path, 200 << 20, 2),
        ),
        case(
            "Parquet: a sparse file",
            "a.parquet",
            Refused(&[]),
            |path| sparse(path, 1 << 40),
        ),
        case(
            "JSON: a million brackets",
            "a.jsonl",
            Refused(&["line 1", "127"]),
            |path| {
                fs::write(path, format!("{{\"text\": {}", "[".repeat(1_000_000))).unwrap();
            },
        ),
        case(
            "JSON: brackets in another member",
            "a.jsonl",
            Refused(&["line 1"]),
            |path| {
                fs::write(path, format!("{{\"x\": {}", "{\"x\":".repeat(1_000_000))).unwrap();
            },
        ),
        case(
            "JSON: 10 million values in a member",
            "a.jsonl",
            End::Any,
            |path| {
                fs::write(
                    path,
                    format!(
                        "{{\"x\": [{}0], \"text\": \"a\"}}\n",
                        "0,".repeat(10_000_000)
                    ),
                )
                .unwrap();
            },
        ),
    ]
}

/// Bombs whose whole contents are sound: they are streamed.
fn streams() -> Vec<Case> {
    let cases = vec![
        case("zstd: 32 MB of lines", "a.jsonl.zst", End::Done, |path| {
            let line = format!("{}\n", json!({ "text": "stones ".repeat(9000) }));
            let mut encoder = zstd::Encoder::new(File::create(path).unwrap(), 1).unwrap();
            (0..32 * 16).for_each(|_| encoder.write_all(line.as_bytes()).unwrap());
            encoder.finish().unwrap();
        }),
        case(
            "Parquet: 24 texts of 1 MB in a dictionary",
            "a.parquet",
            End::Done,
            |path| dictionary(path, 1 << 20, 24),
        ),
        case("a line of 2 MB", "a.jsonl", End::Any, |path| {
            let text = "stones in a river ".repeat(2 << 20 >> 4);
            fs::write(path, format!("{}\n", json!({ "text": &text[..2 << 20] }))).unwrap();
        }),
    ];
    let slow = |case| Case { slow: true, ..case };
    cases.into_iter().map(slow).collect()
}

/// What stands where a file should.
fn no_files() -> Vec<Case> {
    use End::Refused;
    let pipe = |path: &Path| {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    let link = |to: &'static str| move |path: &Path| std::os::unix::fs::symlink(to, path).unwrap();
    let no_file: End = Refused(&["a pipe, a socket or a device"]);
    vec![
        case("a pipe as source", "a.jsonl", no_file, pipe),
        case("a pipe as tokenizer", "tokenizer.json", no_file, pipe),
        case(
            "an endless device as source",
            "a.jsonl",
            no_file,
            link("/dev/zero"),
        ),
        case(
            "an endless device as tokenizer",
            "tokenizer.json",
            no_file,
            link("/dev/zero"),
        ),
        case(
            "a folder as source",
            "a.jsonl",
            Refused(&["is a directory"]),
            |path| fs::create_dir(path).unwrap(),
        ),
        case(
            "a folder as tokenizer",
            "tokenizer.json",
            Refused(&["is a directory"]),
            |path| fs::create_dir(path).unwrap(),
        ),
        case(
            "a link to itself as source",
            "a.jsonl",
            Refused(&["no file matches"]),
            link("a.jsonl"),
        ),
        case(
            "a link to itself as tokenizer",
            "tokenizer.json",
            Refused(&["symbolic link"]),
            link("tokenizer.json"),
        ),
        case(
            "a link to nothing",
            "a.jsonl",
            Refused(&["no file matches"]),
            link("nowhere"),
        ),
    ]
}

/// A file of zeros that takes no room.
pub fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

fn zstd(path: &Path, head: &[u8], fill: &[u8; 1], tail: &[u8]) {
    let mut encoder = zstd::Encoder::new(File::create(path).unwrap(), 1).unwrap();
    let block = vec![fill[0]; 1 << 20];
    encoder.write_all(head).unwrap();
    (0..1024).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.write_all(tail).unwrap();
    encoder.finish().unwrap();
}

fn window(path: &Path) {
    let mut encoder = zstd::Encoder::new(File::create(path).unwrap(), 1).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.window_log(31).unwrap();
    encoder.write_all(b"{\"text\": \"a\"}\n").unwrap();
    encoder.finish().unwrap();
}

fn gzip(path: &Path) {
    let file = File::create(path).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    let block = vec![0; 1 << 20];
    (0..1024).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.finish().unwrap();
}

/// A Parquet file of which every row is the same text.
fn dictionary(path: &Path, bytes: usize, rows: usize) {
    let text = "stones ".repeat(bytes / 7 + 1);
    let values = StringArray::from(vec![&text[..bytes]]);
    let keys = Int32Array::from(vec![0; rows]);
    let column: ArrayRef = Arc::new(DictionaryArray::new(keys, Arc::new(values)));
    let batch = RecordBatch::try_from_iter([("text", column)]).unwrap();
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_dictionary_page_size_limit(1 << 30)
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let file = File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}
