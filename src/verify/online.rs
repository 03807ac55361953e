//! Rows that get their pauses when they are read: made in both ways, and judged as
//! those on disk are.

use rayon::prelude::*;

use super::rows::{CHUNK, masks_follow};
use super::{Error, Report, chain};
use crate::dataset::online::Online;
use crate::dataset::{At, Dataset};
use crate::manifest::Split;
use crate::progress::{Progress, Stop, Unit};
use crate::token::PauseIds;

/// Checks every row as epoch 0 has it.
pub fn check(
    dataset: &Dataset,
    progress: &dyn Progress,
    stop: &Stop,
    report: &mut Report,
) -> Result<(), Error> {
    let Some(online) = dataset.online() else {
        return Ok(());
    };
    let splits = [Split::Train, Split::Validation];
    let rows = splits.iter().map(|split| online.rows(*split)).sum();
    progress.start("verify pauses", Some(rows), Unit::Rows);
    for split in splits {
        let rows = online.rows(split);
        let chunks = (0..rows.div_ceil(CHUNK)).into_par_iter();
        let pauses = chunks.map(|chunk| {
            let rows = chunk * CHUNK..((chunk + 1) * CHUNK).min(rows);
            if stop.requested() {
                return Ok(0);
            }
            progress.advance(rows.end - rows.start);
            let pauses = rows.map(|row| check_row(dataset, online, split, row));
            pauses.sum::<Result<u64, String>>()
        });
        let pauses = pauses.try_reduce(|| 0, |a, b| Ok(a + b));
        if stop.requested() {
            return Err(Error::Stopped);
        }
        report.check(
            &format!("rows of {split} get the pauses of the policy when they are read"),
            None,
            pauses.map(|pauses| format!("{rows} rows, {pauses} pauses in epoch 0")),
        );
    }
    progress.finish();
    Ok(())
}

/// Checks a row, and counts its pauses.
fn check_row(dataset: &Dataset, online: &Online, split: Split, index: u64) -> Result<u64, String> {
    let at = At {
        split,
        epoch: 0,
        index,
    };
    let wrong = |reason: String| format!("row {index}: {reason}");
    let read = dataset.row_at(at).map_err(|error| wrong(chain(&error)))?;
    let placed = online.placed(dataset, at);
    let placed = placed.map_err(|error| wrong(chain(&error)))?.sequence;
    if read != placed {
        return Err(wrong(
            "a loader puts pauses elsewhere than preparation".into(),
        ));
    }
    let manifest = &dataset.manifest;
    if manifest.row_length < read.len() || read.is_empty() {
        let (most, found) = (manifest.row_length, read.len());
        return Err(wrong(format!("holds {found} ids, expected 1 to {most}")));
    }
    let reserved = manifest.tokenizer.reserved;
    masks_follow(&read, manifest.pause.target, reserved).map_err(wrong)?;
    Ok(read.n_pauses(PauseIds::from(reserved)) as u64)
}
