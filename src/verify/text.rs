//! The text: every document decodes to what it was.
//!
//! The documents are cut out of the rows ([`super::held`]), decoded, and compared
//! with the checksum stored for each and, where the sources are at hand, with the
//! originals byte for byte. The sources are read once, in step with both splits.

use std::borrow::Cow;
use std::iter::Peekable;
use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::Value;

use super::held::{self, Held, Ids, Packing};
use super::recount::Recount;
use super::{Error, Report, Sources, chain, origin};
use crate::corpus::{self, Corpus, Reach};
use crate::curate::{Curator, Reason};
use crate::dataset::Dataset;
use crate::document::{Document, DocumentId, Text};
use crate::manifest::Manifest;
use crate::pause::{Overflow, Policy};
use crate::prepare::encode;
use crate::prepare::purpose;
use crate::progress::{Progress, Stop, Unit};
use crate::token::TokenId;
use crate::tokenize::Tokenizer;

/// Documents that are decoded in parallel at a time.
const CHUNK: usize = 2048;

/// The sources that the dataset was made from, if they still are what they were.
pub fn corpus(
    dataset: &Dataset,
    sources: &Sources,
    (progress, stop): (&dyn Progress, &Stop),
    report: &mut Report,
) -> Result<Option<(Corpus, Reach)>, Error> {
    let name = "the sources are at hand";
    let (data_root, access) = match sources {
        Sources::Ignored => return Ok(None),
        Sources::At {
            data_root, access, ..
        } => {
            let root = data_root.clone().or_else(|| origin(&dataset.folder));
            (root.unwrap_or_else(|| PathBuf::from(".")), access.clone())
        }
    };
    let reach = Reach { data_root, access };
    let manifest = &dataset.manifest;
    let listed =
        serde_json::from_value(manifest.recipe.get("sources").cloned().unwrap_or_default());
    let found =
        listed
            .map_err(|error| error.to_string())
            .and_then(|listed: Vec<corpus::Source>| {
                let whole = Corpus::resolve(&listed, &reach, purpose(manifest.stage));
                let cut = whole.and_then(|whole| match unit_bytes(manifest) {
                    Some(unit_bytes) => whole.cut(unit_bytes),
                    None => Ok(whole),
                });
                cut.map_err(|error| chain(&error))
            });
    let corpus = found.and_then(|corpus| {
        same_files(&corpus, manifest)?;
        let all = std::iter::once(0..corpus.files.len());
        let fetched = corpus.fetch(all, progress, stop);
        fetched.map_err(|error| chain(&error)).map(|()| corpus)
    });
    if stop.requested() {
        return Err(Error::Stopped);
    }
    let hint = "; pass --data-root, or --no-sources to prove the text by checksums alone";
    let detail = |corpus: &Corpus| {
        format!(
            "{} files under `{}`",
            corpus.files.len(),
            reach.data_root.display()
        )
    };
    report.check(name, None, found_or(&corpus, detail, hint));
    Ok(corpus.ok().map(|corpus| (corpus, reach.clone())))
}

/// The files are those that the dataset was made from, as far as can be told without reading.
fn same_files(corpus: &Corpus, manifest: &Manifest) -> Result<(), String> {
    let now = corpus.files.iter();
    let now = now.map(|file| (&file.name, file.span, file.bytes, file.version()));
    let then = manifest.corpus.iter();
    let then = then.map(|file| (&file.name, file.span, file.bytes, file.version.as_deref()));
    match now
        .clone()
        .zip(then.clone())
        .find(|(now, then)| now != then)
    {
        _ if now.len() != then.len() => Err(format!(
            "{} files, but the dataset was made from {}",
            now.len(),
            then.len()
        )),
        Some(((name, _, bytes, now), (_, _, was, then))) if bytes == was && now != then => {
            Err(format!(
                "`{name}` is no longer the version that was prepared: expected {}, found {}",
                then.unwrap_or("none"),
                now.unwrap_or("none"),
            ))
        }
        Some(((name, _, bytes, _), (_, _, was, _))) => Err(format!(
            "`{name}` has {bytes} bytes, but had {was} when it was prepared"
        )),
        None => Ok(()),
    }
}

/// Where large files were cut; none where they were left whole.
fn unit_bytes(manifest: &Manifest) -> Option<u64> {
    manifest.corpus.iter().find_map(|file| file.span)?;
    let pack = manifest.recipe.get("pack");
    let bytes = pack.and_then(|pack| pack.get("unit_bytes"));
    Some(bytes.and_then(Value::as_u64).unwrap_or(corpus::UNIT_BYTES))
}

fn found_or(
    corpus: &Result<Corpus, String>,
    detail: impl Fn(&Corpus) -> String,
    hint: &str,
) -> Result<String, String> {
    match corpus {
        Ok(corpus) => Ok(detail(corpus)),
        Err(error) => Err(format!("{error}{hint}")),
    }
}

/// Compares every document.
pub fn check(
    dataset: &Dataset,
    corpus: Option<(&Corpus, &Curator)>,
    progress: &dyn Progress,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Error> {
    let name = "documents decode to their text";
    let tokenizer = match dataset.tokenizer() {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            report.check(name, Some("tokenizer.json"), Err(chain(&error)));
            return Ok(());
        }
    };
    if drops_text(dataset) {
        let why =
            "text was dropped by `overflow = \"drop\"`: rows are proved, documents are not whole";
        report.check(name, None, Ok(why.into()));
        return Ok(());
    }
    let packing = match Packing::of(&dataset.manifest) {
        Ok(packing) => packing,
        Err(error) => {
            report.check(name, Some("manifest.json"), Err(error));
            return Ok(());
        }
    };
    let total = dataset.manifest.ledger.kept;
    progress.start("verify text", Some(total), Unit::Documents);
    let manifest = &dataset.manifest;
    let mut proof = Proof {
        tokenizer: &tokenizer,
        manifest,
        recount: Recount::new(manifest, &packing),
        tally: Tally::default(),
    };
    let documents = held::documents(dataset, &packing);
    let result = proof.run(documents, corpus, progress, stop);
    progress.finish();
    let result = match result {
        Err(Wrong::Stopped) => return Err(Error::Stopped),
        Err(Wrong::Text(reason)) => {
            report.check(name, None, Err(reason));
            return Ok(());
        }
        Ok(()) => Ok(proof.tally.to_string()),
    };
    report.check(name, None, result);
    proof.recount.check(manifest, report);
    Ok(())
}

fn drops_text(dataset: &Dataset) -> bool {
    matches!(
        dataset.manifest.pause.on_disk().policy,
        Policy::Random {
            overflow: Overflow::Drop,
            ..
        }
    )
}

enum Wrong {
    Stopped,
    Text(String),
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self::Text(reason)
    }
}

/// How documents were proved.
#[derive(Default)]
struct Tally {
    originals: u64,
    checksums: u64,
    encoded_again: u64,
    starts: u64,
    unread_starts: u64,
    copies: u64,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} equal the originals byte for byte", self.originals)?;
        if 0 < self.checksums {
            write!(f, ", {} proved by checksum alone", self.checksums)?;
        }
        if 0 < self.encoded_again {
            write!(
                f,
                "; the tokenizer does not give back the text of {} documents, whose ids were proved by encoding again",
                self.encoded_again
            )?;
        }
        if 0 < self.starts {
            write!(f, "; {} were cut short, and are starts", self.starts)?;
        }
        if 0 < self.unread_starts {
            write!(
                f,
                "; {} were cut short, which cannot be proved without the sources",
                self.unread_starts
            )?;
        }
        if 0 < self.copies {
            write!(f, "; {} further copies equal their first", self.copies)?;
        }
        Ok(())
    }
}

/// A document as the shards hold it, beside what the sources say.
struct Pair {
    held: Held,
    original: Original,
}

/// What the sources say of a document.
enum Original {
    /// The sources are not read.
    Unread,
    /// The sources do not have it.
    Missing,
    /// The recipe drops it.
    Dropped(Reason),
    /// Its text, normalised.
    Text(Text),
}

struct Proof<'a> {
    tokenizer: &'a Tokenizer,
    manifest: &'a Manifest,
    recount: Recount,
    tally: Tally,
}

impl Proof<'_> {
    fn run(
        &mut self,
        mut documents: impl Iterator<Item = Result<Held, String>>,
        corpus: Option<(&Corpus, &Curator)>,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<(), Wrong> {
        let mut originals = corpus.map(Originals::new);
        loop {
            if stop.requested() {
                return Err(Wrong::Stopped);
            }
            let mut chunk = Vec::new();
            for held in documents.by_ref().take(CHUNK) {
                let held = held?;
                let counted = self.recount.count(&held);
                counted.map_err(|reason| format!("{}: {reason}", self.place(held.record.id)))?;
                let original = match &mut originals {
                    Some(originals) => originals.find(held.record.id)?,
                    None => Original::Unread,
                };
                chunk.push(Pair { held, original });
            }
            if chunk.is_empty() {
                return Ok(());
            }
            self.prove(&chunk)?;
            progress.advance(chunk.len() as u64);
        }
    }

    fn prove(&mut self, chunk: &[Pair]) -> Result<(), String> {
        let prove = |pair: &Pair| {
            self.prove_one(pair)
                .map_err(|reason| format!("{}: {reason}", self.place(pair.held.record.id)))
        };
        let proved: Vec<Proved> = chunk.par_iter().map(prove).collect::<Result<_, String>>()?;
        for (proved, pair) in proved.into_iter().zip(chunk) {
            match proved {
                Proved::Original => self.tally.originals += 1,
                Proved::Checksum => self.tally.checksums += 1,
                Proved::EncodedAgain => self.tally.encoded_again += 1,
                Proved::Start { trimmed } => {
                    self.tally.starts += 1;
                    self.recount.trim(pair.held.split, trimmed);
                }
                Proved::UnreadStart => {
                    self.tally.unread_starts += 1;
                    self.recount.trim_unread();
                }
            }
            self.tally.copies += pair.held.copies.len() as u64 - 1;
        }
        Ok(())
    }

    fn prove_one(&self, pair: &Pair) -> Result<Proved, String> {
        let Pair { held, original } = pair;
        let checksum = held.record.checksum;
        let Some((ids, copies)) = held.copies.split_first() else {
            return Err("it has no ids".into());
        };
        if copies.iter().any(|copy| copy != ids) {
            return Err("its copies differ".into());
        }
        match original {
            Original::Missing => return Err("the sources no longer hold it".into()),
            Original::Dropped(reason) => {
                return Err(format!("it is kept, but the recipe drops it: {reason}"));
            }
            Original::Text(text) if encode::text_checksum(text) != checksum => {
                return Err("the source no longer holds the text that was prepared".into());
            }
            Original::Text(_) | Original::Unread => {}
        }
        let ids = self.begun(ids)?;
        if !held.whole {
            return self.prove_start(&ids, copies.len() + 1, original);
        }
        let decoded = self.decode(&ids)?;
        match original {
            Original::Text(text) if *text == decoded => Ok(Proved::Original),
            Original::Text(text) if encode_again(text, self.tokenizer)? == *ids => {
                Ok(Proved::EncodedAgain)
            }
            Original::Text(text) => Err(differs(text, &decoded)),
            _ if encode::text_checksum(&decoded) == checksum => Ok(Proved::Checksum),
            _ => Err("its text does not have the stored checksum".into()),
        }
    }

    /// The ids of a document's text, behind the one that every document begins with.
    fn begun<'a>(&self, ids: &'a Ids) -> Result<Cow<'a, Ids>, String> {
        let Some(begin) = self.tokenizer.begin() else {
            return Ok(Cow::Borrowed(ids));
        };
        let behind = |ids: &[TokenId]| match ids.split_first() {
            Some((first, text)) if *first == begin => Ok(text.to_vec()),
            first => Err(format!(
                "expected id {} at its beginning, found {}",
                begin.0,
                first.map_or("none".into(), |(id, _)| id.0.to_string())
            )),
        };
        Ok(Cow::Owned(match ids {
            Ids::Plain(ids) => Ids::Plain(behind(ids)?),
            Ids::Example { prefix, target } => Ids::Example {
                prefix: behind(prefix)?,
                target: target.clone(),
            },
        }))
    }

    /// A document that was cut short is the start of what it was: its ids are, as its
    /// bytes may end inside a letter.
    fn prove_start(&self, ids: &Ids, copies: usize, original: &Original) -> Result<Proved, String> {
        let Original::Text(text) = original else {
            return Ok(Proved::UnreadStart);
        };
        match (encode_again(text, self.tokenizer)?, ids) {
            (Ids::Plain(whole), Ids::Plain(start)) if whole.starts_with(start) => {
                // Its end is missing, too.
                let trimmed = (whole.len() + 1 - start.len()) * copies;
                Ok(Proved::Start {
                    trimmed: trimmed as u64,
                })
            }
            _ => Err("it was cut short, and is not the start of its source".into()),
        }
    }

    fn decode(&self, ids: &Ids) -> Result<Text, String> {
        let decode = |ids: &[TokenId]| self.tokenizer.decode(ids).map_err(|error| chain(&error));
        Ok(match ids {
            Ids::Plain(ids) => Text::Plain(decode(ids)?),
            Ids::Example { prefix, target } => Text::Example {
                prefix: decode(prefix)?,
                target: decode(target)?,
            },
        })
    }

    fn place(&self, id: DocumentId) -> String {
        let file = self.manifest.corpus.get(id.file as usize);
        let name = file.map_or("?", |file| &file.name);
        match file.and_then(|file| file.span) {
            None => format!("document {} of `{name}`", id.row + 1),
            Some(span) => format!("row {} of `{name}`, counted in {span}", id.row + 1),
        }
    }
}

enum Proved {
    Original,
    Checksum,
    EncodedAgain,
    /// It was cut short by as many ids.
    Start {
        trimmed: u64,
    },
    /// It was cut short, and the sources are not read.
    UnreadStart,
}

fn encode_again(text: &Text, tokenizer: &Tokenizer) -> Result<Ids, String> {
    let ids = |text: &str| {
        let mut ids = Vec::new();
        tokenizer
            .encode(text, &mut ids)
            .map(|()| ids)
            .map_err(|error| chain(&error))
    };
    Ok(match text {
        Text::Plain(text) => Ids::Plain(ids(text)?),
        Text::Example { prefix, target } => Ids::Example {
            prefix: ids(prefix)?,
            target: ids(target)?,
        },
    })
}

fn differs(original: &Text, decoded: &Text) -> String {
    let flat = |text: &Text| match text {
        Text::Plain(text) => text.clone(),
        Text::Example { prefix, target } => format!("{prefix}{target}"),
    };
    let (original, decoded) = (flat(original), flat(decoded));
    let same = original
        .bytes()
        .zip(decoded.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let near = |text: &str| {
        String::from_utf8_lossy(text.as_bytes().get(same..).unwrap_or_default())
            .chars()
            .take(24)
            .collect::<String>()
    };
    format!(
        "it differs from its source at byte {same}: {:?} became {:?}",
        near(&original),
        near(&decoded)
    )
}

/// The sources, read once in step with the shards.
struct Originals<'a> {
    curator: &'a Curator,
    documents: Peekable<Box<dyn Iterator<Item = Result<Document, corpus::Error>> + 'a>>,
}

impl<'a> Originals<'a> {
    fn new((corpus, curator): (&'a Corpus, &'a Curator)) -> Self {
        let documents: Box<dyn Iterator<Item = _>> =
            Box::new(corpus.documents(0..corpus.files.len()));
        Self {
            curator,
            documents: documents.peekable(),
        }
    }

    /// The text of a document, normalised; those passed over must have been left out.
    fn find(&mut self, id: DocumentId) -> Result<Original, String> {
        let not_after = |next: &Result<Document, _>| !matches!(next, Ok(next) if id < next.id);
        while let Some(document) = self.documents.next_if(not_after) {
            let document = document.map_err(|error| chain(&error))?;
            if document.id == id {
                let judged = self
                    .curator
                    .judge(document)
                    .map_err(|error| chain(&error))?;
                return match judged.reason {
                    None => Ok(Original::Text(judged.document.text)),
                    Some(reason) => Ok(Original::Dropped(reason)),
                };
            }
        }
        Ok(Original::Missing)
    }
}
