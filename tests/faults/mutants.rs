//! Thousands of damaged files of every kind that is read, each judged.
//!
//! A mutant must give an error that names its file, or be what it was: no panic,
//! no hang, no absurd memory. Where a digest or checksum covers the bytes, a
//! change may never pass.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pausedata::corpus::{Corpus, Purpose, Source};
use pausedata::dataset::Dataset;
use pausedata::digest::Digest;
use pausedata::document::Text;
use pausedata::manifest::{Manifest, Split};
use pausedata::prepare::ledger::UnitRecord;
use pausedata::progress::{Silent, Stop};
use pausedata::recipe::Error::Invalid;
use pausedata::recipe::{Plan, Recipe};
use pausedata::sequence::Sequence;
use pausedata::token::TokenId;
use pausedata::tokenize::{Config, Tokenizer};
use pausedata::verify;

use crate::mutate::{Random, mutate, mutate_json};
use crate::samples::{self, Packing};
use crate::{Extent, Options, Tally, program, watch};

/// No small file may need more.
const MEMORY_MAX: usize = 512 << 20;

const SAMPLE_MUTANTS: u64 = 1_500;
const CI_MUTANTS: u64 = 24_000;

/// What a file comes to.
type Judge = Box<dyn Fn(&[u8]) -> Verdict>;

/// A good file, and how a mutant of it is judged.
struct Subject {
    name: String,
    good: Vec<u8>,
    /// What it says, where values can be changed inside sound JSON.
    json: Option<serde_json::Value>,
    judge: Judge,
}

/// What a mutant came to, or what is wrong with that.
type Verdict = Result<Found, String>;

/// What a mutant came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// An error.
    Refused,
    /// No error: nothing protects these bytes, or they say the same as before.
    Accepted,
}

pub fn run(options: &Options) -> Tally {
    let folder = tempfile::tempdir().unwrap();
    let subjects = subjects(folder.path());
    let count = options.count.unwrap_or(match options.extent {
        Extent::Sample => SAMPLE_MUTANTS,
        Extent::Ci => CI_MUTANTS,
        Extent::All => 10 * CI_MUTANTS,
    });
    watch::start();
    let mut tally = Tally::default();
    let mut found: BTreeMap<(&str, Found), u32> = BTreeMap::new();
    for subject in &subjects {
        let verdict = watch::trial(&subject.name, MEMORY_MAX, || {
            (subject.judge)(&subject.good).map(drop)
        });
        tally.note(&format!("{} undamaged", subject.name), verdict);
    }
    for number in 0..count {
        let subject = &subjects[number as usize % subjects.len()];
        let mut random = Random(options.seed.wrapping_mul(1 << 32).wrapping_add(number));
        let (how, bytes) = match (&subject.json, number % 2) {
            (Some(json), 1) => mutate_json(json, &mut random),
            _ => mutate(&subject.good, &mut random),
        };
        let name = format!(
            "mutant {number} of seed {}: {}: {how}",
            options.seed, subject.name
        );
        let mut verdict = None;
        let result = watch::trial(&name, MEMORY_MAX, || {
            verdict = Some((subject.judge)(&bytes)?);
            Ok(())
        });
        if let Some(verdict) = verdict {
            *found.entry((&subject.name, verdict)).or_default() += 1;
        }
        tally.note(&name, result);
    }
    watch::stop();
    for subject in &subjects {
        let of = |verdict| found.get(&(subject.name.as_str(), verdict)).unwrap_or(&0);
        let (refused, accepted) = (of(Found::Refused), of(Found::Accepted));
        println!(
            "{:32} {refused:6} refused {accepted:6} accepted",
            subject.name
        );
    }
    println!(
        "panics of libraries that became errors: {}",
        watch::panics()
    );
    tally
}

fn subjects(folder: &Path) -> Vec<Subject> {
    let mut subjects = sources(folder);
    subjects.extend(tokenizers(folder));
    samples::experiment(folder);
    samples::experiment_recipe(folder, "train = { vocab_size = 300 }");
    prepare(folder, "recipe.toml --out out");
    samples::formats_recipe(folder, "out/data/tokenizer.json");
    prepare(folder, "formats.toml --out formats");
    prepare(folder, "formats.toml --out part --partition 1/2");
    subjects.push(recipe(folder));
    for out in ["out", "formats"] {
        for stage in ["pretrain", "finetune"] {
            let folder = folder.join(out).join("data").join(stage);
            subjects.extend(dataset_files(&folder, &format!("{out}/{stage}")));
        }
    }
    for stage in ["pretrain", "finetune"] {
        subjects.push(unit_record(&folder.join("part/data").join(stage), stage));
    }
    subjects
}

fn prepare(folder: &Path, arguments: &str) {
    let mut prepare = Command::new(program());
    let arguments = arguments.split_whitespace();
    prepare.arg("prepare").args(arguments).current_dir(folder);
    let output = prepare.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Files of text. Checksums cover the compressed ones.
fn sources(folder: &Path) -> Vec<Subject> {
    let jsonl = samples::jsonl();
    let files = [
        ("a.jsonl", jsonl.clone(), false),
        ("b.jsonl.gz", samples::gzip(&jsonl), true),
        ("c.jsonl.zst", samples::zstd(&jsonl), true),
        ("d.txt", jsonl.clone(), false),
        ("e.txt.zst", samples::zstd(&jsonl), true),
        ("f.parquet", samples::parquet(Packing::Plain), false),
        ("g.parquet", samples::parquet(Packing::Dictionary), false),
        ("h.parquet", samples::parquet(Packing::Snappy), false),
    ];
    let subject = |(name, good, covered): (&'static str, Vec<u8>, bool)| {
        let path = folder.join(name);
        fs::write(&path, &good).unwrap();
        let known = documents(&path).unwrap();
        let judge = move |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            match documents(&path) {
                Err(error) => names(&error, name),
                Ok(found) => match found.iter().find(|text| !known.contains(text)) {
                    Some(text) if covered => {
                        Err(format!("its checksum is right, and it holds {text:?}"))
                    }
                    _ => Ok(Found::Accepted),
                },
            }
        };
        Subject {
            name: name.into(),
            good,
            json: None,
            judge: Box::new(judge),
        }
    };
    files.into_iter().map(subject).collect()
}

fn documents(path: &Path) -> Result<Vec<String>, String> {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let text = name.contains(".txt");
    let source = Source {
        path: Some(name.clone()),
        text: (!text).then(|| {
            if name.starts_with('h') {
                "inner.stem"
            } else {
                "text"
            }
            .into()
        }),
        ..Source::default()
    };
    let corpus = Corpus::resolve(&[source], path.parent().unwrap(), Purpose::Pretrain);
    let corpus = corpus.map_err(|error| chain(&error))?;
    let mut texts = Vec::new();
    for document in corpus.documents(0..corpus.files.len()) {
        match document.map_err(|error| chain(&error))?.text {
            Text::Plain(text) => texts.push(text),
            Text::Example { .. } => return Err("an example".into()),
        }
    }
    Ok(texts)
}

fn tokenizers(folder: &Path) -> Vec<Subject> {
    let texts = samples::texts();
    let subject = |(name, json): (&'static str, serde_json::Value)| {
        let file = format!("{name}.json");
        let path = folder.join(&file);
        let texts = texts.clone();
        let good = serde_json::to_vec_pretty(&json).unwrap();
        let intact = good.clone();
        let judge = move |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let tokenizer = match Tokenizer::from_file(&path, &Config::default()) {
                Err(error) => return names(&chain(&error), &file),
                Ok(tokenizer) => tokenizer,
            };
            let mut refused = false;
            for text in &texts {
                let mut ids = Vec::new();
                let encoded = tokenizer.encode(text, &mut ids);
                let decoded = tokenizer.decode(&ids);
                if bytes == intact {
                    encoded.map_err(|error| chain(&error))?;
                    decoded.map_err(|error| chain(&error))?;
                } else {
                    refused |= encoded.is_err() || decoded.is_err();
                }
            }
            let all = [0, 1, 5, 12, tokenizer.vocab_size(), u32::MAX];
            let known = tokenizer.decode(&all.map(TokenId));
            match (known, refused) {
                (Ok(text), _) => Err(format!("ids that it lacks are text: {text:?}")),
                (Err(_), true) => Ok(Found::Refused),
                (Err(_), false) => Ok(Found::Accepted),
            }
        };
        Subject {
            name: format!("{name} tokenizer.json"),
            good,
            json: Some(json),
            judge: Box::new(judge),
        }
    };
    samples::tokenizers().into_iter().map(subject).collect()
}

fn recipe(folder: &Path) -> Subject {
    let path = folder.join("recipe.toml");
    let judge = move |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let recipe = match Recipe::read(&path, &[]) {
            // What is missing has no place.
            Err(Invalid(found)) if found.message.contains("is missing") => {
                return Ok(Found::Refused);
            }
            Err(error) => return names(&format!("{error:?}"), "recipe.toml"),
            Ok(recipe) => recipe,
        };
        let text = |recipe: Recipe| {
            let plan = Plan::resolve(recipe, "r", "out".into(), ".".into());
            let plan = plan.map_err(|error| chain(&error))?;
            plan.recipe_toml().map_err(|error| chain(&error))
        };
        let written = text(recipe)?;
        let again = Recipe::parse(&written, Path::new("again.toml"), &[]);
        match text(again.map_err(|error| chain(&error))?)? == written {
            true => Ok(Found::Accepted),
            false => Err("the resolved recipe reads as another".into()),
        }
    };
    Subject {
        name: "recipe.toml".into(),
        good: samples::RECIPE.into(),
        json: None,
        judge: Box::new(judge),
    }
}

/// The files of a dataset; digests cover every byte of all of them.
fn dataset_files(folder: &Path, label: &str) -> Vec<Subject> {
    let rows = rows(folder).unwrap();
    let mut files = vec![folder.join("manifest.json"), folder.join("tokenizer.json")];
    // Two shards stand for all.
    let mut shards = list(&folder.join("shards"));
    shards.sort_by_key(|path| path.file_stem().map(|name| name.to_owned()));
    let stems: BTreeSet<_> = (shards.iter())
        .filter_map(|path| path.file_stem())
        .collect();
    let two: Vec<_> = stems
        .into_iter()
        .take(2)
        .map(|name| name.to_owned())
        .collect();
    files.extend(
        (shards.iter())
            .filter(|path| two.iter().any(|name| path.file_stem() == Some(name)))
            .cloned(),
    );
    files.extend(list(&folder.join("rejects")));
    let subject = |path: PathBuf| {
        let good = fs::read(&path).unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let (folder, rows, intact) = (folder.to_path_buf(), rows.clone(), good.clone());
        let name = format!("{label}/{file}");
        let judge = move |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let verdict = judge_dataset(&folder, &file, bytes == intact, &rows);
            fs::write(&path, &intact).unwrap();
            verdict
        };
        Subject {
            name,
            good,
            json: None,
            judge: Box::new(judge),
        }
    };
    files.into_iter().map(subject).collect()
}

fn judge_dataset(
    folder: &Path,
    file: &str,
    intact: bool,
    expected: &[(Split, Sequence)],
) -> Verdict {
    let found = rows(folder);
    let stop = Stop::default();
    let report = verify::run(folder, None, &verify::Sources::Ignored, &Silent, &stop);
    let report = report.map_err(|error| chain(&error))?;
    if intact {
        return match (found, report.failed()) {
            (Ok(rows), 0) if rows == expected => Ok(Found::Accepted),
            _ => Err("an intact dataset is refused".into()),
        };
    }
    if report.failed() == 0 {
        return Err("verify passes a changed byte".into());
    }
    let shown = serde_json::to_string(&report).unwrap();
    if !shown.contains(file) {
        return Err(format!("verify does not name it: {shown}"));
    }
    if file == "manifest.json" && Manifest::open(folder).is_ok() {
        return Err("a changed manifest opens".into());
    }
    match found {
        Ok(rows) if rows != expected => Err("other rows are read".into()),
        // Padding of a header, columns beside the ids, and documents that are in no row are
        // checked by `verify`; every row is as it was.
        Ok(_)
            if [".bin", ".parquet", ".zst"]
                .iter()
                .any(|end| file.ends_with(end)) =>
        {
            Ok(Found::Refused)
        }
        Ok(_) => Err("the dataset opens".into()),
        Err(error) => names(&error, file),
    }
}

/// The record of a finished unit; its seal covers every byte.
fn unit_record(folder: &Path, stage: &str) -> Subject {
    let path = folder.join("units/unit-00000.json");
    let good = fs::read(&path).unwrap();
    let intact = good.clone();
    let json: serde_json::Value = serde_json::from_slice(&good).unwrap();
    let plan: Digest = serde_json::from_value(json["plan"].clone()).unwrap();
    let folder = folder.to_path_buf();
    let judge = move |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        match (UnitRecord::find(&folder, 0, &plan), bytes == intact) {
            (Ok(Some(_)), true) => Ok(Found::Accepted),
            (Ok(Some(_)), false) => Err("a changed record is taken".into()),
            (_, true) => Err("an intact record is refused".into()),
            // Its unit is prepared again.
            (Ok(None), false) => Ok(Found::Refused),
            (Err(error), false) => names(&chain(&error), "unit-00000.json"),
        }
    };
    Subject {
        name: format!("part/{stage}/unit-00000.json"),
        good,
        json: Some(json),
        judge: Box::new(judge),
    }
}

fn rows(folder: &Path) -> Result<Vec<(Split, Sequence)>, String> {
    let dataset = Dataset::open(folder).map_err(|error| chain(&error))?;
    dataset.tokenizer().map_err(|error| chain(&error))?;
    let mut rows = Vec::new();
    for split in [Split::Train, Split::Validation] {
        for row in 0..dataset.rows(split) {
            let row = dataset.row(split, row).map_err(|error| chain(&error))?;
            rows.push((split, row));
        }
        for shard in dataset.shards(split) {
            shard.documents().map_err(|error| chain(&error))?;
        }
    }
    Ok(rows)
}

fn names(error: &str, file: &str) -> Verdict {
    match error.contains(file) {
        true => Ok(Found::Refused),
        false => Err(format!("the error does not name the file: {error}")),
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// What stands in a folder, by name; a missing one has nothing.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}
