//! What is done: a record a unit, merged into the manifest at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, rejects};
use crate::curate::Hit;
use crate::digest::Digest;
use crate::document::DocumentId;
use crate::manifest::{Ledger, Manifest, Overlap, RejectsRecord, SHOWN_MAX, Split, SplitRecord};
use crate::seal::{self, Broken};
use crate::{fs, manifest};

/// The folder of records; it is removed when the manifest is sealed.
pub const UNITS: &str = "units";

/// The most characters of an overlap that a record holds.
const WORDS_CHARS_MAX: usize = 400;

/// One finished unit: its shards, and what became of its documents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitRecord {
    /// Digest of the recipe and inputs that the unit was made from.
    pub plan: Digest,
    /// Which unit.
    pub unit: usize,
    /// Documents read from each of its files, by index into the corpus.
    pub documents: BTreeMap<u32, u64>,
    /// Its shards and counts.
    pub splits: BTreeMap<Split, SplitRecord>,
    /// What became of its documents.
    pub ledger: Ledger,
    /// What they hold of evaluation sets.
    #[serde(default, skip_serializing_if = "Contamination::is_empty")]
    pub contamination: Contamination,
    /// Its file of dropped documents, where the recipe keeps them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejects: Option<RejectsRecord>,
}

/// What documents hold of evaluation sets, by index of the set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Contamination(pub BTreeMap<usize, Found>);

/// What documents hold of one evaluation set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// Documents that hold pieces of it.
    pub documents: u64,
    /// The first of them.
    pub shown: Vec<Overlap>,
}

impl Contamination {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the counts of other documents; what is shown stays.
    pub fn add(&mut self, other: &Self) {
        for (set, found) in &other.0 {
            self.0.entry(*set).or_default().documents += found.documents;
        }
    }

    /// Counts the pieces that a document holds.
    pub fn observe(&mut self, id: DocumentId, hits: &[Hit]) {
        for hit in hits {
            let found = self.0.entry(hit.set).or_default();
            found.documents += 1;
            if found.shown.len() < SHOWN_MAX {
                found.shown.push(Overlap {
                    file: id.file,
                    row: id.row,
                    words: in_words(&hit.words),
                });
            }
        }
    }
}

impl UnitRecord {
    /// The record of a unit made from the same plan whose shards still stand.
    ///
    /// # Errors
    /// Where a byte of the record was changed.
    pub fn find(folder: &Path, unit: usize, plan: &Digest) -> Result<Option<Self>, Error> {
        let path = record_path(folder, unit);
        let bytes = match fs::read(&path) {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let damaged = |reason| Error::Record {
            path: path.clone(),
            reason,
        };
        let json = match seal::open(&bytes) {
            Ok(json) => json,
            // Of a version that sealed no records: nothing tells that it is whole.
            Err(Broken::NoSeal) if serde_json::from_slice::<Self>(&bytes).is_ok() => {
                return Ok(None);
            }
            Err(Broken::NoSeal) => return Err(damaged("it does not end in a seal".into())),
            Err(Broken::Changed { expected, found }) => {
                let reason = format!("its seal is {expected}, and its bytes have {found}");
                return Err(damaged(reason));
            }
        };
        let record: Self =
            serde_json::from_str(&json).map_err(|error| damaged(error.to_string()))?;
        let shards = folder.join(manifest::SHARDS);
        let standing = record
            .splits
            .values()
            .flat_map(|split| &split.shards)
            .flat_map(manifest::ShardRecord::files)
            .all(|(name, _)| shards.join(name).is_file());
        let kept = record.rejects.as_ref();
        let kept = kept.is_none_or(|kept| rejects::path(folder, &kept.name).is_file());
        Ok((record.plan == *plan && standing && kept).then_some(record))
    }

    /// Makes the unit count as done; its shards are durable already.
    pub fn publish(&self, folder: &Path) -> Result<(), Error> {
        let path = record_path(folder, self.unit);
        let text = seal::seal(self).map_err(|error| Error::Record {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        Ok(fs::write(&path, text.as_bytes())?)
    }
}

fn record_path(folder: &Path, unit: usize) -> PathBuf {
    folder.join(UNITS).join(format!("unit-{unit:05}.json"))
}

/// The manifest of all units, in their order.
pub fn merge(mut manifest: Manifest, records: &[UnitRecord]) -> Manifest {
    for record in records {
        for (split, part) in &record.splits {
            let whole = manifest.splits.entry(*split).or_default();
            whole.shards.extend(part.shards.iter().cloned());
            whole.totals += &part.totals;
        }
        for (file, documents) in &record.documents {
            if let Some(file) = manifest.corpus.get_mut(*file as usize) {
                file.documents = *documents;
            }
        }
        manifest.ledger += &record.ledger;
        manifest.rejects.extend(record.rejects.clone());
        for (set, found) in &record.contamination.0 {
            if let Some(set) = manifest.contamination.get_mut(*set) {
                set.documents += found.documents;
                let room = SHOWN_MAX.saturating_sub(set.shown.len());
                set.shown.extend(found.shown.iter().take(room).cloned());
            }
        }
    }
    manifest
}

/// The first place where two JSON values differ, with both values in short.
pub fn difference(at: &str, old: &Value, new: &Value) -> Option<(String, String, String)> {
    let below = |key: &str| {
        if at.is_empty() {
            key.to_string()
        } else {
            format!("{at}.{key}")
        }
    };
    let absent = Value::String("absent".into());
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                difference(
                    &below(key),
                    a.get(key).unwrap_or(&absent),
                    b.get(key).unwrap_or(&absent),
                )
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a
            .iter()
            .zip(b)
            .enumerate()
            .find_map(|(index, (a, b))| difference(&below(&index.to_string()), a, b)),
        (a, b) if a == b => None,
        (a, b) => Some((at.to_string(), in_short(a), in_short(b))),
    }
}

/// The words of an overlap, of which a long one shows its start.
fn in_words(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).collect()
}

fn in_short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 {
        return text;
    }
    let start: String = text.chars().take(57).collect();
    format!("{start}...")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let old = json!({"a": 1, "pause": {"fraction": 0.1, "law": "x"}, "list": [1, 2]});
        let mut new = old.clone();
        assert_eq!(difference("", &old, &new), None);
        new["pause"]["fraction"] = json!(0.2);
        let (key, old_value, new_value) = difference("", &old, &new).unwrap();
        assert_eq!(
            (key.as_str(), old_value.as_str(), new_value.as_str()),
            ("pause.fraction", "0.1", "0.2")
        );
        assert_eq!(difference("", &old, &json!({})).unwrap().0, "a");
        let mut longer = old.clone();
        longer["list"] = json!([1, 2, 3]);
        assert_eq!(difference("", &old, &longer).unwrap().0, "list");
    }
}
