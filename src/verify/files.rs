//! The files: all there, none changed, none too many, and the manifest adds up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;

use super::{Error, Report, chain, shard_path, shard_records};
use crate::digest::Digest;
use crate::fs;
use crate::manifest;
use crate::manifest::{Manifest, Share, Totals};
use crate::prepare::rejects;
use crate::progress::{Progress, Unit};

/// The manifest, if its seal holds.
///
/// # Errors
/// Where there is none at all.
pub fn manifest(folder: &Path, report: &mut Report) -> Result<Option<Manifest>, Error> {
    let name = "the manifest is sealed and unchanged";
    match Manifest::open(folder) {
        Ok((manifest, digest)) => {
            report.digest = Some(digest);
            report.check(
                name,
                Some("manifest.json"),
                Ok(format!("dataset {}", digest.short())),
            );
            Ok(Some(manifest))
        }
        Err(error @ manifest::Error::NotSealed { .. }) => Err(Error::NotSealed(error)),
        Err(error) => {
            report.check(name, Some("manifest.json"), Err(chain(&error)));
            Ok(None)
        }
    }
}

/// The tokenizer is the one the rows were made with.
pub fn tokenizer(folder: &Path, manifest: &Manifest, report: &mut Report) {
    let result =
        Digest::of_file(&folder.join(manifest::TOKENIZER_FILE)).map_err(|error| chain(&error));
    let result = result.and_then(|found| same(found, manifest.tokenizer.digest));
    report.check(
        "the tokenizer is the dataset's",
        Some(manifest::TOKENIZER_FILE),
        result,
    );
}

/// Every shard file has the digest that the manifest names; there are no others.
pub fn shards(folder: &Path, manifest: &Manifest, progress: &dyn Progress, report: &mut Report) {
    let files: Vec<(String, Digest)> = shard_records(manifest)
        .flat_map(manifest::ShardRecord::files)
        .collect();
    progress.start("verify files", Some(files.len() as u64), Unit::Files);
    let results: Vec<Result<String, String>> = files
        .par_iter()
        .map(|(name, expected)| {
            let found = Digest::of_file(&folder.join(manifest::SHARDS).join(name));
            progress.advance(1);
            found
                .map_err(|error| chain(&error))
                .and_then(|found| same(found, *expected))
        })
        .collect();
    progress.finish();
    for ((name, _), result) in files.iter().zip(results) {
        let file = format!("{}/{name}", manifest::SHARDS);
        report.check(
            "the shard's bytes are those that were sealed",
            Some(&file),
            result,
        );
    }
    let known = files.iter().map(|(name, _)| name.as_str()).collect();
    let result = strangers(&folder.join(manifest::SHARDS), &known);
    report.check("no shard is too many", Some(manifest::SHARDS), result);
    open_each(folder, manifest, report);
}

/// Every file of a folder is known; those that a killed run left half-written are no files.
fn strangers(folder: &Path, known: &BTreeSet<&str>) -> Result<String, String> {
    let found = fs::list(folder).map_err(|error| chain(&error))?;
    let strangers: Vec<String> = found
        .iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .filter(|name| !known.contains(name.as_str()) && !name.starts_with(fs::TEMPORARY))
        .collect();
    match strangers.as_slice() {
        [] => Ok(format!("{} files", known.len())),
        names => Err(format!("the manifest does not name {}", names.join(", "))),
    }
}

/// The files of dropped documents are those that were sealed, and hold what the ledger counts.
pub fn rejects(folder: &Path, manifest: &Manifest, report: &mut Report) {
    let kept = manifest
        .recipe
        .get("rejects")
        .is_some_and(|kept| kept == true);
    if !kept && manifest.rejects.is_empty() {
        return;
    }
    let mut counts = BTreeMap::new();
    let mut names = Vec::new();
    for record in &manifest.rejects {
        let path = rejects::path(folder, &record.name);
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let digest = Digest::of_file(&path).map_err(|error| chain(&error));
        let result = digest.and_then(|found| same(found, record.digest));
        let result = result.and_then(|detail| {
            let documents = rejects::count(&path, &mut counts).map_err(|error| chain(&error))?;
            match documents == record.documents {
                true => Ok(format!("{detail}, {documents} documents")),
                false => Err(format!(
                    "expected {} documents, found {documents}",
                    record.documents
                )),
            }
        });
        let file = format!("{}/{name}", manifest::REJECTS);
        report.check(
            "the dropped documents are those that were sealed",
            Some(&file),
            result,
        );
        names.push(name);
    }
    let known = names.iter().map(String::as_str).collect();
    // What a weight passes over is not rejected.
    let dropped = manifest.ledger.before_weights().dropped;
    let result = strangers(&folder.join(manifest::REJECTS), &known).and_then(|detail| {
        match counts == dropped {
            true => Ok(detail),
            false => Err(format!("expected {dropped:?}, found {counts:?}")),
        }
    });
    report.check(
        "every dropped document is kept",
        Some(manifest::REJECTS),
        result,
    );
}

/// The headers and indexes parse and agree with the manifest.
fn open_each(folder: &Path, manifest: &Manifest, report: &mut Report) {
    for shard in shard_records(manifest) {
        let opened = crate::shard::Shard::open(folder, shard, manifest);
        if let Err(error) = opened {
            let file = shard_path(Path::new(""), &shard.name, manifest.shard_format.ending())
                .display()
                .to_string();
            report.check("the shard opens", Some(&file), Err(chain(&error)));
        }
    }
}

/// The manifest's own sums: nothing read is lost without a reason.
pub fn ledger(manifest: &Manifest, report: &mut Report) {
    let ledger = &manifest.ledger;
    let dropped: u64 = ledger.dropped.values().sum();
    let result = if ledger.read == ledger.kept + dropped {
        Ok(format!(
            "{} read = {} kept + {dropped} dropped",
            ledger.read, ledger.kept
        ))
    } else {
        Err(format!(
            "{} read, but {} kept + {dropped} dropped",
            ledger.read, ledger.kept
        ))
    };
    report.check(
        "every document read is accounted for",
        Some("manifest.json"),
        result,
    );
    let totals = || manifest.splits.values().map(|split| &split.totals);
    let in_splits: u64 = totals().map(|totals| totals.documents).sum();
    let in_files: u64 = manifest.corpus.iter().map(|file| file.documents).sum();
    let stored = ledger.kept + ledger.copies;
    let result = match (in_splits == stored, in_files == ledger.read) {
        (true, true) => Ok(format!("{in_splits} documents in the splits")),
        (false, _) => Err(format!(
            "{} kept and {} copies, but {in_splits} in the splits",
            ledger.kept, ledger.copies
        )),
        (_, false) => Err(format!("{} read, but {in_files} in the files", ledger.read)),
    };
    report.check(
        "splits and files hold those documents",
        Some("manifest.json"),
        result,
    );
    mixture(manifest, report);
}

/// What the sources gave is what the splits got.
fn mixture(manifest: &Manifest, report: &mut Report) {
    let ledger = &manifest.ledger;
    if ledger.sources.is_empty() {
        return;
    }
    let mut given = Share::default();
    ledger.sources.values().for_each(|share| given += share);
    let mut got = Share::default();
    for Totals {
        documents,
        real,
        overflowed,
        trimmed,
        ..
    } in manifest.splits.values().map(|split| &split.totals)
    {
        got.documents += documents;
        got.ids += real + overflowed + trimmed;
    }
    let result = match given == got {
        true => Ok(format!("{} documents of {} ids", got.documents, got.ids)),
        false => Err(format!(
            "the sources gave {} documents of {} ids, the splits have {} of {}",
            given.documents, given.ids, got.documents, got.ids
        )),
    };
    report.check(
        "the sources gave what the splits have",
        Some("manifest.json"),
        result,
    );
}

fn same(found: Digest, expected: Digest) -> Result<String, String> {
    if found == expected {
        Ok(format!("BLAKE3 {}", found.short()))
    } else {
        Err(format!(
            "expected BLAKE3 {}, found {}",
            expected.short(),
            found.short()
        ))
    }
}
