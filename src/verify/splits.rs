//! The splits: the text of every document decides its own, so that no text is both
//! trained on and held out.

use super::{Report, chain};
use crate::dataset::Dataset;
use crate::manifest::Split;
use crate::prepare::encode;

/// Decides the split of every document again, by the checksum of its text.
pub fn check(dataset: &Dataset, report: &mut Report) {
    let name = "each document stands in the split that its text decides";
    let validation = dataset.manifest.validation();
    let mut documents = 0;
    for split in [Split::Train, Split::Validation] {
        for shard in dataset.shards(split) {
            let result = shard.documents().map_err(|error| chain(&error));
            let result = result.and_then(|records| {
                documents += records.len();
                let elsewhere = |checksum| encode::split(checksum, validation) != split;
                let leak = records.iter().find(|record| elsewhere(record.checksum));
                leak.map_or(Ok(()), |record| {
                    let file = dataset.manifest.corpus.get(record.id.file as usize);
                    let file = file.map_or("?", |file| &file.name);
                    Err(format!(
                        "document {} of `{file}` is in {split}, where its text does not belong",
                        record.id.row + 1
                    ))
                })
            });
            if let Err(reason) = result {
                let file = format!("shards/{}.idx", shard.record().name);
                report.check(name, Some(&file), Err(reason));
                return;
            }
        }
    }
    report.check(name, None, Ok(format!("{documents} records of documents")));
}
