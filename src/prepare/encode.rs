//! Documents to ids: one document at a time, on any thread.

use super::{Error, NotesProblem};
use crate::corpus::Corpus;
use crate::digest::checksum;
use crate::document::{Document, DocumentId, Notes, Text};
use crate::manifest::Split;
use crate::pack::UNMARKED;
use crate::pause::{Policy, Rule};
use crate::recipe;
use crate::sequence::Sequence;
use crate::shard::DocumentRecord;
use crate::token::TokenId;
use crate::tokenize::{self, Tokenizer};

/// A document as ids.
pub struct Encoded {
    /// Where it came from, and what its text was.
    pub record: DocumentRecord,
    /// Which part of the dataset it belongs to.
    pub split: Split,
    /// Its ids as they stand in rows, without pauses, the end-of-document id last.
    pub sequence: Sequence,
}

/// Encodes a document and decides its split.
pub fn encode(
    document: &Document,
    tokenizer: &Tokenizer,
    stage: &recipe::Stage,
    corpus: &Corpus,
) -> Result<Encoded, Error> {
    let after = |before: Option<TokenId>, text: &str| {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        ids.extend(before);
        let encoded = tokenizer.encode(text, &mut ids);
        let refuse = |source| refused(document.id, corpus, source);
        encoded.map(|()| ids).map_err(refuse)
    };
    let begin = tokenizer.begin();
    let (mut sequence, unmarked) = match &document.text {
        Text::Plain(text) => (
            Sequence::plain(after(begin, text)?),
            usize::from(begin.is_some()),
        ),
        // Encoded apart, so that the border is exact.
        Text::Example { prefix, target } => {
            let prefix = after(begin, prefix)?;
            let example = Sequence::example(&prefix, &after(None, target)?);
            (example, prefix.len())
        }
    };
    if let (Some(text), Rule::Hint) = (&document.notes.hint, stage.pause.target) {
        sequence.hint = after(None, text)?;
    }
    let marked = sequence.ids.get(unmarked..).unwrap_or_default();
    let marks = marks(document, marked, (tokenizer, &stage.pause.policy)).map_err(|problem| {
        let (file, row) = place(document.id, corpus);
        Error::Notes { file, row, problem }
    })?;
    sequence.marks = behind(unmarked, marks);
    sequence.ids.push(tokenizer.reserved().end);
    let checksum = text_checksum(&document.text);
    let text_bytes = document.text.bytes() as u64;
    Ok(Encoded {
        record: DocumentRecord {
            id: document.id,
            text_bytes,
            checksum,
        },
        split: split(checksum, stage.validation),
        sequence,
    })
}

/// The marks of all ids from those of the ones behind a prefix, or behind what a document
/// begins with; none where there are none.
pub fn behind(unmarked: usize, marks: Vec<f32>) -> Vec<f32> {
    match marks.is_empty() {
        true => marks,
        false => std::iter::repeat_n(UNMARKED, unmarked)
            .chain(marks)
            .collect(),
    }
}

/// The checksum that stands for a document's text; examples join prefix and
/// target with a zero byte.
pub fn text_checksum(text: &Text) -> u64 {
    match text {
        Text::Plain(text) => checksum(text.as_bytes()),
        Text::Example { prefix, target } => checksum(format!("{prefix}\0{target}").as_bytes()),
    }
}

/// The split of a document: a function of its text, so equal documents never
/// stand on both sides.
pub fn split(checksum: u64, validation: f64) -> Split {
    let share = (checksum & u64::from(u32::MAX)) as f64 / 2f64.powi(32);
    if share < validation {
        Split::Validation
    } else {
        Split::Train
    }
}

/// A number for each id, and one for the end, from what the source says about the
/// text: its scores, or 1 where a position lies in an id or right before it.
pub fn marks(
    document: &Document,
    ids: &[TokenId],
    (tokenizer, policy): (&Tokenizer, &Policy),
) -> Result<Vec<f32>, NotesProblem> {
    let Notes {
        scores, positions, ..
    } = &document.notes;
    if policy.reads_scores() {
        if scores.len() != ids.len() {
            return Err(NotesProblem::Scores {
                scores: scores.len(),
                tokens: ids.len(),
            });
        }
        // Equal numbers compare as equal, and the end is never chosen.
        let scores = scores.iter().map(|score| score + 0.0);
        return Ok(scores.chain([f32::NAN]).collect());
    }
    if !policy.reads_positions() {
        return Ok(Vec::new());
    }
    let text = match &document.text {
        Text::Plain(text) => text,
        Text::Example { target, .. } => target,
    };
    let pieces = tokenizer.spell(ids).ok_or(NotesProblem::NotExact)?;
    if pieces.bytes != text.as_bytes() {
        return Err(NotesProblem::NotExact);
    }
    let starts = text.char_indices().map(|(start, _)| start);
    let starts: Vec<usize> = starts.chain([text.len()]).collect();
    let mut marks = vec![0.0; ids.len() + 1];
    for position in positions {
        let outside = || NotesProblem::Position {
            position: *position,
            characters: starts.len() - 1,
        };
        let start = starts.get(*position as usize).ok_or_else(outside)?;
        let mark = marks.get_mut(pieces.gap(*start));
        *mark.ok_or_else(outside)? = 1.0;
    }
    Ok(marks)
}

fn refused(id: DocumentId, corpus: &Corpus, source: tokenize::Error) -> Error {
    let (file, row) = place(id, corpus);
    Error::Document { file, row, source }
}

/// The file of a document and its row, from 1.
fn place(id: DocumentId, corpus: &Corpus) -> (String, u64) {
    (
        file_name(id, corpus),
        corpus.row_in_file(id.file, id.row) + 1,
    )
}

/// The name of a document's file.
pub fn file_name(id: DocumentId, corpus: &Corpus) -> String {
    let file = corpus.files.get(id.file as usize);
    file.map_or_else(String::new, |file| file.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_follows_the_text_and_the_share() {
        let texts: Vec<u64> = (0..20_000u32).map(|i| checksum(&i.to_le_bytes())).collect();
        assert!(texts.iter().all(|&sum| split(sum, 0.0) == Split::Train));
        assert!(
            texts
                .iter()
                .all(|&sum| split(sum, 1.0) == Split::Validation)
        );
        let held_out = texts
            .iter()
            .filter(|&&sum| split(sum, 0.1) == Split::Validation)
            .count();
        // Binomial with mean 2,000 and deviation 42.
        assert!((1_830..2_170).contains(&held_out), "{held_out}");
    }

    #[test]
    fn the_border_of_an_example_is_part_of_its_checksum() {
        let example = |prefix: &str, target: &str| {
            text_checksum(&Text::Example {
                prefix: prefix.into(),
                target: target.into(),
            })
        };
        assert_ne!(example("ab", "c"), example("a", "bc"));
    }
}
