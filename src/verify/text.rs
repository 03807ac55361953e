//! The text: every document decodes to what it was.
//!
//! Without pauses the rows of a split are one stream; it is cut at the
//! end-of-document ids, decoded, and compared with the checksum stored for each
//! document and, where the sources are at hand, with the originals byte for byte.

use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::Value;

use super::{Error, Report, Sources, chain, origin};
use crate::corpus::{self, Corpus};
use crate::dataset::Dataset;
use crate::document::{Document, DocumentId, Text};
use crate::manifest::{Manifest, Split, Stage};
use crate::pause::{self, Overflow, Policy};
use crate::prepare::encode::{self, Ids};
use crate::prepare::purpose;
use crate::progress::{Progress, Stop, Unit};
use crate::shard::DocumentRecord;
use crate::token::TokenId;
use crate::tokenize::Tokenizer;

/// Documents that are decoded in parallel at a time.
const CHUNK: usize = 2048;

/// The sources that the dataset was made from, if they still are what they were.
pub fn corpus(dataset: &Dataset, sources: &Sources, report: &mut Report) -> Option<Corpus> {
    let name = "the sources are at hand";
    let data_root = match sources {
        Sources::Ignored => return None,
        Sources::At(Some(root)) => root.clone(),
        Sources::At(None) => origin(&dataset.folder).unwrap_or_else(|| PathBuf::from(".")),
    };
    let manifest = &dataset.manifest;
    let listed =
        serde_json::from_value(manifest.recipe.get("sources").cloned().unwrap_or_default());
    let found =
        listed
            .map_err(|error| error.to_string())
            .and_then(|listed: Vec<corpus::Source>| {
                Corpus::resolve(&listed, &data_root, purpose(manifest.stage))
                    .map_err(|error| chain(&error))
            });
    let corpus = found.and_then(|corpus| {
        let now = corpus.files.iter().map(|file| (&file.name, file.bytes));
        let then = manifest.corpus.iter().map(|file| (&file.name, file.bytes));
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
            Some(((name, bytes), (_, was))) => Err(format!(
                "`{name}` has {bytes} bytes, but had {was} when it was prepared"
            )),
            None => Ok(corpus),
        }
    });
    let hint = "; pass --data-root, or --no-sources to prove the text by checksums alone";
    let detail = |corpus: &Corpus| {
        format!(
            "{} files under `{}`",
            corpus.files.len(),
            data_root.display()
        )
    };
    report.check(name, None, found_or(&corpus, detail, hint));
    corpus.ok()
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
    corpus: Option<&Corpus>,
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
    let total = dataset.manifest.ledger.kept;
    progress.start("verify text", Some(total), Unit::Documents);
    let manifest = &dataset.manifest;
    let mut proof = Proof {
        tokenizer: &tokenizer,
        manifest,
        tally: Tally::default(),
    };
    let result = proof.run(dataset, corpus, progress, stop);
    progress.finish();
    let result = match result {
        Err(Wrong::Stopped) => return Err(Error::Stopped),
        Err(Wrong::Text(reason)) => Err(reason),
        Ok(()) => Ok(proof.tally.to_string()),
    };
    report.check(name, None, result);
    Ok(())
}

fn drops_text(dataset: &Dataset) -> bool {
    matches!(
        dataset.manifest.pause.policy,
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
        Ok(())
    }
}

/// A document as the shards hold it, beside what the sources say.
struct Held {
    record: DocumentRecord,
    ids: Ids,
    original: Original,
}

/// What the sources say of a document.
enum Original {
    /// The sources are not read.
    Unread,
    /// The sources do not have it.
    Missing,
    /// Its text.
    Text(Text),
}

struct Proof<'a> {
    tokenizer: &'a Tokenizer,
    manifest: &'a Manifest,
    tally: Tally,
}

impl Proof<'_> {
    fn run(
        &mut self,
        dataset: &Dataset,
        corpus: Option<&Corpus>,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<(), Wrong> {
        for split in [Split::Train, Split::Validation] {
            let mut originals = corpus.map(Originals::new);
            let mut documents = held_documents(dataset, split, self.tokenizer.reserved().end);
            loop {
                if stop.requested() {
                    return Err(Wrong::Stopped);
                }
                let chunk = documents.by_ref().take(CHUNK);
                let mut chunk = chunk.collect::<Result<Vec<_>, String>>()?;
                if chunk.is_empty() {
                    break;
                }
                if let Some(originals) = &mut originals {
                    for held in &mut chunk {
                        held.original = originals.find(held.record.id)?;
                    }
                }
                self.prove(&chunk, split)?;
                progress.advance(chunk.len() as u64);
            }
        }
        Ok(())
    }

    fn prove(&mut self, chunk: &[Held], split: Split) -> Result<(), String> {
        let prove = |held: &Held| {
            self.prove_one(held, split)
                .map_err(|reason| format!("{}: {reason}", self.place(held.record.id)))
        };
        let proved: Vec<Proved> = chunk.par_iter().map(prove).collect::<Result<_, String>>()?;
        for proved in proved {
            match proved {
                Proved::Original => self.tally.originals += 1,
                Proved::Checksum => self.tally.checksums += 1,
                Proved::EncodedAgain => self.tally.encoded_again += 1,
            }
        }
        Ok(())
    }

    fn prove_one(&self, held: &Held, split: Split) -> Result<Proved, String> {
        let checksum = held.record.checksum;
        let validation = self
            .manifest
            .recipe
            .get("validation")
            .and_then(Value::as_f64)
            .unwrap_or(0.0);
        if encode::split(checksum, validation) != split {
            return Err("it is in the wrong split".into());
        }
        let decoded = self.decode(&held.ids)?;
        match &held.original {
            Original::Missing => Err("the sources no longer hold it".into()),
            Original::Text(text) if encode::text_checksum(text) != checksum => {
                Err("the source no longer holds the text that was prepared".into())
            }
            Original::Text(text) if *text == decoded => Ok(Proved::Original),
            Original::Text(text) if encode_again(text, self.tokenizer)? == held.ids => {
                Ok(Proved::EncodedAgain)
            }
            Original::Text(text) => Err(differs(text, &decoded)),
            Original::Unread if encode::text_checksum(&decoded) == checksum => Ok(Proved::Checksum),
            Original::Unread => Err("its text does not have the stored checksum".into()),
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
        format!(
            "document {} of `{}`",
            id.row + 1,
            file.map_or("?", |file| &file.name)
        )
    }
}

enum Proved {
    Original,
    Checksum,
    EncodedAgain,
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

/// The documents of one split, cut out of its rows again.
fn held_documents(
    dataset: &Dataset,
    split: Split,
    end: TokenId,
) -> Box<dyn Iterator<Item = Result<Held, String>> + '_> {
    let pauses = dataset.manifest.tokenizer.reserved;
    let rows = dataset.shards(split).iter().flat_map(move |shard| {
        (0..shard.rows()).map(move |index| shard.row(index).map_err(|error| chain(&error)))
    });
    let records = dataset
        .shards(split)
        .iter()
        .flat_map(|shard| match shard.documents() {
            Ok(records) => records.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(chain(&error))],
        });
    let ids: Box<dyn Iterator<Item = Result<Ids, String>>> = match dataset.manifest.stage {
        Stage::Pretrain => {
            let rows = rows.map(move |row| row.map(|row| pause::restore(&row, pauses).ids));
            Box::new(Cut {
                rows: Box::new(rows),
                end,
                row: Vec::new().into_iter(),
            })
        }
        Stage::Finetune => Box::new(rows.map(move |row| {
            let row = pause::restore(&row?, pauses);
            let mut ids = row.ids;
            if ids.pop() != Some(end) {
                return Err("a row does not close with the end-of-document id".into());
            }
            let prefix = row.prefix.map_or(0, |prefix| prefix as usize);
            let target = ids.split_off(prefix.min(ids.len()));
            Ok(Ids::Example {
                prefix: ids,
                target,
            })
        })),
    };
    Box::new(Paired {
        records: Box::new(records),
        ids,
    })
}

/// Cuts a stream of rows at the end-of-document ids.
struct Cut<'a> {
    rows: Box<dyn Iterator<Item = Result<Vec<TokenId>, String>> + 'a>,
    end: TokenId,
    row: std::vec::IntoIter<TokenId>,
}

impl Iterator for Cut<'_> {
    type Item = Result<Ids, String>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut document = Vec::new();
        loop {
            for id in self.row.by_ref() {
                if id == self.end {
                    return Some(Ok(Ids::Plain(document)));
                }
                document.push(id);
            }
            match self.rows.next() {
                Some(Ok(row)) => self.row = row.into_iter(),
                Some(Err(error)) => return Some(Err(error)),
                None if document.is_empty() => return None,
                None => return Some(Err("the last document has no end".into())),
            }
        }
    }
}

/// Joins documents with their records; one without the other is an error.
struct Paired<'a> {
    records: Box<dyn Iterator<Item = Result<DocumentRecord, String>> + 'a>,
    ids: Box<dyn Iterator<Item = Result<Ids, String>> + 'a>,
}

impl Iterator for Paired<'_> {
    type Item = Result<Held, String>;

    fn next(&mut self) -> Option<Self::Item> {
        match (self.records.next(), self.ids.next()) {
            (None, None) => None,
            (Some(Ok(record)), Some(Ok(ids))) => Some(Ok(Held {
                record,
                ids,
                original: Original::Unread,
            })),
            (Some(Err(error)), _) | (_, Some(Err(error))) => Some(Err(error)),
            (Some(_), None) => Some(Err(
                "the index lists more documents than the rows hold".into()
            )),
            (None, Some(_)) => Some(Err(
                "the rows hold more documents than the index lists".into()
            )),
        }
    }
}

/// The sources, read once a split in step with the shards.
struct Originals<'a> {
    documents: Box<dyn Iterator<Item = Result<Document, corpus::Error>> + 'a>,
}

impl<'a> Originals<'a> {
    fn new(corpus: &'a Corpus) -> Self {
        Self {
            documents: Box::new(corpus.documents(0..corpus.files.len())),
        }
    }

    /// The text of a document; those passed over must have been dropped or held out.
    fn find(&mut self, id: DocumentId) -> Result<Original, String> {
        for document in self.documents.by_ref() {
            let document = document.map_err(|error| chain(&error))?;
            if document.id == id {
                return Ok(Original::Text(document.text));
            }
            if id < document.id {
                break;
            }
        }
        Ok(Original::Missing)
    }
}
