//! What sources say beside the text: where policies or target rules read it, every
//! row is made again from it.

use super::rows::{UnitRows, insertion};
use super::{Error, Report, chain};
use crate::corpus::{Corpus, Documents};
use crate::dataset::Dataset;
use crate::document::{Document, DocumentId, Text};
use crate::manifest::{Split, Stage, row_key};
use crate::pause::{self, Insertion, Rule};
use crate::prepare::encode;
use crate::progress::Stop;
use crate::sequence::Sequence;
use crate::shard::DocumentRecord;
use crate::token::TokenId;
use crate::tokenize::Tokenizer;

/// Rows between two looks at `stop`.
const ROWS: u64 = 1024;

/// Checks the rows of datasets whose pauses or targets the ids alone do not decide.
pub fn check(
    dataset: &Dataset,
    corpus: Option<&Corpus>,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Error> {
    let config = &dataset.manifest.pause;
    let reads = config.policy.reads_marks() || config.target == Rule::Hint;
    let (true, Some(corpus)) = (reads, corpus) else {
        return Ok(());
    };
    let name = "pauses and targets follow what the sources say";
    let mut rows = 0;
    let result = prove(dataset, corpus, stop, &mut rows);
    if stop.requested() {
        return Err(Error::Stopped);
    }
    report.check(name, None, result.map(|()| format!("{rows} rows")));
    Ok(())
}

fn prove(dataset: &Dataset, corpus: &Corpus, stop: &Stop, rows: &mut u64) -> Result<(), String> {
    let tokenizer = dataset.tokenizer().map_err(|error| chain(&error))?;
    let insertion = insertion(dataset)?;
    let manifest = &dataset.manifest;
    for (split, record) in &manifest.splits {
        let mut notes = Notes {
            dataset,
            tokenizer: &tokenizer,
            originals: corpus.documents(0..corpus.files.len()),
            records: records(dataset, *split)?.into_iter(),
            marks: Vec::new(),
        };
        let mut unit = UnitRows::default();
        for (shard, shard_record) in dataset.shards(*split).iter().zip(&record.shards) {
            let first = unit.first_row_of(shard_record);
            let key = row_key(manifest.seed, 0, *split, unit.unit());
            for index in 0..shard.rows() {
                if index % ROWS == 0 && stop.requested() {
                    return Ok(());
                }
                let row = shard.row(index).map_err(|error| chain(&error))?;
                let place = |reason: String| {
                    format!("shards/{}.bin: row {index}: {reason}", shard_record.name)
                };
                let text = notes.of(&row, &insertion).map_err(place)?;
                if pause::apply(&insertion, &text, key.item(first + index)).sequence != row {
                    let reason = "the source puts pauses or targets elsewhere";
                    return Err(place(reason.into()));
                }
                *rows += 1;
            }
        }
    }
    Ok(())
}

fn records(dataset: &Dataset, split: Split) -> Result<Vec<DocumentRecord>, String> {
    let mut all = Vec::new();
    for shard in dataset.shards(split) {
        all.extend(shard.documents().map_err(|error| chain(&error))?);
    }
    Ok(all)
}

/// The sources, read in step with the rows of a split.
struct Notes<'a> {
    dataset: &'a Dataset,
    tokenizer: &'a Tokenizer,
    originals: Documents,
    records: std::vec::IntoIter<DocumentRecord>,
    /// Numbers of ids that later rows hold.
    marks: Vec<f32>,
}

impl Notes<'_> {
    /// A row as it was before it got its pauses.
    fn of(&mut self, row: &Sequence, insertion: &Insertion) -> Result<Sequence, String> {
        let text = pause::restore(row, insertion.pauses());
        match self.dataset.manifest.stage {
            Stage::Pretrain => {
                while self.marks.len() < text.len() {
                    let document = self.next_document()?;
                    let ids = self.target(&document)?;
                    let begin = usize::from(self.tokenizer.begin().is_some());
                    let end = self.marks.len() + begin + ids.len() + 1;
                    let marks = self.marks_of(&document, &ids)?;
                    self.marks.extend(encode::behind(begin, marks));
                    self.marks.resize(end, f32::NAN);
                }
                let marks = self.marks.drain(..text.len()).collect();
                Ok(Sequence { marks, ..text })
            }
            Stage::Finetune => {
                let document = self.next_document()?;
                let target = self.target(&document)?;
                let marks = self.marks_of(&document, &target)?;
                let marks = encode::behind(text.parts().0.len(), marks);
                let hint = match (&document.notes.hint, self.dataset.manifest.pause.target) {
                    (Some(hint), Rule::Hint) => self.ids(hint)?,
                    _ => Vec::new(),
                };
                Ok(Sequence {
                    marks,
                    hint,
                    ..text
                })
            }
        }
    }

    fn next_document(&mut self) -> Result<Document, String> {
        let record = self.records.next();
        let id = record.ok_or("the rows hold more than their documents")?.id;
        self.find(id)
    }

    fn find(&mut self, id: DocumentId) -> Result<Document, String> {
        for document in self.originals.by_ref() {
            let document = document.map_err(|error| chain(&error))?;
            if document.id == id {
                return Ok(document);
            }
        }
        Err("the sources no longer hold its text".into())
    }

    /// The ids that the source's numbers are about.
    fn target(&self, document: &Document) -> Result<Vec<TokenId>, String> {
        match &document.text {
            Text::Plain(text) => self.ids(text),
            Text::Example { target, .. } => self.ids(target),
        }
    }

    fn ids(&self, text: &str) -> Result<Vec<TokenId>, String> {
        let mut ids = Vec::new();
        let encoded = self.tokenizer.encode(text, &mut ids);
        encoded.map(|()| ids).map_err(|error| chain(&error))
    }

    fn marks_of(&self, document: &Document, ids: &[TokenId]) -> Result<Vec<f32>, String> {
        let policy = &self.dataset.manifest.pause.policy;
        let marks = encode::marks(document, ids, (self.tokenizer, policy));
        marks.map_err(|problem| problem.to_string())
    }
}
